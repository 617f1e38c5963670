"""The memory bank: the patch features of good images that are kept, and the space they are searched in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from goodparts import coreset
from goodparts.coreset import Progress
from goodparts.feature_store import PatchFeatures
from goodparts.recipe import Recipe

_BLOCK = 1 << 12  # rows that are worked on at once


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What is searched for the nearest good patch.

    Attributes:
        features: (m, d) float32, in the order of the images they came from.
        origins: for each entry the index of its image among the good images, (m,) int32, ascending.
        mean: of the features, (d,) float32: distances of near neighbours are small beside the norms, so the search
            works on centred features.
        basis: the q principal dimensions in which the search looks for candidates, (d, q) float32; None: all d.
    """

    features: NDArray[np.float32]
    origins: NDArray[np.int32]
    mean: NDArray[np.float32]
    basis: NDArray[np.float32] | None

    @cached_property
    def search_bank(self) -> NDArray[np.float32]:
        """The entries in the search space, (m, q) float32."""
        if self.basis is None:
            return self.features - self.mean
        bank = np.empty((len(self.features), self.basis.shape[1]), dtype=np.float32)
        for first in range(0, len(bank), _BLOCK):  # rather than a centred copy of all
            part = slice(first, first + _BLOCK)
            bank[part] = (self.features[part] - self.mean) @ self.basis
        return bank

    def of_image(self, index: int) -> slice:
        """The entries that came from the good image of that index."""
        first, last = np.searchsorted(self.origins, (index, index + 1))
        return slice(int(first), int(last))

    def with_entries(self, features: NDArray[np.float32], origins: NDArray[np.int32]) -> MemoryBank:
        """The same with more entries behind, in the same search space; `origins` are no longer ascending."""
        return replace(
            self,
            features=np.concatenate([self.features, features]),
            origins=np.concatenate([self.origins, origins]),
        )


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
        total = given.sum(axis=0, dtype=np.float64)
        for first in range(0, len(indices), _BLOCK):
            points = features.projected(indices[first : first + _BLOCK])
            total += points.sum(axis=0, dtype=np.float64)
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


def choose(
    features: PatchFeatures,
    valid: NDArray[np.bool_],
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> MemoryBank:
    """The memory bank of a recipe.

    Args:
        features: of all patches of n good images.
        valid: which of them may be kept, (n, patches) bool.
        recipe: sampling, sampling_ratio, sampling_limit, search_dimensions, seed.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(valid)
    count = _wanted(len(rows), recipe)
    rng = np.random.default_rng(recipe.seed)
    if count == len(rows):
        kept = rows
    elif recipe.sampling == "random":
        kept = rows[coreset.random(len(rows), count, rng)]
    else:
        start = rng.integers(len(rows), size=1)
        points = ProjectedPoints.of(features, rows)
        kept = np.sort(rows[coreset.greedy(points, count, start=start, progress=progress)])
    return _bank(features.rows(kept), _images(kept, features), recipe)


def extend(
    bank: MemoryBank,
    features: PatchFeatures,
    valid: NDArray[np.bool_],
    recipe: Recipe,
    *,
    first_image: int,
    progress: Progress | None = None,
) -> MemoryBank:
    """The bank after more good images: the greedy choice goes on from the entries that are there.

    Of the new patches the same share is kept as of the old ones. Where that exceeds `sampling_limit`, the greedy
    choice is made anew among the old entries and the chosen new ones.

    Args:
        bank: as it was.
        features: of all patches of the n new good images.
        valid: which of them may be kept, (n, patches) bool.
        recipe: as of `choose`.
        first_image: index that the first new image gets among all good images.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(valid)
    count = max(1, round(recipe.sampling_ratio * len(rows)))
    rng = np.random.default_rng(recipe.seed)
    old = len(bank.features)
    if count == len(rows):
        kept = rows
    elif recipe.sampling == "random":
        kept = rows[coreset.random(len(rows), count, rng)]
    else:
        points = ProjectedPoints.of(features, rows, bank.features)
        picks = coreset.greedy(points, old + count, start=np.arange(old), progress=progress)
        kept = np.sort(rows[picks[old:] - old])
    entries = np.concatenate([bank.features, features.rows(kept)])
    origins = np.concatenate([bank.origins, _images(kept, features) + np.int32(first_image)])
    if recipe.sampling_limit and len(entries) > recipe.sampling_limit:
        kept = _among(entries, recipe.sampling_limit, recipe)
        entries, origins = entries[kept], origins[kept]
    return _bank(entries, origins, recipe)


def _wanted(patches: int, recipe: Recipe) -> int:
    count = max(1, round(recipe.sampling_ratio * patches))
    return min(count, recipe.sampling_limit) if recipe.sampling_limit else count


def _images(rows: NDArray[np.int64], features: PatchFeatures) -> NDArray[np.int32]:
    """The images that rows of patches come from, (r,) int32."""
    return (rows // features.shape[1]).astype(np.int32)


def _among(entries: NDArray[np.float32], count: int, recipe: Recipe) -> NDArray[np.int64]:
    """`count` of the entries, ascending, by the recipe's sampling."""
    rng = np.random.default_rng(recipe.seed)
    if recipe.sampling == "random":
        return coreset.random(len(entries), count, rng)
    points = coreset.Projection.draw(entries.shape[1], recipe).of(entries)
    points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.sort(coreset.greedy(points, count, start=rng.integers(len(entries), size=1)))


def _bank(entries: NDArray[np.float32], origins: NDArray[np.int32], recipe: Recipe) -> MemoryBank:
    mean = entries.mean(axis=0, dtype=np.float64).astype(np.float32)
    return MemoryBank(
        features=entries,
        origins=origins,
        mean=mean,
        basis=principal_dimensions(entries, mean, recipe.search_dimensions),
    )


def principal_dimensions(
    entries: NDArray[np.float32], mean: NDArray[np.float32], dimensions: int
) -> NDArray[np.float32] | None:
    """The `dimensions` directions of largest variance, (d, dimensions) float32; None where they'd save nothing."""
    m, d = entries.shape
    if dimensions == 0 or m <= dimensions or d < 2 * dimensions:
        return None
    covariance = np.zeros((d, d), dtype=np.float64)
    for first in range(0, m, _BLOCK):
        centred = entries[first : first + _BLOCK] - mean
        covariance += centred.T @ centred
    _, directions = np.linalg.eigh(covariance)
    return np.ascontiguousarray(directions[:, ::-1][:, :dimensions], dtype=np.float32)
