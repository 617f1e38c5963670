"""Drift: does the line still make the parts, and the camera the pictures, that were learnt from?

    drift = Drift(held_out_scores, statistics_of_good_images)
    for inspection in line:
        for report in drift.add(inspection.score, image_statistics):
            print(report)  # score has risen since part 1,204: ...

Each value is ranked among the calibration values, as in a smoothed conformal p-value (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2nd ed., chapter 2), and the ranks feed Page's cumulative sum ("Continuous
inspection schemes", Biometrika 41 (1954)):

    S <- max(0, S + (1 - 2 p) - allowance),  rings when S > LIMIT

Under no change the law of the ranks does not depend on that of the values, so false alarms can be simulated once and
for all. A martingale that bets on p promises more by Ville's inequality, but only if the p-values are independent, and
against a calibration set that stays fixed they are not (Shaer et al., arXiv 2602.13848): in 1,000 simulated streams of
10,000 unchanged parts and 200 calibration values, the bet 1 + 0.3 (1 - 2 p) won hundredfold in 15 % of them, where 1 %
was promised. It had learnt that a calibration set is not the whole truth. Hence the allowance, which grows with that
error: 0.25 + 1.25 / sqrt(n).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Self

import numpy as np

from goodparts.decision.calibration import Calibration
from goodparts.decision.quality_gate import Limits, learn_limits
from goodparts.errors import ModelError
from goodparts.preprocessing.statistics import ImageStatistics

LIMIT = 9.0
"""Sum of surprises (each -1 to 1, less the allowance) above which it rings."""

MINIMUM_CALIBRATION = 20
"""Calibration values below which nothing could be told from chance."""

_HARMLESS = 0.25  # of the way from usual to the quality gate's limit: a change so small does not count
_RECENT = 25  # values whose median a report names


@dataclass(frozen=True)
class DriftReport:
    """One quantity has changed.

    Attributes:
        quantity: "score", or the name of an image statistic.
        rising: whether its values are larger than in calibration, or smaller.
        since: number of the part (the first is 1) with which the change seems to have begun.
        part: number of the part at which it was noticed.
        usual: median of the calibration values.
        recent: median of the last parts' values.
    """

    quantity: str
    rising: bool
    since: int
    part: int
    usual: float
    recent: float

    def __str__(self) -> str:
        """The report as a sentence."""
        return (
            f"{self.quantity} has {'risen' if self.rising else 'fallen'} since about part {self.since:,} "
            f"(noticed at part {self.part:,}): lately {self.recent:.4g}, in calibration {self.usual:.4g}"
        )


class Drift:
    """Watches a stream of parts for change against calibration; memory does not grow with the stream.

    Scores are watched for rising, image statistics for rising and falling; of these a quarter of the way to the quality
    gate's limit does not count. Feed all parts that were inspected, whatever their verdict.

    False alarms: 2 of 24,000 simulated streams of 10,000 unchanged parts rang for one sum (calibration sets of 20 to
    5,000 values, drawn anew for each); for all 15 sums of scores and image statistics that is less than 1 stream in
    100, whatever the distribution. Delay in parts, median and worst in ten, by the size of the shift in standard
    deviations of normal scores (`benchmarks/drift.py`):

        calibration    0.5 sigma      1 sigma        2 sigma
        20             never          757 / never    33 / 45
        50             never          81 / 376       22 / 29
        100            never          54 / 101       20 / 25
        200            1617 / never   42 / 71        17 / 22
        1000           323 / 1000     37 / 59        16 / 19

    Bad parts count as the top of the ranks and no more: one in ten did not ring in 1,000 parts (but 1 of 200 streams),
    one in five does at times, and so do 14 in a row (calibration of 200).

    Args:
        scores: held-out scores of good images, (n,), n >= 20; after a change that is meant to stay, the scores of
            the last few hundred parts.
        statistics: of good images, likewise; none: only scores are watched.
        seed: of the random choice of ranks among ties.

    Raises:
        ValueError: fewer than 20 values, or one that is not finite.
    """

    def __init__(
        self, scores: Sequence[float], statistics: Sequence[ImageStatistics] = (), *, seed: int = 0
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._parts = 0
        self._charts = {"score": _Chart("score", scores, (0.0,))}
        if statistics:
            limits = learn_limits(statistics)
            for name in (field.name for field in fields(ImageStatistics)):
                values = [getattr(one, name) for one in statistics]
                self._charts[name] = _Chart(name, values, _harmless(name, limits))

    @classmethod
    def of(cls, calibration: Calibration, *, seed: int = 0) -> Self:
        """Watches for change against a calibration; ModelError where it rests on too few good images."""
        images = calibration.used.images
        if images < MINIMUM_CALIBRATION:
            raise ModelError(
                f"drift needs at least {MINIMUM_CALIBRATION} good images in calibration, found {images}"
            )
        enough = len(calibration.statistics) >= MINIMUM_CALIBRATION
        return cls(calibration.scores, calibration.statistics if enough else (), seed=seed)

    def add(self, score: float, statistics: ImageStatistics | None = None) -> tuple[DriftReport, ...]:
        """Take in one part; returns a report for each quantity that rings now, mostly none.

        A sum that has rung begins anew, so what persists rings again and again.

        Raises:
            ValueError: a value is not finite.
        """
        values = {"score": score}
        if statistics is not None:
            values |= {name: getattr(statistics, name) for name in self._charts if name != "score"}
        for name, value in values.items():
            _require_finite(name, value)
        self._parts += 1
        reports = (
            self._charts[name].add(value, self._rng.random(), self._parts) for name, value in values.items()
        )
        return tuple(report for report in reports if report is not None)

    @property
    def levels(self) -> dict[str, float]:
        """How far each quantity is on the way to ringing, 0 to 1."""
        return {name: max(chart.sums) / LIMIT for name, chart in self._charts.items()}


def _harmless(name: str, limits: Limits) -> tuple[float, float]:
    """How far a statistic may rise and fall without counting."""
    lowest, typical, highest = (
        float(getattr(part, name)) for part in (limits.lowest, limits.typical, limits.highest)
    )
    return _HARMLESS * (highest - typical), _HARMLESS * (typical - lowest)


class _Chart:
    """The cumulative sums of one quantity: rising, and falling if `harmless` has a second value.

    A value counts by its rank among the calibration values after the harmless part of a change is taken off it.
    """

    def __init__(self, name: str, calibration: Sequence[float], harmless: tuple[float, ...]) -> None:
        self.name = name
        self.calibration = sorted(map(float, calibration))
        if len(self.calibration) < MINIMUM_CALIBRATION:
            raise ValueError(
                f"drift: expected at least {MINIMUM_CALIBRATION} calibration values of {name}, "
                f"found {len(self.calibration)}"
            )
        for value in self.calibration:
            _require_finite(name, value)
        self.allowance = 0.25 + 1.25 / math.sqrt(len(self.calibration))
        self.sides = tuple(zip((1, -1), harmless, strict=False))
        self.sums = [0.0] * len(harmless)
        self.starts = [1] * len(harmless)  # part with which each sum last left zero
        self.recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, value: float, uniform: float, part: int) -> DriftReport | None:
        self.recent.append(value)
        report = None
        for side, (sign, harmless) in enumerate(self.sides):
            if self.sums[side] == 0:
                self.starts[side] = part
            surprise = sign * (2 * self._rank(value - sign * harmless, uniform) - 1)
            self.sums[side] = max(0.0, self.sums[side] + surprise - self.allowance)
            if self.sums[side] > LIMIT:
                report = DriftReport(
                    quantity=self.name,
                    rising=sign > 0,
                    since=self.starts[side],
                    part=part,
                    usual=median(self.calibration),
                    recent=median(self.recent),
                )
                self.sums[side] = 0.0
        return report

    def _rank(self, value: float, uniform: float) -> float:
        """1 - p, the share of calibration values below, ties broken by `uniform`; uniform under no change."""
        below, up_to = bisect_left(self.calibration, value), bisect_right(self.calibration, value)
        return (below + uniform * (up_to - below + 1)) / (len(self.calibration) + 1)


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"drift: expected a finite {name}, found {value}")
