"""Binomial: what a count of good parts says about the share of good parts that a line would reject.

    upper_rate(0, 59)                   # 0.0495: none of 59 rejected, so at most 5 % are, at 95 % confidence
    images_needed(0.01)                 # 299: so many good parts, none of them rejected, for 1 %
    clopper_pearson(3, 250)             # (0.0025, 0.0347)

All of it is exact, and rests on nothing but independent parts of the same line: a burst of nearly the same image
counts as one part, however many files it fills.
"""

from __future__ import annotations

import math

import numpy as np


def upper_rate(rejected: int, good: int, confidence: float = 0.95) -> float:
    """Return the rate that is not exceeded, at this one-sided confidence, when `rejected` of `good` were rejected.

    It is the upper end of Clopper and Pearson's interval. The same figure bounds the rate above an order statistic:
    with the threshold at the score that k of n lie above, the rate is distributed as Beta(k + 1, n - k), whatever
    the distribution of the scores (David and Nagaraja, "Order statistics", 3rd ed. 2003, ch. 2). 1 without any part.

    Raises:
        ValueError: unless 0 <= rejected <= good and 0 < confidence < 1.
    """
    _check(rejected, good, confidence)
    return 1 - _share_with_tail(good - rejected, good, 1 - confidence) if rejected < good else 1.0


def images_needed(rate: float, confidence: float = 0.95, rejected: int = 0) -> int:
    """Return the least number of good parts which, with `rejected` of them rejected, bound the rate by `rate`.

    Raises:
        ValueError: unless 0 < rate < 1, 0 < confidence < 1 and rejected >= 0.
    """
    if not 0 < rate < 1 or not 0 < confidence < 1 or rejected < 0:
        raise ValueError(
            f"expected 0 < rate, confidence < 1, found {rate}, {confidence}, rejected={rejected}"
        )
    low, high = rejected, rejected + 1
    while upper_rate(rejected, high, confidence) > rate:
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_rate(rejected, middle, confidence) > rate else (low, middle)
    return high


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a share of which k in n were counted.

    The ends are the shares p at which k or more, and k or fewer, in n have the chance (1 - confidence) / 2
    (Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 1934); found by bisection on the binomial distribution. (0, 1) for n = 0.

    Raises:
        ValueError: unless 0 <= k <= n and 0 < confidence < 1.
    """
    _check(k, n, confidence)
    tail = (1 - confidence) / 2
    lower = _share_with_tail(k, n, tail) if k > 0 else 0.0
    upper = 1 - _share_with_tail(n - k, n, tail) if k < n else 1.0
    return lower, upper


def share_in_words(share: float) -> str:
    """Return a share in whole numbers, as people say it: "1 in 29", from about a tenth on "12 in 100"."""
    return f"{round(100 * share)} in 100" if share >= 0.095 or share <= 0 else f"1 in {round(1 / share):,}"


def rarity(p_value: float) -> str:
    """Return a p-value in words: "at most 1 good part in 221 scores this high", "30 good parts in 100 score this high".

    At most: with 220 good scores, 1 in 221 is what the p-value is where none of them was as high.
    """
    parts, total = share_in_words(p_value).split(" in ")
    if parts == "1":
        return f"at most 1 good part in {total} scores this high"
    return f"{parts} good parts in {total} score this high"


def _share_with_tail(k: int, n: int, tail: float) -> float:
    """Return the share p at which k or more in n have the chance `tail`, for 0 < k <= n."""
    steps = np.arange(1, n + 1)
    log_binomial = np.cumsum(np.log((n + 1 - steps) / steps))[k - 1 :]
    hits = steps[k - 1 :]
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        chance = np.exp(log_binomial + hits * math.log(middle) + (n - hits) * math.log1p(-middle)).sum()
        low, high = (middle, high) if chance < tail else (low, middle)
    return middle


def _check(k: int, n: int, confidence: float) -> None:
    if not 0 <= k <= n or not 0 < confidence < 1:
        raise ValueError(f"expected 0 <= k <= n and 0 < confidence < 1, found k={k}, n={n}, {confidence}")
