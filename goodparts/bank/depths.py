"""Depths: a memory bank for the fine layers of a backbone, and one for each coarser grid that its layers have.

With `banks = joined` there is one depth, and all that follows is as it is for one bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from goodparts.bank import sampling
from goodparts.bank.coreset import Progress
from goodparts.bank.entries import Candidates
from goodparts.bank.memory_bank import MemoryBank
from goodparts.features.extract import GoodFeatures
from goodparts.features.whitening import Whitening
from goodparts.recipe.recipe import Recipe

DEPTHS_NEED = 40
"""Good images from which on `banks = auto` takes a bank for each depth."""


@dataclass(frozen=True, eq=False)
class Depth:
    """What is learnt of one depth.

    Attributes:
        whitening: what its features are mapped by; None: they stay as they are.
        bank: its memory bank.
    """

    whitening: Whitening | None
    bank: MemoryBank

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a model file keeps it: `from_tensors` makes the same of them."""
        tensors = self.bank.tensors()
        if self.whitening is not None:
            tensors["whitening.mean"] = self.whitening.mean
            tensors["whitening.matrix"] = self.whitening.matrix
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where something of it is missing."""
        whitening = None
        if "whitening.mean" in tensors:
            whitening = Whitening(tensors["whitening.mean"], tensors["whitening.matrix"])
        return cls(whitening, MemoryBank.from_tensors(tensors))


def depth_prefix(depth: int) -> str:
    """What the names of a depth's tensors begin with in a model file: nothing at the finest, `2.` at the next."""
    return f"{depth + 1}." if depth else ""


def settled(recipe: Recipe, images: int) -> Recipe:
    """The recipe that says what `banks = auto` is for so many good images.

    Coarse layers differ more from image to image: of few images they say too little (docs/presets.md).
    """
    if recipe.banks != "auto":
        return recipe
    return recipe.replace({"banks": "by_depth" if images >= DEPTHS_NEED else "joined"})


def recipe_at(recipe: Recipe, depth: int) -> Recipe:
    """The recipe of a depth: coarser banks, of fewer patches an image, keep half as many entries."""
    if not depth or not recipe.sampling_limit:
        return recipe
    return recipe.replace({"sampling_limit": max(1, recipe.sampling_limit // 2)})


def choose(good: GoodFeatures, recipe: Recipe, *, progress: Progress | None = None) -> tuple[MemoryBank, ...]:
    """The memory bank of each depth; see `sampling.choose`."""
    return tuple(
        sampling.choose(of.features, of.eligible, recipe_at(recipe, depth), grid=of.grid, progress=progress)
        for depth, of in enumerate(good.depths)
    )


def entries_of(patches: Sequence[int], recipe: Recipe) -> list[int]:
    """How many entries the bank of each depth has, of so many patches that may enter it."""
    return [sampling.entries_of(count, recipe_at(recipe, depth)) for depth, count in enumerate(patches)]


def propose(
    good: GoodFeatures,
    recipe: Recipe,
    counts: Sequence[int],
    *,
    first_image: int,
    partitions: int,
    progress: Progress | None = None,
) -> list[Candidates]:
    """What a partition of the good images gives for banks of so many entries; see `sampling.propose`."""
    return [
        sampling.propose(
            of.features,
            of.eligible,
            count,
            recipe_at(recipe, depth),
            grid=of.grid,
            first_image=first_image,
            partitions=partitions,
            progress=progress,
        )
        for depth, (of, count) in enumerate(zip(good.depths, counts, strict=True))
    ]


def choose_among(
    proposed: Sequence[Sequence[Candidates]],
    counts: Sequence[int],
    recipe: Recipe,
    grids: Sequence[tuple[int, int]],
) -> tuple[MemoryBank, ...]:
    """The memory bank of each depth, of what partitions of the good images give; see `sampling.choose_among`."""
    return tuple(
        sampling.choose_among(
            [of_part[depth] for of_part in proposed], count, recipe_at(recipe, depth), grid=grid
        )
        for depth, (count, grid) in enumerate(zip(counts, grids, strict=True))
    )


def extend(
    banks: Sequence[MemoryBank],
    good: GoodFeatures,
    recipe: Recipe,
    *,
    first_image: int,
    progress: Progress | None = None,
) -> tuple[MemoryBank, ...]:
    """The bank of each depth after more good images; see `sampling.extend`."""
    return tuple(
        sampling.extend(
            bank,
            of.features,
            of.eligible,
            recipe_at(recipe, depth),
            first_image=first_image,
            grid=of.grid,
            progress=progress,
        )
        for depth, (bank, of) in enumerate(zip(banks, good.depths, strict=True))
    )
