"""The command line: a sentence for every mistake that a user can make."""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Run, below

from goodparts import Inspector, __version__
from goodparts.cli import main

pytestmark = pytest.mark.usefixtures("home")


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels, and holds hardly any."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + pixels + chunk(b"IEND", b"")


def tiny(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-300]), "damaged or truncated"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    "text": (lambda path: path.write_text("no image"), "it is a text file"),
    "GIF": (lambda path: path.write_bytes(b"GIF89a" + bytes(50)), "a GIF image that is damaged"),
    "1 x 1": (tiny, "is 1 x 1 pixels; expected at least"),
    "huge": (
        lambda path: path.write_bytes(png_header(20_000, 20_000)),
        "has 20000 x 20000 = 400,000,000 pixels, more than the limit of 100,000,000",
    ),
}


@pytest.mark.parametrize("how", list(SPOILT))
@pytest.mark.parametrize("command", ["fit", "run"])
def test_one_bad_file_among_good_ones_is_named(
    goodparts: Run, recipe_file: Path, data: Path, tmp_path: Path, how: str, command: str
) -> None:
    spoil, message = SPOILT[how]
    path = data / "train" / "good" / "007.png"
    spoil(path)
    out = tmp_path / "out"
    flag = ["--model", out / "m.goodparts"] if command == "fit" else ["--out", out]
    ran = goodparts(command, data, "--recipe", recipe_file, *flag)
    assert ran.code == 2
    assert ran.err.startswith(f"error: {path}: ")
    assert message in ran.err
    assert not out.exists() or below(out) == []


def test_the_pixel_limit_can_be_raised_and_lowered(goodparts: Run, fitted_file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((10_100, 10_000), bool)).save(large)  # 101 million pixels of one bit
    ran = goodparts("inspect", fitted_file, large)
    assert ran.code == 2
    assert "more than the limit of 100,000,000" in ran.err
    assert "raise --pixel-limit" in ran.err
    ran = goodparts("inspect", fitted_file, large, "--pixel-limit", "1000")
    assert "more than the limit of 1,000." in ran.err


def test_a_raised_pixel_limit_holds_for_reading(goodparts: Run, fitted_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "promises.png"
    path.write_bytes(png_header(20_000, 20_000))
    ran = goodparts("inspect", fitted_file, path, "--pixel-limit", 400_000_000)
    assert ran.code == 2
    assert "can't be decoded" in ran.err, "it was tried"


def test_a_mask_of_another_size_stops_run_before_it_learns(
    goodparts: Run, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    mask = data / "ground_truth" / "stain" / "001_mask.png"
    Image.new("L", (50, 40), 255).save(mask)
    ran = goodparts("run", data, "--recipe", recipe_file, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{mask}: the mask is 50x40 pixels, its image 001.png 96x96" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["fit", "run", "check", "benchmark"])
def test_a_folder_that_is_not_there(goodparts: Run, mini_dataset: Path, command: str) -> None:
    ran = goodparts(command, mini_dataset.parent / "mimi")
    assert ran.code == 2
    printed = ran.err + ran.out
    assert re.search(r"mimi: no such (file or )?folder", printed)
    assert "mini" in printed, "the one that was meant"


@pytest.mark.parametrize("name", ["notes.txt", "photo.heic"])
def test_a_folder_without_images(goodparts: Run, fitted_file: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(b"something")
    ran = goodparts("fit", folder)
    assert ran.code == 2
    assert f"{folder}: no images; expected files ending in" in ran.err
    assert name in ran.err
    ran = goodparts("inspect", fitted_file, folder)
    assert ran.code == 2
    assert f"{folder}: no images in this folder" in ran.err


def test_the_content_decides_what_a_file_is(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    misnamed = tmp_path / "photo.jpg"
    shutil.copy(mini_dataset / "test" / "good" / "000.png", misnamed)
    assert goodparts("inspect", fitted_file, misnamed).code == 0
    text = tmp_path / "text.png"
    text.write_text("no image")
    ran = goodparts("inspect", fitted_file, text)
    assert ran.code == 2
    assert "text.png: not an image that can be read: it is a text file" in ran.err


def test_a_layer_that_is_not_there_names_the_nearest(
    goodparts: Run, recipe_file: Path, good: Path, tmp_path: Path
) -> None:
    ran = goodparts("fit", good, "--recipe", recipe_file, "--layers", "layer2,layr3")
    assert ran.code == 2
    assert "layr3" in ran.err
    assert "layer3" in ran.err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such model"), (b"nonsense", "is not a goodparts model"), (b"PK\x03\x04 x", "damaged")],
    ids=["missing", "other", "damaged"],
)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "calibrate", "update", "card"])
def test_a_file_that_is_no_model(
    goodparts: Run,
    mini_dataset: Path,
    tmp_path: Path,
    command: str,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "part.goodparts"
    if content is not None:
        path.write_bytes(content)
    ran = goodparts(command, path, *([] if command == "card" else [mini_dataset]))
    assert ran.code == 2
    assert ran.err.startswith(f"error: {path}: ")
    assert message in ran.err


def test_a_damaged_model(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    ran = goodparts("inspect", model, mini_dataset / "test" / "good")
    assert ran.code == 2
    assert "damaged or truncated model" in ran.err
    model.write_bytes(data[: len(data) // 2])
    assert goodparts("card", model).code == 2


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written(
    goodparts: Run, recipe_file: Path, good: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    ran = goodparts("fit", good, "--recipe", recipe_file, "--model", locked / "a.goodparts")
    assert ran.code == 2
    assert "choose a folder you may write to" in ran.err


def test_a_file_where_a_folder_should_be(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("in the way")
    ran = goodparts("run", mini_dataset, "--recipe", recipe_file, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{tmp_path / 'out'}" in ran.err
    assert "can't be written" in ran.err


def test_our_own_fault_is_called_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Inspector, "__init__", fail)
    monkeypatch.setattr(sys, "argv", ["goodparts", "fit", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in printed
    assert f"a fault of goodparts {__version__}, not yours" in printed
