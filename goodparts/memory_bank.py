"""The memory bank: the patch features of good images that are kept, and the space they are searched in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from goodparts import coreset, position
from goodparts.coreset import Progress
from goodparts.feature_store import PatchFeatures
from goodparts.position import Places, Window
from goodparts.recipe import Recipe

_CANDIDATES = 6  # of which the nearest entry is one; one more for each neighbour more
_SPARE = 3  # so many fewer must still do for nearly all patches

_BLOCK = 1 << 12  # rows that are worked on at once
_STEPS = 127  # of int8 either way, for entries in principal dimensions; in others half as many: processors without int8
_STEPS_IN_ALL = (
    63  # dot products add two neighbouring products in 16 bits, and there any two dimensions may be large
)
_SAMPLE = 2000  # patches that try a search space
_SAMPLE_BLOCK = 250  # of them at a time
_NEARLY = 0.003  # of them that half as many candidates may miss
_PATCH_RANGE = 1.25  # largest component of a patch that int8 holds, in those of the entries


@dataclass(frozen=True, eq=False)
class Quantised:
    """Memory bank entries in int8, to rank them: what is ranked best is measured exactly.

    Attributes:
        entries: centred, in the search space, (m, q) int8, in units of `entry_scale`.
        entry_scale: () float32.
        patch_scale: unit of what is compared with them, () float32.
    """

    entries: NDArray[np.int8]
    entry_scale: NDArray[np.float32]
    patch_scale: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What is searched for the nearest good patch.

    Attributes:
        features: (m, d) float32, in the order of the images they came from.
        origins: for each entry the index of its image among the good images, (m,) int32, ascending.
        mean: of the features, (d,) float32: distances of near neighbours are small beside the norms, so the search
            works on centred features.
        basis: the q principal dimensions in which the search ranks entries, (d, q) float32; None: all d.
        int8: whether it ranks them in int8 rather than in float32.
        spacing: mean distance of each entry to its nearest others, the unit of distances to it, (m,) float32; None:
            distances are taken as they are.
        cells: for each entry the cell of the patch grid that it belongs to, (m,) int32; None: it serves them all.
    """

    features: NDArray[np.float32]
    origins: NDArray[np.int32]
    mean: NDArray[np.float32]
    basis: NDArray[np.float32] | None
    int8: bool = False
    spacing: NDArray[np.float32] | None = None
    cells: NDArray[np.int32] | None = None

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

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """Squared norms of the centred entries in all d dimensions, (m,) float32."""
        norms = np.empty(len(self.features), dtype=np.float32)
        for first in range(0, len(norms), _BLOCK):
            part = slice(first, first + _BLOCK)
            centred = self.features[part] - self.mean
            norms[part] = np.einsum("md,md->m", centred, centred)
        return norms

    @cached_property
    def quantised(self) -> Quantised:
        """The entries in int8."""
        largest = max(float(np.abs(self.search_bank).max()), 1e-30)
        scale = np.float32(largest / (_STEPS_IN_ALL if self.basis is None else _STEPS))
        return Quantised(
            entries=np.rint(self.search_bank / scale).astype(np.int8),
            entry_scale=np.array(scale, dtype=np.float32),
            patch_scale=np.array(largest * _PATCH_RANGE / 127, dtype=np.float32),
        )

    def of_image(self, index: int) -> slice:
        """The entries that came from the good image of that index."""
        first, last = np.searchsorted(self.origins, (index, index + 1))
        return slice(int(first), int(last))

    def with_entries(
        self,
        features: NDArray[np.float32],
        origins: NDArray[np.int32],
        cells: NDArray[np.int32] | None,
        apart: NDArray[np.float32] | None,
    ) -> MemoryBank:
        """The same with more entries behind, in the same search space; `origins` are no longer ascending."""
        return replace(
            self,
            features=np.concatenate([self.features, features]),
            origins=np.concatenate([self.origins, origins]),
            spacing=None if self.spacing is None or apart is None else np.concatenate([self.spacing, apart]),
            cells=None if self.cells is None or cells is None else np.concatenate([self.cells, cells]),
        )


def candidates(recipe: Recipe) -> int:
    """Bank entries per patch, ranked best, whose exact distances decide."""
    return _CANDIDATES + recipe.score_neighbours - 1


def spacing(
    entries: NDArray[np.float32],
    neighbours: int,
    *,
    among: NDArray[np.float32] | None = None,
    hidden: Callable[[slice], NDArray[np.bool_]] | None = None,
    usual: float | None = None,
) -> NDArray[np.float32]:
    """How far entries lie from their nearest others, on average: what distances to them are measured in.

    A patch of a good part is about as far from its nearest entry as entries lie apart there: farther where good parts
    differ much. In units of this spacing the same threshold suits these places and others (local outlier factor,
    Breunig et al., SIGMOD 2000; the neighbours of the nearest neighbour stand for its own).

    Args:
        entries: (m, d) float32.
        neighbours: how many nearest others; all where there are fewer.
        among: what the others are, (n, d) float32; None: the entries themselves, none its own neighbour.
        hidden: which of the others some of the entries must not see, (entries of the slice, n) bool.
        usual: that of an entry that sees no other; None: the median of those that do.

    Returns:
        (m,) float32, positive, and nowhere less than usual: entries that crowd together, as in a random sample, would
        make distances of good patches near them long.
    """
    others = entries if among is None else among
    mean = others.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = others - mean
    norms = np.einsum("nd,nd->n", centred, centred)
    found = np.zeros(len(entries), dtype=np.float32)
    lone = np.zeros(len(entries), dtype=bool)
    for first in range(0, len(entries), _SAMPLE_BLOCK):
        part = slice(first, first + _SAMPLE_BLOCK)
        x = entries[part] - mean
        squared = norms - 2 * (x @ centred.T)
        squared += np.einsum("md,md->m", x, x)[:, None]
        if among is None:
            lines = np.arange(len(x))
            squared[lines, first + lines] = np.inf
        if hidden is not None:
            squared[hidden(part)] = np.inf
        count = min(neighbours, squared.shape[1])
        nearest = np.partition(squared, count - 1, axis=1)[:, :count]
        there = np.isfinite(nearest)
        distances = np.sqrt(np.maximum(np.where(there, nearest, 0), 0))
        found[part] = distances.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        lone[part] = ~there.any(axis=1)
    if usual is None:
        usual = 0.0 if lone.all() else float(np.median(found[~lone]))
    found[lone] = usual
    return np.maximum(found, np.float32(usual or 1))


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
    grid: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> MemoryBank:
    """The memory bank of a recipe.

    Args:
        features: of all patches of n good images.
        valid: which of them may be kept, (n, patches) bool.
        recipe: sampling, sampling_ratio, sampling_limit, position_window, search_dimensions, seed.
        grid: (h, w) of the patches, which only a position_window asks for.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(valid)
    window = _window(recipe, grid)
    count = _wanted(len(rows), recipe)
    rng = np.random.default_rng(recipe.seed)
    if count == len(rows):
        kept = rows
    elif recipe.sampling == "random":
        kept = rows[coreset.random(len(rows), count, rng)]
    else:
        places = None if window is None else Places(window, window.cells_of(rows))
        start = rng.integers(len(rows), size=1) if places is None else places.cover(rng)[:count]
        points = ProjectedPoints.of(features, rows)
        picks = coreset.greedy(points, count, start=start, places=places, progress=progress)
        kept = np.sort(rows[picks])
    entries = Entries.of(features, kept, window)
    return _bank(entries, recipe, *_trial(features, rows, kept, recipe.seed, window), window)


def extend(
    bank: MemoryBank,
    features: PatchFeatures,
    valid: NDArray[np.bool_],
    recipe: Recipe,
    *,
    first_image: int,
    grid: tuple[int, int] | None = None,
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
        grid: as of `choose`.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(valid)
    window = _window(recipe, grid)
    count = max(1, round(recipe.sampling_ratio * len(rows)))
    rng = np.random.default_rng(recipe.seed)
    old = len(bank.features)
    if count == len(rows):
        kept = rows
    elif recipe.sampling == "random":
        kept = rows[coreset.random(len(rows), count, rng)]
    else:
        points = ProjectedPoints.of(features, rows, bank.features)
        places = None
        if window is not None and bank.cells is not None:
            places = Places(window, np.concatenate([bank.cells, window.cells_of(rows)]))
        start = np.arange(old)
        picks = coreset.greedy(points, old + count, start=start, places=places, progress=progress)
        kept = np.sort(rows[picks[old:] - old])
    patches, _, cells = _trial(features, rows, kept, recipe.seed, window)
    nobody = np.full(len(patches), -1)  # an entry that is among them may find itself
    entries = Entries(bank.features, bank.origins, bank.cells)
    entries = entries.joined(Entries.of(features, kept, window, first_image))
    if recipe.sampling_limit and len(entries.features) > recipe.sampling_limit:
        entries = entries.only(_among(entries, recipe.sampling_limit, recipe, window))
    return _bank(entries, recipe, patches, nobody, cells, window)


@dataclass(frozen=True, eq=False)
class Entries:
    """Patch features that were chosen, and where they came from.

    Attributes:
        features: (m, d) float32.
        origins: their images, (m,) int32.
        cells: the cells of the patch grid that they belong to, (m,) int32; None without a window.
    """

    features: NDArray[np.float32]
    origins: NDArray[np.int32]
    cells: NDArray[np.int32] | None

    @classmethod
    def of(
        cls,
        features: PatchFeatures,
        rows: NDArray[np.int64],
        window: Window | None,
        first_image: int = 0,
    ) -> Self:
        """Those of some rows of patches; `first_image` is the index of the first of these images."""
        origins = (rows // features.shape[1]).astype(np.int32) + np.int32(first_image)
        return cls(features.rows(rows), origins, None if window is None else window.cells_of(rows))

    def only(self, which: NDArray[np.int64]) -> Entries:
        """Some of them, by index."""
        cells = None if self.cells is None else self.cells[which]
        return Entries(self.features[which], self.origins[which], cells)

    def joined(self, more: Entries) -> Entries:
        """These and more behind them."""
        both = self.cells is not None and more.cells is not None
        return Entries(
            np.concatenate([self.features, more.features]),
            np.concatenate([self.origins, more.origins]),
            np.concatenate([self.cells, more.cells]) if both else None,
        )


def _window(recipe: Recipe, grid: tuple[int, int] | None) -> Window | None:
    if not recipe.position_window:
        return None
    if grid is None:
        raise ValueError("grid: a position_window needs that of the patches, found none")
    return position.window_of(recipe, grid)


def _wanted(patches: int, recipe: Recipe) -> int:
    count = max(1, round(recipe.sampling_ratio * patches))
    return min(count, recipe.sampling_limit) if recipe.sampling_limit else count


def _among(entries: Entries, count: int, recipe: Recipe, window: Window | None) -> NDArray[np.int64]:
    """`count` of the entries, ascending, by the recipe's sampling."""
    rng = np.random.default_rng(recipe.seed)
    n, d = entries.features.shape
    if recipe.sampling == "random":
        return coreset.random(n, count, rng)
    points = coreset.Projection.draw(d, recipe).of(entries.features)
    points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
    places = None if window is None or entries.cells is None else Places(window, entries.cells)
    start = rng.integers(n, size=1) if places is None else places.cover(rng)[:count]
    return np.sort(coreset.greedy(points, count, start=start, places=places))


def _trial(
    features: PatchFeatures,
    rows: NDArray[np.int64],
    kept: NDArray[np.int64],
    seed: int,
    window: Window | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int32] | None]:
    """Patches to try a search space on, which entry each of them is, and its cell: those that were not kept, if any."""
    rest = np.setdiff1d(rows, kept, assume_unique=True)
    drawn = rest if len(rest) else kept
    count = min(_SAMPLE, len(drawn))
    chosen = np.sort(np.random.default_rng(seed).choice(len(drawn), count, replace=False, shuffle=False))
    own = np.full(count, -1) if len(rest) else chosen
    return features.rows(drawn[chosen]), own, None if window is None else window.cells_of(drawn[chosen])


def _bank(
    chosen: Entries,
    recipe: Recipe,
    patches: NDArray[np.float32],
    own: NDArray[np.int64],
    cells: NDArray[np.int32] | None,
    window: Window | None,
) -> MemoryBank:
    """The bank in the cheapest search space that finds the nearest entries all the same, on these patches (`Trial`).

    With a window, in which every cell of the grid then sees an entry.
    """
    apart = _spacing(chosen, recipe, window)
    if window is not None and chosen.cells is not None:
        which, at = position.repeated(window, chosen.cells)
        if len(which):
            chosen = chosen.joined(replace(chosen.only(which), cells=at))
            order = np.argsort(chosen.origins, kind="stable")
            own = np.where(own >= 0, np.argsort(order)[own], -1)
            chosen = chosen.only(order)
            apart = None if apart is None else np.concatenate([apart, apart[which]])[order]
    entries = chosen.features
    mean = entries.mean(axis=0, dtype=np.float64).astype(np.float32)
    whole = MemoryBank(
        features=entries,
        origins=chosen.origins,
        mean=mean,
        basis=None,
        spacing=apart,
        cells=chosen.cells,
    )
    sight = None if window is None or cells is None else (window, cells)
    trial = Trial.of(whole, patches, own, recipe, sight)
    dimensions = recipe.search_dimensions
    if principal_dimensions_save(entries, dimensions):
        directions = principal_dimensions(entries, mean)
        while principal_dimensions_save(entries, dimensions):
            bank = replace(whole, basis=np.ascontiguousarray(directions[:, _paired(dimensions)]), int8=True)
            if trial.passed_by(bank):
                return bank
            dimensions += -(-dimensions // 2)
    bank = replace(whole, int8=True)
    return bank if trial.passed_by(bank) else whole


def _spacing(entries: Entries, recipe: Recipe, window: Window | None) -> NDArray[np.float32] | None:
    """The spacing of a bank of these entries; with a window, of those that see each other."""
    if not recipe.density_neighbours:
        return None
    cells = entries.cells
    if window is None or cells is None:
        return spacing(entries.features, recipe.density_neighbours)
    return spacing(
        entries.features,
        recipe.density_neighbours,
        hidden=lambda part: ~window.sees(cells[part], cells),
    )


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
class Trial:
    """Patches on which a search space is tried.

    Attributes:
        patches: (s, d) float32.
        own: for each the index of the entry that it is itself and must not find, -1 if it is none, (s,) int64.
        neighbours: how many nearest entries are sought.
        candidates: how many are ranked best and measured exactly.
        distances: mean distance to the nearest entries, by brute force, (s,) float32.
        sight: the window and the cell of each, (s,) int32; None: every patch meets every entry.
    """

    patches: NDArray[np.float32]
    own: NDArray[np.int64]
    neighbours: int
    candidates: int
    distances: NDArray[np.float32]
    sight: tuple[Window, NDArray[np.int32]] | None = None

    @classmethod
    def of(
        cls,
        bank: MemoryBank,
        patches: NDArray[np.float32],
        own: NDArray[np.int64],
        recipe: Recipe,
        sight: tuple[Window, NDArray[np.int32]] | None = None,
    ) -> Self:
        """The trial of these patches on a bank, whatever its search space."""
        trial = cls(
            patches,
            own,
            min(recipe.score_neighbours, len(bank.features)),
            candidates(recipe),
            np.empty(len(patches), dtype=np.float32),
            sight,
        )
        everywhere = replace(bank, basis=None, int8=False)
        for part, ranking in _rankings(everywhere, patches, own, sight):
            trial.distances[part] = trial._mean_distance(bank, part, ranking, trial.candidates)
        return trial

    def passed_by(self, bank: MemoryBank) -> bool:
        """Whether the bank's ranking finds the nearest entries of every patch, to a relative 1e-4 of their distance.

        And whether it leaves room: of other patches than these one or the other would be missed, if fewer candidates
        missed more than 0.3 % of these.
        """
        nearly = 0
        for part, ranking in _rankings(bank, self.patches, self.own, self.sight):
            most = self.distances[part] * (1 + 1e-4)
            if np.any(self._mean_distance(bank, part, ranking, self.candidates) > most):
                return False
            fewer = self._mean_distance(bank, part, ranking, self.candidates - _SPARE)
            nearly += int(np.count_nonzero(fewer > most))
        return bool(nearly <= _NEARLY * len(self.patches))

    def _mean_distance(
        self, bank: MemoryBank, part: slice, ranking: NDArray[np.float32], count: int
    ) -> NDArray[np.float32]:
        """Of some patches to the nearest of the `count` entries that are ranked best, (rows,) float32."""
        count = min(count, ranking.shape[1])
        best = np.argpartition(ranking, count - 1, axis=1)[:, :count]
        difference = self.patches[part, None] - bank.features[best]
        squared = np.einsum("scd,scd->sc", difference, difference)
        squared[np.isinf(np.take_along_axis(ranking, best, axis=1))] = np.inf
        squared.sort(axis=1)
        nearest = squared[:, : self.neighbours]
        there = np.isfinite(nearest)
        total = np.sqrt(np.where(there, nearest, 0)).sum(axis=1)
        return np.asarray(total / np.maximum(there.sum(axis=1), 1), dtype=np.float32)


def _rankings(
    bank: MemoryBank,
    patches: NDArray[np.float32],
    own: NDArray[np.int64],
    sight: tuple[Window, NDArray[np.int32]] | None,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """What the search ranks entries by for each patch, as `goodparts.search` does: blocks of rows, (rows, m) float32.

    Infinity for those that a patch must not find.
    """
    ranked = bank.quantised.entries * bank.quantised.entry_scale if bank.int8 else bank.search_bank
    for first in range(0, len(patches), _SAMPLE_BLOCK):
        part = slice(first, first + _SAMPLE_BLOCK)
        sought = patches[part] - bank.mean
        if bank.basis is not None:
            sought = sought @ bank.basis
        if bank.int8:
            unit = bank.quantised.patch_scale
            sought = np.clip(np.rint(sought / unit), -127, 127) * unit
        ranking = bank.norms - 2 * (sought @ ranked.T)
        lines = np.flatnonzero(own[part] >= 0)
        ranking[lines, own[part][lines]] = np.inf
        if sight is not None and bank.cells is not None:
            window, cells = sight
            ranking[~window.sees(cells[part], bank.cells)] = np.inf
        yield part, ranking
