"""What a product's images came to: counts, the share that is rejected, drift, and the worst of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from goodparts.decision.binomial import clopper_pearson
from goodparts.decision.calibration import Calibration
from goodparts.decision.drift import MINIMUM_CALIBRATION, Drift, DriftReport
from goodparts.decision.inspection import BAD, RECHECK
from goodparts.fleet.images import ImageFile
from goodparts.fleet.manifest import Row

WORST = 3


@dataclass
class Summary:
    """Counts of one product; `add` takes its rows one after the other, in the order of their names.

    Attributes:
        product: its name.
        model: path of its model.
        identity: of that.
        images, bad, recheck, borderline, set_aside: how many.
        multiples: of all scores, in units of the threshold, the median; None without any.
        worst: the highest scores: (score in units of the threshold, row, file).
        aside: some that were set aside, with their errors.
        drift: the first report of each direction, and how many there were.
        error: why the product could not be inspected; empty where it could.
    """

    product: str
    model: str = ""
    identity: str = ""
    images: int = 0
    bad: int = 0
    recheck: int = 0
    borderline: int = 0
    set_aside: int = 0
    worst: list[tuple[float, Row, ImageFile]] = field(default_factory=list)
    aside: list[Row] = field(default_factory=list)
    drift: list[DriftReport] = field(default_factory=list)
    alarms: int = 0
    watched: bool = False
    error: str = ""

    @property
    def judged(self) -> int:
        """How many are GOOD or BAD."""
        return self.images - self.recheck - self.set_aside

    @property
    def reject_rate(self) -> float | None:
        """Share of the judged images that are BAD; None without any."""
        return self.bad / self.judged if self.judged else None

    @property
    def reject_interval(self) -> tuple[float, float]:
        """Its 95 % confidence interval (Clopper and Pearson)."""
        return clopper_pearson(self.bad, self.judged)

    def read(
        self, rows: Iterable[tuple[ImageFile, Row]], calibration: Calibration | None = None
    ) -> Iterator[tuple[ImageFile, Row]]:
        """Pass on the rows of this product, and count them on the way."""
        drift = None
        if calibration is not None and calibration.used.images >= MINIMUM_CALIBRATION:
            drift = Drift(calibration.scores)
        self.watched = drift is not None
        heap: list[tuple[float, int, Row, ImageFile]] = []
        for number, (file, row) in enumerate(rows):
            self.images += 1
            if row.verdict is None:
                self.set_aside += 1
                if len(self.aside) < WORST:
                    self.aside.append(row)
            else:
                self.bad += row.verdict == BAD
                self.recheck += row.verdict == RECHECK
                self.borderline += bool(row.borderline)
                if row.score is not None and row.threshold:
                    entry = (row.score / row.threshold, -number, row, file)
                    (heapq.heappush if len(heap) < WORST else heapq.heappushpop)(heap, entry)
                if drift is not None and row.score is not None:
                    for report in drift.add(row.score):
                        self.alarms += 1
                        if not self.drift:
                            self.drift.append(report)
            yield file, row
        self.worst = [(multiple, row, file) for multiple, _, row, file in sorted(heap, reverse=True)]
