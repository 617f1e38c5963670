"""`Inspector`: learns from good images, then inspects.

inspector = Inspector(Recipe(backbone="resnet50.onnx")).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.score / inspection.threshold, inspection.p_value)
inspector.save("part.goodparts")
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from goodparts import calibration, dataset, feeding, framing, memory_bank
from goodparts import model as model_file
from goodparts.backbones import Backbone, load_backbone, trim
from goodparts.errors import DatasetError, ModelError
from goodparts.framing import Frame
from goodparts.images import PIXEL_LIMIT, ImageLike, read_image
from goodparts.inspection import BAD, GOOD, Inspection
from goodparts.memory_bank import MemoryBank
from goodparts.model import Model
from goodparts.recipe import Recipe, size_text
from goodparts.regions import find_regions, label_regions, remove_small

if TYPE_CHECKING:
    from goodparts.dataset import Dataset
    from goodparts.engines.openvino import Engine
    from goodparts.evaluation import Evaluation
    from goodparts.graph import Graph

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

BORDERLINE = 1e-4
"""Scores this close to the threshold, relatively, may differ between machines in float32."""


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
        self.workers = workers if workers is not None else feeding.default_workers()
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

    def fit(
        self,
        good: str | os.PathLike[str] | Sequence[ImageLike],
        *,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from images of good parts only.

        Args:
            good: a folder (a data set's `train/good` is found in it), or the images themselves.
            progress: called with (stage, done, total).

        Raises:
            DatasetError: fewer than two images.
            ImageError: one of them can't be read.
            BackboneError: the backbone or a layer of it is not there.
        """
        images = _good_images(good)
        tell = progress or _silent
        began = time.perf_counter()
        backbone = load_backbone(self.recipe.backbone, offline=self.offline)
        backbone = _with_layers(backbone, self.recipe)
        engine, grid, dimensions = _feature_engine(backbone, self.recipe)
        patches = grid[0] * grid[1]
        seconds = {"load": time.perf_counter() - began}
        began = time.perf_counter()
        with _feature_store((len(images), patches, dimensions), self.recipe.memory_limit) as features:
            valid = np.ones((len(images), patches), dtype=bool)
            frames: list[Frame] = []

            def extract(index: int) -> Frame:
                pixels = self._read(images[index])
                frame = framing.frame_of(pixels.shape[:2], self.recipe)
                working = framing.apply(frame, pixels)
                features[index] = engine({"image": working[None]})["patch_features"].reshape(patches, -1)
                if not frame.whole:
                    valid[index] = framing.valid_cells(frame, grid).ravel()
                return frame

            for frame in feeding.ordered(extract, range(len(images)), workers=self.workers):
                frames.append(frame)
                tell("features", len(frames), len(images))
            seconds["features"] = time.perf_counter() - began

            began = time.perf_counter()
            bank = memory_bank.choose(
                features, valid, self.recipe, progress=lambda done, total: tell("memory bank", done, total)
            )
            seconds["memory bank"] = time.perf_counter() - began
            began = time.perf_counter()
            decision = self._calibrate(bank, grid, features, valid, frames, tell)
            seconds["calibration"] = time.perf_counter() - began
        self._take(
            Model(
                recipe=self.recipe,
                backbone=backbone,
                bank=bank,
                calibration=decision,
                grid=grid,
                data=_describe(images, frames),
                circumstances=_circumstances(good, seconds),
            )
        )
        return self

    def inspect(self, image: ImageLike) -> Inspection:
        """Inspect one image: a path, the bytes of a file, or a uint8 array (H, W, 3) RGB or (H, W) grey."""
        return self.inspect_pixels(self._read(image), _path_of(image))

    def inspect_pixels(
        self, pixels: NDArray[np.uint8], path: Path | None = None, *, alone: bool = True
    ) -> Inspection:
        """Inspect pixels (H, W, 3) uint8 RGB that were read from `path`; `alone` unless others run at the same time."""
        with feeding.small_products():
            return self._inspect(self._single if alone else self._many, pixels, path)

    @overload
    def inspect_many(self, images: Iterable[ImageLike]) -> Iterator[Inspection]: ...

    @overload
    def inspect_many(
        self, images: Iterable[ImageLike], then: Callable[[int, NDArray[np.uint8], Inspection], Result]
    ) -> Iterator[Result]: ...

    def inspect_many(
        self,
        images: Iterable[ImageLike],
        then: Callable[[int, NDArray[np.uint8], Inspection], Any] | None = None,
    ) -> Iterator[Any]:
        """Inspect images side by side; results in order. Faster than `inspect` in a loop.

        Args:
            images: as `inspect` takes them.
            then: called in the worker with (index, pixels (H, W, 3) uint8, inspection); its result comes out instead.
        """
        engine = self._many  # compiled here, once

        def one(item: tuple[int, ImageLike]) -> Any:
            index, image = item
            pixels = self._read(image)
            inspection = self._inspect(engine, pixels, _path_of(image))
            return inspection if then is None else then(index, pixels, inspection)

        return feeding.ordered(one, enumerate(images), workers=self.workers)

    def score_many(self, images: Iterable[ImageLike]) -> Iterator[float]:
        """Only the anomaly scores, in order; needs no threshold."""
        engine = self._many
        return feeding.ordered(
            lambda image: self._measure(engine, self._read(image))[2], images, workers=self.workers
        )

    def evaluate(self, data: Dataset | str | os.PathLike[str]) -> Evaluation:
        """Inspect a labelled test set (its folder, or a `Dataset`); see `goodparts.evaluation.evaluate`."""
        from goodparts.evaluation import evaluate

        return evaluate(self, dataset.read_dataset(data) if isinstance(data, str | os.PathLike) else data)

    def adopt_oracle(self, threshold: float) -> None:
        """Decide with the F1-optimal threshold of a labelled set from now on, labelled as an oracle."""
        self._model = self.model.with_calibration(self.model.calibration.with_oracle(threshold))

    # ---- inside

    def _take(self, model: Model) -> None:
        self._model = model
        for engine in ("_single", "_many"):
            self.__dict__.pop(engine, None)

    def _read(self, image: ImageLike) -> NDArray[np.uint8]:
        return read_image(image, pixel_limit=self.pixel_limit)

    @cached_property
    def _single(self) -> Engine:
        return self._pipeline(throughput=False)

    @cached_property
    def _many(self) -> Engine:
        return self._pipeline(throughput=True)

    def _pipeline(self, *, throughput: bool) -> Engine:
        from goodparts import graph
        from goodparts.engines.openvino import Engine

        model = self.model
        features = _features_graph(model.backbone, self.recipe)
        search = graph.search_graph(
            model.bank,
            model.grid,
            self.recipe,
            masked=self._masked,
            opset=features.model.opset_import[0].version,
        )
        shapes: dict[str, tuple[int, ...]] = {"image": (1, *self.recipe.image_size, 3)}
        if self._masked:
            shapes["valid"] = (1, *model.grid)
        return Engine(graph.pipeline_graph(features, search), shapes, throughput=throughput)

    @property
    def _masked(self) -> bool:
        return self.recipe.framing == "letterbox"

    def _measure(self, engine: Engine, pixels: NDArray[np.uint8]) -> tuple[Frame, NDArray[np.float32], float]:
        """(frame, distance grid (h, w) with NaN where there is no image, anomaly score)."""
        frame = framing.frame_of(pixels.shape[:2], self.recipe)
        inputs: dict[str, NDArray[Any]] = {"image": framing.apply(frame, pixels)[None]}
        cells = framing.valid_cells(frame, self.model.grid)
        if self._masked:
            inputs["valid"] = cells[None].astype(np.float32)
        outputs = engine(inputs)
        distances = outputs["distance_grid"][0]
        distances[~cells] = np.nan
        return frame, distances, float(outputs["score"][0])

    def _inspect(self, engine: Engine, pixels: NDArray[np.uint8], path: Path | None) -> Inspection:
        frame, distances, score = self._measure(engine, pixels)
        decision = self.model.calibration
        threshold = decision.decided
        anomaly_map = framing.anomaly_map(distances, frame, self.recipe.smoothing_sigma)
        bad = score > threshold
        if bad:
            mask = segment(anomaly_map, decision.pixel_threshold, self.recipe.minimum_area)
            regions = find_regions(mask, anomaly_map)
        else:
            mask, regions = np.zeros(anomaly_map.shape, dtype=bool), ()
        return Inspection(
            path=path,
            score=score,
            threshold=threshold,
            p_value=decision.p_value(score),
            verdict=BAD if bad else GOOD,
            borderline=abs(score - threshold) <= BORDERLINE * abs(threshold),
            distance_grid=distances,
            anomaly_map=anomaly_map,
            pixel_threshold=decision.pixel_threshold,
            mask=mask,
            regions=regions,
        )

    def _calibrate(
        self,
        bank: MemoryBank,
        grid: tuple[int, int],
        features: NDArray[np.float32],
        valid: NDArray[np.bool_],
        frames: list[Frame],
        tell: Progress,
    ) -> calibration.Calibration:
        """Score every good image against the bank without its own entries."""
        from goodparts import graph
        from goodparts.engines.openvino import Engine

        search = graph.search_graph(bank, grid, self.recipe, masked=self._masked, held_out=True)
        shapes: dict[str, tuple[int, ...]] = {
            "patch_features": (1, *grid, features.shape[2]),
            "excluded": (len(bank.features),),
        }
        if self._masked:
            shapes["valid"] = (1, *grid)
        engine = Engine(search, shapes, throughput=True)

        def score(index: int) -> tuple[float, NDArray[np.float32]]:
            excluded = np.zeros(len(bank.features), dtype=np.float32)
            excluded[bank.of_image(index)] = graph.FAR
            inputs = {
                "patch_features": np.ascontiguousarray(features[index]).reshape(1, *grid, -1),
                "excluded": excluded,
            }
            cells = valid[index].reshape(grid)
            if self._masked:
                inputs["valid"] = cells[None].astype(np.float32)
            outputs = engine(inputs)
            distances = outputs["distance_grid"][0]
            distances[~cells] = np.nan
            smoothed = framing.anomaly_map(distances, frames[index], self.recipe.smoothing_sigma)
            return float(outputs["score"][0]), smoothed

        scores = []
        maps = calibration.GoodMapsCollector()
        for held_out, smoothed in feeding.ordered(score, range(len(frames)), workers=self.workers):
            scores.append(held_out)
            maps.add(smoothed)
            tell("calibration", len(scores), len(frames))
        return calibration.calibrate(scores, maps.result(self.recipe.pixel_threshold_quantile), self.recipe)


def segment(anomaly_map: NDArray[np.float32], threshold: float, minimum_area: int) -> NDArray[np.bool_]:
    """The bad pixels of an image that is BAD, (H, W) bool; never empty.

    Pixels above the threshold, without regions of fewer than `minimum_area` pixels. If that leaves nothing, the region
    around the peak that reaches nine tenths of it.
    """
    with np.errstate(invalid="ignore"):
        mask = remove_small(anomaly_map > threshold, minimum_area)
        if mask.any():
            return mask
        peak = np.nanargmax(anomaly_map)
        around = anomaly_map >= 0.9 * anomaly_map.flat[peak]
    labels, _ = label_regions(around)
    return np.asarray(labels == labels.flat[peak])


def _path_of(image: ImageLike) -> Path | None:
    return Path(image) if isinstance(image, str | os.PathLike) else None


def _good_images(good: str | os.PathLike[str] | Sequence[ImageLike]) -> Sequence[ImageLike]:
    images = dataset.good_images(good) if isinstance(good, str | os.PathLike) else list(good)
    if len(images) < 2:
        raise DatasetError(
            f"{good if isinstance(good, str | os.PathLike) else 'good'}: {len(images)} good image(s); at least 2 are "
            "needed, since each is judged by the others; 20 are a start, 200 are good"
        )
    return images


def _with_layers(backbone: Backbone, recipe: Recipe) -> Backbone:
    """The backbone cut down to the recipe's layers, with the recipe's normalisation if it has one."""
    trimmed = replace(backbone, model=trim(backbone, recipe.layers))
    if not recipe.mean:
        return trimmed
    mean, std = (
        (recipe.mean[0], recipe.mean[1], recipe.mean[2]),
        (recipe.std[0], recipe.std[1], recipe.std[2]),
    )
    return replace(trimmed, mean=mean, std=std, normalisation="recipe")


def _features_graph(backbone: Backbone, recipe: Recipe) -> Graph:
    from goodparts import graph
    from goodparts.engines.openvino import layer_shapes

    shapes = layer_shapes(backbone.model, recipe.image_size)
    return graph.features_graph(backbone.model, shapes, recipe, backbone.mean, backbone.std)


def _feature_engine(backbone: Backbone, recipe: Recipe) -> tuple[Engine, tuple[int, int], int]:
    from goodparts.engines.openvino import Engine

    features = _features_graph(backbone, recipe)
    sizes = [dim.dim_value for dim in features.model.graph.output[0].type.tensor_type.shape.dim]
    engine = Engine(features, {"image": (1, *recipe.image_size, 3)}, throughput=True)
    return engine, (sizes[1], sizes[2]), sizes[3]


@contextmanager
def _feature_store(shape: tuple[int, int, int], limit: float) -> Iterator[NDArray[np.float32]]:
    """Room for the features: in memory up to `limit` GiB, else in a file that is gone afterwards."""
    if np.prod(shape, dtype=np.float64) * 4 <= limit * 2**30:
        yield np.empty(shape, dtype=np.float32)
        return
    with tempfile.TemporaryDirectory(prefix="goodparts-", ignore_cleanup_errors=True) as folder:
        store = np.memmap(Path(folder) / "features", dtype=np.float32, mode="w+", shape=shape)
        try:
            yield store
        finally:
            store._mmap.close()  # type: ignore[attr-defined]


def _describe(images: Sequence[ImageLike], frames: list[Frame]) -> dict[str, object]:
    """What was learnt from, for the manifest; part of the identity, so no places and no times."""
    paths = [Path(image) for image in images if isinstance(image, str | os.PathLike)]
    sizes = Counter(size_text(frame.image_size) for frame in frames)
    described: dict[str, object] = {
        "good_images": len(images),
        "image_sizes": dict(sizes.most_common()),
        "seen_share": round(sum(framing.seen_share(frame) for frame in frames) / len(frames), 6),
    }
    if len(paths) == len(images):
        described["file_list"] = dataset.hash_file_list(
            paths, os.path.commonpath([path.parent for path in paths])
        )
    return described


def _circumstances(good: object, seconds: dict[str, float]) -> dict[str, object]:
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


def _silent(stage: str, done: int, total: int) -> None:
    pass
