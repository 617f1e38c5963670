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
    from goodparts.graph_builder import GraphBuilder
    from goodparts.recipe import Recipe

ELSEWHERE = 1e30  # added to a squared distance for each axis along which an entry is out of the window
_REGION = 4  # cells a side
_ROWS = 16  # cells of a block below which a product of matrices gets no faster
_LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # of lists of entries, to choose from
_REPEATED = 3  # entries at a cell that would see none
_LIST, _MERGED = 32, 64  # what a row of a list, and a list more a cell, costs beside an entry's product


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


# ---- the search


@dataclass(frozen=True, eq=False)
class Blocks:
    """A grid cut into blocks of c cells, and b lists of e entries that the cells of a block meet.

    Where entries lie close a block has several lists, so that all are about as full.

    Attributes:
        cells: (b, c) int64: the cells that meet each list.
        entries: (b, e) int64: indices into the bank; 0 where a list is not full.
        hidden: (b, c, e) bool: entries that a cell does not see, or that are none.
        rows: (h w, p) int64: where among all rows of `cells` each cell of the grid is, once for each list it meets;
            -1 where it meets fewer than p.
    """

    cells: NDArray[np.int64]
    entries: NDArray[np.int64]
    hidden: NDArray[np.bool_]
    rows: NDArray[np.int64]

    def padded(self, width: int) -> Blocks:
        """The same with lists of so many entries."""
        more = (0, width - self.entries.shape[1])
        return Blocks(
            self.cells,
            np.pad(self.entries, ((0, 0), more)),
            np.pad(self.hidden, ((0, 0), (0, 0), more), constant_values=True),
            self.rows,
        )

    def ranking(
        self,
        build: GraphBuilder,
        query: str,
        entries: str,
        dimensions: int,
        norms: NDArray[np.float32],
        excluded: str | None,
    ) -> str:
        """What each cell ranks the entries of its block by: |m|^2 - 2 q.m, `ELSEWHERE` more for those it does not see.

        Args:
            build: the graph.
            query: q of the patches, (n h w, d).
            entries: twice the entries of each block, (b, d, e).
            dimensions: d.
            norms: |m|^2 of the entries of the bank, (m,) float32.
            excluded: what to add to them, (m,); None: nothing.

        Returns:
            (n b c, e): image by image, block by block, cell by cell.
        """
        (b, c), width = self.cells.shape, self.entries.shape[1]
        offsets = np.where(self.hidden, np.float32(ELSEWHERE), norms[self.entries][:, None])
        offset = build.learnt("search_offset", offsets.astype(np.float32))
        if excluded is not None:
            own = build.node("Gather", excluded, build.constant(self.entries))
            offset = build.node("Add", offset, build.node("Unsqueeze", own, build.ints([1])))
        cells = build.node("Reshape", query, build.ints([-1, len(self.rows), dimensions]))
        cells = build.node("Gather", cells, build.constant(self.cells.ravel()), axis=1)
        cells = build.node("Reshape", cells, build.ints([-1, b, c, dimensions]))
        ranking = build.node("Sub", offset, build.node("MatMul", cells, entries))
        return build.node("Reshape", ranking, build.ints([-1, width]))

    def found(self, build: GraphBuilder, values: str, places: str, count: int) -> tuple[str, str]:
        """The entries in the bank that are ranked best, (n h w, count) int64.

        And `ELSEWHERE` where a cell sees fewer, 0 elsewhere, (n h w, count) float32.

        Args:
            build: the graph.
            values: their ranking, sorted, (n b c, count).
            places: where they are in their list, (n b c, count).
            count: so many; in place of those that a cell does not see it has its best one again.
        """
        (b, c), width = self.cells.shape, self.entries.shape[1]
        lists = self.rows.shape[1]
        by_list = build.node("Reshape", places, build.ints([-1, b, c, count]))
        first = (np.arange(b, dtype=np.int64) * width).reshape(b, 1, 1)
        flat = build.node("Add", by_list, build.constant(first))
        found = build.node("Gather", build.constant(self.entries.ravel()), flat)
        found, values = (
            build.node(
                "Gather",
                build.node("Reshape", each, build.ints([-1, b * c, count])),
                build.constant(np.maximum(self.rows, 0)),
                axis=1,
            )  # (n, h w, p, count)
            for each in (found, values)
        )
        if (self.rows < 0).any():
            none = np.where(self.rows < 0, np.float32(ELSEWHERE), np.float32(0))[:, :, None]
            values = build.node("Add", values, build.constant(none))
        found, values = (
            build.node("Reshape", each, build.ints([-1, lists * count])) for each in (found, values)
        )
        if lists > 1:
            values, which = build.top_k(values, count, largest=False)
            found = build.node("GatherElements", found, which, axis=1)
        seen = build.node("Less", values, build.floats([ELSEWHERE / 2]))
        best = build.node("Slice", found, build.ints([0]), build.ints([1]), build.ints([1]))
        absent = build.node("Where", seen, build.floats([0]), build.floats([ELSEWHERE]))
        return build.node("Where", seen, found, best), absent


def cut(window: Window, cells: NDArray[np.int32]) -> Blocks:
    """The blocks that make the search of entries at these cells (m,) cheapest.

    Small blocks meet few entries, but their products of matrices are too small to be fast, and entries come in the
    lists of several blocks; with short lists there are more of them to choose the best from.
    """
    h, w = window.grid
    (height, width), longest = _cheapest(window, np.bincount(cells, minlength=h * w).reshape(h, w))
    rows, columns = _starts(h, height), _starts(w, width)
    corners = (rows[:, None] * w + columns).ravel()
    within = (np.arange(height)[:, None] * w + np.arange(width)).ravel()
    met = (
        _seen(rows, height, window.reach[0], h)[:, None, cells // w]
        * _seen(columns, width, window.reach[1], w)[None, :, cells % w]
    ).reshape(len(corners), -1)
    parts, blocks = [], []
    for block, sees in enumerate(met):
        one = np.flatnonzero(sees)
        some = np.array_split(one, max(1, -(-len(one) // longest)))
        parts += some
        blocks += [block] * len(some)
    of_list = corners[blocks][:, None] + within
    entries = np.zeros((len(parts), max(map(len, parts))), dtype=np.int64)
    hidden = np.ones((*of_list.shape, entries.shape[1]), dtype=bool)
    for index, one in enumerate(parts):
        entries[index, : len(one)] = one
        hidden[index, :, : len(one)] = ~window.sees(of_list[index].astype(np.int32), cells[one])
    return Blocks(of_list, entries, hidden, _rows_of(of_list, np.array(blocks), h * w))


def _cheapest(window: Window, counts: NDArray[np.int64]) -> tuple[tuple[int, int], int]:
    """(height, width) of blocks and length of lists, for so many entries at each cell, (h, w)."""
    h, w = window.grid
    best, least = ((h, w), 1), float("inf")
    for height in _sizes(h):
        for width in _sizes(w):
            of_rows = _seen(_starts(h, height), height, window.reach[0], h)
            seen = of_rows @ counts @ _seen(_starts(w, width), width, window.reach[1], w).T
            most = max(1, int(seen.max()))
            for length in sorted({min(length, most) for length in (*_LENGTHS, most)}):
                lists = np.maximum(1, -(-seen // length))
                cost = lists.sum() * max(height * width, _ROWS) * (length + _LIST)
                cost += h * w * _MERGED * (lists.max() - 1)
                if cost < least:
                    best, least = ((height, width), length), cost
    return best


def _rows_of(of_list: NDArray[np.int64], blocks: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """Where among the rows of lists (b, c) each cell is, (cells, p) int64, in the lists of the first block that has it.

    `blocks` are those of the lists, (b,).
    """
    first = np.full(cells, len(of_list))
    np.minimum.at(first, of_list, blocks[:, None])
    kept = np.flatnonzero(first[of_list] == blocks[:, None])
    kept = kept[np.argsort(of_list.ravel()[kept], kind="stable")]
    cell = of_list.ravel()[kept]
    nth = np.arange(len(kept)) - np.searchsorted(cell, cell)
    rows = np.full((cells, nth.max() + 1), -1, dtype=np.int64)
    rows[cell, nth] = kept
    return rows


def _sizes(cells: int) -> list[int]:
    """Sizes of blocks along an axis of so many cells: those that cut it into equal parts as well as can be."""
    return sorted({-(-cells // parts) for parts in range(1, cells + 1)})


def _starts(cells: int, size: int) -> NDArray[np.int64]:
    """Where blocks of a size begin along an axis; the last one ends where the axis does."""
    return np.minimum(np.arange(0, cells, size, dtype=np.int64), cells - size)


def _seen(starts: NDArray[np.int64], size: int, reach: int, cells: int) -> NDArray[np.int64]:
    """1 for the cells along an axis that a block sees, (blocks, cells) int64."""
    at = np.arange(cells)
    first, last = starts[:, None] - reach, starts[:, None] + size - 1 + reach
    return ((at >= first) & (at <= last)).astype(np.int64)
