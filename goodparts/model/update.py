"""Updating: a model learns more good images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from goodparts.bank import sampling
from goodparts.decision import leave_one_out
from goodparts.decision.calibration import COPIES, HELD_OUT, GoodScoresCollector
from goodparts.errors import DatasetError
from goodparts.features.extract import Extractor, GoodFeatures, digest, extract
from goodparts.model.fit import (
    _circumstances,
    _Clock,
    _describe,
    _with_a_verdict,
    called,
    good_images,
    image_names,
    silent,
)
from goodparts.model.model import Model
from goodparts.preprocessing import pose
from goodparts.preprocessing.preprocessor import Progress, Read, Viewing
from goodparts.preprocessing.roi import zone_names, zone_parts
from goodparts.preprocessing.statistics import with_distance

if TYPE_CHECKING:
    from goodparts.model.fit import Good


def learn_on(model: Model, good: Good, *, read: Read, workers: int, progress: Progress | None) -> Model:
    """A model that has learnt from more good images; see `Inspector.update`."""
    recipe, before = model.recipe, model.calibration
    tell = progress or silent
    clock = _Clock()
    whole, _ = model.whole
    given = {
        digest(pose.place(read(image), whole, model.reference).working): image for image in good_images(good)
    }
    known = set(before.digests)
    images = [image for hashed, image in given.items() if hashed not in known]
    if not images:
        raise DatasetError(f"{called(good)}: no good image that this model has not learnt from already")
    if before.learnt.source == COPIES and len(images) < 2:
        raise DatasetError(
            f"{called(good)}: 1 new good image; a model that was learnt from a single one needs at least 2 more, since "
            "its copies no longer stand in for others then"
        )
    first = int(model.data["good_images"])
    extractor = Extractor(model.backbone, recipe, model.whitening)
    viewing = Viewing(recipe, read, workers, tell, model.roi, model.reference, model.tiling)
    with extract(images, extractor, viewing) as features:
        del extractor
        clock.lap("features")
        features = _with_a_verdict(features, recipe)
        if features.left_out.all():
            raise DatasetError(f"{called(good)}: no new good image is aligned ({features.unaligned[0]})")
        bank = sampling.extend(
            model.bank,
            features.features,
            features.eligible,
            recipe,
            first_image=first,
            grid=features.grid,
            progress=lambda done, total: tell("memory bank", done, total),
        )
        clock.lap("memory bank")
        more = GoodScoresCollector(HELD_OUT, zone_names(features.roi))
        names = image_names(images)
        statistics = list(before.statistics)
        scored = leave_one_out.score(features, bank, recipe, first_image=first, workers=workers, tell=tell)
        with closing(scored):
            for one in scored:
                if features.left_out[one.index]:
                    continue
                zones = zone_parts(features.roi, one.distance_grid, one.anomaly_map, whole)
                more.add(names[one.index], one.score, one.anomaly_map, zones)
                statistics.append(with_distance(features.statistics[one.index], one.distance_grid))
        clock.lap("calibration")
    full = 0 < recipe.sampling_limit <= bank.most_met  # so that entries may have gone
    grown = bank.spacing is None and not full  # else distances may have risen
    learnt = more.result(recipe.pixel_threshold_quantile)
    if before.learnt.source != COPIES:  # which stood in for what there is now
        learnt = before.learnt.joined(learnt)
    calibration = replace(
        before,
        learnt=learnt,
        separate=before.separate if grown else None,
        digests=before.digests + features.digests,
        statistics=tuple(statistics),
    )
    return replace(
        model,
        bank=bank,
        calibration=calibration.decide(recipe),
        data={
            **_together(model.data, _describe(images, features, model.roi, recipe)),
            **_not_aligned(model.data, features),
            "parent": model.identity,
        },
        circumstances=_circumstances(good, clock.seconds),
        light=model.light.widened(features.cells) if model.light is not None else None,
    )


def _together(before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, object]:
    """What was learnt from in all, from what was before and what is new; `file_list` is that of the new images."""
    first, more = int(before["good_images"]), int(new["good_images"])
    sizes = Counter(before["image_sizes"]) + Counter(new["image_sizes"])
    seen = first * before["seen_share"] + more * new["seen_share"]
    return {
        **new,
        "good_images": first + more,
        "image_sizes": dict(sizes.most_common()),
        "seen_share": round(seen / (first + more), 6),
    }


def _not_aligned(before: Mapping[str, Any], features: GoodFeatures) -> dict[str, object]:
    """Why how many of all good images were not aligned, for the manifest of a model that learnt on."""
    if "not_aligned" not in before:
        return {}
    return {"not_aligned": dict(Counter(before["not_aligned"]) + Counter(filter(None, features.unaligned)))}
