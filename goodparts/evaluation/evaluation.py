"""`Evaluation`, the result for a labelled test set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts.data.dataset import Dataset, TestSample
from goodparts.data.images import PIXEL_LIMIT, image_size, read_mask
from goodparts.decision.binomial import clopper_pearson
from goodparts.decision.good_scores import COPIES
from goodparts.decision.inspection import BAD, RECHECK, Inspection, ZoneScore
from goodparts.errors import DatasetError
from goodparts.evaluation import metrics
from goodparts.evaluation.pixel_metrics import PixelMetrics
from goodparts.preprocessing.framing import Pose

if TYPE_CHECKING:
    from goodparts.inspector import Inspector

Observer = Callable[[TestSample, NDArray[np.uint8], Inspection, NDArray[np.bool_] | None], None]
"""Called in a worker with (sample, pixels (H, W, 3), inspection, ground truth (H, W) or None)."""


@dataclass(frozen=True)
class TestImage:
    """One row of an evaluation.

    Attributes:
        path: the image file.
        defect_class: name of its folder below `test/` ("good" for good parts).
        label: True for a bad part (the ground truth).
        score: anomaly score.
        p_value: conformal p-value against the held-out good scores.
        verdict: "GOOD" or "BAD" at the deployed threshold; "RECHECK" for an image that can't be judged.
        borderline: whether the verdict lies within the engine's precision.
        reasons: why the image can't be judged, in words; empty unless the verdict is RECHECK.
        zones: score and threshold of each zone of the region of interest; empty if there is none.
        pose: how the part lies against the reference; None where the recipe does not look for it.
    """

    path: Path
    defect_class: str
    label: bool
    score: float
    p_value: float
    verdict: str
    borderline: bool
    reasons: tuple[str, ...] = ()
    zones: tuple[ZoneScore, ...] = ()
    pose: Pose | None = None

    __test__ = False  # not a test case, whatever pytest thinks of the name


@dataclass(frozen=True)
class Evaluation:
    """What a model reaches on a labelled test set.

    Attributes:
        name: name of the data set or category.
        images: one row an image, in the order of the data set.
        threshold: the deployed threshold, which no test image took part in choosing ...
        threshold_rule: ... unless this is "f1", the oracle.
        oracle_threshold: the F1-optimal threshold on this very test set: for comparison only.
        good_scores: held-out scores of the good training images, (n,) float64; none of an only image, which can't be.
        metrics: flat, ready for JSON; None where a metric is undefined (one class only, no masks). `bad_not_looked_at`
            counts bad images whose defects lie wholly where the recipe does not look, `learnt_from` test images that
            the model learnt from, which flatter every figure.
        inspect_seconds: wall time of inspecting all images, several at a time, pictures included where asked for.
    """

    name: str
    images: tuple[TestImage, ...]
    threshold: float
    threshold_rule: str
    oracle_threshold: float
    good_scores: NDArray[np.float64]
    metrics: dict[str, float | int | None]
    inspect_seconds: float

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Ground truth, (n,) bool, True for bad."""
        return np.array([image.label for image in self.images], dtype=bool)

    @property
    def counts(self) -> dict[str, int]:
        """Verdicts against the ground truth, as `metrics.confusion`; images sent back for RECHECK are in none."""
        return _counts(self.images)

    @property
    def rechecks(self) -> int:
        """How many images the quality gate sent back."""
        return sum(image.verdict == RECHECK for image in self.images)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Anomaly scores, (n,) float64."""
        return np.array([image.score for image in self.images], dtype=np.float64)


def evaluate(
    inspector: Inspector,
    data: Dataset,
    *,
    observe: Observer | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Inspect every test image and measure at original resolution.

    With `threshold_rule = "f1"` the F1-optimal threshold on these very images is adopted first: an oracle.

    Args:
        inspector: fitted.
        data: with test images.
        observe: sees every inspection, in a worker: the place to draw and write pictures.
        progress: called with (stage, done, total).

    Raises:
        DatasetError: no test images, or a mask of another size than its image.
        ImageError: an image or mask can't be read.
    """
    if not data.test:
        raise DatasetError(f"{data.root}: no test images; expected test/good/* and test/<class of defect>/*")
    check_mask_sizes(data)
    tell = progress or (lambda stage, done, total: None)
    samples = data.test
    paths = [sample.path for sample in samples]
    if inspector.recipe.threshold_rule == "f1":
        scores = []
        for score in inspector.score_many(paths):
            scores.append(score)
            tell("oracle", len(scores), len(samples))
        inspector.adopt_oracle(metrics.f1_max(np.array([s.label for s in samples]), np.array(scores))[1])

    def look(
        index: int, pixels: NDArray[np.uint8], inspection: Inspection
    ) -> tuple[Inspection, NDArray[np.bool_] | None]:
        sample = samples[index]
        truth = read_truth(sample, pixel_limit=inspector.pixel_limit)
        if observe is not None:
            observe(sample, pixels, inspection, truth)
        return inspection, truth

    rows = []
    unseen = learnt_from = 0
    pixel_metrics = PixelMetrics()
    inspect_seconds = time.perf_counter()
    inspected = inspector.inspect_many(paths, look, recognise=True)
    for sample, (inspection, truth) in zip(samples, inspected, strict=True):
        learnt_from += inspection.learnt_from
        rows.append(
            TestImage(
                path=sample.path,
                defect_class=sample.defect_class,
                label=sample.label,
                score=inspection.score,
                p_value=inspection.p_value,
                verdict=inspection.verdict,
                borderline=inspection.borderline,
                reasons=inspection.reasons,
                zones=inspection.zones,
                pose=inspection.pose,
            )
        )
        if truth is not None or not sample.label:
            pixel_metrics.add(inspection.anomaly_map, truth, inspection.mask)
        if truth is not None and truth.any():
            unseen += bool(np.isnan(inspection.anomaly_map[truth]).all())
        tell("evaluation", len(rows), len(samples))
    inspect_seconds = time.perf_counter() - inspect_seconds
    inspector.rest()  # the metrics want the memory
    decision = inspector.model.calibration
    values, oracle = _measure(rows, pixel_metrics, decision.threshold, decision.pixel_threshold)
    values["bad_not_looked_at"] = unseen
    values["learnt_from"] = learnt_from
    return Evaluation(
        name=data.name,
        images=tuple(rows),
        threshold=decision.threshold,
        threshold_rule=decision.decision.threshold_rule,
        oracle_threshold=oracle,
        good_scores=np.array(decision.scores if decision.used.source != COPIES else ()),
        metrics=values,
        inspect_seconds=inspect_seconds,
    )


def read_truth(sample: TestSample, *, pixel_limit: int = PIXEL_LIMIT) -> NDArray[np.bool_] | None:
    """Where the defects of a test image are, its masks merged, (H, W) bool; None where it has none.

    Raises:
        ImageError: a mask can't be read.
    """
    if not sample.masks:
        return None
    truth = read_mask(sample.masks[0], pixel_limit=pixel_limit)
    for mask in sample.masks[1:]:
        truth |= read_mask(mask, pixel_limit=pixel_limit)
    return truth


def check_mask_sizes(data: Dataset) -> None:
    """Raise DatasetError if a mask has another size than its image; reads headers only."""
    for sample in data.test:
        for path in sample.masks:
            image, mask = image_size(sample.path)[:2], image_size(path)[:2]
            if image != mask:
                raise DatasetError(
                    f"{path}: the mask is {mask[0]}x{mask[1]} pixels, its image {sample.path.name} "
                    f"{image[0]}x{image[1]}; expected the same size. `goodparts check {data.root}` lists all such files"
                )


def _counts(images: Sequence[TestImage]) -> dict[str, int]:
    judged = [image for image in images if image.verdict != RECHECK]
    labels = np.array([image.label for image in judged], dtype=bool)
    return metrics.confusion(labels, np.array([image.verdict == BAD for image in judged], dtype=bool))


def _measure(
    rows: list[TestImage], pixel_metrics: PixelMetrics, threshold: float, pixel_threshold: float
) -> tuple[dict[str, float | int | None], float]:
    labels = np.array([row.label for row in rows], dtype=bool)
    scores = np.array([row.score for row in rows], dtype=np.float64)
    f1, oracle = metrics.f1_max(labels, scores)
    counts = _counts(rows)
    weight = 2 * counts["true_bad"] + counts["false_bad"] + counts["false_good"]
    found: dict[str, float | int] = {
        "image_auroc": metrics.auroc(labels, scores),
        "image_average_precision": metrics.average_precision(labels, scores),
        "image_f1_max": f1,
        "image_f1": 2 * counts["true_bad"] / weight if weight else math.nan,
        "image_recall_at_zero_false_rejects": metrics.recall_at_zero_false_rejects(labels, scores),
        "image_false_rejects_at_95_recall": metrics.false_rejects_at_recall(labels, scores, 0.95),
        **pixel_metrics.result(),
        "threshold": threshold,
        "oracle_threshold": oracle,
        "pixel_threshold": pixel_threshold,
        **counts,
        "recheck": len(rows) - sum(counts.values()),
        **_intervals(labels, scores, counts),
    }
    return {
        name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()
    }, oracle


def _intervals(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], counts: dict[str, int]
) -> dict[str, float]:
    """95 % intervals, in keys ending in _low and _high: bootstrap for metrics, Clopper and Pearson for rates."""
    found: dict[str, tuple[float, float]] = {
        name: metrics.bootstrap_interval(metric, labels, scores, seed=0)
        for name, metric in (
            ("image_auroc", metrics.auroc),
            ("image_average_precision", metrics.average_precision),
            ("image_f1_max", lambda truth, drawn: metrics.f1_max(truth, drawn)[0]),
        )
    }
    rates = {}
    for name, wrong, right in (
        ("false_reject_rate", "false_bad", "true_good"),
        ("miss_rate", "false_good", "true_bad"),
    ):
        total = counts[wrong] + counts[right]
        rates[name] = counts[wrong] / total if total else math.nan
        found[name] = clopper_pearson(counts[wrong], total) if total else (math.nan, math.nan)
    ends = {
        f"{name}_{end}": value
        for name, both in found.items()
        for end, value in zip(("low", "high"), both, strict=True)
    }
    return rates | ends
