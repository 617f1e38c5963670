"""Tiles: how they lie, and how their distances become one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plates import GRID, SIZE, Search, searched

from goodparts import Recipe
from goodparts.errors import RecipeError
from goodparts.preprocessing.tiling import NEEDED, Tiling, plan
from goodparts.recipe.values import tile_size


def recipe_of(tiling: str = "64x64+16", **keys: Any) -> Recipe:
    return Recipe(image_size=64, tiling=tiling, **keys)


def planned(size: tuple[int, int], recipe: Recipe) -> Tiling:
    return plan(size, recipe, GRID)


# ---- the key -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("640x480+64", ((480, 640), 64)),
        ("640X480 ", ((480, 640), 0)),
        ("640+64", ((640, 640), 64)),
    ],
)
def test_tiles_are_read(text: str, expected: tuple[tuple[int, int], int]) -> None:
    assert tile_size(text) == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tiling": "many"}, ("tiling", "640x640+64", "'many'")),
        ({"tiling": "640x640-64"}, ("tiling", "640x640+64")),
        ({"tiling": "64x64+64"}, ("tiling", "less than that")),
        ({"tiling": "8x8"}, ("tiling", "16x16")),
        ({"tiling": "auto"}, ("smallest_defect", "12")),
        ({"tiling": "64x64", "framing": "letterbox"}, ("tiling", "framing = letterbox", "stretch")),
        ({"tiling": "64x64", "framing": "crop"}, ("tiling", "framing = crop", "stretch")),
        ({"tiling": "64x64", "light": "colour"}, ("tiling", "light = colour", "as_is")),
        ({"smallest_defect": 12}, ("smallest_defect: 12", "tiling = auto", "leave out")),
        ({"tile_bank": "position"}, ("tile_bank", "tiling = 640x640+64", "shared")),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**keys)
    assert [word for word in words if word not in str(caught.value)] == []


def test_off_is_no_tiling() -> None:
    whole = plan(SIZE, Recipe(image_size=64), GRID)
    assert not whole.several
    assert (whole.canvas, whole.tile, whole.grid, whole.tile_grid) == ((64, 64), (64, 64), GRID, GRID)
    canvas = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(whole.pixels(canvas, 0), canvas)
    mask = np.random.default_rng(1).random(GRID) < 0.5
    np.testing.assert_array_equal(whole.crop_mask(mask, 0), mask)
    distances = np.random.default_rng(2).random(GRID, dtype=np.float32)
    merged = whole.merge({0: distances}, mask)
    np.testing.assert_array_equal(merged[mask], distances[mask])
    assert np.isnan(merged[~mask]).all()


# ---- how they lie --------------------------------------------------------------------------------


@given(
    height=st.integers(20, 3000),
    width=st.integers(20, 3000),
    tile=st.tuples(st.integers(32, 400), st.integers(32, 400)),
    overlap=st.integers(0, 28),
)
@settings(deadline=None, max_examples=50)
def test_tiles_cover_the_canvas_on_one_grid(
    height: int, width: int, tile: tuple[int, int], overlap: int
) -> None:
    tiling = planned((height, width), recipe_of(f"{tile[1]}x{tile[0]}+{overlap}"))
    covered = np.zeros(tiling.grid, dtype=int)
    total = np.zeros(tiling.grid)
    for index in range(len(tiling)):
        window = tiling._window(index)
        covered[window] += 1
        total[window] += tiling.weight(index)
    assert covered.min() >= 1
    assert total.min() > 0.49  # where three tiles overlap in a row, a little less than 1
    for axis, begins in enumerate((tiling.rows, tiling.columns)):
        assert begins[0] == 0
        assert begins[-1] + tiling.tile[axis] == tiling.canvas[axis]
        assert all(begin % tiling.cell[axis] == 0 for begin in begins)
        steps = np.diff(begins)
        assert (steps > 0).all()
        wanted = overlap * tiling.tile[axis] / tile[axis]
        assert (tiling.tile[axis] - steps >= wanted - 1e-6).all()


def test_weights_of_two_neighbours_sum_to_one() -> None:
    tiling = planned((64, 112), recipe_of())
    assert tiling.columns == (0, 48)
    left, right = tiling.weight(0)[0], tiling.weight(1)[0]
    np.testing.assert_allclose(left[6:] + right[:2], 1, rtol=1e-6)
    assert (left[:6] == 1).all()  # at the border of the image, too


def test_what_lies_at_a_tiles_edge_has_no_weight() -> None:
    tiling = planned((64, 96), recipe_of("64x64+32"))
    np.testing.assert_array_equal(tiling.weight(1)[0] > 0, [False, True, True, True, True, True, True, True])
    everywhere = np.ones(tiling.grid, dtype=bool)
    assert not tiling.crop_mask(everywhere, 1)[:, 0].any()
    assert tiling.crop_mask(everywhere, 0)[:, 0].all()


def test_an_image_that_fits_is_one_tile() -> None:
    assert len(planned((60, 64), recipe_of())) == 1


def test_auto_reduces_as_far_as_the_smallest_defect_allows() -> None:
    fine = planned((3000, 4000), recipe_of("auto", smallest_defect=NEEDED / 2))
    assert fine.canvas == (3000, 4000)  # never enlarged
    coarse = planned((3000, 4000), recipe_of("auto", smallest_defect=2.5 * NEEDED))
    assert coarse.canvas == (1200, 1600)
    assert coarse.columns[1] <= 64 - 6  # tiles overlap by the defect


@pytest.mark.parametrize(
    ("tiling", "words"),
    [
        ("128x128+32", "400x240 px in 4 x 3 tiles of 128x128 px, 32 px overlap or more, reduced by 2"),
        ("32x32+8", "enlarged by 2"),
        ("128x64+16", "reduced by 2 across and not reduced down"),
        ("128x192+16", "reduced by 2 across and 3 down"),
    ],
)
def test_in_words(tiling: str, words: str) -> None:
    assert words in planned((240, 400), recipe_of(tiling)).in_words((240, 400))


def test_cells_have_to_be_whole() -> None:
    with pytest.raises(RecipeError, match=r"image_size: 64x64.*7x7 patches.*multiple of 32"):
        plan(SIZE, recipe_of(), (7, 7))


def test_an_overlap_rounded_up_to_cells_leaves_a_tile_room() -> None:
    with pytest.raises(RecipeError, match=r"tiling: 64x64\+60.*smaller"):
        plan(SIZE, recipe_of("64x64+60"), GRID)


def test_a_canvas_has_its_limits() -> None:
    with pytest.raises(
        RecipeError, match=r"tiling: 32x32\+8: .* 60000x30 .* 120000 working pixels.*larger tiles"
    ):
        plan((30, 60000), recipe_of("32x32+8"), GRID)


def test_json() -> None:
    tiling = planned(SIZE, recipe_of())
    assert Tiling.from_json(tiling.to_json()) == tiling


# ---- one grid of many ----------------------------------------------------------------------------


def of_field(field: NDArray[np.float32], tiling: Tiling) -> Search:
    """What finds in each tile what a field of the canvas has there."""
    return lambda index: (field[tiling._window(index)], float(field[tiling._window(index)].max()))


@pytest.mark.parametrize("tiling", ["64x64+16", "64x64+40", "64x64"])
def test_what_tiles_agree_on_is_what_comes_out(tiling: str) -> None:
    lies = planned(SIZE, recipe_of(tiling))
    field = np.random.default_rng(0).uniform(1, 2, lies.grid).astype(np.float32)
    everywhere = np.ones(lies.grid, dtype=bool)
    merged, score = searched(lies, of_field(field, lies), everywhere, recipe_of(tiling))
    np.testing.assert_allclose(merged, field, rtol=1e-6)
    assert score == pytest.approx(field.max())


def test_where_tiles_differ_no_seam_is_left() -> None:
    tiling = planned((64, 160), recipe_of("64x64+40"))
    levels = [float(index) for index in range(len(tiling))]
    merged, _ = searched(
        tiling,
        lambda index: (np.full(GRID, levels[index], dtype=np.float32), 0.0),
        np.ones(tiling.grid, dtype=bool),
        recipe_of(),
    )
    assert np.abs(np.diff(merged, axis=1)).max() < 0.5
    assert merged[0, 0] == 0
    assert merged[0, -1] == levels[-1]


def test_tiles_where_nothing_is_looked_at_are_not_searched() -> None:
    tiling = planned(SIZE, recipe_of())
    cells = np.zeros(tiling.grid, dtype=bool)
    cells[2:5, 2:5] = True
    field = np.ones(tiling.grid, dtype=np.float32)
    asked = []

    def search(index: int) -> tuple[NDArray[np.float32], float]:
        asked.append(index)
        return of_field(field, tiling)(index)

    merged, score = searched(tiling, search, cells, recipe_of())
    assert asked == [0]
    np.testing.assert_array_equal(np.isnan(merged), ~cells)
    assert score == 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"image_score": "max"}, 9.0),
        ({"image_score": "top_mean", "top_share": 1e-6}, 9.0),
        ({"image_score": "top_mean", "top_share": 1.0}, 1.0),
        ({"image_score": "reweighted"}, 9.0),
    ],
)
def test_scores(keys: dict[str, Any], expected: float) -> None:
    recipe = recipe_of(**keys)
    tiling = planned(SIZE, recipe)
    field = np.ones(tiling.grid, dtype=np.float32)
    field[4, 4] = 9
    _, score = searched(tiling, of_field(field, tiling), np.ones(tiling.grid, dtype=bool), recipe)
    assert score == pytest.approx(expected, abs=0.02)


def test_more_tiles_than_anybody_waits_for_are_refused() -> None:
    recipe = Recipe(tiling="320x320+310", image_size=320)
    with pytest.raises(RecipeError, match=r"would be .* tiles, and 20,000 is the most; take larger tiles"):
        plan((4000, 4000), recipe, (40, 40))
    assert len(plan((4000, 4000), Recipe(tiling="320x320+160", image_size=320), (40, 40))) < 1000
