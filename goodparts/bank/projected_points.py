"""Projected patch features, which the greedy choice works on, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.features.store import PatchFeatures

_BLOCK = 1 << 12  # rows that are worked on at once


@dataclass(frozen=True, eq=False)
class ProjectedPoints:
    """Projected features of some rows, behind those of given entries, centred: what the greedy choice works on.

    They are read when they are asked for: see `coreset.Points`.

    Attributes:
        features: of all patches of n good images.
        indices: which of their rows, (r,) int64.
        given: projected features of entries that come first, (g, q) float32.
        centre: the mean of all, (q,) float32.
    """

    features: PatchFeatures
    indices: NDArray[np.int64]
    given: NDArray[np.float32]
    centre: NDArray[np.float32]

    @classmethod
    def of(
        cls, features: PatchFeatures, indices: NDArray[np.int64], entries: NDArray[np.float32] | None = None
    ) -> ProjectedPoints:
        """Those of some rows of features, and of entries (g, d), if there are any."""
        if entries is None:
            entries = np.empty((0, features.shape[2]), dtype=np.float32)
        given = features.projection.of(entries)

        def total_of(first: int) -> NDArray[np.float64]:
            points = features.projected(indices[first : first + _BLOCK])
            return np.asarray(points.sum(axis=0, dtype=np.float64))

        total = given.sum(axis=0, dtype=np.float64)
        with parallel.small_products():
            totals = parallel.on_all_cores(total_of, range(0, len(indices), _BLOCK), long=True)
        for of_block in totals:
            total += of_block
        centre = (total / (len(given) + len(indices))).astype(np.float32)
        return cls(features, indices, given - centre, centre)

    def __len__(self) -> int:
        return len(self.given) + len(self.indices)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(self.given):
            points = self.features.projected(self.indices[rows])
            points -= self.centre
            return points
        points = np.empty((len(rows), self.given.shape[1]), dtype=np.float32)
        old = rows < len(self.given)
        points[old] = self.given[rows[old]]
        points[~old] = self.features.projected(self.indices[rows[~old] - len(self.given)]) - self.centre
        return points
