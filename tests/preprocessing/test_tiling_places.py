"""Tiles with a bank for each place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_features import exact
from numpy.typing import NDArray
from plates import GRID, ZONES, half_bright, plate, searched

from goodparts import Inspector, Recipe
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import choose
from goodparts.errors import ModelError
from goodparts.features.extract import Extractor
from goodparts.model import file as model_file


def features_of(inspector: Inspector, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patch features of all tiles of an image, (tiles, patches, d)."""
    model = inspector.model
    extractor = Extractor(model.backbone, model.recipe, [depth.whitening for depth in model.depths])
    tiling = model.preprocessor.tiling
    return np.stack([extractor(tiling.pixels(image, tile))[0] for tile in range(len(tiling))])


def brute_force(
    patches: NDArray[np.float32], bank: MemoryBank, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Mean distance to the three nearest entries that are not hidden, divided by their local scale."""
    apart = np.linalg.norm(patches[:, None].astype(np.float64) - bank.features, axis=2)
    if hidden is not None:
        apart[:, hidden] = np.inf
    nearest = np.argsort(apart, axis=1)[:, :3]
    assert bank.local_scale is not None
    return np.asarray((np.take_along_axis(apart, nearest, axis=1) / bank.local_scale[nearest]).mean(axis=1))


def test_each_place_has_the_bank_that_its_patches_make(
    tiled_recipe: Recipe, tiled_by_place: Inspector
) -> None:
    model = tiled_by_place.model
    assert model.bank.tiles is not None
    assert np.unique(model.bank.tiles).tolist() == list(range(len(model.preprocessor.tiling)))
    assert (np.diff(model.bank.tiles) >= 0).all()
    recipe = tiled_recipe.replace({"tile_bank": "position", "sampling_limit": 40})
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((5, 4 * 64, 6)).astype(np.float32)
    patch_mask = rng.random((5, 4 * 64)) < 0.8
    bank = choose(exact(stored, recipe, views=4), patch_mask, recipe)
    apart = []
    for tile in range(4):
        part = slice(64 * tile, 64 * (tile + 1))
        alone = choose(
            exact(stored[:, part], recipe), patch_mask[:, part], tiled_recipe.replace({"sampling_limit": 40})
        )
        of_tile = bank.of_tile(tile)
        assert len(alone.features) == round(0.1 * patch_mask[:, part].sum())
        np.testing.assert_array_equal(of_tile.features, alone.features)
        np.testing.assert_array_equal(of_tile.image_ids, alone.image_ids)
        apart.append(alone.local_scale)
    expected = np.concatenate(apart)
    usual = np.median(expected)
    np.testing.assert_allclose(bank.local_scale, np.clip(expected, usual, 1.1 * usual), rtol=1e-6)


def test_a_tile_is_compared_with_its_own_place(tiled_recipe: Recipe) -> None:
    recipe = tiled_recipe.replace({"tile_bank": "position", "banks": "joined"})
    tiled_by_place = Inspector(recipe).fit([half_bright(seed) for seed in range(8)])
    model = tiled_by_place.model
    tiling, bank = model.preprocessor.tiling, model.bank
    image = half_bright(77, True)
    features = features_of(tiled_by_place, image)
    expected, _ = searched(
        tiling,
        lambda tile: (
            brute_force(features[tile], bank.of_tile(tile)).reshape(GRID).astype(np.float32),
            0.0,
        ),
        np.ones(tiling.grid, dtype=bool),
        tiled_by_place.recipe,
    )
    found = tiled_by_place.inspect(image).distance_grid
    assert np.isclose(found, expected, rtol=1e-3).mean() > 0.999  # ties of the third nearest aside


def test_what_is_good_elsewhere_is_bad_here(tiled_recipe: Recipe, tiled_by_place: Inspector) -> None:
    shared = Inspector(tiled_recipe).fit([half_bright(seed) for seed in range(8)])

    def contrast(inspector: Inspector) -> float:
        """How far the moved patch lies, as a multiple of the farthest cell of a good plate."""
        inside = [
            inspector.inspect(half_bright(seed, True)).distance_grid[12:15, 3:6].mean()
            for seed in range(50, 54)
        ]
        return float(
            np.mean(inside) / np.mean([inspector.inspect(half_bright(seed)).score for seed in range(50, 54)])
        )

    assert contrast(tiled_by_place) > 1.25 * contrast(shared)
    for seed in range(50, 54):
        assert tiled_by_place.inspect(half_bright(seed, True)).bad
        assert not tiled_by_place.inspect(half_bright(seed)).bad


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_held_out_an_image_meets_nothing_of_itself(tiled_recipe: Recipe, sampling: str) -> None:
    recipe = tiled_recipe.replace({"tile_bank": "position", "sampling": sampling, "banks": "joined"})
    pictures = [half_bright(seed) for seed in range(6)]
    inspector = Inspector(recipe).fit(pictures)
    tiling, bank = inspector.model.preprocessor.tiling, inspector.model.bank
    features = features_of(inspector, pictures[2])

    def without_own(tile: int) -> tuple[NDArray[np.float32], float]:
        of_tile = bank.of_tile(tile)
        found = brute_force(features[tile], of_tile, of_tile.image_ids == 2)
        return found.reshape(GRID).astype(np.float32), 0.0

    _, alone = searched(tiling, without_own, np.ones(tiling.grid, dtype=bool), recipe)
    score = inspector.model.calibration.scores[2]
    if sampling == "random":  # which has no replacements
        assert score == pytest.approx(alone, rel=2e-3)
    else:
        assert 0.6 * alone < score < 1.001 * alone


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"image_score": "reweighted"},
        {"image_score": "top_mean", "top_share": 0.02},
        {"sampling": "random"},
        {"sampling_limit": 20},
        {"sampling_ratio": 1e-6, "score_neighbours": 4},
        {"score_neighbours": 1, "density_neighbours": 0},
        {"robust": True},
        {"memory_limit": 0.0},
    ],
    ids=str,
)
def test_banks_of_places_are_saved_and_loaded(
    tiled_recipe: Recipe, keys: dict[str, Any], tmp_path: Path
) -> None:
    good = [half_bright(seed) for seed in range(4)]
    inspector = Inspector(tiled_recipe.replace({"tile_bank": "position", **keys})).fit(good)
    loaded = Inspector.load(inspector.save(tmp_path / "plates"))
    assert loaded.model.identity == inspector.model.identity
    assert loaded.inspect(half_bright(30)).score == pytest.approx(
        inspector.inspect(half_bright(30)).score, rel=1e-5
    )
    assert all(0 < score < 1e6 for score in loaded.model.calibration.scores)
    bank = loaded.model.bank
    assert bank.tiles is not None
    most = np.unique(bank.tiles, return_counts=True)[1].max()
    assert most <= (loaded.recipe.sampling_limit or len(bank.features))


def test_a_place_of_one_patch_and_one_that_never_varies_measure_like_the_others(
    tiled_recipe: Recipe, tmp_path: Path
) -> None:
    def blank(seed: int) -> NDArray[np.uint8]:
        """White but for its right third."""
        image = plate(seed)
        image[:, :220] = 255
        return image

    recipe = tiled_recipe.replace({"tile_bank": "position"})
    inspector = Inspector(recipe).fit([blank(seed) for seed in range(8)])
    local_scale = inspector.model.bank.local_scale
    assert local_scale is not None
    assert local_scale.min() == np.median(local_scale)
    speck = blank(40)
    speck[100, 60] = 250
    assert inspector.inspect(speck).distance_grid[:, :20].max() < inspector.model.calibration.threshold

    path = tmp_path / "nose.json"  # whose last cell is alone in the next column of tiles
    corners = [[0, 0], [64, 0], [64, 24], [44, 24], [44, 32], [0, 32]]
    zones = {"size": [328, 200], "zones": [{"name": "nose", "polygons": [corners]}]}
    path.write_text(json.dumps(zones), encoding="utf-8")
    inspector = Inspector(recipe.replace({"roi": str(path), "sampling_ratio": 1e-6})).fit(
        [plate(seed) for seed in range(6)]
    )
    assert inspector.model.calibration.used.source == "held_out"
    good = [inspector.inspect(plate(seed)).score for seed in range(30, 36)]
    assert np.mean(inspector.model.calibration.scores) == pytest.approx(np.mean(good), rel=0.4)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_a_place_whose_entries_are_of_one_image_is_judged_by_others(
    tiled_recipe: Recipe, sampling: str
) -> None:
    recipe = tiled_recipe.replace({"tile_bank": "position", "sampling": sampling, "sampling_limit": 1})
    inspector = Inspector(recipe).fit([half_bright(seed) for seed in range(5)])
    bank = inspector.model.bank
    assert bank.tiles is not None
    assert np.unique(bank.tiles, return_counts=True)[1].max() == 1
    assert inspector.model.calibration.used.source == "held_out"
    assert all(0 < score < 1e6 for score in inspector.model.calibration.scores)


def test_entries_are_kept_for_places_that_have_some_alone(tiled_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "corner.json"
    corner = [[300, 170], [328, 170], [328, 200], [300, 200]]
    zones = {"size": [328, 200], "zones": [{"name": "corner", "polygons": [corner]}]}
    path.write_text(json.dumps(zones), encoding="utf-8")
    inspector = Inspector(tiled_recipe.replace({"tile_bank": "position", "roi": str(path)})).fit(
        [half_bright(seed) for seed in range(5)]
    )
    bank, tiling = inspector.model.bank, inspector.model.preprocessor.tiling
    assert bank.tiles_served[-1] == len(tiling) - 1
    assert len(bank.by_tile) == len(bank.tiles_served) < 4
    marred = half_bright(9)
    marred[180:186, 310:316] = 0
    assert inspector.inspect(marred).bad
    assert not inspector.inspect(half_bright(9)).bad


def test_update_keeps_other_images_scores_while_no_place_is_full(tiled_recipe: Recipe) -> None:
    recipe = tiled_recipe.replace({"tile_bank": "position", "density_neighbours": 0, "sampling_limit": 200})
    inspector = Inspector(recipe).fit([half_bright(seed) for seed in range(5)])
    inspector.calibrate([half_bright(seed) for seed in range(20, 26)])
    inspector.update([half_bright(5), half_bright(6)])
    assert len(inspector.model.bank.features) > 200 > inspector.model.bank.most_compared
    assert inspector.model.calibration.calibration_set is not None


def test_two_images_are_enough_for_banks_of_places(tiled_recipe: Recipe) -> None:
    inspector = Inspector(tiled_recipe.replace({"tile_bank": "position"})).fit(
        [half_bright(0), half_bright(1)]
    )
    assert all(0 < score < 1e6 for score in inspector.model.calibration.scores)


def test_a_model_without_the_tiles_of_its_bank_is_damaged(tiled_by_place: Inspector, tmp_path: Path) -> None:
    broken = replace(tiled_by_place.model, bank=replace(tiled_by_place.model.bank, tiles=None))
    path = model_file.save(broken, tmp_path / "plates")
    with pytest.raises(ModelError, match="tile_bank = position"):
        model_file.load(path)


@pytest.mark.parametrize("limit", [0, 30])
def test_banks_of_places_learn_on(tiled_recipe: Recipe, limit: int) -> None:
    recipe = tiled_recipe.replace({"tile_bank": "position", "sampling_limit": limit})
    inspector = Inspector(recipe).fit([half_bright(seed) for seed in range(5)])
    before = inspector.model.bank
    inspector.update([half_bright(seed) for seed in range(9)])
    after = inspector.model.bank
    assert before.tiles is not None
    assert after.tiles is not None
    assert set(after.image_ids.tolist()) == set(range(9))
    assert len(inspector.model.calibration.scores) == 9
    for tile in np.unique(before.tiles):
        old, new = before.of_tile(tile), after.of_tile(tile)
        assert (np.diff(new.image_ids) >= 0).all()
        if limit:
            assert len(old.features) < len(new.features) == limit
        else:
            np.testing.assert_array_equal(new.features[: len(old.features)], old.features)
            assert len(new.features) > len(old.features)


def test_places_outside_the_region_of_interest_have_no_bank(tiled_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES | {"zones": ZONES["zones"][:1]}), encoding="utf-8")  # type: ignore[index]
    recipe = tiled_recipe.replace({"tile_bank": "position", "roi": str(path)})
    inspector = Inspector(recipe).fit([half_bright(seed) for seed in range(6)])
    tiling, tiles_ = inspector.model.preprocessor.tiling, inspector.model.bank.tiles
    assert tiles_ is not None
    assert len(np.unique(tiles_)) < len(tiling)
    assert inspector.inspect(half_bright(60, True)).bad
    assert not inspector.inspect(half_bright(60)).bad
    inspector.update([half_bright(seed) for seed in range(6, 9)])
    assert not inspector.inspect(half_bright(60)).bad
