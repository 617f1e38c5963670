"""Held-out scores: how far good images lie from a memory bank that has nothing of them.

Scoring image i against the bank without its own entries costs no second fit, but alone it is unfair, since a bank made
without image i would have others in their place, and scores come out too high. So others replace them: `replacements`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank import sampling
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.scoring import FAR
from goodparts.bank.search import Piece, search
from goodparts.bank.search_graph import search_graph, side_by_side
from goodparts.decision import replacements
from goodparts.engines.engine import open_engine
from goodparts.features.extract import GoodFeatures
from goodparts.progress import Progress, silent
from goodparts.recipe.recipe import Recipe


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
    """Every good image against the bank without its own entries, in order.

    `first_image` is the index that the first of these images has among the bank's image ids.

    Raises:
        DatasetError: without an image nothing would be left of the bank, and no other can replace it.
    """
    of_one = len(np.unique(bank.image_ids)) < 2  # so that without it nothing would be left
    if of_one and bank.tiles is None and not first_image:
        yield from sorted(
            score_by_folds(good, recipe, 2, workers=workers, progress=progress),
            key=lambda held_out: held_out.index,
        )
        return
    filled, only_for = replacements.filled(good, bank, recipe, first_image)
    yield from score_against(
        good,
        filled,
        only_for,
        range(len(good)),
        recipe,
        workers,
        progress,
        first_image,
    )


def score_by_folds(
    good: GoodFeatures, recipe: Recipe, folds: int, *, workers: int, progress: Progress
) -> Generator[HeldOutScore]:
    """Every good image against a bank that was chosen without its fold, fold by fold: as costly as `folds` fits.

    Image i is in fold (i x folds) // n: neighbours in time, which look alike, are held out together.
    """
    n = len(good)
    of_image = np.arange(n) * folds // n
    done = 0
    for fold in range(folds):
        rest = good.eligible & (of_image != fold)[:, None]
        bank = sampling.choose(good.features, rest, recipe, grid=good.grid)
        members = np.flatnonzero(of_image == fold)
        everyone = np.full(len(bank.features), -1, dtype=np.int32)
        with closing(
            score_against(good, bank, everyone, members.tolist(), recipe, workers, silent)
        ) as scored:
            for held_out in scored:
                done += 1
                progress("calibration", done, n)
                yield held_out


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
    """Images against a bank without their own entries.

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
    preprocessor = good.preprocessor
    if preprocessor.single_crop:  # padding, or a region of interest
        masked = not all(good.of_crops(index).all() for index in range(len(good)))
    else:  # scores other than `reweighted` are made of the merged distances
        masked = recipe.image_score == "reweighted"
    by_tile = None
    if bank.tiles is not None:
        by_tile = dict(zip(bank.tiles_served.tolist(), bank.by_tile, strict=True))
    graph = search_graph(bank, good.grid, recipe, masked=masked, held_out=True)
    engine = open_engine(graph, throughput=preprocessor.single_crop and side_by_side(bank, good.grid, recipe))
    steps = parallel.StepCounter(len(images) * len(preprocessor.searched_tiles))

    def score_one(index: int) -> HeldOutScore:
        own = index + first_image
        hidden = (bank.image_ids == own) | ((only_for >= 0) & (only_for != own))
        excluded = np.where(hidden, np.float32(FAR), np.float32(0))
        masks = good.of_crops(index)

        def pieces() -> Iterator[Piece]:
            for tile in preprocessor.searched_tiles:
                features = good.features.image(index, tile).reshape(*good.grid, -1)
                of_tile = excluded if by_tile is None else excluded[by_tile[tile]]
                yield Piece(tile, features, masks[tile], {"excluded": of_tile})
                steps.take()

        distances, found = search(engine, pieces(), preprocessor.joined_mask(masks), preprocessor)
        return HeldOutScore(index, found, distances, preprocessor.to_image(distances, good.frames[index]))

    def report_progress() -> None:
        progress("calibration", steps.done, steps.total)

    max_parallel_images = preprocessor.max_parallel_images(workers)
    with closing(
        parallel.parallel_map(score_one, images, workers=max_parallel_images, while_waiting=report_progress)
    ) as scored:
        for held_out in scored:
            report_progress()
            yield held_out
