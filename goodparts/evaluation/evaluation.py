"""`Evaluation`, the result for a labelled test set.

    inspected = inspect_test_set(inspector, read_test_set("mvtec_ad/metal_nut"))   # every image, with the engine
    inspected.measured().metrics["image_auroc"]                                    # the figures, without it

Whatever is an `Inspects` can be evaluated, and an evaluation changes nothing about it. The oracle's threshold, which
is chosen on the test images themselves, is found by `oracle_threshold`; whoever wants it adopts it beforehand.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.data.dataset import Dataset, TestSample, read_dataset
from goodparts.data.images import PIXEL_LIMIT, ImageLike, image_size, read_mask
from goodparts.decision.binomial import clopper_pearson
from goodparts.decision.calibration import Calibration
from goodparts.decision.good_scores import COPIES
from goodparts.decision.inspection import BAD, RECHECK, Inspection, ZoneScore
from goodparts.decision.trade_offs import LabelledParts, TradeOff, trade_offs
from goodparts.errors import DatasetError
from goodparts.evaluation import metrics
from goodparts.evaluation.pixel_metrics import PixelMetrics
from goodparts.preprocessing.framing import Pose
from goodparts.progress import ProgressLike, shown
from goodparts.recipe.recipe import Recipe

Observer = Callable[[TestSample, NDArray[np.uint8], Inspection, NDArray[np.bool_] | None], None]
"""Called in a worker with (sample, pixels (H, W, 3), inspection, ground truth (H, W) or None)."""
Result = TypeVar("Result")


class Calibrated(Protocol):
    """A model whose threshold is decided."""

    @property
    def calibration(self) -> Calibration:
        """Held-out scores and what was decided from them."""

    @property
    def recipe(self) -> Recipe:
        """By whose rules."""


class Inspects(Protocol):
    """What an evaluation asks of an inspector; `goodparts.Inspector` is one."""

    @property
    def pixel_limit(self) -> int:
        """Masks of more pixels are refused."""

    @property
    def model(self) -> Calibrated:
        """By what it decides."""

    def inspect_many(
        self,
        images: Iterable[ImageLike],
        then: Callable[[int, NDArray[np.uint8], Inspection], Result],
        *,
        recognise: bool = False,
    ) -> Iterator[Result]:
        """In order, what `then` makes of (index, pixels (H, W, 3), inspection); ImageError ends it.

        With `recognise` each inspection says whether the image was learnt from.
        """

    def score_many(self, images: Iterable[ImageLike]) -> Iterator[float]:
        """Anomaly scores, in order; needs no threshold."""


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
class ClassCount:
    """How many images of a class of defect were found.

    Attributes:
        defect_class: its name.
        images: of it.
        found: of these that are BAD.
        rechecks: that could not be judged.
    """

    defect_class: str
    images: int
    found: int
    rechecks: int


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
        trade_offs: the threshold in force, and what lower ones would do; see `goodparts.decision.trade_offs`.
    """

    name: str
    images: tuple[TestImage, ...]
    threshold: float
    threshold_rule: str
    oracle_threshold: float
    good_scores: NDArray[np.float64]
    metrics: dict[str, float | int | None]
    inspect_seconds: float
    trade_offs: tuple[TradeOff, ...] = ()

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Ground truth, (n,) bool, True for bad."""
        return np.array([image.label for image in self.images], dtype=bool)

    @property
    def counts(self) -> dict[str, int]:
        """Verdicts against the ground truth, as `metrics.confusion`; images sent back for RECHECK are in none."""
        return _counts(self.images)

    @property
    def by_class(self) -> tuple[ClassCount, ...]:
        """Each class of defect, by name."""
        verdicts: dict[str, list[str]] = {}
        for image in self.images:
            if image.label:
                verdicts.setdefault(image.defect_class, []).append(image.verdict)
        return tuple(
            ClassCount(name, len(of), of.count(BAD), of.count(RECHECK))
            for name, of in sorted(verdicts.items())
        )

    @property
    def rechecks(self) -> int:
        """How many images the quality gate sent back."""
        return sum(image.verdict == RECHECK for image in self.images)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Anomaly scores, (n,) float64."""
        return np.array([image.score for image in self.images], dtype=np.float64)


@dataclass(frozen=True)
class InspectedTestSet:
    """All that the metrics need of the inspections of a test set, so that the inspector's engines may go before.

    Attributes:
        name: of the data set.
        images: one row an image, in the order of the data set.
        pixels: values and ground truth of all pixels that were looked at.
        calibration: by which the verdicts were made ...
        recipe: ... and by whose rules it was decided.
        not_looked_at: bad images whose defects lie wholly where the recipe does not look.
        learnt_from: images that the model learnt from.
        seconds: wall time of the inspections.
    """

    name: str
    images: tuple[TestImage, ...]
    pixels: PixelMetrics
    calibration: Calibration
    recipe: Recipe
    not_looked_at: int
    learnt_from: int
    seconds: float

    def measured(self) -> Evaluation:
        """The metrics."""
        decided = self.calibration
        values, oracle = _measure(self.images, self.pixels, decided.threshold, decided.pixel_threshold)
        values["bad_not_looked_at"] = self.not_looked_at
        values["learnt_from"] = self.learnt_from
        return Evaluation(
            name=self.name,
            images=self.images,
            threshold=decided.threshold,
            threshold_rule=decided.decision.threshold_rule,
            oracle_threshold=oracle,
            good_scores=np.array(decided.scores if decided.used.source != COPIES else ()),
            metrics=values,
            inspect_seconds=self.seconds,
            trade_offs=trade_offs(decided, self.recipe, _judged(self.images, oracle)),
        )


def evaluate(
    inspector: Inspects, data: Dataset, *, observe: Observer | None = None, progress: ProgressLike = None
) -> Evaluation:
    """Inspect every test image and measure at original resolution; arguments and errors as `inspect_test_set`."""
    return inspect_test_set(inspector, data, observe=observe, progress=progress).measured()


def inspect_test_set(
    inspector: Inspects, data: Dataset, *, observe: Observer | None = None, progress: ProgressLike = None
) -> InspectedTestSet:
    """Inspect every test image.

    Args:
        inspector: whose threshold is decided.
        data: with test images.
        observe: sees every inspection, in a worker: the place to draw and write pictures.
        progress: called with ("evaluation", done, total).

    Raises:
        DatasetError: no test images, or a mask of another size than its image.
        ImageError: an image or mask can't be read.
    """
    samples = _test_samples(data)
    progress = shown(progress)

    def with_truth(
        index: int, pixels: NDArray[np.uint8], inspection: Inspection
    ) -> tuple[Inspection, NDArray[np.bool_] | None]:
        sample = samples[index]
        height, width, _ = pixels.shape
        truth = read_truth(sample, size=(height, width), pixel_limit=inspector.pixel_limit)
        if observe is not None:
            observe(sample, pixels, inspection, truth)
        return inspection, truth

    rows = []
    unseen = learnt_from = 0
    pixel_metrics = PixelMetrics()
    began = time.perf_counter()
    inspected = inspector.inspect_many([sample.path for sample in samples], with_truth, recognise=True)
    try:
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
            progress("evaluation", len(rows), len(samples))
    finally:
        if isinstance(inspected, Generator):
            inspected.close()  # whatever ends this, no worker observes any more
    return InspectedTestSet(
        name=data.name,
        images=tuple(rows),
        pixels=pixel_metrics,
        calibration=inspector.model.calibration,
        recipe=inspector.model.recipe,
        not_looked_at=unseen,
        learnt_from=learnt_from,
        seconds=time.perf_counter() - began,
    )


def oracle_threshold(inspector: Inspects, data: Dataset, *, progress: ProgressLike = None) -> float:
    """The threshold that is F1-optimal on these very test images: no promise for any other.

    Args:
        inspector: asked for scores only.
        data: with test images.
        progress: called with ("oracle", done, total).

    Raises:
        DatasetError: no test images.
        ImageError: an image can't be read.
    """
    samples, progress = _test_samples(data), shown(progress)
    scores = []
    for score in inspector.score_many([sample.path for sample in samples]):
        scores.append(score)
        progress("oracle", len(scores), len(samples))
    return metrics.f1_max(np.array([sample.label for sample in samples]), np.array(scores))[1]


def read_test_set(root: str | os.PathLike[str], *, require_train: bool = True) -> Dataset:
    """List the files of a labelled data set, and see that its masks have the sizes of their images.

    So that a long job does not fail at its end. Arguments and errors as `read_dataset` and `check_mask_sizes`.
    """
    data = read_dataset(root, require_train=require_train)
    check_mask_sizes(data)
    return data


def _test_samples(data: Dataset) -> Sequence[TestSample]:
    if not data.test:
        raise DatasetError(f"{data.root}: no test images; expected test/good/* and test/<class of defect>/*")
    return data.test


def read_truth(
    sample: TestSample, *, size: tuple[int, int] | None = None, pixel_limit: int = PIXEL_LIMIT
) -> NDArray[np.bool_] | None:
    """Where the defects of a test image are, its masks merged, (H, W) bool; None where it has none.

    Args:
        sample: the test image.
        size: (H, W) that its masks must have; None: that of the first.
        pixel_limit: masks of more pixels are refused.

    Raises:
        DatasetError: a mask has another size.
        ImageError: a mask can't be read.
    """
    truth: NDArray[np.bool_] | None = None
    for path in sample.masks:
        mask = read_mask(path, pixel_limit=pixel_limit)
        height, width = size or mask.shape
        if mask.shape != (height, width):
            raise DatasetError(_wrong_size(path, mask.shape[::-1], sample, (width, height)))
        size = height, width
        truth = mask if truth is None else truth | mask
    return truth


def check_mask_sizes(data: Dataset) -> None:
    """Raise DatasetError if a mask has another size than its image; reads headers only."""
    for sample in data.test:
        for path in sample.masks:
            image, mask = image_size(sample.path)[:2], image_size(path)[:2]
            if image != mask:
                raise DatasetError(
                    f"{_wrong_size(path, mask, sample, image)}. `goodparts check {data.root}` lists all such files"
                )


def _wrong_size(path: Path, mask: Sequence[int], sample: TestSample, image: Sequence[int]) -> str:
    """Sizes are (width, height)."""
    return (
        f"{path}: the mask is {mask[0]}x{mask[1]} pixels, its image {sample.path.name} {image[0]}x{image[1]}; "
        "expected the same size"
    )


def _judged(images: Sequence[TestImage], oracle: float) -> LabelledParts:
    """Scores of the images that could be judged, as trade-offs count them."""
    judged = [image for image in images if image.verdict != RECHECK]
    return LabelledParts(
        labels=np.array([image.label for image in judged], dtype=bool),
        scores=np.array([image.score for image in judged], dtype=np.float64),
        zones=np.array([[zone.score for zone in image.zones] for image in judged], dtype=np.float64),
        oracle=oracle,
    )


def _counts(images: Sequence[TestImage]) -> dict[str, int]:
    judged = [image for image in images if image.verdict != RECHECK]
    labels = np.array([image.label for image in judged], dtype=bool)
    return metrics.confusion(labels, np.array([image.verdict == BAD for image in judged], dtype=bool))


def _measure(
    rows: Sequence[TestImage], pixel_metrics: PixelMetrics, threshold: float, pixel_threshold: float
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
