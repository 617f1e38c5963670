"""Whitening: patch features in principal components of more equal spread, and no more of them than carry something.

Backbones spread good parts widely along a few directions (light, shading, texture) and narrowly along many in which
defects show. With the components of patch features of good images as axes, each is divided by the spread along it to
the power `whitening`: 0 leaves distances as they are, 1 makes them Mahalanobis distances (Rippel, Mertens and Merhof,
"Modeling the distribution of normal data in pre-trained deep features for anomaly detection", ICPR 2020). All the way
drowns the defect in noise of directions that hold nothing; a quarter is better on all that was measured
(docs/presets.md). Components of little spread are cut off where there are more than `feature_dimensions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from goodparts.parallel import small_products
from goodparts.recipe.recipe import Recipe

SAMPLE = 32
"""Good images, or tiles of them, from whose patches it is learnt: spread evenly over all images."""

_LEAST = (
    1e-3  # of the mean variance: what is added to each, so that directions that hold nothing are not blown up
)


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map of patch features.

    Attributes:
        mean: of the features, (d,) float32.
        matrix: from centred features to components, (d, q) float32, q <= d.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    @classmethod
    def learn(cls, features: Iterable[NDArray[np.float32]], recipe: Recipe) -> Self:
        """The map that suits these features, (patches, d) float32 an image, by `whitening` and `feature_dimensions`."""
        moments = Moments()
        for patches in features:
            moments.add(patches)
        return cls.of(moments, recipe)

    @classmethod
    def plain(cls, dimensions: int, recipe: Recipe) -> Self:
        """A map of the shape that one learnt would have, which keeps the first dimensions as they are."""
        kept = recipe.feature_dimensions or dimensions
        return cls(np.zeros(dimensions, np.float32), np.eye(dimensions, kept, dtype=np.float32))

    @classmethod
    @small_products()
    def of(cls, moments: Moments, recipe: Recipe) -> Self:
        """The map that suits features of these moments, by `whitening` and `feature_dimensions`."""
        middle = moments.total / moments.count
        variances, directions = np.linalg.eigh(moments.products / moments.count - np.outer(middle, middle))
        variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
        least = max(_LEAST * float(variances.mean()), 1e-30)
        scaled = directions * (variances + least) ** (-recipe.whitening / 2)
        kept = recipe.feature_dimensions or len(variances)
        return cls(
            mean=(moments.shift + middle).astype(np.float32),
            matrix=np.ascontiguousarray(scaled[:, :kept], dtype=np.float32),
        )


class Moments:
    """Sums over patch features, image by image: their number, what they add up to, and their products."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.products = np.zeros(0)
        self.shift = np.zeros(0, dtype=np.float32)

    @small_products()
    def add(self, patches: NDArray[np.float32]) -> None:
        """Count the patches (patches, d) float32 of one more image."""
        if not self.count:
            self.total, self.products = np.zeros(patches.shape[1]), np.zeros((patches.shape[1],) * 2)
            self.shift = patches.mean(axis=0)  # sums of squares far from zero would lose digits
        centred = patches - self.shift
        self.count += len(patches)
        self.total += centred.sum(axis=0, dtype=np.float64)
        self.products += centred.T @ centred


def sample(count: int) -> range:
    """From which of so many images, or of their tiles where these lie as they come, it is learnt."""
    return range(0, count, -(-count // SAMPLE))


def wanted(recipe: Recipe, dimensions: int) -> bool:
    """Whether a recipe whitens or cuts features of so many dimensions."""
    return bool(recipe.whitening) or 0 < recipe.feature_dimensions < dimensions
