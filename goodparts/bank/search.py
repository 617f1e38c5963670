"""The search of whole images: crop by crop through the compiled graph, and merged.

crops ─► engine: distances and score of each ─► merge ─► distance grid, anomaly score
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.scoring import image_score
from goodparts.bank.search_graph import DISTANCES
from goodparts.engines.engine import Engine
from goodparts.engines.graph import PATCH_FEATURES, numbered
from goodparts.features.extract import at_grid
from goodparts.preprocessing.preprocessor import Preprocessor


@dataclass(frozen=True, eq=False)
class Piece:
    """What the engine gets of one crop.

    Attributes:
        tile: which tile it is.
        inputs: by name, of one image: pixels `image` (1, height, width, 3) uint8, or of each depth the patch features,
            or the distances.
        patch_mask: which patches count, (h, w) bool.
    """

    tile: int
    inputs: Mapping[str, NDArray[Any]]
    patch_mask: NDArray[np.bool_]

    def run(self, engine: Engine) -> dict[str, NDArray[np.float32]]:
        """What the engine finds in it; `valid` and `tile` are given to it where it asks for them."""
        inputs = dict(self.inputs)
        if "valid" in engine.inputs:
            inputs["valid"] = self.patch_mask[None].astype(np.float32)
        if "tile" in engine.inputs:
            inputs["tile"] = np.array([self.tile], dtype=np.int64)
        return engine(inputs)


def at_each_depth(engine: Engine, piece: Piece, grids: Sequence[tuple[int, int]]) -> Piece:
    """The piece with its distances at each depth in place of its features: what a `fusion_graph` takes.

    `engine`: of a search without a fusion; `grids`: (h, w) of each depth.
    """
    found = piece.run(engine)
    names = ((numbered(DISTANCES, depth), numbered("distance_grid", depth)) for depth in range(len(grids)))
    return replace(piece, inputs={given: found[name] for given, name in names})


def counted_distances(piece: Piece, grids: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
    """Of a piece that `at_each_depth` made, the distances that count at each depth, (patches,) float32 each."""
    return [
        piece.inputs[numbered(DISTANCES, depth)][0][at_grid(piece.patch_mask, grid)]
        for depth, grid in enumerate(grids)
    ]


def feature_inputs(
    depths: Iterable[NDArray[np.float32]], grids: Iterable[tuple[int, int]]
) -> dict[str, NDArray[Any]]:
    """Patch features of each depth, (h w, d) float32, as inputs of a search."""
    return {
        numbered(PATCH_FEATURES, depth): features.reshape(1, *grid, -1)
        for depth, (features, grid) in enumerate(zip(depths, grids, strict=True))
    }


def search(
    engine: Engine, pieces: Iterable[Piece], patch_mask: NDArray[np.bool_], preprocessor: Preprocessor
) -> tuple[NDArray[np.float32], float]:
    """Search an image.

    Args:
        engine: of a graph to `distance_grid` and `score`, for one image at a time.
        pieces: of the image.
        patch_mask: which patches of the whole image count, (h, w) bool.
        preprocessor: how its tiles lie.

    Returns:
        (distance grid of the whole image, (h, w) float32, NaN where the mask says so; anomaly score: of several tiles
        from that grid, for `reweighted` the largest of the tiles').
    """
    grids: dict[int, NDArray[np.float32]] = {}
    scores = []
    for piece in pieces:
        outputs = piece.run(engine)
        grids[piece.tile] = outputs["distance_grid"][0]
        scores.append(float(outputs["score"][0]))
    distance_grid = preprocessor.merge(grids, patch_mask)
    recipe = preprocessor.recipe
    if recipe.image_score == "reweighted" or preprocessor.single_crop:
        return distance_grid, max(scores)
    return distance_grid, image_score(distance_grid[patch_mask], recipe)
