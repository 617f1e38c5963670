"""Parts: the features of all good images, in this process or cut into partitions, and what is asked of each of them.

A fit never reads the features of all images itself. It asks something of every partition (a `Stage`: what it would
keep in the bank, what would fill the bank's holes, how its images score) and puts the answers together:

    features of a partition ─► candidates ──┐        ┌─► replacements ──┐       ┌─► distances ──┐       ┌─► scores ──┐
              ...                           ├► banks ┤      ...         ├► ...  ┤     ...       ├►fusion┤    ...     ├►
    features of a partition ─► candidates ──┘        └─► replacements ──┘       └─► distances ──┘       └─► scores ──┘

In this process there is one partition, `OnePart`; `fleet.spread` has many, each where a worker is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import depths
from goodparts.bank.entries import Candidates
from goodparts.bank.fusion import SAMPLE, Extremes, Fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.data.good_images import GoodImages
from goodparts.decision import replacements
from goodparts.decision.collected import Collected, Scores, collect
from goodparts.decision.leave_one_out import Filled, HeldOut
from goodparts.decision.replacements import Proposed
from goodparts.features.extract import Extractor, GoodFeatures, extract
from goodparts.features.facts import Facts
from goodparts.progress import Progress, silent
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.features.whitening import Whitening
    from goodparts.preprocessing.preprocessor import Preprocessor


class Answer(Protocol):
    """What a partition says, as a file can keep it."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave."""
        ...


Said = TypeVar("Said", bound=Answer)


@dataclass(eq=False)
class Part:
    """A partition of the good images, in the process that has its features.

    Attributes:
        features: of its images.
        names: of these.
        first_image: index of the first of them among all.
        partitions: how many there are.
        workers: threads.
        progress: called with (stage, done, total).
        held_out: its images as they are searched to learn a fusion, until they are scored.
    """

    features: GoodFeatures
    names: Sequence[str]
    first_image: int = 0
    partitions: int = 1
    workers: int = 1
    progress: Progress = silent
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class Stage(Generic[Said]):
    """A question that is put to every partition.

    Attributes:
        name: of it, as a progress bar shows it.
        ask: called with the partition, its features without the images that are left out, and the arguments.
        kind: what it answers with: one for each depth, say.
    """

    name: str
    ask: Callable[..., list[Said]]
    kind: type[Said]


class Parts(Protocol):
    """The features of all good images in partitions, which never come together."""

    @property
    def facts(self) -> Facts:
        """What is known of all images beside their features."""

    def __len__(self) -> int:
        """How many partitions there are."""

    def ask(
        self, stage: Stage[Said], *arguments: Any, left_out: NDArray[np.bool_], quiet: bool = False
    ) -> list[list[Said]]:
        """What each partition answers, in order.

        Args:
            stage: the question.
            arguments: of it, which can be pickled.
            left_out: images of which nothing enters the banks, of all, (n,) bool.
            quiet: whether nothing is said of progress.
        """

    def whole(self, why: str) -> Part:
        """The only partition; DatasetError, for this reason, where there are several."""


class MakesParts(Protocol):
    """What makes and keeps the features of good images, for as long as the block lasts."""

    def __call__(
        self,
        good: GoodImages,
        extractor: Extractor,
        preprocessor: Preprocessor,
        whitening: Sequence[Whitening | None],
    ) -> AbstractContextManager[Parts]:
        """The features of these images by this extractor, which whitens; prepared by this preprocessor."""


class OnePart:
    """All good images in one partition, in this process."""

    def __init__(self, features: GoodFeatures, good: GoodImages) -> None:
        self.facts = Facts.of(features)
        self._part = Part(features, good.names, workers=good.workers, progress=good.progress)
        self._quiet = Part(features, good.names, workers=good.workers)

    def __len__(self) -> int:
        return 1

    def ask(
        self, stage: Stage[Said], *arguments: Any, left_out: NDArray[np.bool_], quiet: bool = False
    ) -> list[list[Said]]:
        """What it answers."""
        part = self._quiet if quiet else self._part
        return [stage.ask(part, part.features.without(left_out), *arguments)]

    def whole(self, why: str) -> Part:
        """That one."""
        return self._part


@contextmanager
def in_this_process(
    good: GoodImages,
    extractor: Extractor,
    preprocessor: Preprocessor,
    whitening: Sequence[Whitening | None],
) -> Iterator[OnePart]:
    """The features of all good images, made and kept here; see `MakesParts`."""
    with extract(good, extractor, preprocessor) as features:
        yield OnePart(features, good)


# ---- what a fit asks, and what it makes of the answers -------------------------------------------------


def choose_banks(
    parts: Parts, left_out: NDArray[np.bool_], recipe: Recipe, *, quiet: bool = False
) -> tuple[MemoryBank, ...]:
    """The memory bank of each depth."""
    if recipe.tile_bank == "position":
        part = parts.whole("tile_bank = position chooses for each tile among all images: take shared")
        progress = None if quiet else _bank_progress(part)
        return depths.choose(part.features.without(left_out), recipe, progress=progress)
    patches = parts.facts.patches[~left_out].sum(axis=0).tolist()
    counts = depths.entries_of(patches, recipe)
    proposed = parts.ask(CANDIDATES, recipe, counts, quiet, left_out=left_out, quiet=quiet)
    return depths.choose_among(proposed, counts, recipe, parts.facts.grids)


def hold_out(
    parts: Parts,
    banks: Sequence[MemoryBank],
    left_out: NDArray[np.bool_],
    recipe: Recipe,
    *,
    quiet: bool = False,
) -> tuple[Fusion | None, list[Filled]]:
    """How distances of several depths become one, and each bank with what replaces an image's own entries."""
    proposed = parts.ask(REPLACEMENTS, banks, recipe, left_out=left_out, quiet=quiet)
    filled = [
        replacements.fill(bank, given, depths.recipe_at(recipe, depth), grid, left_out)
        for depth, (bank, given, grid) in enumerate(
            zip(banks, _by_depth(proposed, banks), parts.facts.grids, strict=True)
        )
    ]
    if len(banks) == 1:
        return None, filled
    share = -(-SAMPLE // len(parts))
    sampled = parts.ask(DISTANCES, filled, recipe, share, left_out=left_out, quiet=quiet)
    return Extremes.of_all([of_part[0] for of_part in sampled]).fusion(parts.facts.grids), filled


def _by_depth(
    proposed: Sequence[Sequence[Proposed]], banks: Sequence[MemoryBank]
) -> Iterator[list[Sequence[Proposed]]]:
    """What all partitions give for each bank: one a tile where tiles have banks of their own."""
    first = 0
    for bank in banks:
        after = first + (1 if bank.tiles is None else len(bank.tiles_served))
        yield [of_part[first:after] for of_part in proposed]
        first = after


def _bank_progress(part: Part) -> Callable[[int, int], None]:
    return lambda done, total: part.progress("memory bank", done, total)


def _candidates(
    part: Part, good: GoodFeatures, recipe: Recipe, counts: Sequence[int], quiet: bool
) -> list[Candidates]:
    return depths.propose(
        good,
        recipe,
        counts,
        first_image=part.first_image,
        partitions=part.partitions,
        progress=None if quiet else _bank_progress(part),
    )


def _replacements(
    part: Part, good: GoodFeatures, banks: Sequence[MemoryBank], recipe: Recipe
) -> list[Proposed]:
    part.held_out = None
    return [
        proposed
        for depth, (of, bank) in enumerate(zip(good.depths, banks, strict=True))
        for proposed in replacements.propose(
            of, bank, depths.recipe_at(recipe, depth), first_image=part.first_image
        )
    ]


def _distances(
    part: Part, good: GoodFeatures, filled: Sequence[Filled], recipe: Recipe, most: int
) -> list[Extremes]:
    part.held_out = _held_out(part, good, filled, recipe)
    return [part.held_out.sample(most)]


def _held_out(part: Part, good: GoodFeatures, filled: Sequence[Filled], recipe: Recipe) -> HeldOut:
    if part.held_out is not None and part.held_out.is_of(good, filled):
        return part.held_out
    return HeldOut.of(
        good, filled, recipe, first_image=part.first_image, workers=part.workers, progress=part.progress
    )


def _scores(
    part: Part, good: GoodFeatures, filled: Sequence[Filled], fusion: Fusion | None, recipe: Recipe
) -> list[Scores]:
    held_out = _held_out(part, good, filled, recipe)
    part.held_out = None
    return [Scores.of(held_out.score(fusion))]


def _collected(
    part: Part,
    good: GoodFeatures,
    filled: Sequence[Filled],
    fusion: Fusion | None,
    recipe: Recipe,
) -> list[Collected]:
    held_out = _held_out(part, good, filled, recipe)
    part.held_out = None
    return [collect(held_out.score(fusion), good, part.names)]


CANDIDATES = Stage("memory bank", _candidates, Candidates)
REPLACEMENTS = Stage("replacements", _replacements, Proposed)
DISTANCES = Stage("fusion", _distances, Extremes)
SCORES = Stage("robust", _scores, Scores)
COLLECTED = Stage("calibration", _collected, Collected)
