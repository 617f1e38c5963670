"""The random projection that the greedy choice works in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from goodparts.recipe.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Projection:
    """Gaussian random projection, which keeps distances up to a few per cent (Johnson and Lindenstrauss 1984).

    Attributes:
        matrix: (d, dimensions) float32; None leaves features as they are.
    """

    matrix: NDArray[np.float32] | None

    @classmethod
    def draw(cls, d: int, recipe: Recipe) -> Self:
        """The projection of a recipe (sampling, projection_dimensions, seed) for features of d dimensions.

        None where it would not at least halve them: it saves little then, and costs some choices their quality; nor
        where a random choice looks at no features.
        """
        dimensions = recipe.projection_dimensions
        if recipe.sampling == "random" or not 0 < dimensions <= d // 2:
            return cls(None)
        rng = np.random.default_rng((recipe.seed, d, dimensions))
        return cls((rng.standard_normal((d, dimensions)) / np.sqrt(dimensions)).astype(np.float32))

    def of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project features (n, d): (n, dimensions) float32, not centred. A copy even where nothing is projected."""
        return features.copy() if self.matrix is None else features @ self.matrix
