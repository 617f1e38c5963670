"""What an ONNX network has to keep to before anything runs it, since it may come from anybody.

    network = network_of(data)      # BackboneError, in words, for whatever is not sound

A sound network needs nothing but its own bytes. Data outside of it, which ONNX calls external, would be read from any
file, and by OpenVINO even from the memory of this process. Its tensors are as long as their shapes say, its nodes come
in order, so that there is no circle, and its weights are numbers: an engine may make zeros of what is none, and go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from goodparts.errors import BackboneError, quoted, shortened

MOST_NODES = 50_000  # once functions are written out; the largest vision networks have some thousands
_MOST_MESSAGES = 400_000  # of which protobuf makes a network: nodes, attributes, types, sizes, ...
_LATEST_OF_OTHERS = 100  # version of operators that aren't ONNX's own
_LARGEST_SIZE = 1 << 31  # of a tensor along one axis
_LARGEST_SPARSE = 1 << 28  # values of a tensor of which a few are stored
_PACKED_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
_PRODUCTS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
)  # elsewhere infinity may be meant: to mask attention, say
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def network_of(data: bytes) -> onnx.ModelProto:
    """The network that some bytes hold, sound.

    Raises:
        BackboneError: they hold none, or one that `require_sound` refuses.
    """
    try:
        network: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise BackboneError(f"not an ONNX network ({shortened(error)})") from None
    require_sound(network)
    return network


def require_sound(network: onnx.ModelProto) -> None:
    """Raise BackboneError unless a network keeps to all that stands above."""
    tensors = list(_tensors(network))
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise BackboneError(
                f"keeps tensor {quoted(tensor.name)} outside of the file (in {quoted(where)}), and a network "
                "may read nothing else; save it in one piece: onnx.save(onnx.load(FILE), ONE_FILE), or export it with "
                "external_data=False"
            )
    _require_opset(network)
    _require_order(network)
    factors = {name for node in network.graph.node if node.op_type in _PRODUCTS for name in node.input}
    kernels, empty = 0, 0
    for tensor in tensors:
        _require_size(tensor)
        if tensor.data_type in _FLOATS:
            values = numpy_helper.to_array(tensor)
            least, largest = (values.min(), values.max()) if values.size else (0.0, 0.0)
            if np.isnan(least) or (
                tensor.name in factors and not (np.isfinite(least) and np.isfinite(largest))
            ):
                raise BackboneError(
                    f"tensor {quoted(tensor.name)} holds NaN or infinity; the file is damaged"
                )
            kernels += values.ndim >= 2
            empty += values.ndim >= 2 and not values.any()
    if kernels and kernels == empty:
        raise BackboneError("all of its weights are 0, so it tells nothing apart; the file is damaged")


def _require_opset(network: onnx.ModelProto) -> None:
    """BackboneError for operators of the far future: an engine would go through all versions up to it."""
    for entry in network.opset_import:
        latest = onnx.defs.onnx_opset_version() if entry.domain in ("", "ai.onnx") else _LATEST_OF_OTHERS
        if not 0 < entry.version <= latest:
            raise BackboneError(
                f"is of opset {entry.version}; expected 1 to {latest}: export it with one of these"
            )


def _tensors(network: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors, wherever they are: of graphs, of those within nodes, of attributes, of functions."""
    waiting: list[Message] = [network]
    met = 0
    while waiting:
        message = waiting.pop()
        if isinstance(message, TensorProto):
            yield message
            continue
        if isinstance(message, onnx.SparseTensorProto) and prod(message.dims) > _LARGEST_SPARSE:
            raise BackboneError(f"a sparse tensor would have {shortened(prod(message.dims))} values")
        for field, value in message.ListFields():
            if field.message_type is not None:
                several = not isinstance(value, Message)
                met += len(value) if several else 1
                if met > _MOST_MESSAGES:
                    raise BackboneError("has more parts than any network needs")
                waiting.extend(value if several else [value])


def _require_size(tensor: onnx.TensorProto) -> None:
    """BackboneError unless a tensor holds as many values as its shape says."""
    name = quoted(tensor.name)
    if any(not 0 <= size <= _LARGEST_SIZE for size in tensor.dims) or len(tensor.dims) > 32:
        raise BackboneError(f"tensor {name} has an impossible shape; the file is damaged")
    count = prod(tensor.dims)
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
        bits = _PACKED_BITS.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        stored = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    except (KeyError, ValueError, TypeError):
        raise BackboneError(f"tensor {name} is of a type that is not known; the file is damaged") from None
    if tensor.HasField("raw_data"):
        found, expected = {len(tensor.raw_data)}, {-(-count * bits // 8)}
    else:
        found = {len(stored)}
        expected = {count, 2 * count if kind.startswith("COMPLEX") else -(-count * bits // 8)}
        if kind not in _PACKED_BITS and not kind.startswith("COMPLEX"):
            expected = {count}
    if not found & expected:
        raise BackboneError(
            f"tensor {name} does not hold as many values as its shape says; the file is damaged"
        )


# ---- order


def _require_order(network: onnx.ModelProto) -> None:
    """BackboneError if a node reads what comes after it, which a circle does, or if functions go in circles."""
    functions = {(function.domain, function.name): function for function in network.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size_of(nodes: Iterable[onnx.NodeProto], within: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            total += 1
            called = (node.domain, node.op_type)
            if called in functions:
                if called in within or len(within) > 50:
                    raise BackboneError(f"function {quoted(node.op_type)} goes in circles")
                if called not in sizes:
                    sizes[called] = size_of(functions[called].node, (*within, called))
                total += sizes[called]
            for graph in _graphs(node):
                total += size_of(graph.node, within)
            if total > MOST_NODES:
                raise BackboneError(f"has more than {MOST_NODES:,} nodes")
        return total

    size_of(network.graph.node, ())
    _require_order_of(network.graph, [])
    for function in network.functions:
        _require_order_of_nodes(function.node, [set(function.input)])


def _require_order_of(graph: onnx.GraphProto, outside: list[set[str]]) -> None:
    given = {item.name for item in (*graph.input, *graph.initializer)}
    given |= {item.values.name for item in graph.sparse_initializer}
    _require_order_of_nodes(graph.node, [given, *outside])


def _require_order_of_nodes(nodes: Iterable[onnx.NodeProto], known: list[set[str]]) -> None:
    for node in nodes:
        for name in node.input:
            if name and not any(name in names for names in known):
                raise BackboneError(
                    f"node {quoted(node.name or node.op_type)} reads {quoted(name)}, which no node before it "
                    "gives: its nodes go in a circle, or one is missing"
                )
        for graph in _graphs(node):
            _require_order_of(graph, known)
        known[0].update(node.output)


def _graphs(node: onnx.NodeProto) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
