"""`Inspector` from end to end: learn, inspect, decide anew, learn on, save and load, on small images."""

from __future__ import annotations

import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupting import processes_with_files_in, threads_at_work
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspection, Inspector, Recipe, parallel, read_dataset
from goodparts.data.images import read_image
from goodparts.decision.good_scores import CALIBRATION_SET
from goodparts.errors import DatasetError, GoodpartsError, ImageError, ModelError, RecipeError

Changed = Callable[..., Recipe]


@pytest.fixture
def copy(fitted_file: Path) -> Inspector:
    """The fitted model, to change."""
    return Inspector.load(fitted_file)


@pytest.fixture(scope="module")
def test_paths(mini_dataset: Path) -> list[Path]:
    return [sample.path for sample in read_dataset(mini_dataset).test]


@pytest.fixture(scope="module")
def other_good(mini_dataset: Path) -> list[Path]:
    """Good images that were not learnt from."""
    return sorted((mini_dataset / "test" / "good").iterdir())


def scores_of(inspector: Inspector, images: list[Path]) -> list[float]:
    return [inspection.score for inspection in inspector.inspect_many(images)]


def stained(path: Path, at: tuple[int, int] = (48, 48)) -> NDArray[np.uint8]:
    pixels = np.array(Image.open(path).convert("RGB"))
    pixels[at[0] - 8 : at[0] + 8, at[1] - 8 : at[1] + 8] = (230, 30, 20)
    return pixels


# ---- learn, inspect, save, load ------------------------------------------------------------------


def test_nothing_was_learnt_yet(recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="has learnt nothing yet"):
        Inspector(recipe).inspect(np.zeros((96, 96, 3), np.uint8))


def test_good_parts_are_good_and_bad_ones_bad(fitted: Inspector, mini_dataset: Path) -> None:
    for sample in read_dataset(mini_dataset).test:
        inspection = fitted.inspect(sample.path)
        assert inspection.bad == sample.label, sample.path
        assert inspection.path == sample.path
        assert inspection.threshold == fitted.model.calibration.threshold
        assert inspection.p_value == fitted.model.calibration.p_value(inspection.score)


def test_loaded_again_it_is_the_same(fitted: Inspector, fitted_file: Path, test_paths: list[Path]) -> None:
    loaded = Inspector.load(fitted_file)
    assert loaded.recipe == fitted.recipe
    assert loaded.model.identity == fitted.model.identity
    assert loaded.model.calibration == fitted.model.calibration
    assert scores_of(loaded, test_paths) == scores_of(fitted, test_paths)
    first, second = fitted.inspect(test_paths[0]), loaded.inspect(test_paths[0])
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)


def test_saved_again_it_is_the_same_file(fitted_file: Path, tmp_path: Path) -> None:
    again = Inspector.load(fitted_file).save(tmp_path / "again")
    assert again == tmp_path / "again.goodparts"
    assert again.read_bytes() == fitted_file.read_bytes()


def test_one_by_one_or_side_by_side(fitted: Inspector, test_paths: list[Path]) -> None:
    alone = [fitted.inspect(path) for path in test_paths]
    together = list(fitted.inspect_many(test_paths))
    assert [found.path for found in together] == test_paths
    np.testing.assert_allclose(
        [found.score for found in together], [found.score for found in alone], rtol=1e-3
    )
    assert [found.verdict for found in together] == [found.verdict for found in alone]
    assert list(fitted.score_many(test_paths)) == [found.score for found in together]


def test_inspect_many_hands_over_pixels_and_order(fitted: Inspector, test_paths: list[Path]) -> None:
    def look(index: int, pixels: NDArray[np.uint8], found: Inspection) -> tuple[int, Any, Path | None]:
        return index, pixels.shape, found.path

    seen = list(fitted.inspect_many(test_paths, look))
    assert seen == [(index, (96, 96, 3), path) for index, path in enumerate(test_paths)]


def test_evaluate_takes_a_folder_or_a_data_set(fitted: Inspector, mini_dataset: Path) -> None:
    by_folder, by_data = fitted.evaluate(mini_dataset), fitted.evaluate(read_dataset(mini_dataset))
    assert by_folder.metrics == by_data.metrics
    assert by_folder.metrics["image_auroc"] == 1.0
    assert by_folder.metrics["pixel_auroc"] is not None
    assert by_folder.metrics["pixel_auroc"] > 0.9


def test_the_same_fit_gives_the_same_model(
    fitted: Inspector, recipe: Recipe, mini_dataset: Path, test_paths: list[Path], tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(mini_dataset / "train" / "good", tmp_path / "moved")
    again = Inspector(recipe, workers=1).fit(elsewhere)
    assert again.model.identity == fitted.model.identity
    assert scores_of(again, test_paths) == scores_of(fitted, test_paths)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_another_seed_gives_another_model(recipe: Recipe, mini_dataset: Path, sampling: str) -> None:
    first, second = (
        Inspector(recipe.replace({"sampling": sampling, "seed": seed})).fit(mini_dataset).model
        for seed in (0, 1)
    )
    assert first.identity != second.identity
    assert not np.array_equal(first.bank.features, second.bank.features)


def test_features_on_disk_give_the_same_model(
    fitted: Inspector,
    recipe: Recipe,
    mini_dataset: Path,
    test_paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spilled: set[int] = set()

    def watch(stage: str, done: int, total: int) -> None:
        spilled.add(processes_with_files_in(tmp_path))

    on_disk = Inspector(recipe.replace({"memory_limit": 0})).fit(mini_dataset, progress=watch)
    assert 1 in spilled or sys.platform != "linux"
    assert not list(tmp_path.iterdir()), "the file is gone afterwards"
    np.testing.assert_array_equal(on_disk.model.bank.features, fitted.model.bank.features)
    assert on_disk.model.calibration == fitted.model.calibration
    assert scores_of(on_disk, test_paths) == scores_of(fitted, test_paths)


def test_where_features_were_kept_is_not_part_of_the_identity(
    fitted: Inspector, recipe: Recipe, mini_dataset: Path
) -> None:
    on_disk = Inspector(recipe.replace({"memory_limit": 0})).fit(mini_dataset)
    assert on_disk.model.identity == fitted.model.identity


def test_progress_counts_up_to_the_end(recipe: Recipe, mini_dataset: Path) -> None:
    reported: dict[str, list[tuple[int, int]]] = {}
    Inspector(recipe).fit(
        mini_dataset, progress=lambda stage, done, total: reported.setdefault(stage, []).append((done, total))
    )
    for stage in ("features", "memory bank", "calibration"):
        for length in {total for _, total in reported[stage]}:  # a memory bank a depth
            done = [step[0] for step in reported[stage] if step[1] == length]
            assert done == sorted(done)
            assert done[-1] == length, stage
    assert reported["features"][-1] == (16, 16)


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_nothing_runs_on_after_an_interrupt_while_threads_start(
    recipe: Recipe, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[object] = []

    def slow(image: Any, **options: Any) -> NDArray[np.uint8]:
        running.append(image)
        time.sleep(0.2)
        pixels = read_image(image, **options)
        running.remove(image)
        return pixels

    def start(self: threading.Thread) -> None:
        really_start(self)
        if self.name.startswith("goodparts"):
            raise KeyboardInterrupt  # where Ctrl-C often lands: this waits for the thread

    really_start = threading.Thread.start
    monkeypatch.setattr("goodparts.inspector.read_image", slow)
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(parallel, "_IDLE", {})  # so that threads are started
    with pytest.raises(KeyboardInterrupt):
        Inspector(recipe).fit(mini_dataset)
    left = list(running)
    time.sleep(0.5)  # whatever runs on ends before the next test
    assert not left, "it would write into features that are gone, which kills the process"


def test_nothing_runs_on_after_an_interrupt_between_held_out_scores(
    recipe: Recipe, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goodparts.decision.good_scores.GoodScoresCollector.add", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        Inspector(recipe, workers=2).fit(mini_dataset)
    assert caught.traceback  # as it is while what was in use is given back
    assert threads_at_work() == 0, "one would read features that are gone, which kills the process"


# ---- images however they come --------------------------------------------------------------------


def test_an_image_scores_the_same_however_it_is_given(fitted: Inspector, test_paths: list[Path]) -> None:
    path = test_paths[-1]
    pixels = np.array(Image.open(path).convert("RGB"))
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    given: list[Any] = [path, str(path), path.read_bytes(), pixels, np.asfortranarray(pixels), alpha]
    found = [fitted.inspect(image) for image in given]
    assert {inspection.score for inspection in found} == {found[0].score}
    assert [inspection.path for inspection in found] == [path, path, None, None, None, None]


def test_grey_is_grey_however_it_is_given(fitted: Inspector, test_paths: list[Path], tmp_path: Path) -> None:
    grey = np.array(Image.open(test_paths[0]).convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 256).save(stream, format="PNG")
    given: list[Any] = [
        grey,
        grey[:, :, None],
        np.dstack([grey] * 3),
        tmp_path / "grey.png",
        stream.getvalue(),
    ]
    assert len({fitted.inspect(image).score for image in given}) == 1


def test_learning_from_arrays_is_learning_from_files(
    fitted: Inspector, recipe: Recipe, mini_dataset: Path, test_paths: list[Path]
) -> None:
    files = sorted((mini_dataset / "train" / "good").iterdir())
    arrays = [np.array(Image.open(path).convert("RGB")) for path in files]
    learnt = Inspector(recipe).fit(arrays)
    np.testing.assert_array_equal(learnt.model.bank.features, fitted.model.bank.features)
    assert learnt.model.calibration.training_set.names[0] == "image 0"
    assert scores_of(learnt, test_paths) == scores_of(fitted, test_paths)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((96, 96, 3), np.float32), "expected uint8"),
        (np.zeros((96, 96, 2), np.uint8), "expected uint8"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 pixels"),
        (b"", "0 bytes"),
        ("no such file.png", "no such file"),
    ],
)
def test_what_is_no_image_is_refused(fitted: Inspector, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        fitted.inspect(image)


def test_too_many_pixels_are_refused(fitted_file: Path, test_paths: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"more than the limit of 1,000.*--pixel-limit"):
        Inspector.load(fitted_file, pixel_limit=1000).inspect(test_paths[0])


def test_no_image_is_too_few(recipe: Recipe) -> None:
    with pytest.raises(DatasetError, match=r"0 good image.*at least 1 needed"):
        Inspector(recipe).fit([])


def test_two_images_are_enough(recipe: Recipe, other_good: list[Path]) -> None:
    learnt = Inspector(recipe).fit(other_good[:2])
    assert len(learnt.model.calibration.scores) == 2
    assert np.isfinite(learnt.inspect(other_good[2]).score)


def test_a_damaged_image_is_named(recipe: Recipe, other_good: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(other_good[0].read_bytes()[:900])
    inspector = Inspector(recipe)
    with pytest.raises(ImageError, match=r"broken\.png.*damaged or truncated"):
        inspector.fit([*other_good, broken])
    with pytest.raises(ModelError, match="nothing yet"):
        inspector.inspect(other_good[0])


# ---- what must always be true --------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"minimum_area": 10**9},
        {"pixel_threshold_rule": "fixed", "pixel_threshold_value": 1e9},
        {"threshold_rule": "fixed", "threshold_value": 1e-9},
        {"threshold_rule": "sigma", "threshold_sigma": -100, "pixel_threshold_sigma": -100},
        {"threshold_rule": "fixed", "threshold_value": 1e9, "pixel_threshold_sigma": -100},
    ],
    ids=["default", "area", "pixels", "all bad", "negative", "all good"],
)
def test_bad_shows_a_region_and_good_an_empty_mask(
    copy: Inspector, test_paths: list[Path], changes: dict[str, Any]
) -> None:
    copy.calibrate(changes=changes)
    for inspection in copy.inspect_many(test_paths):
        assert inspection.bad == (inspection.score > inspection.threshold)
        assert inspection.bad == bool(inspection.regions)
        assert inspection.bad == bool(inspection.mask.any())
        assert sum(region.area for region in inspection.regions) == inspection.mask.sum()


@pytest.mark.parametrize("size", [(96, 96), (140, 90), (61, 200), (333, 257)], ids=str)
@pytest.mark.parametrize("framing", ["stretch", "letterbox", "crop"])
def test_original_size_in_original_size_out(
    framed: dict[str, Inspector], mini_dataset: Path, size: tuple[int, int], framing: str
) -> None:
    with Image.open(mini_dataset / "test" / "stain" / "000.png") as image:
        pixels = np.array(image.resize(size))
    inspection = framed[framing].inspect(pixels)
    assert inspection.anomaly_map.shape == inspection.mask.shape == (size[1], size[0])
    assert inspection.anomaly_map.dtype == np.float32
    assert inspection.mask.dtype == bool
    unseen = np.isnan(inspection.anomaly_map)
    assert not inspection.mask[unseen].any()
    assert unseen.any() == (framing == "crop")
    assert np.isnan(inspection.distance_grid).any() == (framing == "letterbox" and size[0] != size[1])


@pytest.fixture(scope="module")
def framed(recipe: Recipe, mini_dataset: Path) -> dict[str, Inspector]:
    """An inspector for each way of framing."""
    changes: dict[str, dict[str, Any]] = {
        "stretch": {},
        "letterbox": {"framing": "letterbox"},
        "crop": {"framing": "crop", "resize_size": 96, "image_size": 64},
    }
    return {name: Inspector(recipe.replace(values)).fit(mini_dataset) for name, values in changes.items()}


def test_what_was_cropped_away_is_nan_and_has_no_say(
    framed: dict[str, Inspector], test_paths: list[Path]
) -> None:
    inspector = framed["crop"]
    clean = inspector.inspect(test_paths[0])
    inside = ~np.isnan(clean.anomaly_map)
    assert inside[16:80, 16:80].all()
    assert inside.sum() == 64 * 64
    pixels = np.array(Image.open(test_paths[0]).convert("RGB"))
    pixels[:14] = pixels[82:] = (230, 30, 20)
    assert inspector.inspect(pixels).score == clean.score
    assert inspector.inspect(stained(test_paths[0])).score > clean.score


def test_the_map_is_highest_where_the_defect_is(
    framed: dict[str, Inspector], test_paths: list[Path], mini_dataset: Path
) -> None:
    for name, inspector in framed.items():
        found = inspector.inspect(stained(test_paths[0], at=(38, 58)))
        y, x = np.unravel_index(np.nanargmax(found.anomaly_map), found.anomaly_map.shape)
        assert abs(y - 38) <= 12, name
        assert abs(x - 58) <= 12, name


def test_letterbox_padding_is_not_learnt(
    recipe: Recipe, mini_dataset: Path, tmp_path: Path, framed: dict[str, Inspector]
) -> None:
    for path in sorted((mini_dataset / "train" / "good").iterdir()):
        with Image.open(path) as image:
            image.crop((0, 24, 96, 72)).save(tmp_path / path.name)
    inspector = Inspector(recipe.replace({"framing": "letterbox"})).fit(tmp_path)
    whole = len(framed["letterbox"].model.bank.features)
    assert len(inspector.model.bank.features) == whole // 2  # of twice as many patches
    with Image.open(mini_dataset / "test" / "good" / "000.png") as image:
        wide = inspector.inspect(np.array(image.crop((0, 24, 96, 72))))
    assert wide.verdict == "GOOD"
    assert np.isnan(wide.distance_grid).mean() == 0.5
    assert not np.isnan(wide.anomaly_map).any()


def test_scores_are_not_clamped(copy: Inspector, test_paths: list[Path]) -> None:
    scores = scores_of(copy, test_paths)
    copy.calibrate(changes={"threshold_rule": "fixed", "threshold_value": 0.5 * min(scores)})
    assert scores_of(copy, test_paths) == scores
    assert len(set(scores)) == len(scores)


# ---- calibrate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threshold_rule": "sigma", "threshold_sigma": 2}, lambda s: s.mean() + 2 * s.std(ddof=1)),
        ({"threshold_rule": "quantile", "threshold_quantile": 0.5}, lambda s: np.sort(s)[7]),
        ({"threshold_rule": "rate", "false_reject_rate": 0.2, "confidence": 0.9}, lambda s: np.sort(s)[-1]),
        ({"threshold_rule": "fixed", "threshold_value": 0.25}, lambda s: 0.25),
    ],
)
def test_another_rule_decides_from_the_scores_that_are_there(
    copy: Inspector, test_paths: list[Path], changes: dict[str, Any], expected: Callable[[Any], float]
) -> None:
    before, bank = copy.model.calibration, copy.model.bank
    identity = copy.model.identity
    assert copy.calibrate(changes=changes) is copy
    after = copy.model.calibration
    assert after.threshold == pytest.approx(expected(np.array(before.scores)))
    assert after.history == (before.decision,)
    assert after.training_set == before.training_set
    assert after.calibration_set is None
    assert copy.model.bank is bank
    assert copy.model.identity != identity
    for key, value in changes.items():
        assert getattr(copy.recipe, key) == value
    found = copy.inspect(test_paths[0])
    assert found.threshold == after.threshold
    assert found.bad == (found.score > after.threshold)


def test_every_decision_is_kept(copy: Inspector, tmp_path: Path) -> None:
    thresholds = [copy.model.calibration.threshold]
    for value in (1.0, 2.0, 3.0):
        copy.calibrate(changes={"threshold_rule": "fixed", "threshold_value": value})
        thresholds.append(value)
    loaded = Inspector.load(copy.save(tmp_path / "later")).model.calibration
    assert [decision.threshold for decision in loaded.history] == thresholds[:-1]
    assert loaded.threshold == 3.0


def test_images_that_were_not_learnt_from_decide(
    copy: Inspector, other_good: list[Path], test_paths: list[Path]
) -> None:
    before = copy.model.calibration
    copy.calibrate(other_good)
    after = copy.model.calibration
    assert after.calibration_set is not None
    assert after.calibration_set.source == CALIBRATION_SET
    assert after.calibration_set.names == tuple(path.name for path in other_good)
    np.testing.assert_allclose(after.scores, scores_of(copy, other_good))
    assert after.decision.good == 6
    assert after.history == (before.decision,)
    assert not before.false_reject_bound().certified
    assert after.false_reject_bound().certified
    copy.calibrate(changes={"threshold_sigma": 2.0})
    assert copy.model.calibration.calibration_set == after.calibration_set  # no images: only the rule changes
    assert copy.model.calibration.threshold < after.threshold


def test_images_that_were_learnt_from_are_refused_by_name(
    copy: Inspector, other_good: list[Path], mini_dataset: Path, tmp_path: Path
) -> None:
    shutil.copy(mini_dataset / "train" / "good" / "003.png", tmp_path / "renamed.png")
    before = copy.model
    with pytest.raises(DatasetError, match=r"1 of 7 images were learnt from, such as .*renamed\.png"):
        copy.calibrate([*other_good, tmp_path / "renamed.png"])
    with pytest.raises(DatasetError, match=r"16 of 16 images were learnt from"):
        copy.calibrate(mini_dataset)
    assert copy.model is before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_ratio": 0.5}, "sampling_ratio: calibration changes the decision only"),
        ({"backbone": "resnet18"}, "backbone: calibration"),
        ({"threshold_sgima": 2}, "threshold_sgima"),
        ({"threshold_rule": "tail"}, "tail needs at least 25 good images, found 16"),
        ({"threshold_rule": "fixed"}, "threshold_value: threshold_rule = fixed takes it"),
        ({"pixel_threshold_rule": "fixed"}, "pixel_threshold_value: pixel_threshold_rule = fixed takes it"),
        ({"threshold_rule": "sigmoid"}, "expected one of robust_sigma"),
        ({"threshold_quantile": 1.5}, "threshold_quantile: expected 0 to 1"),
    ],
)
def test_what_calibration_can_not_change(copy: Inspector, changes: dict[str, Any], message: str) -> None:
    before = copy.model
    with pytest.raises(RecipeError, match=message):
        copy.calibrate(changes=changes)
    assert copy.model is before
    assert copy.recipe == before.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold_quantile": 0.5}, "threshold_quantile: threshold_rule = robust_sigma .* = quantile$"),
        ({"threshold_value": 2}, "threshold_value: threshold_rule = robust_sigma .* = fixed$"),
        ({"false_reject_rate": 0.3}, "false_reject_rate: threshold_rule = robust_sigma .* = rate or tail$"),
        ({"threshold_sigma": 2, "threshold_rule": "rate"}, "threshold_sigma: threshold_rule = rate"),
        ({"pixel_threshold_quantile": 0.9}, "pixel_threshold_quantile: pixel_threshold_rule = peak_sigma"),
        (
            {"pixel_threshold_sigma": 1, "pixel_threshold_rule": "peak_quantile"},
            "pixel_threshold_sigma: .* = peak_sigma or pixel_sigma$",
        ),
        ({"pixel_threshold_value": 1}, "pixel_threshold_value: pixel_threshold_rule = peak_sigma"),
    ],
)
def test_a_key_that_the_rule_does_not_use_is_refused(
    copy: Inspector, changes: dict[str, Any], message: str
) -> None:
    before = copy.model
    with pytest.raises(RecipeError, match=f"^{message}"):
        copy.calibrate(changes=changes)
    assert copy.model is before


def test_a_key_of_another_rule_may_stay_as_it_was(copy: Inspector) -> None:
    copy.calibrate(changes={"threshold_rule": "rate", "threshold_sigma": 3, "confidence": 0.9})
    assert copy.model.calibration.decision.threshold_rule == "rate"


def test_one_image_is_too_few_to_decide(copy: Inspector, other_good: list[Path]) -> None:
    with pytest.raises(DatasetError, match="at least 2 needed"):
        copy.calibrate(other_good[:1])


@pytest.mark.parametrize("rule", ["peak_quantile", "pixel_quantile"])
def test_another_pixel_quantile_is_another_threshold_or_refused(copy: Inspector, rule: str) -> None:
    found = []
    for quantile in (0.2, 0.999):
        try:
            copy.calibrate(changes={"pixel_threshold_rule": rule, "pixel_threshold_quantile": quantile})
        except GoodpartsError:  # the maps are not kept: to say so is right, too
            return
        found.append(copy.model.calibration.pixel_threshold)
    assert found[0] < found[1], "the card would state a quantile that this is not"


def test_calibrate_on_certifies_from_the_start(
    recipe: Recipe, fitted: Inspector, mini_dataset: Path, other_good: list[Path]
) -> None:
    inspector = Inspector(recipe).fit(mini_dataset, calibrate_on=other_good)
    calibration = inspector.model.calibration
    assert calibration.false_reject_bound().certified
    assert calibration.decision.source == CALIBRATION_SET
    assert calibration.history == ()
    assert calibration.training_set == fitted.model.calibration.training_set
    np.testing.assert_array_equal(inspector.model.bank.features, fitted.model.bank.features)


def test_the_oracle_waits_for_labels(recipe: Recipe, mini_dataset: Path, other_good: list[Path]) -> None:
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(mini_dataset)
    with pytest.raises(ModelError, match=r"f1 is an oracle and has not seen a labelled set yet: fit with"):
        inspector.inspect(other_good[0])
    waiting = inspector.model
    for images in (None, other_good):
        with pytest.raises(RecipeError, match="threshold_rule: f1 needs a labelled set"):
            inspector.calibrate(images)
    assert inspector.model is waiting
    decided = inspector.calibrate(changes={"threshold_rule": "sigma"}).model
    with pytest.raises(RecipeError, match="threshold_rule: f1 needs a labelled set"):
        inspector.calibrate(changes={"threshold_rule": "f1"})
    assert inspector.model is decided
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(mini_dataset)
    evaluation = inspector.evaluate(mini_dataset)
    assert evaluation.threshold_rule == "f1"
    assert evaluation.threshold == evaluation.oracle_threshold
    assert evaluation.metrics["image_f1"] == evaluation.metrics["image_f1_max"]
    assert inspector.inspect(other_good[0]).verdict == "GOOD"


def test_an_oracle_is_calibrated_on_other_images_while_it_waits(
    recipe: Recipe, mini_dataset: Path, other_good: list[Path]
) -> None:
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(mini_dataset, calibrate_on=other_good)
    assert inspector.model.calibration.decision.threshold is None
    assert len(inspector.model.calibration.scores) == len(other_good)


@pytest.mark.parametrize("change", [{"minimum_area": 5}, {"pixel_threshold_sigma": 2.0}])
def test_a_change_of_pixels_keeps_the_oracle(
    recipe: Recipe, mini_dataset: Path, change: dict[str, Any]
) -> None:
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(mini_dataset)
    threshold = inspector.evaluate(mini_dataset).threshold
    inspector.calibrate(changes=change)
    assert inspector.model.calibration.decision.threshold == threshold


# ---- learn on ------------------------------------------------------------------------------------


def test_update_grows_the_bank_and_names_the_parent(
    copy: Inspector, other_good: list[Path], mini_dataset: Path, tmp_path: Path
) -> None:
    parent, first = copy.model, copy.model.bank
    learnt = sorted((mini_dataset / "train" / "good").iterdir())[:5]
    assert copy.update([*learnt, *other_good]) is copy  # those that are known are passed over
    model = copy.model
    assert model.provenance.parent == parent.identity
    assert model.provenance.good_images == 22
    assert len(model.bank.features) > len(first.features)
    old = model.bank.features[model.bank.image_ids < 16]
    np.testing.assert_array_equal(old, first.features)
    assert set(model.bank.image_ids[model.bank.image_ids >= 16]) <= set(range(16, 22))
    assert model.calibration.training_set.scores[:16] == parent.calibration.training_set.scores
    assert len(model.calibration.training_set.scores) == 22
    assert model.calibration.history == (parent.calibration.decision,)
    assert model.identity != parent.identity
    loaded = Inspector.load(copy.save(tmp_path / "grown"))
    assert loaded.model.identity == model.identity
    with pytest.raises(DatasetError, match="learnt from"):
        loaded.calibrate(other_good)


def test_an_updated_model_tells_of_all_images_it_learnt_from(copy: Inspector) -> None:
    first = copy.model
    rng = np.random.default_rng(0)
    copy.update([rng.integers(0, 256, (120, 200, 3), dtype=np.uint8) for _ in range(3)])
    data = copy.model.provenance
    assert data.good_images == 19
    assert list(data.image_sizes.items()) == [("96x96", 16), ("200x120", 3)]
    assert data.seen_share == first.provenance.seen_share
    assert data.parent == first.identity


def test_an_image_given_twice_counts_once(copy: Inspector, other_good: list[Path]) -> None:
    calibrated = Inspector(copy.recipe)
    calibrated._set_model(copy.model)
    calibrated.calibrate([*other_good, *other_good])
    assert len(calibrated.model.calibration.scores) == len(other_good)
    with pytest.raises(DatasetError, match="the same image 3 times; at least 2 that differ are needed"):
        calibrated.calibrate([other_good[0]] * 3)
    with pytest.raises(RecipeError, match="needs at least"):  # counts those that differ
        calibrated.calibrate(other_good * 9, changes={"threshold_rule": "tail"})
    copy.update([*other_good, *other_good])
    assert copy.model.provenance.good_images == 16 + len(other_good)
    assert len(copy.model.calibration.training_set.scores) == 16 + len(other_good)


def test_update_from_known_images_only_is_an_error(copy: Inspector, mini_dataset: Path) -> None:
    before = copy.model
    with pytest.raises(DatasetError, match="no good image that this model has not learnt from already"):
        copy.update(mini_dataset)
    assert copy.model is before


def test_update_brings_what_is_new_nearer(copy: Inspector, mini_dataset: Path) -> None:
    variant = [stained(path) for path in sorted((mini_dataset / "train" / "good").iterdir())[:4]]
    unknown = stained(mini_dataset / "test" / "good" / "000.png")
    before = copy.inspect(unknown).score
    assert copy.update(variant).inspect(unknown).score < 0.7 * before


def test_update_respects_the_limit_of_the_bank(
    recipe: Recipe, mini_dataset: Path, other_good: list[Path]
) -> None:
    inspector = Inspector(recipe.replace({"sampling_limit": 100})).fit(mini_dataset)
    assert len(inspector.model.bank.features) == 100
    inspector.update(other_good)
    assert len(inspector.model.bank.features) == 100
    assert (inspector.model.bank.image_ids >= 16).any()


# ---- robust --------------------------------------------------------------------------------------


def smuggled(mini_dataset: Path, folder: Path) -> Path:
    """The good images with a stained one among them."""
    shutil.copytree(mini_dataset / "train" / "good", folder)
    Image.fromarray(stained(mini_dataset / "test" / "good" / "001.png")).save(folder / "smuggled.png")
    return folder


def test_robust_leaves_out_a_bad_image_and_names_it(
    recipe: Recipe, mini_dataset: Path, tmp_path: Path
) -> None:
    good = smuggled(mini_dataset, tmp_path / "good")
    robust = Inspector(recipe.replace({"robust": True})).fit(good)
    trusting = Inspector(recipe).fit(good)
    calibration = robust.model.calibration
    assert calibration.left_out == ("smuggled.png",)
    assert "smuggled.png" not in calibration.training_set.names
    assert 16 not in robust.model.bank.image_ids  # last by name
    assert trusting.model.calibration.left_out == ()
    assert 16 in trusting.model.bank.image_ids
    assert calibration.threshold < trusting.model.calibration.threshold
    assert robust.inspect(good / "smuggled.png").bad


def test_robust_leaves_good_images_alone(recipe: Recipe, fitted: Inspector, mini_dataset: Path) -> None:
    robust = Inspector(recipe.replace({"robust": True})).fit(mini_dataset)
    assert robust.model.calibration.left_out == ()
    np.testing.assert_array_equal(robust.model.bank.features, fitted.model.bank.features)
