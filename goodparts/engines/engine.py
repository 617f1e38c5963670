"""The door to the engines: whoever wants a graph executed asks here, and knows no engine by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from goodparts.engines.graph import Graph
    from goodparts.engines.openvino import Device


_LOGGER = logging.getLogger(__name__)


class Engine(Protocol):
    """A compiled graph. Calls from several threads run side by side."""

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs that each call gives; learnt ones are bound already."""
        ...

    @property
    def usable(self) -> bool:
        """Whether this process opened it: a forked child has none of its threads and has to open its own."""
        ...

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run once; copies of the outputs by name. RuntimeError where it isn't usable."""
        ...


def open_engine(
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    throughput: bool = False,
    precision: str = "f32",
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

    Raises:
        BackboneError: if the engine can't run an operator of the graph.
    """
    from goodparts.engines import openvino

    _LOGGER.info("compiling in %s for %s", precision, "throughput" if throughput else "latency")
    return openvino.OpenVinoEngine(
        graph, graph.inputs if shapes is None else shapes, throughput=throughput, precision=precision
    )


def layer_shapes(model: onnx.ModelProto, image_size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of a backbone's outputs for one image of (height, width).

    Args:
        model: an ONNX model with one input (n, 3, h, w).
        image_size: (height, width).

    Raises:
        BackboneError: if the engine can't read the model, or the size doesn't fit it.
    """
    from goodparts.engines import openvino

    return openvino.layer_shapes(model, image_size)


def works_at_other_sizes(model: onnx.ModelProto, input_name: str, axes: Sequence[int]) -> bool:
    """Whether a backbone works when its image input (n, 3, h, w) is larger along these axes, which have fixed sizes.

    A graph that was exported at one size may have it baked into its constants.
    """
    from goodparts.engines import openvino

    return openvino.works_at_other_sizes(model, input_name, axes)


def capabilities() -> tuple[str, ...]:
    """Number formats in which this processor computes fast: FP32, BF16, INT8 ..."""
    from goodparts.engines import openvino

    return openvino.capabilities()


def devices() -> list[Device]:
    """What the engine finds on this machine that it could compute on.

    Raises:
        ImportError: it isn't installed, or not as it should be; OSError and RuntimeError likewise.
    """
    from goodparts.engines import openvino

    return openvino.devices()
