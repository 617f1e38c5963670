"""Graphs that engines execute: ONNX with the values of learnt inputs, and how one is built node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 19
PATCH_FEATURES = "patch_features"
"""What the first half of the pipeline gives and the second takes, (n, h, w, d) float32."""


def numbered(name: str, depth: int) -> str:
    """What an input or output is called at a depth: as it is at the finest, `name_2` at the next."""
    return name if not depth else f"{name}_{depth + 1}"


class GraphBuilder:
    """Collects nodes, constants, inputs and outputs of one graph."""

    def __init__(self, prefix: str, *, opset: int) -> None:
        self.prefix, self.opset = prefix, opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.depth = 0  # of what is being learnt: at coarser ones names are numbered
        self._known: dict[tuple[Any, ...], str] = {}

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns its name."""
        label = name or f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [label], name=label, **attributes))
        return label

    def top_k(self, values: str, k: int, *, largest: bool, axis: int = 1) -> tuple[str, str]:
        """The k largest or smallest along an axis, sorted: names of their values and indices."""
        label = f"{self.prefix}TopK_{len(self.nodes)}"
        outputs = (f"{label}:values", f"{label}:indices")
        self.nodes.append(
            helper.make_node(
                "TopK", [values, self.ints([k])], outputs, name=label, axis=axis, largest=int(largest)
            )
        )
        return outputs

    def constant(self, value: NDArray[Any]) -> str:
        """A small constant, written into the graph once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            name = f"{self.prefix}constant_{len(self.initializers)}"
            self._known[key] = name
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return self._known[key]

    def ints(self, values: Sequence[int]) -> str:
        """A constant vector of int64."""
        return self.constant(np.array(values, dtype=np.int64))

    def floats(self, values: Sequence[float]) -> str:
        """A constant vector of float32."""
        return self.constant(np.array(values, dtype=np.float32))

    def input(self, name: str, kind: int, shape: Sequence[str | int]) -> str:
        """Declare an input, unless it is; returns its name."""
        if any(item.name == name for item in self.inputs):
            return name
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def learnt(self, name: str, value: NDArray[Any]) -> str:
        """An input whose value goes along: the engine binds it without a copy."""
        name = numbered(name, self.depth)
        if name not in self.constants:
            self.constants[name] = np.ascontiguousarray(value)
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.input(name, kind, value.shape)
        return name

    def output(self, name: str, shape: Sequence[str | int]) -> None:
        """Declare a float32 output."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def embed(self, model: onnx.ModelProto, image: str) -> list[str]:
        """The nodes of a model with its input replaced; returns the names of its outputs."""
        names = {item.name for item in model.graph.initializer}
        source = next(item.name for item in model.graph.input if item.name not in names)
        rename = {source: image, "": ""}

        def renamed(value: str) -> str:
            return rename.setdefault(value, f"backbone/{value}")

        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"backbone/{node.name}"
            copy.input[:] = [renamed(value) for value in node.input]
            copy.output[:] = [renamed(value) for value in node.output]
            self.nodes.append(copy)
        for item in model.graph.initializer:
            weights = onnx.TensorProto()
            weights.CopyFrom(item)
            weights.name = renamed(item.name)
            self.initializers.append(weights)
        return [renamed(item.name) for item in model.graph.output]

    def finish(self) -> onnx.ModelProto:
        """The model."""
        graph = helper.make_graph(
            self.nodes, "goodparts", self.inputs, self.outputs, initializer=self.initializers
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=10,
            producer_name="goodparts",
        )


@dataclass
class Graph:
    """An ONNX model and the values of those of its inputs that are learnt, by name."""

    model: onnx.ModelProto
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs that each call gives, by name; a symbolic size is 1, as for one image."""
        known = {item.name for item in self.model.graph.initializer} | set(self.constants)
        return {
            item.name: tuple(max(1, size.dim_value) for size in item.type.tensor_type.shape.dim)
            for item in self.model.graph.input
            if item.name not in known
        }


def pipeline_graph(features: Graph, search: Graph) -> Graph:
    """Both graphs as one: `image` (and `valid`, `tile`) in, `distance_grid` and `score` out."""
    joined = onnx.ModelProto()
    joined.CopyFrom(features.model)
    graph, second = joined.graph, search.model.graph
    graph.node.extend(second.node)
    graph.initializer.extend(second.initializer)
    given = {item.name for item in graph.output}
    graph.input.extend(item for item in second.input if item.name not in given)
    del graph.output[:]
    graph.output.extend(second.output)
    return Graph(joined, {**features.constants, **search.constants})
