"""Coresets of points that lie in parts: greedy in each part, then greedy among what the parts have chosen.

As many points are chosen of each part as of all in the end. The union is a composable coreset (Indyk et al., PODS
2014): the covering radius of two rounds is at most four times the least that so many centres can have (Malkomes et al.,
NeurIPS 2015, section 3), where that of one greedy choice is at most twice. With one part it is that one greedy choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import coreset

_ROWS = 4096  # points that are compared with all centres at once


def first_round(points: NDArray[np.float32], count: int, start: int = 0) -> NDArray[np.int64]:
    """The greedy choice of one part, (min(count, n),) int64, in the order of the picks.

    Args:
        points: (n, d) float32, n at least 1.
        count: how many are wanted of all parts together.
        start: index of the first pick.
    """
    centred = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    return coreset.greedy(centred, min(count, len(points)), start=start)


def second_round(candidates: Sequence[NDArray[np.float32]], count: int) -> NDArray[np.int64]:
    """Which of the parts' choices, one behind the other, are kept, (count,) int64, in the order of the picks.

    Args:
        candidates: what the first round chose of each part, (c, d) float32, in the order of its picks.
        count: how many to keep; no more than there are.
    """
    if len(candidates) == 1:
        return np.arange(count, dtype=np.int64)
    return first_round(np.concatenate(candidates), count)


def covering_radius(points: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    """How far the point lies that is farthest from its nearest centre.

    Args:
        points: (n, d) float32.
        centres: (m, d) float32, m at least 1.
    """
    mean = centres.mean(axis=0, dtype=np.float64).astype(np.float32)
    centres = centres - mean
    norms = np.einsum("md,md->m", centres, centres)
    farthest = 0.0
    for first in range(0, len(points), _ROWS):
        x = points[first : first + _ROWS] - mean
        nearest = (norms - 2 * (x @ centres.T)).argmin(axis=1)
        differences = x - centres[nearest]  # exact where the product above rounds
        farthest = max(farthest, float(np.einsum("nd,nd->n", differences, differences).max()))
    return math.sqrt(farthest)
