"""PyTorch executes the graph, on a processor, on CUDA or on Apple's MPS. Nothing but `torch_*` beside it imports it."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from goodparts.engines.batches import batched
from goodparts.engines.runtime import Device, Products
from goodparts.engines.torch_graph import tensor_of, to_module
from goodparts.errors import EngineError

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph

_LOGGER = logging.getLogger(__name__)
_MOST = {"cpu": 16, "mps": 32}  # images at a time; with CUDA as many as memory allows
_MOST_OF_CUDA = 1024
_SHARE = 0.7  # of free memory
_KEPT = 8  # programs, one a number of images


def find(device: str) -> Device:
    """See `runtime.EngineModule`."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        fast = any(
            bool(getattr(torch.cpu, name, bool)())
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
        title = platform.processor() or platform.machine()
        return Device(device, title, ("FP32", "BF16") if fast else ("FP32",))
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise EngineError(f"PyTorch {torch.__version__} has no MPS here: that takes macOS and its GPU")
        return Device(device, "Apple GPU", ("FP32",))
    if not torch.cuda.is_available():
        built = "sees no NVIDIA GPU: is its driver there?" if torch.version.cuda else "is built without CUDA"
        advice = "" if torch.version.cuda else "; install its build with CUDA, as pytorch.org says"
        raise EngineError(f"PyTorch {torch.__version__} {built}{advice}")
    if int(number) >= torch.cuda.device_count():
        raise EngineError(f"PyTorch sees {torch.cuda.device_count()} GPUs, so the last is cuda:{number}")
    formats = ("FP32", "BF16") if torch.cuda.get_device_capability(int(number)) >= (8, 0) else ("FP32",)
    return Device(device, torch.cuda.get_device_name(int(number)), formats)


def products(device: str, precision: str) -> Products:
    """See `runtime.EngineModule`; graphics processors may round factors (TF32), as whoever uses PyTorch has set it."""
    return Products(
        exact=precision == "f32" and device == "cpu" and torch.get_float32_matmul_precision() == "highest"
    )


def open_engine(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], *, device: str, throughput: bool, precision: str
) -> TorchEngine:
    """See `engine.open_engine`; of a graph for n images it takes any number."""
    return TorchEngine(graph, shapes, device, bf16=precision == "bf16")


class TorchEngine:
    """A graph as `torch.fx.GraphModule`s, one a number of images: what `engine.open_engine` says holds here."""

    def __init__(
        self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], device: str, *, bf16: bool
    ) -> None:
        """Read the graph; errors as `torch_graph.to_module`."""
        find(device)
        self.inputs = frozenset(graph.inputs)
        self._graph, self._bf16, self._device = graph, bf16, torch.device(device)
        self._outputs = [output.name for output in graph.model.graph.output]
        self._batched = batched(graph)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._programs: dict[tuple[tuple[int, ...], ...], _Program] = {}
        self._names = list(shapes)
        self._most = self._measured_most(shapes)

    @property
    def usable(self) -> bool:
        """Whether this process opened it."""
        return os.getpid() == self._process

    @property
    def most(self) -> int:
        """Images at a time; more are taken one batch after another."""
        return self._most

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run on any number of images; returns the outputs by name."""
        if not self.usable:
            raise RuntimeError("this engine was opened before the process forked; open another one here")
        if not self._batched:
            return self._run(inputs)
        count = len(inputs[self._names[0]])
        found: list[dict[str, NDArray[np.float32]]] = []
        first = 0
        while first < count:
            part = slice(first, min(first + self._most, count))
            try:
                found.append(self._run_padded({name: value[part] for name, value in inputs.items()}))
            except torch.OutOfMemoryError as error:
                self._halve(error)
            else:
                first = part.stop
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([part[name] for part in found]) for name in self._outputs}

    def _run_padded(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """The same, filled up to a power of two, so that few programs serve all numbers of images."""
        count = len(inputs[self._names[0]])
        padded = 1 << (count - 1).bit_length()
        if padded > count:
            inputs = {
                name: np.concatenate([value, *[value[-1:]] * (padded - count)])
                for name, value in inputs.items()
            }
        return {name: value[:count] for name, value in self._run(inputs).items()}

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        given = [inputs[name] for name in self._names]
        shapes = tuple(value.shape for value in given)
        with self._lock:
            program = self._programs.get(shapes)
            if program is None:
                program = self._program(dict(zip(self._names, shapes, strict=True)))
                if len(self._programs) >= _KEPT:
                    self._programs.pop(next(iter(self._programs)))
                self._programs[shapes] = program
        return dict(zip(self._outputs, program(given), strict=True))

    def _program(self, shapes: Mapping[str, tuple[int, ...]]) -> _Program:
        return _Program(self._graph, shapes, self._device, self._bf16)

    def _measured_most(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many images fit, from what one takes; its program is made on the way."""
        if self._device.type != "cuda":
            self._programs[tuple(shapes.values())] = self._program(shapes)
            return _MOST.get(self._device.type, 1)
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._programs[tuple(shapes.values())] = self._program(shapes)
        before = torch.cuda.memory_allocated(self._device)
        per_image = max(1, torch.cuda.max_memory_allocated(self._device) - before)
        free, _ = torch.cuda.mem_get_info(self._device)
        return max(1, min(_MOST_OF_CUDA, int(_SHARE * free / per_image)))

    def _halve(self, error: Exception) -> None:
        if self._most == 1:
            raise EngineError(
                f"device {self._device}: out of memory with a single image; take another device, or a smaller "
                "image_size"
            ) from error
        self._most = max(1, self._most // 2)
        self._programs.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _LOGGER.warning("%s: out of memory; %d images at a time from now on", self._device, self._most)


class _Program:
    """The module for inputs of certain shapes. On CUDA that of a single image is captured, if it can be."""

    def __init__(
        self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], device: torch.device, bf16: bool
    ) -> None:
        self.module = to_module(graph, shapes, device, bf16=bf16)
        self.device = device
        self._lock = threading.Lock()
        self._captured: tuple[Any, list[torch.Tensor], tuple[torch.Tensor, ...]] | None = None
        if device.type == "cuda" and all(shape[:1] == (1,) for shape in shapes.values()):
            self._capture([self._zeros(name, graph, shape) for name, shape in shapes.items()])

    def __call__(self, given: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            if self.device.type == "cpu":
                return [found.numpy() for found in self.module(*map(tensor_of, given))]
            with self._lock:
                moved = [self._moved(value) for value in given]
                if self._captured is None:
                    return [found.cpu().numpy() for found in self.module(*moved)]
                recorded, inputs, outputs = self._captured
                for static, value in zip(inputs, moved, strict=True):
                    static.copy_(value)
                recorded.replay()
                return [found.cpu().numpy() for found in outputs]

    def _moved(self, value: NDArray[Any]) -> torch.Tensor:
        tensor = tensor_of(value)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _zeros(self, name: str, graph: Graph, shape: tuple[int, ...]) -> torch.Tensor:
        from onnx import helper

        item = next(item for item in graph.model.graph.input if item.name == name)
        kind = helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        return tensor_of(np.zeros(shape, dtype=kind)).to(self.device)

    def _capture(self, inputs: list[torch.Tensor]) -> None:
        """Record the kernels of one run as a CUDA graph: launching them one by one takes longer than they do."""
        try:
            with torch.inference_mode(), torch.cuda.device(self.device):
                stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                stream.wait_stream(torch.cuda.current_stream(self.device))
                with torch.cuda.stream(stream):
                    for _ in range(2):
                        self.module(*inputs)
                torch.cuda.current_stream(self.device).wait_stream(stream)
                recorded = torch.cuda.CUDAGraph()
                with torch.cuda.graph(recorded):
                    outputs = self.module(*inputs)
            self._captured = (recorded, inputs, outputs)
        except RuntimeError as error:
            _LOGGER.warning("kernels are launched one by one: they can't be captured (%s)", error)
