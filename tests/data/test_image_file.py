"""What is taken as an image, and what is said of all else."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from image_bytes import saved
from PIL import Image

from goodparts.data.images import ImageLike, name_of, path_of, read_image
from goodparts.errors import ImageError

RGB = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
PNG = saved(RGB, "PNG")


@pytest.mark.parametrize(
    "image",
    [
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        io.BytesIO(PNG),
        Image.fromarray(RGB),
        Image.open(io.BytesIO(PNG)),
        Image.fromarray(RGB).convert("RGBA"),
        RGB.astype(np.uint16) << 8,
        (RGB.astype(np.uint16) << 8).astype(">u2"),
    ],
    ids=[
        "bytes",
        "bytearray",
        "memoryview",
        "BytesIO",
        "Pillow",
        "Pillow, lazy",
        "RGBA",
        "uint16",
        "big-endian",
    ],
)
def test_what_is_taken(image: ImageLike) -> None:
    for _ in range(2):  # learning reads an image more than once
        np.testing.assert_array_equal(read_image(image), RGB)
    assert path_of(image) is None


def test_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(PNG)

    with path.open("rb") as file:
        file.seek(5)
        np.testing.assert_array_equal(read_image(file), RGB)
        np.testing.assert_array_equal(read_image(file), RGB)
        assert name_of(file) == str(path)
    with pytest.raises(ImageError, match=r"part\.png: can't be read"):
        read_image(file)
    with path.open(encoding="latin-1") as text, pytest.raises(ImageError, match=r"gives text.*'rb'"):
        read_image(text)  # type: ignore[arg-type]


def test_a_pillow_image_is_turned_upright_and_left_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(io.BytesIO(saved(RGB, "PNG", exif=exif.tobytes())))
    palette = Image.open(io.BytesIO(saved(Image.fromarray(RGB).quantize(16), "PNG", transparency=0)))

    np.testing.assert_array_equal(read_image(picture), np.rot90(RGB, -1))
    read_image(palette)
    assert palette.info["transparency"] == 0


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (None, "found NoneType"),
        (7, "found int"),
        ([[0, 1], [2, 3]], "found list"),
        (Image.fromarray(RGB[:, :, 0].astype(np.float32)), "Pillow image of mode F"),
        (Image.fromarray(RGB[:, :, 0].astype(np.int32)), "Pillow image of mode I"),
        (Image.fromarray(RGB[:4]), "is 30 x 4 pixels"),
        (io.BytesIO(), "the file is empty"),
    ],
    ids=["None", "number", "list", "float", "int32", "small", "empty"],
)
def test_what_is_not_taken(image: object, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        read_image(image)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")

    with pytest.raises(ImageError, match=r"pipe\.png: is a named pipe; expected an image file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"zero\.png: is a device"):
        read_image(tmp_path / "zero.png")
