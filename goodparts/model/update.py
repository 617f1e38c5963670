"""Updating: a model learns from more good images."""

from __future__ import annotations

from dataclasses import replace

from goodparts.bank import depths
from goodparts.data.good_images import Good, GoodImages
from goodparts.decision import leave_one_out
from goodparts.decision.collected import collect
from goodparts.decision.good_scores import COPIES
from goodparts.errors import DatasetError
from goodparts.features.extract import Extractor, extract
from goodparts.features.facts import Facts
from goodparts.model.fit import rechecked
from goodparts.model.model import Model
from goodparts.model.predictor import with_precision_check
from goodparts.model.records import Clock, FitRecord, Provenance


def update(model: Model, source: Good, good: GoodImages) -> Model:
    """A model that has learnt from more good images; see `Inspector.update`. `source`: where they came from."""
    recipe, before, preprocessor = model.recipe, model.calibration, model.preprocessor
    clock = Clock()
    workers = preprocessor.max_parallel_images(good.workers)
    digests = good.map(
        lambda index: preprocessor.prepare_good(good, index).digest, range(len(good)), workers=workers
    )
    given = {digest: index for index, digest in enumerate(digests)}
    known = set(before.digests)
    new = [index for digest, index in given.items() if digest not in known]
    if not new:
        raise DatasetError(f"{good.source}: no good image that this model has not learnt from already")
    if before.training_set.source == COPIES and len(new) < 2:
        raise DatasetError(
            f"{good.source}: 1 new good image; a model that was learnt from a single one needs at least 2 more, since "
            "its copies no longer stand in for others then"
        )
    good = good.only([good.images[index] for index in new])
    first = model.provenance.good_images
    extractor = Extractor(model.backbone, recipe, [depth.whitening for depth in model.depths])
    with extract(good, extractor, preprocessor) as features:
        del extractor
        clock.lap("features")
        features = features.without(rechecked(features.failures, recipe))
        if features.left_out.all():
            raise DatasetError(f"{good.source}: no new good image is aligned ({features.failures[0]})")
        banks = depths.extend(
            [depth.bank for depth in model.depths],
            features,
            recipe,
            first_image=first,
            progress=lambda done, total: good.progress("memory bank", done, total),
        )
        clock.lap("memory bank")
        _, scored = leave_one_out.hold_out(
            features,
            banks,
            recipe,
            fusion=model.fusion,
            first_image=first,
            workers=good.workers,
            progress=good.progress,
        )
        collected = collect(scored, features, good.names)
        training_set = collected.scores.result(preprocessor.recipe.pixel_threshold_quantile)
        clock.lap("calibration")
    full = any(  # so that entries may have gone
        0 < depths.recipe_at(recipe, depth).sampling_limit <= bank.most_compared
        for depth, bank in enumerate(banks)
    )
    only_fell = banks[0].local_scale is None and not full  # else distances may have risen
    if before.training_set.source != COPIES:  # which stood in for what there is now
        training_set = before.training_set.joined(training_set)
    calibration = replace(
        before,
        training_set=training_set,
        calibration_set=before.calibration_set if only_fell else None,
        digests=before.digests + features.digests,
        statistics=before.statistics + collected.statistics,
    )
    grown = replace(
        model,
        preprocessor=preprocessor.widened(features.measured),
        bank=banks[0],
        coarser=tuple(
            replace(depth, bank=bank) for depth, bank in zip(model.coarser, banks[1:], strict=True)
        ),
        calibration=calibration.decide(recipe),
        provenance=model.provenance.joined(Provenance.of(good, Facts.of(features)), model.identity),
        fit_record=FitRecord.of(source, clock),
        evaluation=None,
    )
    return with_precision_check(grown, good)
