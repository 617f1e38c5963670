"""Drift of each model as it runs: what its last parts look like beside calibration, and when that has changed."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from goodparts.decision.drift import Drift
from goodparts.decision.inspection import BAD, RECHECK
from goodparts.errors import ModelError
from goodparts.model.model import Model
from goodparts.preprocessing.statistics import ImageStatistics

RECENT = 500
"""Parts that the figures are of."""
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Notice:
    """Something has changed.

    Attributes:
        quantity: what.
        message: in words.
    """

    quantity: str
    message: str


class DriftWatch:
    """Watches the parts of one version of a model. Any thread may add."""

    def __init__(self, model: Model, version: str) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._parts: deque[tuple[float, float, str]] = deque(maxlen=RECENT)
        self._statistics: deque[ImageStatistics] = deque(maxlen=RECENT)
        self._calibration = np.sort(np.asarray(model.calibration.scores, dtype=np.float64))
        self._count = 0
        try:
            self._drift: Drift | None = Drift.of(model.calibration)
        except (ModelError, ValueError):
            self._drift = None  # of too few good images nothing could be told from chance

    def fill(self, parts: list[tuple[float, float, str]]) -> None:
        """Take up what went before, oldest first: (score, p-value, verdict)."""
        with self._lock:
            self._parts.extend(parts)

    def add(
        self, score: float, p_value: float, verdict: str, statistics: ImageStatistics | None
    ) -> tuple[Notice, ...]:
        """One more part; what has changed, mostly nothing."""
        with self._lock:
            self._count += 1
            self._parts.append((score, p_value, verdict))
            if statistics is not None:
                self._statistics.append(statistics)
            if self._drift is None or not math.isfinite(score):
                return ()
            reports = self._drift.add(score, statistics)
            return tuple(Notice(report.quantity, str(report)) for report in reports)

    def levels(self) -> dict[str, float]:
        """How far each quantity is on the way to being told, 0 to 1."""
        with self._lock:
            return {} if self._drift is None else dict(self._drift.levels)

    def figures(self) -> dict[str, Any]:
        """What the last parts look like.

        `p_value_distance` is the largest distance between the distribution of their p-values and a uniform one
        (Kolmogorov and Smirnov's), 0 to 1: near 0 while parts are as good as those of calibration. `levels` says
        how far each quantity is on the way to being told, 0 to 1.
        """
        with self._lock:
            parts, statistics = list(self._parts), list(self._statistics)
            levels = {} if self._drift is None else dict(self._drift.levels)
            count = self._count
        figures: dict[str, Any] = {
            "version": self.version,
            "parts": len(parts),
            "since_start": count,
            "watched": self._drift is not None,
            "levels": {name: round(value, 4) for name, value in levels.items()},
        }
        if not parts:
            return figures
        scores = np.array([part[0] for part in parts])
        verdicts = [part[2] for part in parts]
        figures["score_quantiles"] = _quantiles(scores)
        figures["calibration_quantiles"] = _quantiles(self._calibration)
        figures["p_value_distance"] = distance_from_uniform(np.array([part[1] for part in parts]))
        figures["bad_share"] = verdicts.count(BAD) / len(parts)
        figures["recheck_share"] = verdicts.count(RECHECK) / len(parts)
        if statistics:
            figures["image_statistics"] = {
                name: float(np.median([getattr(one, name) for one in statistics]))
                for name in ("brightness", "contrast", "detail", "noise")
                if hasattr(statistics[0], name)
            }
        return figures


def distance_from_uniform(p_values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """The largest distance of their distribution from the uniform one on (0, 1]."""
    ordered, n = np.sort(p_values), len(p_values)
    ranks = np.arange(1, n + 1)
    return float(max((ranks / n - ordered).max(), (ordered - (ranks - 1) / n).max()))


def _quantiles(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{share:g}": float(np.quantile(values, share)) for share in _QUANTILES}
