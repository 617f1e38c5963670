"""The nearest entry of a memory bank and the nearest of another image, for every patch of the good images.

`replacements` asks for both, and only of patches that have fewer than two images within the bank's covering radius are
they wanted exactly. Nearly all have more, and it takes few comparisons to see it: entries are compared in groups, those
that most patches lie near first, and a patch that is known to have two images within the radius drops out.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank.coreset import Points
from goodparts.bank.grid_positions import Positions

_ROWS = 4096  # points that are compared at once
_ENTRIES = 256  # with so many entries: 4 MiB of distances
_SAMPLE = 1024  # points of a region by which its entries are ordered,
_LEAST = 64  # or fewer where the bank is large,
_SAMPLED = 1 << 24  # so that there are about so many distances
_CERTAIN = 1 - 1e-4  # of a squared distance: less than what any rounding makes of it


def two_nearest_images(
    points: Points,
    entries: NDArray[np.float32],
    image_ids: NDArray[np.int32],
    positions: Positions,
    others: Positions,
    cells: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Squared distances of points to the nearest entry and to the nearest of another image, and whose the first is.

    Exact where the second is larger than the largest first, the bank's covering radius; elsewhere both are within it,
    and it is not worth while to look for nearer ones.

    Args:
        points: (n, q) float32.
        entries: of the bank, (e, q) float32.
        image_ids: of the entries, (e,) int32.
        positions: of the points.
        others: positions of the entries: one that a point does not see is farther than any that it sees.
        cells: of the entries, (e,) int32.

    Returns:
        (first, second), (n,) float32 each, and the image of the first, (n,) int32.
    """
    n = len(points)
    first = np.full(n, np.inf, dtype=np.float32)
    second = np.full(n, np.inf, dtype=np.float32)
    owner = np.full(n, -1, dtype=np.int32)
    blocks: list[NDArray[np.int64]] = []
    groups: dict[int, list[_Group]] = {}
    radius = np.float32(-1)  # at least so large
    indices = np.arange(len(entries))
    for rows in positions.by_region(np.arange(n)):
        region = positions.region_of(rows[0]) if n else 0
        seen = positions.visible(region, cells)
        every = _Group.of(entries[seen], image_ids[seen], others.elsewhere(indices[seen]))
        if not len(every):
            continue  # what sees no entry is infinitely far from all
        sample = rows[:: -(-len(rows) // max(_LEAST, min(_SAMPLE, _SAMPLED // len(every)))) or 1]
        distances = every.distances(*_rows_of(points, sample, positions))
        radius = max(radius, distances.min(axis=1).max(initial=-1) * np.float32(_CERTAIN))
        groups[region] = [every.only(some) for some in _popular_first(distances <= radius)]
        blocks += [rows[begin : begin + _ROWS] for begin in range(0, len(rows), _ROWS)]
    scratch = threading.local()  # new memory for every product would cost as much as the product

    def compare(rows: NDArray[np.int64]) -> None:
        nonlocal radius
        if not hasattr(scratch, "distances"):
            scratch.distances = np.empty(_ROWS * _ENTRIES, dtype=np.float32)
        x, norms = _rows_of(points, rows, positions)
        for group in groups[positions.region_of(rows[0])]:
            nearest, another, image = group.two_nearest(x, norms, scratch.distances)
            before, same = first[rows], owner[rows] == image
            nearer = nearest < before
            of_another = np.where(nearer, np.minimum(before, another), nearest)
            second[rows] = np.minimum(second[rows], np.where(same, another, of_another))
            first[rows] = np.minimum(before, nearest)
            owner[rows] = np.where(nearer, image, owner[rows])
            far = second[rows] > radius
            rows, x, norms = rows[far], x[far], norms[far]
            if not len(rows):
                break
        radius = max(radius, first[rows].max(initial=-1))  # others may go on with a smaller one for a while

    with parallel.small_products():
        parallel.on_all_cores(compare, blocks, long=True)
    return first, second, owner


@dataclass(frozen=True, eq=False)
class _Group:
    """Entries that points are compared with together.

    Attributes:
        image_ids: (e,) int32.
        columns: -2 c of each entry c, and below it what its position adds, (q + w, e) float32.
        norms: |c|^2, (e,) float32.
    """

    image_ids: NDArray[np.int32]
    columns: NDArray[np.float32]
    norms: NDArray[np.float32]

    @classmethod
    def of(
        cls, entries: NDArray[np.float32], image_ids: NDArray[np.int32], elsewhere: NDArray[np.float32]
    ) -> _Group:
        """Entries (e, q), and what their positions add (e, w)."""
        columns = np.concatenate([-2 * entries, elsewhere], axis=1).T
        return cls(image_ids, columns, np.einsum("md,md->m", entries, entries))

    def __len__(self) -> int:
        return len(self.image_ids)

    def only(self, which: NDArray[np.int64]) -> _Group:
        """Some of them."""
        return _Group(self.image_ids[which], np.ascontiguousarray(self.columns[:, which]), self.norms[which])

    def distances(self, x: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distances of some points (r, q + w), of these norms (r,), to all entries, (r, e)."""
        with parallel.small_products():
            distances: NDArray[np.float32] = x @ self.columns
        distances += self.norms
        distances += norms[:, None]
        return distances

    def two_nearest(
        self, x: NDArray[np.float32], norms: NDArray[np.float32], scratch: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Of some points, squared distances to the nearest entry and to that of another image; whose the first is."""
        lines = np.arange(len(x))
        distances = scratch[: len(x) * len(self)].reshape(len(x), -1)
        np.matmul(x, self.columns, out=distances)
        distances += self.norms
        which = distances.argmin(axis=1)
        nearest, image = distances[lines, which], self.image_ids[which]
        distances[lines, which] = np.inf
        then = distances.argmin(axis=1)
        another = distances[lines, then]
        same = np.flatnonzero(self.image_ids[then] == image)
        rest = distances[same]
        rest[self.image_ids == image[same, None]] = np.inf
        another[same] = rest.min(axis=1)
        return np.maximum(nearest + norms, 0), np.maximum(another + norms, 0), image


def _rows_of(
    points: Points, rows: NDArray[np.int64], positions: Positions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Some points with what their positions add behind them, (r, q + w) float32, and their squared norms (r,)."""
    x = points[rows]
    norms = np.einsum("nd,nd->n", x, x)
    return (np.concatenate([x, positions.here(rows)], axis=1) if positions.width else x), norms


def _popular_first(within: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Entries in groups, those within the radius of most points first, counting points that have not met two so far.

    `within`: which of some points (s,) lie within the radius of which entries, (s, e).
    """
    everyone = np.count_nonzero(within, axis=0)
    met = np.zeros(len(within), dtype=np.int64)
    left = np.arange(within.shape[1])
    groups = []
    while len(left):
        lonely = np.count_nonzero(within[met < 2], axis=0)
        order = np.lexsort((-everyone[left], -lonely[left]))
        some, left = np.sort(left[order[:_ENTRIES]]), left[order[_ENTRIES:]]
        met += np.count_nonzero(within[:, some], axis=1)
        groups.append(some)
    return groups
