"""The quality gate: is this image fit to be judged at all?

A blurred, badly exposed, noisy or wrong picture gets no verdict but a reason in words. What good images look like is
learnt from the good images themselves; a defect, which is local, must not be taken for a bad picture, so every
statistic is one that a small part of the image can't move far.

    limits = learn_limits([measure(pixels, held_out_grid) for pixels, held_out_grid in good])
    reasons(measure(pixels, distance_grid), limits)
    # ("blurred: detail is 0.31 of what good images have (limit 0.72)",)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np

from goodparts.files import JsonRecord
from goodparts.preprocessing.statistics import ImageStatistics

MINIMUM_IMAGES = 5
"""Good images from which limits can be learnt."""

_TINY = 1e-3  # added before a logarithm


@dataclass(frozen=True)
class Limits:
    """Between what values the statistics of good images lie; made by `learn_limits`.

    Attributes:
        typical: medians.
        lowest, highest: outside these an image is unlike the good ones.
        images: how many good images they were learnt from.
    """

    typical: ImageStatistics
    lowest: ImageStatistics
    highest: ImageStatistics
    images: int

    def to_dict(self) -> JsonRecord:
        """As a dictionary of plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; TypeError or KeyError if it is something else."""
        typical, lowest, highest = (
            ImageStatistics(**values[name]) for name in ("typical", "lowest", "highest")
        )
        return cls(typical, lowest, highest, int(values["images"]))


class _Check(NamedTuple):
    """One way in which an image can be bad."""

    statistic: str
    too: str  # "low" or "high"
    sentence: str


# What is always allowed beyond the median: a factor, or for shares a difference.
_FACTORS = {"brightness": 1.25, "contrast": 1.5, "detail": 1.35, "noise": 1.75, "distance": 1.5}
_SHARES = {"black": 0.1, "white": 0.1}

_CHECKS = (
    _Check("brightness", "low", "under-exposed: brightness is {} what good images have (limit {})"),
    _Check("black", "high", "under-exposed: {} of the pixels are black (limit {})"),
    _Check("brightness", "high", "over-exposed: brightness is {} what good images have (limit {})"),
    _Check("white", "high", "over-exposed: {} of the pixels are white (limit {})"),
    _Check("contrast", "low", "flat: contrast is {} what good images have (limit {})"),
    _Check("detail", "low", "blurred: detail is {} what good images have (limit {})"),
    _Check("noise", "high", "noisy: grain is {} what good images have (limit {})"),
    _Check(
        "distance",
        "high",
        "unlike all good images, nearly everywhere: distance is {} what good images have (limit {})",
    ),
)


def learn_limits(good: Sequence[ImageStatistics]) -> Limits:
    """Learn what good images have in common.

    For each statistic and side: from the median, twice as far as 95 % of the good images go, and never less than a
    fixed margin, for which a picture is still as good as any; wider for few images. Factors, not differences, except
    for shares. One bad picture in twenty among the good ones moves nothing far.

    Args:
        good: statistics of good images with held-out distance grids (no image compared with itself).

    Raises:
        ValueError: fewer than five images.
    """
    if len(good) < MINIMUM_IMAGES:
        raise ValueError(
            f"limits of image quality need at least {MINIMUM_IMAGES} good images, found {len(good)}"
        )
    typical, lowest, highest = {}, {}, {}
    for name in (field.name for field in fields(ImageStatistics)):
        values = np.array([getattr(statistics, name) for statistics in good], dtype=np.float64)
        factor = name in _FACTORS
        if factor:
            values = np.log(values + _TINY)
        margin = float(np.log(_FACTORS[name])) if factor else _SHARES[name]
        middle = np.median(values)
        low, high = np.quantile(values, 0.05, method="higher"), np.quantile(values, 0.95, method="lower")
        few = 1 + 5 / len(good)
        ends = (
            middle,
            middle - few * max(margin, 2 * (middle - low)),
            middle + few * max(margin, 2 * (high - middle)),
        )
        typical[name], lowest[name], highest[name] = (
            float(np.exp(end) - _TINY if factor else end) for end in ends
        )
    return Limits(
        ImageStatistics(**typical), ImageStatistics(**lowest), ImageStatistics(**highest), len(good)
    )


def reasons(statistics: ImageStatistics, limits: Limits) -> tuple[str, ...]:
    """Why an image can't be judged, in words; empty if it can. The first reason is the one to mend first."""
    found = []
    for name, too, sentence in _CHECKS:
        value = getattr(statistics, name)
        limit = getattr(limits.lowest if too == "low" else limits.highest, name)
        if not (value < limit if too == "low" else value > limit):
            continue
        if name in _SHARES:
            found.append(sentence.format(f"{value:.0%}", f"{limit:.0%}"))
        else:
            typical = max(getattr(limits.typical, name), _TINY)
            times = "of" if too == "low" else "times"
            found.append(sentence.format(f"{value / typical:.2f} {times}", f"{limit / typical:.2f}"))
    return tuple(found)
