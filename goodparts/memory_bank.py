"""The memory bank: the patch features of good images that are kept, and the space they are searched in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from goodparts import coreset
from goodparts.coreset import Progress
from goodparts.recipe import Recipe


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
        centred: NDArray[np.float32] = self.features - self.mean
        if self.basis is not None:
            centred = centred @ self.basis
        return centred

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


def choose(
    features: NDArray[np.float32],
    valid: NDArray[np.bool_],
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> MemoryBank:
    """The memory bank of a recipe.

    Args:
        features: of all patches of n good images, (n, patches, d) float32; may be memory-mapped.
        valid: which of them may be kept, (n, patches) bool.
        recipe: sampling, sampling_ratio, sampling_limit, projection_dimensions, search_dimensions, seed.
        progress: called with (picked, wanted).
    """
    flat = features.reshape(-1, features.shape[-1])
    rows = np.flatnonzero(valid)
    kept = _sample(flat, rows, _wanted(len(rows), recipe), recipe, progress)
    return _bank(np.ascontiguousarray(flat[kept]), (kept // features.shape[1]).astype(np.int32), recipe)


def extend(
    bank: MemoryBank,
    features: NDArray[np.float32],
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
        features: of all patches of the n new good images, (n, patches, d) float32.
        valid: which of them may be kept, (n, patches) bool.
        recipe: as of `choose`.
        first_image: index that the first new image gets among all good images.
        progress: called with (picked, wanted).
    """
    flat = features.reshape(-1, features.shape[-1])
    rows = np.flatnonzero(valid)
    count = max(1, round(recipe.sampling_ratio * len(rows)))
    kept = _sample(flat, rows, count, recipe, progress, given=bank.features)
    entries = np.concatenate([bank.features, flat[kept]])
    origins = np.concatenate(
        [bank.origins, (kept // features.shape[1]).astype(np.int32) + np.int32(first_image)]
    )
    if recipe.sampling_limit and len(entries) > recipe.sampling_limit:
        kept = _sample(entries, np.arange(len(entries)), recipe.sampling_limit, recipe)
        entries, origins = entries[kept], origins[kept]
    return _bank(entries, origins, recipe)


def _wanted(patches: int, recipe: Recipe) -> int:
    count = max(1, round(recipe.sampling_ratio * patches))
    return min(count, recipe.sampling_limit) if recipe.sampling_limit else count


def _sample(
    flat: NDArray[np.float32],
    rows: NDArray[np.int64],
    count: int,
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    given: NDArray[np.float32] | None = None,
) -> NDArray[np.int64]:
    """`count` of the rows, ascending, by the recipe's sampling; greedily from the entries `given`, if there are any."""
    rng = np.random.default_rng(recipe.seed)
    if count == len(rows):
        return rows
    if recipe.sampling == "random":
        return rows[coreset.random(len(rows), count, rng)]
    projection = coreset.Projection.draw(flat.shape[1], recipe)
    points = projection.of(flat, rows)
    if given is None:
        old, start = 0, rng.integers(len(rows), size=1)
    else:
        old, start = len(given), np.arange(len(given))
        points = np.concatenate([projection.of(given), points])
    points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
    picks = coreset.greedy(points, old + count, start=start, progress=progress)
    return np.sort(rows[picks[old:] - old])


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
    for first in range(0, m, 4096):
        centred = entries[first : first + 4096] - mean
        covariance += centred.T @ centred
    _, directions = np.linalg.eigh(covariance)
    return np.ascontiguousarray(directions[:, ::-1][:, :dimensions], dtype=np.float32)
