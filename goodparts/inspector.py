"""`Inspector`: learns from good images, then inspects.

inspector = Inspector(Recipe(backbone="resnet50.onnx")).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.score / inspection.threshold, inspection.p_value)
inspector.save("part.goodparts")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.backbones.backbone import MakesBackbone
from goodparts.data.bit_depth import with_bit_depth
from goodparts.data.good_images import Good, GoodImages
from goodparts.data.images import PIXEL_LIMIT, ImageLike, path_of, read_image
from goodparts.decision.inspection import Inspection
from goodparts.engines.runtime import Runtime
from goodparts.errors import ImageError, ModelError
from goodparts.model import file
from goodparts.model.model import Model
from goodparts.model.predictor import Images, OnError, Predictor, Then
from goodparts.progress import ProgressLike
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.data.dataset import Dataset
    from goodparts.decision.drift import Drift
    from goodparts.evaluation.evaluation import Evaluation, Observer
    from goodparts.model.parts import MakesParts

Result = TypeVar("Result")
StrPath = str | os.PathLike[str]


class Inspector:
    """Learns what good parts look like, then inspects parts; from several threads, if you like.

    Args:
        recipe: the settings, or a preset's name or a recipe file; the default preset if none.
        workers: threads; None: two more than there are cores.
        pixel_limit: files of more pixels are refused before they are decoded; None: 100 million.
        offline: never ask the network for a backbone.
        device: auto, cpu, cuda, cuda:1, mps, gpu, npu; None: as GOODPARTS_DEVICE says, or auto.
        engine: auto, openvino, onnxruntime or torch; None: as GOODPARTS_ENGINE says, or auto.
        backbone: a network of your own in place of the recipe's, such as a `goodparts.torch.FeatureExtractor`.

    Raises:
        EngineError: that engine or device is not there; the message says how to install it.
    """

    def __init__(
        self,
        recipe: Recipe | StrPath | None = None,
        *,
        workers: int | None = None,
        pixel_limit: int | None = None,
        offline: bool = False,
        device: str | None = None,
        engine: str | None = None,
        backbone: MakesBackbone | None = None,
    ) -> None:
        self.recipe = Recipe.of(recipe)
        self.runtime = Runtime.of(engine, device)
        self.workers = workers if workers is not None else self.runtime.workers
        self.pixel_limit = pixel_limit if pixel_limit is not None else PIXEL_LIMIT
        self.offline = offline
        self.backbone = backbone
        self._predictor: Predictor | None = None

    @property
    def model(self) -> Model:
        """What was learnt; ModelError before `fit`."""
        return self._ready.model

    @property
    def precision(self) -> str:
        """What inspections are computed in on this machine: "f32" or "bf16"."""
        return self._ready.precision

    @property
    def computed_by(self) -> str:
        """By what: engine, device and precision, such as "openvino on cpu in f32"."""
        return self._ready.computed_by

    @classmethod
    def load(
        cls,
        path: StrPath,
        *,
        workers: int | None = None,
        pixel_limit: int | None = None,
        require_signature: StrPath | None = None,
        device: str | None = None,
        engine: str | None = None,
        keep_compiled: bool = True,
    ) -> Self:
        """An inspector from a model file; ModelError if it is none, damaged, too new, or not signed by a .pub's key.

        `keep_compiled`: what is compiled of it is kept in the user's cache folder, where the next process finds it.
        """
        model = file.load(path, require_signature)
        inspector = cls(model.recipe, workers=workers, pixel_limit=pixel_limit, device=device, engine=engine)
        inspector._predictor = Predictor(model, runtime=inspector.runtime, keep_compiled=keep_compiled)
        return inspector

    def save(self, path: str | Path) -> Path:
        """Write the model file, whole or not at all; returns its path."""
        return file.save(self.model, path)

    def export(self, path: str | Path, *, format: str = "onnx", precision: str = "f32") -> Path:
        """Write what `inspect` runs as a file for other programs; see `goodparts.model.export.export`."""
        from goodparts.model import export

        return export.export(self.model, path, format=format, precision=precision)

    # ---- learning

    def fit(
        self,
        good: Good,
        *,
        calibrate_on: Good | None = None,
        budget_ms: float | None = None,
        progress: ProgressLike = None,
        make_parts: MakesParts | None = None,
    ) -> Self:
        """Learn from images of good parts only.

        Args:
            good: a folder (a data set's `train/good` is found in it), or images one after another.
            calibrate_on: more good images, which have no part in the memory bank: the threshold rests on them.
            budget_ms: choose the finest working size in which this machine inspects an image in so many milliseconds,
                no finer than the images are; None: that of the recipe.
            progress: True for bars, or what to call with (stage, done, total).
            make_parts: where features are made and kept: by workers (`goodparts.fleet.spread`); None: here.

        Raises:
            DatasetError, ImageError: no image; one of them can't be read.
            BackboneError: the backbone or a layer of it is not there.
            RecipeError: the threshold's rule needs more images; no working size is within the budget.
        """
        from goodparts.model import fit, recalibrate

        images = self._good_images(good, progress)
        recipe, images = with_bit_depth(self.recipe, images, pixel_limit=self.pixel_limit)
        with self.runtime.chosen():
            learnt = fit.fit(
                good,
                images,
                recipe,
                offline=self.offline,
                network=self.backbone,
                budget_ms=budget_ms,
                make_parts=make_parts,
            )
            self._set_model(learnt)
        if calibrate_on is not None:
            more = self._good_images(calibrate_on, progress, least=2)
            self._set_decision(recalibrate.first_decision(self._ready, more))
        return self

    def update(self, good: Good, *, progress: ProgressLike = None) -> Self:
        """Learn on from more good images: the greedy choice goes on from the bank that is there.

        Images that were learnt from already are passed over. The new model names its parent. Held-out scores of earlier
        images stay as they were; with `density_neighbours`, or once `sampling_limit` is reached, they may be a little
        low: then images that were not learnt from decide no longer, and `calibrate` on such images is advised.

        Raises:
            DatasetError, ImageError: no image that is new; one of them can't be read.
        """
        from goodparts.model import update

        with self.runtime.chosen():
            self._set_model(update.update(self.model, good, self._good_images(good, progress)))
        return self

    def calibrate(
        self,
        good: Good | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        progress: ProgressLike = None,
    ) -> Self:
        """Decide anew without learning anew; the earlier decision stays in the model's history.

        Args:
            good: good images that were not learnt from, which alone decide from now on. None: the scores there are.
            changes: recipe keys of the decision: thresholds, false_reject_rate, confidence, minimum_area, quality_gate.
            progress: True for bars, or what to call with (stage, done, total).

        Raises:
            DatasetError, ImageError: fewer than two images, or some were learnt from; one of them can't be read.
            RecipeError: a key not of the decision, or not of its rule; too few images for it; an unseen oracle.
        """
        from goodparts.model import recalibrate

        images = None if good is None else self._good_images(good, progress, least=2)
        self._set_decision(recalibrate.recalibrate(self._ready, images, changes or {}))
        return self

    # ---- inspecting

    def read(self, image: ImageLike) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) uint8 RGB of an image, as they are inspected; ImageError if it can't be read."""
        return read_image(image, pixel_limit=self.pixel_limit, bit_depth=self.recipe.bit_depth)

    def inspect(self, image: ImageLike) -> Inspection:
        """Inspect one image: a path, the bytes of a file, or a uint8 array (H, W, 3) RGB or (H, W) grey."""
        return self.inspect_pixels(self.read(image), path_of(image))

    def open_ahead(self) -> None:
        """Have the engine for `inspect` opened by another thread, while the first image is still to be read."""
        self._ready.open_ahead()

    def inspect_pixels(self, pixels: NDArray[np.uint8], path: Path | None = None) -> Inspection:
        """Inspect pixels (H, W, 3) uint8 RGB that were read from `path`."""
        with parallel.small_products():
            return self._ready.inspect(pixels, path, latency=True)

    @overload
    def inspect_many(self, images: Images, *, recognise: bool = ...) -> Iterator[Inspection]: ...
    @overload
    def inspect_many(
        self, images: Images, *, on_error: OnError, recognise: bool = ...
    ) -> Iterator[Inspection | ImageError]: ...
    @overload
    def inspect_many(
        self, images: Images, then: Then[Result], *, recognise: bool = ...
    ) -> Iterator[Result]: ...
    @overload
    def inspect_many(
        self, images: Images, then: Then[Result], *, on_error: OnError, recognise: bool = ...
    ) -> Iterator[Result | ImageError]: ...
    def inspect_many(
        self,
        images: Images,
        then: Then[Any] | None = None,
        *,
        on_error: OnError = "raise",
        recognise: bool = False,
    ) -> Iterator[Any]:
        """Inspect several images at a time; results in order. Faster than `inspect` in a loop.

        Args:
            images: one after another, of any kind that `inspect` takes; DatasetError for a folder or a single one.
            then: called in the worker with (index, pixels (H, W, 3) uint8, inspection); its result comes out instead.
            on_error: of an image that can't be inspected "raise" the ImageError, or "return" it in its place and go on.
            recognise: whether to look for images that were learnt from.
        """
        return self._ready.inspect_many(
            images, self.read, then, on_error=on_error, recognise=recognise, workers=self.workers
        )

    def score_many(self, images: Images) -> Iterator[float]:
        """Only the anomaly scores, in order; needs no threshold."""
        return self._ready.score_many(images, self.read, workers=self.workers)

    def evaluate(
        self, data: Dataset | StrPath, *, observe: Observer | None = None, progress: ProgressLike = None
    ) -> Evaluation:
        """Inspect a labelled test set, its folder or a `Dataset`; see `goodparts.evaluation.evaluation.evaluate`.

        The model keeps the figures. With `threshold_rule = "f1"` it first takes the F1-optimal threshold on these.
        """
        from goodparts.evaluation import evaluation, figures

        test_set = evaluation.read_test_set(data) if isinstance(data, str | os.PathLike) else data
        if self.recipe.threshold_rule == "f1":
            threshold = evaluation.oracle_threshold(self, test_set, progress=progress)
            self._set_decision(self.model.with_oracle(threshold))
        inspected = evaluation.inspect_test_set(self, test_set, observe=observe, progress=progress)
        self._ready.close()  # the metrics want the memory
        measured = inspected.measured()
        self._set_decision(self.model.with_evaluation(figures.figures(measured)))
        return measured

    def drift(self, *, seed: int = 0) -> Drift:
        """Watch a stream of inspections for change against calibration; ModelError where that has too few good images.

        Feed it `drift.add(inspection.score, inspection.statistics)` for every part; statistics need the quality gate.
        """
        from goodparts.decision.drift import Drift

        return Drift.of(self.model.calibration, seed=seed)

    # ---- inside

    @property
    def _ready(self) -> Predictor:
        if self._predictor is None:
            raise ModelError("this inspector has learnt nothing yet: call fit(good_images) or load(path)")
        return self._predictor

    def _set_model(self, model: Model) -> None:
        """Inspect with this model from now on."""
        self._predictor, self.recipe = Predictor(model, runtime=self.runtime), model.recipe

    def _set_decision(self, model: Model) -> None:
        """The same for a model that measures alike: compiled engines stay."""
        self._predictor, self.recipe = self._ready.redecided(model), model.recipe

    def _good_images(self, good: Good, progress: ProgressLike, least: int = 1) -> GoodImages:
        return GoodImages.of(good, read=self.read, workers=self.workers, progress=progress, least=least)
