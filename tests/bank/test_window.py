"""Position windows: what a patch meets, that the bank has it there, and that nothing within the window is missed."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_features import exact, good_features_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts import Inspector, Recipe, read_dataset
from goodparts.bank import coreset, search_space, window_blocks
from goodparts.bank.grid_positions import ANYWHERE, ELSEWHERE
from goodparts.bank.held_out import Excluding
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import choose, extend
from goodparts.bank.scoring import FAR
from goodparts.bank.search_graph import search_graph, side_by_side
from goodparts.bank.window import EVERYWHERE, Everywhere, Window, window_of
from goodparts.data.dataset import good_images
from goodparts.data.images import read_image
from goodparts.decision import leave_one_out, replacements
from goodparts.engines.engine import open_engine
from goodparts.errors import ModelError, RecipeError
from goodparts.features.extract import Extractor, GoodFeatures
from goodparts.model import file as model_file
from goodparts.preprocessing import framing
from goodparts.recipe.presets import PRESETS

Array = NDArray[Any]
GRID = (5, 6)
CELLS = GRID[0] * GRID[1]
EXACT: dict[str, Any] = {
    "image_size": "60x50",
    "projection_dimensions": 0,
    "smoothing_sigma": 0,
    "score_neighbours": 1,
    "density_neighbours": 0,
}  # cells of 10 pixels


def cells(*of: int) -> NDArray[np.int32]:
    return np.array(of, dtype=np.int32)


def whole(window: Window) -> NDArray[np.int32]:
    return np.arange(window.grid[0] * window.grid[1], dtype=np.int32)


# ---- windows


@pytest.mark.parametrize(
    ("pixels", "image_size", "grid", "reach"),
    [
        (0, 320, (40, 40), None),
        (24, 320, (40, 40), (3, 3)),
        (23.9, 320, (40, 40), (2, 2)),
        (5, 320, (40, 40), (0, 0)),  # narrower than a cell
        (24, "320x160", (20, 40), (3, 3)),
        (24, "300x160", (10, 20), (1, 1)),
        (30, "300x150", (10, 20), (2, 2)),
        (30, "300x150", (15, 20), (3, 2)),
        (311, 320, (40, 40), (38, 38)),
        (312, 320, (40, 40), None),  # from corner to corner
        (200, "320x160", (20, 40), (25, 25)),  # every row, but not every column
    ],
)
def test_a_window_in_pixels_is_one_in_cells(
    pixels: float, image_size: Any, grid: tuple[int, int], reach: tuple[int, int] | None
) -> None:
    recipe = Recipe(image_size=image_size, position_window=pixels)
    window = window_of(recipe, grid)
    assert (window.reach if isinstance(window, Window) else None) == reach


def test_off_by_default_and_checked() -> None:
    assert Recipe().position_window == 0
    for value in (-1, 5000):
        with pytest.raises(RecipeError, match="position_window: expected 0 to 4096"):
            Recipe(position_window=value)


def test_cells_see_each_other_both_ways_within_the_window() -> None:
    window = Window((4, 5), (1, 2))
    seen = window.sees(whole(window), whole(window))
    rows, columns = np.divmod(np.arange(20), 5)
    for one in range(20):
        for other in range(20):
            near = abs(rows[one] - rows[other]) <= 1 and abs(columns[one] - columns[other]) <= 2
            assert seen[one, other] == near


def test_rows_of_patches_have_cells_image_by_image_and_grid_by_grid() -> None:
    window = Window((2, 3), (0, 0))
    assert window.cells_of(np.array([0, 5, 6, 11, 12, 23])).tolist() == [0, 5, 0, 5, 0, 5]


# ---- the greedy choice


WINDOWS = st.builds(
    Window,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)


@given(WINDOWS, st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_the_greedy_choice_measures_within_the_window(window: Window, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    n = data.draw(st.integers(3, 120))
    points = rng.integers(-20, 20, (n, 3)).astype(np.float32)  # exact in float32
    where = rng.integers(0, window.grid[0] * window.grid[1], n).astype(np.int32)
    positions = window.positions(where)
    start = positions.cover(np.random.default_rng(seed))
    count = data.draw(st.integers(len(start), n))
    found = coreset.greedy(points, count, start=start, positions=positions)
    squared = np.square(points[:, None] - points).sum(axis=2)
    squared[~window.sees(where, where)] = np.inf
    nearest = squared[:, start].min(axis=1)
    assert np.isfinite(nearest).all()  # every point sees one of those it starts with
    expected = start.tolist()
    nearest[start] = -1
    while len(expected) < count:
        expected.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, squared[expected[-1]])
        nearest[expected] = -1
    assert found.tolist() == expected


@given(WINDOWS, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_positions_add_nothing_within_the_window_and_much_outside(window: Window, seed: int) -> None:
    where = whole(window)
    positions = window.positions(where)
    points = where.astype(np.int64)
    added = np.zeros((len(where), len(where)), dtype=np.float32)
    positions.hide(added, points)
    seen = window.sees(where, where)
    assert (added[seen] == 0).all()
    assert (added[~seen] >= ELSEWHERE).all()
    assert np.isfinite(added).all()
    for region in range(positions.region_count):
        visible = np.flatnonzero(seen[positions.regions == region].any(axis=0))
        np.testing.assert_array_equal(positions.visible(region, where), visible)
        batches = list(positions.visible_picks(region, points, 0, 7))
        np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), visible)
        assert batches[-1][1] == len(points)
    together = positions.by_region(points)
    np.testing.assert_array_equal(np.sort(np.concatenate(together)), where)
    assert all(len(np.unique(positions.regions[rows])) == 1 for rows in together)


def test_where_every_point_sees_every_other_nothing_is_added_or_left_out() -> None:
    points = np.arange(10)
    between = np.ones((10, 10), dtype=np.float32)
    ANYWHERE.hide(between, points)
    assert (between == 1).all()
    assert ANYWHERE.here(points).shape == ANYWHERE.elsewhere(points).shape == (10, ANYWHERE.width)
    assert list(ANYWHERE.visible_picks(0, points, 3, 4)) == [(slice(3, 7), 7), (slice(7, 10), 10)]
    values = np.ones((2, 2), dtype=np.float32)
    EVERYWHERE.hide(values, cells(0, 1), cells(8, 9))
    assert (values == 1).all()
    assert len(EVERYWHERE.repeated(cells(0, 0))[0]) == len(EVERYWHERE.needed_images(cells(0, 1))) == 0


@given(WINDOWS, st.integers(0, 1000), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_entries_are_repeated_where_a_cell_would_see_none(window: Window, seed: int, m: int) -> None:
    everywhere = whole(window)
    entries = np.random.default_rng(seed).integers(0, len(everywhere), m).astype(np.int32)
    which, at = window.repeated(entries)
    before = window.sees(everywhere, entries).any(axis=1)
    assert not before[at].any()  # only where it is needed
    assert window.sees(everywhere, np.concatenate([entries, at])).any(axis=1).all()
    rows, columns = np.divmod(everywhere, window.grid[1])
    for entry, cell in zip(which, at, strict=True):
        apart = np.hypot(rows[entries] - rows[cell], columns[entries] - columns[cell])
        assert apart[entry] == apart.min()
    if before.all():
        assert len(which) == 0


# ---- the search


@given(WINDOWS, st.integers(0, 1000), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_a_block_has_all_that_its_cells_see_and_hides_the_rest(window: Window, seed: int, m: int) -> None:
    where = np.random.default_rng(seed).integers(0, window.grid[0] * window.grid[1], m).astype(np.int32)
    blocks = window_blocks.cut(window.positions(where)).padded(m + 3)
    seen = window.sees(whole(window), where)
    shown = [
        entries[~out_of_sight]
        for of_list, entries, hidden in zip(blocks.cells, blocks.entries, blocks.hidden, strict=True)
        for _, out_of_sight in zip(of_list, hidden, strict=True)
    ]
    for cell, rows in enumerate(blocks.rows):
        met = rows[rows >= 0]
        assert (blocks.cells.ravel()[met] == cell).all()
        assert (
            np.sort(np.concatenate([shown[row] for row in met])).tolist()
            == np.flatnonzero(seen[cell]).tolist()
        )


def test_where_entries_lie_close_blocks_have_more_lists() -> None:
    rng = np.random.default_rng(0)
    where = np.concatenate([rng.integers(0, 1600, 2000), rng.integers(600, 620, 2000)]).astype(np.int32)
    blocks = window_blocks.cut(Window((40, 40), (3, 3)).positions(where))
    met = (blocks.rows >= 0).sum(axis=1)
    assert met.min() == 1
    assert met[610] > 1
    assert blocks.cells.size * blocks.entries.shape[1] < 1600 * 4000 / 6


def test_blocks_are_small_where_windows_are() -> None:
    rng = np.random.default_rng(0)
    entries = rng.integers(0, 1600, 4000).astype(np.int32)
    wide, narrow = (
        window_blocks.cut(Window((40, 40), (reach, reach)).positions(entries)) for reach in (30, 3)
    )
    assert narrow.cells.shape[1] * narrow.entries.shape[1] < wide.cells.shape[1] * wide.entries.shape[1]
    assert narrow.cells.size * narrow.entries.shape[1] < 1600 * 4000 / 6  # of the work of a search everywhere


def made_up(images: int, d: int, seed: int, *, more: int = 0, wide: int = 99) -> NDArray[np.float32]:
    """Features (images, cells, d) that depend on the cell, and a little on the image; away from zero.

    `more` makes other images of the same part. They hardly vary in any but the first `wide` dimensions.
    """
    of_cell = np.random.default_rng(seed).normal(size=(1, CELLS, d)) * 2
    of_image = np.random.default_rng((seed, more)).normal(size=(images, CELLS, d))
    return ((of_cell + of_image) * np.where(np.arange(d) < wide, 1, 1e-3) + 9).astype(np.float32)


def bank_of(features: Array, recipe: Recipe, patch_mask: NDArray[np.bool_] | None = None) -> MemoryBank:
    if patch_mask is None:
        patch_mask = np.ones(features.shape[:2], dtype=bool)
    return choose(exact(features, recipe), patch_mask, recipe, grid=GRID)


def brute_force(
    patches: Array, bank: MemoryBank, window: Window, shown: Array | None = None, neighbours: int = 1
) -> Array:
    """Distances (cells,) of the patches (cells, d) of an image to the nearest entries within the window."""
    difference = patches[:, None].astype(np.float64) - bank.features
    distances = np.sqrt((difference**2).sum(axis=2))
    distances[~window.sees(whole(window), bank.cells)] = np.inf
    if shown is not None:
        distances[:, ~shown] = np.inf
    nearest = distances.argsort(axis=1)[:, :neighbours]
    found = np.take_along_axis(distances, nearest, axis=1)
    there = np.isfinite(found)
    assert there[:, 0].all()  # every cell sees an entry
    units = 1 if bank.local_scale is None else bank.local_scale[nearest[:, :1]]
    return np.asarray(np.where(there, found / units, 0).sum(axis=1) / there.sum(axis=1))


def found_by(bank: MemoryBank, recipe: Recipe, patches: Array, **inputs: Array) -> dict[str, Array]:
    told = [Excluding(bank, np.full(len(bank.features), -1, dtype=np.int32))] if "excluded" in inputs else []
    graph = search_graph(bank, GRID, recipe, held_out=told, masked="valid" in inputs)
    inputs["patch_features"] = patches.reshape(-1, *GRID, patches.shape[-1])
    return dict(open_engine(graph, {name: value.shape for name, value in inputs.items()})(inputs))


def test_what_only_one_place_shows_is_not_far_there() -> None:
    """As at a border: one entry stands for what is always there, and the window has no other like it."""
    features = made_up(20, 8, 1)
    features[:, 7] = 60 + 0.3 * made_up(20, 8, 2)[:, 7]
    keys = EXACT | {
        "score_neighbours": 3,
        "density_neighbours": 9,
        "sampling_ratio": 0.2,
        "position_window": 20,
    }
    recipe = Recipe(**keys)
    bank = bank_of(features, recipe)
    assert bank.local_scale is not None
    assert bank.local_scale.max() > 1.5 * bank.local_scale.min()  # whatever `density_limit` says
    usual = float(np.median(found_by(bank, recipe, made_up(3, 8, 1, more=1))["distance_grid"]))
    patches = made_up(3, 8, 1, more=1)
    patches[:, 7] = features[:3, 7]
    found = found_by(bank, recipe, patches)["distance_grid"].reshape(3, -1)[:, 7] / usual
    assert found.max() < 1.5  # divided by each entry's own local scale it would be more than 3


@given(
    window=st.sampled_from([1, 10, 20, 30, 40]),
    ratio=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    images=st.integers(1, 40),
    d=st.integers(1, 12),
    sampling=st.sampled_from(["greedy", "random"]),
    search_dimensions=st.sampled_from([0, 3]),
    neighbours=st.sampled_from([1, 3]),
    density_neighbours=st.sampled_from([0, 4]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_brute_force_within_the_window(
    window: int,
    ratio: float,
    images: int,
    d: int,
    sampling: str,
    search_dimensions: int,
    neighbours: int,
    density_neighbours: int,
    seed: int,
) -> None:
    keys = {
        "position_window": window,
        "sampling": sampling,
        "sampling_ratio": ratio,
        "search_dimensions": search_dimensions,
        "score_neighbours": neighbours,
        "density_neighbours": density_neighbours,
        "seed": seed,
    }
    recipe = Recipe(**EXACT | keys)
    wide = search_dimensions or d  # the search takes principal dimensions only if these are enough
    bank = bank_of(made_up(images, d, seed, wide=wide), recipe)
    patches = made_up(3, d, seed, more=1, wide=wide)
    found = found_by(bank, recipe, patches)
    within = window_of(recipe, GRID)
    if isinstance(within, Everywhere):
        assert not bank.cells.any()
        return
    expected = np.stack([brute_force(image, bank, within, neighbours=neighbours) for image in patches])
    np.testing.assert_allclose(found["distance_grid"].reshape(3, CELLS), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["score"], expected.max(axis=1), rtol=1e-4, atol=1e-5)


def test_entries_elsewhere_are_not_found_however_near() -> None:
    features = made_up(6, 4, 0)
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=1, sampling_limit=0)
    bank = bank_of(features, recipe)
    turned = features[:1, ::-1]  # the part lies the other way round
    assert found_by(bank, recipe, features[:1])["score"] == 0
    everywhere = recipe.replace({"position_window": 0})
    assert found_by(bank_of(features, everywhere), everywhere, turned)["score"] == 0
    assert found_by(bank, recipe, turned)["score"] > 2


def test_a_bank_knows_the_cells_that_its_entries_come_from() -> None:
    features = made_up(8, 4, 1)
    recipe = Recipe(**EXACT, position_window=20, sampling_ratio=0.2)
    bank = bank_of(features, recipe)
    assert bank.cells.dtype == np.int32
    np.testing.assert_array_equal(features[bank.image_ids, bank.cells], bank.features)
    assert (np.diff(bank.image_ids) >= 0).all()


def test_cells_without_a_good_patch_see_the_nearest_all_the_same() -> None:
    patch_mask = np.zeros((6, CELLS), dtype=bool)
    patch_mask.reshape(6, *GRID)[:, :2, :2] = True  # letterboxed images, perhaps
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=0.5)
    bank = bank_of(made_up(6, 4, 2), recipe, patch_mask)
    found = found_by(bank, recipe, made_up(1, 4, 3))
    assert found["distance_grid"].max() < 100
    assert len(bank.features) > 12


def test_scores_of_all_kinds_and_masks() -> None:
    features, patches = made_up(10, 5, 4), made_up(2, 5, 5)
    patch_mask = np.random.default_rng(0).random((2, *GRID)) < 0.5
    for image_score in ("max", "top_mean", "reweighted"):
        recipe = Recipe(
            **EXACT, position_window=10, sampling_ratio=0.3, image_score=image_score, top_share=0.2
        )
        bank = bank_of(features, recipe)
        window = window_of(recipe, GRID)
        assert isinstance(window, Window)
        found = found_by(bank, recipe, patches, valid=patch_mask.astype(np.float32))
        expected = np.stack([brute_force(image, bank, window) for image in patches]).reshape(2, *GRID)
        np.testing.assert_allclose(found["distance_grid"], expected, rtol=1e-4)
        highest = [np.sort(one[seen])[::-1] for one, seen in zip(expected, patch_mask, strict=True)]
        if image_score == "max":
            np.testing.assert_allclose(found["score"], [one[0] for one in highest], rtol=1e-4)
        elif image_score == "top_mean":
            means = [one[: -(-len(one) // 5)].mean() for one in highest]
            np.testing.assert_allclose(found["score"], means, rtol=1e-4)
        else:
            assert (found["score"] < [one[0] for one in highest]).all()


def test_a_search_space_is_tried_within_the_window() -> None:
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=0.5)
    bank = bank_of(made_up(30, 8, 3), recipe)
    window = Window(GRID, (1, 1))
    patches = made_up(20, 8, 4)
    where, nobody = window.cells_of(np.arange(20 * CELLS)), np.full(20 * CELLS, -1)
    test = search_space.RecallTest.of(bank, patches.reshape(-1, 8), nobody, recipe, where, window)
    expected = np.concatenate([brute_force(image, bank, window) for image in patches])
    np.testing.assert_allclose(test.distances, expected, rtol=1e-4)
    assert test.passed_by(bank)
    assert not test.passed_by(replace(bank, basis=np.eye(8, 1, dtype=np.float32)))
    everywhere = search_space.RecallTest.of(bank, test.patches, nobody, recipe, where, EVERYWHERE)
    assert (everywhere.distances <= test.distances * (1 + 1e-4)).all()
    assert everywhere.distances.sum() < 0.95 * test.distances.sum()


def test_the_memory_of_a_search_is_that_of_its_blocks() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30_000, 2)).astype(np.float32)
    where = rng.integers(0, 1600, 30_000).astype(np.int32)
    bank = MemoryBank(features, np.zeros(30_000, np.int32), features.mean(axis=0), None, cells=where)
    assert side_by_side(bank, (40, 40), Recipe(position_window=24))
    assert not side_by_side(replace(bank, cells=np.zeros_like(where)), (40, 40), Recipe())


# ---- held-out scores and learning on


def good_features(images: int, d: int, seed: int, recipe: Recipe) -> GoodFeatures:
    return good_features_of(made_up(images, d, seed), recipe, GRID)


def silent(stage: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("sampling", ["greedy", "random"])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("pixels", [1, 10, 20])
def test_held_out_scores_are_those_of_the_others_within_the_window(
    sampling: str, ratio: float, pixels: float
) -> None:
    recipe = Recipe(**EXACT, position_window=pixels, sampling=sampling, sampling_ratio=ratio)
    good = good_features(9, 4, 6, recipe)
    window = window_of(recipe, GRID)
    assert isinstance(window, Window)
    bank = choose(good.features, good.eligible, recipe, grid=GRID)
    found, absent = replacements.find(good, bank, recipe)
    assert not np.any(found.image_ids == absent)
    filled = bank.with_entries(found.features, found.image_ids, found.cells, None)
    only_for = np.concatenate([np.full(len(bank.features), -1), absent])
    scored = list(leave_one_out.score(good, bank, recipe, workers=2, progress=silent))
    assert [one.index for one in scored] == list(range(9))
    for one in scored:
        shown = (filled.image_ids != one.index) & ((only_for < 0) | (only_for == one.index))
        expected = brute_force(good.features.image(one.index), filled, window, shown)
        assert expected.max() < 100  # every cell sees an entry of another image
        np.testing.assert_allclose(one.distance_grid.ravel(), expected, rtol=1e-4)
        assert one.score < FAR**0.5 / 2


def test_what_stands_in_is_within_the_window_and_covers_what_the_others_lack() -> None:
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=0.2)
    good = good_features(12, 3, 7, recipe)
    window = window_of(recipe, GRID)
    assert isinstance(window, Window)
    bank = choose(good.features, good.eligible, recipe, grid=GRID)
    found, absent = replacements.find(good, bank, recipe)
    assert len(absent) > 0
    patches = made_up(12, 3, 7)
    radius = max(brute_force(image, bank, window).max() for image in patches)
    filled = bank.with_entries(found.features, found.image_ids, found.cells, None)
    for image in range(12):
        if np.count_nonzero(absent == image) >= np.count_nonzero(bank.image_ids == image):
            continue  # it stopped because there were as many, not because nothing was left to cover
        shown = np.concatenate([bank.image_ids != image, absent == image])
        others = [brute_force(patches[i], filled, window, shown) for i in range(12) if i != image]
        assert np.max(others) <= radius * (1 + 1e-4)


def test_folds_have_windows_too() -> None:
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=0.2)
    good = good_features(6, 4, 8, recipe)
    window = window_of(recipe, GRID)
    assert isinstance(window, Window)
    rest = good.eligible & (np.arange(6) >= 2)[:, None]
    bank = choose(good.features, rest, recipe, grid=GRID)
    scored = {
        one.index: one for one in leave_one_out.score_by_folds(good, recipe, 3, workers=1, progress=silent)
    }
    for index in (0, 1):
        expected = brute_force(good.features.image(index), bank, window)
        np.testing.assert_allclose(scored[index].distance_grid.ravel(), expected, rtol=1e-4)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
@pytest.mark.parametrize("limit", [0, 50])
def test_learning_on_keeps_cells(sampling: str, limit: int) -> None:
    recipe = Recipe(**EXACT, position_window=10, sampling_ratio=0.2, sampling=sampling, sampling_limit=limit)
    old, new = made_up(8, 4, 9), made_up(4, 4, 10)
    bank = bank_of(old, recipe)
    everywhere = np.ones((4, CELLS), dtype=bool)
    grown = extend(bank, exact(new, recipe), everywhere, recipe, first_image=8, grid=GRID)
    both = np.concatenate([old, new])
    assert (np.diff(grown.image_ids) >= 0).all()
    assert (grown.image_ids >= 8).any()
    window = Window(GRID, (1, 1))
    assert window.sees(whole(window), grown.cells).any(axis=1).all()
    same = (both[grown.image_ids, grown.cells] == grown.features).all(axis=1)
    assert np.count_nonzero(~same) <= 6  # those that are repeated where a cell would see none
    if not limit:
        assert len(grown.features) >= len(bank.features) + 24


def test_a_window_without_the_grid_is_refused() -> None:
    recipe = Recipe(**EXACT, position_window=10)
    with pytest.raises(ValueError, match="grid"):
        choose(exact(made_up(2, 3, 0), recipe), np.ones((2, CELLS), dtype=bool), recipe)


# ---- models


@pytest.fixture(scope="module")
def windowed_recipe(mini_backbone: Path) -> Recipe:
    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        image_size=64,
        sampling_ratio=0.2,
        precision="f32",
        position_window=8,
    )


@pytest.fixture(scope="module")
def windowed(windowed_recipe: Recipe, mini_dataset: Path) -> Inspector:
    """Read only."""
    return Inspector(windowed_recipe).fit(mini_dataset)


def test_a_model_comes_back_with_its_cells(windowed: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    path = windowed.save(tmp_path / "part")
    loaded = Inspector.load(path)
    assert loaded.model.identity == windowed.model.identity
    cells_ = windowed.model.bank.cells
    np.testing.assert_array_equal(loaded.model.bank.cells, cells_)
    for sample in read_dataset(mini_dataset).test[:3]:
        pixels = read_image(sample.path)
        assert loaded.inspect(pixels).score == windowed.inspect(pixels).score


def test_without_a_window_a_model_has_no_cells(windowed_recipe: Recipe, mini_dataset: Path) -> None:
    for pixels in (0, 64):  # off, or as wide as the image
        inspector = Inspector(windowed_recipe.replace({"position_window": pixels})).fit(mini_dataset)
        assert not inspector.model.bank.cells.any()


def test_a_model_that_lost_its_cells_is_damaged(windowed: Inspector, tmp_path: Path) -> None:
    whole_bank = windowed.model.bank
    bank = replace(whole_bank, cells=np.zeros_like(whole_bank.cells))
    path = model_file.save(replace(windowed.model, bank=bank), tmp_path / "part")
    with pytest.raises(ModelError, match="lacks the cells that position_window asks for"):
        model_file.load(path)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("manifest.json"))["bank"]["entries"] == len(bank.features)


def striped(seed: int) -> NDArray[np.uint8]:
    """Upright stripes on the left, level ones on the right, and noise, (96, 96, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    stripes = np.where(x < 48, np.cos(x * np.pi / 6), np.cos(y * np.pi / 6))
    grey = 128 + 60 * stripes + rng.normal(0, 4, (96, 96))
    return grey.clip(0, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)


def test_a_part_that_lies_the_wrong_way_is_told_only_with_a_window(windowed_recipe: Recipe) -> None:
    images = [striped(seed) for seed in range(20)]

    def rise(pixels: float) -> float:
        keys = {"position_window": pixels, **PRESETS["plain"]}
        inspector = Inspector(windowed_recipe.replace(keys)).fit(images[:12])
        good = list(inspector.score_many(images[12:]))
        turned = list(inspector.score_many(image[:, ::-1].copy() for image in images[12:]))
        return float(np.mean(turned) / np.mean(good))

    assert rise(8) > 1.5 * rise(0)


@pytest.mark.parametrize(
    "keys",
    [
        {"framing": "letterbox", "image_size": "80x64"},
        {"framing": "crop", "resize_size": 80},
        {"sampling": "random"},
        {"robust": True},
        {"image_score": "top_mean", "quality_gate": True},
        {"sampling_ratio": 1e-6},  # a single entry, repeated all over
    ],
    ids=str,
)
def test_goes_with_other_keys(windowed_recipe: Recipe, keys: dict[str, Any], mini_dataset: Path) -> None:
    inspector = Inspector(windowed_recipe.replace(keys)).fit(mini_dataset)
    scores = np.array(inspector.model.calibration.scores)
    assert np.isfinite(scores).all()
    assert scores.max() < 1e6
    for inspection in inspector.inspect_many(sample.path for sample in read_dataset(mini_dataset).test):
        assert 0 < inspection.score < 1e6
        assert np.nanmax(inspection.anomaly_map) < 1e6


def test_a_region_of_interest_hides_what_a_window_can_not_see(
    windowed_recipe: Recipe, mini_dataset: Path, tmp_path: Path
) -> None:
    zones = tmp_path / "zones.json"
    square = [[20, 20], [50, 20], [50, 50], [20, 50]]
    zones.write_text(json.dumps({"size": [96, 96], "zones": [{"name": "a", "polygons": [square]}]}))
    inspector = Inspector(windowed_recipe.replace({"roi": str(zones)})).fit(mini_dataset)
    for inspection in inspector.inspect_many(sample.path for sample in read_dataset(mini_dataset).test):
        assert inspection.score == pytest.approx(np.nanmax(inspection.distance_grid))
        assert inspection.score < 1e6
        assert np.isnan(inspection.anomaly_map[:10]).all()


def test_learns_on_within_the_window(windowed_recipe: Recipe, mini_dataset: Path) -> None:
    images = sorted((mini_dataset / "train" / "good").iterdir())
    inspector = Inspector(windowed_recipe).fit(images[:8])
    before = inspector.model
    inspector.update(images[8:])
    assert inspector.model.bank.cells.any()
    assert len(inspector.model.bank.cells) == len(inspector.model.bank.features)
    assert len(inspector.model.bank.features) > len(before.bank.features)
    assert max(inspector.model.calibration.scores) < 1e6


@pytest.mark.real
def test_the_search_finds_what_brute_force_finds_within_the_window_on_real_images(shared: Path) -> None:
    root = shared / "mvtec_ad" / "metal_nut"
    recipe = Recipe(banks="joined", position_window=24, precision="f32")
    inspector = Inspector(recipe).fit(good_images(root)[::4])
    model = inspector.model
    bank, window = model.bank, window_of(model.recipe, model.grid)
    assert isinstance(window, Window)
    assert bank.int8
    extractor = Extractor(model.backbone, model.recipe, [model.whitening])
    norms = (bank.features.astype(np.float64) ** 2).sum(axis=1)
    for sample in read_dataset(root).test[::23]:
        pixels = read_image(sample.path)
        working = framing.apply(framing.frame_of(pixels.shape[:2], model.recipe), pixels)
        patches = extractor(working)[0].astype(np.float64)
        squared = (
            (patches**2).sum(axis=1)[:, None] + norms - 2 * (patches @ bank.features.T.astype(np.float64))
        )
        squared[~window.sees(whole(window), bank.cells)] = np.inf
        found = inspector.inspect(pixels).distance_grid.ravel()
        assert bank.local_scale is not None
        nearest = squared.argsort(axis=1)[:, : model.recipe.score_neighbours]
        distances = np.sqrt(np.take_along_axis(squared, nearest, axis=1))
        there = np.isfinite(distances)
        expected = np.where(there, distances / bank.local_scale[nearest[:, :1]], 0).sum(axis=1) / there.sum(
            axis=1
        )
        order = np.sort(squared, axis=1)
        k = model.recipe.score_neighbours
        close = order[:, k] <= order[:, k - 1] * (1 + 1e-5)  # rounding says which of two is nearer
        clear = ~close | np.isinf(order[:, k])
        assert clear.mean() > 0.99
        np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-4)
