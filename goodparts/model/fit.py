"""Fitting: from images of good parts to a model, read top to bottom.

images ─► whitening ─► features ─► memory bank ─► held-out scores ─► decision
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.backbones.backbone import cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import sampling
from goodparts.bank.memory_bank import MemoryBank
from goodparts.data import dataset
from goodparts.data.images import ImageLike
from goodparts.decision import leave_one_out, one_image
from goodparts.decision.calibration import (
    COPIES,
    HELD_OUT,
    Calibration,
    GoodScores,
    GoodScoresCollector,
    decide,
    require_enough,
    require_zones,
)
from goodparts.errors import DatasetError
from goodparts.features.extract import Extractor, GoodFeatures, extract, learn_whitening
from goodparts.model.model import Model
from goodparts.preprocessing import framing, light, pose
from goodparts.preprocessing import tiling as tiles
from goodparts.preprocessing.light import Light
from goodparts.preprocessing.preprocessor import Progress, Read, Viewing
from goodparts.preprocessing.roi import Roi, require_usable, zone_names, zone_parts
from goodparts.preprocessing.roi_file import read_roi
from goodparts.preprocessing.statistics import ImageStatistics, with_distance
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text

Good = str | os.PathLike[str] | Sequence[ImageLike]
"""A folder of good images (a data set's `train/good` is found in it), or the images themselves."""

_ROBUST_ROUNDS = 3
_ROBUST_DEVIATIONS = 5.0  # robust standard deviations above the median
_ROBUST_SHARE = 0.2  # of the good images that are left out at the most


def fit(
    good: Good, recipe: Recipe, *, read: Read, workers: int, offline: bool, progress: Progress | None
) -> Model:
    """Learn a model from images of good parts only; see `Inspector.fit`."""
    images = good_images(good)
    if len(images) == 1 and recipe.tiling:
        raise DatasetError(
            f"{called(good)}: 1 good image, and with tiling = {recipe.tiling} at least 2 are needed; add one, or leave "
            "out tiling"
        )
    require_enough(recipe, len(images))
    roi = read_roi(recipe.roi, lambda: read(images[0]).shape[:2]) if recipe.roi else None
    if roi is not None and roi.several:
        require_zones(recipe)
    tell = progress or silent
    clock = _Clock()
    backbone = load_backbone(recipe.backbone, offline=offline)
    recipe = with_layers(recipe, backbone)
    backbone = cut_down(backbone, recipe)
    extractor = Extractor(backbone, recipe)
    tiling = tiles.plan(read(images[0]).shape[:2], recipe, extractor.grid) if recipe.tiling else None
    whole, grid = tiles.whole(tiling, recipe, extractor.grid)
    if roi is not None:
        require_usable(roi, whole, grid)
    clock.lap("load")
    reference = None
    if recipe.pose != "as_is":
        reference = pose.learn(images, recipe, read=read, workers=workers, tell=tell)
        clock.lap("pose")
    viewing = Viewing(recipe, read, workers, tell, roi, reference, tiling)
    whitening = learn_whitening(images, extractor, viewing)
    if whitening is not None:
        extractor = Extractor(backbone, recipe, whitening)
        clock.lap("whitening")
    with extract(images, extractor, viewing) as features:
        alone = extractor if len(images) == 1 else None  # copies of an only image are still to come
        del extractor
        clock.lap("features")
        pose.require_use(features.unaligned, recipe)
        features = _with_a_verdict(features, recipe)
        if recipe.robust and len(images) > 1:
            features = features.without(_unlike_the_rest(features, recipe, workers, tell))
            clock.lap("robust")
        bank = sampling.choose(
            features.features,
            features.eligible,
            recipe,
            grid=features.grid,
            progress=lambda done, total: tell("memory bank", done, total),
        )
        clock.lap("memory bank")
        names = image_names(images)
        statistics: tuple[ImageStatistics, ...] = ()
        if alone is None:
            learnt, statistics = _held_out_scores(features, bank, recipe, names, workers, tell)
        else:
            learnt = _scores_of_copies(read(images[0]), names[0], alone, bank, recipe, roi, tell)
        clock.lap("calibration")
    return Model(
        recipe=recipe,
        backbone=backbone,
        bank=bank,
        calibration=Calibration(
            learnt=learnt,
            separate=None,
            decision=decide(learnt, recipe),
            digests=features.digests,
            left_out=tuple(names[index] for index in np.flatnonzero(features.left_out)),
            statistics=statistics,
        ),
        grid=features.grid,
        data=_describe(images, features, roi, recipe),
        circumstances=_circumstances(good, clock.seconds),
        roi=roi,
        light=_light(features, recipe),
        whitening=whitening,
        reference=reference,
        tiling=tiling,
    )


def good_images(good: Good, least: int = 1) -> Sequence[ImageLike]:
    """The images of a folder, or those given; DatasetError if there are fewer than `least`."""
    if isinstance(good, str | os.PathLike):
        images: Sequence[ImageLike] = dataset.good_images(good)
    else:  # left as they are: they may be made when asked for, and too many to have all at once
        images = good if isinstance(good, Sequence) else list(good)
    if len(images) < least:
        raise DatasetError(
            f"{called(good)}: {len(images)} good image(s); at least {least} needed; 20 are a start, 200 are good"
        )
    return images


def image_names(images: Sequence[ImageLike]) -> list[str]:
    """File names below the folder they share; numbers where not all are files."""
    paths = _paths(images)
    if paths is None:
        return [f"image {index}" for index in range(len(images))]
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def called(good: Good) -> str:
    """What to call these images in a message."""
    return str(good) if isinstance(good, str | os.PathLike) else "good"


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def _with_a_verdict(features: GoodFeatures, recipe: Recipe) -> GoodFeatures:
    """Images that would be RECHECK for their pose have no part in the bank and in its threshold."""
    if recipe.pose_failure != "recheck":
        return features
    return features.without(np.array([bool(why) for why in features.unaligned], dtype=bool))


def _unlike_the_rest(
    features: GoodFeatures, recipe: Recipe, workers: int, tell: Progress
) -> NDArray[np.bool_]:
    """Which good images look too unlike the rest, (n,) bool.

    Those whose held-out score lies more than `_ROBUST_DEVIATIONS` robust standard deviations (1.4826 median absolute
    deviations) above the median, against a bank without all that were found so far; in a few rounds, since bad images
    that are alike shield each other. At most a fifth of the images is left out, beside those that are already.
    """
    before = features.left_out
    out = before
    for done in range(_ROBUST_ROUNDS):
        rest = features.without(out)
        bank = sampling.choose(features.features, rest.eligible, recipe, grid=features.grid)
        with closing(leave_one_out.score(rest, bank, recipe, workers=workers, tell=silent)) as scored:
            scores = np.array([one.score for one in scored])
        middle = np.median(scores[~out])
        spread = 1.4826 * np.median(np.abs(scores[~out] - middle))
        most = np.sort(scores)[-1 - int(_ROBUST_SHARE * len(scores))]
        found = before | (scores > max(middle + _ROBUST_DEVIATIONS * spread, most))
        tell("robust", done + 1, _ROBUST_ROUNDS)
        if np.array_equal(found, out):
            break
        out = found
    return out


def _held_out_scores(
    features: GoodFeatures,
    bank: MemoryBank,
    recipe: Recipe,
    names: Sequence[str],
    workers: int,
    tell: Progress,
) -> tuple[GoodScores, tuple[ImageStatistics, ...]]:
    """Scores and statistics of the good images that were learnt from, each against a bank without it."""
    scored = leave_one_out.score(features, bank, recipe, workers=workers, tell=tell)
    whole, _ = tiles.whole(features.tiling, recipe, features.grid)
    collector = GoodScoresCollector(HELD_OUT, zone_names(features.roi))
    statistics = []
    with closing(scored):  # no worker may read the features once they are gone
        for one in scored:
            if not features.left_out[one.index]:
                zones = zone_parts(features.roi, one.distance_grid, one.anomaly_map, whole)
                collector.add(names[one.index], one.score, one.anomaly_map, zones)
                statistics.append(with_distance(features.statistics[one.index], one.distance_grid))
    return collector.result(recipe.pixel_threshold_quantile), tuple(statistics)


def _scores_of_copies(
    pixels: NDArray[np.uint8],
    name: str,
    extractor: Extractor,
    bank: MemoryBank,
    recipe: Recipe,
    roi: Roi | None,
    tell: Progress,
) -> GoodScores:
    """Scores of copies of the only good image that there is."""
    collector = GoodScoresCollector(COPIES, zone_names(roi))
    for copy, one in one_image.score(pixels, extractor, bank, recipe, roi, tell):
        zones = zone_parts(roi, np.nan_to_num(one.distance_grid), one.anomaly_map, recipe)
        collector.add(one_image.name(copy, name), one.score, one.anomaly_map, zones)
    return collector.result(recipe.pixel_threshold_quantile)


def _light(features: GoodFeatures, recipe: Recipe) -> Light | None:
    """The light of the images that were learnt from, if images are to be brought to it."""
    if recipe.light == "as_is":
        return None
    looked_at = None if features.roi is None else features.roi.looked_at(recipe, features.grid)
    return light.learn(features.cells[~features.left_out], looked_at)


def _describe(
    images: Sequence[ImageLike], features: GoodFeatures, roi: Roi | None, recipe: Recipe
) -> dict[str, object]:
    """What was learnt from, for the manifest; part of the identity, so no places and no times."""
    paths, frames = _paths(images), features.frames
    sizes = Counter(size_text(frame.image_size) for frame in frames)
    share = framing.seen_share if roi is None else roi.seen_share
    described: dict[str, object] = {
        "good_images": len(images),
        "image_sizes": dict(sizes.most_common()),
        "seen_share": round(sum(share(frame) * n for frame, n in Counter(frames).items()) / len(frames), 6),
    }
    if recipe.pose != "as_is":
        described["not_aligned"] = dict(Counter(filter(None, features.unaligned)).most_common())
    if paths is not None:
        common = os.path.commonpath([path.absolute().parent for path in paths])
        described["file_list"] = dataset.hash_file_list([path.absolute() for path in paths], common)
    return described


def _paths(images: Sequence[ImageLike]) -> list[Path] | None:
    """Their paths; None where not all are files."""
    paths = []
    for image in images:
        if not isinstance(image, str | os.PathLike):
            return None
        paths.append(Path(image))
    return paths


def _circumstances(good: Good, seconds: Mapping[str, float]) -> dict[str, object]:
    versions = {"python": platform.python_version()}
    for package in ("goodparts", "numpy", "openvino", "onnx", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "fitted": datetime.now(UTC).isoformat(timespec="seconds"),
        "fitted_on": str(Path(good).absolute())
        if isinstance(good, str | os.PathLike)
        else "images in memory",
        "machine": platform.machine(),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "versions": versions,
    }


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage], self._began = now - self._began, now
