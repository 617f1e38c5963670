"""Blocks: the grid cut up so that each part of it is compared only with the entries that its window sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.grid_positions import ELSEWHERE, GridPositions, seen_along, sees
from goodparts.bank.ranking import Compared, ranked, twice

if TYPE_CHECKING:
    from goodparts.engines.graph import GraphBuilder


_ROWS = 16  # cells of a block below which a product of matrices gets no faster
_LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # of lists of entries, to choose from
_LIST, _MERGED = 32, 64  # what a row of a list, and a list more a cell, costs beside an entry's product


@dataclass(frozen=True, eq=False)
class Blocks:
    """A grid cut into blocks of c cells, and b lists of e entries that the cells of a block are compared with.

    Where entries lie close a block has several lists, so that all are about as full.

    Attributes:
        cells: (b, c) int64: the cells that are compared with each list.
        entries: (b, e) int64: indices into the bank; 0 where a list is not full.
        hidden: (b, c, e) bool: entries that a cell does not see, or that are none.
        rows: (h w, p) int64: where among all rows of `cells` each cell of the grid is, once for each of its lists;
            -1 where it has fewer than p.
    """

    cells: NDArray[np.int64]
    entries: NDArray[np.int64]
    hidden: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def width(self) -> int:
        """Entries in a list."""
        return int(self.entries.shape[1])

    def padded(self, width: int) -> Blocks:
        """The same with lists of so many entries."""
        more = (0, width - self.width)
        return Blocks(
            self.cells,
            np.pad(self.entries, ((0, 0), more)),
            np.pad(self.hidden, ((0, 0), (0, 0), more), constant_values=True),
            self.rows,
        )

    def ranks(self, build: GraphBuilder, query: str, compared: Compared, excluded: str | None) -> str:
        """Image by image, block by block, cell by cell, (n b c, e); `ELSEWHERE` more for those a cell does not see."""
        bank = compared.bank
        (b, c), stored = self.cells.shape, ranked(bank)
        entries = build.learnt("search_bank", stored[self.entries].transpose(0, 2, 1))  # (b, q, e)
        entries = twice(build, bank, entries)
        offsets = np.where(self.hidden, np.float32(ELSEWHERE), bank.norms[self.entries][:, None])
        offset = build.learnt("search_offset", offsets.astype(np.float32))
        if excluded is not None:
            own = build.node("Gather", excluded, build.constant(self.entries))
            offset = build.node("Add", offset, build.node("Unsqueeze", own, build.ints([1])))
        dimensions = stored.shape[1]
        cells = build.node("Reshape", query, build.ints([-1, len(self.rows), dimensions]))
        cells = build.node("Gather", cells, build.constant(self.cells.ravel()), axis=1)
        cells = build.node("Reshape", cells, build.ints([-1, b, c, dimensions]))
        ranks = build.node("Sub", offset, build.node("MatMul", cells, entries))
        return build.node("Reshape", ranks, build.ints([-1, self.width]))

    def found(self, build: GraphBuilder, values: str, at: str, count: int) -> tuple[str, str]:
        """In place of those that a cell does not see it has its best one again, and `ELSEWHERE` is to be added."""
        b, c = self.cells.shape
        lists = self.rows.shape[1]
        by_list = build.node("Reshape", at, build.ints([-1, b, c, count]))
        first = (np.arange(b, dtype=np.int64) * self.width).reshape(b, 1, 1)
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


def cut(positions: GridPositions) -> Blocks:
    """The blocks that make the search of entries at these positions cheapest.

    Small blocks are compared with few entries, but their products of matrices are too small to be fast, and
    entries come in the lists of several blocks; with short lists there are more of them to choose the best from.
    """
    cells, (h, w), reach = positions.cells, positions.grid, positions.reach
    counts = np.bincount(cells, minlength=h * w).reshape(h, w)
    (height, width), longest = _cheapest(positions.grid, reach, counts)
    rows, columns = _starts(h, height), _starts(w, width)
    corners = (rows[:, None] * w + columns).ravel()
    within = (np.arange(height)[:, None] * w + np.arange(width)).ravel()
    visible = (
        seen_along(rows, height, reach[0], h)[:, None, cells // w]
        * seen_along(columns, width, reach[1], w)[None, :, cells % w]
    ).reshape(len(corners), -1)
    parts, blocks = [], []
    for block, seen in enumerate(visible):
        one = np.flatnonzero(seen)
        some = np.array_split(one, max(1, -(-len(one) // longest)))
        parts += some
        blocks += [block] * len(some)
    of_list = corners[blocks][:, None] + within
    entries = np.zeros((len(parts), max(map(len, parts))), dtype=np.int64)
    hidden = np.ones((*of_list.shape, entries.shape[1]), dtype=bool)
    for index, one in enumerate(parts):
        entries[index, : len(one)] = one
        hidden[index, :, : len(one)] = ~sees(
            positions.grid, reach, of_list[index].astype(np.int32), cells[one]
        )
    return Blocks(of_list, entries, hidden, _rows_of(of_list, np.array(blocks), h * w))


def _cheapest(
    grid: tuple[int, int], reach: tuple[int, int], counts: NDArray[np.int64]
) -> tuple[tuple[int, int], int]:
    """(height, width) of blocks and length of lists, for so many entries at each cell, (h, w)."""
    h, w = grid
    best, least = ((h, w), 1), float("inf")
    for height in _sizes(h):
        for width in _sizes(w):
            of_rows = seen_along(_starts(h, height), height, reach[0], h)
            seen = of_rows @ counts @ seen_along(_starts(w, width), width, reach[1], w).T
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
