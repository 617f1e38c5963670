"""`Inspector`: learns from good images, then inspects.

inspector = Inspector(Recipe(backbone="resnet50.onnx")).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.score / inspection.threshold, inspection.p_value)
inspector.save("part.goodparts")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data import dataset
from goodparts.data.images import PIXEL_LIMIT, ImageLike, name_of, read_image
from goodparts.decision import calibration, quality_gate
from goodparts.decision.inspection import BAD, GOOD, RECHECK, Inspection, ZoneScore
from goodparts.decision.regions import find_regions
from goodparts.decision.verdict import segment
from goodparts.engines.precision import SAMPLE, UNCHECKED, PrecisionCheck, has_bf16, in_use, margin
from goodparts.errors import DatasetError, ImageError, ModelError, RecipeError
from goodparts.features import extract as features
from goodparts.model import file as model_file
from goodparts.model import fit as fitting
from goodparts.model.fit import Good
from goodparts.model.model import Model
from goodparts.model.update import learn_on
from goodparts.preprocessing import framing, pose
from goodparts.preprocessing import statistics as image_statistics
from goodparts.preprocessing import tiling as tiles
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.pose import Placed
from goodparts.preprocessing.preprocessor import Progress
from goodparts.preprocessing.roi import cells_looked_at, zone_names, zone_parts
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.data.dataset import Dataset
    from goodparts.decision.drift import Drift
    from goodparts.engines.openvino import Engine
    from goodparts.evaluation.evaluation import Evaluation
    from goodparts.preprocessing.statistics import ImageStatistics

Result = TypeVar("Result")

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


class Inspector:
    """Learns what good parts look like, then inspects parts.

    Args:
        recipe: the settings; the default preset if none.
        workers: threads; None: one more than there are cores.
        pixel_limit: files of more pixels are refused before they are decoded; None: 100 million.
        offline: never ask the network for a backbone.
    """

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        workers: int | None = None,
        pixel_limit: int | None = None,
        offline: bool = False,
    ) -> None:
        self.recipe = recipe if recipe is not None else Recipe()
        self.workers = workers if workers is not None else parallel.default_workers()
        self.pixel_limit = pixel_limit if pixel_limit is not None else PIXEL_LIMIT
        self.offline = offline
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """What was learnt; ModelError before `fit`."""
        if self._model is None:
            raise ModelError(
                "this inspector has learnt nothing yet: call fit(good_images) or Inspector.load(path)"
            )
        return self._model

    @classmethod
    def load(cls, path: str | Path, *, workers: int | None = None, pixel_limit: int | None = None) -> Self:
        """An inspector from a model file; ModelError if it is none, damaged or too new."""
        model = model_file.load(path)
        inspector = cls(model.recipe, workers=workers, pixel_limit=pixel_limit)
        inspector._take(model)
        return inspector

    def save(self, path: str | Path) -> Path:
        """Write the model file, whole or not at all; returns its path."""
        return model_file.save(self.model, path)

    def export(self, path: str | Path, *, format: str = "onnx", precision: str = "f32") -> Path:
        """Write what `inspect` runs as a file for other programs; see `goodparts.model.export.export`."""
        from goodparts.model.export import export

        return export(self.model, path, format=format, precision=precision)

    def fit(self, good: Good, *, calibrate_on: Good | None = None, progress: Progress | None = None) -> Self:
        """Learn from images of good parts only.

        Args:
            good: a folder (a data set's `train/good` is found in it), or the images themselves.
            calibrate_on: more good images, which have no part in the memory bank: the threshold rests on them.
            progress: called with (stage, done, total).

        Raises:
            DatasetError: no image.
            ImageError: one of them can't be read.
            BackboneError: the backbone or a layer of it is not there.
            RecipeError: the threshold's rule needs more images.
        """
        images = fitting.good_images(good)
        model = fitting.fit(
            good,
            self.recipe,
            read=self._read,
            workers=self.workers,
            offline=self.offline,
            progress=progress,
        )
        self._learn(model, images, progress)
        if calibrate_on is not None:
            separate = self._separate_scores(calibrate_on, self.recipe, progress or fitting.silent)
            first = self.model.calibration.decide(self.recipe, separate=separate)
            first = replace(first, history=())  # nobody has used the decision before this one
            self._take(self.model.with_calibration(first))
        return self

    def update(self, good: Good, *, progress: Progress | None = None) -> Self:
        """Learn on from more good images: the greedy choice goes on from the bank that is there.

        Images that were learnt from already are passed over. The new model names its parent. Held-out scores of earlier
        images stay as they were. Without `density_neighbours` a larger bank only lowers them; with it, or once
        `sampling_limit` is reached, they may be a little low: then images that were not learnt from decide no longer,
        and `calibrate` on such images is advised.

        Raises:
            DatasetError: no image that is new.
            ImageError: one of them can't be read.
        """
        images = fitting.good_images(good)
        model = learn_on(self.model, good, read=self._read, workers=self.workers, progress=progress)
        self._learn(model, images, progress)
        return self

    def calibrate(
        self,
        good: Good | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Decide anew without learning anew; the earlier decision stays in the model's history.

        Args:
            good: images of good parts that were not learnt from; they alone decide from now on. None: the scores that
                are there.
            changes: recipe keys of the decision: threshold_*, false_reject_rate, confidence, pixel_threshold_*,
                minimum_area.
            progress: called with (stage, done, total).

        Raises:
            DatasetError: fewer than two images, or some of them were learnt from.
            RecipeError: a key that is not of the decision, or not of its rule; a rule that needs more images; an oracle
                that has seen no labelled set.
        """
        for key in changes or {}:
            if key not in DECISION_KEYS:
                raise RecipeError(
                    f"{key}: calibration changes the decision only ({', '.join(DECISION_KEYS)}); fit anew to change it"
                )
        recipe = self.model.recipe.replace(changes or {})
        calibration.require_effect(self.model.recipe, recipe)
        decided = self.model.calibration.decision
        if recipe.threshold_rule == "f1" and (decided.threshold_rule != "f1" or decided.threshold is None):
            raise RecipeError(
                "threshold_rule: f1 needs a labelled set, which calibration does not show it; take a rule that "
                "needs good images only, such as threshold_rule = sigma, or fit anew with `goodparts run`"
            )
        if (
            good is None
            and recipe.pixel_threshold_rule == "pixel_quantile"
            and recipe.pixel_threshold_quantile != self.model.recipe.pixel_threshold_quantile
        ):
            raise RecipeError(
                "pixel_threshold_quantile: pixels are not kept, so another quantile of them has to be counted anew; "
                "give good images too, or take peak_quantile"
            )
        separate = None if good is None else self._separate_scores(good, recipe, progress or fitting.silent)
        decision = self.model.calibration.decide(recipe, separate=separate)
        self._take(replace(self.model, recipe=recipe, calibration=decision))
        return self

    def inspect(self, image: ImageLike) -> Inspection:
        """Inspect one image: a path, the bytes of a file, or a uint8 array (H, W, 3) RGB or (H, W) grey."""
        return self.inspect_pixels(self._read(image), _path_of(image))

    def inspect_pixels(
        self, pixels: NDArray[np.uint8], path: Path | None = None, *, alone: bool = True
    ) -> Inspection:
        """Inspect pixels (H, W, 3) uint8 RGB that were read from `path`; `alone` unless others run at the same time."""
        with parallel.small_products():
            return self._inspect(self._single if alone else self._many, pixels, path)

    @overload
    def inspect_many(
        self, images: Iterable[ImageLike], *, on_error: Literal["raise"] = "raise", recognise: bool = False
    ) -> Iterator[Inspection]: ...

    @overload
    def inspect_many(
        self, images: Iterable[ImageLike], *, on_error: Literal["return"], recognise: bool = False
    ) -> Iterator[Inspection | ImageError]: ...

    @overload
    def inspect_many(
        self,
        images: Iterable[ImageLike],
        then: Callable[[int, NDArray[np.uint8], Inspection], Result],
        *,
        on_error: Literal["raise"] = "raise",
        recognise: bool = False,
    ) -> Iterator[Result]: ...

    @overload
    def inspect_many(
        self,
        images: Iterable[ImageLike],
        then: Callable[[int, NDArray[np.uint8], Inspection], Result],
        *,
        on_error: Literal["return"],
        recognise: bool = False,
    ) -> Iterator[Result | ImageError]: ...

    def inspect_many(
        self,
        images: Iterable[ImageLike],
        then: Callable[[int, NDArray[np.uint8], Inspection], Any] | None = None,
        *,
        on_error: Literal["raise", "return"] = "raise",
        recognise: bool = False,
    ) -> Iterator[Any]:
        """Inspect several images at a time; results in order. Faster than `inspect` in a loop.

        Args:
            images: as `inspect` takes them.
            then: called in the worker with (index, pixels (H, W, 3) uint8, inspection); its result comes out instead.
            on_error: what becomes of an image that can't be read or inspected: "raise" ends it all with its ImageError,
                "return" gives that error in the image's place and goes on.
            recognise: whether to look for images that were learnt from.

        Raises:
            ImageError: with `on_error = "raise"`, where that image's result would have come.
            ValueError: `on_error` is something else.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error: expected raise or return, found {on_error!r}")
        engine = self._many  # compiled here, once

        def one(item: tuple[int, ImageLike]) -> Any:
            index, image = item
            try:
                pixels = self._read(image)
                inspection = self._inspect(engine, pixels, _path_of(image), recognise)
            except ImageError as error:
                if on_error == "raise":
                    raise
                return error
            return inspection if then is None else then(index, pixels, inspection)

        return parallel.ordered(one, enumerate(images), workers=self._abreast)

    def score_many(self, images: Iterable[ImageLike]) -> Iterator[float]:
        """Only the anomaly scores, in order; needs no threshold."""
        engine = self._many

        def one(image: ImageLike) -> float:
            _, distances, score = self._measure(engine, self._read(image), name_of(image))
            return self._judged(distances, score)[0]

        return parallel.ordered(one, images, workers=self._abreast)

    def evaluate(self, data: Dataset | str | os.PathLike[str]) -> Evaluation:
        """Inspect a labelled test set (its folder, or a `Dataset`); see `goodparts.evaluation.evaluation.evaluate`."""
        from goodparts.evaluation.evaluation import evaluate

        return evaluate(self, dataset.read_dataset(data) if isinstance(data, str | os.PathLike) else data)

    def drift(self, *, seed: int = 0) -> Drift:
        """Watch a stream of inspections for change against calibration.

        Feed it `drift.add(inspection.score, inspection.statistics)` for every part; statistics come with the quality
        gate on.

        Raises:
            ModelError: too few good images to tell change from chance.
        """
        from goodparts.decision.drift import MINIMUM_CALIBRATION, Drift

        decision = self.model.calibration
        if decision.used.images < MINIMUM_CALIBRATION:
            raise ModelError(
                f"drift needs at least {MINIMUM_CALIBRATION} good images in calibration, found {decision.used.images}"
            )
        enough = len(decision.statistics) >= MINIMUM_CALIBRATION
        return Drift(decision.scores, decision.statistics if enough else (), seed=seed)

    def adopt_oracle(self, threshold: float) -> None:
        """Decide with the F1-optimal threshold of a labelled set from now on, labelled as an oracle."""
        self._model = self.model.with_calibration(self.model.calibration.with_oracle(threshold))

    @property
    def precision(self) -> str:
        """What inspections are computed in on this machine: "f32" or "bf16"."""
        return in_use(self.recipe, self.model.precision)

    # ---- inside

    def _learn(self, model: Model, images: Sequence[ImageLike], tell: Progress | None) -> None:
        self._take(model)
        self._take(replace(model, precision=self._check_precision(images, tell or fitting.silent)))

    def rest(self) -> None:
        """Let go of the compiled engines and their memory; the next inspection compiles them anew."""
        for engine in ("_single", "_many"):
            self.__dict__.pop(engine, None)

    def _take(self, model: Model) -> None:
        self._model, self.recipe = model, model.recipe
        self.__dict__.pop("_margin", None)
        self.rest()

    def _check_precision(self, images: Sequence[ImageLike], tell: Progress) -> PrecisionCheck:
        """How far bf16 moves the scores of some of these good images; not measured where it would not be used."""
        if self.recipe.precision == "f32" or not has_bf16():
            return UNCHECKED
        sample = [images[index] for index in range(0, len(images), -(-len(images) // SAMPLE))]
        engines = [self._pipeline(throughput=True, precision=name) for name in ("f32", "bf16")]

        def scores(image: ImageLike) -> list[float]:
            pixels = self._read(image)
            return [self._measure(engine, pixels, name_of(image))[2] for engine in engines]

        found = []
        for pair in parallel.ordered(scores, sample, workers=self._abreast):
            found.append(pair)
            tell("precision", len(found), len(sample))
        return PrecisionCheck.compare(*zip(*found, strict=True))

    @cached_property
    def _margin(self) -> float:
        return margin(self.precision, self.model.precision)

    @property
    def _abreast(self) -> int:
        return tiles.abreast(self.workers, self.recipe)

    def _read(self, image: ImageLike) -> NDArray[np.uint8]:
        return read_image(image, pixel_limit=self.pixel_limit)

    @cached_property
    def _single(self) -> Engine:
        return self._pipeline(throughput=False)

    @cached_property
    def _many(self) -> Engine:
        return self._pipeline(throughput=True)

    def _pipeline(self, *, throughput: bool, precision: str | None = None) -> Engine:
        from goodparts.bank.search_graph import side_by_side
        from goodparts.engines.openvino import Engine

        shapes: dict[str, tuple[int, ...]] = {"image": (1, *self.recipe.image_size, 3)}
        if self.model.asks_valid:
            shapes["valid"] = (1, *self.model.grid)
        if self.model.asks_tile:
            shapes["tile"] = (1,)
        bank = self.model.bank
        engine = Engine(
            self.model.pipeline(),
            shapes,
            throughput=throughput
            and self.model.tiling is None
            and side_by_side(bank, self.model.grid, self.recipe),
            precision=precision or self.precision,
        )
        vars(bank).pop("search_bank", None)  # the engine has a copy
        return engine

    def _measure(
        self, engine: Engine, pixels: NDArray[np.uint8], name: object
    ) -> tuple[Placed, NDArray[np.float32], float]:
        """(placed image, distance grid (h, w) with NaN where it did not look, anomaly score of all patches)."""
        roi, tiling = self.model.roi, self.model.tiling
        recipe, grid = self.model.whole
        placed = pose.place(pixels, recipe, self.model.reference)
        frame, working = placed.frame, placed.working
        cells = cells_looked_at(roi, frame, recipe, grid, name)

        def search(
            shown: NDArray[np.uint8], valid: NDArray[np.bool_], tile: int = 0
        ) -> tuple[NDArray[np.float32], float]:
            inputs: dict[str, NDArray[Any]] = {"image": shown[None]}
            if self.model.asks_valid:
                inputs["valid"] = valid[None].astype(np.float32)
            if self.model.asks_tile:
                inputs["tile"] = np.array([tile], dtype=np.int64)
            outputs = engine(inputs)
            return outputs["distance_grid"][0], float(outputs["score"][0])

        if tiling is None:
            distances, score = search(working, cells)
            distances[~cells] = np.nan
        else:
            distances, score = tiling.measure(
                lambda tile: search(tiling.pixels(working, tile), tiling.cells(cells, tile), tile),
                cells,
                recipe,
            )
        return placed, distances, score

    def _judged(self, distances: NDArray[np.float32], score: float) -> tuple[float, tuple[ZoneScore, ...]]:
        """The score that decides, and those of the zones: of several the largest multiple of a zone's threshold."""
        roi, decision = self.model.roi, self.model.calibration.decision
        if roi is None:
            return score, ()
        if not roi.several:
            alone = decision.threshold
            return score, () if alone is None else (ZoneScore(roi.names[0], score, alone),)
        scores = roi.scores(distances, self.model.whole[0])
        zones = tuple(
            ZoneScore(zone.name, found, zone.threshold)
            for zone, found in zip(decision.zones, scores, strict=True)
        )
        return max(zone.score / zone.threshold for zone in zones), zones

    def _map(self, distances: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
        """The anomaly map (H, W) of an image, NaN where it did not look."""
        roi = self.model.roi
        seen = None if roi is None else roi.seen(frame.image_size)
        return framing.anomaly_map(distances, frame, self.recipe.smoothing_sigma, seen)

    def _inspect(
        self, engine: Engine, pixels: NDArray[np.uint8], path: Path | None, recognise: bool = False
    ) -> Inspection:
        name = "image" if path is None else path
        placed, distances, whole = self._measure(engine, pixels, name)
        frame = placed.frame
        score, zones = self._judged(distances, whole)
        decision, roi = self.model.calibration, self.model.roi
        statistics: ImageStatistics | None = None
        reasons: tuple[str, ...] = ()
        if self.recipe.quality_gate and decision.limits is not None:
            judged = (
                framing.without_padding(frame, placed.picture)
                if roi is None
                else placed.picture[roi.judged(*self.model.whole)]
            )
            statistics = image_statistics.measure(judged, distances)
            reasons = quality_gate.reasons(statistics, decision.limits)
        if placed.pose is not None and placed.pose.failure and self.recipe.pose_failure == "recheck":
            reasons += (placed.pose.failure,)
        threshold = decision.threshold
        anomaly_map = self._map(distances, frame)
        if roi is not None and roi.several:
            anomaly_map /= roi.levels(
                frame.image_size, [zone.pixel_threshold for zone in decision.decision.zones]
            )
        verdict = RECHECK if reasons else BAD if score > threshold else GOOD
        if verdict == BAD:
            mask = np.zeros(anomaly_map.shape, dtype=bool)
            for part in self._bad_parts(anomaly_map, zones):
                mask |= segment(part, decision.pixel_threshold, self.recipe.minimum_area)
            regions = find_regions(mask, anomaly_map)
        else:
            mask, regions = np.zeros(anomaly_map.shape, dtype=bool), ()
        return Inspection(
            path=path,
            score=score,
            threshold=threshold,
            p_value=decision.p_value(score),
            verdict=verdict,
            borderline=abs(score - threshold) <= self._margin * abs(threshold),
            distance_grid=distances,
            anomaly_map=anomaly_map,
            pixel_threshold=decision.pixel_threshold,
            mask=mask,
            regions=regions,
            reasons=reasons,
            statistics=statistics,
            zones=zones,
            pose=placed.pose,
            learnt_from=recognise and features.digest(placed.working) in decision.digests,
        )

    def _bad_parts(
        self, anomaly_map: NDArray[np.float32], zones: tuple[ZoneScore, ...]
    ) -> Iterator[NDArray[np.float32]]:
        """The map of a BAD image where it is to be marked: of several zones, of each that is BAD, NaN elsewhere."""
        roi = self.model.roi
        if roi is None or not roi.several:
            yield anomaly_map
            return
        height, width = anomaly_map.shape
        for zone, mask in zip(zones, roi.masks_at((height, width)), strict=True):
            if zone.bad:
                yield np.where(mask, anomaly_map, np.float32(np.nan))

    def _separate_scores(self, good: Good, recipe: Recipe, tell: Progress) -> calibration.GoodScores:
        """Scores of good images that had no part in the bank, each once; DatasetError if some had."""
        images = fitting.good_images(good, least=2)
        names = fitting.image_names(images)
        calibration.require_enough(recipe, len(images))
        engine = self._many
        known = set(self.model.calibration.digests)

        def one(image: ImageLike) -> tuple[float, NDArray[np.float32], list[Any], str] | None:
            pixels = self._read(image)
            placed, distances, score = self._measure(engine, pixels, name_of(image))
            anomaly_map = self._map(distances, placed.frame)
            zones = zone_parts(self.model.roi, distances, anomaly_map, self.model.whole[0])
            sent_back = recipe.pose_failure == "recheck" and placed.pose is not None and placed.pose.failure
            return None if sent_back else (score, anomaly_map, zones, features.digest(placed.working))

        collector = calibration.GoodScoresCollector(calibration.SEPARATE, zone_names(self.model.roi))
        learnt_from = []
        taken: set[str] = set()
        sent_back = 0
        for done, found in enumerate(parallel.ordered(one, images, workers=self._abreast), 1):
            tell("calibration", done, len(images))
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
                f"{fitting.called(good)}: {sent_back} of {len(images)} images are not aligned and would be RECHECK; at "
                "least 2 others are needed"
            )
        if len(taken) < 2:
            raise DatasetError(
                f"{fitting.called(good)}: the same image {len(images)} times; at least 2 that differ are needed"
            )
        if learnt_from:
            raise DatasetError(
                f"{fitting.called(good)}: {len(learnt_from)} of {len(images)} images were learnt from, such as "
                f"{learnt_from[0]}; calibration needs good images that had no part in the memory bank: leave these out"
            )
        calibration.require_enough(recipe, len(taken))
        return collector.result(recipe.pixel_threshold_quantile)


def _path_of(image: ImageLike) -> Path | None:
    return Path(image) if isinstance(image, str | os.PathLike) else None
