"""The search for a pose: that it finds a motion that is known, where edges look like themselves, what is believed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.pose_matching import (
    Edges,
    Found,
    Motion,
    Template,
    edges_of,
    failure_of,
    moved_back,
)
from goodparts.recipe.recipe import Recipe

SHIFT, RIGID, ALL_ROUND = Recipe(pose="shift"), Recipe(pose="rigid"), Recipe(pose="rigid", pose_angle=180)
FRAME = Frame((160, 160), (160, 160), (0, 0), (160, 160))


def blobs(seed: int) -> NDArray[np.float64]:
    """Soft spots, (160, 160), -1 to 1, that have no symmetry."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(160, 160)), 6)
    return np.asarray(noise / np.abs(noise).max())


def edges(values: NDArray[np.float64]) -> Edges:
    picture = np.repeat((128 + 100 * values)[..., None], 3, axis=2).astype(np.uint8)
    return edges_of(picture, FRAME, (160, 160))


# ---- the search


@pytest.mark.parametrize(
    ("recipe", "angle", "x", "y"),
    [
        (SHIFT, 0, 0.5, 0.3),
        (SHIFT, 0, 21, -34),
        (RIGID, 0, 5, 5),
        (RIGID, 29, -12, 8),
        (ALL_ROUND, -100, 4, 17),
        (ALL_ROUND, 179, -3, 0),
    ],
)
def test_a_motion_that_is_known_is_found(recipe: Recipe, angle: float, x: float, y: float) -> None:
    motion = Motion(math.radians(angle), x, y)
    template = Template(edges(blobs(1)))
    image = moved_back(template.edges, motion.inverse)
    best, second = template.search(image, recipe)
    between = motion.inverse.after(best.motion)
    assert between.size(160) < 0.1
    assert best.quality == pytest.approx(template.quality(image, best.motion), abs=1e-5)
    assert best.quality > 0.99
    assert second is not None
    assert second.quality < best.quality - 0.3


def test_what_lies_beyond_reach_is_not_found() -> None:
    template = Template(edges(blobs(1)))
    far = moved_back(template.edges, Motion(0, 55, 0).inverse)
    assert template.search(far, SHIFT)[0].quality < 0.5
    turned = moved_back(template.edges, Motion(math.radians(60), 0, 0).inverse)
    assert template.search(turned, RIGID)[0].quality < 0.5


def test_edges_that_look_like_themselves_are_known_by_the_motion_between() -> None:
    one = blobs(2)
    assert Template(edges(one)).alike(ALL_ROUND) == ()
    round_twice = Template(edges((one + one[::-1, ::-1]) / 2))
    (half_turn,) = {round(abs(math.degrees(motion.angle))) for motion in round_twice.alike(ALL_ROUND)}
    assert half_turn == 180
    assert round_twice.alike(RIGID) == ()  # two poses within 30 degrees are never a half turn apart
    assert round_twice.alike(SHIFT) == ()
    period = Template(edges(np.tile(one[:40, :40], (4, 4))))
    shifts = {(round(motion.x), round(motion.y)) for motion in period.alike(SHIFT)}
    assert {(40, 0), (0, 40), (-40, 0), (0, -40)} <= shifts


# ---- what is believed


USUAL: dict[str, Any] = {
    "best": Found(Motion(math.radians(10), 3, 4), 0.9),
    "second": Found(Motion(0, 30, 0), 0.5),
    "before": 0.6,
    "lowest": 0.5,
    "alike": (),
    "recipe": RIGID,
}
TURNED = Motion(math.radians(26), 0, 0)
MOVED = Motion(0, 16, 0)


@pytest.mark.parametrize(
    ("keys", "failure"),
    [
        ({}, ""),
        ({"second": None}, ""),
        (
            {"lowest": 0.95},
            "not aligned: edges agree to 0.90 with those of good images, in the best pose (limit 0.95)",
        ),
        ({"best": Found(Motion(math.radians(30.9), 0, 0), 0.9)}, ""),
        (
            {"best": Found(Motion(math.radians(-32), 0, 0), 0.9)},
            "not aligned: turned by 32 degrees (limit 30, pose_angle)",
        ),
        ({"alike": (TURNED.inverse,)}, "not aligned: the part looks alike turned by 26 degrees"),
        ({"alike": (TURNED,)}, ""),  # 36 degrees: no pose that could be meant
        ({"alike": (MOVED,)}, "not aligned: the part looks alike shifted by 10 % of the picture"),
        ({"alike": (Motion(0, 38, 0),)}, ""),  # beyond a quarter of the picture
        (
            {"second": Found(Motion(math.radians(-10), 3, 4), 0.81)},
            "not aligned: the part looks alike turned by 20 degrees",
        ),
        ({"second": Found(Motion(math.radians(-10), 3, 4), 0.79)}, ""),
        (
            {"before": 0.89},
            "not aligned: edges agree to 0.89 as the image is, and no better in any pose near by (0.90)",
        ),
        ({"before": 0.89, "best": Found(Motion(0, 1, 1), 0.9)}, ""),  # it hardly moved
        ({"recipe": SHIFT, "best": Found(MOVED, 0.9), "second": None}, ""),
        (
            {"recipe": SHIFT, "best": Found(MOVED, 0.9), "second": None, "alike": (Motion(0, -32, 0),)},
            "not aligned: the part looks alike shifted by 20 % of the picture",
        ),
        ({"recipe": SHIFT, "best": Found(MOVED, 0.9), "second": None, "alike": (TURNED,)}, ""),
    ],
    ids=str,
)
def test_why_a_pose_is_not_believed(keys: dict[str, Any], failure: str) -> None:
    assert failure_of(**(USUAL | keys)) == failure
