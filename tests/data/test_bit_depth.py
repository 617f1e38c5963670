"""Cameras of 10, 12 and 14 bits: how many bits are in use is learnt from good images, kept, and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import png16, saved, tiff
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspector, Recipe
from goodparts.data.bit_depth import in_words, with_bit_depth
from goodparts.data.good_images import GoodImages
from goodparts.data.images import PIXEL_LIMIT, ImageLike, read_image
from goodparts.errors import ImageError, RecipeError

Array = NDArray[Any]

RGB = np.random.default_rng(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
RGB[0, 0] = 255
GREY = np.repeat(RGB[:, :, :1], 3, axis=2)


def camera(bits: int, pixels: Array = RGB) -> Array:
    """What a camera of so many bits writes into 16."""
    return pixels.astype(np.uint16) << (bits - 8)


FILES = {
    "png grey": (lambda levels: png16(levels[:, :, 0]), GREY),
    "png grey + alpha": (lambda levels: png16(levels[:, :, [0, 1]]), GREY),
    "png rgb": (png16, RGB),
    "png rgba": (lambda levels: png16(np.dstack([levels, levels[:, :, :1]])), RGB),
    "tiff grey": (lambda levels: tiff(levels[:, :, 0]), GREY),
    "tiff grey, big-endian": (lambda levels: tiff(levels[:, :, 0], ">"), GREY),
    "tiff grey, lzw": (lambda levels: saved(levels[:, :, 0], "TIFF", compression="tiff_lzw"), GREY),
    "tiff rgb": (lambda levels: tiff(levels, photometric=2), RGB),
    "tiff rgb, big-endian": (lambda levels: tiff(levels, ">", photometric=2), RGB),
    "pgm": (lambda levels: b"P5 30 20 65535\n" + levels[:, :, 0].astype(">u2").tobytes(), GREY),
    "ppm": (lambda levels: b"P6 30 20 65535\n" + levels.astype(">u2").tobytes(), RGB),
    "array": (lambda levels: levels, RGB),
    "grey array": (lambda levels: levels[:, :, 0], GREY),
    "pillow": (lambda levels: Image.fromarray(levels[:, :, 0]), GREY),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", FILES)
def test_the_bits_in_use_are_learnt_and_read(name: str, bits: int) -> None:
    write, expected = FILES[name]
    image: ImageLike = write(camera(bits))
    images = GoodImages.of([image], read=read_image, workers=1)

    recipe, read = with_bit_depth(Recipe(), images, pixel_limit=PIXEL_LIMIT)

    assert recipe.bit_depth == bits
    np.testing.assert_array_equal(read.pixels(0), expected)
    np.testing.assert_array_equal(read_image(image, bit_depth=bits), expected)


def test_all_good_images_are_looked_at() -> None:
    dim = camera(12, RGB // 8)
    images = GoodImages.of([RGB, dim, dim, camera(12)], read=read_image, workers=2)

    assert with_bit_depth(Recipe(), images, pixel_limit=PIXEL_LIMIT)[0].bit_depth == 12


def test_without_16_bit_images_nothing_is_learnt() -> None:
    images = GoodImages.of([RGB, saved(RGB, "PNG")], read=read_image, workers=1)

    assert with_bit_depth(Recipe(), images, pixel_limit=PIXEL_LIMIT) == (Recipe(), images)


def test_a_depth_that_is_given_is_taken() -> None:
    images = GoodImages.of([camera(10)], read=read_image, workers=1)
    recipe = Recipe(bit_depth=12)

    assert with_bit_depth(recipe, images, pixel_limit=PIXEL_LIMIT)[0].bit_depth == 12
    with pytest.raises(RecipeError, match="bit_depth: expected 8 to 16"):
        Recipe(bit_depth=4)


def test_levels_beyond_are_white_and_many_of_them_refused() -> None:
    glare = camera(10)
    glare[:4] = 3000

    np.testing.assert_array_equal(read_image(glare, bit_depth=10)[:4], 255)
    np.testing.assert_array_equal(read_image(glare, bit_depth=10)[4:], RGB[4:])
    with pytest.raises(ImageError, match=r"levels up to 65,280.*1,023.*bit_depth = 10.*--bit-depth 16"):
        read_image(camera(16), bit_depth=10)


def test_a_model_reads_later_images_as_it_read_the_good_ones(recipe: Recipe, tmp_path: Path) -> None:
    """12-bit levels in 16-bit files give the very scores of the same pictures in 8 bits."""
    rng = np.random.default_rng(0)
    parts = [
        (100 + 20 * np.sin(np.mgrid[:64, :64][0] / 2) + rng.normal(0, 6, (64, 64))).astype(np.uint8)
        for _ in range(5)
    ]
    bad = parts[4].copy()
    bad[20:40, 20:40] = 250

    shallow = Inspector(recipe, workers=1).fit(parts[:4])
    learnt = Inspector(recipe, workers=1).fit([camera(12, part) for part in parts[:4]])
    learnt.save(tmp_path / "part.goodparts")
    loaded = Inspector.load(tmp_path / "part.goodparts")
    path = tmp_path / "bad.png"
    path.write_bytes(png16(camera(12, bad)))

    assert (shallow.recipe.bit_depth, loaded.recipe.bit_depth) == (0, 12)
    assert loaded.inspect(path).score == shallow.inspect(bad).score
    assert [found.score for found in loaded.inspect_many([path])] == [shallow.inspect(bad).score]
    assert in_words(loaded.recipe.bit_depth) is not None
    assert in_words(shallow.recipe.bit_depth) is None


def test_models_from_before_the_key_keep_their_identity() -> None:
    assert "bit_depth" not in Recipe().product
    assert Recipe(bit_depth=12).product["bit_depth"] == 12
