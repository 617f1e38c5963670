"""Deciding anew without learning anew: other rules, or scores of good images that had no part in the bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.data.images import name_of
from goodparts.decision import calibration
from goodparts.decision.good_scores import (
    CALIBRATION_SET,
    GoodScores,
    GoodScoresCollector,
    zone_names,
    zone_parts,
)
from goodparts.errors import DatasetError, RecipeError
from goodparts.model.model import Model
from goodparts.model.predictor import Predictor
from goodparts.recipe.recipe import Recipe

DECISION_KEYS = (
    "threshold_rule",
    "threshold_sigma",
    "threshold_quantile",
    "threshold_value",
    "false_reject_rate",
    "confidence",
    "pixel_threshold_rule",
    "pixel_threshold_sigma",
    "pixel_threshold_quantile",
    "pixel_threshold_value",
    "minimum_area",
    "quality_gate",
)
"""Recipe keys that can change without learning anew."""


def recalibrate(predictor: Predictor, good: GoodImages | None, changes: Mapping[str, Any]) -> Model:
    """The model with another decision; see `Inspector.calibrate`.

    Args:
        predictor: of the model.
        good: images of good parts that were not learnt from; None: the scores that are there.
        changes: recipe keys of the decision.
    """
    model = predictor.model
    recipe = _changed(model, changes)
    if (
        good is None
        and recipe.pixel_threshold_rule == "pixel_quantile"
        and recipe.pixel_threshold_quantile != model.recipe.pixel_threshold_quantile
    ):
        raise RecipeError(
            "pixel_threshold_quantile: pixels are not kept, so another quantile of them has to be counted anew; "
            "give good images too, or take peak_quantile"
        )
    calibration_set = None if good is None else calibration_set_scores(predictor, good, recipe)
    return replace(
        model,
        recipe=recipe,
        preprocessor=replace(model.preprocessor, recipe=recipe),
        calibration=model.calibration.decide(recipe, calibration_set=calibration_set),
        evaluation=None,
    )


def first_decision(predictor: Predictor, good: GoodImages) -> Model:
    """The model as it decides by good images that had no part in the bank, without the decision nobody has used yet."""
    model = predictor.model
    calibration_set = calibration_set_scores(predictor, good, model.recipe)
    decided = model.calibration.decide(model.recipe, calibration_set=calibration_set)
    return model.with_calibration(replace(decided, history=()))


def _changed(model: Model, changes: Mapping[str, Any]) -> Recipe:
    """The model's recipe with keys of the decision changed; RecipeError for others, and for those without effect."""
    for key in changes:
        if key not in DECISION_KEYS:
            raise RecipeError(
                f"{key}: calibration changes the decision only ({', '.join(DECISION_KEYS)}); fit anew to change it"
            )
    recipe = model.recipe.replace(changes)
    calibration.require_effect(model.recipe, recipe)
    decided = model.calibration.decision
    if recipe.threshold_rule == "f1" and (decided.threshold_rule != "f1" or decided.threshold is None):
        raise RecipeError(
            "threshold_rule: f1 needs a labelled set, which calibration does not show it; take a rule that "
            "needs good images only, such as threshold_rule = sigma, or fit anew with `goodparts run`"
        )
    return recipe


def calibration_set_scores(predictor: Predictor, good: GoodImages, recipe: Recipe) -> GoodScores:
    """Scores of good images that had no part in the bank, each once; DatasetError if some had."""
    names = good.names
    calibration.require_enough(recipe, len(good))
    preprocessor, known = predictor.model.preprocessor, set(predictor.model.calibration.digests)

    def score_one(
        index: int,
    ) -> tuple[float, NDArray[np.float32], list[tuple[float, NDArray[np.float32]]], str] | None:
        measured = predictor.measure(good.pixels(index), name_of(good.images[index]))
        image = measured.image
        if recipe.pose_failure == "recheck" and image.pose is not None and image.pose.failure:
            return None  # sent back
        anomaly_map = preprocessor.to_image(measured.distance_grid, image.frame)
        zones = zone_parts(preprocessor, measured.distance_grid, anomaly_map)
        return measured.score, anomaly_map, zones, image.digest

    predictor.open()  # once, before there are threads
    collector = GoodScoresCollector(CALIBRATION_SET, zone_names(preprocessor))
    learnt_from = []
    taken: set[str] = set()
    sent_back = 0
    workers = preprocessor.max_parallel_images(good.workers)
    for done, found in enumerate(good.map(score_one, range(len(good)), workers=workers), 1):
        good.progress("calibration", done, len(good))
        if found is None:
            sent_back += 1
            continue
        score, anomaly_map, zones, digest = found
        if digest in taken:
            continue
        taken.add(digest)
        collector.add(names[done - 1], score, anomaly_map, zones)
        if digest in known:
            learnt_from.append(names[done - 1])
    if len(taken) < 2 and sent_back:
        raise DatasetError(
            f"{good.source}: {sent_back} of {len(good)} images are not aligned and would be RECHECK; at least 2 others "
            "are needed"
        )
    if len(taken) < 2:
        raise DatasetError(
            f"{good.source}: the same image {len(good)} times; at least 2 that differ are needed"
        )
    if learnt_from:
        raise DatasetError(
            f"{good.source}: {len(learnt_from)} of {len(good)} images were learnt from, such as {learnt_from[0]}; "
            "calibration needs good images that had no part in the memory bank: leave these out"
        )
    calibration.require_enough(recipe, len(taken))
    return collector.result(recipe.pixel_threshold_quantile)
