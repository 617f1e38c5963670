"""Reading PyTorch's `.pth` files of parameters without PyTorch, and without running anything in them.

Such a file holds a pickle, which in general is a program. Here it is read as data: a small interpreter knows
the few instructions that `torch.save(model.state_dict(), ...)` writes and the few names it refers to, and
refuses everything else. Nothing is imported or called. Both formats are read: the zip archive (since PyTorch
1.6) and the older stream of pickles followed by the raw storages.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import BackboneError, shortened

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_DIMENSIONS = 32
MAX_EMPTY = 1000  # sum of the sizes of a tensor without elements
MOST_INSTRUCTIONS = 200_000  # of a pickle; a ResNet-152 takes some 40,000
MOST_OPEN = 100  # containers within each other
BFLOAT16 = "bfloat16"

STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
REBUILD_TENSOR = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
ORDERED_DICT = "collections OrderedDict"
ADMITTED = {
    ORDERED_DICT,
    *REBUILD_TENSOR,
    REBUILD_PARAMETER,
    *(f"torch {name}" for name in STORAGES),
}
INNER_DICTIONARIES = ("state_dict", "model_state_dict", "model")


class _DamagedError(Exception):
    """What is wrong with the file, to be told with its path."""


@dataclass(frozen=True)
class _Global:
    name: str  # "module name"


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str  # a value of STORAGES
    start: int  # elements of the stored block before this storage
    size: int  # elements


@dataclass(frozen=True, eq=False)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Read the parameters in a `.pth` file.

    A dictionary around them ({"state_dict": ..., "epoch": ...}) and a prefix "module." on all names are taken
    off.

    Returns:
        Read-only arrays by name, of the type stored; bfloat16 becomes float32.

    Raises:
        BackboneError: not such a file, damaged, or its pickle asks for more than tensors.
    """
    try:
        content = path.read_bytes()
        if content.startswith(ZIP_MAGIC):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                tensors = _read_zip(archive, len(content))
        else:
            tensors = _read_legacy(content)
    except _DamagedError as error:
        raise BackboneError(f"{path}: {error}") from None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error) as error:
        raise BackboneError(f"{path}: can't be read as a PyTorch file: {shortened(error)}") from error
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return tensors


def _read_zip(archive: zipfile.ZipFile, size: int) -> dict[str, NDArray[Any]]:
    if sum(info.file_size for info in archive.infolist()) > size:
        raise _DamagedError("damaged: what its archive lists is larger than the file")
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise _DamagedError("a zip archive, but not one that PyTorch saved: expected one data.pkl in it")
    root = names[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        try:
            info = archive.getinfo(root + name)
        except KeyError:
            raise _DamagedError(f"damaged: {name} is missing in the archive") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise _DamagedError(f"{name} is compressed, which PyTorch never does; save the file again")
        return archive.read(info)

    order = member("byteorder").strip() if f"{root}byteorder" in archive.namelist() else b"little"
    byte_order = {b"little": "<", b"big": ">"}.get(order)
    if byte_order is None:
        raise _DamagedError(f"its byte order is {order[:20]!r}; expected little or big")
    saved = _unpickle(io.BytesIO(member("data.pkl")))

    def block(key: str, kind: str) -> NDArray[Any]:
        return stored_elements(member(f"data/{key}"), kind, byte_order)

    return _tensors(saved, block)


def _read_legacy(content: bytes) -> dict[str, NDArray[Any]]:
    stream = io.BytesIO(content)
    if not content.startswith(b"\x80") or _unpickle(stream) != LEGACY_MAGIC:
        raise _DamagedError("not a PyTorch file; expected one written by torch.save")
    if _unpickle(stream) != LEGACY_PROTOCOL:
        raise _DamagedError("its format is unknown; save it again with a current PyTorch")
    _unpickle(stream)  # byte order and integer sizes of the machine that wrote it; the data is little-endian
    kinds: dict[str, str] = {}
    saved = _unpickle(stream, kinds)
    keys = _unpickle(stream)
    if not isinstance(keys, list):
        raise _DamagedError("damaged: the list of its storages is missing")
    blocks: dict[str, NDArray[Any]] = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds:
            raise _DamagedError("damaged: it lists a storage that no tensor uses")
        count = int.from_bytes(_take(stream, 8), "little")
        item = _element_type(kinds[key], "<").itemsize
        blocks[key] = stored_elements(_take(stream, count * item), kinds[key], "<")

    def block(key: str, kind: str) -> NDArray[Any]:
        if key not in blocks:
            raise _DamagedError(f"damaged: storage {key[:40]!r} is missing")
        return blocks[key]

    return _tensors(saved, block)


def _take(stream: io.BytesIO, size: int) -> bytes:
    if size > stream.getbuffer().nbytes - stream.tell():
        raise _DamagedError("truncated: its storages are longer than the file")
    return stream.read(size)


def _element_type(kind: str, byte_order: str) -> np.dtype[Any]:
    return np.dtype(byte_order + ("u2" if kind == BFLOAT16 else kind))


def stored_elements(content: bytes, kind: str, byte_order: str) -> NDArray[Any]:
    """The elements of a stored block of a kind as in `STORAGES`, (n,), read-only; bfloat16 as float32."""
    stored = _element_type(kind, byte_order)
    if len(content) % stored.itemsize:
        raise _DamagedError("damaged: a storage ends within an element")
    elements: NDArray[Any] = np.frombuffer(content, stored)
    if kind == "?":  # any other bit pattern than 0 and 1 would be a broken bool
        elements = np.frombuffer(content, np.uint8) != 0
    if kind == BFLOAT16:  # the upper half of a float32
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    elements.flags.writeable = False
    return elements


def _tensors(saved: object, block: Callable[[str, str], NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays for the tensors of the state dict, `block` giving the elements of a storage by key and kind."""
    state = saved if isinstance(saved, dict) else {}
    inner = (state[name] for name in INNER_DICTIONARIES if isinstance(state.get(name), dict))
    state = next(inner, state)
    tensors = {name: value for name, value in state.items() if isinstance(value, _Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise _DamagedError("holds no dictionary of parameters; save model.state_dict()")
    blocks: dict[str, tuple[str, NDArray[Any]]] = {}
    arrays = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage.key not in blocks:
            blocks[storage.key] = storage.kind, block(storage.key, storage.kind)
        kind, elements = blocks[storage.key]
        if kind != storage.kind or storage.start + storage.size > elements.size:
            raise _DamagedError(f"damaged: parameter {name[:80]} does not fit its storage")
        arrays[name] = _view(elements[storage.start : storage.start + storage.size], tensor, name[:80])
    return arrays


def _view(elements: NDArray[Any], tensor: _Tensor, name: str) -> NDArray[Any]:
    """The part of a storage that a tensor looks at; every element it can reach is checked to lie inside."""
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MAX_DIMENSIONS:
        raise _DamagedError(f"damaged: parameter {name} has {len(tensor.shape)} dimensions")
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise _DamagedError(f"damaged: parameter {name} has a negative size, stride or offset")
    if 0 in tensor.shape:
        if sum(tensor.shape) > MAX_EMPTY:
            raise _DamagedError(f"damaged: parameter {name} is empty, but of an enormous shape")
        return np.empty(tensor.shape, elements.dtype)
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    if tensor.offset + sum(steps) >= elements.size:
        raise _DamagedError(f"damaged: parameter {name} reaches beyond its storage")
    count = 1
    for size in tensor.shape:
        count *= size
    if count > elements.size:
        raise _DamagedError(f"parameter {name} repeats its elements; save it as a contiguous tensor")
    return np.lib.stride_tricks.as_strided(
        elements[tensor.offset :],
        tensor.shape,
        tuple(stride * elements.itemsize for stride in tensor.strides),
        writeable=False,
    )


def _unpickle(stream: BinaryIO, kinds: dict[str, str] | None = None) -> object:
    """Read the next pickle of a stream as data: constants, containers, tensors and storages.

    Args:
        stream: left behind the end of the pickle.
        kinds: filled with the kind of every storage by its key.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def extend(target: Any, values: list[Any]) -> None:
        if not isinstance(target, list):
            raise _DamagedError("damaged: its pickle appends to something other than a list")
        target.extend(values)

    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_INSTRUCTIONS or len(marks) > MOST_OPEN:
                raise _DamagedError(
                    "its pickle is longer or nested deeper than parameters need; it is no such file"
                )
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack[-int(opcode.name[-1]) :] = [tuple(stack[-int(opcode.name[-1]) :])]
                case "APPEND":
                    extend(stack[-2], [stack.pop()])
                case "APPENDS":
                    values = since_mark()
                    extend(stack[-1], values)
                case "SETITEM":
                    _update(stack[-3], [stack[-2], stack[-1]])
                    del stack[-2:]
                case "SETITEMS":
                    values = since_mark()
                    _update(stack[-1], values)
                case "BINPUT" | "LONG_BINPUT":
                    memo[_integer(argument)] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[_integer(argument)])
                case "GLOBAL":
                    stack.append(_admitted(str(argument)))
                case "STACK_GLOBAL":
                    stack[-2:] = [_admitted(" ".join(stack[-2:]))]
                case "BINPERSID":
                    storage = _storage(stack.pop())
                    if kinds is not None and kinds.setdefault(storage.key, storage.kind) != storage.kind:
                        raise _DamagedError("damaged: a storage is of two types")
                    stack.append(storage)
                case "REDUCE":
                    function, arguments = stack[-2:]
                    stack[-2:] = [_reduce(function, arguments)]
                case "BUILD":  # attributes of an OrderedDict: the versions of modules
                    stack.pop()
                    if not isinstance(stack[-1], dict):
                        raise _DamagedError("its pickle sets attributes of more than dictionaries")
                case "STOP":
                    return stack.pop()
                case _:
                    raise _DamagedError(
                        f"its pickle holds the instruction {opcode.name}, which parameters do not need; "
                        "save model.state_dict() alone"
                    )
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise _DamagedError(f"truncated or damaged: its pickle can't be read ({shortened(error)})") from None
    raise _DamagedError("truncated: its pickle has no end")


def _admitted(name: str) -> _Global:
    if name not in ADMITTED:
        raise _DamagedError(
            f"its pickle asks for {name.replace(' ', '.')[:100]}, which parameters do not need and which "
            "could be harmful; nothing of it was run. Save model.state_dict() alone"
        )
    return _Global(name)


def _storage(persistent_id: object) -> _Storage:
    """("storage", type, key, location, elements); in old files also a view, (key, offset, elements)."""
    match persistent_id:
        case ("storage", _Global(name), str(key), _, int(), (_, int(start), int(size))):
            pass
        case ("storage", _Global(name), str(key), _, int(size), *view) if view in ([], [None]):
            start = 0
        case _:
            raise _DamagedError("damaged: its pickle refers to something other than a storage")
    kind = STORAGES.get(name.removeprefix("torch "))
    if kind is None or start < 0 or size < 0:
        raise _DamagedError("damaged: a storage has no type, or a negative size")
    return _Storage(key, kind, start, size)


def _reduce(function: object, arguments: object) -> object:
    """What one of the admitted names makes of its arguments."""
    match function, arguments:
        case _Global(name=name), () if name == ORDERED_DICT:
            return {}
        case _Global(name=name), (list(pairs),) if name == ORDERED_DICT:  # as Python 2 wrote it
            return _update({}, [value for pair in pairs for value in pair])
        case _Global(name=name), (_Tensor() as tensor, *_) if name == REBUILD_PARAMETER:
            return tensor
        case (
            _Global(name=name),
            (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_),
        ) if name in REBUILD_TENSOR and all(isinstance(size, int) for size in shape + strides):
            return _Tensor(storage, offset, shape, strides)
    raise _DamagedError("damaged: its pickle calls something with arguments that do not fit")


def _update(target: object, keys_and_values: list[Any]) -> dict[str | int, Any]:
    """Enter keys and values, which alternate, into a dictionary."""
    keys, values = keys_and_values[::2], keys_and_values[1::2]
    if not isinstance(target, dict) or not all(isinstance(key, str | int) for key in keys):
        raise _DamagedError("its dictionaries have keys other than text and numbers")
    target.update(zip(keys, values, strict=True))
    return target


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("expected an integer")
    return value
