"""Copies of one photograph are told from photographs of like parts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from goodparts.data.duplicates import (
    SAME_PHOTOGRAPH,
    SIDES,
    NearDuplicates,
    find_near_duplicates,
    thumbnail,
    thumbnail_side,
)

Pixels = NDArray[np.uint8]


def part(seed: int, height: int = 256, width: int = 256) -> Pixels:
    """A photograph of one of many like parts: a bright ring, surface texture of its own, sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    radius = np.hypot(y - height / 2, x - width / 2) / min(height, width)
    ring = np.where((radius > 0.15) & (radius < 0.42), 120.0, 30.0)
    coarse = rng.normal(0, 22, (height // 8 + 1, width // 8 + 1)).astype(np.float32)
    texture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grey = ring * (1 + texture / 120) + rng.normal(0, 2, (height, width))
    return np.clip(grey[:, :, None] * np.array([1.0, 0.95, 0.85]), 0, 255).astype(np.uint8)


def shifted(image: Pixels, down: int, right: int) -> Pixels:
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), "edge")
    return padded[8 - down : 8 - down + image.shape[0], 8 - right : 8 - right + image.shape[1]]


def jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def noisy(image: Pixels) -> Pixels:
    noise = np.random.default_rng(9).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def resized(image: Pixels) -> Pixels:
    size = (image.shape[1] * 9 // 10, image.shape[0] * 9 // 10)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


COPIES = {
    "jpeg 85": lambda image: jpeg(image, 85),
    "jpeg 75": lambda image: jpeg(image, 75),
    "brighter": lambda image: np.clip(image.astype(int) + 8, 0, 255).astype(np.uint8),
    "more contrast": lambda image: np.clip(image * 1.1, 0, 255).astype(np.uint8),
    "one pixel right": lambda image: shifted(image, 0, 1),
    "one pixel up and left": lambda image: shifted(image, -1, -1),
    "shifted and recompressed": lambda image: jpeg(shifted(image, 1, -1), 85),
    "two pixels": lambda image: shifted(image, 2, 2),
    "noise": noisy,
    "resized": resized,
}


def search(images: list[Pixels], side: int = 64) -> NearDuplicates:
    return find_near_duplicates(np.stack([thumbnail(image, side) for image in images]))


PARTS = [part(seed) for seed in range(12)]


def test_other_photographs_of_like_parts_are_no_copies() -> None:
    result = search(PARTS)

    assert result.pairs == ()
    assert 0.2 < result.typical < 0.9


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(name: str) -> None:
    result = search([*PARTS, COPIES[name](PARTS[4])])

    assert [pair[:2] for pair in result.pairs] == [(4, 12)]
    assert SAME_PHOTOGRAPH <= result.pairs[0][2] <= 1


def test_pairs_come_most_alike_first() -> None:
    result = search([*PARTS, PARTS[3].copy(), jpeg(PARTS[5], 75), shifted(PARTS[7], 1, 0)])

    assert {pair[:2] for pair in result.pairs} == {(3, 12), (5, 13), (7, 14)}
    assert result.pairs[0][:2] == (3, 12)
    assert result.pairs[0][2] == pytest.approx(1, abs=1e-6)
    assert [pair[2] for pair in result.pairs] == sorted((pair[2] for pair in result.pairs), reverse=True)


def test_a_few_images_are_enough() -> None:
    assert [pair[:2] for pair in search([PARTS[0], PARTS[1], jpeg(PARTS[0], 85)]).pairs] == [(0, 2)]
    assert search(PARTS[:2]).pairs == ()
    assert search(PARTS[:1]) == NearDuplicates(pairs=(), typical=0.0)


def test_parts_that_all_look_alike_are_not_called_copies() -> None:
    # One part photographed again and again: only an exact copy stands out, and the likeness is told.
    images = [noisy_again(PARTS[0], seed) for seed in range(20)]

    result = search([*images, images[6].copy()])

    assert [pair[:2] for pair in result.pairs] == [(6, 20)]
    assert result.typical >= SAME_PHOTOGRAPH


def noisy_again(image: Pixels, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 4, image.shape[:2])
    return np.clip(image + noise[:, :, None], 0, 255).astype(np.uint8)


def test_images_that_are_not_square() -> None:
    images = [part(seed, 160, 320) for seed in range(10)]

    assert [pair[:2] for pair in search([*images, shifted(images[2], 1, 1)], 40).pairs] == [(2, 10)]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [([700], 128), ([256, 256, 900], 64), ([96], 32), ([8], 32), ([4000], 128), ([201, 203], 50)],
)
def test_thumbnail_side(sides: list[int], expected: int) -> None:
    assert thumbnail_side(np.array(sides)) == expected
    assert expected % 2 == 0
    assert SIDES[0] <= expected <= SIDES[1]


@pytest.mark.real
@pytest.mark.parametrize(("name", "side"), [("metal_nut", 128), ("grid_256", 64)])
def test_real_photographs(shared: Path, name: str, side: int) -> None:
    from goodparts.data.dataset import read_dataset
    from goodparts.data.images import read_image

    # All of grid; of metal_nut the most alike pair and what surrounds it.
    paths = read_dataset(shared / "mvtec_ad" / name).train
    paths = paths if name == "grid_256" else paths[130:175]
    images = [read_image(path) for path in paths]

    assert search(images, side).pairs == ()
    for position, copy in (
        (10, jpeg(images[10], 85)),
        (30, shifted(images[30], 1, 1)),
        (20, noisy(images[20])),
    ):
        assert [pair[:2] for pair in search([*images, copy], side).pairs] == [(position, len(images))]
