"""Fitting: from images of good parts to a model, read top to bottom.

images ─► preprocessing ─► whitening ─► features ─► memory banks ─► held-out scores ─► decision
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
from goodparts.decision.collected import Collected, Scores, collect
from goodparts.decision.good_scores import COPIES, GoodScores, GoodScoresCollector, zone_names, zone_parts
from goodparts.errors import DatasetError
from goodparts.features.extract import Extractor, learn_whitening
from goodparts.features.whitening import sample as whitening_sample
from goodparts.model.budget import finest_within
from goodparts.model.model import Model
from goodparts.model.parts import (
    COLLECTED,
    SCORES,
    MakesParts,
    Parts,
    choose_banks,
    hold_out,
    in_this_process,
)
from goodparts.model.predictor import with_precision_check
from goodparts.model.records import Clock, FitRecord, Provenance
from goodparts.preprocessing.pose import require_use
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.proportions import in_proportion
from goodparts.preprocessing.roi import EVERYWHERE, Roi
from goodparts.preprocessing.roi_file import read_roi
from goodparts.preprocessing.statistics import ImageStatistics
from goodparts.progress import silent
from goodparts.recipe.recipe import Recipe

_OF_ONE_IMAGE = "its memory bank has entries of one image alone: raise sampling_ratio or sampling_limit"
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
    make_parts: MakesParts | None = None,
) -> Model:
    """Learn a model from images of good parts only; see `Inspector.fit`. `source`: where they came from.

    `network` takes the place of the recipe's backbone; `make_parts` says where features are made and kept; None: here.
    """
    if len(good) == 1 and recipe.tiling:
        raise DatasetError(
            f"{good.source}: 1 good image, and with tiling = {recipe.tiling} at least 2 are needed; add one, or leave "
            "out tiling"
        )
    if network is not None and make_parts is not None:
        raise DatasetError(
            f"{network.name}: a network of your own is in this process alone, and partitions are fitted by others; "
            "add it (goodparts backbone add), and name it as the recipe's backbone"
        )
    require_enough(recipe, len(good))
    roi = _roi_of(recipe, good)
    clock = Clock()
    # Loading keeps one core busy. A budget is measured, and wants all of them.
    with good.reading_ahead(_seen_first(recipe, len(good)) if budget_ms is None else ()):
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
            extractor = extractor.whitened(whitening)
            clock.lap("whitening")
    with (make_parts or in_this_process)(good, extractor, preprocessor, whitening) as parts:
        copy_extractor = extractor if len(good) == 1 else None  # copies of an only image are still to come
        del extractor
        clock.lap("features")
        facts, names = parts.facts, good.names
        require_use(facts.failures, recipe)
        left_out = rechecked(facts.failures, recipe)
        if recipe.robust and len(good) > 1:
            left_out = _outliers(parts, left_out, recipe, good)
            clock.lap("robust")
        banks = choose_banks(parts, left_out, recipe)
        clock.lap("memory bank")
        statistics: tuple[ImageStatistics, ...] = ()
        if copy_extractor is None:
            fusion, collected = _held_out(parts, banks, left_out, recipe)
            training_set = collected.scores.result(recipe.pixel_threshold_quantile)
            statistics = collected.statistics
        else:
            fusion, training_set = _scores_of_copies(good, names[0], copy_extractor, banks, preprocessor)
        clock.lap("calibration")
    kept = ~left_out
    model = Model(
        recipe=recipe,
        backbone=backbone,
        preprocessor=preprocessor.settled({name: of[kept] for name, of in facts.measured.items()}),
        whitening=whitening[0],
        bank=banks[0],
        coarser=tuple(map(Depth, whitening[1:], banks[1:])),
        fusion=fusion,
        calibration=Calibration(
            training_set=training_set,
            calibration_set=None,
            decision=decide(training_set, recipe),
            digests=facts.digests,
            left_out=tuple(names[index] for index in np.flatnonzero(left_out)),
            statistics=statistics,
        ),
        provenance=Provenance.of(good, facts),
        fit_record=FitRecord.of(source, clock, milliseconds),
    )
    return with_precision_check(model, good)


def _seen_first(recipe: Recipe, images: int) -> Iterable[int]:
    """The images that a fit looks at before all others: those that whitening is learnt from."""
    return whitening_sample(images) if recipe.whitening and not recipe.tiling else ()


def rechecked(failures: Sequence[str], recipe: Recipe) -> NDArray[np.bool_]:
    """Images that would be RECHECK for their pose have no part in the bank and in its threshold, (n,) bool."""
    if recipe.pose_failure != "recheck":
        return np.zeros(len(failures), dtype=bool)
    return np.array([bool(why) for why in failures], dtype=bool)


def _held_out(
    parts: Parts, banks: Sequence[MemoryBank], left_out: NDArray[np.bool_], recipe: Recipe
) -> tuple[Fusion | None, Collected]:
    """How depths become one, and what is kept of the scores of all images against banks without their own entries."""
    if leave_one_out.of_one_image(banks):
        part = parts.whole(_OF_ONE_IMAGE)
        features = part.features.without(left_out)
        fusion, scored = leave_one_out.hold_out(
            features, banks, recipe, workers=part.workers, progress=part.progress
        )
        return fusion, collect(scored, features, part.names)
    fusion, filled = hold_out(parts, banks, left_out, recipe)
    collected = parts.ask(COLLECTED, filled, fusion, recipe, left_out=left_out)
    return fusion, Collected.of_all([of_part[0] for of_part in collected])


def _scores(
    parts: Parts, banks: Sequence[MemoryBank], left_out: NDArray[np.bool_], recipe: Recipe
) -> NDArray[np.float64]:
    """The scores of all images, those left out as well, against banks without their own entries, (n,) float64."""
    if leave_one_out.of_one_image(banks):
        part = parts.whole(_OF_ONE_IMAGE)
        features = part.features.without(left_out)
        return Scores.of(
            leave_one_out.hold_out(features, banks, recipe, workers=part.workers, progress=silent)[1]
        ).values
    fusion, filled = hold_out(parts, banks, left_out, recipe, quiet=True)
    found = parts.ask(SCORES, filled, fusion, recipe, left_out=left_out, quiet=True)
    return np.concatenate([of_part[0].values for of_part in found])


def _roi_of(recipe: Recipe, good: GoodImages) -> Roi:
    """The region of interest of a recipe; RecipeError if its file is none, or its zones don't go with the rules."""
    if not recipe.roi:
        return EVERYWHERE
    roi = read_roi(recipe.roi, good.first_size)
    if roi.several:
        require_zones(recipe)
    return roi


def _outliers(parts: Parts, before: NDArray[np.bool_], recipe: Recipe, good: GoodImages) -> NDArray[np.bool_]:
    """Which good images look too unlike the rest, (n,) bool; `before`: those that are left out already.

    Those whose held-out score lies more than `_ROBUST_DEVIATIONS` robust standard deviations (1.4826 median absolute
    deviations) above the median, against a bank without all that were found so far; in a few rounds, since bad images
    that are alike shield each other. At most a fifth of the images is left out, beside those that are already.
    """
    outliers = before
    for done in range(_ROBUST_ROUNDS):
        banks = choose_banks(parts, outliers, recipe, quiet=True)
        scores = _scores(parts, banks, outliers, recipe)
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
