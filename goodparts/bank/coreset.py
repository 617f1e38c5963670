"""Coresets: which patch features of the good images are kept.

`greedy` is the k-center choice of Gonzalez (1985) that PatchCore uses (Roth et al. 2022, section 3.2): again and
again the point farthest from all that were chosen. As usually written it reads all n points once a pick and is
bound by memory. Here two things make it fast, and the sequence is the same, since distances to the picks only fall:

- Picks come in batches. Among the points that are now farthest the greedy choice is run alone for as long as its
  winner is farther than every point outside; nobody outside can have been the winner.
- Points are looked at only when it may matter (lazy greedy, after Minoux 1978). A distance to some of the picks is an
  upper bound on that to all of them, so only the points whose bounds are largest are compared with more picks,
  many at a time in one matrix product, and only until their bound falls below those of the others. Points near an
  early pick are never looked at again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank.grid_positions import ANYWHERE, Positions
from goodparts.engines.runtime import current

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

_CANDIDATES = 1024  # points among which one batch is chosen
_ROWS = 1024  # points that are compared with picks in one matrix product,
_PICKS = 512  # and the picks: 2 MiB of distances, which stay in cache until their minimum is taken


class Points(Protocol):
    """Points (n, d) that may be too many for memory; an array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Those of some indices, (r, d) float32. Called from several threads."""


def greedy(
    points: Points,
    count: int,
    *,
    start: int | NDArray[np.int64] = 0,
    positions: Positions = ANYWHERE,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """The greedy k-center sequence.

    Ties go to the lowest index. Every pick is the farthest point within float32 rounding; on integer-valued points
    small enough to be exact in float32 the sequence is that of the one-at-a-time algorithm.

    Args:
        points: (n, d) float32, an array or what reads them. Centred points give the best accuracy.
        count: number of picks, those of `start` included, up to n.
        start: index of the first pick, or of several that are there already, all different.
        positions: where the points lie: a point is as far as the nearest pick that it sees, and farther than all others
            while it sees none.
        progress: called after each batch with (picks so far, count).

    Returns:
        Indices in the order they were picked, (count,) int64, all different.
    """
    n = len(points)
    batch = np.atleast_1d(np.asarray(start, dtype=np.int64))
    if not len(batch) <= count <= n:
        raise ValueError(f"count: expected {len(batch)} to {n}, found {count}")
    runtime = current()
    if runtime.device.startswith("cuda") and positions is ANYWHERE:
        from goodparts.engines import torch_coreset

        if torch_coreset.fits(runtime, n, points[batch[:1]].shape[1]):
            return torch_coreset.greedy(
                points.__getitem__, n, count, batch, device=runtime.device, progress=progress
            )
    cover = _Cover(points, count, positions)
    awake = n  # how many points to look at
    with parallel.small_products():  # OpenBLAS's own threads go on spinning between the batches
        while True:
            cover.add(batch)
            if progress is not None:
                progress(cover.done, count)
            if cover.done == count:
                return cover.picks
            batch, awake = cover.next_batch(awake)


def random(n: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `n` indices, drawn without replacement, ascending, (count,) int64."""
    return np.sort(rng.choice(n, size=count, replace=False)).astype(np.int64)


class _Cover:
    """The picks so far, and what is known of every point's distance to them.

    Attributes:
        picks: (count,) int64, of which the first `done` are made.
        centres: of each pick c (-2 c, |c|^2), (count, d + 1) float32: with (x, 1) its product is |x - c|^2 - |x|^2.
            Behind it is what its position adds, and so it is behind x.
        bound: squared distance of each point to the first `compared` picks, (n,) float32; -1 once picked.
    """

    def __init__(self, points: Points, count: int, positions: Positions) -> None:
        n, d = len(points), points[np.zeros(1, dtype=np.int64)].shape[1]
        self.points, self.positions = points, positions
        self.d = d
        self.done = 0
        self.picks = np.empty(count, dtype=np.int64)
        self.centres = np.empty((count, d + 1 + positions.width), dtype=np.float32)
        self.bound = np.full(n, np.inf, dtype=np.float32)
        self.compared = np.zeros(n, dtype=np.int32)

    def add(self, batch: NDArray[np.int64]) -> None:
        """Make these the next picks."""
        part = slice(self.done, self.done + len(batch))
        chosen = self.points[batch]
        self.picks[part] = batch
        self.centres[part, : self.d] = -2 * chosen
        self.centres[part, self.d] = np.einsum("nd,nd->n", chosen, chosen)
        self.centres[part, self.d + 1 :] = self.positions.elsewhere(batch)
        self.bound[batch] = -1
        self.done += len(batch)

    def next_batch(self, awake: int) -> tuple[NDArray[np.int64], int]:
        """The next picks, as many as are certain; at least one.

        Args:
            awake: of how many points the bounds are brought up to date.

        Returns:
            (indices of the picks, `awake` for the next time).
        """
        most = len(self.picks) - self.done
        if self.bound.max() <= 0:  # only copies of the picks are left
            return np.flatnonzero(self.bound == 0)[:most], awake
        while True:
            level = _level(self.bound, awake)
            rows = np.flatnonzero(self.bound > level)
            self._compare(rows, level)
            rows = rows[
                self.bound[rows] > level
            ]  # farther than all others, whatever those were not compared with yet
            if len(rows):
                break
            awake *= 4
        if len(rows) < _CANDIDATES // 2:
            awake *= 2
        elif len(rows) > 2 * _CANDIDATES:
            awake = max(2 * _CANDIDATES, min(awake, len(self.bound)) // 2)
        bound = self.bound[rows]
        level = max(level, _level(bound, _CANDIDATES))
        if bound.max() <= level:  # more ties for the farthest than candidates: the lowest index wins
            return rows[[bound.argmax()]], awake
        return self._choose_among(rows[bound > level], level, most), awake

    def _compare(self, rows: NDArray[np.int64], level: np.float32) -> None:
        """Compare these points with the picks they were not compared with, until their bounds fall to `level`."""
        rows = rows[np.argsort(self.compared[rows], kind="stable")]
        groups = self.positions.by_region(rows)
        size = min(4 * _ROWS, _ROWS * _PICKS // min(self.done, _PICKS))  # fewer calls for few picks
        blocks = [group[first : first + size] for group in groups for first in range(0, len(group), size)]

        scratch = threading.local()  # new memory for every product would cost as much as the product

        def compare(block: NDArray[np.int64]) -> None:
            if not hasattr(scratch, "distances"):
                scratch.distances = np.empty(_ROWS * _PICKS, dtype=np.float32)
            x = np.ones((len(block), self.centres.shape[1]), dtype=np.float32)
            x[:, : self.d] = self.points[block]
            norms = np.einsum("nd,nd->n", x[:, : self.d], x[:, : self.d])
            x[:, self.d + 1 :] = self.positions.here(block)
            region, first = self.positions.region_of(block[0]), int(self.compared[block[0]])
            picks = self.picks[: self.done]
            for which, last in self.positions.visible_picks(region, picks, first, _PICKS):
                centres = self.centres[which]
                distances = scratch.distances[: len(x) * len(centres)].reshape(len(x), -1)
                np.matmul(x, centres.T, out=distances)
                nearest = distances[np.arange(len(x)), distances.argmin(axis=1)]  # faster than min
                nearest += norms
                np.maximum(nearest, 0, out=nearest)
                np.minimum(nearest, self.bound[block], out=nearest)
                self.bound[block] = nearest
                self.compared[block] = np.maximum(self.compared[block], last)
                far = nearest > level
                block, x, norms = block[far], x[far], norms[far]
                if not len(block):
                    break

        parallel.on_all_cores(compare, blocks, long=True)

    def _choose_among(self, candidates: NDArray[np.int64], level: np.float32, most: int) -> NDArray[np.int64]:
        """The greedy choice among these points, ascending and up to date, while the winner is farther than `level`."""
        x = self.points[candidates]
        norms = np.einsum("nd,nd->n", x, x)
        # Squared distances less the norms, which only the winners' rows are given.
        products = np.empty((len(x), len(x)), dtype=np.float32)
        turned = -2 * x.T
        quarter = -(-len(x) // 4)

        def multiply(first: int) -> None:
            part = slice(first, first + quarter)
            np.matmul(x[part], turned, out=products[part])

        parallel.on_all_cores(multiply, range(0, len(x), quarter), long=True)
        self.positions.hide(products, candidates)
        remaining = self.bound[candidates]
        batch: list[int] = []
        while len(batch) < most:
            winner = int(remaining.argmax())
            if remaining[winner] <= level:
                break
            batch.append(winner)
            distances = products[winner]
            distances += norms
            distances += norms[winner]
            np.maximum(distances, 0, out=distances)
            np.minimum(remaining, distances, out=remaining)
            remaining[winner] = -1
        return candidates[batch]


def _level(values: NDArray[np.float32], most: int) -> np.float32:
    """The lowest value that at most `most` values exceed; -1, below all that count, where there are no more."""
    if len(values) <= most:
        return np.float32(-1)
    level: np.float32 = np.partition(values, -most - 1)[-most - 1]
    return level
