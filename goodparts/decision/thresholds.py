"""Thresholds: from scores of good parts to the score above which a part is called bad.

    robust_sigma  median + k robust standard deviations: one odd good image does not move it
    sigma         mean + k standard deviations: what everybody uses; like the first without a promise
    quantile      a quantile of the scores
    rate          the lowest threshold that keeps the false-reject rate under a wanted one, with a stated confidence,
                  whatever the distribution of the scores
    tail          a generalised Pareto distribution fitted to the largest scores, for rates below 1/n

No test image is seen by any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from goodparts.decision.binomial import upper_rate

ROBUST_NEEDS = 40  # scores; of fewer a median absolute deviation is too much a matter of luck
TAIL_NEEDS = 25  # scores; fewer leave a tail of fewer than five


def mean_and_sigmas(scores: ArrayLike, sigmas: float) -> float:
    """Return mean + `sigmas` standard deviations (of the sample, n - 1) of scores (n,), n >= 2."""
    values = np.asarray(scores, dtype=np.float64)
    return float(values.mean() + sigmas * values.std(ddof=1))


def robust_sigmas(scores: ArrayLike, sigmas: float) -> float:
    """Return median + `sigmas` robust standard deviations of scores (n,), n >= 2.

    That is 1.4826 median absolute deviations: the standard deviation, if scores are Gaussian (Rousseeuw and Croux,
    "Alternatives to the median absolute deviation", 1993). Of few scores, or where most are the same, they say little:
    fewer than `ROBUST_NEEDS` give no less than `mean_and_sigmas`, and so does a deviation of 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    threshold = middle + sigmas * spread
    if len(values) < ROBUST_NEEDS or spread == 0:
        return max(threshold, mean_and_sigmas(values, sigmas))
    return threshold


def upper_quantile(values: ArrayLike, quantile: float) -> float:
    """Return the smallest of the values (n,) that at least this share of them does not exceed."""
    return float(np.quantile(np.asarray(values), quantile, method="inverted_cdf"))


def rate_threshold(scores: ArrayLike, rate: float, confidence: float) -> tuple[float, bool]:
    """Return the lowest threshold under which the false-reject rate stays, with this confidence.

    With the threshold at the k-th smallest of n independent scores, the rate of later scores above it is distributed
    as Beta(n - k + 1, k), whatever distribution the scores have (Wilks, "Determination of sample sizes for setting
    tolerance limits", 1941). The smallest k that will do is taken.

    Args:
        scores: of good parts, (n,).
        rate: wanted false-reject rate, between 0 and 1.
        confidence: that it is kept, between 0 and 1.

    Returns:
        The threshold, and whether n scores suffice for the promise; where not, it is the largest score, which is the
        most that they can give.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    above = -1
    while above + 1 < n and upper_rate(above + 1, n, confidence) <= rate:
        above += 1
    return (float(ordered[n - 1 - above]), True) if above >= 0 else (float(ordered[-1]), False)


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution fitted to the scores above `start`.

    Attributes:
        start: where the tail begins: a score.
        share: of all scores that lie in it.
        shape: xi; 0 is an exponential tail, above it a heavier one, below it one that ends.
        scale: sigma, in units of the score.
    """

    start: float
    share: float
    shape: float
    scale: float

    def threshold(self, rate: float) -> float:
        """Return the score that this share of good parts exceeds; `start` for a rate above the tail's share."""
        ratio = self.share / rate
        if ratio <= 1:
            return self.start
        growth = (
            math.log(ratio)
            if abs(self.shape) < 1e-9
            else math.expm1(self.shape * math.log(ratio)) / self.shape
        )
        return self.start + self.scale * growth


def fit_tail(scores: ArrayLike) -> Tail:
    """Fit the upper tail of scores (n,), n >= TAIL_NEEDS.

    The tail are the min(n / 5, 3 sqrt(n)) largest (as Vehtari et al., "Pareto smoothed importance sampling", JMLR 2024,
    choose it); the fit is that of Zhang and Stephens ("A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 2009), which needs no iteration and always exists.

    Raises:
        ValueError: too few scores.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    if n < TAIL_NEEDS:
        raise ValueError(f"expected at least {TAIL_NEEDS} scores, found {n}")
    size = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    start = float((ordered[n - size - 1] + ordered[n - size]) / 2)
    shape, scale = _zhang_stephens(ordered[n - size :] - start)
    return Tail(start=start, share=size / n, shape=shape, scale=scale)


def tail_threshold(
    scores: ArrayLike, rate: float, confidence: float, *, seed: int, draws: int = 400
) -> tuple[float, tuple[float, float]]:
    """Return the threshold for a false-reject rate by the fitted tail, with its bootstrap interval.

    Args:
        scores: of good parts, (n,), n >= TAIL_NEEDS.
        rate: wanted false-reject rate; may be below 1 / n.
        confidence: of the two-sided interval.
        seed: of the resampling.
        draws: resampled sets.

    Returns:
        The threshold, and the percentile interval of thresholds that resampled scores give: how little or much the
        extrapolation can be relied on.
    """
    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = [fit_tail(rng.choice(values, len(values))).threshold(rate) for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return fit_tail(values).threshold(rate), (float(low), float(high))


def _zhang_stephens(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Return (shape, scale) of the generalised Pareto distribution of rising positive excesses (n,)."""
    x = excesses[excesses > 0]
    n = len(x)
    if n < 2 or x[-1] <= 0:  # ties at the start of the tail: nothing spreads
        return 0.0, float(max(excesses.mean(), np.finfo(np.float64).tiny))
    points = 20 + math.isqrt(n)
    quartile = x[max(0, int(n / 4 + 0.5) - 1)]
    j = np.arange(1, points + 1)
    theta: NDArray[Any] = 1 / x[-1] + (1 - np.sqrt(points / (j - 0.5))) / (3 * quartile)
    shape = np.log1p(-theta[:, None] * x).mean(axis=1)
    likelihood = n * (np.log(-theta / shape) - shape - 1)
    weight = 1 / np.exp(likelihood[None] - likelihood[:, None]).sum(axis=1)
    best = float((theta * weight).sum())
    fitted = float(np.log1p(-best * x).mean())
    return fitted, -fitted / best
