"""`Inspector`: learns from good images, then inspects.

inspector = Inspector(Recipe(backbone="resnet50.onnx")).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.score / inspection.threshold, inspection.p_value)
inspector.save("part.goodparts")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data.good_images import Good, GoodImages, Progress
from goodparts.data.images import PIXEL_LIMIT, ImageLike, name_of, read_image
from goodparts.decision.inspection import Inspection
from goodparts.errors import ImageError, ModelError
from goodparts.model import file, fit, recalibrate, update
from goodparts.model.model import Model
from goodparts.model.predictor import Predictor, check_precision
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.data.dataset import Dataset
    from goodparts.decision.drift import Drift
    from goodparts.evaluation.evaluation import Evaluation, Observer

Result = TypeVar("Result")


class Inspector:
    """Learns what good parts look like, then inspects parts; from several threads, if you like.

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
        self._predictor: Predictor | None = None

    @property
    def model(self) -> Model:
        """What was learnt; ModelError before `fit`."""
        return self._ready.model

    @property
    def precision(self) -> str:
        """What inspections are computed in on this machine: "f32" or "bf16"."""
        return self._ready.precision

    @classmethod
    def load(cls, path: str | Path, *, workers: int | None = None, pixel_limit: int | None = None) -> Self:
        """An inspector from a model file; ModelError if it is none, damaged or too new."""
        model = file.load(path)
        inspector = cls(model.recipe, workers=workers, pixel_limit=pixel_limit)
        inspector._set_model(model)
        return inspector

    def save(self, path: str | Path) -> Path:
        """Write the model file, whole or not at all; returns its path."""
        return file.save(self.model, path)

    def export(self, path: str | Path, *, format: str = "onnx", precision: str = "f32") -> Path:
        """Write what `inspect` runs as a file for other programs; see `goodparts.model.export.export`."""
        from goodparts.model.export import export

        return export(self.model, path, format=format, precision=precision)

    # ---- learning

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
        images = self._good_images(good, progress)
        self._learn(fit.fit(good, images, self.recipe, offline=self.offline), images)
        if calibrate_on is not None:
            self.calibrate(calibrate_on, progress=progress)
            first = replace(
                self.model.calibration, history=()
            )  # nobody has used the decision before this one
            self._set_model(self.model.with_calibration(first))
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
        images = self._good_images(good, progress)
        self._learn(update.update(self.model, good, images), images)
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
        images = None if good is None else self._good_images(good, progress, least=2)
        self._set_model(recalibrate.recalibrate(self._ready, images, changes or {}))
        return self

    # ---- inspecting

    def inspect(self, image: ImageLike) -> Inspection:
        """Inspect one image: a path, the bytes of a file, or a uint8 array (H, W, 3) RGB or (H, W) grey."""
        return self.inspect_pixels(self._read(image), _path_of(image))

    def inspect_pixels(self, pixels: NDArray[np.uint8], path: Path | None = None) -> Inspection:
        """Inspect pixels (H, W, 3) uint8 RGB that were read from `path`."""
        with parallel.small_products():
            return self._ready.inspect(pixels, path, latency=True)

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
        predictor = self._ready
        predictor.open()  # compiled here, once

        def one(item: tuple[int, ImageLike]) -> Any:
            index, image = item
            try:
                pixels = self._read(image)
                inspection = predictor.inspect(pixels, _path_of(image), recognise=recognise)
            except ImageError as error:
                if on_error == "raise":
                    raise
                return error
            return inspection if then is None else then(index, pixels, inspection)

        return parallel.ordered(one, enumerate(images), workers=self._max_parallel_images)

    def score_many(self, images: Iterable[ImageLike]) -> Iterator[float]:
        """Only the anomaly scores, in order; needs no threshold."""
        predictor = self._ready
        predictor.open()

        def one(image: ImageLike) -> float:
            return predictor.score(self._read(image), name_of(image))

        return parallel.ordered(one, images, workers=self._max_parallel_images)

    def evaluate(
        self,
        data: Dataset | str | os.PathLike[str],
        *,
        observe: Observer | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Inspect a labelled test set and measure at original resolution.

        With `threshold_rule = "f1"` the F1-optimal threshold on these very images is adopted first: an oracle.

        Args:
            data: the folder of a data set, or a `Dataset`, with test images.
            observe: sees every inspection, in a worker, as (sample, pixels (H, W, 3) uint8, inspection, ground truth
                (H, W) bool or None): the place to draw and write pictures.
            progress: called with (stage, done, total).

        Raises:
            DatasetError: no test images, or a mask of another size than its image.
            ImageError: an image or mask can't be read.
        """
        from goodparts.evaluation import evaluation

        test_set = evaluation.read_test_set(data) if isinstance(data, str | os.PathLike) else data
        if self.recipe.threshold_rule == "f1":
            self._adopt_oracle(evaluation.oracle_threshold(self, test_set, progress=progress))
        seen = evaluation.inspect_test_set(self, test_set, observe=observe, progress=progress)
        self._close()  # the metrics want the memory
        return seen.measured()

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

    # ---- inside

    def _adopt_oracle(self, threshold: float) -> None:
        """Decide with the F1-optimal threshold of a labelled set from now on, labelled as an oracle."""
        self._set_model(self.model.with_calibration(self.model.calibration.with_oracle(threshold)))

    def _close(self) -> None:
        """Let go of the compiled engines and their memory; the next inspection compiles them anew."""
        self._ready.close()

    @property
    def _ready(self) -> Predictor:
        if self._predictor is None:
            raise ModelError(
                "this inspector has learnt nothing yet: call fit(good_images) or Inspector.load(path)"
            )
        return self._predictor

    def _learn(self, model: Model, good: GoodImages) -> None:
        self._set_model(model)
        self._set_model(replace(model, precision=check_precision(model, good)))

    def _set_model(self, model: Model) -> None:
        """Inspect with this model from now on."""
        self._predictor, self.recipe = Predictor(model), model.recipe

    def _good_images(self, good: Good, progress: Progress | None, least: int = 1) -> GoodImages:
        return GoodImages.of(good, read=self._read, workers=self.workers, progress=progress, least=least)

    def _read(self, image: ImageLike) -> NDArray[np.uint8]:
        return read_image(image, pixel_limit=self.pixel_limit)

    @property
    def _max_parallel_images(self) -> int:
        return self.model.preprocessor.max_parallel_images(self.workers)


def _path_of(image: ImageLike) -> Path | None:
    return Path(image) if isinstance(image, str | os.PathLike) else None
