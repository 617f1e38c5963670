"""From an ONNX graph to a `torch.fx.GraphModule`, node by node through the table of operators.

The graph is run once on zeros of the shapes that are asked for. What depends on no input (shapes, and what is made of
them, weights that are widened) is a constant from then on; every other node is a call. So one definition, the ONNX
graph, is what PyTorch runs, too, with nothing of it left to interpret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, fx

from goodparts.engines.graph import Graph
from goodparts.engines.torch_operators import TABLE, TYPES
from goodparts.engines.torch_search import Ranking, best_of_blocks, rankings
from goodparts.errors import BackboneError, EngineError, shortened

_IN_BF16 = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_EITHER = (  # what may stay in bfloat16 between these
    _IN_BF16
    | {
        "Relu",
        "Add",
        "Mul",
        "Sub",
        "Clip",
        "MaxPool",
        "Sigmoid",
        "HardSwish",
        "HardSigmoid",
        "Gelu",
        "Identity",
    }
    | {"Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Expand"}
)
_BACKBONE = "backbone/"  # what the names of a backbone's nodes begin with in a pipeline


@dataclass(eq=False)
class _Value:
    """A tensor while the graph is read: what it is on zeros, the call that makes it, and the same in other formats."""

    tensor: Any
    call: fx.Node | None = None  # None of a constant
    other: dict[torch.dtype, _Value] = field(default_factory=dict)


def to_module(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], device: torch.device, *, bf16: bool = False
) -> fx.GraphModule:
    """A graph as a module: inputs in the order of `shapes`, outputs in that of the graph.

    Args:
        graph: the model and its constants.
        shapes: of the inputs that each call gives.
        device: where it runs.
        bf16: convolutions and products of the backbone in bfloat16.

    Raises:
        EngineError: it holds an operator that is not in the table, or one in a way that is not.
        BackboneError: it does not work at these shapes.
    """
    with torch.inference_mode():
        return _Reader(graph, device, bf16).read(shapes)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A tensor that shares an array's memory where it may."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, order="C")
    return torch.from_numpy(array)


class _Reader:
    """Reads one graph."""

    def __init__(self, graph: Graph, device: torch.device, bf16: bool) -> None:
        self.model, self.device, self.bf16 = graph.model.graph, device, bf16
        self.pipeline = any(node.name.startswith(_BACKBONE) for node in self.model.node)
        self.root, self.calls = torch.nn.Module(), fx.Graph()
        self.values: dict[str, _Value] = {"": _Value(None)}
        self.kept: dict[int, fx.Node] = {}  # constants that calls take, by identity
        self.types = {item.name: TYPES.get(item.type.tensor_type.elem_type) for item in self.model.input}
        for item in self.model.initializer:
            self._constant(item.name, numpy_helper.to_array(item))
        for name, array in graph.constants.items():
            self._constant(name, array)

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> fx.GraphModule:
        for name, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=self.types[name], device=self.device)
            self.values[name] = _Value(zeros, self.calls.placeholder(_identifier(name)))
        found = rankings(self.model)
        inside = {output for ranking in found for output in ranking.inside}
        by_last = {ranking.within: ranking for ranking in found}
        last_use = {name: index for index, node in enumerate(self.model.node) for name in node.input}
        last_use |= {item.name: len(self.model.node) for item in self.model.output}
        for index, node in enumerate(self.model.node):
            if node.output[0] in inside:
                continue
            last = next((name for name in node.output if name in by_last), None)
            if last is not None:
                self._rank(by_last[last])
            else:
                self._add(node)
            for name in node.input:
                value = self.values.get(name)  # None: inside of a search
                if value is not None and value.call is not None and last_use[name] == index:
                    value.tensor = None
                    value.other.clear()
        outputs = [self.values[item.name] for item in self.model.output]
        self.calls.output(tuple(self._call_of(self._in(value, torch.float32)) for value in outputs))
        self.calls.lint()
        return fx.GraphModule(self.root, self.calls)

    def _constant(self, name: str, array: NDArray[Any]) -> None:
        try:
            self.values[name] = _Value(tensor_of(np.asarray(array)).to(self.device))
        except TypeError as error:
            raise EngineError(
                f"engine torch: {shortened(name)} is of type {array.dtype}, which PyTorch lacks"
            ) from error

    def _add(self, node: onnx.NodeProto) -> None:
        """One node: its values, and the call that makes them unless they are constants."""
        attributes = {item.name: self._attribute(item) for item in node.attribute}
        inputs = [self.values[name] for name in node.input]
        kind = node.op_type
        if kind == "Constant":
            (given,) = attributes.values()
            tensor = given if isinstance(given, Tensor) else torch.tensor(given)
            self.values[node.output[0]] = _Value(tensor.to(self.device))
            return
        if kind in ("Shape", "Size"):
            self._shape(node, inputs[0].tensor, attributes)
            return
        operator = TABLE.get(kind)
        if operator is None or node.domain not in ("", "ai.onnx"):
            raise EngineError(
                f"engine torch has no operator {shortened(node.domain)}{':' if node.domain else ''}{shortened(kind)} "
                f"(node {shortened(node.name)}); take engine = openvino or onnxruntime, or other layers"
            )
        if kind == "Split" and "num_outputs" not in attributes:
            attributes["num_outputs"] = len(node.output)
        if "axes" in attributes and kind != "Resize":  # of opsets before 13 and 18
            axes = attributes.pop("axes")
            inputs[1:1] = [_Value(torch.tensor(axes))]
        floating = self._format_of(node)
        arguments: list[Any] = []
        for position, value in enumerate(inputs):
            if operator.knows(position) and value.tensor is not None:
                if value.call is not None:
                    raise EngineError(
                        f"engine torch: {kind} (node {shortened(node.name)}) depends on the content of the image; "
                        "take engine = openvino or onnxruntime, or other layers"
                    )
                arguments.append(value.tensor.reshape(-1).tolist())
            else:
                arguments.append(value if floating is None else self._in(value, floating, node))
        self._run(node, operator.run, arguments, attributes)

    def _run(
        self, node: onnx.NodeProto, function: Any, arguments: Sequence[Any], attributes: Mapping[str, Any]
    ) -> None:
        plain = [item.tensor if isinstance(item, _Value) else item for item in arguments]
        try:
            found = function(*plain, **attributes)
        except (TypeError, NotImplementedError, AssertionError) as error:
            raise EngineError(
                f"engine torch can't run {node.op_type} (node {shortened(node.name)}) as it is used here: "
                f"{shortened(error, 200)}; take engine = openvino or onnxruntime"
            ) from error
        except (RuntimeError, IndexError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise BackboneError(
                f"PyTorch can't run {node.op_type} (node {shortened(node.name)}): {shortened(error, 200)}\n"
                "Take another image_size, other layers, or another backbone (goodparts backbone list)."
            ) from error
        call = None
        if any(isinstance(item, _Value) and item.call is not None for item in arguments):
            given = [
                None
                if isinstance(item, _Value) and item.tensor is None
                else self._call_of(item)
                if isinstance(item, _Value)
                else item
                for item in arguments
            ]
            call = self.calls.call_function(function, tuple(given), self._fixed(attributes))
        self._keep(node.output, found, call)

    def _keep(self, names: Sequence[str], found: Any, call: fx.Node | None) -> None:
        if isinstance(found, Tensor):
            self.values[names[0]] = _Value(found, call)
            return
        for index, (name, tensor) in enumerate(zip(names, found, strict=False)):
            part = None
            if call is not None and name:
                part = self.calls.call_function(_part, (call, index))
            self.values[name] = _Value(tensor, part)
        self.values[""] = _Value(None)

    def _rank(self, ranking: Ranking) -> None:
        """A search of blocks of the bank as one call, in tiles of patches."""
        offset, query, entries = (
            self._in(self.values[name], torch.float32)
            for name in (ranking.offset, ranking.query, ranking.entries)
        )
        keys: dict[str, Any] = {"block": ranking.block, "count": ranking.count}
        arguments: list[_Value] = [query, entries, offset]
        integers = ranking.integers
        if integers is not None and self.device.type == "cuda":  # products of int8 are exact in bfloat16
            query, entries, *scales = (self.values[name] for name in integers)
            scale = float(scales[0].tensor) * float(scales[1].tensor)
            arguments = [query, _Value(entries.tensor.to(torch.bfloat16)), offset]
            keys["scale"] = scale
        found = best_of_blocks(*(value.tensor for value in arguments), **keys)
        call = self.calls.call_function(best_of_blocks, tuple(map(self._call_of, arguments)), dict(keys))
        self._keep([ranking.best, ranking.values, ranking.within], found, call)

    # ---- values

    def _shape(self, node: onnx.NodeProto, tensor: Tensor, attributes: Mapping[str, Any]) -> None:
        sizes = list(tensor.shape)[attributes.get("start", 0) : attributes.get("end")]
        value = torch.tensor(sizes if node.op_type == "Shape" else tensor.numel(), dtype=torch.int64)
        self.values[node.output[0]] = _Value(value.to(self.device))

    def _format_of(self, node: onnx.NodeProto) -> torch.dtype | None:
        """In which format a node takes its floating inputs; None: as they are."""
        if not self.bf16:
            return None
        if self.pipeline and not node.name.startswith(_BACKBONE):
            return torch.float32
        if node.op_type in _IN_BF16:
            return torch.bfloat16
        return None if node.op_type in _EITHER else torch.float32

    def _in(self, value: _Value, wanted: torch.dtype, node: onnx.NodeProto | None = None) -> _Value:
        """A value in a format, if it is one of float32 and bfloat16."""
        tensor = value.tensor
        both = (torch.float32, torch.bfloat16)
        if tensor is None or tensor.dtype not in both or tensor.dtype == wanted:
            return value
        if wanted not in value.other:
            call = None if value.call is None else self.calls.call_function(_to, (value.call, wanted))
            value.other[wanted] = _Value(tensor.to(wanted), call)
        return value.other[wanted]

    def _call_of(self, value: _Value) -> fx.Node:
        """What makes a value; a constant is kept in the module."""
        if value.call is not None:
            return value.call
        if id(value) not in self.kept:
            name = f"constant_{len(self.kept)}"
            self.root.register_buffer(name, value.tensor)
            self.kept[id(value)] = self.calls.get_attr(name)
            self.values[f"\0{name}"] = value  # so that no other one gets its identity
        return self.kept[id(value)]

    def _attribute(self, item: onnx.AttributeProto) -> Any:
        value = helper.get_attribute_value(item)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, onnx.TensorProto):
            return tensor_of(np.asarray(numpy_helper.to_array(value)))
        return list(value) if isinstance(value, list | tuple) or item.ints or item.floats else value

    def _fixed(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._call_of(_Value(value.to(self.device))) if isinstance(value, Tensor) else value
            for name, value in attributes.items()
        }


def _part(values: Sequence[Tensor], index: int) -> Tensor:
    return values[index]


def _to(value: Tensor, wanted: torch.dtype) -> Tensor:
    return value.to(wanted)


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name) or "x"
