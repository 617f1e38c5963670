"""Patch features as fitting keeps them, but exact to the last bit, for tests that compare numbers."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from goodparts.features.extract import GoodFeatures
from goodparts.features.projection import Projection
from goodparts.features.store import PatchFeatures
from goodparts.preprocessing.framing import frame_of
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.statistics import measure
from goodparts.preprocessing.tiling import Tiling
from goodparts.recipe.recipe import Recipe


class _Array:
    def __init__(self, features: NDArray[np.float32], recipe: Recipe, views: int) -> None:
        self.views = views
        self.shape = features.shape
        self.projection = Projection.draw(features.shape[2], recipe)
        self._features = features

    def image(self, image: int, view: int = 0) -> NDArray[np.float32]:
        return self._features[image].reshape(self.views, -1, self.shape[2])[view]

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._features.reshape(-1, self.shape[2])[rows]

    def projected(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.projection.of(self.rows(rows))


def exact(features: NDArray[np.float32], recipe: Recipe, views: int = 1) -> PatchFeatures:
    """Features (n, views x patches, d) of n images."""
    return cast(PatchFeatures, _Array(features, recipe, views))


def everything(features: PatchFeatures) -> NDArray[np.float32]:
    """All of them, (n, patches, d)."""
    return np.stack([features.image(image) for image in range(features.shape[0])])


def good_features_of(features: NDArray[np.float32], recipe: Recipe, grid: tuple[int, int]) -> GoodFeatures:
    """Features (n, h x w, d) as those of n good images of the recipe's size, all of which is looked at."""
    images, size = len(features), recipe.image_size
    return GoodFeatures(
        features=exact(features, recipe),
        patch_mask=np.ones(features.shape[:2], dtype=bool),
        frames=(frame_of(size, recipe),) * images,
        grid=grid,
        digests=tuple(map(str, range(images))),
        statistics=(measure(np.zeros((*size, 3), dtype=np.uint8)),) * images,
        measured={},
        left_out=np.zeros(images, dtype=bool),
        failures=("",) * images,
        preprocessor=Preprocessor(recipe, Tiling.one(size, grid)),
    )
