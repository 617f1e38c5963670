"""Made-up pictures of plates, larger than a tile, and zones on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts import Recipe
from goodparts.bank.search import Piece
from goodparts.bank.search import search as search_pieces
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.tiling import Tiling

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


Search = Callable[[int], tuple[NDArray[np.float32], float]]
"""From the index of a tile to its distance grid (h, w) and its score."""


class _Engine:
    """Finds in a tile what it is told to."""

    inputs = frozenset({"patch_features"})

    def __init__(self, search: Search) -> None:
        self.search = search

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        distances, score = self.search(int(inputs["patch_features"][0]))
        return {"distance_grid": distances[None], "score": np.array([score], dtype=np.float32)}


def searched(
    tiling: Tiling, search: Search, patch_mask: NDArray[np.bool_], recipe: Recipe
) -> tuple[NDArray[np.float32], float]:
    """Distance grid and score of an image whose tiles are searched so."""
    pieces = (
        Piece(tile, {"patch_features": np.array([tile])}, tiling.crop_mask(patch_mask, tile))
        for tile in tiling.searched(patch_mask)
    )
    return search_pieces(_Engine(search), pieces, patch_mask, Preprocessor(recipe, tiling))
