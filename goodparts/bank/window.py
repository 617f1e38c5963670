"""Position: for parts that always lie the same way, a patch is compared only with what was seen about the same place.

    neighbourhood = window_of(Recipe(position_window=24), grid=(40, 40))     # 3 cells of 8 pixels each way
    window_of(Recipe(), grid=(40, 40))                                       # EVERYWHERE

Cells are counted row by row through the grid, as patches are. A `Neighbourhood` says which cells see each other and
owns all that follows from it; `Everywhere`, where all do, skips the work. From a `Window` two things follow:

- The memory bank must hold an entry within the window of every cell. So the greedy choice measures a patch by the
  entries it sees (`GridPositions`), and where a choice leaves a cell without any, the nearest entries are repeated.
- The search need not look elsewhere. The grid is cut into blocks of cells, and a block is compared only with the
  entries that one of its cells sees (`window_blocks`): one product of matrices a block, all of a size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import window_blocks
from goodparts.bank.grid_positions import ANYWHERE, GridPositions, Positions, sees
from goodparts.bank.ranking import AllEntries, Ranking

if TYPE_CHECKING:
    from goodparts.bank.memory_bank import MemoryBank
    from goodparts.recipe.recipe import Recipe

_FEW = 13  # bits of the number of entries up to which a search in int8 needs no more candidates; two more a bit more


class Neighbourhood(Protocol):
    """Which cells of the patch grid see each other, and all that differs by it."""

    @property
    def some_unseen(self) -> bool:
        """Whether a cell may see fewer entries than it is to be compared with."""

    @property
    def scale_of_nearest(self) -> bool:
        """Whether all distances of a patch are divided by the local scale of its nearest entry, not each by its own.

        Within a window they are: where one entry stands for all that is seen at a place the next ones are of another
        kind, and divided by their own scale they would look far away.
        """

    def cells_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The cells of rows of patches, which come image by image, and in an image grid by grid, (r,) int32."""

    def positions(self, cells: NDArray[np.int32]) -> Positions:
        """Positions of points at these cells, (n,) int32."""

    def start(self, cells: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Those of points at some cells with which the greedy choice begins: every point sees one of them."""

    def hide(self, values: NDArray[np.float32], cells: NDArray[np.int32], others: NDArray[np.int32]) -> None:
        """Set values (a, b) to infinity, in place, where a cell (a,) does not see one of the others (b,)."""

    def repeated(self, cells: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Which entries at cells (m,) have to be repeated at which cells so that every cell of the grid sees one."""

    def needed_images(self, image_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Images of entries without which a cell might see none."""

    def scale_limit(self, recipe: Recipe) -> float:
        """How many times the median the largest local scale may be."""

    def more_candidates(self, bank: MemoryBank) -> int:
        """How many more entries a search takes as candidates than one among few entries."""

    def ranking(self, bank: MemoryBank) -> Ranking:
        """How a search ranks entries."""

    def check(self, bank: MemoryBank) -> None:
        """ValueError where a bank does not know the cells that this needs."""


@dataclass(frozen=True)
class Everywhere:
    """Every cell sees every other.

    Attributes:
        wide_window: whether since a window is as wide as the grid; local scales are then those of a window.
    """

    wide_window: bool = False

    some_unseen = False

    @property
    def scale_of_nearest(self) -> bool:
        """Each by its own."""
        return self.wide_window

    def cells_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """0 for all: there is one place."""
        return np.zeros(len(rows), dtype=np.int32)

    def positions(self, cells: NDArray[np.int32]) -> Positions:
        """Anywhere."""
        return ANYWHERE

    def start(self, cells: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Any of them, (1,)."""
        return rng.integers(len(cells), size=1)

    def hide(self, values: NDArray[np.float32], cells: NDArray[np.int32], others: NDArray[np.int32]) -> None:
        """Leave all as they are."""

    def repeated(self, cells: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """None."""
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)

    def needed_images(self, image_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """None."""
        return np.empty(0, dtype=np.int32)

    def scale_limit(self, recipe: Recipe) -> float:
        """As the recipe says."""
        return math.inf if self.wide_window or not recipe.density_limit else recipe.density_limit

    def more_candidates(self, bank: MemoryBank) -> int:
        """In int8 the more, the more entries a patch is compared with."""
        return 2 * max(0, (bank.most_compared - 1).bit_length() - _FEW) if bank.int8 else 0

    def ranking(self, bank: MemoryBank) -> AllEntries:
        """All in one list."""
        return AllEntries(bank.most_compared, bank.most_compared)

    def check(self, bank: MemoryBank) -> None:
        """Any bank will do."""


EVERYWHERE = Everywhere()


@dataclass(frozen=True)
class Window:
    """Cells see each other where they are about the same place.

    Attributes:
        grid: (h, w).
        reach: (rows, columns): cells that are at most so far apart, both ways, see each other.
    """

    grid: tuple[int, int]
    reach: tuple[int, int]

    some_unseen = True
    scale_of_nearest = True

    def sees(self, cells: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each of the cells (a,) sees each of the others (b,), (a, b) bool."""
        return sees(self.grid, self.reach, cells, others)

    def cells_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The cells of rows of patches, (r,) int32."""
        return (rows % (self.grid[0] * self.grid[1])).astype(np.int32)

    def positions(self, cells: NDArray[np.int32]) -> GridPositions:
        """Positions on the grid."""
        return GridPositions(self.grid, self.reach, cells)

    def start(self, cells: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        """A few of them, spread over the grid."""
        return self.positions(cells).cover(rng)

    def hide(self, values: NDArray[np.float32], cells: NDArray[np.int32], others: NDArray[np.int32]) -> None:
        """Set those out of the window to infinity."""
        values[~self.sees(cells, others)] = np.inf

    def repeated(self, cells: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Some of the nearest for each cell that would see none."""
        return self.positions(cells).repeated()

    def needed_images(self, image_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Each of them, ascending."""
        return np.unique(image_ids)

    def scale_limit(self, recipe: Recipe) -> float:
        """None: at the window's border one entry may stand for much, and its scale says so."""
        return math.inf

    def more_candidates(self, bank: MemoryBank) -> int:
        """None: a patch is compared with few entries."""
        return 0

    def ranking(self, bank: MemoryBank) -> window_blocks.Blocks:
        """Block by block."""
        return window_blocks.cut(self.positions(bank.cells))

    def check(self, bank: MemoryBank) -> None:
        """At the first cell alone no bank of a window has all its entries."""
        if not bank.cells.any():
            raise ValueError("bank.safetensors lacks the cells that position_window asks for")


def window_of(recipe: Recipe, grid: tuple[int, int] | None) -> Window | Everywhere:
    """The window of a recipe on a patch grid (h, w), or `Everywhere` where every cell sees every other.

    `position_window` is in pixels of the working image, between the centres of cells: what is left of a whole number
    of cells counts for nothing, and a window narrower than a cell is the cell itself.

    Raises:
        ValueError: there is a window, and the grid is not given.
    """
    if not recipe.position_window:
        return EVERYWHERE
    if grid is None:
        raise ValueError("grid: a position_window needs that of the patches, found none")
    rows, columns = (
        int(recipe.position_window * cells / size + 1e-6)
        for cells, size in zip(grid, recipe.image_size, strict=True)
    )
    if rows >= grid[0] - 1 and columns >= grid[1] - 1:
        return Everywhere(wide_window=True)
    return Window(grid, (rows, columns))
