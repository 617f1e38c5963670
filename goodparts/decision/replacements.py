"""Replacements: what a memory bank chosen without one of its images would have in place of that image's entries.

A greedy bank is chosen jointly: where an entry of image i stands no other image's patch was kept, and taking it away
leaves a hole that a bank made without image i would have filled. So the greedy choice goes on in those holes: the
patches of other images that now lie farther from the bank than the bank's own covering radius replace them, farthest
first, for as many entries as were taken away. `docs/calibration.md` shows what is left of the bias.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank import coreset, memory_bank, sampling
from goodparts.bank.coreset import Points
from goodparts.bank.grid_positions import Positions
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import Entries
from goodparts.bank.sampling_rules import RULES
from goodparts.bank.window import Neighbourhood, window_of
from goodparts.errors import DatasetError
from goodparts.features.extract import GoodFeatures
from goodparts.recipe.recipe import Recipe

_ROWS = 1024  # points that are compared at once
_ENTRIES = 512  # with about so many entries: 2 MiB of distances


def filled(
    good: GoodFeatures, bank: MemoryBank, recipe: Recipe, first_image: int, scale_floor: float | None = None
) -> tuple[MemoryBank, NDArray[np.int32]]:
    """A bank with replacements, and for each entry the image that it serves alone, -1: all of them, (m,) int32.

    `scale_floor` is the least local scale; None: the median of the bank.

    Raises:
        DatasetError: without an image nothing would be left.
    """
    if scale_floor is None and bank.local_scale is not None:
        scale_floor = float(np.median(bank.local_scale))
    if bank.tiles is not None:
        by_tile = {
            tile: filled(good.of_tile(tile), bank.of_tile(tile), recipe, first_image, scale_floor)
            for tile in bank.tiles_served.tolist()
        }
        banks = {tile: of_tile for tile, (of_tile, _) in by_tile.items()}
        return memory_bank.of_tiles(banks), np.concatenate([only_for for _, only_for in by_tile.values()])
    replacements, absent = find(good, bank, recipe, first_image=first_image)
    _require_others(good, bank, absent, first_image)
    local_scale = _local_scale(bank, replacements, absent, recipe, good.grid, scale_floor)
    everyone = np.full(len(bank.features), -1, dtype=np.int32)
    more = bank.with_entries(replacements.features, replacements.image_ids, replacements.cells, local_scale)
    return more, np.concatenate([everyone, absent])


def _require_others(
    good: GoodFeatures, bank: MemoryBank, absent: NDArray[np.int32], first_image: int
) -> None:
    """DatasetError where all entries are of one of the good images, and nothing replaces them."""
    owners = np.unique(bank.image_ids)
    own = int(owners[0]) - first_image
    if len(owners) > 1 or not 0 <= own < len(good) or good.left_out[own] or np.any(absent == owners[0]):
        return
    raise DatasetError(
        f"the memory bank holds patches of one good image alone ({len(bank.features)}), and no other image is there to "
        "judge it by: give more good images, or raise sampling_ratio or sampling_limit"
    )


def find(
    good: GoodFeatures, bank: MemoryBank, recipe: Recipe, *, first_image: int = 0
) -> tuple[Entries, NDArray[np.int32]]:
    """What a bank chosen without image i would have had in place of image i's entries, for every i.

    Returns:
        (s entries, absent (s,)): entry j is a patch of image `image_ids[j]` and is there only where image `absent[j]`
        is held out. A random bank leaves no holes and has none; except that where all its entries are of one image as
        many of others are drawn, and that with a position window there are always enough for every cell to see one.
    """
    neighbourhood = window_of(recipe, good.grid)
    kept = np.empty(0, dtype=np.int64)
    absent = np.empty(0, dtype=np.int32)
    if RULES[recipe.sampling].joint:
        kept, absent = _in_holes(good, bank, neighbourhood, first_image)
    elif len(np.unique(bank.image_ids)) == 1:
        kept = _of_others(good, bank, recipe, first_image)
        absent = np.full(len(kept), bank.image_ids[0], dtype=np.int32)
    replacements = Entries.of(good.features, kept, neighbourhood, first_image)
    return _seen_everywhere(bank, replacements, absent, neighbourhood)


def _of_others(good: GoodFeatures, bank: MemoryBank, recipe: Recipe, first_image: int) -> NDArray[np.int64]:
    """As many rows of patches as a bank of one image has, drawn from those of the others."""
    rows = np.flatnonzero(good.eligible)
    rows = rows[rows // good.features.shape[1] + first_image != bank.image_ids[0]]
    count = min(len(rows), len(bank.features))
    return np.asarray(rows[coreset.random(len(rows), count, np.random.default_rng(recipe.seed))])


def _in_holes(
    good: GoodFeatures, bank: MemoryBank, neighbourhood: Neighbourhood, first_image: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Rows of patches that fill the holes of images, (s,) int64, and those images, (s,) int32."""
    patches = good.features.shape[1]
    rows = np.flatnonzero(good.eligible)
    points = sampling.ProjectedPoints.of(good.features, rows)
    entries = good.features.projection.of(bank.features) - points.centre
    cells = neighbourhood.cells_of(rows)
    first, second, owner = _two_nearest_images(
        points,
        entries,
        bank.image_ids,
        neighbourhood.positions(cells),
        neighbourhood.positions(bank.cells),
        bank.cells,
    )
    radius = first.max()
    hole = (second > radius) & (owner != rows // patches + first_image)
    chosen: list[NDArray[np.int64]] = []
    absent: list[NDArray[np.int32]] = []
    for image in np.unique(owner[hole]):
        candidates = np.flatnonzero(hole & (owner == image))
        own = bank.of_image(int(image))
        picks = _fill(
            points[candidates],
            second[candidates],
            radius,
            own.stop - own.start,
            cells[candidates],
            neighbourhood,
        )
        chosen.append(rows[candidates[picks]])
        absent.append(np.full(len(picks), image, dtype=np.int32))
    return (
        np.concatenate([*chosen, np.empty(0, dtype=np.int64)]),
        np.concatenate([*absent, np.empty(0, dtype=np.int32)]),
    )


def _local_scale(
    bank: MemoryBank,
    replacements: Entries,
    absent: NDArray[np.int32],
    recipe: Recipe,
    grid: tuple[int, int],
    scale_floor: float | None,
) -> NDArray[np.float32] | None:
    """The local scale of replacements, among the entries of images that they do not replace, (s,) float32."""
    if bank.local_scale is None:
        return None
    neighbourhood = window_of(recipe, grid)

    def hide(squared: NDArray[np.float32], part: slice) -> None:
        squared[bank.image_ids == absent[part, None]] = np.inf
        neighbourhood.hide(squared, replacements.cells[part], bank.cells)

    return memory_bank.local_scale_of(
        replacements.features,
        recipe.density_neighbours,
        limit=neighbourhood.scale_limit(recipe),
        among=bank.features,
        hide=hide,
        scale_floor=scale_floor,
    )


def _seen_everywhere(
    bank: MemoryBank, replacements: Entries, absent: NDArray[np.int32], neighbourhood: Neighbourhood
) -> tuple[Entries, NDArray[np.int32]]:
    """The replacements and as many more that every cell sees an entry whichever image is held out."""
    of_bank = Entries(bank.features, bank.image_ids, bank.cells)
    for image in neighbourhood.needed_images(bank.image_ids):
        left, filled = np.flatnonzero(bank.image_ids != image), np.flatnonzero(absent == image)
        which, at = neighbourhood.repeated(np.concatenate([bank.cells[left], replacements.cells[filled]]))
        if len(which):
            others = of_bank.only(left).joined(replacements.only(filled))
            replacements = replacements.joined(replace(others.only(which), cells=at))
            absent = np.concatenate([absent, np.full(len(which), image, dtype=np.int32)])
    return replacements, absent


@dataclass(frozen=True, eq=False)
class _Group:
    """Entries of some images, which points are compared with together.

    Attributes:
        images: (g,) int32.
        begins: where the entries of each begin, (g,) int64.
        centres: -2 c, and behind it what their positions add, (q, e) float32.
        norms: |c|^2, (e,) float32.
    """

    images: NDArray[np.int32]
    begins: NDArray[np.int64]
    centres: NDArray[np.float32]
    norms: NDArray[np.float32]


def _groups(
    entries: NDArray[np.float32], image_ids: NDArray[np.int32], elsewhere: NDArray[np.float32]
) -> list[_Group]:
    """Entries in groups of about `_ENTRIES`, those of an image in one."""
    images, starts = np.unique(image_ids, return_index=True)
    norms = np.einsum("md,md->m", entries, entries)
    products = np.ascontiguousarray(_beside(-2 * entries, elsewhere).T)
    cuts = (
        np.flatnonzero(np.diff(starts // _ENTRIES)) + 1
    )  # an image's entries are compared with the points together
    parts = np.split(np.arange(len(images)), cuts)
    ends = [*(int(starts[part[0]]) for part in parts[1:]), len(entries)]
    return [
        _Group(images[part], starts[part] - starts[part[0]], products[:, begin:end], norms[begin:end])
        for part, begin, end in zip(parts, (int(starts[part[0]]) for part in parts), ends, strict=True)
    ]


def _beside(values: NDArray[np.float32], more: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of values (r, a), and behind each what a position adds, (r, b); no copy where it adds nothing."""
    return np.concatenate([values, more], axis=1) if more.shape[1] else values


def _two_nearest_images(
    points: Points,
    entries: NDArray[np.float32],
    image_ids: NDArray[np.int32],
    positions: Positions,
    others: Positions,
    cells: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Squared distances of points to the nearest entry and to the nearest of another image, and whose the first is.

    Exact where the second is larger than the largest first, the bank's covering radius; elsewhere both are within it,
    and it is not worth while to look for nearer ones. `positions` are those of the points, `others` and `cells` those
    of the entries: an entry that a point does not see is farther than any that it sees.
    """
    n = len(points)
    blocks: list[NDArray[np.int64]] = []
    groups: dict[int, list[_Group]] = {}
    indices = np.arange(len(entries))
    for rows in positions.by_region(np.arange(n)):
        region = positions.region_of(rows[0])
        seen = positions.visible(region, cells)
        groups[region] = _groups(entries[seen], image_ids[seen], others.elsewhere(indices[seen]))
        blocks += [rows[begin : begin + _ROWS] for begin in range(0, len(rows), _ROWS)]
    first = np.full(n, np.inf, dtype=np.float32)
    second = np.full(n, np.inf, dtype=np.float32)
    owner = np.zeros(n, dtype=np.int32)
    radius = np.float32(-1)  # at least so large

    def compare(rows: NDArray[np.int64]) -> np.float32:
        x = points[rows]
        own_norms = np.einsum("nd,nd->n", x, x)
        x = _beside(x, positions.here(rows))
        for group in groups[positions.region_of(rows[0])]:
            distances = x @ group.centres
            distances += group.norms
            by_image = np.minimum.reduceat(distances, group.begins, axis=1)
            by_image += own_norms[:, None]
            np.maximum(by_image, 0, out=by_image)
            lines = np.arange(len(rows))
            which = by_image.argmin(axis=1)
            nearest = by_image[lines, which]
            by_image[lines, which] = np.inf
            nearer = nearest < first[rows]
            second[rows] = np.where(
                nearer, np.minimum(first[rows], by_image.min(axis=1)), np.minimum(second[rows], nearest)
            )
            first[rows] = np.minimum(first[rows], nearest)
            owner[rows] = np.where(nearer, group.images[which], owner[rows])
            far = second[rows] > radius
            rows, x, own_norms = rows[far], x[far], own_norms[far]
            if not len(rows):
                break
        return np.float32(first[rows].max(initial=-1))

    with closing(parallel.parallel_map(compare, blocks, workers=parallel.cores())) as radii:
        for largest in radii:
            radius = max(radius, largest)
    return first, second, owner


def _fill(
    points: NDArray[np.float32],
    nearest: NDArray[np.float32],
    radius: np.float32,
    most: int,
    cells: NDArray[np.int32],
    neighbourhood: Neighbourhood,
) -> NDArray[np.int64]:
    """Farthest first among points (c, d) whose squared distances to the bank are `nearest`, until all lie within.

    A pick counts for those of the points' cells (c,) that see it.
    """
    nearest = nearest.copy()
    picks: list[int] = []
    while len(picks) < most:
        farthest = int(nearest.argmax())
        if nearest[farthest] <= radius:
            break
        picks.append(farthest)
        difference = points - points[farthest]
        distances = np.einsum("cd,cd->c", difference, difference)
        neighbourhood.hide(distances[:, None], cells, cells[[farthest]])
        np.minimum(nearest, distances, out=nearest)
    return np.array(picks, dtype=np.int64)
