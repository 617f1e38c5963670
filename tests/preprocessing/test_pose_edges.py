"""Edges: what they say of a picture, that motions follow one another, and that edges move as pictures do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.pose_matching import (
    Edges,
    Motion,
    agreement,
    edges_of,
    moved_back,
    pooled,
    small_shape,
    warp_of,
)
from goodparts.recipe.recipe import Recipe

MOTIONS = [Motion(0, 0, 0), Motion(0, 7, -4), Motion(0.4, 3, 5), Motion(-1.5, -8, 2), Motion(3.1, 1, 1)]
FRAME = Frame((96, 144), (96, 144), (0, 0), (96, 144))


def blobs(seed: int, shape: tuple[int, int] = (96, 144)) -> NDArray[np.uint8]:
    """A picture of soft spots, (h, w, 3), that has no symmetry."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    grey = 128 + 100 * noise / np.abs(noise).max()
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def at(motion: Motion, point: tuple[float, float]) -> tuple[float, float]:
    """Where the motion takes a point (x, y) from the centre."""
    cos, sin = math.cos(motion.angle), math.sin(motion.angle)
    x, y = point
    return cos * x - sin * y + motion.x, sin * x + cos * y + motion.y


# ---- motions


@pytest.mark.parametrize("first", MOTIONS)
@pytest.mark.parametrize("then", MOTIONS)
def test_one_motion_after_another_is_one(first: Motion, then: Motion) -> None:
    both = then.after(first)
    assert at(both, (10, 3)) == pytest.approx(at(then, at(first, (10, 3))))
    assert -math.pi <= both.angle < math.pi
    assert first.inverse.after(first) == pytest.approx((0, 0, 0))
    assert first.after(first.inverse) == pytest.approx((0, 0, 0))


def test_the_size_of_a_motion_is_how_far_a_corner_goes() -> None:
    assert Motion(0, 3, -4).size(160) == 5
    corner = (80.0, 80.0)
    assert Motion(0.01, 0, 0).size(160) == pytest.approx(
        math.dist(corner, at(Motion(0.01, 0, 0), corner)), 1e-4
    )


# ---- of a picture


@pytest.mark.parametrize(
    ("kind", "size", "shape"),
    [
        ("stretch", (96, 96), (160, 160)),
        ("stretch", (96, 144), (108, 160)),  # as the part is, not as the square working image
        ("letterbox", (96, 144), (160, 160)),
        ("crop", (96, 144), (160, 160)),
        ("stretch", (10, 4000), (32, 160)),
    ],
)
def test_the_small_copy_has_the_aspect_of_the_part(
    kind: str, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert small_shape(framing.frame_of(size, Recipe(image_size=96, resize_size=100, framing=kind))) == shape


def test_edges_count_the_same_whichever_side_is_bright() -> None:
    picture = blobs(1)
    one, other = edges_of(picture, FRAME, (108, 160)), edges_of(255 - picture, FRAME, (108, 160))
    assert agreement(one, other) > 0.999
    assert 0.3 < np.abs(one.field).max() <= 1


def test_the_angle_of_an_edge_is_twice_its_direction() -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, 48:] = 200
    frame = Frame((96, 96), (96, 96), (0, 0), (96, 96))
    upright = edges_of(picture, frame, (96, 96)).field[48, 47:49]
    lying = edges_of(picture.transpose(1, 0, 2).copy(), frame, (96, 96)).field[47:49, 48]
    diagonal = edges_of(255 * np.tri(96, dtype=np.uint8)[..., None].repeat(3, 2), frame, (96, 96)).field[
        48, 48
    ]
    assert (upright.real > 0.5).all()
    np.testing.assert_allclose(upright.imag, 0, atol=1e-5)
    np.testing.assert_allclose(lying, -upright, atol=1e-5)
    assert diagonal.imag < -0.5  # its slope points to the right and up, or the other way
    assert abs(diagonal.real) < 1e-5


def test_border_and_padding_are_not_known() -> None:
    frame = framing.frame_of((48, 96), Recipe(image_size=96, framing="letterbox"))
    edges = edges_of(framing.apply(frame, blobs(2, (48, 96))), frame, (160, 160))
    expected = np.zeros((160, 160), np.uint8)
    expected[43:117, 3:157] = 255
    np.testing.assert_array_equal(edges.known, expected)


# ---- moved and compared


@pytest.mark.parametrize("motion", [Motion(0, 7, -4), Motion(0.4, 3, 5), Motion(-1.5, -8, 2)])
def test_edges_move_as_the_picture_does(motion: Motion) -> None:
    picture = blobs(3)
    warp = warp_of(motion, (108, 160), (96, 144))
    straight = Image.fromarray(picture).transform(
        (144, 96), Image.Transform.AFFINE, warp, Image.Resampling.BICUBIC
    )
    edges, wanted = edges_of(picture, FRAME, (108, 160)), edges_of(np.asarray(straight), FRAME, (108, 160))
    moved = moved_back(edges, motion)
    # beyond the picture's border it was filled with black
    inner = Edges(moved.field, scipy.ndimage.binary_erosion(moved.known, iterations=4).astype(np.uint8))
    assert agreement(inner, wanted) > 0.97
    assert agreement(edges, wanted) < 0.5


def test_edges_agree_with_themselves_and_with_too_little_of_them_not_at_all() -> None:
    edges = edges_of(blobs(4), FRAME, (108, 160))
    assert agreement(edges, edges) == pytest.approx(1)
    assert agreement(edges, Edges(-edges.field, edges.known)) == pytest.approx(-1)
    for share, agreed in ((0.6, 1), (0.4, 0)):
        part = edges.known.copy()
        part[:, int(share * 160) :] = 0
        assert agreement(edges, Edges(edges.field, part)) == pytest.approx(agreed)
    empty = Edges(np.zeros_like(edges.field), edges.known)
    assert agreement(empty, edges) == 0


def test_pooled_are_means_known_where_all_are() -> None:
    edges = edges_of(blobs(5), FRAME, (108, 160))
    coarse = pooled(edges, 4)
    assert coarse.field.shape == coarse.known.shape == (27, 40)
    assert coarse.field[3, 7] == pytest.approx(edges.field[12:16, 28:32].mean(), abs=1e-6)
    assert (coarse.known[1:-1, 1:-1] == 255).all()
    assert not coarse.known[0].any()
    assert pooled(edges, 1) is edges
