"""Framing: to the working image and back, pixel by pixel against SciPy, PyTorch and plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from goodparts import parallel
from goodparts.errors import ImageError
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame
from goodparts.recipe.recipe import Recipe

Array = NDArray[Any]


def recipe_of(kind: str, image_size: int | str | tuple[int, int] = 224, resize_size: int = 256) -> Recipe:
    return Recipe(framing=kind, image_size=image_size, resize_size=resize_size)


def framed(size: tuple[int, int], kind: str, image_size: int | str | tuple[int, int] = 224) -> Frame:
    return framing.frame_of(size, recipe_of(kind, image_size))


def upsampled(grid: Array, size: tuple[int, int]) -> Array:
    """Bilinear with half-pixel centres, as PyTorch does it."""
    tensor = torch.from_numpy(grid.astype(np.float64))[None, None]
    return torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def covering(frame: Frame) -> tuple[Array, Array]:
    """Working coordinates (y, x) of the centre of each row and column of the image."""
    axes = []
    for axis in (0, 1):
        centres = np.arange(frame.image_size[axis]) + 0.5
        axes.append(centres * frame.resized[axis] / frame.image_size[axis] + frame.offset[axis])
    return axes[0], axes[1]


def seen(frame: Frame) -> Array:
    """Which pixels of the image have their centre in the working image."""
    y, x = covering(frame)
    height, width = frame.working_size
    return np.logical_and.outer((y >= 0) & (y < height), (x >= 0) & (x < width))


# ---- the way in


@pytest.mark.parametrize(
    ("kind", "size", "image_size", "resized", "offset"),
    [
        ("stretch", (700, 700), 224, (224, 224), (0, 0)),
        ("stretch", (480, 640), "320x240", (240, 320), (0, 0)),
        ("stretch", (10, 4000), 224, (224, 224), (0, 0)),
        ("letterbox", (500, 500), 224, (224, 224), (0, 0)),
        ("letterbox", (400, 800), 224, (112, 224), (56, 0)),
        ("letterbox", (800, 400), 224, (224, 112), (0, 56)),
        ("letterbox", (100, 50), "320x240", (240, 120), (0, 100)),
        ("letterbox", (240, 320), "320x240", (240, 320), (0, 0)),
        ("crop", (1024, 1024), 224, (256, 256), (-16, -16)),
        ("crop", (300, 600), 224, (256, 512), (-16, -144)),
        ("crop", (601, 300), 224, (512, 256), (-144, -16)),  # 512.85: PyTorch's Resize rounds down
        ("crop", (100, 100), "256x200", (256, 256), (-28, 0)),
    ],
)
def test_where_an_image_comes_to_lie(
    kind: str,
    size: tuple[int, int],
    image_size: int | str,
    resized: tuple[int, int],
    offset: tuple[int, int],
) -> None:
    frame = framed(size, kind, image_size)
    assert (frame.resized, frame.offset) == (resized, offset)
    assert frame.image_size == size
    assert frame.working_size == recipe_of(kind, image_size).image_size


@pytest.mark.parametrize("kind", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [(50, 80), (80, 50), (64, 48), (300, 301)])
def test_the_working_image_is_pillows(kind: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame = framing.frame_of(size, recipe_of(kind, "48x64", 80))
    working = framing.apply(frame, image)
    assert working.shape == (64, 48, 3)
    assert working.dtype == np.uint8
    picture = Image.fromarray(image)
    for step in ((frame.resized[1], size[0]), frame.resized[::-1]):  # Pillow 13 would swap them at times
        picture = picture.resize(step, Image.Resampling.BILINEAR)
    top, left = frame.offset
    if kind == "crop":
        expected = np.asarray(picture.crop((-left, -top, -left + 48, -top + 64)))
    else:
        expected = np.full((64, 48, 3), (124, 116, 104), dtype=np.uint8)
        expected[top : top + frame.resized[0], left : left + frame.resized[1]] = picture
    np.testing.assert_array_equal(working, expected)


def test_an_image_of_the_working_size_is_not_touched() -> None:
    image = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for kind in ("stretch", "letterbox"):
        frame = framed((48, 64), kind, "64x48")
        assert frame == Frame((48, 64), (48, 64), (0, 0), (48, 64))
        np.testing.assert_array_equal(framing.apply(frame, image), image)


def test_a_sliver_can_not_be_letterboxed() -> None:
    assert framed((100, 2800), "letterbox").resized == (8, 224)
    with pytest.raises(
        ImageError, match=r"3200x100 pixels would be 224x7 .* 224x224; take framing = stretch"
    ):
        framed((100, 3200), "letterbox")
    assert framed((1, 3200), "stretch") == Frame((1, 3200), (224, 224), (0, 0), (224, 224))


# ---- what was looked at


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    kind=st.sampled_from(["stretch", "letterbox", "crop"]),
    image_size=st.tuples(st.integers(16, 64), st.integers(16, 64)),
)
@settings(max_examples=100, deadline=None)
def test_the_map_has_the_size_of_the_image_and_nan_where_it_was_cropped(
    size: tuple[int, int], kind: str, image_size: tuple[int, int]
) -> None:
    try:
        frame = framing.frame_of(size, recipe_of(kind, image_size, 80))
    except ImageError:
        assume(False)
    anomaly_map = framing.anomaly_map(np.ones((4, 5), dtype=np.float32), frame, sigma=2.0)
    assert anomaly_map.shape == size
    assert anomaly_map.dtype == np.float32
    np.testing.assert_array_equal(~np.isnan(anomaly_map), seen(frame))
    np.testing.assert_allclose(anomaly_map[seen(frame)], 1, rtol=1e-5)  # weights sum to one everywhere
    assert framing.seen_share(frame) == pytest.approx(seen(frame).mean(), abs=1e-12)
    if kind != "crop":
        assert framing.seen_share(frame) == 1


@pytest.mark.parametrize(
    ("size", "kind", "rows", "columns"),
    [
        ((500, 300), "stretch", (0, 28), (0, 28)),
        ((400, 800), "letterbox", (7, 21), (0, 28)),
        ((800, 400), "letterbox", (0, 28), (7, 21)),
        (
            (700, 800),
            "letterbox",
            (2, 26),
            (0, 28),
        ),  # 14 pixels of padding: not the cells centred at 4 and 12
        ((300, 900), "crop", (0, 28), (0, 28)),
    ],
)
def test_cells_that_look_at_padding_are_not_valid(
    size: tuple[int, int], kind: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    patch_mask = framing.patch_mask(framed(size, kind), (28, 28))
    expected = np.zeros((28, 28), dtype=bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(patch_mask, expected)


@pytest.mark.parametrize("cells", [28, 14, 7])  # strides of 8, 16 and 32 pixels
def test_every_image_has_a_valid_cell(cells: int) -> None:
    for long_side in range(224, 6300, 100):
        try:
            frame = framed((224, long_side), "letterbox")
        except ImageError:
            break
        assert framing.patch_mask(frame, (cells, cells)).any(), frame


# ---- the way back


@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("size", [(64, 96), (150, 100), (31, 40)])
def test_a_stretched_map_is_interpolated_smoothed_and_interpolated(
    size: tuple[int, int], sigma: float
) -> None:
    grid = np.random.default_rng(0).gamma(2.0, 5.0, (8, 12)).astype(np.float32)
    working = upsampled(grid, (64, 96))
    if sigma:
        working = scipy.ndimage.gaussian_filter(working, sigma, mode="reflect", truncate=4.0)
    anomaly_map = framing.anomaly_map(grid, framed(size, "stretch", "96x64"), sigma)
    np.testing.assert_allclose(anomaly_map, upsampled(working, size), rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_a_cropped_map_is_the_inner_part_of_the_image(sigma: float) -> None:
    grid = np.random.default_rng(1).gamma(2.0, 5.0, (8, 8)).astype(np.float32)
    frame = framing.frame_of((160, 200), recipe_of("crop", 64, 80))  # every pixel is two of the image
    working = upsampled(grid, (64, 64))
    if sigma:
        working = scipy.ndimage.gaussian_filter(working, sigma, mode="reflect", truncate=4.0)
    expected = np.full((160, 200), np.nan)
    expected[16:144, 36:164] = upsampled(working, (128, 128))
    np.testing.assert_allclose(framing.anomaly_map(grid, frame, sigma), expected, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_a_letterboxed_map_is_smoothed_among_valid_cells_only(sigma: float) -> None:
    grid = np.random.default_rng(2).gamma(2.0, 5.0, (8, 8)).astype(np.float32)
    frame = framed((100, 200), "letterbox", 64)
    patch_mask = framing.patch_mask(frame, (8, 8))
    assert np.flatnonzero(patch_mask.any(axis=1)).tolist() == [2, 3, 4, 5]
    hidden = np.where(patch_mask, grid, np.float32(np.nan))
    values, weights = upsampled(np.where(patch_mask, grid, 0), (64, 64)), upsampled(patch_mask, (64, 64))
    if sigma:
        values, weights = (
            scipy.ndimage.gaussian_filter(part, sigma, mode="reflect", truncate=4.0)
            for part in (values, weights)
        )
    y, x = (
        np.clip(axis - 0.5, low, high)
        for axis, low, high in zip(covering(frame), (16, 0), (47, 63), strict=True)
    )
    at = np.meshgrid(y, x, indexing="ij")
    parts = [scipy.ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in (values, weights)]
    anomaly_map = framing.anomaly_map(hidden, frame, sigma)
    assert np.isfinite(anomaly_map).all()
    np.testing.assert_allclose(anomaly_map, parts[0] / parts[1], rtol=1e-4)


@given(
    kind=st.sampled_from(["stretch", "letterbox", "crop"]),
    size=st.tuples(st.integers(40, 400), st.integers(40, 400)),
    grid=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    sigma=st.sampled_from([0.0, 2.0, 4.0]),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_hot_cell_is_found_where_it_lies_in_the_image(
    kind: str, size: tuple[int, int], grid: tuple[int, int], sigma: float, data: st.DataObject
) -> None:
    frame = framing.frame_of(size, recipe_of(kind, (96, 128), 160))
    patch_mask = framing.patch_mask(frame, grid)
    assume(patch_mask.any())
    hot = data.draw(st.sampled_from([tuple(cell) for cell in np.argwhere(patch_mask).tolist()]))
    distances = np.where(patch_mask, np.float32(1), np.float32(np.nan))
    distances[hot] = 10
    anomaly_map = framing.anomaly_map(distances, frame, sigma)
    peak = np.unravel_index(np.nanargmax(anomaly_map), size)
    for axis in (0, 1):
        cell = frame.working_size[axis] / grid[axis]
        scale = frame.image_size[axis] / frame.resized[axis]
        centre = ((hot[axis] + 0.5) * cell - frame.offset[axis]) * scale
        # Within the cell; but beside padding it is as hot up to the border of the image, which is less than a cell.
        lines = patch_mask.any(axis=1 - axis)
        inner = 0 < hot[axis] < grid[axis] - 1 and lines[hot[axis] - 1] and lines[hot[axis] + 1]
        assert abs(peak[axis] + 0.5 - centre) <= (0.5 if inner else 1) * cell * scale + scale + 1


@pytest.mark.parametrize(
    ("kind", "size", "cell", "expected"),
    [
        # 28 x 28 cells of 8 working pixels; the centre of cell i is at 8 i + 4
        ("stretch", (448, 896), (10, 20), (168, 656)),  # 84 and 164, times 2 and 4
        ("letterbox", (448, 896), (10, 20), (112, 656)),  # 84 - 56 = 28 and 164, times 4
        ("crop", (512, 768), (10, 20), (200, 488)),  # 84 + 16 and 164 + 80, times 2
    ],
)
def test_a_hot_cell_in_worked_examples(
    kind: str, size: tuple[int, int], cell: tuple[int, int], expected: tuple[int, int]
) -> None:
    frame = framed(size, kind)
    distances = np.where(framing.patch_mask(frame, (28, 28)), np.float32(0), np.float32(np.nan))
    distances[cell] = 1
    anomaly_map = np.nan_to_num(framing.anomaly_map(distances, frame, 4.0))
    centre = scipy.ndimage.center_of_mass(anomaly_map)
    assert np.array(centre) + 0.5 == pytest.approx(expected, abs=0.1)
    assert np.unravel_index(anomaly_map.argmax(), size) == pytest.approx(expected, abs=2)


@given(
    size=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    kind=st.sampled_from(["stretch", "letterbox", "crop"]),
    sigma=st.sampled_from([0.0, 1.5, 20.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_map_stays_within_the_distances(
    size: tuple[int, int], kind: str, sigma: float, seed: int
) -> None:
    frame = framing.frame_of(size, recipe_of(kind, (48, 64), 80))
    grid = np.random.default_rng(seed).random((6, 8)).astype(np.float32)
    grid[~framing.patch_mask(frame, (6, 8))] = np.nan
    assume(np.isfinite(grid).any())
    anomaly_map = framing.anomaly_map(grid, frame, sigma)
    assert np.nanmax(anomaly_map) <= np.nanmax(grid) * (1 + 1e-5)
    assert np.nanmin(anomaly_map) >= np.nanmin(grid) * (1 - 1e-5)


def test_the_map_is_linear_in_the_distances_and_leaves_them_alone() -> None:
    rng = np.random.default_rng(6)
    one, two = rng.random((2, 6, 6)).astype(np.float32)
    before = one.copy()
    frame = framed((90, 70), "crop", 64)
    sum_of_maps = framing.anomaly_map(one, frame, 2.0) + 3 * framing.anomaly_map(two, frame, 2.0)
    np.testing.assert_allclose(framing.anomaly_map(one + 3 * two, frame, 2.0), sum_of_maps, rtol=1e-4)
    np.testing.assert_array_equal(one, before)


def test_a_map_may_be_written_to_without_harm_to_the_next() -> None:
    grid = np.random.default_rng(7).random((6, 6)).astype(np.float32)
    frame = framed((90, 70), "stretch", 64)
    first = framing.anomaly_map(grid, frame, 2.0)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(framing.anomaly_map(grid, frame, 2.0), kept)


# ---- shares of cells -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "size", "sums"),
    [
        ({}, (90, 60), [1] * 8),
        ({"framing": "letterbox"}, (32, 64), [0, 0, 1, 1, 1, 1, 0, 0]),
        ({"framing": "letterbox"}, (48, 64), [0, 1, 1, 1, 1, 1, 1, 0]),
        ({"framing": "letterbox"}, (40, 64), [0, 0.5, 1, 1, 1, 1, 0.5, 0]),
        ({"framing": "crop", "resize_size": 80}, (160, 200), [1] * 8),
    ],
    ids=str,
)
def test_cell_shares_sum_to_what_a_cell_sees_of_the_image(
    keys: dict[str, object], size: tuple[int, int], sums: list[float]
) -> None:
    frame = framing.frame_of(size, Recipe(image_size=64, **keys))  # type: ignore[arg-type]
    shares = framing.cell_shares(frame, 0, 8)
    assert shares.shape == (8, size[0])
    np.testing.assert_allclose(shares.sum(axis=1), sums, atol=1e-12)


def test_cell_shares_of_a_plain_grid() -> None:
    frame = framing.frame_of((6, 6), Recipe(image_size=64))
    np.testing.assert_allclose(
        framing.cell_shares(frame, 1, 4)[:2],
        [[2 / 3, 1 / 3, 0, 0, 0, 0], [0, 1 / 3, 2 / 3, 0, 0, 0]],
        atol=1e-12,
    )


def test_what_is_cropped_is_seen_in_part() -> None:
    crop = framing.frame_of((50, 40), Recipe(image_size=32, framing="crop", resize_size=40))
    assert framing.pixel_mask(crop).mean() == pytest.approx(framing.seen_share(crop))


# ---- straightened --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stretch", "letterbox", "crop"])
def test_a_map_of_a_straightened_image_comes_back_to_where_the_image_has_it(kind: str) -> None:
    frame = framing.frame_of((120, 180), Recipe(image_size=96, framing=kind, resize_size=100))
    cos, sin = math.cos(0.3), math.sin(0.3)
    frame = replace(frame, warp=(cos, -sin, 12.0, sin, cos, -9.0))
    at = (50.3, 40.8)  # (x, y) in the straightened working image
    y, x = np.mgrid[:48, :48] * 2 + 1.0
    grid = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 72).astype(np.float32)
    found_map = framing.anomaly_map(grid, frame, 0)
    assert found_map.shape == (120, 180)
    before = cos * at[0] - sin * at[1] + 12, sin * at[0] + cos * at[1] - 9
    expected = [
        (before[i] - frame.offset[1 - i]) * frame.image_size[1 - i] / frame.resized[1 - i] for i in (0, 1)
    ]
    row, column = np.unravel_index(np.nanargmax(found_map), found_map.shape)
    assert abs(column + 0.5 - expected[0]) < 2
    assert abs(row + 0.5 - expected[1]) < 2


def test_what_was_not_looked_at_is_nan_and_what_lies_beyond_the_border_does_not_count() -> None:
    frame = Frame((100, 100), (100, 100), (0, 0), (100, 100), warp=(1, 0, 20.0, 0, 1, 0.0))
    patch_mask = framing.patch_mask(frame, (10, 10))
    np.testing.assert_array_equal(patch_mask, np.tile(np.arange(10) < 7, (10, 1)))
    grid = np.where(patch_mask, np.float32(1), np.float32(np.nan))
    found_map = framing.anomaly_map(grid, frame, 2)
    assert np.isnan(found_map[:, :20]).all()  # shifted out of the straightened image
    np.testing.assert_allclose(found_map[:, 20:90], 1, rtol=1e-5)
    assert np.isnan(found_map[:, 90:]).all()  # beside what lay beyond the border
    assert framing.seen_share(frame) == pytest.approx(0.8)


def test_beyond_the_border_a_good_part_is_shown() -> None:
    frame = Frame((8, 8), (8, 8), (0, 0), (8, 8), warp=(1, 0, 3.0, 0, 1, 0.0))
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    beyond = np.full((8, 8, 3), 7, np.uint8)
    straight = framing.straighten(frame, picture, beyond)
    np.testing.assert_array_equal(straight[:, :5], picture[:, 3:])
    np.testing.assert_array_equal(straight[:, 5:], beyond[:, 5:])


def test_padding_of_a_letterbox_does_not_count_when_it_is_turned() -> None:
    frame = framing.frame_of((50, 100), Recipe(image_size=100, framing="letterbox"))
    frame = replace(frame, warp=(1, 0, 0.0, 0, 1, -10.0))
    patch_mask = framing.patch_mask(frame, (20, 20))
    assert patch_mask[8:16].all()
    assert not patch_mask[:8].any()
    assert not patch_mask[16:].any()


@pytest.mark.parametrize("size", [(600, 500), (512, 64), (257, 300), (100, 90), (48, 400), (36, 300)])
@pytest.mark.parametrize("keys", [{}, {"framing": "letterbox"}, {"framing": "crop", "resize_size": 100}])
@pytest.mark.parametrize(("cores", "band"), [(1, 20_000), (2, 20_000), (3, 2**20)])
def test_large_images_are_resized_to_the_same_bytes(
    size: tuple[int, int], keys: dict[str, Any], cores: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    frame = framing.frame_of(size, Recipe(image_size=96, **keys))
    monkeypatch.setattr(framing, "_SMALL", image.size)
    whole = framing.apply(frame, image)
    monkeypatch.setattr(framing, "_SMALL", 0)
    monkeypatch.setattr(framing, "_BAND", band)
    monkeypatch.setattr(framing, "_WORTH_A_CORE", 1000)
    monkeypatch.setattr(framing, "_ROWS", 1)
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    np.testing.assert_array_equal(framing.apply(frame, image), whole)


@pytest.mark.parametrize(
    ("rows", "resized", "exactly"),
    [
        (700, 320, True),
        (512, 320, False),
        (48, 96, True),
        (2**15, 2**6, False),
        (513, 512, True),
        (513, 1024, False),
    ],
)
def test_parts_begin_where_binary_fractions_hold(rows: int, resized: int, exactly: bool) -> None:
    """A part that began elsewhere by the rounding of single precision could have other bytes."""
    assert framing._begins_exactly(rows, resized) is exactly


@given(
    resized=st.integers(1, 64),
    eighths=st.integers(1, 64),
    width=st.integers(1, 40),
    new_width=st.integers(1, 40),
    parts=st.integers(2, 7),
    seed=st.integers(0, 100),
)
def test_an_image_resized_in_parts_has_the_bytes_of_the_whole(
    resized: int, eighths: int, width: int, new_width: int, parts: int, seed: int
) -> None:
    rows = max(1, resized * eighths // 8)
    image = np.random.default_rng(seed).integers(0, 256, (rows, width, 3), dtype=np.uint8)
    with mock.patch.object(framing, "_parts", return_value=parts), mock.patch.object(framing, "_ROWS", 1):
        found = framing._resized(image, (resized, new_width))
    across = Image.fromarray(image).resize((new_width, rows), Image.Resampling.BILINEAR)
    whole = np.asarray(across.resize((new_width, resized), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found, whole)


def test_which_patches_look_at_the_image_is_not_to_be_written_to() -> None:
    """It is the same array for all images of a size."""
    frame = framing.frame_of((50, 100), Recipe(image_size=100, framing="letterbox"))
    patch_mask = framing.patch_mask(frame, (10, 10))
    assert framing.patch_mask(frame, (10, 10)) is patch_mask
    with pytest.raises(ValueError, match="read-only"):
        patch_mask[0, 0] = True


@given(
    size=st.tuples(st.integers(40, 300), st.integers(40, 200)),
    kind=st.sampled_from(["stretch", "letterbox", "crop"]),
    sigma=st.sampled_from([0.0, 2.0, 9.0]),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_no_row_is_above_a_value_that_is_said_not_to_be(
    size: tuple[int, int], kind: str, sigma: float, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = framing.frame_of(size, recipe_of(kind, 96, 110))
    grid = np.exp(3 * rng.standard_normal((12, 12))).astype(np.float32)
    grid[rng.random((12, 12)) < 0.2] = np.nan
    with np.errstate(invalid="ignore"):
        anomaly_map = framing.anomaly_map(grid, frame, sigma)
        value = float(np.quantile(grid[~np.isnan(grid)], share))
        rows = framing.rows_above(grid, frame, sigma, value)
        elsewhere = np.delete(anomaly_map, rows, axis=0)
        assert not (elsewhere > value).any()


def test_rows_above_a_value_are_few_where_a_defect_is_small() -> None:
    frame = framing.frame_of((700, 700), recipe_of("stretch", 320))
    grid = np.ones((40, 40), dtype=np.float32)
    assert framing.rows_above(grid, frame, 4, 1.0) == slice(0, 700)  # within rounding
    assert framing.rows_above(grid, frame, 4, 1.1) == slice(0, 0)
    grid[20, 3] = 9
    rows = framing.rows_above(grid, frame, 4, 1.1)
    assert rows.start <= 350 < rows.stop
    assert rows.stop - rows.start < 200
    turned = replace(frame, warp=(1, 0, 0.0, 0, 1, 2.0))
    assert framing.rows_above(grid, turned, 4, 1.1) == slice(0, 700)
