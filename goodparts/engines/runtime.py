"""What executes graphs on this machine: an engine, and the device that it computes on.

    runtime = Runtime.of("auto", "cuda")     # EngineError where there is none, with what to install
    with runtime.chosen():                   # whoever opens an engine in here gets one of this
        ...

Both belong to the machine and not to a recipe. What is asked for is used or refused: there is no silent fall-back.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from goodparts import parallel
from goodparts.errors import EngineError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from goodparts.engines.graph import Graph

ENGINES = ("openvino", "onnxruntime", "torch")
"""By the name of their package, in the order in which they are taken for a processor."""

KINDS = {
    "cpu": ENGINES,
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch", "onnxruntime"),
    "gpu": ("openvino", "onnxruntime"),
    "npu": ("openvino",),
    "tensorrt": ("onnxruntime",),
}
"""Kinds of device, and the engines that may compute on them."""

ENGINE_VARIABLE, DEVICE_VARIABLE = "GOODPARTS_ENGINE", "GOODPARTS_DEVICE"
INSTALL = {
    "openvino": "pip install openvino",
    "onnxruntime": "pip install 'goodparts[onnxruntime]'",
    "torch": "pip install 'goodparts[torch]'",
}

_OF_A_BATCH = 32  # threads, for a graphics processor
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1")
_CHOSEN: ContextVar[Runtime | None] = ContextVar("chosen", default=None)


Run = Callable[[Mapping[str, "NDArray[Any]"]], dict[str, "NDArray[np.float32]"]]
"""From inputs by name to outputs by name."""


@dataclass(frozen=True)
class Device:
    """Something that an engine could compute on.

    Attributes:
        name: as it is asked for: cpu, cuda:0; of OpenVINO as that calls it: CPU, GPU.0, NPU.
        title: its maker's name for it; empty where it does not answer.
        formats: number formats in which it computes fast: FP32, BF16 ...
        failure: why it does not answer; empty where it does.
    """

    name: str
    title: str = ""
    formats: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Products:
    """What products of matrices are like where a graph will run: that decides what a search leaves to them.

    Attributes:
        int8: whether those of int8 numbers are faster than those of float32.
        exact: whether those of float32 numbers are computed in float32, not in bfloat16 or half.
    """

    int8: bool = True
    exact: bool = False


ANYWHERE = Products()
"""Of a graph that any engine may run, in any precision."""


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


class EngineModule(Protocol):
    """What a module of an engine holds, beside its class."""

    def open_engine(
        self,
        graph: Graph,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        device: str,
        throughput: bool,
        precision: str,
    ) -> Engine:
        """As `engine.open_engine`."""

    def find(self, device: str) -> Device:
        """The device of a name such as cpu or cuda:1; EngineError where it isn't there, with what to do."""

    def products(self, device: str, precision: str) -> Products:
        """What its products of matrices are like."""


@dataclass(frozen=True)
class Runtime:
    """An engine, and the device that it computes on.

    Attributes:
        engine: "openvino", "onnxruntime" or "torch".
        device: such as "cpu" or "cuda:0".
    """

    engine: str
    device: str

    @classmethod
    def of(cls, engine: str | None = None, device: str | None = None) -> Self:
        """What is asked for, or else what the environment says, or else what suits this machine.

        Args:
            engine: auto, openvino, onnxruntime or torch.
            device: auto, cpu, cuda, cuda:1 (or another number), mps, gpu, npu or tensorrt.

        Raises:
            EngineError: it is not there; the message says what is missing and how to install it.
        """
        engine = _given("engine", engine, ENGINE_VARIABLE)
        device = _given("device", device, DEVICE_VARIABLE)
        if engine not in ("auto", *ENGINES):
            raise EngineError(f"engine: expected one of auto, {', '.join(ENGINES)}, found {quoted(engine)}")
        if device == "auto":
            device = "cuda" if _cuda_offered(engine) else "cpu"
        kind, _, number = device.partition(":")
        if kind not in KINDS or (number and not (kind == "cuda" and re.fullmatch(r"\d{1,3}", number))):
            raise EngineError(
                f"device: expected one of auto, {', '.join(KINDS)} or cuda:N, found {quoted(device)}"
            )
        device = "cuda:0" if device == "cuda" else device
        able = KINDS[kind]
        if engine != "auto" and engine not in able:
            raise EngineError(
                f"device {device}: engine {engine} does not compute on it; take engine {' or '.join(able)}"
            )
        failures = []
        for name in able if engine == "auto" else (engine,):
            try:
                runtime = cls(name, device)
                runtime.require()
            except EngineError as error:
                failures.append(str(error))
            else:
                return runtime
        raise EngineError(f"device {device}: {'; '.join(failures)}")

    @property
    def module(self) -> EngineModule:
        """The module of its engine; EngineError where the package isn't installed."""
        if not installed(self.engine):
            raise EngineError(f"engine {self.engine} is not installed: {INSTALL[self.engine]}")
        module: Any = import_module(f"goodparts.engines.{self.engine}")
        found: EngineModule = module
        return found

    def require(self) -> None:
        """Raise EngineError unless it can be used."""
        module = self.module
        if self.device != "cpu":  # each has that, and need not be loaded to know
            module.find(self.device)

    @property
    def found(self) -> Device:
        """Its device, as the engine describes it."""
        return self.module.find(self.device)

    def products(self, precision: str = "f32") -> Products:
        """What its products of matrices are like in a precision, "f32" or "bf16"."""
        return self.module.products(self.device, precision)

    @property
    def workers(self) -> int:
        """Threads that keep it busy: two more than there are cores, or as many as images go in a batch or two."""
        return (
            max(_OF_A_BATCH, parallel.default_workers())
            if self.several_at_once
            else parallel.default_workers()
        )

    @property
    def several_at_once(self) -> bool:
        """Whether images are best computed many at a time: by graphics processors."""
        return self.device != "cpu" and self.engine == "torch"

    def __str__(self) -> str:
        return f"{self.engine} on {self.device}"

    @property
    def in_words(self) -> str:
        """With the engine's version and what the device is called."""
        title = self.found.title
        return f"{self.engine} {version_of(self.engine)} on {self.device}" + (f" ({title})" if title else "")

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Engines that are opened in here, by this thread, are of this runtime unless another one is given."""
        token = _CHOSEN.set(self)
        try:
            yield
        finally:
            _CHOSEN.reset(token)


def current() -> Runtime:
    """The chosen runtime, or that of the environment; EngineError where it isn't there."""
    return _CHOSEN.get() or Runtime.of()


def installed(engine: str) -> bool:
    """Whether an engine's package is there."""
    return find_spec(engine) is not None


def version_of(engine: str) -> str:
    """Of an engine's package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(engine)
    except PackageNotFoundError:  # it may come under another name, as onnxruntime-gpu does
        return str(getattr(import_module(engine), "__version__", "of unknown version"))


def _given(name: str, value: str | None, variable: str) -> str:
    given = value if value is not None else os.environ.get(variable)
    return (given or "auto").strip().lower()


def _cuda_offered(engine: str) -> bool:
    """Whether `auto` takes an NVIDIA GPU. PyTorch is only asked, which takes seconds, where there is a driver."""
    if engine not in ("auto", "torch") or not installed("torch") or not _driver():
        return False
    try:
        Runtime("torch", "cuda:0").require()
    except EngineError:  # a PyTorch without CUDA, say: nobody asked for a GPU
        return False
    return True


def _driver() -> bool:
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(Path(path).exists() for path in _DRIVERS)
