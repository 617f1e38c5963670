"""Where points lie on the patch grid, so that each is compared only with those that it sees.

The greedy choice (`coreset`) and the search for replacements compare many points with many others in products of
matrices. What they ask of positions is `Positions`: `ANYWHERE` where every point sees every other, which costs nothing,
and `GridPositions` where they see each other within a reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ELSEWHERE = 1e30
"""Added to a squared distance for each axis along which one point does not see the other."""

_REGION = 4  # cells a side
_REPEATED = 3  # entries at a cell that would see none

Which = slice | NDArray[np.int64]


class Positions(Protocol):
    """Where n points lie. They are in regions: those of one region see much the same others.

    With `here` of a point beside its features and `elsewhere` of another beside the other's, the product of both grows
    by nothing where one sees the other, and by `ELSEWHERE` or twice that where not. Nothing is lost to rounding.
    """

    @property
    def width(self) -> int:
        """Values a point in `here` and `elsewhere`."""

    def here(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """Where some points are, (r, width) float32."""

    def elsewhere(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """What some points do not see, (r, width) float32."""

    def hide(self, between: NDArray[np.float32], points: NDArray[np.int64]) -> None:
        """Add as much to the squared distances between some points, (r, r) float32, in place."""

    def by_region(self, points: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Some points, those of a region together, in the order they had."""

    def region_of(self, point: np.int64) -> int:
        """The region of a point."""

    def visible(self, region: int, cells: NDArray[np.int32]) -> Which:
        """Which of some cells (m,) are seen by any point of a region."""

    def visible_picks(
        self, region: int, picks: NDArray[np.int64], first: int, most: int
    ) -> Iterator[tuple[Which, int]]:
        """Those of some points, from the first on, that any point of a region sees, at most so many at a time.

        With how many of `picks` are then done.
        """


class Anywhere:
    """Positions where every point sees every other: there is one region, and nothing is added to any distance."""

    width = 0

    def here(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """Nothing, (r, 0)."""
        return np.empty((len(points), 0), dtype=np.float32)

    elsewhere = here

    def hide(self, between: NDArray[np.float32], points: NDArray[np.int64]) -> None:
        """Leave them as they are."""

    def by_region(self, points: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """All of them."""
        return [points]

    def region_of(self, point: np.int64) -> int:
        """The only one."""
        return 0

    def visible(self, region: int, cells: NDArray[np.int32]) -> Which:
        """All."""
        return slice(None)

    def visible_picks(
        self, region: int, picks: NDArray[np.int64], first: int, most: int
    ) -> Iterator[tuple[Which, int]]:
        """All, `most` after `most`."""
        for begin in range(first, len(picks), most):
            last = min(begin + most, len(picks))
            yield slice(begin, last), last


ANYWHERE = Anywhere()


@dataclass(frozen=True, eq=False)
class GridPositions:
    """Positions at cells of a grid, counted row by row.

    Attributes:
        grid: (h, w).
        reach: (rows, columns): cells that are at most so far apart, both ways, see each other.
        cells: of each point, (n,) int32.
    """

    grid: tuple[int, int]
    reach: tuple[int, int]
    cells: NDArray[np.int32]

    @property
    def width(self) -> int:
        """h + w."""
        return sum(self.grid)

    def here(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """1 in the row and in the column of each of some points, 0 elsewhere, (r, h + w) float32."""
        return self._marked(points, (0, 0)).astype(np.float32)

    def elsewhere(self, points: NDArray[np.int64]) -> NDArray[np.float32]:
        """0 in the rows and in the columns that each of some points sees, `ELSEWHERE` in others, (r, h + w) float32."""
        seen = self._marked(points, self.reach)
        return np.where(seen, np.float32(0), np.float32(ELSEWHERE))

    def hide(self, between: NDArray[np.float32], points: NDArray[np.int64]) -> None:
        """Add `ELSEWHERE`, or twice that, where one does not see the other."""
        between += self.here(points) @ self.elsewhere(points).T

    def by_region(self, points: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Some points, those of a region together, in the order they had."""
        order = np.argsort(self.regions[points], kind="stable")
        ordered = points[order]
        return np.split(ordered, np.flatnonzero(np.diff(self.regions[ordered])) + 1)

    def region_of(self, point: np.int64) -> int:
        """The region of a point."""
        return int(self.regions[point])

    def visible(self, region: int, cells: NDArray[np.int32]) -> NDArray[np.int64]:
        """Which of some cells (m,) are seen by any cell of a region, ascending."""
        rows, columns = self._seen_by_regions
        row, column = divmod(region, len(columns))
        down, across = np.divmod(cells, self.grid[1])
        return np.flatnonzero(rows[row, down] & columns[column, across])

    def visible_picks(
        self, region: int, picks: NDArray[np.int64], first: int, most: int
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Those that any cell of the region sees, `most` after `most`; nothing where it sees none."""
        seen = first + self.visible(region, self.cells[picks[first:]])
        for begin in range(0, len(seen), most):
            part = seen[begin : begin + most]
            yield part, len(picks) if begin + most >= len(seen) else int(part[-1]) + 1

    def cover(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A few of the points, drawn at random at cells that are spread so that every point sees one of them."""
        order = np.argsort(self.cells, kind="stable")
        there, first, count = np.unique(self.cells[order], return_index=True, return_counts=True)
        (h, w), (rows, columns) = self.grid, self.reach
        drawn = []
        without = there
        while len(without):
            row, column = divmod(int(without[0]), w)  # none of the rows above it is without
            beyond = min(row + rows, h - 1) * w + min(column + columns, w - 1)
            cell = there[there == beyond] if beyond in there else without[:1]
            index = int(np.searchsorted(there, cell[0]))
            drawn.append(order[first[index] + rng.integers(count[index])])
            without = without[~sees(self.grid, self.reach, without, cell)[:, 0]]
        return np.array(drawn, dtype=np.int64)

    def repeated(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Which points, at least one, have to be repeated at which cells so that every cell of the grid sees one.

        A cell that sees none gets some of the nearest place, and what it gets, cells that see it have, too.

        Returns:
            (points (r,) int64, cells (r,) int32): empty where none is missing.
        """
        h, w = self.grid
        everywhere = np.arange(h * w, dtype=np.int32)
        counts = np.bincount(self.cells, minlength=h * w)
        places = np.flatnonzero(counts)
        rows, columns = (
            seen_along(np.arange(along), 1, reach, along)
            for along, reach in zip((h, w), self.reach, strict=True)
        )
        without = (rows @ counts.reshape(h, w) @ columns.T).ravel() == 0
        points: list[NDArray[np.int64]] = []
        at: list[NDArray[np.int32]] = []
        while without.any():
            cell = int(without.argmax())
            away = np.hypot(places // w - cell // w, places % w - cell % w)
            nearest = np.flatnonzero(self.cells == places[away.argmin()])[:_REPEATED]
            points.append(nearest)
            at.append(np.full(len(nearest), cell, dtype=np.int32))
            without &= ~sees(self.grid, self.reach, everywhere, at[-1][:1])[:, 0]
        return (
            np.concatenate([*points, np.empty(0, dtype=np.int64)]),
            np.concatenate([*at, np.empty(0, dtype=np.int32)]),
        )

    @cached_property
    def regions(self) -> NDArray[np.int32]:
        """The region of the grid that each point is in, (n,) int32."""
        row, column = np.divmod(self.cells, self.grid[1])
        size, across = self._region_size, self._regions_across[1]
        return np.asarray(row // size[0] * across + column // size[1], dtype=np.int32)

    @property
    def region_count(self) -> int:
        """How many regions there are."""
        return self._regions_across[0] * self._regions_across[1]

    @cached_property
    def _seen_by_regions(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The rows of the grid that regions one below the other see, (down, h) bool, and its columns likewise."""
        rows, columns = (
            seen_along(np.arange(count) * size, size, reach, along).astype(bool)
            for count, size, reach, along in zip(
                self._regions_across, self._region_size, self.reach, self.grid, strict=True
            )
        )
        return rows, columns

    @property
    def _region_size(self) -> tuple[int, int]:
        return max(_REGION, self.reach[0]), max(_REGION, self.reach[1])

    @property
    def _regions_across(self) -> tuple[int, int]:
        (h, w), (rows, columns) = self.grid, self._region_size
        return -(-h // rows), -(-w // columns)

    def _marked(self, points: NDArray[np.int64], reach: tuple[int, int]) -> NDArray[np.bool_]:
        row, column = np.divmod(self.cells[points], self.grid[1])
        return np.concatenate(
            [
                np.abs(np.arange(size, dtype=np.int32) - at[:, None]) <= far
                for size, at, far in zip(self.grid, (row, column), reach, strict=True)
            ],
            axis=1,
        )


def sees(
    grid: tuple[int, int], reach: tuple[int, int], cells: NDArray[np.int32], others: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Whether each of the cells (a,) of a grid (h, w) is within reach of each of the others (b,), (a, b) bool."""
    return np.asarray(
        (np.abs(cells[:, None] // grid[1] - others // grid[1]) <= reach[0])
        & (np.abs(cells[:, None] % grid[1] - others % grid[1]) <= reach[1])
    )


def seen_along(starts: NDArray[np.int64], size: int, reach: int, cells: int) -> NDArray[np.int64]:
    """1 for the cells along an axis that are within reach of a block of that size, (blocks, cells) int64."""
    at = np.arange(cells)
    first, last = starts[:, None] - reach, starts[:, None] + size - 1 + reach
    return ((at >= first) & (at <= last)).astype(np.int64)
