"""Patch features of good images: what fitting learns from.

`extract` decodes and computes several images at a time and keeps the features of all: `features.store` says where.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data.good_images import GoodImages
from goodparts.engines.engine import Engine, layer_shapes, open_engine
from goodparts.engines.graph import PATCH_FEATURES, numbered
from goodparts.errors import BackboneError
from goodparts.features import whitening
from goodparts.features.features_graph import LAYERS, features_graph, whitening_graph
from goodparts.features.store import PatchFeatures, patch_features
from goodparts.features.whitening import Moments, Whitening
from goodparts.preprocessing import statistics as image_statistics
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.statistics import ImageStatistics
from goodparts.preprocessing.step import Prepared, Step
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.backbones.backbone import Backbone
    from goodparts.engines.graph import Graph


_SAME = 1e-5  # of the largest value: features that differ by less differ by rounding alone
_KEPT = 1 / 16  # of the memory limit, for images that whitening was learnt from


@dataclass(frozen=True, eq=False)
class GoodFeatures:
    """The patch features of n good images, of the finest depth; `coarser` has those of the others.

    Attributes:
        features: (n, views x patches, d): all of an image's: of its tiles one after the other, then of its copies.
        patch_mask: which patches count, (n, views x patches) bool: they look at the image rather than at padding, and
            at the region of interest.
        frames: how each image lies in its working image.
        grid: (h, w) of the patches of one view.
        digests: of each working image's pixels; equal for equal images.
        statistics: what each working image looks like, without its distance.
        measured: what steps of the preprocessing measured of each image, (n, ...) by the name of the step.
        left_out: images of which nothing may enter the bank, (n,) bool.
        failures: why the pose of each image was not found; empty where it was, or is not looked for.
        preprocessor: how images were prepared.
        coarser: the same images at each coarser depth.
    """

    features: PatchFeatures
    patch_mask: NDArray[np.bool_]
    frames: tuple[Frame, ...]
    grid: tuple[int, int]
    digests: tuple[str, ...]
    statistics: tuple[ImageStatistics, ...]
    measured: Mapping[str, NDArray[np.float32]]
    left_out: NDArray[np.bool_]
    failures: tuple[str, ...]
    preprocessor: Preprocessor
    coarser: tuple[GoodFeatures, ...] = ()

    @property
    def depths(self) -> tuple[GoodFeatures, ...]:
        """Each depth by itself, from fine to coarse."""
        return (replace(self, coarser=()), *self.coarser)

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """Which patches may enter the bank, (n, views x patches) bool."""
        return np.asarray(self.patch_mask & ~self.left_out[:, None])

    def of_crops(self, index: int) -> NDArray[np.bool_]:
        """Which patches of each crop of an image count, (crops, h, w) bool."""
        crops = self.preprocessor.crops_per_image
        of_crops: NDArray[np.bool_] = self.patch_mask[index].reshape(-1, *self.grid)[:crops]
        return of_crops

    def of_tile(self, tile: int) -> GoodFeatures:
        """The same, but only patches of one tile may enter the bank."""
        patches = self.grid[0] * self.grid[1]
        only = np.zeros_like(self.patch_mask)
        part = slice(tile * patches, (tile + 1) * patches)
        only[:, part] = self.patch_mask[:, part]
        return replace(self, patch_mask=only)

    def without(self, left_out: NDArray[np.bool_]) -> GoodFeatures:
        """The same with these images left out of the bank; they can still be scored."""
        return replace(
            self, left_out=left_out, coarser=tuple(depth.without(left_out) for depth in self.coarser)
        )

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, eq=False)
class Kept:
    """An image that whitening was learnt from, and its features of each depth before that, (patches, d) float32."""

    image: Prepared
    depths: tuple[NDArray[np.float32], ...]


class Extractor:
    """From a working image to its patch features: the first half of the pipeline, compiled.

    Attributes:
        grids: (h, w) of the patches of each depth, from fine to coarse.
        dimensions: of their features.
        kept: images that whitening was learnt from, by index, so that none is decoded and computed twice.
    """

    def __init__(
        self, backbone: Backbone, recipe: Recipe, whitening: Sequence[Whitening | None] = ()
    ) -> None:
        graph = backbone_graph(backbone, recipe, whitening)
        self.grids = grids_of(graph)
        self.dimensions = dimensions_of(graph)
        self.kept: dict[int, Kept] = {}
        self._name = backbone.name
        self._throughput = not recipe.tiling
        self._engine = open_engine(graph, throughput=self._throughput)
        self._whiten: Engine | None = None
        self._first: NDArray[np.float32] | None = None  # patch, which some other one differs from
        self._varies = False

    def whitened(self, whitening: Sequence[Whitening | None]) -> Extractor:
        """The same network, which is not compiled anew, and whitening behind it."""
        graph = whitening_graph(self.grids, whitening)
        other = copy(self)
        other.dimensions = tuple(
            dimensions if learnt is None else learnt.matrix.shape[1]
            for dimensions, learnt in zip(self.dimensions, whitening, strict=True)
        )
        other._whiten = open_engine(graph, throughput=self._throughput)
        return other

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the finest patches."""
        return self.grids[0]

    def __call__(self, working: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Patch features of each depth, (patches, d) float32, of a working image (height, width, 3) uint8.

        Raises:
            BackboneError: they are not all finite numbers.
        """
        found = self._engine({"image": working[None]})
        return self.finished(
            [
                features.reshape(-1, features.shape[-1])
                for features in (found[numbered(PATCH_FEATURES, depth)] for depth in range(len(self.grids)))
            ]
        )

    def finished(self, layers: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
        """Patch features of each depth, (patches, d) float32, from those before whitening; errors as `__call__`."""
        depths = tuple(layers)
        if self._whiten is not None:
            given = {
                numbered(LAYERS, depth): features.reshape(1, *grid, -1)
                for depth, (features, grid) in enumerate(zip(layers, self.grids, strict=True))
            }
            mapped = self._whiten({name: given[name] for name in self._whiten.inputs})
            depths = tuple(
                mapped.get(numbered(PATCH_FEATURES, depth), features).reshape(-1, dimensions)
                for depth, (features, dimensions) in enumerate(zip(layers, self.dimensions, strict=True))
            )
        if not all(np.isfinite(features).all() for features in depths):
            raise BackboneError(
                f"backbone {self._name}: some of its features are NaN or infinite, so no distance could be told; the "
                "file is damaged, or its normalisation (mean, std) is not that of its training: take another one"
            )
        if not self._varies:
            features = depths[0]
            first = self._first = features[0] if self._first is None else self._first
            self._varies = bool((np.abs(features - first) > _SAME * np.abs(first).max()).any())
        return depths

    def require_variation(self) -> None:
        """Raise BackboneError if all patches of all images so far had the same features: no defect would show."""
        if not self._varies:
            raise BackboneError(
                f"backbone {self._name}: its features are the same in every patch of every good image, so nothing "
                "could be told apart; its weights are damaged (zeros, say), or all images are of one colour. Take "
                "another backbone, or look at the images"
            )


def backbone_graph(
    backbone: Backbone,
    recipe: Recipe,
    whitening: Sequence[Whitening | None] = (),
    steps: Sequence[Step] = (),
) -> Graph:
    """The graph from a working image to patch features, for a backbone that is cut down to the recipe's layers.

    `steps` of the preprocessing add their nodes; good images are learnt from without these.
    """
    shapes = layer_shapes(backbone.model, recipe.image_size)
    return features_graph(backbone.model, shapes, recipe, backbone.mean, backbone.std, whitening, steps)


def grids_of(graph: Graph) -> tuple[tuple[int, int], ...]:
    """(h, w) of the patches of each depth that a features graph gives, from fine to coarse."""
    shapes = [item.type.tensor_type.shape.dim for item in graph.model.graph.output]
    return tuple((shape[1].dim_value, shape[2].dim_value) for shape in shapes)


def dimensions_of(graph: Graph) -> tuple[int, ...]:
    """How many dimensions the features of each depth have, from fine to coarse."""
    return tuple(item.type.tensor_type.shape.dim[3].dim_value for item in graph.model.graph.output)


def at_grid(patch_mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """A patch mask (h, w) on its own or a coarser grid: a cell counts where any patch in it does."""
    if patch_mask.shape == grid:
        return patch_mask
    rows, columns = (cell_of(size, coarse) for size, coarse in zip(patch_mask.shape, grid, strict=True))
    found = np.zeros(grid, dtype=bool)
    np.logical_or.at(found, (rows[:, None], columns), patch_mask)
    return found


def cell_of(size: int, coarse: int) -> NDArray[np.int64]:
    """In which of `coarse` cells along an axis the middle of each of `size` finer ones lies, (size,) int64."""
    return (2 * np.arange(size, dtype=np.int64) + 1) * coarse // (2 * size)


def learn_whitening(
    good: GoodImages, extractor: Extractor, preprocessor: Preprocessor
) -> tuple[Whitening | None, ...]:
    """What whitens the features of good images at each depth, from some of them; None where they stay as they are.

    Raises:
        ImageError: one of them can't be read, or does not fit the region of interest.
    """
    recipe = preprocessor.recipe
    wanted = [whitening.wanted(recipe, dimensions) for dimensions in extractor.dimensions]
    if not any(wanted):
        return (None,) * len(wanted)
    tiles = preprocessor.searched_tiles
    count = len(good) * len(tiles)
    sample: Sequence[int] = whitening.sample(count)
    if not preprocessor.single_crop:  # of every so many tiles all might lie at the same place
        rng = np.random.default_rng(recipe.seed)
        drawn = rng.choice(count, min(count, whitening.SAMPLE), replace=False, shuffle=False)
        sample = np.sort(drawn).tolist()

    kept = set(sample[: _room_for(extractor, recipe)] if preprocessor.single_crop else ())

    def features_of(index: int) -> list[NDArray[np.float32]]:
        image = preprocessor.prepare_good(good, index // len(tiles))
        crop = preprocessor.crop(image, tiles[index % len(tiles)])
        depths = extractor(crop.pixels)
        if index in kept:
            extractor.kept[index] = Kept(image, depths)
        return [
            features[at_grid(crop.patch_mask, grid).ravel()]
            for features, grid in zip(depths, extractor.grids, strict=True)
        ]

    moments = [Moments() for _ in wanted]
    workers = preprocessor.max_parallel_images(good.workers)
    with closing(good.map(features_of, sample, workers=workers)) as extracted:
        for done, depths in enumerate(extracted, 1):
            for sums, patches in zip(moments, depths, strict=True):
                sums.add(patches)
            good.progress("whitening", done, len(sample))
    extractor.require_variation()
    return tuple(
        Whitening.of(sums, recipe) if needed else None for sums, needed in zip(moments, wanted, strict=True)
    )


def _room_for(extractor: Extractor, recipe: Recipe) -> int:
    """How many images are kept beside their features."""
    values = sum(h * w * d for (h, w), d in zip(extractor.grids, extractor.dimensions, strict=True))
    bytes_each = 4 * values + 6 * math.prod(recipe.image_size)
    return int(_KEPT * recipe.memory_limit * 2**30 / bytes_each)


@contextmanager
def extract(good: GoodImages, extractor: Extractor, preprocessor: Preprocessor) -> Iterator[GoodFeatures]:
    """The features of all images and of the copies of them that steps make, for as long as the block lasts.

    Raises:
        ImageError: one of them can't be read, or does not fit the region of interest.
        OutputError: no room for their features in the temporary folder.
    """
    n, recipe, grids = len(good), preprocessor.recipe, extractor.grids
    views, crops = preprocessor.views, preprocessor.crops_per_image
    measuring = [step for step in preprocessor.steps if type(step).measure is not Step.measure]
    share = recipe.replace({"memory_limit": recipe.memory_limit / len(grids)})
    with ExitStack() as stack:
        stores = []
        for (h, w), dimensions in zip(grids, extractor.dimensions, strict=True):
            stores.append(stack.enter_context(patch_features((n, h * w, dimensions), share, views)))
        patch_masks = [np.zeros((n, views, h * w), dtype=bool) for h, w in grids]
        steps = parallel.StepCounter(n * len(preprocessor.searched_tiles))

        def extract_one(
            index: int,
        ) -> tuple[Prepared, str, ImageStatistics, list[NDArray[np.float32] | None]]:
            kept = extractor.kept.pop(index, None)
            image = preprocessor.prepare_good(good, index) if kept is None else kept.image
            measured_statistics = image_statistics.measure(preprocessor.quality_gate_pixels(image))
            for crop in preprocessor.training_crops(image):
                if kept is not None and crop.view == 0:
                    found = extractor.finished(kept.depths)
                else:
                    found = extractor(crop.pixels)
                for features, store, patch_mask, grid in zip(found, stores, patch_masks, grids, strict=True):
                    patch_mask[index, crop.view] = at_grid(crop.patch_mask, grid).ravel()
                    store.put(index, features, crop.view)
                if crop.view < crops:
                    steps.take()
            return image, image.digest, measured_statistics, [step.measure(image) for step in measuring]

        frames, digests, statistics, measured, failures = [], [], [], [], []

        def report_progress() -> None:
            good.progress("features", steps.done, steps.total)

        workers = preprocessor.max_parallel_images(good.workers)
        with closing(
            good.map(extract_one, range(n), workers=workers, while_waiting=report_progress)
        ) as extracted:
            for image, digest, of_image, values in extracted:
                frames.append(image.frame)
                digests.append(digest)
                statistics.append(of_image)
                measured.append(values)
                failures.append(image.pose.failure if image.pose else "")
                report_progress()
        extractor.require_variation()
        by_step = zip(*measured, strict=True)
        finest = GoodFeatures(
            stores[0],
            patch_masks[0].reshape(n, -1),
            tuple(frames),
            grids[0],
            tuple(digests),
            tuple(statistics),
            {step.name: np.stack(values) for step, values in zip(measuring, by_step, strict=False)},
            np.zeros(n, dtype=bool),
            tuple(failures),
            preprocessor,
        )
        coarser = zip(stores[1:], patch_masks[1:], grids[1:], strict=True)
        yield replace(
            finest,
            coarser=tuple(
                replace(finest, features=store, patch_mask=patch_mask.reshape(n, -1), grid=grid)
                for store, patch_mask, grid in coarser
            ),
        )
