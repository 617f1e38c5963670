"""OpenVINO executes the graph on CPUs of x86-64 and ARM."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.engines.graph import Graph
from goodparts.errors import BackboneError

_FIRST_CALL = threading.Lock()


class Engine:
    """A compiled graph. Calls from several threads run side by side.

    >>> engine = Engine(graph, {"image": (1, 224, 224, 3)})   # doctest: +SKIP
    >>> engine({"image": pixels})["distance_grid"].shape      # doctest: +SKIP
    (1, 28, 28)
    """

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        throughput: bool = False,
        precision: str = "f32",
    ) -> None:
        """Compile.

        Args:
            graph: the model and its constants, which are bound without a copy and must not change.
            shapes: of the remaining inputs; static, since that is what makes the engine fast.
            throughput: one request a core rather than all cores on one request.
            precision: "f32" or "bf16" (where the processor has it), of convolutions and matrix products; what comes
                after the last of them (exact distances, scores) is always float32.

        Raises:
            BackboneError: if the engine can't run an operator of the graph.
        """
        import openvino as ov

        core = ov.Core()
        if precision == "bf16" and "BF16" not in capabilities():
            precision = "f32"
        try:
            model = core.read_model(graph.model.SerializeToString())
            self._bind(model, graph.constants)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
                    "INFERENCE_PRECISION_HINT": precision,
                },
            )
        except RuntimeError as error:
            raise BackboneError(
                f"OpenVINO {ov.__version__} can't run this graph: {_first_line(error)}\n"
                "Take other layers, or another backbone (goodparts backbone list)."
            ) from error
        self._constants = graph.constants  # the compiled model reads their memory
        self._local = threading.local()
        # Not the compiled model's own names: where it merges tensors, it keeps either's.
        self._outputs = [output.name for output in graph.model.graph.output]
        with (
            _FIRST_CALL
        ):  # OpenVINO's tables of types deadlock when two threads are the first to ask for them
            self({port.get_any_name(): _zeros(port) for port in self._compiled.inputs})

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run once; returns copies of the outputs by name."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer(dict(inputs), share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}

    @staticmethod
    def _bind(model: Any, constants: Mapping[str, NDArray[Any]]) -> None:
        from openvino import opset13

        for parameter in list(model.get_parameters()):
            name = parameter.get_friendly_name()
            if name in constants:
                constant = opset13.constant(constants[name], shared_memory=True)
                parameter.output(0).replace(constant.output(0))
                model.remove_parameter(parameter)


@cache
def capabilities() -> tuple[str, ...]:
    """Number formats in which this processor computes fast, as OpenVINO names them: FP32, BF16, INT8 ..."""
    import openvino as ov

    return tuple(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def layer_shapes(model: Any, image_size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of a backbone's outputs for one image of (height, width).

    Args:
        model: an ONNX model with one input (n, 3, h, w).
        image_size: (height, width).

    Raises:
        BackboneError: if the engine can't read the model, or the size doesn't fit it.
    """
    import openvino as ov

    try:
        network = ov.Core().read_model(model.SerializeToString())
        network.reshape({network.input(0): [1, 3, *image_size]})
        shapes = [output.get_partial_shape() for output in network.outputs]
        if all(shape.is_static for shape in shapes):
            return [tuple(shape.to_shape()) for shape in shapes]
        compiled = ov.Core().compile_model(network, "CPU")
        results = compiled(np.zeros((1, 3, *image_size), dtype=np.float32))
        return [results[output].shape for output in compiled.outputs]
    except RuntimeError as error:
        raise BackboneError(
            f"the backbone can't take images of {image_size[1]}x{image_size[0]} pixels: {_first_line(error)}\n"
            "Take another image_size, or another backbone (goodparts backbone list)."
        ) from error


def _zeros(port: Any) -> NDArray[Any]:
    return np.zeros(tuple(port.get_shape()), dtype=port.get_element_type().to_dtype())


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return (telling or lines or ["no reason given"])[0]
