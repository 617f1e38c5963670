"""OpenVINO executes the graph on CPUs of x86-64 and ARM, and on Intel's GPUs and NPUs. Nothing else imports it."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from goodparts.engines.runtime import Device, Products, Run
from goodparts.errors import BackboneError, EngineError
from goodparts.parallel import cores

if TYPE_CHECKING:
    import onnx

    from goodparts.engines.graph import Graph

_ONE_AT_A_TIME = threading.RLock()
_SIZE = struct.Struct("<I")
_ALIGNMENT = 64  # bytes
_STEERING = ("ONEDNN_", "DNNL_", "OV_", "OPENVINO_")  # variables of the environment that OpenVINO heeds
_CEILINGS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)  # of these, what keeps it from instructions that are there
_WITHOUT_BF16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}  # and it does not tell
_OPEN: weakref.WeakSet[OpenVinoEngine] = weakref.WeakSet()


class OpenVinoEngine:
    """A compiled graph: what `engine.open_engine` says of one holds here.

    Args:
        compiled: OpenVINO's own.
        inputs: by name.
        outputs: by name, in order: not the compiled model's own, since where it merges tensors it keeps either's.
        memory: what it reads as it runs, and has to stay.
    """

    def __init__(self, compiled: Any, inputs: Iterable[str], outputs: Iterable[str], memory: object) -> None:
        self.inputs = frozenset(inputs)
        self._outputs = list(outputs)
        self._compiled, self._memory = compiled, memory
        self._process = os.getpid()
        self._local = threading.local()
        _OPEN.add(self)

    @property
    def usable(self) -> bool:
        """Whether this process opened it."""
        return os.getpid() == self._process

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run once; returns copies of the outputs by name."""
        if not self.usable:  # it would wait for threads that are not here, for ever
            raise RuntimeError("this engine was opened before the process forked; open another one here")
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer(dict(inputs), share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}

    def export(self) -> bytes:
        """What `reopen` makes an engine of that computes the same."""
        names = json.dumps({"inputs": sorted(self.inputs), "outputs": self._outputs}).encode()
        head = _SIZE.pack(len(names)) + names
        return b"".join((head, bytes(-len(head) % _ALIGNMENT), self._compiled.export_model().getbuffer()))

    def _warm_up(self) -> None:
        self({port.get_any_name(): _zeros(port) for port in self._compiled.inputs})


def _bind(model: Any, constants: Mapping[str, NDArray[Any]]) -> None:
    """Constants in place of the inputs of their names."""
    from openvino import opset13

    for parameter in list(model.get_parameters()):
        name = parameter.get_friendly_name()
        if name in constants:
            constant = opset13.constant(constants[name], shared_memory=True)
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)


def _hints(device: str, *, throughput: bool, precision: str) -> dict[str, str]:
    if precision == "bf16" and device == "CPU" and "BF16" not in capabilities():
        precision = "f32"
    return {
        "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }


def open_engine(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], *, device: str, throughput: bool, precision: str
) -> OpenVinoEngine:
    """See `engine.open_engine`."""
    with _core() as core:
        # A processor is always there; to list the others loads what each of them needs.
        name = "CPU" if device == "cpu" else _name_of(device, devices())
        try:
            model = core.read_model(graph.model.SerializeToString())
            _bind(model, graph.constants)
            model.reshape({given: list(shape) for given, shape in shapes.items()})
            compiled = core.compile_model(
                model, name, _hints(name, throughput=throughput, precision=precision)
            )
        except RuntimeError as error:
            raise BackboneError(
                f"OpenVINO {version()} can't run this graph: {_first_line(error)}\n"
                "Take other layers, or another backbone (goodparts backbone list)."
            ) from error
        outputs = [output.name for output in graph.model.graph.output]
        engine = OpenVinoEngine(compiled, graph.inputs, outputs, memory=graph.constants)
        engine._warm_up()
        return engine


def reopen(content: NDArray[np.uint8], *, throughput: bool, precision: str) -> OpenVinoEngine:
    """An engine of what `OpenVinoEngine.export` gave under the same `circumstances`.

    Args:
        content: (bytes,) uint8, which must not change.
        throughput, precision: as `engine.open_engine`.

    Raises:
        RuntimeError: OpenVINO refuses it: made by another version, or for another processor.
        ValueError: it is something else.
    """
    import openvino as ov

    try:
        (size,) = _SIZE.unpack_from(content.data)
        first = _SIZE.size + size
        names = json.loads(content[_SIZE.size : first].tobytes())
        inputs, outputs = names["inputs"], names["outputs"]
    except (struct.error, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"no engine ({error})") from error
    with _core() as core:
        blob = ov.Tensor(content[first + -first % _ALIGNMENT :], shared_memory=True)
        compiled = core.import_model(blob, "CPU", _hints("CPU", throughput=throughput, precision=precision))
        engine = OpenVinoEngine(compiled, inputs, outputs, memory=content)
        engine._warm_up()
        return engine


def circumstances(*, throughput: bool, precision: str) -> tuple[str, ...]:
    """What, beside the graph, decides how a processor's engine is compiled."""
    import openvino as ov

    with _core() as core:
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
    steered = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(_STEERING)]
    how = sorted(_hints("CPU", throughput=throughput, precision=precision).items())
    return (ov.__version__, name, repr(capabilities()), str(cores()), repr(how), *sorted(steered))


def find(device: str) -> Device:
    """See `runtime.EngineModule`."""
    known = devices()
    name = _name_of(device, known)
    found = next(item for item in known if item.name == name)
    if found.failure:
        raise EngineError(f"OpenVINO's {name} doesn't answer: {found.failure}; update its driver")
    return found


def products(device: str, precision: str) -> Products:
    """See `runtime.EngineModule`."""
    on_cpu = device == "cpu"
    return Products(int8=not on_cpu or _int8_dot_products(), exact=on_cpu and precision == "f32")


@cache
def _int8_dot_products() -> bool:
    """Whether OpenVINO has instructions for int8 products here (VNNI, AMX, on ARM its own): without them they are slow.

    It doesn't say so, but calls what it compiled for a small product by the name of a plain routine.
    """
    from openvino import Model, opset13

    patches = opset13.parameter([8, 16], np.float32)
    levels = [np.float32(level) for level in (-1.28, 1.27)]
    query = opset13.fake_quantize(patches, *levels, *levels, 256)
    entries = opset13.convert(opset13.constant(np.ones((16, 16), np.int8)), np.float32)
    entries = opset13.multiply(entries, opset13.constant(np.float32(0.01)))
    with _core() as core:
        model = Model([opset13.matmul(query, entries, False, False)], [patches])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        described = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        routines = [str(kind["primitiveType"].astype(str)) for kind in described if "primitiveType" in kind]
    return not any(name.startswith("jit_gemm") for name in routines)


def _name_of(device: str, known: Sequence[Device]) -> str:
    """What OpenVINO calls it; EngineError where it doesn't offer it."""
    wanted = device.upper()
    name = next((item.name for item in known if item.name.partition(".")[0] == wanted), None)
    if name is None:
        offered = ", ".join(item.name for item in known) or "nothing"
        raise EngineError(
            f"OpenVINO {version()} offers {offered} here, not {wanted}: install its driver (Intel's compute runtime "
            "for a GPU, the NPU driver for an NPU)"
        )
    return name


def layer_shapes(model: onnx.ModelProto, image_size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of a backbone's outputs for one image; see `engine.layer_shapes`."""
    with _core() as core:
        try:
            network = core.read_model(model.SerializeToString())
            network.reshape({network.input(0): [1, 3, *image_size]})
            shapes = [output.get_partial_shape() for output in network.outputs]
            if all(shape.is_static for shape in shapes):
                return [tuple(shape.to_shape()) for shape in shapes]
            compiled = core.compile_model(network, "CPU")
            results = compiled(np.zeros((1, 3, *image_size), dtype=np.float32))
            return [results[output].shape for output in compiled.outputs]
        except (RuntimeError, IndexError) as error:  # IndexError: a graph without inputs
            raise BackboneError(
                f"the backbone can't take images of {image_size[1]}x{image_size[0]} pixels: {_first_line(error)}\n"
                "Take another image_size, or another backbone (goodparts backbone list)."
            ) from error


def works_at_other_sizes(model: onnx.ModelProto, input_name: str, axes: Sequence[int]) -> bool:
    """Whether the image input may grow along these axes; see `engine.works_at_other_sizes`."""
    with _core() as core:
        network = core.read_model(model.SerializeToString())
        shape = network.input(input_name).partial_shape
        sizes = [dimension.get_length() if dimension.is_static else -1 for dimension in shape]
        for axis in axes:
            sizes[axis] += (2, 0, 32, 64)[axis]
        try:
            network.reshape({input_name: sizes})
        except RuntimeError:
            return False
        return True


def open_file(path: Path) -> tuple[Run, dict[str, str]]:
    """An exported .onnx or .xml file as any program opens it, in float32: what runs it, and the metadata of an .xml."""
    with _core() as core:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        described = {}
        if model.has_rt_info("goodparts"):
            described = {
                name: str(getattr(value, "value", value))
                for name, value in model.get_rt_info("goodparts").astype(dict).items()
            }

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        found = compiled(dict(inputs))
        return {name: np.array(value) for output, value in found.items() for name in output.get_names()}

    return run, described


def write_ir(network: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Write a model as OpenVINO's own files: `path`, an .xml, and beside it a .bin with the weights.

    Args:
        network: the model.
        metadata: is found as runtime information below "goodparts".
        path: of the .xml.

    Raises:
        RuntimeError: OpenVINO can't write there.
    """
    import openvino as ov

    with _core() as core:
        model = core.read_model(network.SerializeToString())
        for name, value in metadata.items():
            model.set_rt_info(value, ["goodparts", name])
        ov.save_model(model, path, compress_to_fp16=False)


def devices() -> list[Device]:
    """What OpenVINO finds on this machine, whether it answers or not."""
    found = []
    with _core() as core:
        for name in core.available_devices:
            try:
                title = str(core.get_property(name, "FULL_DEVICE_NAME")).strip()
                formats = tuple(map(str, core.get_property(name, "OPTIMIZATION_CAPABILITIES")))
            except RuntimeError as error:
                found.append(Device(name, failure=_first_line(error)))
            else:
                found.append(Device(name, title, formats))
    return found


def version() -> str:
    """Of OpenVINO, without its build."""
    import openvino as ov

    return str(ov.__version__).split("-")[0]


@cache
def capabilities() -> tuple[str, ...]:
    """Number formats in which this processor computes fast, as OpenVINO names them: FP32, BF16, INT8 ..."""
    with _core() as core:
        formats = tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    ceilings = {os.environ.get(variable, "").upper() for variable in _CEILINGS}
    return tuple(name for name in formats if name != "BF16" or not ceilings & _WITHOUT_BF16)


@contextmanager
def _core() -> Iterator[Any]:
    """OpenVINO's `Core`, one thread at a time: its tables of types deadlock when two are the first to ask for them."""
    with _ONE_AT_A_TIME:
        yield _only_core()


@cache
def _only_core() -> Any:
    """The one of this process. Of several, the first to go leaves the thread's signal stack to memory that is freed."""
    import openvino as ov

    return ov.Core()


def _before_fork() -> None:
    """No fork while an engine is being opened, and no idle threads: a child would hand them work, and wait for ever.

    OpenVINO keeps the threads of engines that are gone for the next one, until a `Core` with its plugin goes.
    """
    _ONE_AT_A_TIME.acquire()
    if _only_core.cache_info().currsize:
        import openvino as ov

        ov.Core().get_property("CPU", "FULL_DEVICE_NAME")


def _in_child() -> None:
    """What was opened before the fork stays for ever: freeing it waits for its threads, and they are not here."""
    inherited = [*_OPEN, *([_only_core()] if _only_core.cache_info().currsize else [])]
    for item in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
    _OPEN.clear()
    _only_core.cache_clear()
    _ONE_AT_A_TIME.release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_ONE_AT_A_TIME.release, after_in_child=_in_child)


def _zeros(port: Any) -> NDArray[Any]:
    return np.zeros(tuple(port.get_shape()), dtype=port.get_element_type().to_dtype())


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return (telling or lines or ["no reason given"])[0]
