"""Regions of interest: what a file may hold, which patches and pixels count, and how zones learn and decide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from goodparts import Inspector, Recipe, read_dataset
from goodparts.bank.scoring import patches_that_count, zone_scores
from goodparts.decision.good_scores import zone_names, zone_parts
from goodparts.decision.thresholds import robust_sigmas
from goodparts.errors import DatasetError, GoodpartsError, ImageError, RecipeError
from goodparts.model import file as model_file
from goodparts.preprocessing import framing
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import (
    EVERYWHERE,
    ONLY,
    Roi,
    Zone,
    enclosed,
    from_mask,
)
from goodparts.preprocessing.roi_file import read_roi
from goodparts.preprocessing.tiling import Tiling

SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60]]
CENTRE = [[24, 24], [72, 24], [72, 72], [24, 72]]


def written(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def zones(*polygons: list[list[int]], size: list[int] | None = None) -> dict[str, Any]:
    named = [{"name": f"z{i}", "polygons": [polygon]} for i, polygon in enumerate(polygons)]
    return {"zones": named} | ({"size": size} if size else {})


# ---- polygons and masks --------------------------------------------------------------------------


def test_a_polygon_encloses_the_pixels_whose_centres_lie_in_it() -> None:
    expected = np.zeros((70, 100), dtype=bool)
    expected[20:60, 10:50] = True
    np.testing.assert_array_equal(enclosed(tuple(map(tuple, SQUARE)), (70, 100)), expected)
    np.testing.assert_array_equal(enclosed(tuple(map(tuple, SQUARE[::-1])), (70, 100)), expected)
    triangle = enclosed(((0, 0), (10, 0), (0, 10)), (10, 10))
    rows, columns = np.mgrid[:10, :10]
    np.testing.assert_array_equal(triangle, rows + columns + 1 < 10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 30)), min_size=3, max_size=6))
def test_a_polygon_is_even_odd(points: list[tuple[float, float]]) -> None:
    """Against the sum of the angles under which the edges are seen, for centres that are not on an edge."""
    found = enclosed(tuple(points), (30, 40))
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    crossed = np.zeros((30, 40), dtype=int)
    near = np.zeros((30, 40), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        near |= np.abs(side) <= 1e-6 * (1 + np.hypot(x1 - x0, y1 - y0))
        up, down = (y0 <= y) & (y1 > y) & (side > 0), (y1 <= y) & (y0 > y) & (side < 0)
        crossed += up | down  # a ray to the left
    np.testing.assert_array_equal(found[~near], (crossed % 2 == 1)[~near])


@given(st.integers(0, 2**36 - 1))
def test_a_mask_becomes_runs_and_a_mask_again(bits: int) -> None:
    mask = np.array([bool(bits >> i & 1) for i in range(36)]).reshape(4, 9)
    roi = from_mask(mask)
    np.testing.assert_array_equal(roi.masks[0], mask)
    np.testing.assert_array_equal(Roi.from_json(roi.to_json()).masks[0], mask)


def test_holes_are_cut_out_and_zones_may_overlap(tmp_path: Path) -> None:
    values = {
        "size": [100, 70],
        "zones": [
            {"name": "ring", "polygons": [SQUARE], "holes": [[[20, 30], [40, 30], [40, 50], [20, 50]]]},
            {"name": "all", "polygons": [[[0, 0], [100, 0], [100, 70], [0, 70]]]},
        ],
    }
    roi = read_roi(written(tmp_path / "zones.json", values), (1, 1))
    assert roi.size == (70, 100)
    assert roi.names == ("ring", "all")
    assert roi.masks[0].sum() == 40 * 40 - 20 * 20
    assert not roi.masks[0][40, 30]
    assert roi.masks[1].all()
    again = Roi.from_json(roi.to_json())
    assert again.zones == roi.zones
    assert read_roi(written(tmp_path / "again.json", roi.to_json()), (1, 1)).zones == roi.zones


def test_without_a_size_polygons_are_in_pixels_of_the_images(tmp_path: Path) -> None:
    path = written(tmp_path / "zones.json", zones(SQUARE))
    assert read_roi(path, (70, 100)).size == (70, 100)
    assert read_roi(path, lambda: (80, 120)).size == (80, 120)


def test_a_mask_image_is_one_zone(tmp_path: Path) -> None:
    mask = np.zeros((70, 100), dtype=np.uint8)
    mask[5:9, 7:30] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    roi = read_roi(tmp_path / "mask.png", (1, 1))
    assert roi.names == (ONLY,)
    assert not roi.several
    np.testing.assert_array_equal(roi.masks[0], mask > 0)


def test_what_labelme_saves(tmp_path: Path) -> None:
    shapes = [
        {"label": "rim", "points": SQUARE, "shape_type": "polygon"},
        {"label": "bore", "points": [[60.5, 10], [90, 40]], "shape_type": "rectangle"},
        {"label": "rim", "points": [[60, 50], [80, 50], [80, 60]], "shape_type": "polygon"},
    ]
    values = {"version": "5.0", "imageWidth": 100, "imageHeight": 70, "imageData": None, "shapes": shapes}
    roi = read_roi(written(tmp_path / "a.json", values), (1, 1))
    assert roi.size == (70, 100)
    assert roi.names == ("rim", "bore")
    assert len(roi.zones[0].polygons) == 2
    assert roi.masks[1].sum() == 30 * 30
    shapes[0]["shape_type"] = "circle"
    with pytest.raises(RecipeError, match=r"a\.json: a shape of LabelMe is a circle; expected polygons"):
        read_roi(written(tmp_path / "a.json", values), (1, 1))


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("[1, 2", "is not JSON"),
        ([], "expected an object with a list of zones such as"),
        ({"zones": []}, "expected an object with a list of zones"),
        ({"zones": [{"name": "a"}]}, "zone 'a': expected a list of polygons"),
        ({"zones": [{"polygons": [SQUARE]}]}, "zone 1: expected a name"),
        ({"zones": [{"name": " ", "polygons": [SQUARE]}]}, "zone 1: expected a name"),
        ({"zones": [{"name": "a", "polygons": [SQUARE], "hole": []}]}, "zone 'a': no key hole is known"),
        ({"zonez": 1, "zones": [{"name": "a", "polygons": [SQUARE]}]}, "no key zonez is known"),
        ({"zones": [{"name": "a", "polygons": [SQUARE[:2]]}]}, "at least 3 points"),
        (
            {"zones": [{"name": "a", "polygons": [[[1, 2], [3], [4, 5]]]}]},
            r"expected points \[x, y\], found \[3\]",
        ),
        ({"zones": [{"name": "a", "polygons": [[[1, 2], [3, "x"], [4, 5]]]}]}, "expected points"),
        (
            {"size": [100], "zones": [{"name": "a", "polygons": [SQUARE]}]},
            r"size: expected \[width, height\]",
        ),
        ({"size": [100, 0], "zones": [{"name": "a", "polygons": [SQUARE]}]}, "size: expected"),
        (
            {"size": [60000, 60000], "zones": [{"name": "a", "polygons": [SQUARE]}]},
            "size: 60000x60000 is more than the limit of 100,000,000 pixels",
        ),
        (
            {"imageWidth": 10**9, "imageHeight": 10**9, "shapes": [{"label": "a", "points": SQUARE}]},
            "size: 1000000000x1000000000 is more than the limit",
        ),
        (
            {"zones": [{"name": "a", "polygons": [[[0, 0], [101, 0], [50, 50]]]}]},
            r"zone 'a': point \(101, 0\) lies outside the image of 100x70 pixels; move it inside",
        ),
        ({"zones": [{"name": "a", "polygons": [[[1, 1], [2, 2], [3, 3]]]}]}, "zone 'a' encloses no pixel"),
        (
            {"zones": [{"name": "a", "polygons": [SQUARE], "holes": [[[0, 0], [99, 0], [99, 70], [0, 70]]]}]},
            "encloses no pixel",
        ),
        (
            {"zones": [{"name": "a", "polygons": [SQUARE]}, {"name": "a ", "polygons": [SQUARE[:3]]}]},
            "two zones are called 'a'",
        ),
        ({"shapes": []}, "expected an object with a list of zones"),
        ({"shapes": [{"label": "a", "points": 3}]}, "expected polygons of at least 3 points"),
        ({"shapes": [{"label": "a", "points": [1, 2], "shape_type": "rectangle"}]}, "two corners"),
        ({"shapes": ["a"]}, "a shape of LabelMe is a nothing"),
    ],
)
def test_mistakes_in_polygons(tmp_path: Path, values: Any, message: str) -> None:
    path = written(tmp_path / "zones.json", values)
    with pytest.raises(RecipeError, match=message) as caught:
        read_roi(path, (70, 100))
    assert str(caught.value).startswith(f"roi: {path}: ")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"roi: .*none\.png: no such file; expected a mask image or polygons"
    ):
        read_roi(tmp_path / "none.png", (70, 100))
    with pytest.raises(RecipeError, match="is a folder; expected a mask image or polygons"):
        read_roi(tmp_path, (70, 100))
    with pytest.raises(RecipeError, match=r"roi: .*a\.txt: .* it is a text file.*A roi is a mask image"):
        read_roi(written(tmp_path / "a.txt", "hello"), (70, 100))
    Image.new("L", (30, 20)).save(tmp_path / "black.png")
    with pytest.raises(RecipeError, match=r"black\.png: is black all over"):
        read_roi(tmp_path / "black.png", (70, 100))


# ---- patches and pixels --------------------------------------------------------------------------


def test_a_patch_counts_if_half_of_its_cell_lies_inside() -> None:
    mask = np.zeros((80, 80), dtype=bool)
    mask[10:40, 20:45] = True  # cells of 10 pixels: rows 1 to 3; columns 2 and 3, and half of 4
    recipe = Recipe(image_size=64)
    cells = from_mask(mask).zone_patch_masks(recipe, (8, 8))[0]
    expected = np.zeros((8, 8), dtype=bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(cells, expected)
    mask[:, 44] = False
    expected[:, 4] = False
    np.testing.assert_array_equal(from_mask(mask).zone_patch_masks(recipe, (8, 8))[0], expected)


@pytest.mark.parametrize("size", [(48, 96), (480, 960), (47, 95)], ids=str)
def test_framing_is_allowed_for(size: tuple[int, int]) -> None:
    everything = from_mask(np.ones(size, dtype=bool))
    stretch = everything.patch_mask(Recipe(image_size=64), (8, 8))
    assert stretch.all()
    letterbox = everything.patch_mask(Recipe(image_size=64, framing="letterbox"), (8, 8))
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:6] = True
    np.testing.assert_array_equal(letterbox, expected)
    left = np.zeros(size, dtype=bool)
    left[:, : size[1] // 2] = True
    crop = from_mask(left).patch_mask(Recipe(image_size=64, framing="crop", resize_size=64), (8, 8))
    np.testing.assert_array_equal(crop[:, :4], True)
    np.testing.assert_array_equal(crop[:, 4:], False)


def test_pixels_of_another_size_are_the_nearest() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:4, 5:9] = True
    roi = from_mask(mask)
    seen = roi.pixel_mask((30, 60))
    assert seen.sum() == 9 * mask.sum()
    assert seen[6:12, 15:27].all()
    dot = np.zeros((100, 100), dtype=bool)
    dot[44, 55] = True
    small = from_mask(dot).masks_at((10, 10))[0]
    assert list(zip(*np.nonzero(small), strict=True)) == [(4, 5)], "no zone gets lost"


def test_images_must_have_the_aspect() -> None:
    roi = from_mask(np.ones((70, 100), dtype=bool))
    for size in ((70, 100), (700, 1000), (35, 50), (71, 101)):
        roi.require_fit(size, "a.png")
    for size in ((100, 70), (70, 102), (70, 70)):
        with pytest.raises(ImageError, match=rf"a\.png: is {size[1]}x{size[0]} .* is drawn on 100x70"):
            roi.require_fit(size, "a.png")


def test_a_zone_without_a_patch_is_refused() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[50:53, 50:54] = True
    with pytest.raises(
        RecipeError, match=r"no patch lies in zone 'roi', which is 4x3 of 100x100 .* 12\.5x12\.5"
    ):
        from_mask(mask).require_usable(Recipe(image_size=64), (8, 8))
    two = Roi((100, 100), (Zone("a", runs=(0, 5000)), Zone("b", runs=(5000, 5000))))
    two.require_usable(Recipe(image_size=64), (8, 8))
    with pytest.raises(
        RecipeError, match="image_score: reweighted gives one score an image, and the roi has 2 zones"
    ):
        two.require_usable(Recipe(image_size=64, image_score="reweighted"), (8, 8))


def test_scores_of_zones(tmp_path: Path) -> None:
    roi = Roi((8, 8), (Zone("top", runs=(0, 32)), Zone("corner", runs=(0, 2, 8, 2))))
    grid = np.arange(64, dtype=np.float32).reshape(8, 8)
    recipe = Recipe(image_size=64)
    cells = roi.zone_patch_masks(recipe, (8, 8))
    assert zone_scores(grid, cells, recipe) == (31.0, 9.0)
    top_mean = Recipe(image_size=64, image_score="top_mean", top_share=0.5)
    assert zone_scores(grid, cells, top_mean) == (np.arange(16, 32).mean(), 8.5)
    assert [patches_that_count(n, top_mean) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    preprocessor = Preprocessor(recipe, Tiling.one((64, 64), (8, 8)), roi)
    parts = zone_parts(preprocessor, grid, grid.repeat(2, axis=0).repeat(2, axis=1))
    assert [np.isnan(values).sum() for _, values in parts] == [128, 256 - 16]
    assert zone_names(preprocessor) == ("top", "corner")
    for one in (EVERYWHERE, from_mask(np.ones((2, 2), bool))):
        assert zone_names(replace(preprocessor, roi=one)) == ()


def test_levels_take_the_lowest_where_zones_overlap() -> None:
    roi = Roi((2, 4), (Zone("a", runs=(0, 3)), Zone("b", runs=(2, 3))))
    levels = roi.levels((2, 4), (5.0, 3.0))
    np.testing.assert_array_equal(levels, [[5, 5, 3, 3], [3, np.nan, np.nan, np.nan]])


# ---- from end to end -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roi_recipe(mini_backbone: Path) -> Recipe:
    return Recipe(backbone=str(mini_backbone), layers=("layer2",), image_size=96, sampling_ratio=0.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("roi")
    mask = Image.new("L", (96, 96))
    ImageDraw.Draw(mask).rectangle((24, 24, 71, 71), fill=255)
    mask.save(folder / "mask.png")
    two = {
        "size": [96, 96],
        "zones": [
            {"name": "left", "polygons": [[[8, 8], [48, 8], [48, 88], [8, 88]]]},
            {"name": "right", "polygons": [[[48, 8], [88, 8], [88, 88], [48, 88]]]},
        ],
    }
    return {
        "mask": folder / "mask.png",
        "one": written(folder / "one.json", zones(CENTRE)),
        "two": written(folder / "two.json", two),
    }


@pytest.fixture(scope="module")
def masked(roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path) -> Inspector:
    """Read only."""
    return Inspector(roi_recipe.replace({"roi": str(files["mask"])})).fit(mini_dataset)


@pytest.fixture(scope="module")
def zoned(roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path) -> Inspector:
    """Read only."""
    return Inspector(roi_recipe.replace({"roi": str(files["two"])})).fit(mini_dataset)


def good_pixels(mini_dataset: Path, index: int = 0) -> NDArray[np.uint8]:
    return np.array(Image.open(mini_dataset / "test" / "good" / f"{index:03d}.png").convert("RGB"))


def stained(pixels: NDArray[np.uint8], x: int, y: int, side: int = 12) -> NDArray[np.uint8]:
    pixels = pixels.copy()
    pixels[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = (230, 30, 20)
    return pixels


def test_outside_is_neither_learnt_nor_scored(
    masked: Inspector, roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path, tmp_path: Path
) -> None:
    model = masked.model
    cells = model.preprocessor.roi.patch_mask(masked.recipe, model.grid)
    assert cells.sum() == 36  # 48 x 48 pixels, 8 x 8 each
    assert len(model.bank.features) == round(0.2 * 16 * 36)
    clean = masked.inspect(good_pixels(mini_dataset))
    assert clean.verdict == "GOOD"
    np.testing.assert_array_equal(np.isnan(clean.distance_grid), ~cells)
    outside = np.ones((96, 96), dtype=bool)
    outside[24:72, 24:72] = False
    np.testing.assert_array_equal(np.isnan(clean.anomaly_map), outside)
    far = masked.inspect(stained(good_pixels(mini_dataset), 4, 4, 8))
    assert far.score == pytest.approx(clean.score, rel=1e-5)
    assert far.verdict == "GOOD"
    inside = masked.inspect(stained(good_pixels(mini_dataset), 48, 48))
    assert inside.bad
    assert not inside.mask[outside].any()
    assert inside.score == pytest.approx(np.nanmax(inside.distance_grid), rel=1e-5)
    assert inside.zones[0].name == ONLY
    assert inside.zones[0].score == inside.score
    assert inside.zones[0].threshold == inside.threshold == model.calibration.threshold
    assert model.provenance.seen_share == 0.25


def test_held_out_maps_and_scores_are_of_the_inside(masked: Inspector, mini_dataset: Path) -> None:
    """What differs outside from image to image must not move the calibration."""
    good = []
    for index, path in enumerate(sorted((mini_dataset / "train" / "good").iterdir())):
        pixels = np.array(Image.open(path).convert("RGB"))
        pixels[:8, :] = (37 * index) % 256  # farther from the inside than a patch sees
        good.append(pixels)
    again = Inspector(masked.recipe).fit(good)
    np.testing.assert_allclose(
        again.model.calibration.scores, masked.model.calibration.scores, rtol=2e-3
    )  # features are kept in 16 bits
    maps, before = again.model.calibration.training_set.maps, masked.model.calibration.training_set.maps
    np.testing.assert_allclose(maps.peaks, before.peaks, rtol=2e-3)
    assert maps.mean == pytest.approx(before.mean, rel=2e-3)


def test_a_mask_and_the_same_as_a_polygon_are_one(
    masked: Inspector, roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path
) -> None:
    polygon = Inspector(roi_recipe.replace({"roi": str(files["one"])})).fit(mini_dataset)
    np.testing.assert_array_equal(polygon.model.bank.features, masked.model.bank.features)
    assert polygon.model.calibration.threshold == masked.model.calibration.threshold


def test_the_model_needs_no_other_file(
    roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path, zoned: Inspector, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "renamed.json"
    moved.parent.mkdir()
    shutil.copy(files["two"], moved)
    again = Inspector(roi_recipe.replace({"roi": str(moved)})).fit(mini_dataset)
    assert again.model.identity == zoned.model.identity, "where the file lay is of no account"
    path = again.save(tmp_path / "part")
    moved.unlink()
    loaded = Inspector.load(path)
    assert loaded.model.identity == zoned.model.identity
    assert loaded.model.preprocessor.roi.zones == zoned.model.preprocessor.roi.zones
    assert loaded.model.calibration == zoned.model.calibration
    pixels = stained(good_pixels(mini_dataset), 30, 48)
    assert loaded.inspect(pixels).zones == zoned.inspect(pixels).zones
    other = zones(CENTRE, size=[96, 96])
    elsewhere = Inspector(roi_recipe.replace({"roi": str(written(moved, other))})).fit(mini_dataset)
    assert elsewhere.model.identity != zoned.model.identity


def test_a_changed_roi_in_the_file_is_noticed(masked: Inspector, tmp_path: Path) -> None:
    import zipfile

    path = masked.save(tmp_path / "part")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert json.loads(members["roi.json"])["size"] == [96, 96]
    members["roi.json"] = members["roi.json"].replace(b"48", b"47", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(GoodpartsError, match=r"roi\.json does not have the sha256"):
        model_file.load(path)


@pytest.mark.parametrize("framing_of", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("image_score", ["max", "top_mean", "reweighted"])
def test_framings_and_scores(
    roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path, framing_of: str, image_score: str
) -> None:
    keys = {"framing": framing_of, "image_score": image_score, "roi": str(files["mask"]), "top_share": 0.2}
    if framing_of == "crop":
        keys |= {"image_size": 80, "resize_size": 96}
    inspector = Inspector(roi_recipe.replace(keys)).fit(mini_dataset)
    clean = inspector.inspect(good_pixels(mini_dataset))
    far = inspector.inspect(stained(good_pixels(mini_dataset), 4, 4, 6))
    assert far.score == pytest.approx(clean.score, rel=1e-4)
    assert inspector.inspect(stained(good_pixels(mini_dataset), 48, 48)).bad
    share = np.isnan(clean.anomaly_map).mean()
    assert share == pytest.approx(0.75, abs=0.01)


def test_images_of_another_size_are_fine_and_of_another_aspect_refused(
    masked: Inspector, roi_recipe: Recipe, mini_dataset: Path
) -> None:
    large = np.array(Image.fromarray(stained(good_pixels(mini_dataset), 48, 48)).resize((192, 192)))
    found = masked.inspect(large)
    assert found.bad
    assert np.isnan(found.anomaly_map).sum() == 0.75 * 192 * 192
    with pytest.raises(
        ImageError, match=r"image: is 96x60 pixels, but the region of interest is drawn on 96x96"
    ):
        masked.inspect(good_pixels(mini_dataset)[:60])
    good = [good_pixels(mini_dataset, index) for index in range(3)]
    with pytest.raises(ImageError, match="image array: is 96x60"):
        Inspector(masked.recipe).fit([*good, good[0][:60]])


# ---- several zones -------------------------------------------------------------------------------


def test_each_zone_has_a_threshold_and_one_bad_zone_is_enough(zoned: Inspector, mini_dataset: Path) -> None:
    decision = zoned.model.calibration.decision
    assert decision.threshold == decision.pixel_threshold == 1.0
    assert [zone.name for zone in decision.zones] == ["left", "right"]
    for good, zone in zip(zoned.model.calibration.training_set.zones, decision.zones, strict=True):
        scores = np.array(good.scores)
        assert zone.threshold == pytest.approx(robust_sigmas(scores, 3))
        peaks = np.array(good.maps.peaks)
        assert zone.pixel_threshold == pytest.approx(peaks.mean() + 2 * peaks.std(ddof=1))
    clean = zoned.inspect(good_pixels(mini_dataset))
    assert clean.verdict == "GOOD"
    assert not any(zone.bad for zone in clean.zones)
    assert clean.score == max(zone.score / zone.threshold for zone in clean.zones)
    cells = zoned.model.preprocessor.roi.zone_patch_masks(zoned.recipe, zoned.model.grid)
    for x, bad in ((28, "left"), (68, "right")):
        found = zoned.inspect(stained(good_pixels(mini_dataset), x, 48))
        assert found.bad
        assert [zone.name for zone in found.zones if zone.bad] == [bad]
        for zone, of in zip(found.zones, cells, strict=True):
            assert zone.score == pytest.approx(np.nanmax(found.distance_grid[of]))
        marked = np.nonzero(found.mask)[1]
        assert (marked < 48).all() if bad == "left" else (marked >= 48).all()
        peak = np.nanmax(found.anomaly_map)
        assert found.regions[0].peak == pytest.approx(peak)
        assert peak > 1


def test_pixels_are_multiples_of_their_zones_threshold(zoned: Inspector, mini_dataset: Path) -> None:
    pixels = good_pixels(mini_dataset)
    found = zoned.inspect(pixels)
    frame = framing.frame_of((96, 96), zoned.recipe)
    plain = framing.anomaly_map(found.distance_grid, frame, zoned.recipe.smoothing_sigma)
    left, right = (zone.pixel_threshold for zone in zoned.model.calibration.decision.zones)
    np.testing.assert_allclose(found.anomaly_map[8:88, 8:48], plain[8:88, 8:48] / left, rtol=1e-5)
    np.testing.assert_allclose(found.anomaly_map[8:88, 48:88], plain[8:88, 48:88] / right, rtol=1e-5)


def test_scores_order_and_p_values_are_of_the_multiples(zoned: Inspector, mini_dataset: Path) -> None:
    calibration = zoned.model.calibration
    assert len(calibration.scores) == 16
    thresholds = [zone.threshold for zone in calibration.decision.zones]
    expected = [
        max(score / threshold for score, threshold in zip(pair, thresholds, strict=True))
        for pair in zip(*(zone.scores for zone in calibration.training_set.zones), strict=True)
    ]
    np.testing.assert_allclose(calibration.scores, expected)
    assert calibration.p_value(100.0) == 1 / 17
    assert calibration.p_value(0.0) == 1
    evaluation = zoned.evaluate(mini_dataset)
    assert evaluation.threshold == 1
    assert evaluation.metrics["image_auroc"] == 1
    samples = read_dataset(mini_dataset).test
    assert list(zoned.score_many([s.path for s in samples])) == [image.score for image in evaluation.images]
    assert evaluation.metrics["not_looked_share"] == pytest.approx(1 - 80 * 80 / 96**2)
    for image in evaluation.images:
        assert (image.verdict == "BAD") == any(zone.bad for zone in image.zones)


def test_a_quiet_zone_is_not_drowned_by_a_lively_one(roi_recipe: Recipe, tmp_path: Path) -> None:
    """The reason for thresholds of their own: what is usual in one zone is a defect in the other."""
    rng = np.random.default_rng(3)

    def part() -> NDArray[np.uint8]:
        pixels = np.full((96, 96, 3), 120.0)
        pixels[:, 56:] += rng.normal(0, 60, (96, 40, 1))
        return np.clip(pixels + rng.normal(0, 1, (96, 96, 1)), 0, 255).astype(np.uint8)

    good = [part() for _ in range(24)]
    bad = part()
    bad[40:56, 8:24] = np.clip(bad[40:56, 8:24] + rng.normal(0, 12, (16, 16, 1)), 0, 255)
    roi_recipe = roi_recipe.replace({"sampling_ratio": 1.0, "sampling_limit": 0})
    whole = Inspector(roi_recipe).fit(good)
    path = written(
        tmp_path / "zones.json",
        zones([[0, 0], [32, 0], [32, 96], [0, 96]], [[56, 0], [96, 0], [96, 96], [56, 96]]),
    )
    zoned = Inspector(roi_recipe.replace({"roi": str(path)})).fit(good)
    assert not whole.inspect(bad).bad
    found = zoned.inspect(bad)
    assert [zone.bad for zone in found.zones] == [True, False]
    assert not found.mask[:, 48:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold_rule": "f1"}, "threshold_rule: f1 needs a labelled set"),
        ({"threshold_sigma": -90}, "put the thresholds of zone 'left' at -"),
    ],
)
def test_rules_that_several_zones_do_not_take(
    zoned: Inspector, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    copy = Inspector.load(zoned.save(tmp_path / "copy"))
    with pytest.raises(RecipeError, match=message):
        copy.calibrate(changes=changes)
    assert copy.model.identity == zoned.model.identity


def test_fixed_thresholds_are_each_zones_own(zoned: Inspector, tmp_path: Path, mini_dataset: Path) -> None:
    copy = Inspector.load(zoned.save(tmp_path / "copy"))
    copy.calibrate(changes={"threshold_rule": "fixed", "threshold_value": 2.5})
    assert [zone.threshold for zone in copy.model.calibration.decision.zones] == [2.5, 2.5]
    found = copy.inspect(good_pixels(mini_dataset))
    assert found.score == max(zone.score for zone in found.zones) / 2.5
    history = Inspector.load(copy.save(tmp_path / "later")).model.calibration.history
    assert history == (zoned.model.calibration.decision,)


def test_rate_divides_the_false_rejects_among_the_zones(zoned: Inspector, tmp_path: Path) -> None:
    from goodparts.decision.thresholds import rate_threshold

    copy = Inspector.load(zoned.save(tmp_path / "copy"))
    copy.calibrate(changes={"threshold_rule": "rate", "false_reject_rate": 0.4, "confidence": 0.8})
    decision = copy.model.calibration.decision
    for good, zone in zip(copy.model.calibration.training_set.zones, decision.zones, strict=True):
        threshold, kept = rate_threshold(np.array(good.scores), 0.2, 0.9)
        assert zone.threshold == threshold
    assert decision.kept == kept
    rejected = np.count_nonzero(np.array(copy.model.calibration.scores) > 1)
    assert copy.model.calibration.false_reject_bound().rejected == rejected


def test_other_good_images_decide_zone_by_zone(zoned: Inspector, tmp_path: Path, mini_dataset: Path) -> None:
    copy = Inspector.load(zoned.save(tmp_path / "copy"))
    other = sorted((mini_dataset / "test" / "good").iterdir())
    copy.calibrate(other)
    calibration = copy.model.calibration
    assert calibration.false_reject_bound().certified
    for index, zone in enumerate(calibration.calibration_set.zones):
        scores = [copy.inspect(path).zones[index].score for path in other]
        np.testing.assert_allclose(zone.scores, scores, rtol=1e-3)
    with pytest.raises(DatasetError, match="were learnt from"):
        copy.calibrate(mini_dataset)


def test_update_learns_on_in_the_zones(zoned: Inspector, tmp_path: Path, mini_dataset: Path) -> None:
    copy = Inspector.load(zoned.save(tmp_path / "copy"))
    copy.update(sorted((mini_dataset / "test" / "good").iterdir()))
    calibration = copy.model.calibration
    assert len(calibration.scores) == 22
    assert [len(zone.scores) for zone in calibration.training_set.zones] == [22, 22]
    assert len(calibration.decision.zones) == 2
    assert copy.model.provenance.parent == zoned.model.identity
    assert Inspector.load(copy.save(tmp_path / "grown")).model.calibration == calibration


@pytest.mark.parametrize("keys", [{"robust": True}, {"quality_gate": True}], ids=str)
def test_other_ways_to_fit(
    roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path, keys: dict[str, Any]
) -> None:
    inspector = Inspector(roi_recipe.replace({"roi": str(files["two"]), **keys})).fit(mini_dataset)
    found = inspector.inspect(stained(good_pixels(mini_dataset), 28, 48))
    assert [zone.bad for zone in found.zones] == [True, False]
    assert found.verdict == "BAD"


def test_the_quality_gate_judges_what_is_looked_at(
    roi_recipe: Recipe, files: dict[str, Path], mini_dataset: Path
) -> None:
    gate = {"quality_gate": True, "roi": str(files["mask"])}
    inspector = Inspector(roi_recipe.replace(gate)).fit(mini_dataset)
    bright = good_pixels(mini_dataset)
    bright[:, :10] = bright[:, 86:] = 255
    assert inspector.inspect(bright).verdict == "GOOD", "a lamp beside the part is none of its business"
    dark = (good_pixels(mini_dataset) * 0.2).astype(np.uint8)
    assert inspector.inspect(dark).verdict == "RECHECK"


def test_bad_parts_whose_defects_are_not_looked_at_are_counted(
    roi_recipe: Recipe, mini_dataset: Path, tmp_path: Path
) -> None:
    masks = {
        sample.path: np.array(Image.open(sample.masks[0])) > 0
        for sample in read_dataset(mini_dataset).test
        if sample.masks
    }
    rows = [[[0, 0], [96, 0], [96, 40], [0, 40]]]
    path = written(tmp_path / "top.json", {"size": [96, 96], "zones": [{"name": "top", "polygons": rows}]})
    found = Inspector(roi_recipe.replace({"roi": str(path)})).fit(mini_dataset).evaluate(mini_dataset)
    expected = sum(not mask[:40].any() for mask in masks.values())
    assert 0 < expected < len(masks)
    assert found.metrics["bad_not_looked_at"] == expected


def test_missing_file_is_told_before_anything_is_learnt(roi_recipe: Recipe, mini_dataset: Path) -> None:
    def progress(*state: object) -> None:
        raise AssertionError(state)

    with pytest.raises(RecipeError, match=r"roi: nowhere\.json: no such file"):
        Inspector(roi_recipe.replace({"roi": "nowhere.json"})).fit(mini_dataset, progress=progress)
