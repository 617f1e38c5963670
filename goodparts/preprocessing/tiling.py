"""Tiles: images of many megapixels, looked at in overlapping pieces, one at a time.

    image ─► canvas: the whole image in working pixels ─► tiles of image_size ─► pipeline ─► one distance grid for each
                                                                                                   │
                          one distance grid of the canvas, as if the working size were so large ◄──┘ merge

Tiles begin where cells of the canvas begin, so cells of tiles that overlap coincide. There the distances are averaged,
with weights that fall to zero before a tile's edge, where the network sees less of the surroundings: such cells are
neither learnt nor scored. So no seam is left, and all that comes after it (maps, zones, thresholds, pictures) knows
nothing of tiles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import RecipeError
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text, tile_size

NEEDED = 6.0
"""Working pixels that a defect has to be across to be found dependably (`docs/tiles.md`): how far `auto` reduces."""

MAX_PARALLEL_IMAGES = 3
"""Images that are worked on at a time at the most: each takes memory for its pixels and its map."""

LARGEST = 16384
"""Working pixels of a canvas along one side."""

MOST_TILES = 20_000
"""Tiles of an image."""

_OVERLAP = 1 / 5  # of a tile, in auto
_UNUSED = 1 / 4  # of an overlap, at a tile's edge


@dataclass(frozen=True)
class Tiling:
    """How tiles lie on the canvas, in working pixels and in cells of the patch grid.

    Attributes:
        canvas: (height, width) to which the whole image is resized, whatever its size.
        tile: (height, width) of a tile: the recipe's image_size.
        grid: (h, w) of the canvas's cells.
        tile_grid: (h, w) of a tile's cells.
        rows: where tiles begin, from the top, in working pixels: multiples of a cell's height.
        columns: and from the left.
    """

    canvas: tuple[int, int]
    tile: tuple[int, int]
    grid: tuple[int, int]
    tile_grid: tuple[int, int]
    rows: tuple[int, ...] = (0,)
    columns: tuple[int, ...] = (0,)

    @classmethod
    def one(cls, working_size: tuple[int, int], grid: tuple[int, int]) -> Self:
        """An image that is taken whole: one tile of the working size, with (h, w) cells."""
        return cls(working_size, working_size, grid, grid)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def several(self) -> bool:
        """Whether there is more than one tile."""
        return len(self) > 1

    @property
    def cell(self) -> tuple[int, int]:
        """(height, width) of a cell in working pixels, rounded down where the image is taken whole."""
        return self.canvas[0] // self.grid[0], self.canvas[1] // self.grid[1]

    def image_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe for the canvas: as if the working image were so large, and not tiled."""
        if not self.several:
            return recipe
        off = {"tiling": "", "smallest_defect": 0, "tile_bank": "shared"}
        return recipe.replace({"image_size": self.canvas, **off})

    def pixels(self, canvas: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """A tile of a canvas (height, width, 3) uint8, counted row by row."""
        top, left = self._origin(index)
        return np.ascontiguousarray(canvas[top : top + self.tile[0], left : left + self.tile[1]])

    def crop_mask(self, patch_mask: NDArray[np.bool_], index: int) -> NDArray[np.bool_]:
        """A tile's share of the patch mask (h, w) of the canvas, without the patches that have no weight in it."""
        return patch_mask[self._window(index)] & (self.weight(index) > 0)

    def joined_mask(self, crop_masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The patch mask (h, w) of the canvas: what counts in any of its tiles, (tiles, h, w) bool."""
        found = np.zeros(self.grid, dtype=bool)
        for index, of_tile in enumerate(crop_masks):
            found[self._window(index)] |= of_tile
        return found

    def weight(self, index: int) -> NDArray[np.float32]:
        """Weights of a tile's cells, (h, w) float32."""
        row, column = divmod(index, len(self.columns))
        return np.multiply.outer(self.weights[0][row], self.weights[1][column])

    @cached_property
    def weights(self) -> tuple[tuple[NDArray[np.float32], ...], tuple[NDArray[np.float32], ...]]:
        """Weights of a tile's rows of cells, for each row of tiles, and of its columns likewise; their product counts.

        Across the middle of an overlap they rise from 0 to 1 as a squared sine, so that those of two neighbours sum to
        one; at the borders of the image they are 1.
        """
        return (
            _weights(self.rows, self.tile[0], self.tile_grid[0]),
            _weights(self.columns, self.tile[1], self.tile_grid[1]),
        )

    def searched(self, patch_mask: NDArray[np.bool_]) -> list[int]:
        """The tiles with a cell that is looked at, an only tile always; `patch_mask`: of the canvas, (h, w) bool."""
        if not self.several:
            return [0]
        return [index for index in range(len(self)) if self.crop_mask(patch_mask, index).any()]

    def merge(
        self, grids: Mapping[int, NDArray[np.float32]], patch_mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Distance grids of tiles as one of the canvas.

        Args:
            grids: (h, w) float32 of each tile with a cell that is looked at.
            patch_mask: which cells of the canvas are, (h, w) bool.

        Returns:
            (h, w) float32; NaN where it did not look.
        """
        if not self.several:
            return np.where(patch_mask, grids[0], np.float32(np.nan))
        total = np.zeros(self.grid, dtype=np.float32)
        weight = np.zeros(self.grid, dtype=np.float32)
        for index, distances in grids.items():
            share = self.weight(index)
            total[self._window(index)] += share * distances
            weight[self._window(index)] += share
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(patch_mask, total / weight, np.float32(np.nan))

    def in_words(self, image_size: tuple[int, int]) -> str:
        """How an image of (H, W) is tiled, all in its own pixels."""
        scale = [image_size[axis] / self.canvas[axis] for axis in (0, 1)]
        tile = (round(self.tile[0] * scale[0]), round(self.tile[1] * scale[1]))
        text = f"{size_text(image_size)} px in {len(self.columns)} x {len(self.rows)} tiles of {size_text(tile)} px"
        overlaps = [
            (self.tile[axis] - int(np.diff(begins).max())) * scale[axis]
            for axis, begins in enumerate((self.rows, self.columns))
            if len(begins) > 1
        ]
        if overlaps:
            text += f", {min(overlaps):.0f} px overlap or more"
        return f"{text}, {reduction_in_words(scale)}"

    def to_json(self) -> str:
        """As the model file keeps it."""
        return json.dumps(
            {
                "canvas": self.canvas,
                "tile": self.tile,
                "cell": self.cell,
                "rows": self.rows,
                "columns": self.columns,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote; LookupError, TypeError or ValueError if it is something else."""
        values: dict[str, Any] = json.loads(text)
        canvas, tile, cell = (
            (int(values[name][0]), int(values[name][1])) for name in ("canvas", "tile", "cell")
        )
        rows, columns = (tuple(map(int, values[name])) for name in ("rows", "columns"))
        grid, tile_grid = ((size[0] // cell[0], size[1] // cell[1]) for size in (canvas, tile))
        return cls(canvas, tile, grid, tile_grid, rows, columns)

    def _origin(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, len(self.columns))
        return self.rows[row], self.columns[column]

    def _window(self, index: int) -> tuple[slice, slice]:
        (top, left), (h, w) = self._origin(index), self.tile_grid
        row, column = top * self.grid[0] // self.canvas[0], left * self.grid[1] // self.canvas[1]
        return slice(row, row + h), slice(column, column + w)


def plan(
    image_size: tuple[int, int] | Callable[[], tuple[int, int]], recipe: Recipe, grid: tuple[int, int]
) -> Tiling:
    """The tiles of a recipe; one where it has no `tiling`.

    Args:
        image_size: (H, W) of the first good image, or what finds it where that is asked for; images of other sizes are
            resized to the same canvas.
        recipe: tiling, smallest_defect, image_size.
        grid: (h, w) of the patches of a tile.

    Raises:
        RecipeError: image_size is not so many whole cells, the overlap leaves nothing of a tile, or the canvas would be
            too large.
    """
    if not recipe.tiling:
        return Tiling.one(recipe.image_size, grid)
    tile = recipe.image_size
    if tile[0] % grid[0] or tile[1] % grid[1]:
        raise RecipeError(
            f"image_size: {size_text(tile)} is not a whole number of pixels for each of {size_text(grid)} patches, "
            "which tiling needs so that those of neighbouring tiles coincide; take a multiple of 32"
        )
    cell = (tile[0] // grid[0], tile[1] // grid[1])
    if recipe.tiling == "auto":
        reduction = max(1.0, recipe.smallest_defect / NEEDED)
        size = (tile[0] * reduction, tile[1] * reduction)
        overlap = max(recipe.smallest_defect, _OVERLAP * min(size))
    else:
        size, overlap = tile_size(recipe.tiling)
    original = image_size() if callable(image_size) else image_size
    canvas, begins = [], []
    for axis in (0, 1):
        length, starts = _along(original[axis], size[axis], overlap, tile[axis], cell[axis], recipe)
        if length > LARGEST:
            raise RecipeError(
                f"tiling: {recipe.tiling}: an image of {size_text(original)} pixels would be {length} working pixels "
                f"long, and {LARGEST} is the most; take larger tiles, which reduce it further, or cut the image"
            )
        canvas.append(length)
        begins.append(starts)
    if (count := len(begins[0]) * len(begins[1])) > MOST_TILES:
        raise RecipeError(
            f"tiling: {recipe.tiling}: an image of {size_text(original)} pixels would be {count:,} tiles, and "
            f"{MOST_TILES:,} is the most; take larger tiles, or a smaller overlap",
            key="tiling",
        )
    cells = (canvas[0] // cell[0], canvas[1] // cell[1])
    return Tiling((canvas[0], canvas[1]), tile, cells, grid, begins[0], begins[1])


def _along(
    image: int, size: float, overlap: float, tile: int, cell: int, recipe: Recipe
) -> tuple[int, tuple[int, ...]]:
    """Length of the canvas along one axis, and where tiles begin: evenly spread, so that all overlap about alike."""
    reduction = size / tile
    shared = math.ceil(overlap / reduction / cell - 1e-9) * cell
    if shared >= tile:
        raise RecipeError(
            f"tiling: {recipe.tiling}: an overlap of {overlap:g} pixels is a whole tile of {size:g}; take a smaller "
            "one, such as an eighth of a tile"
        )
    length = max(tile, round(image / reduction / cell) * cell)
    count = math.ceil((length - shared) / (tile - shared))
    between = (length - tile) / cell / max(1, count - 1)
    return length, tuple(round(index * between) * cell for index in range(count))


def _weights(begins: Sequence[int], tile: int, cells: int) -> tuple[NDArray[np.float32], ...]:
    found = []
    for index, begin in enumerate(begins):
        weights = np.ones(cells, dtype=np.float32)
        if index > 0:
            _fall(weights, (begins[index - 1] + tile - begin) * cells // tile)
        if index + 1 < len(begins):
            _fall(weights[::-1], (begin + tile - begins[index + 1]) * cells // tile)
        found.append(weights)
    return tuple(found)


def _fall(weights: NDArray[np.float32], shared: int) -> None:
    """Let the first weights fall towards the edge, which overlaps another tile by `shared` cells."""
    unused = int(_UNUSED * shared)
    at = (np.arange(shared) + 0.5 - unused) / max(1, shared - 2 * unused)
    weights[:shared] *= (np.sin(np.pi / 2 * np.clip(at, 0, 1)) ** 2).astype(np.float32)


def reduction_in_words(scale: Sequence[float]) -> str:
    """How much smaller images become, (down, across), in words."""

    def in_words(value: float) -> str:
        if abs(value - 1) < 0.02:
            return "not reduced"
        return f"reduced by {value:.3g}" if value > 1 else f"enlarged by {1 / value:.3g}"

    if abs(scale[0] / scale[1] - 1) < 0.02:
        return in_words(scale[1])
    across, down = in_words(scale[1]), in_words(scale[0])
    if min(scale) >= 1.02:
        down = down.removeprefix("reduced by ")  # which was said
    return f"{across} across and {down} down"
