"""The verdict: from distances and score to what is said of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.scoring import zone_scores
from goodparts.decision import quality_gate
from goodparts.decision.calibration import Calibration
from goodparts.decision.inspection import BAD, GOOD, RECHECK, Inspection, LaterMap, ZoneScore
from goodparts.decision.regions import Runs, joined
from goodparts.parallel import small_products
from goodparts.preprocessing import statistics
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.statistics import ImageStatistics
from goodparts.preprocessing.step import Prepared

NOT_LOOKED_AT = "nothing of it is looked at"


@dataclass(frozen=True, eq=False)
class Measured:
    """What the search found on an image.

    Attributes:
        image: as it was prepared.
        distance_grid: patch distances, (h, w) float32; NaN where it was not looked at.
        score: anomaly score of all patches.
    """

    image: Prepared
    distance_grid: NDArray[np.float32]
    score: float

    @property
    def finite(self) -> bool:
        """Whether all distances that count are numbers, not the largest alone: engines may pass over others."""
        counted = self.distance_grid[self.image.patch_mask]
        return math.isfinite(self.score) and bool(np.isfinite(counted).all())


def judge(
    measured: Measured,
    calibration: Calibration,
    preprocessor: Preprocessor,
    *,
    margin: float,
    path: Path | None = None,
    recognise: bool = False,
    computed_by: str = "",
) -> Inspection:
    """What is said of an image.

    Args:
        measured: what was found on it.
        calibration: thresholds and good scores.
        preprocessor: the region of interest, and the recipe.
        margin: a score that lies within this share of the threshold is borderline.
        path: of the image.
        recognise: whether to look whether the model learnt from this very image.
        computed_by: engine, device and precision.

    Raises:
        ModelError: there is no threshold yet.
    """
    frame = measured.image.frame
    score, zones = score_of(measured, calibration, preprocessor)
    image_statistics, reasons = _quality(measured, calibration, preprocessor)
    threshold = calibration.threshold
    later_map = LaterMap(partial(_anomaly_map, measured.distance_grid, frame, calibration, preprocessor))
    verdict = (
        RECHECK if reasons else GOOD if score <= threshold else BAD
    )  # and what is no number is never GOOD
    bad = None
    if verdict == BAD:
        bad = _bad_pixels(later_map.made, measured.distance_grid, frame, zones, calibration, preprocessor)
    return Inspection(
        path=path,
        score=score,
        threshold=threshold,
        p_value=calibration.p_value(score),
        verdict=verdict,
        borderline=abs(score - threshold) <= margin * abs(threshold),
        distance_grid=measured.distance_grid,
        later_map=later_map,
        pixel_threshold=calibration.pixel_threshold,
        mask=np.zeros(frame.image_size, dtype=bool) if bad is None else bad.mask,
        regions=() if bad is None else bad.describe(later_map.made),
        reasons=reasons,
        statistics=image_statistics,
        zones=zones,
        pose=measured.image.pose,
        learnt_from=recognise and measured.image.digest in calibration.digests,
        computed_by=computed_by,
    )


def _anomaly_map(
    distance_grid: NDArray[np.float32], frame: Frame, calibration: Calibration, preprocessor: Preprocessor
) -> NDArray[np.float32]:
    """The anomaly map (H, W): of several zones in multiples of their thresholds."""
    roi = preprocessor.roi
    with small_products():
        anomaly_map = preprocessor.to_image(distance_grid, frame)
    if roi.several:
        anomaly_map /= roi.levels(
            frame.image_size, [zone.pixel_threshold for zone in calibration.decision.zones]
        )
    return anomaly_map


def score_of(
    measured: Measured, calibration: Calibration, preprocessor: Preprocessor
) -> tuple[float, tuple[ZoneScore, ...]]:
    """The score that decides, and those of the zones: of several the largest multiple of a zone's threshold."""
    roi, decision = preprocessor.roi, calibration.decision
    if not roi.several:
        threshold = decision.threshold
        return measured.score, tuple(
            ZoneScore(name, measured.score, threshold) for name in roi.names if threshold is not None
        )
    patch_masks = roi.zone_patch_masks(preprocessor.image_recipe, preprocessor.grid)
    scores = zone_scores(measured.distance_grid, patch_masks, preprocessor.image_recipe)
    zones = tuple(
        ZoneScore(zone.name, found, zone.threshold)
        for zone, found in zip(decision.zones, scores, strict=True)
    )
    return max(zone.score / zone.threshold for zone in zones), zones


def segment(
    anomaly_map: NDArray[np.float32], threshold: float, minimum_area: int, rows: slice = slice(None)
) -> Runs:
    """The bad pixels of an image that is BAD; never empty.

    Pixels above the threshold, of which there are none outside some rows, without regions of fewer than `minimum_area`
    pixels. If that leaves nothing, the region around the peak that reaches nine tenths of it.
    """
    with np.errstate(invalid="ignore"):
        mask = np.zeros(anomaly_map.shape, dtype=bool)
        np.greater(anomaly_map[rows], threshold, out=mask[rows])
        above = Runs.of(mask, rows).without_small(minimum_area)
        if above.regions:
            return above
        row, column = np.unravel_index(np.nanargmax(anomaly_map), anomaly_map.shape)
        return Runs.of(anomaly_map >= 0.9 * anomaly_map[row, column]).around(int(row), int(column))


def _quality(
    measured: Measured, calibration: Calibration, preprocessor: Preprocessor
) -> tuple[ImageStatistics | None, tuple[str, ...]]:
    """What the image looks like, with the quality gate on; and why it can't be judged."""
    image, recipe = measured.image, preprocessor.recipe
    found: ImageStatistics | None = None
    reasons: tuple[str, ...] = ()
    if recipe.quality_gate and calibration.limits is not None:
        found = statistics.measure(preprocessor.quality_gate_pixels(image), measured.distance_grid)
        reasons = quality_gate.reasons(found, calibration.limits)
    if image.pose is not None and image.pose.failure and recipe.pose_failure == "recheck":
        reasons += (image.pose.failure,)
    if not image.patch_mask.any():
        reasons += (NOT_LOOKED_AT,)
    return found, reasons


def _bad_pixels(
    anomaly_map: NDArray[np.float32],
    distance_grid: NDArray[np.float32],
    frame: Frame,
    zones: tuple[ZoneScore, ...],
    calibration: Calibration,
    preprocessor: Preprocessor,
) -> Runs:
    """The bad pixels of an image that is BAD: of several zones, those of each that is BAD."""
    threshold, area = calibration.pixel_threshold, preprocessor.recipe.minimum_area
    roi = preprocessor.roi
    if not roi.several:
        rows = preprocessor.rows_above(distance_grid, frame, threshold)
        return segment(anomaly_map, threshold, area, rows)
    height, width = anomaly_map.shape
    masks = roi.masks_at((height, width))
    return joined(
        [
            segment(np.where(mask, anomaly_map, np.float32(np.nan)), threshold, area)
            for zone, mask in zip(zones, masks, strict=True)
            if zone.bad
        ]
    )
