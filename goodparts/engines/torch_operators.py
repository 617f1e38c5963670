"""The table of ONNX operators that PyTorch executes: each as a function of tensors and of ONNX's attributes.

Functions take what ONNX calls inputs by position (None where one is left out) and attributes by name. Of some inputs
the values have to be known beforehand, such as those of shapes: they come as lists of numbers (`Operator.known`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto
from torch import Tensor

from goodparts.engines import torch_layers as layers
from goodparts.engines import torch_shapes as shapes

Numbers = Sequence[Any]
TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class Operator:
    """How an operator is executed.

    Attributes:
        run: from tensors and attributes to a tensor, or several.
        known: which inputs, by position, come as lists of numbers rather than tensors; -1: that from 1 on.
    """

    run: Callable[..., Any]
    known: tuple[int, ...] = ()

    def knows(self, position: int) -> bool:
        """Whether the values of an input have to be known."""
        return position in self.known or (-1 in self.known and position > 0)


# ---- arithmetic


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _clip(
    x: Tensor,
    low: Numbers | None = None,
    high: Numbers | None = None,
) -> Tensor:
    return torch.clamp(x, None if low is None else low[0], None if high is None else high[0])


def _several(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def joined(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return joined


def _mean(*values: Tensor) -> Tensor:
    return _several(torch.add)(*values) / len(values)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(TYPES[to])


def _cast_like(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    return x.to(like.dtype)


def _along(value: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scale a channel, in the shape that goes with x."""
    if value.dim() != 1 or value.numel() == 1:
        return value
    return value.reshape([-1 if index == axis % x.dim() else 1 for index in range(x.dim())])


def _quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, saturate: int = 1
) -> Tensor:
    kind = torch.uint8 if zero is None else zero.dtype
    limits = torch.iinfo(kind)
    levels = torch.round(x / _along(scale, x, axis))
    if zero is not None:
        levels = levels + _along(zero, x, axis).to(levels.dtype)
    return levels.clamp(limits.min, limits.max).to(kind)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    values = x.to(scale.dtype)
    if zero is not None:
        values = values - _along(zero, x, axis).to(scale.dtype)
    return values * _along(scale, x, axis)


TABLE: dict[str, Operator] = {
    "Conv": Operator(layers.conv),
    "ConvTranspose": Operator(layers.conv_transpose),
    "MaxPool": Operator(layers.max_pool),
    "AveragePool": Operator(layers.average_pool),
    "GlobalAveragePool": Operator(layers.over_image(torch.mean)),
    "GlobalMaxPool": Operator(layers.over_image(torch.amax)),
    "Resize": Operator(layers.resize, (2, 3)),
    "BatchNormalization": Operator(layers.batch_norm),
    "InstanceNormalization": Operator(
        lambda x, scale, bias, *, epsilon=1e-5: F.instance_norm(
            x, None, None, scale, bias, True, 0.0, epsilon
        )
    ),
    "LayerNormalization": Operator(layers.layer_norm),
    "GroupNormalization": Operator(layers.group_norm),
    "LRN": Operator(layers.lrn),
    "Softmax": Operator(layers.softmax),
    "LogSoftmax": Operator(lambda x, *, axis=-1: torch.log_softmax(x, axis)),
    "MatMul": Operator(torch.matmul),
    "Gemm": Operator(layers.gemm),
    "Einsum": Operator(layers.einsum),
    "Add": Operator(torch.add),
    "Sub": Operator(torch.sub),
    "Mul": Operator(torch.mul),
    "Div": Operator(_divide),
    "Mod": Operator(_modulo),
    "Pow": Operator(_power),
    "Sqrt": Operator(torch.sqrt),
    "Exp": Operator(torch.exp),
    "Log": Operator(torch.log),
    "Neg": Operator(torch.neg),
    "Abs": Operator(torch.abs),
    "Reciprocal": Operator(torch.reciprocal),
    "Floor": Operator(torch.floor),
    "Ceil": Operator(torch.ceil),
    "Round": Operator(torch.round),
    "Sign": Operator(torch.sign),
    "Sin": Operator(torch.sin),
    "Cos": Operator(torch.cos),
    "Erf": Operator(torch.erf),
    "Tanh": Operator(torch.tanh),
    "Sigmoid": Operator(torch.sigmoid),
    "Relu": Operator(torch.relu),
    "LeakyRelu": Operator(_leaky_relu),
    "PRelu": Operator(_prelu),
    "Elu": Operator(_elu),
    "Selu": Operator(lambda x, *, alpha=1.6732632, gamma=1.050701: gamma * F.elu(x, alpha)),
    "Softplus": Operator(F.softplus),
    "Mish": Operator(F.mish),
    "Gelu": Operator(_gelu),
    "HardSigmoid": Operator(_hard_sigmoid),
    "HardSwish": Operator(F.hardswish),
    "Clip": Operator(_clip, (1, 2)),
    "Min": Operator(_several(torch.minimum)),
    "Max": Operator(_several(torch.maximum)),
    "Sum": Operator(_several(torch.add)),
    "Mean": Operator(_mean),
    "Equal": Operator(torch.eq),
    "Greater": Operator(torch.gt),
    "GreaterOrEqual": Operator(torch.ge),
    "Less": Operator(torch.lt),
    "LessOrEqual": Operator(torch.le),
    "And": Operator(torch.logical_and),
    "Or": Operator(torch.logical_or),
    "Xor": Operator(torch.logical_xor),
    "Not": Operator(torch.logical_not),
    "IsNaN": Operator(torch.isnan),
    "Where": Operator(torch.where),
    "Identity": Operator(lambda x: x),
    "Dropout": Operator(lambda x, ratio=None, training=None, *, seed=0: x),
    "Cast": Operator(_cast),
    "CastLike": Operator(_cast_like),
    "QuantizeLinear": Operator(_quantize),
    "DequantizeLinear": Operator(_dequantize),
    "Reshape": Operator(shapes.reshape, (1,)),
    "Flatten": Operator(shapes.flatten),
    "Transpose": Operator(shapes.transpose),
    "Squeeze": Operator(shapes.squeeze, (1,)),
    "Unsqueeze": Operator(shapes.unsqueeze, (1,)),
    "Concat": Operator(shapes.concat),
    "Split": Operator(shapes.split, (1,)),
    "Slice": Operator(shapes.cut, (-1,)),
    "Gather": Operator(shapes.gather),
    "GatherElements": Operator(shapes.gather_elements),
    "GatherND": Operator(shapes.gather_nd),
    "ScatterND": Operator(shapes.scatter_nd),
    "Expand": Operator(shapes.expand, (1,)),
    "Tile": Operator(shapes.tile, (1,)),
    "Pad": Operator(shapes.pad, (-1,)),
    "Trilu": Operator(shapes.trilu, (1,)),
    "DepthToSpace": Operator(shapes.depth_to_space),
    "SpaceToDepth": Operator(shapes.space_to_depth),
    "Range": Operator(shapes.of_range),
    "ConstantOfShape": Operator(shapes.constant_of_shape),
    "ReduceMean": Operator(shapes.reduction(torch.mean), (1,)),
    "ReduceSum": Operator(shapes.reduction(torch.sum), (1,)),
    "ReduceMax": Operator(shapes.reduction(torch.amax), (1,)),
    "ReduceMin": Operator(shapes.reduction(torch.amin), (1,)),
    "ReduceProd": Operator(shapes.reduction(shapes.product), (1,)),
    "ReduceSumSquare": Operator(shapes.reduction(shapes.sum_square), (1,)),
    "ReduceL1": Operator(shapes.reduction(shapes.l1), (1,)),
    "ReduceL2": Operator(shapes.reduction(shapes.l2), (1,)),
    "ReduceLogSumExp": Operator(shapes.reduction(torch.logsumexp), (1,)),
    "TopK": Operator(shapes.top_k, (1,)),
    "ArgMax": Operator(shapes.arg(torch.argmax)),
    "ArgMin": Operator(shapes.arg(torch.argmin)),
    "CumSum": Operator(shapes.cumulative_sum, (1,)),
}
"""By the name of the operator, of opset 18 and later. `Constant`, `Shape` and `Size` are known when a graph is read."""
