"""Building ONNX graphs of networks from named parameters, BatchNorm folded into convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from goodparts.errors import BackboneError, shortened

OPSET = 18
IR_VERSION = 8  # of ONNX 1.13, the first with opset 18
INPUT = "image"

State = Mapping[str, NDArray[np.generic]]


def parameter(state: State, name: str, shape: Sequence[int | None]) -> NDArray[np.float64]:
    """One parameter in float64; sizes given as None may be anything.

    Raises:
        BackboneError: missing, of another shape, not of numbers, or with NaN or infinity in it.
    """
    if name not in state:
        raise BackboneError(f"parameter {name} is missing; expected its shape to be {_shape(shape)}")
    array = np.asarray(state[name])
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, size) and size > 0 for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise BackboneError(f"parameter {name} has shape {_shape(array.shape)}; expected {_shape(shape)}")
    try:
        values = array.astype(np.float64)
    except (TypeError, ValueError):
        raise BackboneError(f"parameter {name} is of type {array.dtype}; expected numbers") from None
    if not np.isfinite(values).all():
        raise BackboneError(f"parameter {name} holds NaN or infinite values; the file is damaged")
    return values


def folded_convolution(
    state: State, convolution: str, norm: str, shape: Sequence[int | None], epsilon: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (out, in, kh, kw) and bias (out,) of a convolution without bias and the BatchNorm after it.

    Computed in float64: weight · gamma / sqrt(var + epsilon) and beta - mean · gamma / sqrt(var + epsilon).
    """
    weight = parameter(state, f"{convolution}.weight", shape)
    channels = (weight.shape[0],)
    gamma = parameter(state, f"{norm}.weight", channels)
    beta = parameter(state, f"{norm}.bias", channels)
    mean = parameter(state, f"{norm}.running_mean", channels)
    variance = parameter(state, f"{norm}.running_var", channels)
    if (variance < 0).any():
        raise BackboneError(f"parameter {norm}.running_var holds values below 0; the file is damaged")
    scale = gamma / np.sqrt(variance + epsilon)
    return (weight * scale[:, None, None, None]).astype(np.float32), (beta - mean * scale).astype(np.float32)


def refuse_unknown(state: State, known: Sequence[str], what: str) -> None:
    """Raise a BackboneError if there are parameters that the network as built would leave out.

    Args:
        state: all parameters.
        known: names and prefixes (with their dot) of the parameters that are used, or rightly left out.
        what: the kind of network, for the message.
    """
    prefixes = tuple(prefix for prefix in known if prefix.endswith("."))
    names = set(known)
    unknown = [name for name in state if name not in names and not name.startswith(prefixes)]
    if unknown:
        raise BackboneError(
            f"parameter {shortened(unknown[0])} (and {len(unknown) - 1} more) is no part of {what}: this is another "
            "network; export it to ONNX instead"
        )


class Network:
    """An ONNX graph under construction, from the input "image" onwards.

    Each method adds one operation, whose output gets the name given, and returns that name.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels: dict[str, int] = {INPUT: 3}

    def convolution(
        self,
        x: str,
        name: str,
        parameters: tuple[NDArray[np.float32], NDArray[np.float32]],
        *,
        stride: int = 1,
        padding: int | str = 0,
        groups: int = 1,
    ) -> str:
        """Convolve with weight and bias; `padding` is a number for all sides, or "SAME_UPPER"."""
        for kind, array in zip(("weight", "bias"), parameters, strict=True):
            self.constant(array, f"{name}.{kind}")
        weight = parameters[0]
        self.channels[name] = weight.shape[0]
        same = isinstance(padding, str)
        return self.node(
            "Conv",
            [x, f"{name}.weight", f"{name}.bias"],
            name,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            group=groups,
            **({"auto_pad": padding} if same else {"pads": [padding] * 4}),
        )

    def relu(self, x: str, name: str) -> str:
        """max(x, 0)."""
        self.channels[name] = self.channels[x]
        return self.node("Relu", [x], name)

    def clip(self, x: str, name: str, low: float, high: float) -> str:
        """min(max(x, low), high)."""
        self.channels[name] = self.channels[x]
        bounds = [f"{low:g}", f"{high:g}"]
        have = {tensor.name for tensor in self.weights}
        for bound, value in zip(bounds, (low, high), strict=True):
            if bound not in have:
                self.weights.append(numpy_helper.from_array(np.array(value, np.float32), bound))
        return self.node("Clip", [x, *bounds], name)

    def add(self, x: str, y: str, name: str) -> str:
        """x + y."""
        self.channels[name] = self.channels[x]
        return self.node("Add", [x, y], name)

    def max_pool(self, x: str, name: str, *, size: int, stride: int, padding: int) -> str:
        """Maximum over size × size windows."""
        self.channels[name] = self.channels[x]
        return self.node(
            "MaxPool", [x], name, kernel_shape=[size, size], strides=[stride, stride], pads=[padding] * 4
        )

    def linear(self, x: str, name: str, parameters: tuple[NDArray[Any], NDArray[Any]]) -> str:
        """x (..., inputs) times a weight (outputs, inputs), and a bias (outputs,) added; both become float32."""
        weight, bias = (array.astype(np.float32) for array in parameters)
        self.channels[name] = len(bias)
        product = self.node("MatMul", [x, self.constant(weight.T, f"{name}.weight")], f"{name}.product")
        return self.node("Add", [product, self.constant(bias, f"{name}.bias")], name)

    def constant(self, values: NDArray[Any], name: str) -> str:
        """Values that the graph keeps under a name."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Any other operation with one output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def split(self, x: str, names: Sequence[str], axis: int) -> Sequence[str]:
        """Equal parts of a tensor along an axis."""
        self.nodes.append(
            helper.make_node("Split", [x], names, name=f"{x}.split", axis=axis, num_outputs=len(names))
        )
        return names

    def model(self, name: str, outputs: Sequence[str], *, tokens: bool = False) -> onnx.ModelProto:
        """The finished ONNX model: input (n, 3, h, w), outputs (n, channels, ?, ?), all float32.

        With `tokens` the outputs are sequences of tokens, (n, ?, channels).
        """
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [
                helper.make_tensor_value_info(
                    output,
                    TensorProto.FLOAT,
                    ["n", None, self.channels[output]]
                    if tokens
                    else ["n", self.channels[output], None, None],
                )
                for output in outputs
            ],
            self.weights,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="goodparts",
        )
        helper.set_model_props(model, {"architecture": name})
        return model


def _shape(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
