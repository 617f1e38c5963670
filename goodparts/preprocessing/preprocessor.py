"""How good images come to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts.data.images import ImageLike, name_of
from goodparts.preprocessing import pose
from goodparts.preprocessing import tiling as tiles
from goodparts.preprocessing.pose import Placed
from goodparts.preprocessing.roi import cells_looked_at
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.preprocessing.pose import Reference
    from goodparts.preprocessing.roi import Roi
    from goodparts.preprocessing.tiling import Tiling


Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

Read = Callable[[ImageLike], NDArray[np.uint8]]
"""From an image as users give it to pixels (H, W, 3) uint8."""


@dataclass(frozen=True, eq=False)
class Viewing:
    """How good images come to be looked at: what all steps of fitting share that read them.

    Attributes:
        recipe: the settings.
        read: from an image as users give it to pixels.
        workers: threads.
        tell: progress.
        roi: the region of interest; None: everything is looked at.
        reference: what images are aligned to; None: they are not.
        tiling: how images are tiled; None: they are not.
    """

    recipe: Recipe
    read: Read
    workers: int
    tell: Progress
    roi: Roi | None = None
    reference: Reference | None = None
    tiling: Tiling | None = None

    def place(self, image: ImageLike, grid: tuple[int, int]) -> tuple[Placed, NDArray[np.bool_]]:
        """An image in its place, and which of its cells are looked at, (h, w) bool.

        `grid` is that of a working image, or of a tile, (h, w).

        Raises:
            ImageError: it can't be read, or does not fit the region of interest.
        """
        recipe, grid = tiles.whole(self.tiling, self.recipe, grid)
        placed = pose.place(self.read(image), recipe, self.reference)
        return placed, cells_looked_at(self.roi, placed.frame, recipe, grid, name_of(image))

    @property
    def abreast(self) -> int:
        """Images that are worked on side by side."""
        return tiles.abreast(self.workers, self.recipe)
