"""`inspect --out`: every picture where it belongs, whatever the images are called and wherever they lie."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from running import Run, below

from goodparts.errors import OutputError
from goodparts.report import pictures


@pytest.fixture
def parts(mini_dataset: Path, tmp_path: Path) -> Path:
    """A folder with one image, `a.png`, to be copied."""
    folder = tmp_path / "parts"
    folder.mkdir()
    shutil.copy(mini_dataset / "test" / "stain" / "000.png", folder / "a.png")
    return folder


def test_an_image_is_never_replaced(
    goodparts: Run, fitted_file: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parts / "sub").mkdir()
    shutil.copy(parts / "a.png", parts / "sub" / "a.png")
    before = (parts / "a.png").read_bytes()
    monkeypatch.chdir(parts / "sub")
    assert goodparts("inspect", fitted_file, "../a.png", "a.png", "--out", ".").code == 1
    assert (parts / "a.png").read_bytes() == (parts / "sub" / "a.png").read_bytes() == before
    assert below(parts) == [
        "a.png",
        "sub/a.png",
        *(f"sub/maps/{name}.tiff" for name in ("parts/a", "sub/a")),
        *(f"sub/masks/{name}.png" for name in ("parts/a", "sub/a")),
        *(f"sub/panels/{name}.png" for name in ("parts/a", "sub/a")),
    ]


def test_as_many_panels_as_images(goodparts: Run, fitted_file: Path, parts: Path, tmp_path: Path) -> None:
    for name in ("a.bmp", "a_2.png"):
        shutil.copy(parts / "a.png", parts / name)
    goodparts("inspect", fitted_file, parts, "--out", tmp_path / "out")
    assert len(below(tmp_path / "out" / "panels")) == 3


@pytest.mark.parametrize("out", ["results", "."])
def test_a_second_run_does_not_inspect_the_first_ones_results(
    goodparts: Run, fitted_file: Path, parts: Path, out: str
) -> None:
    for _ in range(2):
        ran = goodparts("inspect", fitted_file, parts, "--out", parts / out, "--json")
        assert [record["path"] for record in ran.records] == [str(parts / "a.png")]
    assert len(below(parts)) == 4
    given = goodparts("inspect", fitted_file, parts / out / "panels" / "a.png", "--json")
    assert len(given.records) == 1, "what is named is inspected"


def test_a_picture_that_can_not_be_written_does_not_stop_the_rest(
    goodparts: Run, fitted_file: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.png", "c.png"):
        shutil.copy(parts / "a.png", parts / name)
    save = pictures.save_map

    def fail(path: Path, *rest: object) -> None:
        if path.stem == "b":
            raise OutputError(f"{path}: can't be written (No space left on device)")
        save(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "save_map", fail)
    ran = goodparts("inspect", fitted_file, parts, "--out", tmp_path / "out", "--json")
    assert ran.code == 5, "a BAD one is among them"
    assert len(ran.records) == 3
    assert "pictures of 1 of 3 images" in ran.err
    assert "b.tiff" in ran.err
    assert below(tmp_path / "out" / "masks") == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("size", "said"),
    [((96, 96), False), ((104, 100), False), ((300, 300), True), ((140, 96), True), ((60, 60), True)],
)
def test_an_image_of_another_size_or_shape_is_said(
    goodparts: Run, fitted_file: Path, parts: Path, size: tuple[int, int], said: bool
) -> None:
    with Image.open(parts / "a.png") as image:
        image.resize(size).save(parts / "a.png")
    ran = goodparts("inspect", fitted_file, parts, "--json")
    words = "1 of 1 images have quite another size or shape than those learnt from (96x96)"
    assert (words in " ".join(ran.err.split())) == said
    assert (f"{size[0]}x{size[1]}" in ran.err) == said


@pytest.mark.skipif(sys.platform != "linux", reason="names there are bytes")
def test_names_of_any_bytes_and_of_the_greatest_length(
    goodparts: Run, fitted_file: Path, parts: Path, tmp_path: Path
) -> None:
    for name in (b"caf\xe9.png", b"x" * 245 + b".png", b"x" * 251 + b".png"):
        shutil.copy(parts / "a.png", os.fsencode(parts) + b"/" + name)
    ran = goodparts("inspect", fitted_file, parts, "--out", tmp_path / "out", "--json")
    assert ran.code == 1, ran.err
    assert len(ran.records) == 4
    names = sorted(["a", "caf%E9", "x" * 245, "x" * 250])
    assert below(tmp_path / "out" / "panels") == [f"{name}.png" for name in names]
    assert below(tmp_path / "out" / "maps") == [f"{name}.tiff" for name in names]
