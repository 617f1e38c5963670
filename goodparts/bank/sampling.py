"""Sampling: which patch features of good images the memory bank keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import memory_bank, search_space
from goodparts.bank.coreset import Progress
from goodparts.bank.entries import Candidates, Entries
from goodparts.bank.memory_bank import MemoryBank, local_scale_of
from goodparts.bank.projected_points import ProjectedPoints
from goodparts.bank.sampling_rules import RULES
from goodparts.bank.search_space import RecallTest
from goodparts.bank.window import EVERYWHERE, Neighbourhood, window_of
from goodparts.features.projection import Projection
from goodparts.features.store import PatchFeatures
from goodparts.recipe.recipe import Recipe

_LEAST = 16  # patches that a tile's own bank keeps, if there are so many: a region of interest may leave it few cells
_TRIED = 2000  # patches that try a search space
_OFFERED = (
    2  # times as many as are wanted of all, of each of several partitions: with once, a bank covers less well
)


def choose(
    features: PatchFeatures,
    eligible: NDArray[np.bool_],
    recipe: Recipe,
    *,
    grid: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> MemoryBank:
    """The memory bank of a recipe.

    Args:
        features: of all patches of n good images.
        eligible: which of them may be kept, (n, patches) bool.
        recipe: sampling, sampling_ratio, sampling_limit, tile_bank, search_dimensions, seed; that of `window_of`.
        grid: (h, w) of the patches, which only a window asks for.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(eligible)
    if recipe.tile_bank == "position":
        return _choose_by_tile(features, rows, recipe, progress)
    count = entries_of(len(rows), recipe)
    proposed = propose(features, eligible, count, recipe, grid=grid, progress=progress)
    return choose_among([proposed], count, recipe, grid=grid)


def propose(
    features: PatchFeatures,
    eligible: NDArray[np.bool_],
    count: int,
    recipe: Recipe,
    *,
    grid: tuple[int, int] | None = None,
    first_image: int = 0,
    partitions: int = 1,
    progress: Progress | None = None,
) -> Candidates:
    """What some of the good images give for a bank of `count` entries: as many; of several partitions twice as many.

    Args:
        features: of all patches of these n images.
        eligible: as of `choose`.
        count: entries that the bank will have.
        recipe: as of `choose`, without `tile_bank = position`.
        grid: as of `choose`.
        first_image: index of the first of these images among all.
        partitions: into how many all images are cut; each gives its share of the patches that try a search space.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(eligible)
    neighbourhood = window_of(recipe, grid)
    offered = min(count if partitions == 1 else _OFFERED * count, len(rows))
    kept = _keep(features, rows, offered, recipe, neighbourhood, progress)
    tried = -(-_TRIED // partitions)
    patches, own = _test_patches(features, rows, kept, recipe.seed, neighbourhood, tried)
    return Candidates(Entries.of(features, kept, neighbourhood, first_image), patches, own)


def choose_among(
    proposed: Sequence[Candidates], count: int, recipe: Recipe, *, grid: tuple[int, int] | None = None
) -> MemoryBank:
    """The memory bank of what partitions of the good images give, in the order of their images.

    Of one partition that is the bank that `choose` makes; of several a second choice is made among what they chose, as
    `bank.composable` says.
    """
    neighbourhood = window_of(recipe, grid)
    entries, patches, own = Candidates.joined(proposed)
    if count < len(entries.features):
        which = _among(entries, count, recipe, neighbourhood)
        own = np.where(np.isin(own, which), np.searchsorted(which, own), -1)
        entries = entries.only(which)
    return _searchable(entries, recipe, patches, own, neighbourhood)


def extend(
    bank: MemoryBank,
    features: PatchFeatures,
    eligible: NDArray[np.bool_],
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
        eligible: which of them may be kept, (n, patches) bool.
        recipe: as of `choose`.
        first_image: index that the first new image gets among all good images.
        grid: as of `choose`.
        progress: called with (picked, wanted).
    """
    rows = np.flatnonzero(eligible)
    if bank.tiles is not None:
        return _extend_by_tile(bank, features, rows, recipe, first_image, progress)
    neighbourhood = window_of(recipe, grid)
    kept = _keep_more(bank, features, rows, recipe, neighbourhood, progress)
    patches, _ = _test_patches(features, rows, kept, recipe.seed, neighbourhood)
    nobody = np.full(len(patches.features), -1)  # an entry that is among them may find itself
    entries = _joined(bank, Entries.of(features, kept, neighbourhood, first_image), recipe, neighbourhood)
    return _searchable(entries, recipe, patches, nobody, neighbourhood)


def _choose_by_tile(
    features: PatchFeatures, rows: NDArray[np.int64], recipe: Recipe, progress: Progress | None
) -> MemoryBank:
    """A bank for each tile, chosen as that of an image that is no larger."""
    parts = _by_tile(features, rows)
    counts = {tile: entries_of(len(some), recipe, _LEAST) for tile, some in parts.items()}
    banks: dict[int, MemoryBank] = {}
    done = 0
    for tile, some in parts.items():
        tile_progress = _progress_of_part(progress, done, sum(counts.values()))
        kept = _keep(features, some, counts[tile], recipe, EVERYWHERE, tile_progress)
        entries = Entries.of(features, kept, EVERYWHERE)
        banks[tile] = _bank(entries, _local_scale(entries, recipe, EVERYWHERE))
        done += len(kept)
    return _of_tiles(banks, recipe)


def _extend_by_tile(
    bank: MemoryBank,
    features: PatchFeatures,
    rows: NDArray[np.int64],
    recipe: Recipe,
    first_image: int,
    progress: Progress | None,
) -> MemoryBank:
    """The bank of each tile after more good images."""
    parts = _by_tile(features, rows)
    wanted = len(bank.features) + sum(_share(len(some), recipe) for some in parts.values())
    banks: dict[int, MemoryBank] = {}
    done = 0
    for tile, some in parts.items():  # the same tiles as before, since the region of interest is
        before = bank.of_tile(tile)
        kept = _keep_more(
            before, features, some, recipe, EVERYWHERE, _progress_of_part(progress, done, wanted)
        )
        entries = _joined(before, Entries.of(features, kept, EVERYWHERE, first_image), recipe, EVERYWHERE)
        banks[tile] = _bank(entries, _local_scale(entries, recipe, EVERYWHERE))
        done += len(before.features) + len(kept)
    return _of_tiles(banks, recipe)


def _of_tiles(banks: Mapping[int, MemoryBank], recipe: Recipe) -> MemoryBank:
    """The banks of tiles as one. As in a bank that serves all tiles, the median of all is the least local scale.

    Without that floor next to nothing would look bad at a place that hardly varies.
    """
    bank = memory_bank.of_tiles(banks)
    if bank.local_scale is None:
        return bank
    scale_floor = float(np.median(bank.local_scale))
    bounded = memory_bank.bounded(bank.local_scale, scale_floor, EVERYWHERE.scale_limit(recipe))
    return replace(bank, local_scale=bounded)


def _by_tile(features: PatchFeatures, rows: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Rows of patches of tiled images by their tile."""
    patches = features.shape[1]
    tile = rows % patches // (patches // features.views)
    return {int(one): rows[tile == one] for one in np.unique(tile)}


def _progress_of_part(progress: Progress | None, before: int, wanted: int) -> Progress | None:
    """Progress of a part, as that of the whole."""
    return None if progress is None else lambda done, total: progress(before + done, wanted)


def _keep(
    features: PatchFeatures,
    rows: NDArray[np.int64],
    count: int,
    recipe: Recipe,
    neighbourhood: Neighbourhood,
    progress: Progress | None,
) -> NDArray[np.int64]:
    """Those of some rows of patches that a bank keeps, ascending."""
    if count == len(rows):
        return rows
    picks = RULES[recipe.sampling].pick(
        lambda: ProjectedPoints.of(features, rows),
        count,
        neighbourhood.cells_of(rows),
        neighbourhood,
        np.random.default_rng(recipe.seed),
        progress=progress,
    )
    return rows[picks]


def _keep_more(
    bank: MemoryBank,
    features: PatchFeatures,
    rows: NDArray[np.int64],
    recipe: Recipe,
    neighbourhood: Neighbourhood,
    progress: Progress | None,
) -> NDArray[np.int64]:
    """Those of some rows of new patches that a bank keeps beside what it has, ascending."""
    count = _share(len(rows), recipe)
    if count == len(rows):
        return rows
    picks = RULES[recipe.sampling].pick(
        lambda: ProjectedPoints.of(features, rows, bank.features),
        count,
        np.concatenate([bank.cells, neighbourhood.cells_of(rows)]),
        neighbourhood,
        np.random.default_rng(recipe.seed),
        given=len(bank.features),
        progress=progress,
    )
    return rows[picks]


def _joined(bank: MemoryBank, more: Entries, recipe: Recipe, neighbourhood: Neighbourhood) -> Entries:
    """The entries of a bank and more behind them, as many as its limit allows."""
    entries = Entries(bank.features, bank.image_ids, bank.cells).joined(more)
    if recipe.sampling_limit and len(entries.features) > recipe.sampling_limit:
        return entries.only(_among(entries, recipe.sampling_limit, recipe, neighbourhood))
    return entries


def _share(patches: int, recipe: Recipe) -> int:
    return max(1, round(recipe.sampling_ratio * patches))


def entries_of(patches: int, recipe: Recipe, least: int = 1) -> int:
    """How many of so many patches a bank keeps."""
    count = max(_share(patches, recipe), min(least, patches))
    return min(count, recipe.sampling_limit) if recipe.sampling_limit else count


def _among(entries: Entries, count: int, recipe: Recipe, neighbourhood: Neighbourhood) -> NDArray[np.int64]:
    """`count` of the entries, ascending, by the recipe's sampling."""

    def points() -> NDArray[np.float32]:
        projected = Projection.draw(entries.features.shape[1], recipe).of(entries.features)
        projected -= projected.mean(axis=0, dtype=np.float64).astype(np.float32)
        return projected

    rng = np.random.default_rng(recipe.seed)
    return RULES[recipe.sampling].pick(points, count, entries.cells, neighbourhood, rng)


def _test_patches(
    features: PatchFeatures,
    rows: NDArray[np.int64],
    kept: NDArray[np.int64],
    seed: int,
    neighbourhood: Neighbourhood,
    most: int = _TRIED,
) -> tuple[Entries, NDArray[np.int64]]:
    """Patches to try a search space on, those that were not kept, if any; and which entry each is, -1: none, (s,)."""
    rest = np.setdiff1d(rows, kept, assume_unique=True)
    drawn = rest if len(rest) else kept
    count = min(most, len(drawn))
    chosen = np.sort(np.random.default_rng(seed).choice(len(drawn), count, replace=False, shuffle=False))
    own = np.full(count, -1) if len(rest) else chosen
    return Entries.of(features, drawn[chosen], neighbourhood), own


def _searchable(
    chosen: Entries,
    recipe: Recipe,
    patches: Entries,
    own: NDArray[np.int64],
    neighbourhood: Neighbourhood,
) -> MemoryBank:
    """The bank in the cheapest search space that finds the nearest entries of these patches all the same.

    Every cell of the grid then sees an entry.
    """
    local_scale = _local_scale(chosen, recipe, neighbourhood)
    which, at = neighbourhood.repeated(chosen.cells)
    if len(which):
        chosen = chosen.joined(replace(chosen.only(which), cells=at))
        order = np.argsort(chosen.image_ids, kind="stable")
        own = np.where(own >= 0, np.argsort(order)[own], -1)
        chosen = chosen.only(order)
        if local_scale is not None:
            local_scale = np.concatenate([local_scale, local_scale[which]])[order]
    full_space = _bank(chosen, local_scale)
    test = RecallTest.of(full_space, patches.features, own, recipe, patches.cells, neighbourhood)
    return search_space.choose_search_space(full_space, test, recipe)


def _bank(entries: Entries, local_scale: NDArray[np.float32] | None) -> MemoryBank:
    """The bank of some entries and their local scale, searched in all dimensions."""
    return MemoryBank(
        features=entries.features,
        image_ids=entries.image_ids,
        mean=entries.features.mean(axis=0, dtype=np.float64).astype(np.float32),
        basis=None,
        cells=entries.cells,
        local_scale=local_scale,
    )


def _local_scale(
    entries: Entries, recipe: Recipe, neighbourhood: Neighbourhood
) -> NDArray[np.float32] | None:
    """The local scale of a bank of these entries, among those that see each other."""
    if not recipe.density_neighbours:
        return None
    cells = entries.cells
    return local_scale_of(
        entries.features,
        recipe.density_neighbours,
        limit=neighbourhood.scale_limit(recipe),
        hide=lambda squared, part: neighbourhood.hide(squared, cells[part], cells),
    )
