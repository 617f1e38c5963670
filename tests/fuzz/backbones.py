"""Backbones: ONNX graphs, and parameters as safetensors and as PyTorch writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from google.protobuf.message import Message
from numpy.random import Generator
from small_networks import small_resnet

from fuzz.mutations import SIZES, changed_bytes, changed_safetensors
from fuzz.networks import LAYERS, PLAIN, SIDE, parts, require_sense, write_network
from goodparts import Inspector, Recipe
from goodparts.backbones.catalogue import load_backbone

_STRINGS = (
    *(
        "",
        "input",
        "layer1",
        "layer2",
        "layer1.weight",
        "Conv",
        "Relu",
        "Loop",
        "If",
        "Reshape",
        "NoSuchOperator",
    ),
    *("../../etc/passwd", "x" * 10_000),
)
_OUTSIDE = ("/etc/passwd", "../../../../etc/passwd", "case.onnx", ".", "", "*/_ORT_MEM_ADDR_/*", "/dev/zero")


class Backbones:
    """See `fuzz.target.Target`."""

    suffix = ".onnx"

    def write_seeds(self, folder: Path) -> None:
        shutil.copyfile(write_network(folder), folder / "seed.onnx")
        state = small_resnet((1,))
        safetensors.numpy.save_file(state, folder / "seed.safetensors")
        if find_spec("torch"):
            import torch

            tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
            torch.save(tensors, folder / "seed.pth")
            torch.save(tensors, folder / "seed.old.pth", _use_new_zipfile_serialization=False)

    def read_seeds(self, folder: Path) -> list[tuple[str, bytes]]:
        return [(path.suffix, path.read_bytes()) for path in sorted(folder.glob("seed.*"))]

    def make(self, seeds: list[tuple[str, bytes]], rng: Generator) -> bytes:
        by_suffix = dict(seeds)
        kind = rng.random()
        if kind < 0.6:
            return changed_network(by_suffix[".onnx"], rng)
        if kind < 0.75:
            return changed_safetensors(by_suffix[".safetensors"], rng)
        return changed_bytes(seeds[int(rng.integers(len(seeds)))][1], (), rng)

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        named = path.with_suffix(_suffix_of(path))
        if named != path:
            shutil.copyfile(path, named)
        yield partial(_layers, named)
        if named == path:
            yield partial(_learn, path)


def _suffix_of(path: Path) -> str:
    """What a file would be called, by how it begins."""
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[8:] == b"{":
        return ".safetensors"
    return ".pth" if start.startswith((b"PK", b"\x80")) else ".onnx"


def _layers(path: Path) -> None:
    backbone = load_backbone(str(path), offline=True)
    assert np.isfinite([*backbone.mean, *backbone.std]).all(), "mean or std"
    backbone.layers()


def _learn(path: Path) -> None:
    recipe = Recipe(backbone=str(path), image_size=SIDE, layers=LAYERS, precision="f32", **PLAIN)
    inspector = Inspector(recipe, workers=1, offline=True).fit(parts(3))
    require_sense(inspector.inspect(parts(1)[0]))


def changed_network(data: bytes, rng: Generator) -> bytes:
    """An ONNX file with one to three fields changed, anywhere in it."""
    model = onnx.load_from_string(data)
    for _ in range(int(rng.integers(1, 4))):
        messages = list(_messages(model))
        if rng.random() < 0.1:
            _point_outside(messages, rng)
        else:
            _change_field(messages[int(rng.integers(len(messages)))], messages, rng)
    out: bytes = model.SerializePartialToString()
    return out


def _point_outside(messages: list[Message], rng: Generator) -> None:
    """Let a tensor say that its values lie in another file, or in memory."""
    tensors = [message for message in messages if isinstance(message, onnx.TensorProto)]
    if not tensors:
        return
    tensor = tensors[int(rng.integers(len(tensors)))]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if rng.integers(2):
        tensor.ClearField("raw_data")
    size = SIZES[int(rng.integers(len(SIZES)))]
    for key, value in (
        ("location", _OUTSIDE[int(rng.integers(len(_OUTSIDE)))]),
        ("offset", str(size)),
        ("length", "4096"),
    ):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if _repeated(field) else [value]:
                yield from _messages(inner)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _change_field(message: Message, messages: list[Message], rng: Generator) -> None:
    """Change a field of a message that may or may not be set."""
    fields = message.DESCRIPTOR.fields
    field = fields[int(rng.integers(len(fields)))]
    name = field.name
    if rng.random() < 0.1:
        message.ClearField(name)
    elif field.message_type is not None:
        alike = [other for other in messages if other.DESCRIPTOR is field.message_type]
        if alike:
            other = type(alike[0])()
            other.CopyFrom(alike[int(rng.integers(len(alike)))])
            (getattr(message, name).add() if _repeated(field) else getattr(message, name)).CopyFrom(other)
    else:
        value = _value(field, rng)
        if not _repeated(field):
            setattr(message, name, value)
            return
        values = getattr(message, name)
        at = int(rng.integers(len(values) + 1))
        if at < len(values):
            values[at] = value
        else:
            values.append(value)


def _value(field: Any, rng: Generator) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return rng.bytes(int(rng.choice([0, 1, 4, 64])))
        return _STRINGS[int(rng.integers(len(_STRINGS)))]
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return float(rng.choice([0, -1, 1e38, float("nan"), float("inf")]))
    if field.cpp_type == field.CPPTYPE_ENUM:
        values = field.enum_type.values
        return values[int(rng.integers(len(values)))].number
    bits = 31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
    size = int(rng.integers(-2, 20)) if rng.integers(2) else SIZES[int(rng.integers(len(SIZES)))]
    return (
        min(size, 2**bits - 1)
        if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        else abs(size) % 2**bits
    )


TARGET = Backbones()
