"""Coresets: which patch features of the good images are kept.

`greedy` is the k-center choice of Gonzalez (1985) that PatchCore uses (Roth et al. 2022, section 3.2): again and
again the point farthest from all that were chosen. As usually written it reads all n points once a pick and is
bound by memory. Here the picks come in batches: among the points that are now farthest, the greedy choice is run
alone for as long as its winner is still farther than every point outside; distances only ever fall, so nobody
outside can have been the winner, and the sequence is the greedy one. All points then meet the whole batch in one
matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

_CANDIDATES = 2048  # points among which one batch is chosen
_BLOCK = 1 << 20  # distances computed at once: 4 MiB, which stays in cache until their minimum is taken


def greedy(
    points: NDArray[np.float32], count: int, *, start: int = 0, progress: Progress | None = None
) -> NDArray[np.int64]:
    """The greedy k-center sequence.

    Ties go to the lowest index. Every pick is the farthest point within float32 rounding; on integer-valued points
    small enough to be exact in float32 the sequence is that of the one-at-a-time algorithm.

    Args:
        points: (n, d) float32. Centred points give the best accuracy.
        count: number of picks, 1 to n.
        start: index of the first pick.
        progress: called after each batch with (picks so far, count).

    Returns:
        Indices in the order they were picked, (count,) int64, all different.
    """
    n = len(points)
    if not 1 <= count <= n:
        raise ValueError(f"count: expected 1 to {n}, found {count}")
    points = np.ascontiguousarray(points, dtype=np.float32)
    norms = np.einsum("nd,nd->n", points, points)
    nearest = np.full(n, np.inf, dtype=np.float32)  # squared distance to the picks; -1 once picked
    picks = np.empty(count, dtype=np.int64)
    picks[0] = start
    done = 1
    batch = picks[:1]
    while True:
        _meet(points, norms, batch, nearest)
        nearest[picks[:done]] = -1
        if progress is not None:
            progress(done, count)
        if done == count:
            return picks
        batch = _next_batch(points, norms, nearest, count - done)
        picks[done : done + len(batch)] = batch
        done += len(batch)


def random(n: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `n` indices, drawn without replacement, ascending, (count,) int64."""
    return np.sort(rng.choice(n, size=count, replace=False)).astype(np.int64)


def project(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    dimensions: int,
    rng: np.random.Generator,
    *,
    block: int = 4096,
) -> NDArray[np.float32]:
    """Gaussian random projection, which keeps distances up to a few per cent (Johnson and Lindenstrauss 1984).

    Args:
        features: (n, d) float32, may be memory-mapped.
        rows: which of them, (r,).
        dimensions: number of dimensions wanted; 0 or at least d leaves the features as they are.
        rng: draws the (d, dimensions) matrix.
        block: features in one matrix product.

    Returns:
        (r, dimensions) float32, centred.
    """
    d = features.shape[1]
    matrix = None
    if 0 < dimensions < d:
        matrix = (rng.standard_normal((d, dimensions)) / np.sqrt(dimensions)).astype(np.float32)
    projected = np.empty((len(rows), dimensions if matrix is not None else d), dtype=np.float32)
    for first in range(0, len(rows), block):
        part = features[rows[first : first + block]]
        projected[first : first + block] = part if matrix is None else part @ matrix
    projected -= projected.mean(axis=0, dtype=np.float64).astype(np.float32)
    return projected


def _meet(
    points: NDArray[np.float32],
    norms: NDArray[np.float32],
    batch: NDArray[np.int64],
    nearest: NDArray[np.float32],
) -> None:
    """Lower `nearest` to the squared distances to the new picks."""
    centres = np.concatenate(
        [-2 * points[batch], norms[batch, None]], axis=1
    ).T  # |c|^2 - 2 x.c in one product
    centres = np.ascontiguousarray(centres)
    rows = max(1, _BLOCK // len(batch))
    ones = np.ones((min(rows, len(points)), 1), dtype=np.float32)
    for first in range(0, len(points), rows):
        block = points[first : first + rows]
        distances = np.concatenate([block, ones[: len(block)]], axis=1) @ centres
        lowest = distances.min(axis=1) + norms[first : first + rows]
        np.maximum(lowest, 0, out=lowest)
        np.minimum(nearest[first : first + rows], lowest, out=nearest[first : first + rows])


def _next_batch(
    points: NDArray[np.float32], norms: NDArray[np.float32], nearest: NDArray[np.float32], most: int
) -> NDArray[np.int64]:
    """The next picks, as many as are certain without looking at the other points; at least one."""
    n = len(points)
    if n > _CANDIDATES:
        order = np.argpartition(nearest, n - _CANDIDATES - 1)
        outside = nearest[order[n - _CANDIDATES - 1]]  # the largest distance outside
        candidates = np.sort(order[n - _CANDIDATES :])
    else:
        outside = np.float32(-1)
        candidates = np.arange(n)
    inner, inner_norms = points[candidates], norms[candidates]
    between = inner @ (-2 * inner.T) + inner_norms[:, None] + inner_norms
    np.maximum(between, 0, out=between)
    remaining = nearest[candidates].copy()
    batch: list[int] = []
    while len(batch) < most:
        winner = int(remaining.argmax())
        if remaining[winner] <= outside or remaining[winner] < 0:
            break
        batch.append(winner)
        np.minimum(remaining, between[winner], out=remaining)
        remaining[winner] = -1
    if not batch:  # more ties for the farthest than candidates: the lowest index of all wins
        return np.array([nearest.argmax()], dtype=np.int64)
    chosen: NDArray[np.int64] = candidates[np.array(batch)]
    return chosen
