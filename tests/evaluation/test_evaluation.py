"""`evaluate`: what is measured on labelled images, against scikit-learn, and what it does not look at."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as reference

from goodparts import Evaluation, Inspection, Inspector, Recipe, TestSample, read_dataset
from goodparts.errors import DatasetError, ImageError
from goodparts.evaluation.evaluation import check_mask_sizes, evaluate, oracle_threshold


@pytest.fixture(scope="module")
def hard_dataset(mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with faint defects, too, so that scores overlap; a mask for each."""
    root = shutil.copytree(mini_dataset, tmp_path_factory.mktemp("hard") / "hard")
    (root / "test" / "faint").mkdir()
    (root / "ground_truth" / "faint").mkdir()
    for index, strength in enumerate((2, 4, 6, 8, 12, 16)):
        pixels = np.array(Image.open(root / "test" / "good" / f"{index:03d}.png")).astype(np.int16)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[40:52, 44:56] = 255
        pixels[mask > 0] += strength
        faint = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        faint.save(root / "test" / "faint" / f"{index:03d}.png")
        Image.fromarray(mask).save(root / "ground_truth" / "faint" / f"{index:03d}_mask.png")
    return root


Seen = list[tuple[TestSample, Inspection, NDArray[np.bool_] | None]]


@pytest.fixture(scope="module")
def seen_and_found(fitted: Inspector, hard_dataset: Path) -> tuple[Seen, Evaluation]:
    """Every inspection that was observed, and the evaluation."""
    seen: Seen = []

    def observe(
        sample: TestSample,
        pixels: NDArray[np.uint8],
        inspection: Inspection,
        truth: NDArray[np.bool_] | None,
    ) -> None:
        assert pixels.shape == (*inspection.anomaly_map.shape, 3)
        seen.append((sample, inspection, truth))

    return seen, evaluate(fitted, read_dataset(hard_dataset), observe=observe)


def test_one_row_an_image_in_the_order_of_the_data_set(
    seen_and_found: tuple[Seen, Evaluation], hard_dataset: Path
) -> None:
    seen, evaluation = seen_and_found
    data = read_dataset(hard_dataset)
    assert evaluation.name == "hard"
    assert [image.path for image in evaluation.images] == [sample.path for sample in data.test]
    assert evaluation.labels.tolist() == [sample.label for sample in data.test]
    assert sorted(sample.path for sample, _, _ in seen) == sorted(sample.path for sample in data.test)
    by_path = {sample.path: inspection for sample, inspection, _ in seen}
    for image in evaluation.images:
        assert image.score == by_path[image.path].score
        assert image.verdict == by_path[image.path].verdict
        assert image.verdict == ("BAD" if image.score > evaluation.threshold else "GOOD")
        assert image.defect_class == image.path.parent.name


def test_image_metrics_agree_with_scikit_learn(seen_and_found: tuple[Seen, Evaluation]) -> None:
    evaluation = seen_and_found[1]
    labels, scores, found = evaluation.labels, evaluation.scores, evaluation.metrics
    assert 0.5 < reference.roc_auc_score(labels, scores) < 1, "overlap, or nothing is tested"
    assert found["image_auroc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["image_average_precision"] == pytest.approx(
        reference.average_precision_score(labels, scores)
    )
    precision, recall, _ = reference.precision_recall_curve(labels, scores)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert found["image_f1_max"] == pytest.approx(best)
    verdicts = scores > evaluation.threshold
    assert found["image_f1"] == pytest.approx(reference.f1_score(labels, verdicts))
    assert reference.f1_score(labels, scores > evaluation.oracle_threshold) == pytest.approx(best)
    counts = ["true_good", "false_bad", "false_good", "true_bad"]
    assert [found[name] for name in counts] == reference.confusion_matrix(labels, verdicts).ravel().tolist()
    assert all(isinstance(found[name], int) for name in counts)


def test_pixel_metrics_agree_with_scikit_learn(seen_and_found: tuple[Seen, Evaluation]) -> None:
    seen, evaluation = seen_and_found
    truths, maps, masks = [], [], []
    for sample, inspection, truth in seen:
        assert (truth is not None) == sample.label
        truths.append(np.zeros(inspection.mask.shape, bool) if truth is None else truth)
        maps.append(inspection.anomaly_map)
        masks.append(inspection.mask)
    truth, values = np.concatenate(truths, axis=None), np.concatenate(maps, axis=None)
    found = evaluation.metrics
    assert found["pixel_auroc"] == pytest.approx(reference.roc_auc_score(truth, values), abs=1e-3)
    assert found["pixel_average_precision"] == pytest.approx(
        reference.average_precision_score(truth, values), abs=2e-3
    )
    precision, recall, _ = reference.precision_recall_curve(truth, values)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert found["pixel_f1_max"] == pytest.approx(best, abs=2e-3)
    assert found["pixel_f1"] == pytest.approx(
        reference.f1_score(truth, np.concatenate(masks, axis=None)), abs=1e-6
    )
    assert found["aupro_30"] is not None
    assert 0.3 < found["aupro_30"] < 1


def test_metrics_are_flat_and_finite(seen_and_found: tuple[Seen, Evaluation]) -> None:
    for name, value in seen_and_found[1].metrics.items():
        assert value is None or (isinstance(value, int | float) and np.isfinite(value)), name


def test_no_test_image_takes_part_in_the_threshold(fitted: Inspector, hard_dataset: Path) -> None:
    before = fitted.model
    evaluation = fitted.evaluate(hard_dataset)
    kept = {field.name for field in fields(before)} - {"evaluation"}
    assert all(getattr(fitted.model, name) is getattr(before, name) for name in kept)
    assert evaluation.threshold == before.calibration.threshold
    assert evaluation.threshold_rule == "robust_sigma"
    np.testing.assert_array_equal(evaluation.good_scores, before.calibration.scores)


def test_the_oracle_is_called_one(recipe: Recipe, hard_dataset: Path) -> None:
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(hard_dataset)
    stages: list[str] = []
    evaluation = inspector.evaluate(
        read_dataset(hard_dataset), progress=lambda stage, done, total: stages.append(stage)
    )
    assert evaluation.threshold_rule == "f1"
    assert evaluation.threshold == evaluation.oracle_threshold
    assert evaluation.metrics["image_f1"] == evaluation.metrics["image_f1_max"]
    assert stages.count("oracle") == stages.count("evaluation") == len(evaluation.images)


class Delegate:
    """Can do what an evaluation asks for, and nothing else."""

    def __init__(self, inspector: Inspector) -> None:
        self.pixel_limit, self.model = inspector.pixel_limit, inspector.model
        self.inspect_many, self.score_many = inspector.inspect_many, inspector.score_many


def test_whatever_inspects_can_be_evaluated_and_stays_as_it_is(
    fitted: Inspector, seen_and_found: tuple[Seen, Evaluation], hard_dataset: Path
) -> None:
    data, model = read_dataset(hard_dataset), fitted.model
    inspects = Delegate(fitted)
    assert evaluate(inspects, data).metrics == seen_and_found[1].metrics
    assert oracle_threshold(inspects, data) == seen_and_found[1].oracle_threshold
    assert inspects.model is fitted.model is model
    assert fitted.evaluate(data).metrics == seen_and_found[1].metrics


def test_progress_counts_every_image(fitted: Inspector, mini_dataset: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    evaluate(
        fitted,
        read_dataset(mini_dataset),
        progress=lambda stage, done, total: reported.append((stage, done, total)),
    )
    assert reported == [("evaluation", done, 12) for done in range(1, 13)]


# ---- labels that are not there -------------------------------------------------------------------


def test_good_parts_alone_leave_ranking_undefined(
    fitted: Inspector, mini_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(mini_dataset / "test" / "good", tmp_path / "test" / "good")
    evaluation = evaluate(fitted, read_dataset(tmp_path, require_train=False))
    for name in ("image_auroc", "image_average_precision", "pixel_auroc", "aupro_30"):
        assert evaluation.metrics[name] is None, name
    assert evaluation.metrics["true_good"] == 6
    assert evaluation.metrics["true_bad"] == evaluation.metrics["false_good"] == 0


def test_without_masks_pixels_are_undefined(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_dataset / "test", tmp_path / "test")
    metrics = evaluate(fitted, read_dataset(tmp_path, require_train=False)).metrics
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_auroc"] is None
    assert metrics["aupro_30"] is None


def test_no_test_images_is_an_error(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_dataset / "train", tmp_path / "train")
    with pytest.raises(DatasetError, match="no test images; expected test/good"):
        evaluate(fitted, read_dataset(tmp_path, require_test=False))
    with pytest.raises(DatasetError, match="no images to test on"):
        fitted.evaluate(tmp_path)


def test_a_mask_of_another_size_is_named(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mini_dataset, tmp_path / "data")
    mask = root / "ground_truth" / "scratch" / "001_mask.png"
    Image.new("L", (95, 96), 255).save(mask)
    with pytest.raises(
        DatasetError, match=r"001_mask\.png: the mask is 95x96 pixels, its image 001\.png 96x96"
    ):
        fitted.evaluate(root)
    with pytest.raises(DatasetError, match=r"001_mask\.png: the mask is 95x96.* `goodparts check .*data`"):
        check_mask_sizes(read_dataset(root))
    with pytest.raises(DatasetError, match=r"001_mask\.png: the mask is 95x96"):
        fitted.evaluate(read_dataset(root))  # whose masks nobody looked at before


@pytest.mark.parametrize("damaged", ["test/stain/001.png", "ground_truth/stain/001_mask.png"])
def test_a_damaged_file_is_named(fitted: Inspector, mini_dataset: Path, tmp_path: Path, damaged: str) -> None:
    root = shutil.copytree(mini_dataset, tmp_path / "data")
    path = root / damaged
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match=r"damaged or truncated") as caught:
        fitted.evaluate(root)
    assert str(path) in str(caught.value)


def test_several_masks_of_an_image_are_merged(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mini_dataset, tmp_path / "data")
    mask = root / "ground_truth" / "stain" / "001_mask.png"
    truth = np.array(Image.open(mask)) > 0
    halves = mask.with_name("001")
    halves.mkdir()
    for name, part in (("a", truth & (np.arange(96) < 48)), ("b", truth & (np.arange(96) >= 48))):
        Image.fromarray((part * 255).astype(np.uint8)).save(halves / f"{name}.png")
    mask.unlink()
    assert fitted.evaluate(root).metrics == fitted.evaluate(mini_dataset).metrics


# ---- what was not looked at ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0.0),
        ({"framing": "letterbox"}, 0.0),
        ({"framing": "crop", "resize_size": 96, "image_size": 64}, 1 - 64**2 / 96**2),
    ],
    ids=["stretch", "letterbox", "crop"],
)
def test_what_was_not_looked_at_is_left_out(
    recipe: Recipe, mini_dataset: Path, tmp_path: Path, changes: dict[str, Any], share: float
) -> None:
    root = shutil.copytree(mini_dataset, tmp_path / "data")
    inspector = Inspector(recipe.replace(changes)).fit(root)
    before = inspector.evaluate(root).metrics
    assert before["not_looked_share"] == pytest.approx(share)
    mask = root / "ground_truth" / "stain" / "000_mask.png"
    truth = np.array(Image.open(mask))
    truth[:6, :6] = 255  # a corner that a crop cuts off
    Image.fromarray(truth).save(mask)
    after = inspector.evaluate(root).metrics
    same = [name for name in ("pixel_auroc", "pixel_f1", "aupro_30") if before[name] == after[name]]
    assert same == (["pixel_auroc", "pixel_f1", "aupro_30"] if share else [])
