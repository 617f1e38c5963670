"""Image metrics: how well one anomaly score per image tells good parts from bad ones.

    auroc(labels, scores)                           # 0.998
    f1, threshold = f1_max(labels, scores)          # the oracle: for comparison only
    bootstrap_interval(auroc, labels, scores, seed=0)

Everywhere `labels` is (n,) bool, True for bad, and `scores` is (n,) float, used as they are: nothing is
clamped, normalised or binned. A part is called bad if its score > threshold; parts of equal score can only be
called the same, so every curve has one point per distinct score. A metric that needs both good and bad
images is NaN where one of them is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Curve:
    """Receiver operating characteristic: one point per distinct score and one for the origin, k + 1 in all.

    Attributes:
        false_positive_rate: share of good images called bad, (k + 1,) float64, from 0 up to 1.
        true_positive_rate: share of bad images called bad, (k + 1,) float64, from 0 up to 1.
        thresholds: `score > threshold` gives this point, (k + 1,) float64, falling: inf at the origin, midway
            between neighbouring scores, and just below the smallest score at the end.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision against recall: one point per distinct score and one for recall 0, k + 1 in all.

    Attributes:
        precision: share of the images called bad that are bad, (k + 1,) float64; 1 where none is called bad.
        recall: share of bad images called bad, (k + 1,) float64, from 0 up to 1.
        thresholds: as those of `Curve`.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def auroc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve: the chance that a bad image scores above a good one.

    Counted exactly, as the Mann-Whitney statistic, a tie counting half (Hanley and McNeil, "The meaning and
    use of the area under a receiver operating characteristic (ROC) curve", Radiology 1982). NaN for one class
    only.
    """
    false_bad, true_bad, _ = _counts(labels, scores)
    pairs = int(false_bad[-1]) * int(true_bad[-1])
    if not pairs:
        return math.nan
    doubled = int(np.dot(np.diff(false_bad), true_bad[1:] + true_bad[:-1]))
    return doubled / (2 * pairs)


def average_precision(labels: Labels, scores: Scores) -> float:
    """Return the sum over the distinct scores of precision times gain in recall.

    That is scikit-learn's step-wise definition, without the optimism of a trapezoid (Davis and Goadrich, "The
    relationship between precision-recall and ROC curves", ICML 2006). NaN for one class only.
    """
    false_bad, true_bad, _ = _counts(labels, scores)
    if not (false_bad[-1] and true_bad[-1]):
        return math.nan
    precision = true_bad[1:] / (true_bad[1:] + false_bad[1:])
    return float(np.dot(np.diff(true_bad), precision) / true_bad[-1])


def f1_max(labels: Labels, scores: Scores) -> tuple[float, float]:
    """Return the largest F1 score that any threshold reaches, and that threshold.

    F1 is the harmonic mean of precision and recall of the bad. Of several best thresholds it is the highest,
    the one with the fewest false rejects. It lies midway between two neighbouring scores, or just below the
    smallest score where it is best to call all images bad. It is chosen with the labels in view: an oracle.
    (NaN, NaN) for one class only.
    """
    false_bad, true_bad, thresholds = _counts(labels, scores)
    if not (false_bad[-1] and true_bad[-1]):
        return math.nan, math.nan
    f1 = 2 * true_bad / (true_bad + false_bad + true_bad[-1])
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def roc_curve(labels: Labels, scores: Scores) -> Curve:
    """Return the receiver operating characteristic; the rate of a class that is missing is NaN throughout."""
    false_bad, true_bad, thresholds = _counts(labels, scores)
    return Curve(_share(false_bad), _share(true_bad), thresholds)


def precision_recall_curve(labels: Labels, scores: Scores) -> PrecisionRecallCurve:
    """Return precision against recall; without bad images recall is NaN throughout."""
    false_bad, true_bad, thresholds = _counts(labels, scores)
    called_bad = true_bad + false_bad
    precision = np.ones(len(called_bad))
    np.divide(true_bad, called_bad, out=precision, where=called_bad > 0)
    return PrecisionRecallCurve(precision, _share(true_bad), thresholds)


def confusion(labels: Labels, bad: NDArray[np.bool_]) -> dict[str, int]:
    """Count the images by what they are called (`bad`, (n,) bool) and whether that is true.

    Returns:
        `true_good`, `false_bad` (false rejects), `true_bad` and `false_good` (escapes).

    Raises:
        ValueError: if the shapes differ or are not (n,).
    """
    if labels.ndim != 1 or labels.shape != bad.shape:
        raise ValueError(f"labels {labels.shape} and bad {bad.shape}: expected both (n,)")
    return {
        "true_good": int(np.count_nonzero(~labels & ~bad)),
        "false_bad": int(np.count_nonzero(~labels & bad)),
        "true_bad": int(np.count_nonzero(labels & bad)),
        "false_good": int(np.count_nonzero(labels & ~bad)),
    }


def recall_at_zero_false_rejects(labels: Labels, scores: Scores) -> float:
    """Return the share of bad images that score above every good image; NaN for one class only."""
    false_bad, true_bad, _ = _counts(labels, scores)
    if not (false_bad[-1] and true_bad[-1]):
        return math.nan
    return float(true_bad[false_bad == 0].max() / true_bad[-1])


def false_rejects_at_recall(labels: Labels, scores: Scores, recall: float = 0.95) -> float:
    """Return the smallest share of good images called bad at any threshold that finds `recall` of the bad.

    With `recall=0.95` that is the false positive rate at 95 % true positive rate, FPR95. NaN for one class
    only.

    Raises:
        ValueError: unless 0 <= recall <= 1.
    """
    if not 0 <= recall <= 1:
        raise ValueError(f"recall: expected 0 to 1, found {recall}")
    false_bad, true_bad, _ = _counts(labels, scores)
    if not (false_bad[-1] and true_bad[-1]):
        return math.nan
    needed = math.ceil(recall * int(true_bad[-1]) - 1e-9)  # 55 of 100 for 0.55, though 0.55 * 100 > 55
    return float(false_bad[np.searchsorted(true_bad, needed)] / false_bad[-1])


def bootstrap_interval(
    metric: Callable[[Labels, Scores], float],
    labels: Labels,
    scores: Scores,
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an image metric.

    Good and bad images are drawn apart, with replacement, so that every draw has as many of each as there are
    (Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 8 and 13). The interval says how far
    the metric moves with the choice of images. It can't know more than they hold: where they are told apart
    perfectly, its width is 0.

    Args:
        metric: takes labels and scores; draws for which it is NaN are left out.
        labels: (n,) bool, True for bad.
        scores: (n,) float.
        draws: number of resampled sets.
        confidence: chance that is covered, between 0 and 1.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        lower and upper end; (NaN, NaN) where the metric is never defined.

    Raises:
        ValueError: if labels and scores don't fit each other, or draws or confidence are out of range.
    """
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"expected draws >= 1 and 0 < confidence < 1, found {draws} and {confidence}")
    _check(labels, scores)
    random = np.random.default_rng(seed)
    good, bad = scores[~labels], scores[labels]
    drawn_labels = np.arange(len(scores)) >= len(good)
    drawn_scores = np.concatenate(
        [group[random.integers(max(len(group), 1), size=(draws, len(group)))] for group in (good, bad)],
        axis=1,
    )
    values = np.array([metric(drawn_labels, row) for row in drawn_scores])
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    lower, upper = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def threshold_between(lower: Scores, upper: Scores) -> Scores:
    """Return thresholds that part neighbouring scores: `upper > threshold`, and not `lower > threshold`.

    They lie midway, in the precision of the scores; on `lower` where no number lies between.
    """
    middle = lower + (upper - lower) / 2
    return np.where(middle < upper, middle, lower)


def _counts(labels: Labels, scores: Scores) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return false_bad, true_bad and the thresholds that give them, each (k + 1,) for k distinct scores.

    Thresholds fall from inf, where no image is called bad, to just below the smallest score, where all are.
    """
    _check(labels, scores)
    distinct, index = np.unique(scores.astype(np.float64), return_inverse=True)
    false_bad, true_bad = (
        np.append(0, np.cumsum(np.bincount(index[group], minlength=len(distinct))[::-1]))
        for group in (~labels, labels)
    )
    between = threshold_between(distinct[:-1], distinct[1:])
    thresholds = np.concatenate([np.nextafter(distinct[:1], -np.inf), between, [np.inf]])[::-1]
    return false_bad, true_bad, thresholds


def _check(labels: Labels, scores: Scores) -> None:
    if labels.ndim != 1 or labels.shape != scores.shape or labels.dtype != np.bool_:
        found = f"labels {labels.shape} of {labels.dtype}, scores {scores.shape}"
        raise ValueError(f"expected labels (n,) of bool and scores (n,), found {found}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores: expected finite numbers, found {scores[~np.isfinite(scores)][0]}")


def _share(counts: NDArray[np.intp]) -> NDArray[np.float64]:
    return counts / counts[-1] if counts[-1] else np.full(len(counts), np.nan)
