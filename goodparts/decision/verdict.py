"""The verdict on an image, and which of its pixels are bad."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from goodparts.decision.regions import label_regions, remove_small


def segment(anomaly_map: NDArray[np.float32], threshold: float, minimum_area: int) -> NDArray[np.bool_]:
    """The bad pixels of an image that is BAD, (H, W) bool; never empty.

    Pixels above the threshold, without regions of fewer than `minimum_area` pixels. If that leaves nothing, the region
    around the peak that reaches nine tenths of it.
    """
    with np.errstate(invalid="ignore"):
        mask = remove_small(anomaly_map > threshold, minimum_area)
        if mask.any():
            return mask
        peak = np.nanargmax(anomaly_map)
        around = anomaly_map >= 0.9 * anomaly_map.flat[peak]
    labels, _ = label_regions(around)
    return np.asarray(labels == labels.flat[peak])
