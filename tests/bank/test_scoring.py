"""Scoring: of the largest patch distances, in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from goodparts import Recipe
from goodparts.bank import scoring

DISTANCES = np.array([3.0, 1, 7, 2, 5], dtype=np.float32)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"image_score": "max"}, 7.0),
        ({"image_score": "top_mean", "top_share": 0.01}, 7.0),
        ({"image_score": "top_mean", "top_share": 0.4}, 6.0),
        ({"image_score": "top_mean", "top_share": 0.41}, 5.0),
        ({"image_score": "top_mean", "top_share": 1.0}, 3.6),
    ],
)
def test_an_image_score_is_of_the_largest_distances(keys: dict[str, object], expected: float) -> None:
    assert scoring.image_score(DISTANCES, Recipe().replace(keys)) == pytest.approx(expected)


def test_zone_scores_are_of_their_own_cells() -> None:
    grid = np.array([[1.0, 9], [4, np.nan]], dtype=np.float32)
    zones = np.array([[[1, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=bool)
    assert scoring.zone_scores(grid, zones, Recipe()) == (4.0, 9.0)
