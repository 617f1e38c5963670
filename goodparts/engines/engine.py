"""The door to the engines: whoever wants a graph executed asks here, and knows no engine by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from goodparts.engines import kept, runtime
from goodparts.engines.runtime import Device, Runtime, current
from goodparts.engines.runtime import Engine as Engine
from goodparts.errors import BackboneError, EngineError, shortened

if TYPE_CHECKING:
    import onnx

    from goodparts.engines.graph import Graph


_LOGGER = logging.getLogger(__name__)
_SOME = (1, 3, 224, 224)  # sizes of an image input, where it has none
_LARGER = (2, 0, 32, 64)  # by so much along each axis an input is tried larger than it says


def open_engine(
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    throughput: bool = False,
    precision: str = "f32",
    on: Runtime | None = None,
) -> Engine:
    """Compile a graph for this machine.

    >>> engine = open_engine(graph)                           # doctest: +SKIP
    >>> engine({"image": pixels})["distance_grid"].shape      # doctest: +SKIP
    (1, 28, 28)

    Args:
        graph: the model and its constants, which are bound without a copy and must not change.
        shapes: of the remaining inputs; static, since that is what makes the engine fast. None: as the graph has them,
            every symbolic size 1: one image at a time.
        throughput: one request a core rather than all cores on one request.
        precision: "f32" or "bf16" (where the processor has it), of convolutions and matrix products; what comes
            after the last of them (exact distances, scores) is always float32.
        on: which engine, and which device; None: what is `current`.

    Raises:
        BackboneError: if the engine can't run an operator of the graph.
        EngineError: if the engine or the device is not there.
    """
    on = on if on is not None else current()
    _LOGGER.info("compiling for %s in %s for %s", on, precision, "throughput" if throughput else "latency")
    engine = on.module.open_engine(
        graph,
        graph.inputs if shapes is None else shapes,
        device=on.device,
        throughput=throughput,
        precision=precision,
    )
    if throughput and on.several_at_once and shapes is None:
        from goodparts.engines.batches import Batches, batched

        if batched(graph):
            return Batches(engine)
    return engine


def open_known_engine(
    identity: str,
    make_graph: Callable[[], Graph],
    *,
    throughput: bool = False,
    precision: str = "f32",
    on: Runtime | None = None,
) -> Engine:
    """`open_engine` of a graph that may have been compiled by an earlier process of this machine: see `kept`.

    Args:
        identity: of all that the graph is made from.
        make_graph: makes it, where it has to be compiled.
        throughput, precision, on: as `open_engine`.

    Raises:
        BackboneError, EngineError: as `open_engine`, and what `make_graph` raises.
    """
    on = on if on is not None else current()
    if (on.engine, on.device) != ("openvino", "cpu") or kept.folder() is None:
        return open_engine(make_graph(), throughput=throughput, precision=precision, on=on)
    on.require()
    from goodparts.engines import openvino

    name = kept.name_of(identity, *openvino.circumstances(throughput=throughput, precision=precision))
    if (content := kept.read(name)) is not None:
        try:
            engine = openvino.reopen(content, throughput=throughput, precision=precision)
        except (RuntimeError, ValueError) as error:
            _LOGGER.info("what was kept can't be used: %s", shortened(error, 300))
        else:
            _LOGGER.info("compiled earlier for %s in %s: %s", on, precision, name)
            return engine
    graph = make_graph()
    compiled = open_engine(graph, throughput=throughput, precision=precision, on=on)
    size = graph.model.ByteSize() + sum(value.nbytes for value in graph.constants.values())
    if isinstance(compiled, openvino.OpenVinoEngine) and size <= kept.LARGEST:
        try:
            kept.write(name, compiled.export())
        except RuntimeError as error:  # it can be run all the same
            _LOGGER.info("can't be kept: %s", shortened(error, 300))
    return compiled


def layer_shapes(model: onnx.ModelProto, image_size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of a backbone's outputs for one image of (height, width).

    Args:
        model: an ONNX model with one input (n, 3, h, w).
        image_size: (height, width).

    Raises:
        BackboneError: if the engine can't read the model, or the size doesn't fit it.
    """
    if not runtime.installed("openvino"):
        return _outputs_of(model, (1, 3, *image_size))
    from goodparts.engines import openvino

    return openvino.layer_shapes(model, image_size)


def works_at_other_sizes(model: onnx.ModelProto, input_name: str, axes: Sequence[int]) -> bool:
    """Whether a backbone works when its image input (n, 3, h, w) is larger along these axes, which have fixed sizes.

    A graph that was exported at one size may have it baked into its constants.
    """
    if not runtime.installed("openvino"):
        given = next(item for item in model.graph.input if item.name == input_name)
        sizes = [
            size.dim_value or least
            for size, least in zip(given.type.tensor_type.shape.dim, _SOME, strict=True)
        ]
        for axis in axes:
            sizes[axis] += _LARGER[axis]
        try:
            _outputs_of(model, (sizes[0], sizes[1], sizes[2], sizes[3]))
        except BackboneError:
            return False
        return True
    from goodparts.engines import openvino

    return openvino.works_at_other_sizes(model, input_name, axes)


def _outputs_of(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> list[tuple[int, ...]]:
    """Shapes of a backbone's outputs for images (n, 3, h, w), by whichever engine there is; or BackboneError."""
    from goodparts.engines.graph import Graph

    free = type(model)()
    free.CopyFrom(model)
    constants = {item.name for item in free.graph.initializer}
    for item in free.graph.input:
        if item.name not in constants:
            image = item.name
            for number, size in enumerate(item.type.tensor_type.shape.dim):
                size.dim_param = f"size_{number}"
    for output in free.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        engine = open_engine(Graph(free), {image: shape}, on=Runtime.of(device="cpu"))
        return [found.shape for found in engine({image: np.zeros(shape, dtype=np.float32)}).values()]
    except EngineError:
        raise
    except Exception as error:  # whatever an engine raises at a size that doesn't fit
        raise BackboneError(
            f"the backbone can't take images of {shape[3]}x{shape[2]} pixels: {shortened(error, 200)}\n"
            "Take another image_size, or another backbone (goodparts backbone list)."
        ) from error


def capabilities(on: Runtime | None = None) -> tuple[str, ...]:
    """Number formats in which a runtime, else the current one, computes fast: FP32, BF16, INT8 ..."""
    on = on if on is not None else current()
    if (on.engine, on.device) != ("openvino", "cpu"):
        return on.found.formats
    from goodparts.engines import openvino

    return openvino.capabilities()


def devices() -> list[Device]:
    """What the engine finds on this machine that it could compute on.

    Raises:
        ImportError: it isn't installed, or not as it should be; OSError and RuntimeError likewise.
    """
    from goodparts.engines import openvino

    return openvino.devices()
