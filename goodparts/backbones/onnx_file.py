"""Reading, checking and trimming ONNX graphs that turn an image into feature maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import onnx
from onnx import checker, shape_inference, version_converter

from goodparts.engines.engine import works_at_other_sizes
from goodparts.engines.onnx_limits import network_of
from goodparts.errors import BackboneError, quoted, shortened

OPSET = 18
LARGEST_TENSOR = 1 << 28  # values
LARGEST_SIZES = 1024  # elements of a constant that may be a shape rather than weights
DIMENSIONS = ("n", "", "h", "w")  # symbolic sizes of the image input; its second is 3


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file, and bring it to opset 18 or later.

    Raises:
        BackboneError: not an ONNX file, not sound (`onnx_limits`), refused by ONNX's checker, or of an opset that can't
            be converted.
    """
    try:
        model = network_of(path.read_bytes())
        checker.check_model(model)
    except BackboneError as error:
        raise BackboneError(f"{path}: not a usable ONNX file: {error}") from None
    except (checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise BackboneError(f"{path}: not a usable ONNX file: {_first_line(error)}") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and opset < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (version_converter.ConvertError, RuntimeError) as error:
            raise BackboneError(
                f"{path}: is of opset {opset}, and ONNX can't convert it to {OPSET} ({_first_line(error)}); "
                f"export it again with opset {OPSET}"
            ) from error
    return model


def trimmed_network(data: bytes, input_name: str, layers: Sequence[str]) -> onnx.ModelProto:
    """The network that `trim` made and a model file kept, with these layers as its outputs.

    Raises:
        BackboneError: the bytes are something else.
    """
    model = network_of(data)
    try:
        checker.check_model(model)
    except (checker.ValidationError, ValueError, RuntimeError) as error:
        raise BackboneError(f"refused by ONNX's checker: {_first_line(error)}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = [value.name for value in model.graph.output]
    if [value.name for value in inputs] != [input_name] or not _fits_a_layer(inputs[0].type):
        raise BackboneError(f"the backbone has other inputs than {quoted(input_name)}, an image")
    if not outputs or outputs != list(layers):
        raise BackboneError("the backbone has other outputs than the layers of the recipe")
    require_modest(model, input_name)
    return model


def require_modest(model: onnx.ModelProto, input_name: str) -> None:
    """Raise BackboneError if a tensor would be enormous at an image of 224 × 224: of a constant shape, say."""
    for name, shape in _shapes_at(model, input_name, 224).items():
        if prod(shape) > LARGEST_TENSOR:
            raise BackboneError(
                f"tensor {quoted(name)} would have {prod(shape):.3g} values for one small image, more than any "
                "backbone needs"
            )


def image_input(model: onnx.ModelProto, path: Path) -> str:
    """Name of the one input of a graph, which must be float32 (n, 3, h, w).

    Raises:
        BackboneError: there are more inputs, or it is of another type or shape.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    expected = "expected a single input, float32 (n, 3, h, w)"
    if len(inputs) != 1:
        names = shortened(", ".join(value.name for value in inputs)) or "none"
        raise BackboneError(f"{path}: {expected}; found {len(inputs)} inputs: {names}")
    (value,) = inputs
    tensor = value.type.tensor_type
    found = f"{shortened(value.name)} {_type_name(tensor.elem_type)} ({', '.join(map(_dimension, tensor.shape.dim))})"
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        raise BackboneError(f"{path}: {expected}; found {found}")
    channels = tensor.shape.dim[1]
    if channels.HasField("dim_value") and channels.dim_value != 3:
        raise BackboneError(f"{path}: {expected}; found {found}")
    channels.dim_value = 3
    return str(value.name)


def feature_tensors(model: onnx.ModelProto, input_name: str) -> list[str]:
    """Names of the tensors that depend on the input and can serve as layers, in graph order.

    They are float32 and of rank 3, token sequences, or 4, feature maps.
    """
    types = _tensor_types(model)
    reached = {input_name}
    names = []
    for node in model.graph.node:
        if reached.isdisjoint(_inputs(node)):
            continue
        for name in filter(None, node.output):
            reached.add(name)
            if name in types and _fits_a_layer(types[name]):
                names.append(name)
    return names


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Names of all tensors of a graph: inputs, constants and whatever its nodes compute."""
    graph = model.graph
    named = {entry.name for entry in (*graph.input, *graph.initializer)}
    return named | {name for node in graph.node for name in node.output}


def trim_graph(model: onnx.ModelProto, input_name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """Copy the nodes and initializers that `outputs` depend on; these become the outputs, in that order.

    The names given must be among `feature_tensors`.
    """
    graph = model.graph
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(_inputs(node))
    trimmed = _without_graph(model)
    trimmed.graph.name = graph.name
    trimmed.graph.node.extend(reversed(kept))
    trimmed.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    trimmed.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in needed)
    trimmed.graph.input.extend(value for value in graph.input if value.name == input_name)
    types = _tensor_types(model) | _tensor_types(trimmed)
    for name in outputs:
        trimmed.graph.output.add(name=name, type=types[name])
    return trimmed


def free_sizes(model: onnx.ModelProto, input_name: str) -> onnx.ModelProto:
    """Make the fixed sizes of the image input symbolic, as many as the graph works without.

    Whether it does is tried at other sizes: a graph exported at one size may have it baked into its constants.
    """
    shape = next(value for value in model.graph.input if value.name == input_name).type.tensor_type.shape
    fixed = [axis for axis in (0, 2, 3) if shape.dim[axis].dim_value > 0]
    for axis in (0, 2, 3):
        if axis not in fixed and not shape.dim[axis].dim_param:
            shape.dim[axis].dim_param = DIMENSIONS[axis]
    for chosen in ((0, 2, 3), (2, 3), (0,)):
        axes = [axis for axis in chosen if axis in fixed]
        if axes and works_at_other_sizes(model, input_name, axes):
            for axis in axes:
                shape.dim[axis].dim_param = DIMENSIONS[axis]
            outputs = [value.name for value in model.graph.output]
            return trim_graph(model, input_name, outputs)  # infers the shapes of the outputs anew
    return model


def shapes_at(model: onnx.ModelProto, input_name: str, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors, less their first dimension, for an image of size × size; unknown ones left out.

    An input of a fixed size keeps it.
    """
    return {name: shape[1:] for name, shape in _shapes_at(model, input_name, size).items()}


def _shapes_at(model: onnx.ModelProto, input_name: str, size: int) -> dict[str, tuple[int, ...]]:
    fixed = _without_weights(model)
    shape = next(value for value in fixed.graph.input if value.name == input_name).type.tensor_type.shape
    for dimension, length in zip(shape.dim, (1, 3, size, size), strict=True):
        if dimension.dim_value <= 0:
            dimension.dim_value = length
    shapes = {}
    for name, tensor_type in _tensor_types(fixed).items():
        dimensions = tensor_type.tensor_type.shape.dim
        if dimensions and all(dimension.dim_value > 0 for dimension in dimensions):
            shapes[name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those its subgraphs take from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from _inputs(inner)


def _tensor_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types of the tensors as ONNX infers them from the input alone, or else as the file declares them.

    Of a declared shape only the rank is taken: its sizes may be those of one particular image.
    """
    types = {}
    for value in (*model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            types[value.name] = onnx.TypeProto()
            types[value.name].CopyFrom(value.type)
            for dimension in types[value.name].tensor_type.shape.dim:
                dimension.Clear()
    inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    for value in inferred.graph.value_info:
        if value.type.tensor_type.HasField("shape") or value.name not in types:
            types[value.name] = value.type
    return types


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without outputs and weights, which is what shape inference needs."""
    bare = _without_graph(model)
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:  # inference needs the shape of weights and the values of sizes
        if prod(tensor.dims) <= LARGEST_SIZES:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bare


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    header = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
    )
    header.opset_import.extend(model.opset_import)
    header.metadata_props.extend(model.metadata_props)
    header.functions.extend(model.functions)
    return header


def _fits_a_layer(tensor_type: onnx.TypeProto) -> bool:
    tensor = tensor_type.tensor_type
    return tensor.elem_type == onnx.TensorProto.FLOAT and len(tensor.shape.dim) in (3, 4)


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> str:
    return shortened(dimension.dim_param) or (
        str(dimension.dim_value) if dimension.HasField("dim_value") else "?"
    )


def _type_name(elem_type: int) -> str:
    known = elem_type in onnx.TensorProto.DataType.values()
    return str(onnx.TensorProto.DataType.Name(elem_type)).lower() if known else f"type {elem_type}"


def _first_line(error: Exception) -> str:
    return shortened((str(error).strip() or type(error).__name__).splitlines()[0], 200)
