"""Models that somebody made to do harm, all hashes right: each is refused at once, in one sentence."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from goodparts import Inspector
from goodparts.errors import ModelError
from goodparts.model import file as model_file

Members = dict[str, bytes]
Change = Callable[[Members], None]
DEEP = b"[" * 100_000 + b"]" * 100_000
LONG = "x" * 10_000


def members_of(model: Path) -> Members:
    with zipfile.ZipFile(model) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(
    members: Members, path: Path, *, hashed: bool = True, compression: int = zipfile.ZIP_STORED
) -> Path:
    if hashed:
        manifest = json.loads(members["manifest.json"])
        manifest["sha256"] = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in members.items()
            if name != "manifest.json"
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refused(path: Path) -> str:
    """Why a model is refused; in less than a second, and not at length."""
    began = time.process_time()
    with pytest.raises(ModelError) as caught:
        Inspector.load(path)
    assert time.process_time() - began < 1
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 600
    return message.removeprefix(f"{path}: ")


def value_at(member: str, keys: tuple[Any, ...], value: object) -> Change:
    def change(members: Members) -> None:
        whole = json.loads(members[member])
        inner = whole
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        members[member] = json.dumps(whole).encode()

    return change


def tensor(name: str, made: Callable[[dict[str, NDArray[Any]]], NDArray[Any] | None]) -> Change:
    def change(members: Members) -> None:
        tensors = safetensors.numpy.load(members["bank.safetensors"])
        value = made(tensors)
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = np.ascontiguousarray(value)
        members["bank.safetensors"] = safetensors.numpy.save(tensors)

    return change


def bytes_of(member: str, data: bytes) -> Change:
    return lambda members: members.update({member: data})


def network(edit: Callable[[onnx.ModelProto], object]) -> Change:
    def change(members: Members) -> None:
        model = onnx.load_from_string(members["backbone.onnx"])
        edit(model)
        members["backbone.onnx"] = model.SerializeToString()

    return change


def external(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")


CRAFTED: dict[str, tuple[Change, str]] = {
    # what can't be parsed
    "deep calibration": (bytes_of("calibration.json", DEEP), "calibration.json: is not JSON"),
    "deep recipe": (bytes_of("recipe.toml", b"layers = " + DEEP), "recursion"),
    "deep keys": (bytes_of("recipe.toml", b"a" + b".a" * 100_000 + b" = 1"), "keys of too many parts"),
    "deep header": (
        bytes_of("bank.safetensors", struct.pack("<Q", len(DEEP)) + DEEP),
        "bank.safetensors: is not in the safetensors format",
    ),
    "garbage network": (bytes_of("backbone.onnx", b"\xff\x00garbage" * 999), "not an ONNX network"),
    "no network": (bytes_of("backbone.onnx", b""), "refused by ONNX's checker"),
    "no tensors": (bytes_of("bank.safetensors", b""), "bank.safetensors: is not in the safetensors format"),
    "no text": (bytes_of("recipe.toml", b"\xff\xfe\x00"), "utf-8"),
    # values of the manifest
    "grid of nothing": (
        value_at("manifest.json", ("grid",), [0, 0]),
        "manifest.json.grid[0]: expected a whole number",
    ),
    "endless grid": (value_at("manifest.json", ("grid",), [10**9, 10**9]), "manifest.json.grid[0]"),
    "other grid": (
        value_at("manifest.json", ("grid",), [97, 1]),
        "more cells than the working image has pixels",
    ),
    "no backbone": (
        value_at("manifest.json", ("backbone",), None),
        "manifest.json.backbone: expected an object",
    ),
    "mean": (
        value_at("manifest.json", ("backbone", "mean"), [math.nan] * 3),
        "backbone.mean[0]: expected a finite",
    ),
    "std": (
        value_at("manifest.json", ("backbone", "std"), [0, 1, 1]),
        "backbone.std[0]: expected a finite number",
    ),
    "input": (value_at("manifest.json", ("backbone", "input"), LONG), "other inputs than 'xxx"),
    "images": (
        value_at("manifest.json", ("data", "good_images"), -1),
        "good_images: expected a whole number",
    ),
    "unknown": (value_at("manifest.json", ("data", LONG), 1), "manifest.json.data: has an unknown key 'xxx"),
    "entries": (value_at("manifest.json", ("bank", "entries"), 5), "not of the size that manifest.json says"),
    "true": (value_at("manifest.json", ("format",), True), "manifest.json names no format"),
    "far future": (
        value_at("manifest.json", ("format",), 10**4000),
        "written by a newer goodparts (format 100000",
    ),
    # values of the calibration
    "no scores": (
        value_at("calibration.json", ("learnt", "scores"), []),
        "scores: expected a list of 1 or more",
    ),
    "NaN scores": (
        value_at("calibration.json", ("learnt", "scores"), [math.nan] * 16),
        "scores[0]: expected a finite",
    ),
    "fewer scores": (value_at("calibration.json", ("learnt", "scores"), [1.0] * 3), "not of the same images"),
    "NaN threshold": (
        value_at("calibration.json", ("decision", "threshold"), math.nan),
        "threshold: expected a finite",
    ),
    "endless threshold": (
        value_at("calibration.json", ("decision", "threshold"), math.inf),
        "found Infinity",
    ),
    "no threshold": (
        value_at("calibration.json", ("decision", "threshold"), None),
        "calibration.json: has no threshold",
    ),
    "text": (
        value_at("calibration.json", ("decision", "pixel_threshold"), LONG),
        "expected a finite number, found",
    ),
    "zones": (
        value_at(
            "calibration.json", ("decision", "zones"), [{"name": "a", "threshold": 1, "pixel_threshold": 1}]
        ),
        "of other zones than those of roi.json",
    ),
    "history": (value_at("calibration.json", ("history",), [{}]), "calibration.json.history[0]: lacks good"),
    "source": (
        value_at("calibration.json", ("learnt", "source"), LONG),
        "learnt.source: expected a text such as",
    ),
    # the recipe, by its own rules
    "key": (bytes_of("recipe.toml", f"{LONG} = 1".encode()), "does not take the recipe"),
    "value": (bytes_of("recipe.toml", f'image_score = "{LONG}"'.encode()), "does not take the recipe"),
    # tensors
    "NaN": (tensor("features", lambda t: np.full_like(t["features"], np.nan)), "features holds NaN"),
    "infinite": (tensor("mean", lambda t: np.full_like(t["mean"], np.inf)), "mean holds NaN or infinite"),
    "empty": (tensor("features", lambda t: t["features"][:0]), "bank.safetensors: features is float32 (0, "),
    "narrow": (tensor("features", lambda t: t["features"][:, :3]), "expected float32"),
    "double": (tensor("features", lambda t: t["features"].astype(np.float64)), "features is float64"),
    "flat": (tensor("features", lambda t: t["features"][0]), "bank.safetensors"),
    "origins": (tensor("origins", lambda t: t["origins"] + 1000), "origins are of more images"),
    "no origins": (tensor("origins", lambda t: None), "bank.safetensors: lacks origins"),
    "cells": (tensor("cells", lambda t: t["origins"] * 0 + 10**6), "cells lie outside of the grid"),
    "tiles": (tensor("tiles", lambda t: t["origins"] * 0), "does not have the tiles"),
    "int8": (tensor("int8", lambda t: np.zeros(0, np.uint8)), "int8 is uint8 (0,)"),
    "spacing": (
        tensor("spacing", lambda t: np.zeros(len(t["features"]), np.float32)),
        "spacing is not above 0",
    ),
    "a depth without its bank": (tensor("2.features", lambda t: None), "bank.safetensors: lacks 2.features"),
    "a depth too many": (
        tensor("3.features", lambda t: t["2.features"]),
        "bank.safetensors: lacks 3.mean, 3.origins",
    ),
    "no such depth": (tensor("12.features", lambda t: t["2.features"]), "an unknown tensor '12.features'"),
    "half of a fusion": (tensor("fusion.values", lambda t: None), "bank.safetensors: has half of a fusion"),
    "a fusion of one depth": (
        tensor("fusion.grids", lambda t: t["fusion.grids"][:1]),
        "bank.safetensors: fusion.",
    ),
    "a fusion from coarse to fine": (
        tensor("fusion.grids", lambda t: t["fusion.grids"][::-1]),
        "fusion.grids are not those of depths from fine to coarse",
    ),
    "a fusion of another grid": (
        tensor("fusion.grids", lambda t: t["fusion.grids"] + 1),
        "fusion.grids don't begin with the grid of manifest.json",
    ),
    "a fusion of no grid": (tensor("fusion.grids", lambda t: t["fusion.grids"] * 0), "fusion.grids"),
    "a fusion without spread": (
        tensor("fusion.values", lambda t: t["fusion.values"] * 0),
        "bank.safetensors: fusion.values are below 0",
    ),
    "a fusion that is no number": (
        tensor("fusion.values", lambda t: t["fusion.values"] * np.float32(np.nan)),
        "fusion.values holds NaN or infinite values",
    ),
    "whitening": (tensor("whitening.mean", lambda t: np.zeros(5, np.float32)), "bank.safetensors"),
    "other tensor": (tensor(LONG, lambda t: np.zeros(3)), "has an unknown tensor 'xxx"),
    # the network
    "outputs": (
        network(lambda model: model.graph.output.pop()),
        "other outputs than the layers of the recipe",
    ),
    "operator": (
        network(lambda model: setattr(model.graph.node[0], "op_type", LONG)),
        "refused by ONNX's checker",
    ),
    "secret": (network(external), "keeps tensor 'layer1.weight' outside of the file"),
    "circle": (
        network(lambda model: model.graph.node[0].input.__setitem__(0, "layer2")),
        "its nodes go in a circle",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_model_is_refused_in_words(fitted_file: Path, tmp_path: Path, name: str) -> None:
    change, message = CRAFTED[name]
    members = members_of(fitted_file)
    change(members)
    assert message in refused(write(members, tmp_path / "crafted.goodparts"))


@pytest.mark.parametrize("data", [DEEP, b"[]", b"5", b'"x"', b"{}", b"", b"\xff"])
def test_a_manifest_of_anything_else_is_refused(fitted_file: Path, tmp_path: Path, data: bytes) -> None:
    members = members_of(fitted_file) | {"manifest.json": data}
    path = write(members, tmp_path / "crafted.goodparts", hashed=False)
    assert "damaged or truncated model" in refused(path)
    with pytest.raises(ModelError):
        model_file.read_manifest(path)


def test_a_compressed_member_is_not_unpacked(fitted_file: Path, tmp_path: Path) -> None:
    members = members_of(fitted_file) | {"bank.safetensors": bytes(300_000_000)}
    path = write(members, tmp_path / "bomb.goodparts", compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2_000_000
    assert "is compressed, which no member of a model is" in refused(path)


def test_members_are_no_larger_than_the_file(fitted_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "overlapping.goodparts"
    data = bytearray(fitted_file.read_bytes())
    with zipfile.ZipFile(fitted_file) as archive:
        largest = max(member.file_size for member in archive.infolist())
    at = data.rindex(struct.pack("<II", largest, largest))  # in the directory at the end
    data[at : at + 8] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    path.write_bytes(data)
    assert "its members are larger than the file" in refused(path)


def test_a_zip_that_contradicts_itself_is_not_repeated_at_length(fitted_file: Path, tmp_path: Path) -> None:
    data = bytearray(fitted_file.read_bytes())
    data[26:28] = struct.pack("<H", 60_000)  # the length of the first name
    path = tmp_path / "crafted.goodparts"
    path.write_bytes(data)
    assert "damaged or truncated model (File name in directory" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recipe.toml", "two of its members have the same name"),
        ("more.txt", "more.txt is none of its members"),
    ],
)
def test_no_member_comes_twice_or_besides(fitted_file: Path, tmp_path: Path, name: str, message: str) -> None:
    path = write(members_of(fitted_file), tmp_path / "crafted.goodparts")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"more")
    assert message in refused(path)


def test_a_model_of_a_backbone_and_a_bank_that_do_not_go_together(fitted: Inspector) -> None:
    from dataclasses import replace

    bank = fitted.model.bank
    narrow = replace(bank, features=bank.features[:, :7], mean=bank.mean[:7], basis=None, int8=False)
    with pytest.raises(ModelError, match=r"its backbone gives patch features .* and its memory bank has"):
        replace(fitted.model, bank=narrow).pipeline()


def test_a_network_that_no_engine_can_run_is_told_of_the_model(fitted: Inspector) -> None:
    from dataclasses import replace

    from goodparts.model.predictor import Predictor

    network = onnx.ModelProto.FromString(fitted.model.backbone.model.SerializeToString())
    network.graph.node[0].op_type = "NoSuchOperator"
    model = replace(
        fitted.model, backbone=replace(fitted.model.backbone, model=network), path=Path("part.goodparts")
    )
    with pytest.raises(ModelError, match=r"part\.goodparts: damaged model \("):
        Predictor(model).open()
