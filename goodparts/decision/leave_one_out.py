"""Held-out scores: how far good images lie from a memory bank that has nothing of them.

Scoring image i against the bank without its own entries costs no second fit, but alone it is unfair, since a bank made
without image i would have others in their place, and scores come out too high. So others replace them: `replacements`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank import depths
from goodparts.bank.fusion import SAMPLE, Extremes, Fusion, learn_fusion
from goodparts.bank.held_out import HeldOutBank, held_out_bank
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.search import Piece, at_each_depth, counted_distances, feature_inputs, search
from goodparts.bank.search_graph import fusion_graph, search_graph, side_by_side
from goodparts.decision import replacements
from goodparts.engines.engine import Engine, open_engine
from goodparts.engines.runtime import current
from goodparts.features.extract import GoodFeatures
from goodparts.progress import Progress, silent
from goodparts.recipe.recipe import Recipe

Result = TypeVar("Result")
Filled = tuple[MemoryBank, NDArray[np.int32]]
"""A bank with replacements, and for each entry the image that it serves alone, -1: all of them, (m,) int32."""


@dataclass(frozen=True, eq=False)
class HeldOutScore:
    """One good image against a bank without it.

    Attributes:
        index: of the image.
        score: anomaly score.
        distance_grid: patch distances, (h, w) float32; NaN where the recipe did not look.
        anomaly_map: smoothed, (H, W) float32.
    """

    index: int
    score: float
    distance_grid: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


def score(
    good: GoodFeatures,
    bank: MemoryBank,
    recipe: Recipe,
    *,
    first_image: int = 0,
    workers: int,
    progress: Progress,
) -> Generator[HeldOutScore]:
    """Every good image against the bank of the only depth without its own entries, in order.

    `first_image` is the index that the first of these images has among the bank's image ids.

    Raises:
        DatasetError: without an image nothing would be left of the bank, and no other can replace it.
    """
    return hold_out(good, [bank], recipe, first_image=first_image, workers=workers, progress=progress)[1]


def hold_out(
    good: GoodFeatures,
    banks: Sequence[MemoryBank],
    recipe: Recipe,
    *,
    fusion: Fusion | None = None,
    first_image: int = 0,
    workers: int,
    progress: Progress,
) -> tuple[Fusion | None, Generator[HeldOutScore]]:
    """Every good image against the banks of all depths without its own entries, in order.

    Args:
        good: the features.
        banks: of each depth.
        recipe: of the banks, and of the image score.
        fusion: how distances of several depths become one; None: learnt from these images.
        first_image: the index that the first of these images has among the banks' image ids.
        workers: threads.
        progress: called with (stage, done, total), of images or of their tiles.

    Returns:
        The fusion, None where there is one depth, and the scores.

    Raises:
        DatasetError: when scores are asked for: without an image nothing would be left of a bank, and no other can
            replace it.
    """

    def runs() -> Iterator[_Run]:
        if of_one_image(banks) and not first_image:
            yield from _folds(good, recipe, 2)
        else:
            yield _Run.replacing(good, banks, recipe, first_image)

    if len(banks) == 1:
        return None, _one_depth(good, recipe, runs, workers, progress)
    work = parallel.StepCounter(len(good) * len(good.preprocessor.searched_tiles))
    measuring = [_Measuring.of(run, good, recipe, workers, work, progress) for run in runs()]
    if fusion is None:
        fusion = learn_fusion(
            [of.grid for of in good.depths], [crop for one in measuring for crop in one.sample()]
        )
    return fusion, _all_depths(measuring, fusion, recipe)


def of_one_image(banks: Sequence[MemoryBank]) -> bool:
    """Whether nothing would be left of a bank without one of its images."""
    return any(bank.tiles is None and len(np.unique(bank.image_ids)) < 2 for bank in banks)


def _one_depth(
    good: GoodFeatures,
    recipe: Recipe,
    runs: Callable[[], Iterable[_Run]],
    workers: int,
    progress: Progress,
) -> Generator[HeldOutScore]:
    """The scores of all runs, by image."""
    several = list(runs())
    if len(several) == 1:
        yield from several[0].score(good, recipe, workers, progress)
        return
    found = []
    for run in several:
        with closing(run.score(good, recipe, workers, silent)) as scored:
            for held_out in scored:
                found.append(held_out)
                progress("calibration", len(found), len(good))
    yield from sorted(found, key=lambda held_out: held_out.index)


def _all_depths(measuring: Sequence[_Measuring], fusion: Fusion, recipe: Recipe) -> Generator[HeldOutScore]:
    """The scores of all runs, by image."""
    if len(measuring) == 1:
        yield from measuring[0].score(fusion, recipe)
        return
    found = [held_out for one in measuring for held_out in one.score(fusion, recipe)]
    yield from sorted(found, key=lambda held_out: held_out.index)


def score_by_folds(
    good: GoodFeatures, recipe: Recipe, folds: int, *, workers: int, progress: Progress
) -> Generator[HeldOutScore]:
    """Every good image against a bank that was chosen without its fold, fold by fold: as costly as `folds` fits.

    Image i is in fold (i x folds) // n: neighbours in time, which look alike, are held out together. Of the finest
    depth alone.
    """
    finest = good.depths[0]
    done = 0
    for run in _folds(finest, recipe, folds):
        with closing(run.score(finest, recipe, workers, silent)) as scored:
            for held_out in scored:
                done += 1
                progress("calibration", done, len(good))
                yield held_out


def _folds(good: GoodFeatures, recipe: Recipe, folds: int) -> Iterator[_Run]:
    """A run a fold, against banks that were chosen without it."""
    n = len(good)
    of_image = np.arange(n) * folds // n
    for fold in range(folds):
        others = np.asarray(of_image == fold)
        banks = depths.choose(good.without(good.left_out | others), recipe)
        members = np.flatnonzero(others).tolist()
        everyone = [np.full(len(bank.features), -1, dtype=np.int32) for bank in banks]
        yield _Run.of(good, banks, everyone, members, recipe)


def score_against(
    good: GoodFeatures,
    bank: MemoryBank,
    only_for: NDArray[np.int32],
    images: Sequence[int],
    recipe: Recipe,
    workers: int,
    progress: Progress,
    first_image: int = 0,
) -> Generator[HeldOutScore]:
    """Images against the bank of the only depth without their own entries.

    Args:
        good: the features.
        bank: entries in any order.
        only_for: (m,) int32: an entry serves that image alone; -1: all of them.
        images: which of `good`, by index.
        recipe: image_score, framing, smoothing_sigma.
        workers: threads.
        progress: called with (stage, done, total), of images or of their tiles.
        first_image: index that the first of these images has among the bank's image ids.
    """
    run = _Run.of(good, (bank,), (only_for,), images, recipe, first_image)
    return run.score(good, recipe, workers, progress)


@dataclass(frozen=True, eq=False)
class _Run:
    """Images, and the banks that they are searched in without their own entries.

    Attributes:
        banks: of each depth, entries in any order.
        only_for: of each, (m,) int32: an entry serves that image alone; -1: all of them.
        held_out: of each, how an image is searched in it.
        images: which of the good images, by index.
        first_image: index that the first of the good images has among the banks' image ids.
    """

    banks: Sequence[MemoryBank]
    only_for: Sequence[NDArray[np.int32]]
    held_out: Sequence[HeldOutBank]
    images: Sequence[int]
    first_image: int

    @classmethod
    def of(
        cls,
        good: GoodFeatures,
        banks: Sequence[MemoryBank],
        only_for: Sequence[NDArray[np.int32]],
        images: Sequence[int],
        recipe: Recipe,
        first_image: int = 0,
    ) -> Self:
        """A run by the engine in use."""
        products = current().products()
        held_out = [
            held_out_bank(bank, of_bank, depth, of.grid, recipe, products)
            for depth, (bank, of_bank, of) in enumerate(zip(banks, only_for, good.depths, strict=True))
        ]
        return cls(banks, only_for, held_out, images, first_image)

    @classmethod
    def replacing(
        cls, good: GoodFeatures, banks: Sequence[MemoryBank], recipe: Recipe, first_image: int
    ) -> Self:
        """All good images, each against the banks with what replaces its own entries."""
        filled = [
            replacements.filled(of, bank, depths.recipe_at(recipe, depth), first_image)
            for depth, (of, bank) in enumerate(zip(good.depths, banks, strict=True))
        ]
        banks, only_for = zip(*filled, strict=True)
        return cls.of(good, banks, only_for, range(len(good)), recipe, first_image)

    def score(
        self, good: GoodFeatures, recipe: Recipe, workers: int, progress: Progress
    ) -> Generator[HeldOutScore]:
        """The scores of its images against the only depth there is, in order; of several, see `_Measuring`."""
        preprocessor = good.preprocessor
        engine = self.engine(good, recipe, None)
        steps = parallel.StepCounter(len(self.images) * len(preprocessor.searched_tiles))

        def score_one(index: int) -> HeldOutScore:
            masks = good.of_crops(index)

            def pieces() -> Iterator[Piece]:
                for piece in self.pieces(good, index, masks):
                    yield piece
                    steps.take()

            distances, found = search(engine, pieces(), preprocessor.joined_mask(masks), preprocessor)
            return HeldOutScore(index, found, distances, preprocessor.to_image(distances, good.frames[index]))

        yield from _mapped(score_one, self.images, good, workers, steps, progress, "calibration")

    def engine(self, good: GoodFeatures, recipe: Recipe, fusion: Fusion | None) -> Engine:
        """The search of its banks, compiled; see `search_graph`."""
        preprocessor = good.preprocessor
        coarser = [(bank, of.grid) for bank, of in zip(self.banks[1:], good.coarser, strict=True)]
        graph = search_graph(
            self.banks[0],
            good.grid,
            recipe,
            coarser=coarser,
            fusion=fusion,
            masked=_masked(good, recipe),
            held_out=self.held_out,
            products=current().products(),
        )
        alone = side_by_side(self.banks[0], good.grid, recipe, coarser)
        return open_engine(graph, throughput=preprocessor.single_crop and alone)

    def pieces(self, good: GoodFeatures, index: int, masks: NDArray[np.bool_]) -> Iterator[Piece]:
        """The crops of an image, and what keeps its own entries from being found."""
        for tile in good.preprocessor.searched_tiles:
            features = [of.features.image(index, tile) for of in good.depths]
            inputs = feature_inputs(features, [of.grid for of in good.depths])
            for of_depth in self.held_out:
                inputs |= of_depth.inputs(index + self.first_image, tile)
            yield Piece(tile, inputs, masks[tile])


@dataclass(frozen=True, eq=False)
class _Measuring:
    """A run over several depths: the search of each image is made once, whether it teaches the fusion or not.

    Attributes:
        run: what is searched.
        good: the features.
        engine: of the search of all depths.
        kept: by image, what the sample found: pieces with their distances at each depth.
        workers: threads.
        work: pieces that were searched, of all runs.
        progress: called with (stage, done, total).
    """

    run: _Run
    good: GoodFeatures
    engine: Engine
    kept: dict[int, list[Piece]]
    workers: int
    work: parallel.StepCounter
    progress: Progress

    @classmethod
    def of(
        cls,
        run: _Run,
        good: GoodFeatures,
        recipe: Recipe,
        workers: int,
        work: parallel.StepCounter,
        progress: Progress,
    ) -> Self:
        return cls(run, good, run.engine(good, recipe, None), {}, workers, work, progress)

    def sample(self, most: int = SAMPLE) -> Iterator[list[NDArray[np.float32]]]:
        """Of some images the distances that count at each depth, (patches,) float32 each, piece by piece."""
        learnt_from = [index for index in self.run.images if not self.good.left_out[index]]
        images = learnt_from[:: -(-len(learnt_from) // most) or 1]
        with closing(self._mapped(self._measure, images)) as found:
            for index, pieces in zip(images, found, strict=True):
                self.kept[index] = pieces
                for piece in pieces:
                    if piece.patch_mask.any():
                        yield counted_distances(piece, [of.grid for of in self.good.depths])

    def score(self, fusion: Fusion, recipe: Recipe) -> Generator[HeldOutScore]:
        """The scores of its images, in order."""
        good, preprocessor = self.good, self.good.preprocessor
        asks_bank = recipe.image_score == "reweighted"
        if asks_bank:
            engine = self.run.engine(good, recipe, fusion)
        else:
            graph = fusion_graph(fusion, recipe, masked=_masked(good, recipe))
            engine = open_engine(graph, throughput=preprocessor.single_crop)

        def score_one(index: int) -> HeldOutScore:
            masks = good.of_crops(index)
            pieces: Iterable[Piece] | None = self.kept.pop(index, None)
            if asks_bank:
                pieces = self.run.pieces(good, index, masks)
            elif pieces is None:
                pieces = self._measure(index)
            distances, found = search(engine, pieces, preprocessor.joined_mask(masks), preprocessor)
            return HeldOutScore(index, found, distances, preprocessor.to_image(distances, good.frames[index]))

        yield from self._mapped(score_one, self.run.images)

    def _measure(self, index: int) -> list[Piece]:
        """The pieces of an image with their distances at each depth."""
        grids = [of.grid for of in self.good.depths]
        found = []
        for piece in self.run.pieces(self.good, index, self.good.of_crops(index)):
            found.append(at_each_depth(self.engine, piece, grids))
            self.work.take()
        return found

    def _mapped(self, function: Callable[[int], Result], images: Sequence[int]) -> Generator[Result]:
        return _mapped(function, images, self.good, self.workers, self.work, self.progress, "calibration")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Some of the good images, each of them against banks without its own entries: first a few, to learn a fusion.

    Attributes:
        run: what is searched.
        good: the features.
        recipe: of the banks, and of the image score.
        measuring: the searches of all depths; None where there is one.
        workers: threads.
        progress: called with (stage, done, total).
    """

    run: _Run
    good: GoodFeatures
    recipe: Recipe
    measuring: _Measuring | None
    workers: int
    progress: Progress

    @classmethod
    def of(
        cls,
        good: GoodFeatures,
        filled: Sequence[Filled],
        recipe: Recipe,
        *,
        first_image: int = 0,
        workers: int,
        progress: Progress,
    ) -> Self:
        """Images whose features are `good`, the first of which has this index among the banks' image ids."""
        banks, only_for = zip(*filled, strict=True)
        run = _Run.of(good, banks, only_for, range(len(good)), recipe, first_image)
        measuring = None
        if len(banks) > 1:
            work = parallel.StepCounter(len(good) * len(good.preprocessor.searched_tiles))
            measuring = _Measuring.of(run, good, recipe, workers, work, progress)
        return cls(run, good, recipe, measuring, workers, progress)

    def is_of(self, good: GoodFeatures, filled: Sequence[Filled]) -> bool:
        """Whether these are the images, and these the banks."""
        own = zip(self.run.banks, self.run.only_for, strict=True)
        return np.array_equal(self.good.left_out, good.left_out) and all(
            bank is other
            or (
                np.array_equal(bank.features, other.features)
                and np.array_equal(bank.image_ids, other.image_ids)
                and np.array_equal(only_for, for_other)
            )
            for (bank, only_for), (other, for_other) in zip(own, filled, strict=True)
        )

    def sample(self, most: int) -> Extremes:
        """What a fusion is learnt from, of so many images at most; there are several depths."""
        assert self.measuring is not None
        return Extremes.of(self.measuring.sample(most), len(self.run.banks))

    def score(self, fusion: Fusion | None) -> Generator[HeldOutScore]:
        """The scores of all images, in order."""
        if self.measuring is None or fusion is None:
            return self.run.score(self.good, self.recipe, self.workers, self.progress)
        return self.measuring.score(fusion, self.recipe)


def _masked(good: GoodFeatures, recipe: Recipe) -> bool:
    """Whether a search is told which patches count."""
    if good.preprocessor.single_crop or good.coarser:  # padding, or a region of interest
        return not all(good.of_crops(index).all() for index in range(len(good)))
    return recipe.image_score == "reweighted"  # other scores are made of the merged distances


def _mapped(
    function: Callable[[int], Result],
    images: Sequence[int],
    good: GoodFeatures,
    workers: int,
    steps: parallel.StepCounter,
    progress: Progress,
    stage: str,
) -> Generator[Result]:
    """What a function gives of each image, several at a time."""

    def report_progress() -> None:
        progress(stage, steps.done, steps.total)

    max_parallel_images = good.preprocessor.max_parallel_images(workers)
    with closing(
        parallel.parallel_map(function, images, workers=max_parallel_images, while_waiting=report_progress)
    ) as found:
        for item in found:
            report_progress()
            yield item
