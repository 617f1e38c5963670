"""The nearest entries of two images are those of brute force wherever they may matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.bank.grid_positions import ANYWHERE, GridPositions, Positions, sees
from goodparts.decision import nearest_images
from goodparts.decision.nearest_images import two_nearest_images

GRID = (6, 6)


def patches(count: int, d: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Points of a few dense clusters and some far from all."""
    centres = 3 * rng.normal(size=(5, d))
    spread = np.where(rng.random(count) < 0.1, 3.0, 0.5)[:, None]
    points = centres[rng.integers(5, size=count)] + spread * rng.normal(size=(count, d))
    return points.astype(np.float32)


@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 9), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_they_are_those_of_brute_force(
    count: int, entry_count: int, images: int, windowed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    points, entries = patches(count, 4, rng), patches(entry_count, 4, rng)
    image_ids = np.sort(rng.integers(images, size=entry_count)).astype(np.int32)
    at, cells = (rng.integers(36, size=size).astype(np.int32) for size in (count, entry_count))
    positions: tuple[Positions, Positions] = (ANYWHERE, ANYWHERE)
    if windowed:
        positions = GridPositions(GRID, (2, 2), at), GridPositions(GRID, (2, 2), cells)
    with pytest.MonkeyPatch.context() as patch:  # so that there are groups to drop out of
        for name, value in {"_ROWS": 50, "_ENTRIES": 7, "_SAMPLE": 40, "_LEAST": 5}.items():
            patch.setattr(nearest_images, name, value)
        first, second, owner = two_nearest_images(points, entries, image_ids, *positions, cells)

    squared = ((points[:, None].astype(np.float64) - entries) ** 2).sum(axis=2)
    if windowed:
        squared[~sees(GRID, (2, 2), at, cells)] = np.inf
    by_image = np.full((count, images), np.inf)
    for image in range(images):
        by_image[:, image] = squared[:, image_ids == image].min(axis=1, initial=np.inf)
    seen = np.isfinite(by_image.min(axis=1))  # what sees no entry lies farther than all others
    assert (first[~seen] > 1e20).all()
    if not seen.all() or not count:
        return
    nearest_two = np.sort(np.concatenate([by_image, np.full((count, 1), np.inf)], axis=1), axis=1)[:, :2]
    radius = nearest_two[:, 0].max()
    assert first.max() == pytest.approx(radius, rel=1e-4, abs=1e-5)
    matters = nearest_two[:, 1] > radius * (1 + 1e-4) + 1e-5
    assert first[matters] == pytest.approx(nearest_two[matters, 0], rel=1e-4, abs=1e-5)
    there = matters & np.isfinite(nearest_two[:, 1])
    assert second[there] == pytest.approx(nearest_two[there, 1], rel=1e-4, abs=1e-5)
    assert (second[matters & ~there] > 1e20).all()
    assert by_image[matters, owner[matters]] == pytest.approx(nearest_two[matters, 0], rel=1e-4, abs=1e-5)
    assert (second[~matters] <= radius * (1 + 2e-4) + 2e-5).all()
