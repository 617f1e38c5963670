"""A tiny network and tiny parts, for targets that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conftest
import numpy as np
from numpy.typing import NDArray

from goodparts import Inspection

LAYERS = ("layer1", "layer2")
PLAIN: dict[str, Any] = {
    "whitening": 0,
    "feature_dimensions": 0,
    "density_neighbours": 0,
    "sampling": "random",
}
SIDE = 64


class Folder:
    """Stands in for pytest's factory of temporary folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def mktemp(self, name: str) -> Path:
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name


def write_network(folder: Path) -> Path:
    """The small ONNX backbone of the tests, below a folder."""
    path: Path = conftest.mini_backbone.__wrapped__(Folder(folder))
    return path


def parts(count: int) -> list[NDArray[np.uint8]]:
    """Images of good parts, 64 x 64: a bright bar on a dark ground, with noise."""
    rng = np.random.default_rng(3)
    images = []
    for _ in range(count):
        pixels = rng.normal(60, 6, (SIDE, SIDE, 3))
        pixels[20:34, 12:52] += 90
        pixels[20:50, 12:22] += 90
        images.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return images


def require_sense(inspection: Inspection) -> None:
    """What any inspection must be: finite, or no verdict of GOOD."""
    if not np.isfinite(inspection.score) or not np.isfinite(inspection.threshold):
        assert inspection.verdict != "GOOD", f"GOOD at {inspection.score} of {inspection.threshold}"
    assert not np.isinf(inspection.anomaly_map).any(), "infinite anomaly map"
    assert inspection.anomaly_map.shape == inspection.mask.shape
    if inspection.verdict == "GOOD":
        assert not inspection.mask.any(), "GOOD with a mask"
        assert not np.isnan(inspection.anomaly_map).all(), "GOOD, and nothing was looked at"
