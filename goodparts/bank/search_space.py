"""The search space of a memory bank: as few principal dimensions, and int8, as still find the nearest entries.

A search ranks all entries there; of those that are ranked best the exact distances decide. What is cheapest and still
finds the nearest entries of good patches is tried out on some of them while fitting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.window import Neighbourhood
from goodparts.recipe.recipe import Recipe

Result = TypeVar("Result")

_CANDIDATES = 8  # of which the nearest entry is one; one more for each neighbour more
_EXACT = 2  # the same, where ranks are distances but for rounding
_SPARE = 3  # so many fewer must still do for nearly all patches
_NEARLY = 0.003  # of the patches that these may miss
_SMALL = 1 << 14  # numbers of a bank's entries: of fewer, no search space saves anything
_BLOCK = 1 << 12  # entries that are worked on at once
_SOME = 250  # patches that are tried at once, or fewer,
_RANKS = 1 << 22  # so that there are about so many ranks on all cores


def candidates(bank: MemoryBank, recipe: Recipe, neighbourhood: Neighbourhood, *, exact: bool) -> int:
    """Bank entries per patch, ranked best, whose exact distances decide; in int8 more among many entries.

    Where products are `exact`, ranks of all dimensions in float32 are squared distances but for rounding, and an entry
    that takes another's place is as near: one is to spare.
    """
    if exact and not bank.int8 and bank.basis is None:
        return _EXACT + recipe.score_neighbours - 1
    return _CANDIDATES + recipe.score_neighbours - 1 + neighbourhood.more_candidates(bank)


def choose_search_space(bank: MemoryBank, test: RecallTest, recipe: Recipe) -> MemoryBank:
    """The bank in the cheapest search space that finds the nearest entries all the same, on the patches of a test.

    All dimensions in float32 where these are too few to tell, or the bank is so small that nothing would be saved.
    """
    if _NEARLY * len(test.patches) < 1 or bank.features.size < _SMALL:
        return bank
    dimensions = recipe.search_dimensions
    if principal_dimensions_save(bank.features, dimensions):
        directions = principal_dimensions(bank.features, bank.mean)
        while principal_dimensions_save(bank.features, dimensions):
            basis = np.ascontiguousarray(directions[:, _paired(dimensions)])
            smaller = replace(bank, basis=basis, int8=True)
            if test.passed_by(smaller):
                return smaller
            dimensions += -(-dimensions // 2)
    quantised = replace(bank, int8=True)
    return quantised if test.passed_by(quantised) else bank


def principal_dimensions_save(entries: NDArray[np.float32], dimensions: int) -> bool:
    """Whether searching entries (m, d) in so many principal dimensions would at least halve the work."""
    m, d = entries.shape
    return bool(0 < dimensions < m and 2 * dimensions <= d)


def _paired(dimensions: int) -> NDArray[np.int64]:
    """The order 0, last, 1, last but one, ...: of two neighbours at most one is large."""
    order = np.empty(dimensions, dtype=np.int64)
    order[::2] = np.arange(-(-dimensions // 2))
    order[1::2] = dimensions - 1 - np.arange(dimensions // 2)
    return order


def principal_dimensions(entries: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """The directions of entries (m, d) by falling variance, (d, d) float32, a column each."""
    m, d = entries.shape
    covariance = np.zeros((d, d), dtype=np.float64)
    for first in range(0, m, _BLOCK):
        centred = entries[first : first + _BLOCK] - mean
        covariance += centred.T @ centred
    _, directions = np.linalg.eigh(covariance)
    return np.ascontiguousarray(directions[:, ::-1], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class RecallTest:
    """Patches whose nearest entries a search space has to find.

    Attributes:
        patches: (s, d) float32.
        own: for each the index of the entry that it is itself and must not find, -1 if it is none, (s,) int64.
        recipe: score_neighbours.
        distances: mean distance to the nearest entries, by brute force, (s,) float32.
        cells: of the patch grid, of each, (s,) int32.
        neighbourhood: which entries they see.
    """

    patches: NDArray[np.float32]
    own: NDArray[np.int64]
    recipe: Recipe
    distances: NDArray[np.float32]
    cells: NDArray[np.int32]
    neighbourhood: Neighbourhood

    @classmethod
    def of(
        cls,
        bank: MemoryBank,
        patches: NDArray[np.float32],
        own: NDArray[np.int64],
        recipe: Recipe,
        cells: NDArray[np.int32],
        neighbourhood: Neighbourhood,
    ) -> Self:
        """The test of these patches on a bank, whatever its search space."""
        distances = np.empty(len(patches), dtype=np.float32)
        test = cls(patches, own, recipe, distances, cells, neighbourhood)
        everywhere = replace(bank, basis=None, int8=False)
        ranked = _ranked(everywhere)
        count = candidates(everywhere, recipe, neighbourhood, exact=True)

        def measure(part: slice) -> None:
            best = test._best(everywhere, ranked, part, count)
            distances[part] = test._mean_distance(bank, part, best)

        test._in_parts(measure, len(bank.features))
        return test

    def passed_by(self, bank: MemoryBank) -> bool:
        """Whether the bank's ranking finds the nearest entries of every patch, to a relative 1e-4 of their distance.

        And whether it leaves room: of other patches than these one or the other would be missed, if fewer candidates
        missed more than 0.3 % of these.
        """
        ranked = _ranked(bank)
        count = candidates(bank, self.recipe, self.neighbourhood, exact=False)

        failed = False

        def missed(part: slice) -> int:
            nonlocal failed
            if failed:
                return 0
            most = self.distances[part] * (1 + 1e-4)
            best = self._best(bank, ranked, part, count)
            all_of_them = self._mean_distance(bank, part, best)
            fewer = self._mean_distance(bank, part, best[:, : count - _SPARE])
            failed = failed or bool(np.any(all_of_them > most))
            return int(np.count_nonzero(fewer > most))

        nearly = sum(self._in_parts(missed, len(bank.features)))
        return not failed and nearly <= _NEARLY * len(self.patches)

    def _in_parts(self, function: Callable[[slice], Result], entries: int) -> list[Result]:
        """What it gives of some patches at a time, which are ranked against so many entries."""
        some = min(_SOME, max(1, _RANKS // (entries * parallel.cores())))
        parts = [slice(first, first + some) for first in range(0, len(self.patches), some)]
        with parallel.small_products():
            return parallel.on_all_cores(function, parts, long=True)

    def _best(
        self, bank: MemoryBank, ranked: NDArray[np.float32], part: slice, count: int
    ) -> NDArray[np.int64]:
        """The `count` entries that the search ranks best for some patches, (rows, count), the best first.

        As `goodparts.bank.ranking` ranks them; -1 in the place of those that a patch must not find.
        """
        queries = self.patches[part] - bank.mean
        if bank.basis is not None:
            queries = queries @ bank.basis
        if bank.int8:
            unit = bank.quantised.patch_scale
            queries = np.clip(np.rint(queries / unit), -127, 127) * unit
        ranking = np.asarray(bank.norms - 2 * (queries @ ranked.T), dtype=np.float32)
        lines = np.flatnonzero(self.own[part] >= 0)
        ranking[lines, self.own[part][lines]] = np.inf
        self.neighbourhood.hide(ranking, self.cells[part], bank.cells)
        count = min(count, ranking.shape[1])
        best = np.argpartition(ranking, count - 1, axis=1)[:, :count]
        ranks = np.take_along_axis(ranking, best, axis=1)
        order = ranks.argsort(axis=1)
        found = np.take_along_axis(np.where(np.isinf(ranks), -1, best), order, axis=1)
        return np.asarray(found, dtype=np.int64)

    def _mean_distance(self, bank: MemoryBank, part: slice, best: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of some patches to the nearest of the entries that `_best` gave of each, (rows,) float32."""
        difference = self.patches[part, None] - bank.features[best]
        squared = np.einsum("scd,scd->sc", difference, difference)
        squared[best < 0] = np.inf
        squared.sort(axis=1)
        nearest = squared[:, : self.recipe.score_neighbours]
        there = np.isfinite(nearest)
        total = np.sqrt(np.where(there, nearest, 0)).sum(axis=1)
        return np.asarray(total / np.maximum(there.sum(axis=1), 1), dtype=np.float32)


def _ranked(bank: MemoryBank) -> NDArray[np.float32]:
    """The entries as they are ranked, (m, q) float32."""
    return bank.quantised.entries * bank.quantised.entry_scale if bank.int8 else bank.in_search_space()
