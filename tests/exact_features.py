"""Patch features as `features.store` keeps them, but exact to the last bit, for tests that compare numbers."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from goodparts.features.projection import Projection
from goodparts.features.store import PatchFeatures
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
