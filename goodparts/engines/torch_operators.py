"""The table of ONNX operators that PyTorch executes: each as a function of tensors and of ONNX's attributes.

Functions take what ONNX calls inputs by position (None where one is left out) and attributes by name. Of some inputs
the values have to be known beforehand, such as those of shapes: they come as lists of numbers (`Operator.known`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto
from torch import Tensor

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


# ---- convolutions and pools


def _sides(pads: Numbers | None, rank: int) -> list[int]:
    """Padding as `torch.nn.functional.pad` takes it: last axis first, begin and end of each."""
    pads = [0] * 2 * rank if pads is None else list(pads)
    return [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]


def _auto_pads(
    size: Numbers, kernel: Numbers, strides: Numbers, dilations: Numbers, auto_pad: str
) -> list[int]:
    totals = [
        max(0, (math.ceil(s / stride) - 1) * stride + (k - 1) * dilation + 1 - s)
        for s, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = _auto_pads(x.shape[2:], weight.shape[2:], strides, dilations, auto_pad)
    pads = list(pads or [0] * 2 * rank)
    padding = pads[:rank]
    if padding != pads[rank:]:
        x, padding = F.pad(x, _sides(pads, rank)), [0] * rank
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return convolve(x, weight, bias, list(strides), padding, list(dilations), group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    output_padding: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    rank = x.dim() - 2
    pads = list(pads or [0] * 2 * rank)
    if pads[:rank] != pads[rank:]:
        raise NotImplementedError("pads that differ at begin and end")
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    more = list(output_padding or [0] * rank)
    return convolve(
        x, weight, bias, list(strides or [1] * rank), pads[:rank], more, group, list(dilations or [1] * rank)
    )


def _pool_padding(
    x: Tensor, kernel: Numbers, strides: Numbers, dilations: Numbers, pads: Numbers | None, auto_pad: str
) -> list[int]:
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return _auto_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    return list(pads or [0] * 2 * (x.dim() - 2))


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Numbers,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Numbers | None = None,
    pads: Numbers | None = None,
    storage_order: int = 0,
    strides: Numbers | None = None,
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    pads = _pool_padding(x, kernel_shape, strides, dilations, pads, auto_pad)
    if any(pads):
        x = F.pad(x, _sides(pads, rank), value=-math.inf)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    found: Tensor = pool(x, list(kernel_shape), strides, 0, dilations, bool(ceil_mode))
    return found


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Numbers,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    rank = x.dim() - 2
    strides = list(strides or [1] * rank)
    pads = _pool_padding(x, kernel_shape, strides, [1] * rank, pads, auto_pad)
    if any(dilation != 1 for dilation in dilations or ()):
        raise NotImplementedError("dilations of an average")
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    if pads[:rank] == pads[rank:] and all(2 * p <= k for p, k in zip(pads, kernel_shape, strict=False)):
        return pool(x, list(kernel_shape), strides, pads[:rank], bool(ceil_mode), bool(count_include_pad))
    sides = _sides(pads, rank)
    mean = pool(F.pad(x, sides), list(kernel_shape), strides, 0, bool(ceil_mode))
    if count_include_pad:
        return mean
    ones = F.pad(torch.ones_like(x[:1, :1]), sides)
    return mean / pool(ones, list(kernel_shape), strides, 0, bool(ceil_mode))


def _global(reduce: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: reduce(x, dim=tuple(range(2, x.dim())), keepdim=True)


def _resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Numbers | None = None,
    sizes: Numbers | None = None,
    *,
    axes: Numbers | None = None,
    antialias: int = 0,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    ways = coordinate_transformation_mode
    if keep_aspect_ratio_policy != "stretch" or ways == "tf_crop_and_resize" or exclude_outside:
        raise NotImplementedError(f"{ways}, {keep_aspect_ratio_policy}")
    which = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    target = list(x.shape)
    for place, axis in enumerate(which):
        target[axis] = (
            int(sizes[place]) if sizes else math.floor(x.shape[axis] * (scales or [1.0] * x.dim())[place])
        )
    if target[:2] != list(x.shape[:2]):
        raise NotImplementedError("of the first two axes")
    if antialias and mode != "nearest":
        return F.interpolate(
            x, target[2:], mode="bilinear" if mode == "linear" else "bicubic", antialias=True
        )
    if mode == "cubic":
        if ways not in ("half_pixel", "pytorch_half_pixel", "align_corners") or cubic_coeff_a != -0.75:
            raise NotImplementedError(f"cubic, {ways}, {cubic_coeff_a}")
        return F.interpolate(x, target[2:], mode="bicubic", align_corners=ways == "align_corners")
    for axis in range(2, x.dim()):
        length, wanted = x.shape[axis], target[axis]
        if length == wanted:
            continue
        scale = length / wanted
        if scales and not sizes:
            scale = 1 / scales[which.index(axis)]
        at = _coordinates(wanted, length, scale, ways, x.device)
        if mode == "nearest":
            x = x.index_select(axis, _nearest(at, nearest_mode).long().clamp(0, length - 1))
            continue
        at = at.clamp(0, length - 1)
        low = at.floor().long().clamp(max=max(length - 2, 0))
        share = (at - low).to(x.dtype).reshape([-1] + [1] * (x.dim() - axis - 1))
        high = (low + 1).clamp(max=length - 1)
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def _coordinates(wanted: int, length: int, scale: float, ways: str, device: torch.device) -> Tensor:
    i = torch.arange(wanted, device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
    if ways == "asymmetric":
        return i * scale
    if ways == "align_corners":
        return i * ((length - 1) / (wanted - 1)) if wanted > 1 else i * 0
    if ways == "pytorch_half_pixel" and wanted == 1:
        return i * 0
    return (i + 0.5) * scale - 0.5


def _nearest(at: Tensor, how: str) -> Tensor:
    if how == "floor":
        return at.floor()
    if how == "ceil":
        return at.ceil()
    return (at - 0.5).ceil() if how == "round_prefer_floor" else (at + 0.5).floor()


# ---- normalisations


def _batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    if training_mode:
        raise NotImplementedError("training_mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def _layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    shape = x.shape[axis % x.dim() :]
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def _group_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    if len(scale) != x.shape[1]:  # before opset 21: one a group
        scale, bias = (value.repeat_interleave(x.shape[1] // num_groups) for value in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def _lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


# ---- products


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def _einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)


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


# ---- shapes


def _reshape(x: Tensor, shape: Numbers, *, allowzero: int = 0) -> Tensor:
    sizes = [x.shape[place] if size == 0 and not allowzero else int(size) for place, size in enumerate(shape)]
    return x.reshape(sizes)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(x: Tensor, *, perm: Numbers | None = None) -> Tensor:
    return x.permute(list(perm) if perm is not None else list(reversed(range(x.dim()))))


def _squeeze(x: Tensor, axes: Numbers | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in axes))


def _unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    for axis in sorted(int(axis) % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(*values: Tensor, axis: int) -> Tensor:
    return torch.cat(values, axis)


def _split(
    x: Tensor, sizes: Numbers | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    if sizes is not None:
        return torch.split(x, [int(size) for size in sizes], axis)
    assert num_outputs is not None
    return torch.split(x, math.ceil(x.shape[axis] / num_outputs), axis)


def _slice(
    x: Tensor, starts: Numbers, ends: Numbers, axes: Numbers | None = None, steps: Numbers | None = None
) -> Tensor:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis]
        if step < 0:
            places = list(range(length))[slice(start, None if end < -length else end, step)]
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
        else:
            part: list[slice] = [slice(None)] * x.dim()
            part[axis] = slice(start, end, step)
            x = x[tuple(part)]
    return x


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.dim()
    length = x.shape[axis]
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + length, flat)
    found = x.index_select(axis, flat)
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    indices = indices.long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    batch = x.shape[:batch_dims]
    rows = [
        torch.arange(size, device=x.device).reshape(
            [-1 if place == axis else 1 for place in range(indices.dim() - 1)]
        )
        for axis, size in enumerate(batch)
    ]
    where = [
        torch.where(part < 0, part + x.shape[batch_dims + place], part)
        for place, part in enumerate(indices.long().unbind(-1))
    ]
    return x[(*rows, *where)]


def _scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction != "none":
        raise NotImplementedError(f"reduction {reduction}")
    found = x.clone()
    found[tuple(indices.long().unbind(-1))] = updates
    return found


def _expand(x: Tensor, shape: Numbers) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


def _tile(x: Tensor, repeats: Numbers) -> Tensor:
    return x.repeat([int(count) for count in repeats])


def _pad(
    x: Tensor,
    pads: Numbers,
    value: Numbers | None = None,
    axes: Numbers | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    rank = x.dim()
    which = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    begin, end = [0] * rank, [0] * rank
    for place, axis in enumerate(which):
        begin[axis], end[axis] = int(pads[place]), int(pads[place + len(which)])
    sides = _sides([*begin, *end], rank)
    if mode == "constant":
        return F.pad(x, sides, value=value[0] if value else 0)
    while len(sides) > 2 and not any(sides[-2:]):
        sides = sides[:-2]
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    lead = rank - len(sides) // 2
    flat = x.reshape(1, -1, *x.shape[lead:]) if lead != 2 else x
    return F.pad(flat, sides, mode=modes[mode]).reshape(
        [size + begin[axis] + end[axis] for axis, size in enumerate(x.shape)]
    )


def _trilu(x: Tensor, k: Numbers | None = None, *, upper: int = 1) -> Tensor:
    return (torch.triu if upper else torch.tril)(x, int(k[0]) if k else 0)


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    return (
        x.reshape(n, b, b, c // (b * b), h, w)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(n, c // (b * b), h * b, w * b)
    )


def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    return (
        x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
    )


# ---- reductions and orders


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor, axes: Numbers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        if not axes:
            if noop_with_empty_axes:
                return x
            axes = range(x.dim())
        return function(x, dim=tuple(int(axis) for axis in axes), keepdim=bool(keepdims))

    return reduce


def _sum_square(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return (x * x).sum(dim=dim, keepdim=keepdim)


def _l1(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.abs().sum(dim=dim, keepdim=keepdim)


def _l2(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return _sum_square(x, dim, keepdim).sqrt()


def _product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in dim), reverse=True):
        x = x.prod(dim=axis, keepdim=keepdim)
    return x


def _top_k(
    x: Tensor, k: Numbers, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(x, int(k[0]), axis, bool(largest), bool(sorted))
    return values, indices


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def arg(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            raise NotImplementedError("select_last_index")
        return function(x, dim=axis, keepdim=bool(keepdims))

    return arg


def _cumulative_sum(x: Tensor, axis: Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    if exclusive or reverse:
        raise NotImplementedError("exclusive, reverse")
    return torch.cumsum(x, int(axis[0]))


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def _constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if value is None:
        return torch.zeros(sizes, device=shape.device)
    return value.to(shape.device).expand(sizes).clone() if sizes else value.to(shape.device).reshape(())


TABLE: dict[str, Operator] = {
    "Conv": Operator(_conv),
    "ConvTranspose": Operator(_conv_transpose),
    "MaxPool": Operator(_max_pool),
    "AveragePool": Operator(_average_pool),
    "GlobalAveragePool": Operator(_global(torch.mean)),
    "GlobalMaxPool": Operator(_global(torch.amax)),
    "Resize": Operator(_resize, (2, 3)),
    "BatchNormalization": Operator(_batch_norm),
    "InstanceNormalization": Operator(
        lambda x, scale, bias, *, epsilon=1e-5: F.instance_norm(
            x, None, None, scale, bias, True, 0.0, epsilon
        )
    ),
    "LayerNormalization": Operator(_layer_norm),
    "GroupNormalization": Operator(_group_norm),
    "LRN": Operator(_lrn),
    "Softmax": Operator(_softmax),
    "LogSoftmax": Operator(lambda x, *, axis=-1: torch.log_softmax(x, axis)),
    "MatMul": Operator(torch.matmul),
    "Gemm": Operator(_gemm),
    "Einsum": Operator(_einsum),
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
    "Reshape": Operator(_reshape, (1,)),
    "Flatten": Operator(_flatten),
    "Transpose": Operator(_transpose),
    "Squeeze": Operator(_squeeze, (1,)),
    "Unsqueeze": Operator(_unsqueeze, (1,)),
    "Concat": Operator(_concat),
    "Split": Operator(_split, (1,)),
    "Slice": Operator(_slice, (-1,)),
    "Gather": Operator(_gather),
    "GatherElements": Operator(_gather_elements),
    "GatherND": Operator(_gather_nd),
    "ScatterND": Operator(_scatter_nd),
    "Expand": Operator(_expand, (1,)),
    "Tile": Operator(_tile, (1,)),
    "Pad": Operator(_pad, (-1,)),
    "Trilu": Operator(_trilu, (1,)),
    "DepthToSpace": Operator(_depth_to_space),
    "SpaceToDepth": Operator(_space_to_depth),
    "Range": Operator(_range),
    "ConstantOfShape": Operator(_constant_of_shape),
    "ReduceMean": Operator(_reduction(torch.mean), (1,)),
    "ReduceSum": Operator(_reduction(torch.sum), (1,)),
    "ReduceMax": Operator(_reduction(torch.amax), (1,)),
    "ReduceMin": Operator(_reduction(torch.amin), (1,)),
    "ReduceProd": Operator(_reduction(_product), (1,)),
    "ReduceSumSquare": Operator(_reduction(_sum_square), (1,)),
    "ReduceL1": Operator(_reduction(_l1), (1,)),
    "ReduceL2": Operator(_reduction(_l2), (1,)),
    "ReduceLogSumExp": Operator(_reduction(torch.logsumexp), (1,)),
    "TopK": Operator(_top_k, (1,)),
    "ArgMax": Operator(_arg(torch.argmax)),
    "ArgMin": Operator(_arg(torch.argmin)),
    "CumSum": Operator(_cumulative_sum, (1,)),
}
"""By the name of the operator, of opset 18 and later. `Constant`, `Shape` and `Size` are known when a graph is read."""
