"""Held-out scores: how far good images lie from a memory bank that has nothing of them.

Scoring image i against the bank without its own entries costs no second fit, but alone it is unfair, since a bank made
without image i would have others in their place, and scores come out too high. So others stand in: `replacements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank import sampling
from goodparts.bank.memory_bank import MemoryBank
from goodparts.decision import replacements
from goodparts.features.extract import GoodFeatures
from goodparts.preprocessing import framing
from goodparts.preprocessing import tiling as tiles
from goodparts.preprocessing.preprocessor import Progress
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass(frozen=True, eq=False)
class HeldOut:
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
    tell: Progress,
) -> Generator[HeldOut]:
    """Every good image against the bank without its own entries, in order.

    `first_image` is the index that the first of these images has among the bank's origins.

    Raises:
        DatasetError: without an image nothing would be left of the bank, and there is no other to stand in.
    """
    of_one = len(np.unique(bank.origins)) < 2  # so that without it nothing would be left
    if of_one and bank.tiles is None and not first_image:
        yield from sorted(
            score_by_folds(good, recipe, 2, workers=workers, tell=tell), key=lambda one: one.index
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
        tell,
        first_image,
    )


def score_by_folds(
    good: GoodFeatures, recipe: Recipe, folds: int, *, workers: int, tell: Progress
) -> Generator[HeldOut]:
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
            score_against(good, bank, everyone, members.tolist(), recipe, workers, _silent)
        ) as scored:
            for one in scored:
                done += 1
                tell("calibration", done, n)
                yield one


def score_against(
    good: GoodFeatures,
    bank: MemoryBank,
    only_for: NDArray[np.int32],
    images: Sequence[int],
    recipe: Recipe,
    workers: int,
    tell: Progress,
    first_image: int = 0,
) -> Generator[HeldOut]:
    """Images against a bank without their own entries.

    Args:
        good: the features.
        bank: entries in any order.
        only_for: (m,) int32: an entry serves that image alone; -1: all of them.
        images: which of `good`, by index.
        recipe: image_score, framing, smoothing_sigma.
        workers: threads.
        tell: called with (stage, done, total), of images or of their tiles.
        first_image: index that the first of these images has among the bank's origins.
    """
    from goodparts.bank import scoring, search_graph
    from goodparts.engines.openvino import Engine

    tiling = good.tiling
    masked = not good.looked_at.all()  # padding, or a region of interest
    if tiling is not None:
        masked = recipe.image_score == "reweighted"  # other scores are made of the merged distances
    by_tile = None
    if bank.tiles is not None:
        by_tile = dict(zip(bank.tiles_served.tolist(), bank.by_tile, strict=True))
    graph = search_graph.search_graph(bank, good.grid, recipe, masked=masked, held_out=True)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_features": (1, *good.grid, good.features.shape[2]),
        "excluded": (bank.most_met,),
    }
    if by_tile is not None:
        shapes["tile"] = (1,)
    if masked:
        shapes["valid"] = (1, *good.grid)
    side_by_side = tiling is None and search_graph.side_by_side(bank, good.grid, recipe)
    engine = Engine(graph, shapes, throughput=side_by_side)
    origins = bank.origins
    vars(bank).pop("search_bank", None)  # the engine has a copy

    cells = np.ones(good.grid, dtype=bool) if tiling is None else tiling.looked_at(good.roi, recipe)
    steps = parallel.Steps(len(images) * (1 if tiling is None else len(tiling.searched(cells))))

    def one(index: int) -> HeldOut:
        own = index + first_image
        hidden = (origins == own) | ((only_for >= 0) & (only_for != own))
        excluded = np.where(hidden, np.float32(scoring.FAR), np.float32(0))
        valid = good.valid[index].reshape(-1, *good.grid)

        def search_view(view: int) -> tuple[NDArray[np.float32], float]:
            inputs = {
                "patch_features": good.features.image(index, view).reshape(1, *good.grid, -1),
                "excluded": excluded if by_tile is None else excluded[by_tile[view]],
            }
            if by_tile is not None:
                inputs["tile"] = np.array([view], dtype=np.int64)
            if masked:
                inputs["valid"] = valid[view][None].astype(np.float32)
            outputs = engine(inputs)
            steps.take()
            return outputs["distance_grid"][0], float(outputs["score"][0])

        if tiling is None:
            distances, found = search_view(0)
            distances[~valid[0]] = np.nan
        else:
            distances, found = tiling.measure(search_view, cells, recipe)
        return HeldOut(
            index=index,
            score=found,
            distance_grid=distances,
            anomaly_map=framing.anomaly_map(
                distances, good.frames[index], recipe.smoothing_sigma, good.seen(index)
            ),
        )

    def so_far() -> None:
        tell("calibration", steps.done, steps.total)

    abreast = tiles.abreast(workers, recipe)
    with closing(parallel.ordered(one, images, workers=abreast, meanwhile=so_far)) as scored:
        for held_out in scored:
            so_far()
            yield held_out


def _silent(stage: str, done: int, total: int) -> None:
    pass
