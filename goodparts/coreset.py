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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from goodparts.recipe import Recipe

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

_CANDIDATES = 2048  # points among which one batch is chosen
_BLOCK = 1 << 20  # distances computed at once: 4 MiB, which stays in cache until their minimum is taken


def greedy(
    points: NDArray[np.float32],
    count: int,
    *,
    start: int | NDArray[np.int64] = 0,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """The greedy k-center sequence.

    Ties go to the lowest index. Every pick is the farthest point within float32 rounding; on integer-valued points
    small enough to be exact in float32 the sequence is that of the one-at-a-time algorithm.

    Args:
        points: (n, d) float32. Centred points give the best accuracy.
        count: number of picks, those of `start` included, up to n.
        start: index of the first pick, or of several that are there already, all different.
        progress: called after each batch with (picks so far, count).

    Returns:
        Indices in the order they were picked, (count,) int64, all different.
    """
    n = len(points)
    batch = np.atleast_1d(np.asarray(start, dtype=np.int64))
    done = len(batch)
    if not done <= count <= n:
        raise ValueError(f"count: expected {done} to {n}, found {count}")
    points = np.ascontiguousarray(points, dtype=np.float32)
    norms = np.einsum("nd,nd->n", points, points)
    nearest = np.full(n, np.inf, dtype=np.float32)  # squared distance to the picks; -1 once picked
    picks = np.empty(count, dtype=np.int64)
    picks[:done] = batch
    while True:
        _meet(points, norms, batch, nearest)
        nearest[picks[:done]] = -1
        if progress is not None:
            progress(done, count)
        if done == count:
            return picks
        if nearest.max() <= 0:  # only copies of the picks are left
            batch = np.flatnonzero(nearest == 0)[: count - done]
        else:
            batch = _next_batch(points, norms, nearest, count - done)
        picks[done : done + len(batch)] = batch
        done += len(batch)


def random(n: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `n` indices, drawn without replacement, ascending, (count,) int64."""
    return np.sort(rng.choice(n, size=count, replace=False)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Projection:
    """Gaussian random projection, which keeps distances up to a few per cent (Johnson and Lindenstrauss 1984).

    Attributes:
        matrix: (d, dimensions) float32; None leaves features as they are.
    """

    matrix: NDArray[np.float32] | None

    @classmethod
    def draw(cls, d: int, recipe: Recipe) -> Self:
        """The projection of a recipe (projection_dimensions, seed) for features of d dimensions.

        None where it would not at least halve them: it saves little then, and costs some choices their quality.
        """
        dimensions = recipe.projection_dimensions
        if not 0 < dimensions <= d // 2:
            return cls(None)
        rng = np.random.default_rng((recipe.seed, d, dimensions))
        return cls((rng.standard_normal((d, dimensions)) / np.sqrt(dimensions)).astype(np.float32))

    def of(
        self, features: NDArray[np.float32], rows: NDArray[np.int64] | None = None, *, block: int = 4096
    ) -> NDArray[np.float32]:
        """Project features.

        Args:
            features: (n, d) float32, may be memory-mapped.
            rows: which of them, (r,); None: all.
            block: features in one matrix product.

        Returns:
            (r, dimensions) float32, not centred.
        """
        count = len(features) if rows is None else len(rows)
        width = features.shape[1] if self.matrix is None else self.matrix.shape[1]
        projected = np.empty((count, width), dtype=np.float32)
        for first in range(0, count, block):
            part = slice(first, first + block)
            chosen = features[part] if rows is None else features[rows[part]]
            projected[part] = chosen if self.matrix is None else chosen @ self.matrix
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
    if (
        nearest[candidates].max() <= outside
    ):  # more ties for the farthest than candidates: the lowest index of all wins
        return np.array([nearest.argmax()], dtype=np.int64)
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
    chosen: NDArray[np.int64] = candidates[np.array(batch)]
    return chosen
