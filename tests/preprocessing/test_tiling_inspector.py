"""Tiles in an inspector, in files, in other programs, and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from plates import SIZE, ZONES, plate

from goodparts import Inspector, Recipe
from goodparts.cli import cli
from goodparts.data.good_images import GoodImages
from goodparts.errors import GoodpartsError, ModelError, OutputError
from goodparts.features import extract as features
from goodparts.features import whitening
from goodparts.features.extract import Extractor
from goodparts.model import file as model_file
from goodparts.model.export import metadata
from goodparts.preprocessing import framing
from goodparts.preprocessing.tiling import Tiling


@pytest.fixture(scope="module")
def good_plates() -> list[NDArray[np.uint8]]:
    """Eight of them. Read only."""
    return [plate(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def tiled(tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]]) -> Inspector:
    """An inspector that has learnt from plates, tile by tile. Read only."""
    return Inspector(tiled_recipe).fit(good_plates)


@pytest.mark.parametrize("images", [1, 3, 8, 32, 40])
def test_whitening_meets_tiles_of_all_places(
    tiled_recipe: Recipe, tiled: Inspector, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    preprocessor = tiled.model.preprocessor
    tiling, extractor = preprocessor.tiling, Extractor(tiled.model.backbone, tiled.recipe)
    met: list[tuple[int, int]] = []

    def pixels(self: Tiling, canvas: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        met.append((int(canvas[0, 0, 0]), view))
        return np.ascontiguousarray(canvas[:64, :64])

    monkeypatch.setattr(Tiling, "pixels", pixels)
    pictures = [np.full((*SIZE, 3), index, dtype=np.uint8) for index in range(images)]
    good = GoodImages.of(pictures, read=np.asarray, workers=1)
    learnt = features.learn_whitening(good, extractor, preprocessor)
    assert learnt is not None
    assert len(met) == len(set(met)) <= whitening.SAMPLE
    assert len(met) == min(whitening.SAMPLE, images * len(tiling))
    assert len({view for _, view in met}) > 12
    assert len({image for image, _ in met}) > min(images - 1, 12)


def test_a_small_defect_is_found_where_it_is(tiled: Inspector) -> None:
    assert tiled.model.preprocessor.tiling.canvas == SIZE
    for seed in range(100, 106):
        assert tiled.inspect(plate(seed)).score < tiled.inspect(plate(seed, True)).score
        inspection = tiled.inspect(plate(seed, True))
        assert inspection.bad
        assert inspection.anomaly_map.shape == SIZE
        assert inspection.distance_grid.shape == (25, 41)
        row, column = 20 + 3 * (seed % 50), 40 + 5 * (seed % 50)
        assert inspection.mask[row + 3, column + 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_progress_counts_tiles(
    tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]], workers: int
) -> None:
    reported: dict[str, list[tuple[int, int]]] = {}
    inspector = Inspector(tiled_recipe, workers=workers).fit(
        good_plates[:4],
        progress=lambda stage, done, total: reported.setdefault(stage, []).append((done, total)),
    )
    for stage in ("features", "calibration"):
        done, totals = zip(*reported[stage], strict=True)
        assert set(totals) == {4 * len(inspector.model.preprocessor.tiling)}
        assert list(done) == sorted(done)
        assert done[-1] == totals[-1]


def test_one_tile_is_the_plain_system(tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]]) -> None:
    one = Inspector(tiled_recipe.replace({"tiling": "400x400"})).fit(good_plates)
    whole = Inspector(tiled_recipe.replace({"tiling": ""})).fit(good_plates)
    assert len(one.model.preprocessor.tiling) == 1
    np.testing.assert_array_equal(one.model.bank.features, whole.model.bank.features)
    assert one.model.calibration.threshold == pytest.approx(whole.model.calibration.threshold, rel=1e-5)
    first, second = one.inspect(good_plates[0]), whole.inspect(good_plates[0])
    assert first.score == pytest.approx(second.score, rel=1e-5)
    np.testing.assert_allclose(first.anomaly_map, second.anomaly_map, rtol=1e-4)


def test_the_bank_knows_which_image_an_entry_came_from(
    tiled: Inspector, good_plates: list[NDArray[np.uint8]]
) -> None:
    image_ids = tiled.model.bank.image_ids
    assert set(image_ids.tolist()) == set(range(len(good_plates)))
    assert (np.diff(image_ids) >= 0).all()


def test_a_held_out_score_is_about_that_of_a_refit(
    tiled: Inspector, tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]]
) -> None:
    without = Inspector(tiled_recipe).fit(good_plates[1:])
    assert tiled.model.calibration.scores[0] == pytest.approx(without.inspect(good_plates[0]).score, rel=0.15)


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
    tiled_recipe: Recipe, keys: dict[str, Any], good_plates: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    inspector = Inspector(tiled_recipe.replace(keys)).fit(good_plates[:4])
    loaded = Inspector.load(inspector.save(tmp_path / "plates"))
    assert loaded.model.identity == inspector.model.identity
    assert loaded.model.preprocessor.tiling == inspector.model.preprocessor.tiling
    assert loaded.inspect(good_plates[3]).score == pytest.approx(
        inspector.inspect(good_plates[3]).score, rel=1e-5
    )
    many = list(loaded.inspect_many(good_plates[:3]))
    assert [one.score for one in many] == pytest.approx(list(loaded.score_many(good_plates[:3])), rel=1e-5)


def test_a_model_without_its_tiles_is_damaged(tiled: Inspector, tmp_path: Path) -> None:
    without = replace(tiled.model.preprocessor, recipe=tiled.recipe.replace({"tiling": ""}))
    path = model_file.save(replace(tiled.model, preprocessor=without), tmp_path / "plates")
    with pytest.raises(ModelError, match=r"tiling = '64x64\+24' does not go with the members"):
        model_file.load(path)


def test_an_image_of_another_size_is_resized_to_the_canvas(tiled: Inspector) -> None:
    larger = np.repeat(np.repeat(plate(100, True), 2, axis=0), 2, axis=1)
    inspection = tiled.inspect(larger)
    assert inspection.anomaly_map.shape == (400, 656)
    assert inspection.distance_grid.shape == (25, 41)


def test_update_and_calibrate(tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]]) -> None:
    inspector = Inspector(tiled_recipe).fit(good_plates[:5])
    inspector.update(good_plates)  # five of which are known
    assert inspector.model.provenance.good_images == 8
    assert len(inspector.model.calibration.scores) == 8
    inspector.calibrate([plate(seed) for seed in range(20, 26)])
    assert len(inspector.model.calibration.scores) == 6
    with pytest.raises(GoodpartsError, match="were learnt from"):
        inspector.calibrate(good_plates)


@pytest.mark.parametrize("count", [1, 2])
def test_regions_of_interest(
    tiled_recipe: Recipe,
    count: int,
    good_plates: list[NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES | {"zones": ZONES["zones"][:count]}), encoding="utf-8")  # type: ignore[index]
    inspector = Inspector(tiled_recipe.replace({"roi": str(path)})).fit(good_plates)
    inside = plate(101, True)  # its spot lies at column 45
    assert inspector.inspect(inside).bad
    between = good_plates[0].copy()
    between[90:97, 190:197] = 255
    inspection = inspector.inspect(between)
    assert not inspection.bad
    assert np.isnan(inspection.anomaly_map[:, 160:230]).all()
    assert len(inspection.zones) == count
    with pytest.raises(OutputError, match=r"export: .*roi.*tiling"):
        inspector.export(tmp_path / "part.onnx")


# ---- other programs ------------------------------------------------------------------------------


@pytest.mark.parametrize("banks", ["shared", "position"])
def test_an_export_merged_as_its_metadata_says(
    banks: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fitted: Inspector = request.getfixturevalue("tiled" if banks == "shared" else "tiled_by_place")
    session = onnxruntime.InferenceSession(
        str(fitted.export(tmp_path / "part.onnx")), providers=["CPUExecutionProvider"]
    )
    about = session.get_modelmeta().custom_metadata_map
    assert about["framing"] == "tiles"
    lies = json.loads(about["tiles"])
    width, height = map(int, lies["canvas"].split("x"))
    across, down = map(int, lies["cell"].split("x"))
    tile_width, tile_height = map(int, about["image_size"].split("x"))
    for image in (plate(100), plate(101, True)):
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
    tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    inspector = Inspector(tiled_recipe.replace({"image_score": "reweighted"})).fit(good_plates[:4])
    with pytest.raises(OutputError, match=r"export: .*reweighted.*max, top_mean.*tiling"):
        inspector.export(tmp_path / "part.onnx")


def test_no_tiles_in_the_metadata_of_others(
    tiled_recipe: Recipe, good_plates: list[NDArray[np.uint8]]
) -> None:
    about = metadata(Inspector(tiled_recipe.replace({"tiling": ""})).fit(good_plates[:4]).model)
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
    tiled_recipe: Recipe,
    good_plates: list[NDArray[np.uint8]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    zones, image = tmp_path / "zones.json", tmp_path / "plate.png"
    zones.write_text(json.dumps(ZONES), encoding="utf-8")
    Image.fromarray(good_plates[0]).save(image)
    keys = [
        "--backbone",
        tiled_recipe.backbone,
        "--layers",
        "layer2,layer3",
        "--image-size",
        "64",
        "--tiling",
        tiled_recipe.tiling,
    ]
    file = zones
    if of_a_model:
        inspector = Inspector(tiled_recipe.replace({"roi": str(zones)})).fit(good_plates[:3])
        file = inspector.save(tmp_path / "part.goodparts")
        keys = []  # the model has them
    with pytest.raises(SystemExit) as ended:
        cli(["roi", str(file), str(image), "--out", str(tmp_path / "roi.png"), "--json", *keys])
    assert ended.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["of_patches"] == 25 * 41
    assert found["patches"] == 25 * (19 + 11)
