"""Tiles: how they lie, how their distances become one grid, and that all that comes after them agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from exact_features import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspector, Recipe, features, framing, tiles, whitening
from goodparts import model as model_file
from goodparts.cli import cli
from goodparts.errors import GoodpartsError, ModelError, OutputError, RecipeError
from goodparts.export import metadata
from goodparts.features import Extractor
from goodparts.memory_bank import MemoryBank
from goodparts.recipe import tile_size
from goodparts.sampling import choose
from goodparts.tiles import NEEDED, Tiling, plan

SIZE = (200, 328)
GRID = (8, 8)  # of a tile of 64 pixels: cells of 8


def recipe_of(tiling: str = "64x64+16", **keys: Any) -> Recipe:
    return Recipe(image_size=64, tiling=tiling, **keys)


def planned(size: tuple[int, int], recipe: Recipe) -> Tiling:
    tiling = plan(size, recipe, GRID)
    assert tiling is not None
    return tiling


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
    assert plan(SIZE, Recipe(image_size=64), GRID) is None


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
    assert not tiling.cells(everywhere, 1)[:, 0].any()
    assert tiling.cells(everywhere, 0)[:, 0].all()


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


def searched(field: NDArray[np.float32], tiling: Tiling) -> tiles.Search:
    """What finds in each tile what a field of the canvas has there."""
    return lambda index: (field[tiling._window(index)], float(field[tiling._window(index)].max()))


@pytest.mark.parametrize("tiling", ["64x64+16", "64x64+40", "64x64"])
def test_what_tiles_agree_on_is_what_comes_out(tiling: str) -> None:
    lies = planned(SIZE, recipe_of(tiling))
    field = np.random.default_rng(0).uniform(1, 2, lies.grid).astype(np.float32)
    everywhere = np.ones(lies.grid, dtype=bool)
    merged, score = lies.measure(searched(field, lies), everywhere, recipe_of(tiling))
    np.testing.assert_allclose(merged, field, rtol=1e-6)
    assert score == pytest.approx(field.max())


def test_where_tiles_differ_no_seam_is_left() -> None:
    tiling = planned((64, 160), recipe_of("64x64+40"))
    levels = [float(index) for index in range(len(tiling))]
    merged, _ = tiling.measure(
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
        return searched(field, tiling)(index)

    merged, score = tiling.measure(search, cells, recipe_of())
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
    _, score = tiling.measure(searched(field, tiling), np.ones(tiling.grid, dtype=bool), recipe)
    assert score == pytest.approx(expected, abs=0.02)


# ---- learning and inspecting ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def plates() -> Callable[[int, bool], NDArray[np.uint8]]:
    """From a seed and whether it is bad to a grey plate with stripes, (200, 328, 3); bad: a spot of 7 pixels."""

    def plate(seed: int, bad: bool = False) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        x = np.arange(SIZE[1])
        grey = 120 + 25 * np.sin(x / 6 + rng.uniform(-0.5, 0.5)) + rng.normal(0, 4, SIZE)
        if bad:
            row, column = 20 + 3 * (seed % 50), 40 + 5 * (seed % 50)
            grey[row : row + 7, column : column + 7] = 250
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    return plate


@pytest.fixture(scope="module")
def plain(mini_backbone: Path) -> Recipe:
    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        image_size=64,
        tiling="64x64+24",
        sampling_limit=300,
        precision="f32",
    )


@pytest.fixture(scope="module")
def good(plates: Callable[..., NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    return [plates(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def fitted(plain: Recipe, good: list[NDArray[np.uint8]]) -> Inspector:
    """Read only."""
    return Inspector(plain).fit(good)


@pytest.mark.parametrize("images", [1, 3, 8, 32, 40])
def test_whitening_meets_tiles_of_all_places(
    plain: Recipe, fitted: Inspector, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    tiling, extractor = fitted.model.tiling, Extractor(fitted.model.backbone, fitted.recipe)
    assert tiling is not None
    met: list[tuple[int, int]] = []

    def pixels(self: Tiling, canvas: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        met.append((int(canvas[0, 0, 0]), view))
        return np.ascontiguousarray(canvas[:64, :64])

    monkeypatch.setattr(Tiling, "pixels", pixels)
    pictures = [np.full((*SIZE, 3), index, dtype=np.uint8) for index in range(images)]
    learnt = features.learn_whitening(
        pictures,
        extractor,
        features.Viewing(fitted.recipe, np.asarray, 1, lambda *told: None, tiling=tiling),
    )
    assert learnt is not None
    assert len(met) == len(set(met)) <= whitening.SAMPLE
    assert len(met) == min(whitening.SAMPLE, images * len(tiling))
    assert len({view for _, view in met}) > 12
    assert len({image for image, _ in met}) > min(images - 1, 12)


def test_a_small_defect_is_found_where_it_is(
    fitted: Inspector, plates: Callable[..., NDArray[np.uint8]]
) -> None:
    assert fitted.model.tiling is not None
    assert fitted.model.tiling.canvas == SIZE
    for seed in range(100, 106):
        assert fitted.inspect(plates(seed)).score < fitted.inspect(plates(seed, True)).score
        inspection = fitted.inspect(plates(seed, True))
        assert inspection.bad
        assert inspection.anomaly_map.shape == SIZE
        assert inspection.distance_grid.shape == (25, 41)
        row, column = 20 + 3 * (seed % 50), 40 + 5 * (seed % 50)
        assert inspection.mask[row + 3, column + 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_progress_counts_tiles(plain: Recipe, good: list[NDArray[np.uint8]], workers: int) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    inspector = Inspector(plain, workers=workers).fit(
        good[:4], progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total))
    )
    assert inspector.model.tiling is not None
    for stage in ("features", "calibration"):
        done, totals = zip(*told[stage], strict=True)
        assert set(totals) == {4 * len(inspector.model.tiling)}
        assert list(done) == sorted(done)
        assert done[-1] == totals[-1]


def test_one_tile_is_the_plain_system(plain: Recipe, good: list[NDArray[np.uint8]]) -> None:
    one = Inspector(plain.replace({"tiling": "400x400"})).fit(good)
    whole = Inspector(plain.replace({"tiling": ""})).fit(good)
    assert one.model.tiling is not None
    assert len(one.model.tiling) == 1
    np.testing.assert_array_equal(one.model.bank.features, whole.model.bank.features)
    assert one.model.calibration.threshold == pytest.approx(whole.model.calibration.threshold, rel=1e-5)
    first, second = one.inspect(good[0]), whole.inspect(good[0])
    assert first.score == pytest.approx(second.score, rel=1e-5)
    np.testing.assert_allclose(first.anomaly_map, second.anomaly_map, rtol=1e-4)


def test_the_bank_knows_which_image_an_entry_came_from(
    fitted: Inspector, good: list[NDArray[np.uint8]]
) -> None:
    origins = fitted.model.bank.origins
    assert set(origins.tolist()) == set(range(len(good)))
    assert (np.diff(origins) >= 0).all()


def test_a_held_out_score_is_about_that_of_a_refit(
    fitted: Inspector, plain: Recipe, good: list[NDArray[np.uint8]]
) -> None:
    without = Inspector(plain).fit(good[1:])
    assert fitted.model.calibration.scores[0] == pytest.approx(without.inspect(good[0]).score, rel=0.15)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"image_score": "top_mean", "top_share": 0.02},
        {"image_score": "reweighted"},
        {"memory_limit": 0.0},
        {"robust": True},
        {"quality_gate": True},
        {"sampling": "random"},
    ],
    ids=str,
)
def test_saved_and_loaded_it_is_the_same(
    plain: Recipe, keys: dict[str, Any], good: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    inspector = Inspector(plain.replace(keys)).fit(good)
    loaded = Inspector.load(inspector.save(tmp_path / "plates"))
    assert loaded.model.identity == inspector.model.identity
    assert loaded.model.tiling == inspector.model.tiling
    assert loaded.inspect(good[3]).score == pytest.approx(inspector.inspect(good[3]).score, rel=1e-5)
    many = list(loaded.inspect_many(good[:3]))
    assert [one.score for one in many] == pytest.approx(list(loaded.score_many(good[:3])), rel=1e-5)


def test_a_model_without_its_tiles_is_damaged(fitted: Inspector, tmp_path: Path) -> None:
    path = model_file.save(replace(fitted.model, tiling=None), tmp_path / "plates")
    with pytest.raises(ModelError, match=r"tiling = '64x64\+24' does not go with the members"):
        model_file.load(path)


def test_an_image_of_another_size_is_resized_to_the_canvas(
    fitted: Inspector, plates: Callable[..., NDArray[np.uint8]]
) -> None:
    larger = np.repeat(np.repeat(plates(100, True), 2, axis=0), 2, axis=1)
    inspection = fitted.inspect(larger)
    assert inspection.anomaly_map.shape == (400, 656)
    assert inspection.distance_grid.shape == (25, 41)


def test_update_and_calibrate(
    plain: Recipe, good: list[NDArray[np.uint8]], plates: Callable[..., NDArray[np.uint8]]
) -> None:
    inspector = Inspector(plain).fit(good[:5])
    inspector.update(good)  # five of which are known
    assert inspector.model.data["good_images"] == 8
    assert len(inspector.model.calibration.scores) == 8
    inspector.calibrate([plates(seed) for seed in range(20, 26)])
    assert len(inspector.model.calibration.scores) == 6
    with pytest.raises(GoodpartsError, match="were learnt from"):
        inspector.calibrate(good)


ZONES = {
    "size": [328, 200],
    "zones": [
        {"name": "left", "polygons": [[[0, 0], [150, 0], [150, 200], [0, 200]]]},
        {"name": "right", "polygons": [[[240, 0], [328, 0], [328, 200], [240, 200]]]},
    ],
}


@pytest.mark.parametrize("count", [1, 2])
def test_regions_of_interest(
    plain: Recipe,
    count: int,
    good: list[NDArray[np.uint8]],
    plates: Callable[..., NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES | {"zones": ZONES["zones"][:count]}), encoding="utf-8")  # type: ignore[index]
    inspector = Inspector(plain.replace({"roi": str(path)})).fit(good)
    inside = plates(101, True)  # its spot lies at column 45
    assert inspector.inspect(inside).bad
    between = good[0].copy()
    between[90:97, 190:197] = 255
    inspection = inspector.inspect(between)
    assert not inspection.bad
    assert np.isnan(inspection.anomaly_map[:, 160:230]).all()
    assert len(inspection.zones) == count
    with pytest.raises(OutputError, match=r"export: .*roi.*tiling"):
        inspector.export(tmp_path / "part.onnx")


# ---- a bank for each place -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(plates: Callable[..., NDArray[np.uint8]]) -> Callable[..., NDArray[np.uint8]]:
    """Plates whose right half is brighter; bad: a patch as bright on the left."""

    def plate(seed: int, bad: bool = False) -> NDArray[np.uint8]:
        halves = plates(seed)
        halves[:, 164:] += 90
        if bad:
            halves[90:122, 20:52] = halves[90:122, 220:252]
        return halves

    return plate


@pytest.fixture(scope="module")
def placed(plain: Recipe, halves: Callable[..., NDArray[np.uint8]]) -> Inspector:
    """Read only."""
    return Inspector(plain.replace({"tile_bank": "position"})).fit([halves(seed) for seed in range(8)])


def features_of(inspector: Inspector, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patch features of all tiles of an image, (tiles, patches, d)."""
    model = inspector.model
    assert model.tiling is not None
    extractor = Extractor(model.backbone, model.recipe, model.whitening)
    return np.stack([extractor(model.tiling.pixels(image, tile)) for tile in range(len(model.tiling))])


def brute_force(
    patches: NDArray[np.float32], bank: MemoryBank, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Mean distance to the three nearest entries that are not hidden, in units of their spacing."""
    apart = np.linalg.norm(patches[:, None].astype(np.float64) - bank.features, axis=2)
    if hidden is not None:
        apart[:, hidden] = np.inf
    nearest = np.argsort(apart, axis=1)[:, :3]
    assert bank.spacing is not None
    return np.asarray((np.take_along_axis(apart, nearest, axis=1) / bank.spacing[nearest]).mean(axis=1))


def test_each_place_has_the_bank_that_its_patches_make(
    plain: Recipe, good: list[NDArray[np.uint8]], placed: Inspector
) -> None:
    model = placed.model
    assert model.tiling is not None
    assert model.bank.tiles is not None
    assert np.unique(model.bank.tiles).tolist() == list(range(len(model.tiling)))
    assert (np.diff(model.bank.tiles) >= 0).all()
    recipe = plain.replace({"tile_bank": "position", "sampling_limit": 40})
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((5, 4 * 64, 6)).astype(np.float32)
    valid = rng.random((5, 4 * 64)) < 0.8
    bank = choose(exact(stored, recipe, views=4), valid, recipe)
    apart = []
    for tile in range(4):
        part = slice(64 * tile, 64 * (tile + 1))
        alone = choose(exact(stored[:, part], recipe), valid[:, part], plain.replace({"sampling_limit": 40}))
        of_tile = bank.of_tile(tile)
        assert len(alone.features) == round(0.1 * valid[:, part].sum())
        np.testing.assert_array_equal(of_tile.features, alone.features)
        np.testing.assert_array_equal(of_tile.origins, alone.origins)
        apart.append(alone.spacing)
    expected = np.concatenate(apart)
    usual = np.median(expected)
    np.testing.assert_allclose(bank.spacing, np.clip(expected, usual, 1.1 * usual), rtol=1e-6)


def test_a_tile_is_compared_with_its_own_place(
    placed: Inspector, halves: Callable[..., NDArray[np.uint8]]
) -> None:
    model = placed.model
    tiling, bank = model.tiling, model.bank
    assert tiling is not None
    image = halves(77, True)
    features = features_of(placed, image)
    expected, _ = tiling.measure(
        lambda tile: (
            brute_force(features[tile], bank.of_tile(tile)).reshape(GRID).astype(np.float32),
            0.0,
        ),
        np.ones(tiling.grid, dtype=bool),
        placed.recipe,
    )
    found = placed.inspect(image).distance_grid
    assert np.isclose(found, expected, rtol=1e-3).mean() > 0.999  # ties of the third nearest aside


def test_what_is_good_elsewhere_is_bad_here(
    plain: Recipe, placed: Inspector, halves: Callable[..., NDArray[np.uint8]]
) -> None:
    shared = Inspector(plain).fit([halves(seed) for seed in range(8)])

    def contrast(inspector: Inspector) -> float:
        """How far the moved patch lies, as a multiple of the farthest cell of a good plate."""
        inside = [
            inspector.inspect(halves(seed, True)).distance_grid[12:15, 3:6].mean() for seed in range(50, 54)
        ]
        return float(
            np.mean(inside) / np.mean([inspector.inspect(halves(seed)).score for seed in range(50, 54)])
        )

    assert contrast(placed) > 1.25 * contrast(shared)
    for seed in range(50, 54):
        assert placed.inspect(halves(seed, True)).bad
        assert not placed.inspect(halves(seed)).bad


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_held_out_an_image_meets_nothing_of_itself(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]], sampling: str
) -> None:
    recipe = plain.replace({"tile_bank": "position", "sampling": sampling})
    pictures = [halves(seed) for seed in range(6)]
    inspector = Inspector(recipe).fit(pictures)
    tiling, bank = inspector.model.tiling, inspector.model.bank
    assert tiling is not None
    features = features_of(inspector, pictures[2])

    def without_own(tile: int) -> tuple[NDArray[np.float32], float]:
        of_tile = bank.of_tile(tile)
        found = brute_force(features[tile], of_tile, of_tile.origins == 2)
        return found.reshape(GRID).astype(np.float32), 0.0

    _, alone = tiling.measure(without_own, np.ones(tiling.grid, dtype=bool), recipe)
    score = inspector.model.calibration.scores[2]
    if sampling == "random":  # which has no stand-ins
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
    plain: Recipe, keys: dict[str, Any], halves: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    good = [halves(seed) for seed in range(6)]
    inspector = Inspector(plain.replace({"tile_bank": "position", **keys})).fit(good)
    loaded = Inspector.load(inspector.save(tmp_path / "plates"))
    assert loaded.model.identity == inspector.model.identity
    assert loaded.inspect(halves(30)).score == pytest.approx(inspector.inspect(halves(30)).score, rel=1e-5)
    assert all(0 < score < 1e6 for score in loaded.model.calibration.scores)
    bank = loaded.model.bank
    assert bank.tiles is not None
    most = np.unique(bank.tiles, return_counts=True)[1].max()
    assert most <= (loaded.recipe.sampling_limit or len(bank.features))


def test_a_place_of_one_patch_and_one_that_never_varies_measure_like_the_others(
    plain: Recipe, plates: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    def blank(seed: int) -> NDArray[np.uint8]:
        """White but for its right third."""
        image = plates(seed)
        image[:, :220] = 255
        return image

    recipe = plain.replace({"tile_bank": "position"})
    inspector = Inspector(recipe).fit([blank(seed) for seed in range(8)])
    spacing = inspector.model.bank.spacing
    assert spacing is not None
    assert spacing.min() == np.median(spacing)
    speck = blank(40)
    speck[100, 60] = 250
    assert inspector.inspect(speck).distance_grid[:, :20].max() < inspector.model.calibration.threshold

    path = tmp_path / "nose.json"  # whose last cell is alone in the next column of tiles
    corners = [[0, 0], [64, 0], [64, 24], [44, 24], [44, 32], [0, 32]]
    zones = {"size": [328, 200], "zones": [{"name": "nose", "polygons": [corners]}]}
    path.write_text(json.dumps(zones), encoding="utf-8")
    inspector = Inspector(recipe.replace({"roi": str(path), "sampling_ratio": 1e-6})).fit(
        [plates(seed) for seed in range(6)]
    )
    assert inspector.model.calibration.used.source == "held_out"
    good = [inspector.inspect(plates(seed)).score for seed in range(30, 36)]
    assert np.mean(inspector.model.calibration.scores) == pytest.approx(np.mean(good), rel=0.4)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_a_place_whose_entries_are_of_one_image_is_judged_by_others(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]], sampling: str
) -> None:
    recipe = plain.replace({"tile_bank": "position", "sampling": sampling, "sampling_limit": 1})
    inspector = Inspector(recipe).fit([halves(seed) for seed in range(5)])
    bank = inspector.model.bank
    assert bank.tiles is not None
    assert np.unique(bank.tiles, return_counts=True)[1].max() == 1
    assert inspector.model.calibration.used.source == "held_out"
    assert all(0 < score < 1e6 for score in inspector.model.calibration.scores)


def test_entries_are_kept_for_places_that_have_some_alone(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = tmp_path / "corner.json"
    corner = [[300, 170], [328, 170], [328, 200], [300, 200]]
    zones = {"size": [328, 200], "zones": [{"name": "corner", "polygons": [corner]}]}
    path.write_text(json.dumps(zones), encoding="utf-8")
    inspector = Inspector(plain.replace({"tile_bank": "position", "roi": str(path)})).fit(
        [halves(seed) for seed in range(5)]
    )
    bank, tiling = inspector.model.bank, inspector.model.tiling
    assert tiling is not None
    assert bank.tiles_served[-1] == len(tiling) - 1
    assert len(bank.by_tile) == len(bank.tiles_served) < 4
    marred = halves(9)
    marred[180:186, 310:316] = 0
    assert inspector.inspect(marred).bad
    assert not inspector.inspect(halves(9)).bad


def test_update_keeps_other_images_scores_while_no_place_is_full(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]]
) -> None:
    recipe = plain.replace({"tile_bank": "position", "density_neighbours": 0, "sampling_limit": 200})
    inspector = Inspector(recipe).fit([halves(seed) for seed in range(5)])
    inspector.calibrate([halves(seed) for seed in range(20, 26)])
    inspector.update([halves(5), halves(6)])
    assert len(inspector.model.bank.features) > 200 > inspector.model.bank.most_met
    assert inspector.model.calibration.separate is not None


def test_two_images_are_enough_for_banks_of_places(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]]
) -> None:
    inspector = Inspector(plain.replace({"tile_bank": "position"})).fit([halves(0), halves(1)])
    assert all(0 < score < 1e6 for score in inspector.model.calibration.scores)


def test_a_model_without_the_tiles_of_its_bank_is_damaged(placed: Inspector, tmp_path: Path) -> None:
    broken = replace(placed.model, bank=replace(placed.model.bank, tiles=None))
    path = model_file.save(broken, tmp_path / "plates")
    with pytest.raises(ModelError, match="tile_bank = position"):
        model_file.load(path)


@pytest.mark.parametrize("limit", [0, 30])
def test_banks_of_places_learn_on(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]], limit: int
) -> None:
    recipe = plain.replace({"tile_bank": "position", "sampling_limit": limit})
    inspector = Inspector(recipe).fit([halves(seed) for seed in range(5)])
    before = inspector.model.bank
    inspector.update([halves(seed) for seed in range(9)])
    after = inspector.model.bank
    assert before.tiles is not None
    assert after.tiles is not None
    assert set(after.origins.tolist()) == set(range(9))
    assert len(inspector.model.calibration.scores) == 9
    for tile in np.unique(before.tiles):
        old, new = before.of_tile(tile), after.of_tile(tile)
        assert (np.diff(new.origins) >= 0).all()
        if limit:
            assert len(old.features) < len(new.features) == limit
        else:
            np.testing.assert_array_equal(new.features[: len(old.features)], old.features)
            assert len(new.features) > len(old.features)


def test_places_outside_the_region_of_interest_have_no_bank(
    plain: Recipe, halves: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES | {"zones": ZONES["zones"][:1]}), encoding="utf-8")  # type: ignore[index]
    recipe = plain.replace({"tile_bank": "position", "roi": str(path)})
    inspector = Inspector(recipe).fit([halves(seed) for seed in range(6)])
    tiling, tiles_ = inspector.model.tiling, inspector.model.bank.tiles
    assert tiling is not None
    assert tiles_ is not None
    assert len(np.unique(tiles_)) < len(tiling)
    assert inspector.inspect(halves(60, True)).bad
    assert not inspector.inspect(halves(60)).bad
    inspector.update([halves(seed) for seed in range(6, 9)])
    assert not inspector.inspect(halves(60)).bad


# ---- other programs ------------------------------------------------------------------------------


@pytest.mark.parametrize("banks", ["shared", "position"])
def test_an_export_merged_as_its_metadata_says(
    banks: str, request: pytest.FixtureRequest, plates: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    fitted: Inspector = request.getfixturevalue("fitted" if banks == "shared" else "placed")
    session = onnxruntime.InferenceSession(
        str(fitted.export(tmp_path / "part.onnx")), providers=["CPUExecutionProvider"]
    )
    about = session.get_modelmeta().custom_metadata_map
    assert about["framing"] == "tiles"
    lies = json.loads(about["tiles"])
    width, height = map(int, lies["canvas"].split("x"))
    across, down = map(int, lies["cell"].split("x"))
    tile_width, tile_height = map(int, about["image_size"].split("x"))
    for image in (plates(100), plates(101, True)):
        frame = framing.Frame(SIZE, (height, width), (0, 0), (height, width))
        canvas = framing.apply(frame, image)
        total = np.zeros((height // down, width // across))
        weights = np.zeros_like(total)
        tile = 0
        for top, row in zip(lies["rows"], lies["row_weights"], strict=True):
            for left, column in zip(lies["columns"], lies["column_weights"], strict=True):
                shown = canvas[top : top + tile_height, left : left + tile_width]
                inputs: dict[str, Any] = {"image": shown[None]}
                if banks == "position":
                    inputs["tile"] = np.array([tile])
                (grid,) = session.run(["distance_grid"], inputs)
                tile += 1
                part = (
                    slice(top // down, top // down + len(row)),
                    slice(left // across, left // across + len(column)),
                )
                share = np.outer(row, column)
                total[part] += share * grid[0]
                weights[part] += share
        expected = fitted.inspect(image)
        np.testing.assert_allclose(total / weights, expected.distance_grid, rtol=1e-3)
        assert (total / weights).max() == pytest.approx(expected.score, rel=1e-3)


def test_an_export_of_reweighted_scores_is_refused(
    plain: Recipe, good: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    inspector = Inspector(plain.replace({"image_score": "reweighted"})).fit(good[:4])
    with pytest.raises(OutputError, match=r"export: .*reweighted.*max, top_mean.*tiling"):
        inspector.export(tmp_path / "part.onnx")


def test_no_tiles_in_the_metadata_of_others(plain: Recipe, good: list[NDArray[np.uint8]]) -> None:
    about = metadata(Inspector(plain.replace({"tiling": ""})).fit(good[:4]).model)
    assert about["tiles"] == ""
    assert about["framing"] == "stretch"


# ---- the command line ----------------------------------------------------------------------------


def test_fit_says_how_images_are_tiled(
    mini_dataset: Path, mini_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backbone", str(mini_backbone), "--layers", "layer2,layer3", "--image-size", "64"]
    model = tmp_path / "part.goodparts"
    with pytest.raises(SystemExit) as ended:
        cli(["fit", str(mini_dataset), "--model", str(model), *arguments, "--tiling", "64x64+24"])
    assert ended.value.code in (0, None)
    out = " ".join(capsys.readouterr().out.split())
    tiles_ = "Tiles 96x96 px in 2 x 2 tiles of 64x64 px, 32 px overlap or more, not reduced"
    assert tiles_ in out
    assert "each place" not in out
    arguments += ["--tiling", "64x64+24", "--tile-bank", "position"]
    with pytest.raises(SystemExit):
        cli(["fit", str(mini_dataset), "--model", str(model), *arguments])
    out = " ".join(capsys.readouterr().out.split())
    assert f"{tiles_}; each place has a bank of its own, of 78 patch features at most" in out


@pytest.mark.parametrize("of_a_model", [False, True])
def test_roi_counts_the_patches_of_all_tiles(
    of_a_model: bool,
    plain: Recipe,
    good: list[NDArray[np.uint8]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    zones, image = tmp_path / "zones.json", tmp_path / "plate.png"
    zones.write_text(json.dumps(ZONES), encoding="utf-8")
    Image.fromarray(good[0]).save(image)
    keys = [
        "--backbone",
        plain.backbone,
        "--layers",
        "layer2,layer3",
        "--image-size",
        "64",
        "--tiling",
        plain.tiling,
    ]
    file = zones
    if of_a_model:
        file = Inspector(plain.replace({"roi": str(zones)})).fit(good[:3]).save(tmp_path / "part.goodparts")
        keys = []  # the model has them
    with pytest.raises(SystemExit) as ended:
        cli(["roi", str(file), str(image), "--out", str(tmp_path / "roi.png"), "--json", *keys])
    assert ended.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["of_patches"] == 25 * 41
    assert found["patches"] == 25 * (19 + 11)
