"""Replacements: what a memory bank chosen without one of its images would have in place of that image's entries.

A greedy bank is chosen jointly: where an entry of image i stands no other image's patch was kept, and taking it away
leaves a hole that a bank made without image i would have filled. So the greedy choice goes on in those holes: the
patches of other images that now lie farther from the bank than the bank's own covering radius replace them, farthest
first, for as many entries as were taken away. `docs/calibration.md` shows what is left of the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import coreset, memory_bank
from goodparts.bank.coreset import Points
from goodparts.bank.entries import Entries
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.projected_points import ProjectedPoints
from goodparts.bank.sampling_rules import RULES
from goodparts.bank.window import Neighbourhood, window_of
from goodparts.decision.nearest_images import two_nearest_images
from goodparts.errors import DatasetError
from goodparts.features.extract import GoodFeatures
from goodparts.features.projection import Projection
from goodparts.recipe.recipe import Recipe


class Proposed(NamedTuple):
    """Patches of some of the good images that would fill the holes of a bank.

    Attributes:
        entries: the patches, in the order in which each image's hole takes them.
        absent: the image whose hole each is in, (s,) int32.
        nearest: squared distance of each to the entries of other images, (s,) float32.
        radius: squared distance of the patch of these images that is farthest from the bank, () float32.
    """

    entries: Entries
    absent: NDArray[np.int32]
    nearest: NDArray[np.float32]
    radius: NDArray[np.float32]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        more = {"absent": self.absent, "nearest": self.nearest, "radius": self.radius}
        return {**self.entries.tensors(), **more}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where something of it is missing."""
        return cls(Entries.from_tensors(tensors), tensors["absent"], tensors["nearest"], tensors["radius"])


def filled(
    good: GoodFeatures, bank: MemoryBank, recipe: Recipe, first_image: int
) -> tuple[MemoryBank, NDArray[np.int32]]:
    """A bank with replacements, and for each entry the image that it serves alone, -1: all of them, (m,) int32.

    Raises:
        DatasetError: without an image nothing would be left.
    """
    proposed = propose(good, bank, recipe, first_image=first_image)
    return fill(bank, [proposed], recipe, good.grid, good.left_out, first_image)


def propose(good: GoodFeatures, bank: MemoryBank, recipe: Recipe, *, first_image: int = 0) -> list[Proposed]:
    """What some of the good images give for the holes of a bank: where tiles have banks of their own, of each of them.

    `first_image` is the index that the first of these images has among the bank's image ids.
    """
    if bank.tiles is None:
        return [_propose(good, bank, recipe, first_image)]
    return [
        _propose(good.of_tile(tile), bank.of_tile(tile), recipe, first_image)
        for tile in bank.tiles_served.tolist()
    ]


def fill(
    bank: MemoryBank,
    proposed: Sequence[Sequence[Proposed]],
    recipe: Recipe,
    grid: tuple[int, int],
    left_out: NDArray[np.bool_],
    first_image: int = 0,
    scale_floor: float | None = None,
) -> tuple[MemoryBank, NDArray[np.int32]]:
    """A bank with replacements, from what partitions of the good images give for its holes; else as `filled`.

    Args:
        bank: as it was chosen.
        proposed: what `propose` gave of each partition.
        recipe: of the bank.
        grid: (h, w) of the patches.
        left_out: of all these images, those of which nothing is in the bank.
        first_image: index that the first of all these images has among the bank's image ids.
        scale_floor: the least local scale; None: the median of the bank.
    """
    if scale_floor is None and bank.local_scale is not None:
        scale_floor = float(np.median(bank.local_scale))
    if bank.tiles is not None:
        by_tile = {
            tile: fill(
                bank.of_tile(tile),
                [[of_part[number]] for of_part in proposed],
                recipe,
                grid,
                left_out,
                first_image,
                scale_floor,
            )
            for number, tile in enumerate(bank.tiles_served.tolist())
        }
        banks = {tile: of_tile for tile, (of_tile, _) in by_tile.items()}
        return memory_bank.of_tiles(banks), np.concatenate([only_for for _, only_for in by_tile.values()])
    replacements, absent = _choose_among([of_part[0] for of_part in proposed], bank, recipe, grid)
    _require_others(bank, absent, left_out, first_image)
    local_scale = _local_scale(bank, replacements, absent, recipe, grid, scale_floor)
    everyone = np.full(len(bank.features), -1, dtype=np.int32)
    more = bank.with_entries(replacements.features, replacements.image_ids, replacements.cells, local_scale)
    return more, np.concatenate([everyone, absent])


def _require_others(
    bank: MemoryBank, absent: NDArray[np.int32], left_out: NDArray[np.bool_], first_image: int
) -> None:
    """DatasetError where all entries are of one of the good images, and nothing replaces them."""
    owners = np.unique(bank.image_ids)
    own = int(owners[0]) - first_image
    if len(owners) > 1 or not 0 <= own < len(left_out) or left_out[own] or np.any(absent == owners[0]):
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
    return _choose_among([_propose(good, bank, recipe, first_image)], bank, recipe, good.grid)


def _propose(good: GoodFeatures, bank: MemoryBank, recipe: Recipe, first_image: int) -> Proposed:
    """What some of the good images give for the holes of a bank that serves all of a crop."""
    neighbourhood = window_of(recipe, good.grid)
    if RULES[recipe.sampling].joint:
        return _in_holes(good, bank, neighbourhood, first_image)
    kept = np.empty(0, dtype=np.int64)
    if len(np.unique(bank.image_ids)) == 1:
        kept = _of_others(good, bank, recipe, first_image)
    return Proposed(
        Entries.of(good.features, kept, neighbourhood, first_image),
        np.full(len(kept), bank.image_ids[0], dtype=np.int32),
        np.full(len(kept), np.inf, dtype=np.float32),
        np.zeros((), dtype=np.float32),
    )


def _choose_among(
    proposed: Sequence[Proposed], bank: MemoryBank, recipe: Recipe, grid: tuple[int, int]
) -> tuple[Entries, NDArray[np.int32]]:
    """What fills the holes of a bank, and whose hole each fills, (s,) int32.

    Of what several partitions give it is chosen once more, farthest first.
    """
    neighbourhood = window_of(recipe, grid)
    entries = Entries.of_all([one.entries for one in proposed])
    absent = np.concatenate([one.absent for one in proposed])
    if len(proposed) > 1:
        points = Projection.draw(entries.features.shape[1], recipe).of(entries.features)
        nearest = np.concatenate([one.nearest for one in proposed])
        radius = np.float32(max(one.radius for one in proposed))
        which, absent = _farthest(
            points, nearest, absent, nearest > radius, radius, bank, entries.cells, neighbourhood
        )
        entries = entries.only(which)
    return _seen_everywhere(bank, entries, absent, neighbourhood)


def _of_others(good: GoodFeatures, bank: MemoryBank, recipe: Recipe, first_image: int) -> NDArray[np.int64]:
    """As many rows of patches as a bank of one image has, drawn from those of the others."""
    rows = np.flatnonzero(good.eligible)
    rows = rows[rows // good.features.shape[1] + first_image != bank.image_ids[0]]
    count = min(len(rows), len(bank.features))
    return np.asarray(rows[coreset.random(len(rows), count, np.random.default_rng(recipe.seed))])


def _in_holes(
    good: GoodFeatures, bank: MemoryBank, neighbourhood: Neighbourhood, first_image: int
) -> Proposed:
    """Patches that fill the holes of images."""
    patches = good.features.shape[1]
    rows = np.flatnonzero(good.eligible)
    points = ProjectedPoints.of(good.features, rows)
    entries = good.features.projection.of(bank.features) - points.centre
    cells = neighbourhood.cells_of(rows)
    first, second, owner = two_nearest_images(
        points,
        entries,
        bank.image_ids,
        neighbourhood.positions(cells),
        neighbourhood.positions(bank.cells),
        bank.cells,
    )
    radius = first.max(initial=0)
    hole = (second > radius) & (owner != rows // patches + first_image)
    chosen, absent = _farthest(points, second, owner, hole, radius, bank, cells, neighbourhood)
    return Proposed(
        Entries.of(good.features, rows[chosen], neighbourhood, first_image),
        absent,
        second[chosen],
        np.asarray(radius),
    )


def _farthest(
    points: Points,
    nearest: NDArray[np.float32],
    owner: NDArray[np.int32],
    hole: NDArray[np.bool_],
    radius: np.float32,
    bank: MemoryBank,
    cells: NDArray[np.int32],
    neighbourhood: Neighbourhood,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Which of n points fill the holes of images, (s,) int64, and those images, (s,) int32.

    Args:
        points: (n, q) float32.
        nearest: squared distances to the bank without the image that is nearest, (n,).
        owner: that image, (n,).
        hole: whether a point is in its hole at all, (n,) bool.
        radius: squared covering radius of the bank.
        bank: of whose images as many are chosen as they have entries, at most.
        cells: of the points, (n,) int32.
        neighbourhood: which cells see each other.
    """
    chosen: list[NDArray[np.int64]] = []
    absent: list[NDArray[np.int32]] = []
    holes = np.flatnonzero(hole)
    by_image = holes[np.argsort(owner[holes], kind="stable")]
    images, first_of = np.unique(owner[by_image], return_index=True)
    parts = np.split(by_image, first_of[1:])  # an empty one where there is no hole
    for image, candidates in zip(images, parts, strict=False):
        own = bank.of_image(int(image))
        picks = _fill(
            points[candidates],
            nearest[candidates],
            radius,
            own.stop - own.start,
            cells[candidates],
            neighbourhood,
        )
        chosen.append(candidates[picks])
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
