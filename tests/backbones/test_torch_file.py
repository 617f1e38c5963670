"""Reading `.pth` files, against PyTorch's own writer, and hostile ones."""

from __future__ import annotations

import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from goodparts.backbones import torch_file
from goodparts.backbones.torch_file import read_state_dict
from goodparts.errors import BackboneError

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
PROTO = b"\x80\x02"
LEGACY_HEAD = b"".join(
    pickle.dumps(value, 2) for value in (torch_file.LEGACY_MAGIC, 1001, {"little_endian": True})
)


def save(value: object, path: Path, *, new: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return path


def network_state() -> dict[str, torch.Tensor]:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state: dict[str, torch.Tensor] = network.state_dict()
    assert state["1.num_batches_tracked"].dtype == torch.int64
    return state


def odd_tensors() -> dict[str, torch.Tensor]:
    """Views, shared storages, every type."""
    base = torch.arange(60, dtype=torch.float32)
    matrix = base.reshape(6, 10)
    return {
        "base": base,
        "transposed": matrix.t(),
        "part": matrix[1:5, 3:9],
        "every_third": base[2::3],
        "permuted": base.reshape(3, 4, 5).permute(2, 0, 1),
        "scalar": torch.tensor(7.5),
        "empty": torch.zeros(0, 4),
        "float64": torch.randn(3, dtype=torch.float64),
        "float16": torch.randn(2, 3).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "int64": torch.tensor([2**40, -5]),
        "int32": torch.tensor([1, -2], dtype=torch.int32),
        "int16": torch.tensor([300, -2], dtype=torch.int16),
        "int8": torch.tensor([1, -2], dtype=torch.int8),
        "uint8": torch.tensor([1, 200], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
    }


def assert_same(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        plain = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        assert found[name].dtype == plain.dtype, name
        assert found[name].shape == plain.shape, name
        assert np.array_equal(found[name], plain), name


@FORMATS
def test_state_dict_of_a_network(tmp_path: Path, new: bool) -> None:
    state = network_state()
    assert_same(read_state_dict(save(state, tmp_path / "a.pth", new=new)), state)


@FORMATS
def test_views_shared_storages_and_types(tmp_path: Path, new: bool) -> None:
    tensors = odd_tensors()
    found = read_state_dict(save(tensors, tmp_path / "a.pth", new=new))
    assert_same(found, tensors)
    assert np.shares_memory(found["base"], found["part"])
    assert not any(array.flags.writeable for array in found.values() if array.size)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_later_pickle_protocols(tmp_path: Path, new: bool, protocol: int) -> None:
    path = tmp_path / "a.pth"
    state = network_state()
    torch.save(state, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    assert_same(read_state_dict(path), state)


@FORMATS
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dict(tmp_path: Path, new: bool, key: str) -> None:
    state = network_state()
    saved = {"epoch": 3, "best": 0.5, "arch": "net", key: state, "flags": [True, None, (1, "x", 2**70)]}
    assert_same(read_state_dict(save(saved, tmp_path / "a.pth", new=new)), state)


@FORMATS
def test_parameters_and_a_common_prefix(tmp_path: Path, new: bool) -> None:
    saved = {"module.weight": torch.nn.Parameter(torch.randn(3, 2)), "module.bias": torch.randn(3)}
    found = read_state_dict(save(saved, tmp_path / "a.pth", new=new))
    assert_same(found, {"weight": saved["module.weight"], "bias": saved["module.bias"]})


def test_old_storage_views_and_python_2_dictionaries(tmp_path: Path) -> None:
    """What PyTorch 0.1 on Python 2 wrote: views of storages, OrderedDict from pairs, byte strings."""
    body = (
        PROTO
        + b"ccollections\nOrderedDict\n]](U\x01wctorch._utils\n_rebuild_tensor\n("
        + b"(U\x07storagectorch\nFloatStorage\nU\x03keyU\x03cpuK\x08(U\x04viewK\x02K\x04ttQ"
        + b"K\x01(K\x03t(K\x01ttRea\x85R."
    )
    content = LEGACY_HEAD + body + pickle.dumps(["key"], 2) + struct.pack("<q8f", 8, *range(8))
    path = tmp_path / "old.pth"
    path.write_bytes(content)
    assert read_state_dict(path)["w"].tolist() == [3.0, 4.0, 5.0]


def test_big_endian_archive(tmp_path: Path) -> None:
    data = persistent_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85")
    path = archive(tmp_path, data, struct.pack(">3f", 1, 2, 3), byteorder=b"big")
    assert read_state_dict(path)["w"].tolist() == [1, 2, 3]


# ---- hostile and damaged files


def persistent_tensor(count: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    """A pickle of {"w": tensor}, its numbers given as pickle instructions; the storage has the key "0"."""
    return (
        PROTO
        + b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        + b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + count
        + b"tQ"
        + offset
        + shape
        + strides
        + b"\x89NtRs."
    )


def archive(
    folder: Path, data: bytes, storage: bytes = b"\0" * 12, *, byteorder: bytes = b"little", **options: Any
) -> Path:
    path = folder / "crafted.pth"
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", byteorder)
        file.writestr("archive/data/0", storage)
    return path


def long(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def test_the_crafted_tensor_is_read_when_it_fits(tmp_path: Path) -> None:
    path = archive(tmp_path, persistent_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85"))
    assert read_state_dict(path)["w"].shape == (3,)


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides", "message"),
    [
        (b"K\x03", b"K\x01", b"K\x03\x85", b"K\x01\x85", "reaches beyond its storage"),
        (b"K\x03", b"K\x00", b"K\x03\x85", b"K\x02\x85", "reaches beyond its storage"),
        (b"K\x03", b"K\x00", b"K\x04\x85", b"K\x01\x85", "reaches beyond its storage"),
        (b"K\x03", b"K\x00", long(2**62) + b"\x85", b"K\x01\x85", "reaches beyond its storage"),
        (b"K\x03", b"K\x00", b"K\x02\x85", long(2**63) + b"\x85", "reaches beyond its storage"),
        (b"K\x03", long(2**63), b"K\x01\x85", b"K\x01\x85", "reaches beyond its storage"),
        (b"K\x03", b"K\x02", b"K\x02\x85", long(-1) + b"\x85", "negative"),
        (b"K\x03", long(-1), b"K\x02\x85", b"K\x01\x85", "negative"),
        (b"K\x03", b"K\x00", long(-3) + b"\x85", b"K\x01\x85", "negative"),
        (long(-3), b"K\x00", b"K\x03\x85", b"K\x01\x85", "negative"),
        (b"K\x03", b"K\x00", long(10**12) + b"\x85", b"K\x00\x85", "repeats its elements"),
        (b"K\x03", b"K\x00", b"K\x00" + long(2**60) + b"\x86", b"K\x01K\x01\x86", "empty, but"),
        (b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01K\x01\x86", "dimensions"),
        (b"K\x03", b"K\x00", b"(" + b"K\x01" * 70 + b"t", b"(" + b"K\x01" * 70 + b"t", "70 dimensions"),
        (b"K\x04", b"K\x00", b"K\x03\x85", b"K\x01\x85", "does not fit its storage"),
        (long(2**62), b"K\x00", b"K\x03\x85", b"K\x01\x85", "does not fit its storage"),
        (b"G" + b"\x40" * 8, b"K\x00", b"K\x03\x85", b"K\x01\x85", "other than a storage"),
        (b"K\x03", b"N", b"K\x03\x85", b"K\x01\x85", "arguments that do not fit"),
        (b"K\x03", b"K\x00", b"N\x85", b"K\x01\x85", "arguments that do not fit"),
    ],
)  # fmt: skip
@FORMATS
def test_no_tensor_reaches_outside_its_storage(
    tmp_path: Path, new: bool, count: bytes, offset: bytes, shape: bytes, strides: bytes, message: str
) -> None:
    data = persistent_tensor(count, offset, shape, strides)
    path = archive(tmp_path, data)
    if not new:
        storage = struct.pack("<q3f", 3, 1, 2, 3)
        path.write_bytes(LEGACY_HEAD + data + pickle.dumps(["0"], 2) + storage)
    with pytest.raises(BackboneError, match=message) as caught:
        read_state_dict(path)
    assert "crafted.pth" in str(caught.value)


class _Calls:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hostile_pickles(witness: Path) -> dict[str, bytes]:
    command = f"echo > {witness}"
    ordered = b"ccollections\nOrderedDict\n"
    return {
        "os.system": pickle.dumps(_Calls(os.system, command), 2),
        "eval": pickle.dumps(_Calls(eval, f"open({str(witness)!r}, 'w')"), 2),
        "open, protocol 4": pickle.dumps(_Calls(open, str(witness), "w"), 4),
        "getattr": pickle.dumps(_Calls(getattr, {}, "clear"), 2),
        "protocol 0": pickle.dumps(_Calls(os.system, command), 0),
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": PROTO + b"(cos\nsystem\nX\x01\x00\x00\x00ao.",
        "NEWOBJ": PROTO + ordered + b")\x81.",
        "EXT1": PROTO + b"\x82\x01.",
        "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        "name by way of a tuple": b"\x80\x04\x8c\x01a\x85\x8c\x01b\x93.",
        "name that is no text": PROTO + b"K\x01K\x02\x93.",
        "storage of another type": PROTO + b"ctorch\ndevice\n.",
        "call of a number": PROTO + b"K\x01)R.",
        "call of a tensor function without a tensor": PROTO + b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "call of a storage type": PROTO + b"ctorch\nFloatStorage\n)R.",
        "attributes of a function": PROTO + b"ctorch._utils\n_rebuild_tensor_v2\n}b.",
        "keys that are tuples": PROTO + b"}K\x01\x85K\x01s.",
        "deeply nested key": PROTO + b"}K\x01" + b"\x85" * 200_000 + b"K\x01s.",
        "deeply nested value": PROTO + b"K\x01" + b"\x85" * 200_000 + b".",
        "deeply nested persistent id": PROTO + b"K\x01" + b"\x85" * 200_000 + b"Q.",
        "append to a dictionary": PROTO + b"}K\x01a.",
        "entry of a list": PROTO + b"]K\x01K\x02s.",
        "odd number of keys and values": PROTO + b"}(K\x01u.",
        "pairs that are triples": PROTO + ordered + b"]](K\x01K\x02K\x03ea\x85R.",
        "endless memo": PROTO + b"K\x01r\xff\xff\xff\xff.",
        "memo that is not there": PROTO + b"h\x05.",
        "string longer than the file": PROTO + b"X\xff\xff\xff\x7fabc.",
        "bytes longer than the file": PROTO + b"\x8e" + b"\xff" * 7 + b"\x7fabc.",
        "number of negative length": PROTO + b"\x8b\xff\xff\xff\xff.",
        "empty stack": PROTO + b".",
        "mark without a mark": PROTO + b"t.",
        "unknown instruction": PROTO + b"\xff.",
        "no end": PROTO + b"}",
        "nothing": b"",
        "only a number": PROTO + b"K\x01.",
        "a list of tensors": pickle.dumps([1, 2], 2),
        "no tensors": pickle.dumps(OrderedDict(a=1), 2),
    }


@pytest.mark.parametrize("name", hostile_pickles(Path("x")))
@FORMATS
def test_hostile_pickles_run_nothing(tmp_path: Path, new: bool, name: str) -> None:
    witness = tmp_path / "witness"
    data = hostile_pickles(witness)[name]
    path = archive(tmp_path, data)
    if not new:
        path.write_bytes(LEGACY_HEAD + data + pickle.dumps([], 2))
    with pytest.raises(BackboneError, match=r"crafted\.pth"):
        read_state_dict(path)
    assert not witness.exists()


def test_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    path = archive(tmp_path, hostile_pickles(tmp_path / "witness")["eval"])
    with pytest.raises(BackboneError, match=r"asks for __builtin__\.eval.*nothing of it was run"):
        read_state_dict(path)


def test_whole_networks_are_refused(tmp_path: Path) -> None:
    for new in (True, False):
        path = save(torch.nn.Linear(2, 2), tmp_path / "net.pth", new=new)
        with pytest.raises(
            BackboneError, match=r"Save model\.state_dict\(\) alone|save model\.state_dict\(\) alone"
        ):
            read_state_dict(path)


@FORMATS
def test_truncated_anywhere(tmp_path: Path, new: bool) -> None:
    content = save({"w": torch.arange(40.0), "b": torch.ones(3)}, tmp_path / "a.pth", new=new).read_bytes()
    path = tmp_path / "cut.pth"
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(BackboneError, match=r"cut\.pth"):
            read_state_dict(path)


@FORMATS
def test_flipped_bits_never_escape(tmp_path: Path, new: bool) -> None:
    """Every byte changed in turn gives arrays or a BackboneError, nothing else."""
    content = save({"w": torch.arange(6.0).reshape(2, 3).t()}, tmp_path / "a.pth", new=new).read_bytes()
    path = tmp_path / "flipped.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            for array in read_state_dict(path).values():
                assert np.asarray(array, np.float64).size <= 100
        except BackboneError:
            refused += 1
    assert refused > len(content) / 10


def test_archives_that_lie_about_sizes(tmp_path: Path) -> None:
    data = persistent_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85")
    compressed = archive(tmp_path, data, b"\0" * 12, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BackboneError, match="compressed"):
        read_state_dict(compressed)
    bomb = archive(tmp_path, data, b"\0" * 10_000_000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BackboneError, match="larger than the file"):
        read_state_dict(bomb)
    with pytest.raises(BackboneError, match="ends within an element"):
        read_state_dict(archive(tmp_path, data, b"\0" * 11))
    path = archive(tmp_path, data)
    with pytest.raises(BackboneError, match="byte order"):
        read_state_dict(archive(tmp_path, data, byteorder=b"middle"))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
    with pytest.raises(BackboneError, match="data/0 is missing"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<xml/>")
    with pytest.raises(BackboneError, match=r"expected one data\.pkl"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (pickle.dumps(["0"], 2), "truncated"),
        (pickle.dumps(["0"], 2) + struct.pack("<q", 2**62), "longer than the file"),
        (pickle.dumps(["0"], 2) + struct.pack("<q", -1), "longer than the file"),
        (pickle.dumps(["1"], 2), "lists a storage that no tensor uses"),
        (pickle.dumps([("a", 1)], 2), "lists a storage that no tensor uses"),
        (pickle.dumps([], 2), "storage '0' is missing"),
        (pickle.dumps(5, 2), "list of its storages is missing"),
    ],
)
def test_legacy_storages_that_are_not_there(tmp_path: Path, tail: bytes, message: str) -> None:
    path = tmp_path / "crafted.pth"
    data = persistent_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85")
    path.write_bytes(LEGACY_HEAD + data + tail)
    with pytest.raises(BackboneError, match=message):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"\x80\x02K\x01.", b"PK\x03\x04", b"x" * 99])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"other\.pth"):
        read_state_dict(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "filling", [b"(", b"N", b")", b"]", b"(]"], ids=["marks", "none", "tuples", "lists", "both"]
)
@FORMATS
def test_ten_megabytes_of_instructions_are_refused_at_once(tmp_path: Path, new: bool, filling: bytes) -> None:
    bomb = PROTO + filling * (10_000_000 // len(filling)) + b"."
    path = tmp_path / "bomb.pth"
    if new:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bomb/data.pkl", bomb)
    else:
        path.write_bytes(LEGACY_HEAD + bomb)
    began = time.process_time()
    with pytest.raises(
        BackboneError, match=r"bomb\.pth: its pickle is longer or nested deeper than parameters need"
    ):
        read_state_dict(path)
    assert time.process_time() - began < 1
