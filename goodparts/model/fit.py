"""Fitting: from images of good parts to a model, read top to bottom.

images ─► preprocessing ─► whitening ─► features ─► memory banks ─► held-out scores ─► decision
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from goodparts.backbones.backbone import MakesBackbone, cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import depths
from goodparts.bank.depths import Depth
from goodparts.bank.fusion import Fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.data.good_images import Good, GoodImages
from goodparts.decision import leave_one_out, one_image
from goodparts.decision.calibration import Calibration, decide, require_enough, require_zones
from goodparts.decision.good_scores import (
    COPIES,
    LEAVE_ONE_OUT,
    GoodScores,
    GoodScoresCollector,
    zone_names,
    zone_parts,
)
from goodparts.decision.leave_one_out import HeldOutScore
from goodparts.errors import DatasetError
from goodparts.features.extract import Extractor, GoodFeatures, extract, learn_whitening
from goodparts.model.budget import finest_within
from goodparts.model.model import Model
from goodparts.model.predictor import with_precision_check
from goodparts.model.records import Clock, FitRecord, Provenance
from goodparts.preprocessing.pose import require_use
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.proportions import in_proportion
from goodparts.preprocessing.roi import EVERYWHERE, Roi
from goodparts.preprocessing.roi_file import read_roi
from goodparts.preprocessing.statistics import ImageStatistics, with_distance
from goodparts.progress import silent
from goodparts.recipe.recipe import Recipe

_ROBUST_ROUNDS = 3
_ROBUST_DEVIATIONS = 5.0  # robust standard deviations above the median
_ROBUST_SHARE = 0.2  # of the good images that are left out at the most


def fit(
    source: Good,
    good: GoodImages,
    recipe: Recipe,
    *,
    offline: bool,
    network: MakesBackbone | None = None,
    budget_ms: float | None = None,
) -> Model:
    """Learn a model from images of good parts only; see `Inspector.fit`. `source`: where they came from.

    `network` takes the place of the recipe's backbone.
    """
    if len(good) == 1 and recipe.tiling:
        raise DatasetError(
            f"{good.source}: 1 good image, and with tiling = {recipe.tiling} at least 2 are needed; add one, or leave "
            "out tiling"
        )
    require_enough(recipe, len(good))
    roi = _roi_of(recipe, good)
    clock = Clock()
    if network is None:
        backbone = load_backbone(recipe.backbone, offline=offline)
    else:
        recipe = recipe.replace({"backbone": network.name})
        backbone = network.to_backbone(recipe.image_size)
    milliseconds = None
    if budget_ms is not None:
        size = finest_within(recipe, good, backbone, budget_ms)
        recipe, milliseconds = size.recipe, round(size.milliseconds, 2)
    if not backbone.fixed_size:
        recipe = in_proportion(recipe, good)
    recipe = with_layers(depths.settled(recipe, len(good)), backbone)
    backbone = cut_down(backbone, recipe)
    extractor = Extractor(backbone, recipe)
    clock.lap("load")
    preprocessor = Preprocessor.learn(good, recipe, extractor.grid, roi)
    clock.lap("preprocessing")
    whitening = learn_whitening(good, extractor, preprocessor)
    if any(whitening):
        extractor = Extractor(backbone, recipe, whitening)
        clock.lap("whitening")
    with extract(good, extractor, preprocessor) as features:
        copy_extractor = extractor if len(good) == 1 else None  # copies of an only image are still to come
        del extractor
        clock.lap("features")
        require_use(features.failures, recipe)
        features = without_rechecked(features, recipe)
        if recipe.robust and len(good) > 1:
            features = features.without(_outliers(features, recipe, good))
            clock.lap("robust")
        banks = depths.choose(
            features, recipe, progress=lambda done, total: good.progress("memory bank", done, total)
        )
        clock.lap("memory bank")
        names = good.names
        statistics: tuple[ImageStatistics, ...] = ()
        if copy_extractor is None:
            fusion, scored = leave_one_out.hold_out(
                features, banks, recipe, workers=good.workers, progress=good.progress
            )
            training_set, statistics = collect_scores(scored, features, names)
        else:
            fusion, training_set = _scores_of_copies(good, names[0], copy_extractor, banks, preprocessor)
        clock.lap("calibration")
    kept = ~features.left_out
    model = Model(
        recipe=recipe,
        backbone=backbone,
        preprocessor=preprocessor.settled({name: of[kept] for name, of in features.measured.items()}),
        whitening=whitening[0],
        bank=banks[0],
        coarser=tuple(map(Depth, whitening[1:], banks[1:])),
        fusion=fusion,
        calibration=Calibration(
            training_set=training_set,
            calibration_set=None,
            decision=decide(training_set, recipe),
            digests=features.digests,
            left_out=tuple(names[index] for index in np.flatnonzero(features.left_out)),
            statistics=statistics,
        ),
        provenance=Provenance.of(good, features),
        fit_record=FitRecord.of(source, clock, milliseconds),
    )
    return with_precision_check(model, good)


def without_rechecked(features: GoodFeatures, recipe: Recipe) -> GoodFeatures:
    """Images that would be RECHECK for their pose have no part in the bank and in its threshold."""
    if recipe.pose_failure != "recheck":
        return features
    return features.without(np.array([bool(why) for why in features.failures], dtype=bool))


def collect_scores(
    scored: Generator[HeldOutScore], features: GoodFeatures, names: Sequence[str]
) -> tuple[GoodScores, tuple[ImageStatistics, ...]]:
    """Scores and statistics of good images that have a part in the bank, from held-out scores, which it closes."""
    preprocessor = features.preprocessor
    collector = GoodScoresCollector(LEAVE_ONE_OUT, zone_names(preprocessor))
    statistics = []
    with closing(scored):  # no worker may read the features once they are gone
        for held_out in scored:
            index, distance_grid, anomaly_map = held_out.index, held_out.distance_grid, held_out.anomaly_map
            if not features.left_out[index]:
                zones = zone_parts(preprocessor, distance_grid, anomaly_map)
                collector.add(names[index], held_out.score, anomaly_map, zones)
                statistics.append(with_distance(features.statistics[index], distance_grid))
    return collector.result(preprocessor.recipe.pixel_threshold_quantile), tuple(statistics)


def _roi_of(recipe: Recipe, good: GoodImages) -> Roi:
    """The region of interest of a recipe; RecipeError if its file is none, or its zones don't go with the rules."""
    if not recipe.roi:
        return EVERYWHERE
    roi = read_roi(recipe.roi, good.first_size)
    if roi.several:
        require_zones(recipe)
    return roi


def _outliers(features: GoodFeatures, recipe: Recipe, good: GoodImages) -> NDArray[np.bool_]:
    """Which good images look too unlike the rest, (n,) bool.

    Those whose held-out score lies more than `_ROBUST_DEVIATIONS` robust standard deviations (1.4826 median absolute
    deviations) above the median, against a bank without all that were found so far; in a few rounds, since bad images
    that are alike shield each other. At most a fifth of the images is left out, beside those that are already.
    """
    before = features.left_out
    outliers = before
    for done in range(_ROBUST_ROUNDS):
        others = features.without(outliers)
        banks = depths.choose(others, recipe)
        held_out = leave_one_out.hold_out(others, banks, recipe, workers=good.workers, progress=silent)[1]
        with closing(held_out) as scored:
            scores = np.array([held_out.score for held_out in scored])
        middle = np.median(scores[~outliers])
        spread = 1.4826 * np.median(np.abs(scores[~outliers] - middle))
        most = np.sort(scores)[-1 - int(_ROBUST_SHARE * len(scores))]
        found = before | (scores > max(middle + _ROBUST_DEVIATIONS * spread, most))
        good.progress("robust", done + 1, _ROBUST_ROUNDS)
        if np.array_equal(found, outliers):
            break
        outliers = found
    return outliers


def _scores_of_copies(
    good: GoodImages,
    name: str,
    extractor: Extractor,
    banks: Sequence[MemoryBank],
    preprocessor: Preprocessor,
) -> tuple[Fusion | None, GoodScores]:
    """The fusion of depths, and scores of copies of the only good image that there is."""
    collector = GoodScoresCollector(COPIES, zone_names(preprocessor))
    fusion, scored = one_image.score(good.pixels(0), extractor, banks, preprocessor, good.progress)
    for copy, found in scored:
        zones = zone_parts(preprocessor, np.nan_to_num(found.distance_grid), found.anomaly_map)
        collector.add(one_image.name(copy, name), found.score, found.anomaly_map, zones)
    return fusion, collector.result(preprocessor.recipe.pixel_threshold_quantile)
