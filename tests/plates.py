"""Made-up pictures of plates, larger than a tile, and zones on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = (200, 328)
GRID = (8, 8)  # of a tile of 64 pixels: cells of 8

ZONES = {
    "size": [328, 200],
    "zones": [
        {"name": "left", "polygons": [[[0, 0], [150, 0], [150, 200], [0, 200]]]},
        {"name": "right", "polygons": [[[240, 0], [328, 0], [328, 200], [240, 200]]]},
    ],
}


def plate(seed: int, bad: bool = False) -> NDArray[np.uint8]:
    """A grey plate with stripes, (200, 328, 3); bad: a spot of 7 pixels."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIZE[1])
    grey = 120 + 25 * np.sin(x / 6 + rng.uniform(-0.5, 0.5)) + rng.normal(0, 4, SIZE)
    if bad:
        row, column = 20 + 3 * (seed % 50), 40 + 5 * (seed % 50)
        grey[row : row + 7, column : column + 7] = 250
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def half_bright(seed: int, bad: bool = False) -> NDArray[np.uint8]:
    """A plate whose right half is brighter; bad: a patch as bright on the left."""
    halves = plate(seed)
    halves[:, 164:] += 90
    if bad:
        halves[90:122, 20:52] = halves[90:122, 220:252]
    return halves
