"""The model file: whole or refused, saved whole or not at all, and nothing in it that runs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodparts import Inspector, Recipe
from goodparts.errors import ModelError, OutputError
from goodparts.model import file as model_file
from goodparts.model import model

Members = dict[str, bytes]
MEMBERS = ("manifest.json", "recipe.toml", "backbone.onnx", "bank.safetensors", "calibration.json")


@pytest.fixture(scope="module")
def whole(fitted: Inspector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file. Read only."""
    return fitted.save(tmp_path_factory.mktemp("whole") / "part.goodparts")


def rewritten(whole: Path, path: Path, change: Callable[[Members], Members | None]) -> Path:
    """A well-formed zip with the members of `whole`, changed."""
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members) or members
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_manifest(change: Callable[[Any], Any]) -> Callable[[Members], Members]:
    """Replace the manifest by what `change` returns for it."""
    return lambda members: (
        members | {"manifest.json": json.dumps(change(json.loads(members["manifest.json"]))).encode()}
    )


# ---- what is in it -------------------------------------------------------------------------------


def test_five_members_stored_as_they_are(whole: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        assert sorted(archive.namelist()) == sorted(MEMBERS)
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        assert all(member.date_time == (1980, 1, 1, 0, 0, 0) for member in archive.infolist())


def test_members_are_read_by_anybody(whole: Path, fitted: Inspector) -> None:
    import onnx
    import safetensors.numpy

    with zipfile.ZipFile(whole) as archive:
        assert Recipe.from_toml(archive.read("recipe.toml").decode()) == fitted.recipe
        onnx.checker.check_model(onnx.load_from_string(archive.read("backbone.onnx")))
        tensors = safetensors.numpy.load(archive.read("bank.safetensors"))
        manifest = json.loads(archive.read("manifest.json"))
        calibration = json.loads(archive.read("calibration.json"))
    np.testing.assert_array_equal(tensors["features"], fitted.model.bank.features)
    assert tensors["origins"].shape == tensors["features"].shape[:1]
    assert manifest["identity"] == fitted.model.identity
    assert manifest["data"]["good_images"] == 16
    assert manifest["data"]["image_sizes"] == {"96x96": 16}
    assert manifest["backbone"]["licence"]
    assert set(manifest["circumstances"]["versions"]) >= {"python", "goodparts", "openvino", "onnx"}
    assert len(calibration["learnt"]["scores"]) == 16
    assert model_file.read_manifest(whole) == manifest


def test_nothing_is_unpickled(whole: Path) -> None:
    classes: list[object] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "pickle.find_class":
            classes.append(arguments)

    sys.addaudithook(watch)
    try:
        model_file.load(whole)
        with zipfile.ZipFile(whole) as archive:
            for name in archive.namelist():
                content = archive.read(name)
                if name.endswith(".safetensors"):  # begins with the length of its header, whatever that is
                    content = content[8:]
                assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    finally:
        watching = False
    assert not classes


def test_time_and_place_are_not_part_of_the_identity(whole: Path, tmp_path: Path, fitted: Inspector) -> None:
    def later(manifest: dict[str, Any]) -> dict[str, Any]:
        return manifest | {"circumstances": manifest["circumstances"] | {"fitted": "long ago"}}

    elsewhere = rewritten(whole, tmp_path / "elsewhere.goodparts", with_manifest(later))
    assert model_file.load(elsewhere).identity == fitted.model.identity


# ---- damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_a_flipped_bit_in_a_member_is_found(whole: Path, tmp_path: Path, name: str, place: float) -> None:
    with zipfile.ZipFile(whole) as archive:
        member = archive.getinfo(name)
        content = archive.read(name)
    data = bytearray(whole.read_bytes())
    begin = data.index(content, member.header_offset)
    data[begin + int(place * (len(content) - 1))] ^= 0x10
    damaged = tmp_path / "damaged.goodparts"
    damaged.write_bytes(data)
    with pytest.raises(ModelError, match=r"damaged\.goodparts: .*damaged.*copy it again"):
        model_file.load(damaged)


def around_members(whole: Path) -> list[int]:
    """Where the bytes are that belong to the zip itself rather than to a member."""
    with zipfile.ZipFile(whole) as archive:
        places = set(range(archive.start_dir, whole.stat().st_size))
        for member in archive.infolist():
            places |= set(range(member.header_offset, member.header_offset + 30 + len(member.filename)))
    return sorted(places)


@pytest.mark.parametrize("flip", [0x01, 0x40, 0xFF], ids=hex)
def test_a_flipped_bit_around_members_is_found_or_harmless(whole: Path, tmp_path: Path, flip: int) -> None:
    data = whole.read_bytes()
    expected = model_file.load(whole).identity
    damaged = tmp_path / "damaged.goodparts"
    wrong = []
    for place in around_members(whole):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        try:
            harmless = model_file.load(damaged).identity == expected
        except ModelError:
            continue
        except Exception as error:
            wrong.append(f"byte {place}: {error!r}")
            continue
        if not harmless:
            wrong.append(f"byte {place}: taken for another model")
    assert not wrong, f"{len(wrong)} places, such as {wrong[:3]}"


@pytest.mark.parametrize("name", MEMBERS[1:])
def test_another_member_in_its_place_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    changed = rewritten(
        whole, tmp_path / "changed.goodparts", lambda members: members | {name: members[name] + b" "}
    )
    with pytest.raises(ModelError, match=rf"{name} does not have the sha256"):
        model_file.load(changed)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    lacking = rewritten(
        whole,
        tmp_path / "lacking.goodparts",
        lambda members: {other: data for other, data in members.items() if other != name},
    )
    with pytest.raises(ModelError, match=rf"lacks a part.*{name}"):
        model_file.load(lacking)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest | {"grid": [3, 3]},
        lambda manifest: manifest | {"data": manifest["data"] | {"good_images": 9999}},
        lambda manifest: manifest | {"backbone": manifest["backbone"] | {"mean": [0.0, 0.0, 0.0]}},
        lambda manifest: manifest | {"identity": "0" * 64},
    ],
    ids=["grid", "data", "backbone", "identity"],
)
def test_a_manifest_that_is_not_of_this_model_is_found(
    whole: Path, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    changed = rewritten(whole, tmp_path / "changed.goodparts", with_manifest(change))
    with pytest.raises(ModelError, match="changed"):
        model_file.load(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: [],
        lambda manifest: None,
        lambda manifest: {},
        lambda manifest: {"format": "1"},
        lambda manifest: {"format": 1},
        lambda manifest: manifest | {"sha256": []},
        lambda manifest: manifest | {"backbone": None},
        lambda manifest: {key: value for key, value in manifest.items() if key != "grid"},
    ],
    ids=["list", "null", "empty", "text", "format alone", "hashes", "backbone", "grid"],
)
def test_a_manifest_of_something_else_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    other = rewritten(whole, tmp_path / "other.goodparts", with_manifest(change))
    with pytest.raises(ModelError, match=r"other\.goodparts"):
        model_file.load(other)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_found(whole: Path, tmp_path: Path, share: float) -> None:
    data = whole.read_bytes()
    short = tmp_path / "short.goodparts"
    short.write_bytes(data[: int(share * len(data))])
    with pytest.raises(
        ModelError, match=r"short\.goodparts: (damaged or truncated|is not a goodparts model)"
    ):
        model_file.load(short)


@pytest.mark.parametrize("lost", [1, 22, 100])
def test_a_file_that_lost_its_end_is_found(whole: Path, tmp_path: Path, lost: int) -> None:
    short = tmp_path / "short.goodparts"
    short.write_bytes(whole.read_bytes()[:-lost])
    with pytest.raises(ModelError, match="damaged or truncated"):
        model_file.load(short)


# ---- no model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a goodparts model"),
        (b"not a zip at all", "is not a goodparts model; expected a file that `goodparts fit`"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a goodparts model"),
        (b"PK\x03\x04" + bytes(100), "damaged or truncated"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.goodparts"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        model_file.load(path)


def test_a_zip_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.png", b"a picture")
    with pytest.raises(ModelError, match=r"photos\.zip: is not a goodparts model.*lacks a part.*manifest"):
        model_file.load(path)


def test_a_newer_format_asks_for_an_upgrade(whole: Path, tmp_path: Path) -> None:
    newer = rewritten(
        whole,
        tmp_path / "newer.goodparts",
        with_manifest(lambda manifest: manifest | {"format": model.FORMAT + 1}),
    )
    with pytest.raises(ModelError, match=r"newer\.goodparts: written by a newer goodparts.*upgrade"):
        model_file.load(newer)


def test_a_newer_format_need_not_have_the_same_members(tmp_path: Path) -> None:
    path = tmp_path / "newer.goodparts"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"format": model.FORMAT + 1}))
    with pytest.raises(ModelError, match="newer goodparts"):
        model_file.load(path)


def test_a_folder_names_the_models_in_it(whole: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder; expected a model.*there is part\.goodparts"):
        model_file.load(whole.parent)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    path = tmp_path / "none.goodparts"
    with pytest.raises(ModelError, match=r"none\.goodparts: no such model; make one with `goodparts fit"):
        model_file.load(path)


@pytest.mark.parametrize("read", [model_file.load, Inspector.load], ids=["load", "Inspector"])
def test_both_ways_of_loading_refuse(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ModelError):
        read(tmp_path)


def test_reading_the_manifest_alone_gives_the_same_errors(tmp_path: Path) -> None:
    other = tmp_path / "other.goodparts"
    other.write_bytes(b"not a zip at all")
    for path in (other, tmp_path / "none.goodparts", tmp_path):
        with pytest.raises(ModelError):
            model_file.read_manifest(path)


# ---- saving --------------------------------------------------------------------------------------


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that finds out that it is full when everything has to go to it."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@contextmanager
def small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system that really refuses to write more than 20 kB into a file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("obstacle", [full_disk, small_files], ids=["full", "limited"])
def test_what_can_not_be_written_leaves_the_old_model_whole(
    fitted: Inspector,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    obstacle: Callable[[pytest.MonkeyPatch], Any],
) -> None:
    path = tmp_path / "part.goodparts"
    path.write_bytes(whole.read_bytes())
    changed = Inspector.load(path).calibrate(changes={"threshold_rule": "fixed", "threshold_value": 1.0})
    with (
        obstacle(monkeypatch),
        pytest.raises(OutputError, match=r"part\.goodparts: can't be written .*free some space"),
    ):
        changed.save(path)
    assert path.read_bytes() == whole.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["part.goodparts"]
    changed.save(path)
    assert Inspector.load(path).model.identity == changed.model.identity


def test_a_crash_while_saving_leaves_the_old_model_whole(
    fitted: Inspector, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "part.goodparts"
    path.write_bytes(whole.read_bytes())
    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        fitted.save(path)
    assert path.read_bytes() == whole.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["part.goodparts"]


def test_saving_over_a_folder_is_refused(fitted: Inspector, tmp_path: Path) -> None:
    folder = tmp_path / "folder.goodparts"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"folder\.goodparts: can't be written"):
        fitted.save(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_saving_under_a_file_is_refused(fitted: Inspector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't be written"):
        fitted.save(tmp_path / "file" / "part.goodparts")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("part", "part.goodparts"),
        ("deep/er/part.goodparts", "deep/er/part.goodparts"),
        ("a.model", "a.model"),
    ],
)
def test_the_name_of_the_file(fitted: Inspector, tmp_path: Path, given: str, written: str) -> None:
    assert fitted.save(tmp_path / given) == tmp_path / written
    assert (tmp_path / written).is_file()


# ---- the machine, and the product ----------------------------------------------------------------


def test_what_belongs_to_the_machine_is_no_part_of_the_identity(fitted: Inspector, whole: Path) -> None:
    other = replace(fitted.model, recipe=fitted.recipe.replace({"precision": "f32", "memory_limit": 0.0}))
    assert other.identity == fitted.model.identity
    changed = replace(fitted.model, recipe=fitted.recipe.replace({"minimum_area": 3}))
    assert changed.identity != fitted.model.identity
    assert Inspector.load(whole).recipe == fitted.recipe


def test_a_recipe_that_is_no_longer_taken_is_named(whole: Path, tmp_path: Path, fitted: Inspector) -> None:
    def fixed_at_zero(members: Members) -> Members:
        recipe = members["recipe.toml"].replace(
            b'threshold_rule = "robust_sigma"', b'threshold_rule = "fixed"'
        )
        members |= {"recipe.toml": recipe}
        manifest = json.loads(members["manifest.json"])
        manifest["sha256"]["recipe.toml"] = hashlib.sha256(recipe).hexdigest()
        return members | {"manifest.json": json.dumps(manifest).encode()}

    path = rewritten(whole, tmp_path / "old.goodparts", fixed_at_zero)
    with pytest.raises(ModelError, match=r"old\.goodparts: .*does not take .*threshold_value: .*fit it anew"):
        Inspector.load(path)
