"""Position: for parts that always lie the same way, a patch is compared only with what was seen about the same place.

    window = window_of(Recipe(position_window=24), grid=(40, 40))     # 3 cells of 8 pixels each way
    window.sees(cells, others)                                        # (a, b) bool

Cells are counted row by row through the grid, as patches are. Two things follow from a window:

- The memory bank must hold an entry within the window of every cell. So the greedy choice measures a patch by the
  entries it sees (`Places`), and where a choice leaves a cell without any, the nearest entries are repeated there
  (`repeated`).
- The search need not look elsewhere. The grid is cut into blocks of cells, and a block meets only the entries that one
  of its cells sees (`Blocks`): one product of matrices a block, all of a size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from goodparts.recipe.recipe import Recipe

ELSEWHERE = 1e30  # added to a squared distance for each axis along which an entry is out of the window
_REGION = 4  # cells a side
_REPEATED = 3  # entries at a cell that would see none


@dataclass(frozen=True)
class Window:
    """Which cells of a grid count as about the same place.

    Attributes:
        grid: (h, w).
        reach: (rows, columns): cells that are at most so far apart, both ways, see each other.
    """

    grid: tuple[int, int]
    reach: tuple[int, int]

    def sees(self, cells: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each of the cells (a,) sees each of the others (b,), (a, b) bool."""
        return np.asarray(
            (np.abs(cells[:, None] // self.grid[1] - others // self.grid[1]) <= self.reach[0])
            & (np.abs(cells[:, None] % self.grid[1] - others % self.grid[1]) <= self.reach[1])
        )

    def cells_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The cells of rows of patches, which come image by image, and in an image grid by grid, (r,) int32."""
        return (rows % (self.grid[0] * self.grid[1])).astype(np.int32)


def window_of(recipe: Recipe, grid: tuple[int, int]) -> Window | None:
    """The window of a recipe on a patch grid (h, w); None where every cell sees every other.

    `position_window` is in pixels of the working image, between the centres of cells: what is left of a whole number
    of cells counts for nothing, and a window narrower than a cell is the cell itself.
    """
    if not recipe.position_window:
        return None
    rows, columns = (
        int(recipe.position_window * cells / size + 1e-6)
        for cells, size in zip(grid, recipe.image_size, strict=True)
    )
    if rows >= grid[0] - 1 and columns >= grid[1] - 1:
        return None
    return Window(grid, (rows, columns))


# ---- the bank


@dataclass(frozen=True, eq=False)
class Places:
    """Where points lie, in such a form that one product of matrices keeps distances within the window.

    With `here` of a point beside its features and `elsewhere` of another beside the other's, their product grows by
    nothing where one sees the other, and by `ELSEWHERE` or twice that where not. Nothing is lost to rounding.

    Attributes:
        window: which cells see each other.
        cells: of each point, (n,) int32.
    """

    window: Window
    cells: NDArray[np.int32]

    @property
    def width(self) -> int:
        """Values a point: h + w of the grid."""
        return sum(self.window.grid)

    def here(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """1 in the row and in the column of each of some points, 0 elsewhere, (r, h + w) float32."""
        return self._marked(points, (0, 0)).astype(np.float32)

    def elsewhere(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """0 in the rows and in the columns that each of some points sees, `ELSEWHERE` in others, (r, h + w) float32."""
        seen = self._marked(points, self.window.reach)
        return np.where(seen, np.float32(0), np.float32(ELSEWHERE))

    def cover(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A few of the points, drawn at random at cells that are spread so that every point sees one of them."""
        order = np.argsort(self.cells, kind="stable")
        there, first, count = np.unique(self.cells[order], return_index=True, return_counts=True)
        (h, w), (rows, columns) = self.window.grid, self.window.reach
        drawn = []
        without = there
        while len(without):
            row, column = divmod(int(without[0]), w)  # none of the rows above it is without
            beyond = min(row + rows, h - 1) * w + min(column + columns, w - 1)
            cell = there[there == beyond] if beyond in there else without[:1]
            index = int(np.searchsorted(there, cell[0]))
            drawn.append(order[first[index] + rng.integers(count[index])])
            without = without[~self.window.sees(without, cell)[:, 0]]
        return np.array(drawn, dtype=np.int64)

    @cached_property
    def regions(self) -> NDArray[np.int32]:
        """The region of the grid that each point is in, (n,) int32: points of one region see much the same others."""
        row, column = np.divmod(self.cells, self.window.grid[1])
        size, across = self._region_size, self._regions_across[1]
        return np.asarray(row // size[0] * across + column // size[1], dtype=np.int32)

    @property
    def region_count(self) -> int:
        """How many regions there are."""
        return self._regions_across[0] * self._regions_across[1]

    def by_region(self, points: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Some points, those of a region together, in the order they had."""
        order = np.argsort(self.regions[points], kind="stable")
        ordered = points[order]
        return np.split(ordered, np.flatnonzero(np.diff(self.regions[ordered])) + 1)

    def in_sight(self, points: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether any cell of each region sees each of some points, (regions, p) bool."""
        return self._in_sight(self.cells[points])

    def in_sight_of(self, others: Places) -> NDArray[np.bool_]:
        """Whether any cell of each region of these sees each of those points, (regions, n) bool."""
        return self._in_sight(others.cells)

    def _in_sight(self, cells: NDArray[np.int32]) -> NDArray[np.bool_]:
        rows, columns = (
            _seen(np.arange(count) * size, size, reach, along)[:, at].astype(bool)
            for count, size, reach, along, at in zip(
                self._regions_across,
                self._region_size,
                self.window.reach,
                self.window.grid,
                np.divmod(cells, self.window.grid[1]),
                strict=True,
            )
        )
        return np.asarray((rows[:, None] & columns).reshape(-1, len(cells)))

    @property
    def _region_size(self) -> tuple[int, int]:
        return max(_REGION, self.window.reach[0]), max(_REGION, self.window.reach[1])

    @property
    def _regions_across(self) -> tuple[int, int]:
        (h, w), (rows, columns) = self.window.grid, self._region_size
        return -(-h // rows), -(-w // columns)

    def _marked(self, points: NDArray[np.int64], reach: tuple[int, int]) -> NDArray[np.bool_]:
        row, column = np.divmod(self.cells[points], self.window.grid[1])
        return np.concatenate(
            [
                np.abs(np.arange(size, dtype=np.int32) - at[:, None]) <= far
                for size, at, far in zip(self.window.grid, (row, column), reach, strict=True)
            ],
            axis=1,
        )


def repeated(window: Window, cells: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Which entries have to be repeated at which cells so that every cell of the grid sees one.

    A cell that sees none gets some of the nearest place, and what it gets, cells that see it have, too.

    Args:
        window: which cells see each other.
        cells: of the entries, (m,) int32, at least one.

    Returns:
        (entries (r,) int64, cells (r,) int32): empty where none is missing.
    """
    h, w = window.grid
    everywhere = np.arange(h * w, dtype=np.int32)
    counts = np.bincount(cells, minlength=h * w)
    places = np.flatnonzero(counts)
    rows, columns = (
        _seen(np.arange(along), 1, reach, along) for along, reach in zip((h, w), window.reach, strict=True)
    )
    without = (rows @ counts.reshape(h, w) @ columns.T).ravel() == 0
    entries: list[NDArray[np.int64]] = []
    at: list[NDArray[np.int32]] = []
    while without.any():
        cell = int(without.argmax())
        apart = np.hypot(places // w - cell // w, places % w - cell % w)
        nearest = np.flatnonzero(cells == places[apart.argmin()])[:_REPEATED]
        entries.append(nearest)
        at.append(np.full(len(nearest), cell, dtype=np.int32))
        without &= ~window.sees(everywhere, at[-1][:1])[:, 0]
    return (
        np.concatenate([*entries, np.empty(0, dtype=np.int64)]),
        np.concatenate([*at, np.empty(0, dtype=np.int32)]),
    )


def _seen(starts: NDArray[np.int64], size: int, reach: int, cells: int) -> NDArray[np.int64]:
    """1 for the cells along an axis that a block sees, (blocks, cells) int64."""
    at = np.arange(cells)
    first, last = starts[:, None] - reach, starts[:, None] + size - 1 + reach
    return ((at >= first) & (at <= last)).astype(np.int64)
