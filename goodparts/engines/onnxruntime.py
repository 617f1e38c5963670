"""ONNX Runtime executes the graph, with whichever of its providers is installed. Nothing else imports it.

Learnt inputs become constants of the model, as in an exported file: what it makes of them beforehand is worth more
than the copy costs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from goodparts.engines.runtime import Device, Products, Run
from goodparts.errors import BackboneError, EngineError, shortened

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "gpu": "DmlExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}
_PACKAGES = {
    "cuda": "pip install onnxruntime-gpu in its place",
    "tensorrt": "pip install onnxruntime-gpu in its place, and TensorRT",
    "gpu": "pip install onnxruntime-directml in its place (Windows)",
    "mps": "macOS has it",
}
_LARGEST = 2**31 - 2**26  # bytes of a protobuf message
_QUIET = 3  # errors only: it warns of every constant that it folds


def find(device: str) -> Device:
    """See `runtime.EngineModule`."""
    import onnxruntime

    kind = device.partition(":")[0]
    if _PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"engine onnxruntime {onnxruntime.__version__} has no {_PROVIDERS[kind]}: {_PACKAGES[kind]}"
        )
    title = platform.processor() or platform.machine() if kind == "cpu" else _PROVIDERS[kind]
    return Device(device, title, ("FP32",))


class OnnxRuntimeEngine:
    """A session: what `engine.open_engine` says of an engine holds here. Images of any number at a time."""

    def __init__(self, graph: Graph, device: str, *, throughput: bool) -> None:
        """Open; errors as `engine.open_engine`."""
        import onnxruntime

        kind, _, number = device.partition(":")
        provider: Any = _PROVIDERS[kind]
        if number:
            provider = (provider, {"device_id": number})
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        if throughput:
            options.intra_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.inputs = frozenset(graph.inputs)
        self._process = os.getpid()
        self._outputs = [output.name for output in graph.model.graph.output]
        try:
            self._session = onnxruntime.InferenceSession(_whole(graph), options, providers=[provider])
        except Exception as error:  # its errors have no common class
            raise BackboneError(
                f"ONNX Runtime {onnxruntime.__version__} can't run this graph: {shortened(error, 300)}\n"
                "Take another engine, other layers, or another backbone (goodparts backbone list)."
            ) from error
        if self._session.get_providers()[0] != _PROVIDERS[kind]:  # it falls back with a mere warning
            raise EngineError(
                f"device {device}: ONNX Runtime could not load its {_PROVIDERS[kind]} (its libraries, such as "
                "cuDNN, are missing or of another version); install them, or take another device"
            )

    @property
    def usable(self) -> bool:
        """Whether this process opened it."""
        return os.getpid() == self._process

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run once; returns the outputs by name."""
        if not self.usable:
            raise RuntimeError("this engine was opened before the process forked; open another one here")
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, found, strict=True))


def products(device: str, precision: str) -> Products:
    """See `runtime.EngineModule`; graphics processors may round factors (TF32), whatever the precision."""
    return Products(exact=device == "cpu")


def open_engine(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], *, device: str, throughput: bool, precision: str
) -> OnnxRuntimeEngine:
    """See `engine.open_engine`; it computes in float32 whatever the precision, and takes images of any number."""
    return OnnxRuntimeEngine(graph, device, throughput=throughput)


def open_file(path: Path) -> tuple[Run, dict[str, str]]:
    """An exported .onnx file as any program opens it: what runs it, and its metadata."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run, dict(session.get_modelmeta().custom_metadata_map)


def _whole(graph: Graph) -> bytes:
    """The model with learnt inputs as constants."""
    size = graph.model.ByteSize() + sum(value.nbytes for value in graph.constants.values())
    if size > _LARGEST:
        raise EngineError(
            f"engine onnxruntime: this model takes {size / 2**30:.1f} GiB, and ONNX Runtime reads 2 in one piece; take "
            "another engine, or fit with a smaller sampling_ratio or a sampling_limit"
        )
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    given = [item for item in model.graph.input if item.name not in graph.constants]
    del model.graph.input[:]
    model.graph.input.extend(given)
    for name, value in graph.constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return bytes(model.SerializeToString())
