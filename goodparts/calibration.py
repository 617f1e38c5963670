"""Calibration: from held-out scores of good images to thresholds and p-values.

Held out means that no image is compared with itself: a good training image is scored against the memory bank without
its own entries. No test image takes part, unless the user asks for the oracle (`threshold_rule = "f1"`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from goodparts.errors import ModelError
from goodparts.recipe import Recipe

_VALUES_PER_MAP = 4096  # of each held-out map, kept for quantiles over pixels


@dataclass(frozen=True)
class GoodMaps:
    """What is kept of the held-out anomaly maps of n good images.

    Attributes:
        peaks: the largest value of each map, (n,).
        mean: over all pixels of all maps.
        std: over all pixels of all maps.
        quantile: the recipe's pixel_threshold_quantile over all pixels.
    """

    peaks: tuple[float, ...]
    mean: float
    std: float
    quantile: float


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of good images and the decisions that follow from them.

    Attributes:
        scores: held-out anomaly scores of the n good training images, (n,), in their order.
        maps: the same for anomaly maps.
        threshold: a score above it is BAD; None while the oracle has seen no labelled set.
        threshold_rule: how it was found.
        pixel_threshold: a value of the anomaly map above it is bad.
        pixel_threshold_rule: how that was found.
    """

    scores: tuple[float, ...]
    maps: GoodMaps
    threshold: float | None
    threshold_rule: str
    pixel_threshold: float
    pixel_threshold_rule: str

    @property
    def decided(self) -> float:
        """The threshold; ModelError while there is none."""
        if self.threshold is None:
            raise ModelError(
                "threshold_rule = f1 is an oracle and has not seen a labelled set yet: evaluate the model on one, "
                "or take a rule that needs good images only (sigma, quantile, fixed)"
            )
        return self.threshold

    def p_value(self, score: float) -> float:
        """How rare such a score is among good parts: (1 + held-out scores >= score) / (n + 1) (conformal)."""
        return (1 + int(np.count_nonzero(np.array(self.scores) >= score))) / (len(self.scores) + 1)

    def with_oracle(self, threshold: float) -> Self:
        """The same with the F1-optimal threshold of a labelled set, labelled as an oracle."""
        return replace(self, threshold=threshold, threshold_rule="f1")

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        maps = values.pop("maps")
        maps["peaks"] = tuple(maps["peaks"])
        values["scores"] = tuple(values["scores"])
        return cls(maps=GoodMaps(**maps), **values)


class GoodMapsCollector:
    """Gathers `GoodMaps` one map at a time."""

    def __init__(self) -> None:
        self._peaks: list[float] = []
        self._values: list[NDArray[np.float32]] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, anomaly_map: NDArray[np.float32]) -> None:
        """Take in the anomaly map of one good image, (H, W) float32 with NaN where it did not look."""
        values = anomaly_map[~np.isnan(anomaly_map)]
        self._peaks.append(float(values.max()))
        self._count += values.size
        self._sum += float(values.sum(dtype=np.float64))
        self._squares += float(np.square(values, dtype=np.float64).sum())
        self._values.append(values[:: max(1, values.size // _VALUES_PER_MAP)])

    def result(self, quantile: float) -> GoodMaps:
        """What was gathered."""
        mean = self._sum / self._count
        variance = max(0.0, self._squares / self._count - mean**2)
        return GoodMaps(
            peaks=tuple(self._peaks),
            mean=mean,
            std=float(np.sqrt(variance)),
            quantile=_upper_quantile(np.concatenate(self._values), quantile),
        )


def calibrate(scores: ArrayLike, maps: GoodMaps, recipe: Recipe) -> Calibration:
    """Thresholds by the rules of a recipe.

    Args:
        scores: held-out anomaly scores of good images, (n,), n >= 2.
        maps: of their anomaly maps.
        recipe: threshold_* and pixel_threshold_*.
    """
    held_out = np.asarray(scores, dtype=np.float64)
    threshold: float | None
    match recipe.threshold_rule:
        case "sigma":
            threshold = _mean_and_sigmas(held_out, recipe.threshold_sigma)
        case "quantile":
            threshold = _upper_quantile(held_out, recipe.threshold_quantile)
        case "fixed":
            threshold = recipe.threshold_value
        case _:
            threshold = None
    peaks = np.array(maps.peaks)
    match recipe.pixel_threshold_rule:
        case "peak_sigma":
            pixel_threshold = _mean_and_sigmas(peaks, recipe.pixel_threshold_sigma)
        case "peak_quantile":
            pixel_threshold = _upper_quantile(peaks, recipe.pixel_threshold_quantile)
        case "pixel_sigma":
            pixel_threshold = maps.mean + recipe.pixel_threshold_sigma * maps.std
        case "pixel_quantile":
            pixel_threshold = maps.quantile
        case _:
            pixel_threshold = recipe.pixel_threshold_value
    return Calibration(
        scores=tuple(float(score) for score in held_out),
        maps=maps,
        threshold=threshold,
        threshold_rule=recipe.threshold_rule,
        pixel_threshold=pixel_threshold,
        pixel_threshold_rule=recipe.pixel_threshold_rule,
    )


def _mean_and_sigmas(values: NDArray[np.float64], sigmas: float) -> float:
    return float(values.mean() + sigmas * values.std(ddof=1))


def _upper_quantile(values: NDArray[Any], quantile: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return float(np.quantile(values, quantile, method="inverted_cdf"))
