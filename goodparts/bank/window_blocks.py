"""Blocks: the grid cut up so that each part of it meets only the entries that its window sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.window import ELSEWHERE, _seen

if TYPE_CHECKING:
    from goodparts.bank.window import Window
    from goodparts.engines.graph import GraphBuilder


_ROWS = 16  # cells of a block below which a product of matrices gets no faster
_LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # of lists of entries, to choose from
_LIST, _MERGED = 32, 64  # what a row of a list, and a list more a cell, costs beside an entry's product


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
