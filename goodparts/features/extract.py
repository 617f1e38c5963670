"""Patch features of good images: what fitting learns from.

`extract` decodes and computes side by side and keeps the features of all images: `features.store` says where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data.images import ImageLike
from goodparts.features import whitening
from goodparts.features.store import PatchFeatures, patch_features
from goodparts.features.whitening import Whitening
from goodparts.preprocessing import augment, framing, light
from goodparts.preprocessing import statistics as image_statistics
from goodparts.preprocessing import tiling as tiles
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.pose import Placed
from goodparts.preprocessing.statistics import ImageStatistics
from goodparts.recipe import copies as recipe_copies
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.backbones.backbone import Backbone
    from goodparts.engines.graph import Graph
    from goodparts.engines.openvino import Engine
    from goodparts.preprocessing.light import Light
    from goodparts.preprocessing.preprocessor import Viewing
    from goodparts.preprocessing.roi import Roi
    from goodparts.preprocessing.tiling import Tiling


@dataclass(frozen=True, eq=False)
class GoodFeatures:
    """The patch features of n good images.

    Attributes:
        features: (n, views x patches, d): all of an image's; of a tiled image those of one tile after the other, else
            the image itself first, then its copies (`augment`).
        valid: which patches look at the image rather than at padding, and at the region of interest,
            (n, views x patches) bool.
        frames: how each image lies in its working image; tiled, in the canvas, which is the working image then.
        grid: (h, w) of the patches; of one tile if there are tiles.
        digests: of each working image's pixels; equal for equal images.
        statistics: what each working image looks like, without its distance.
        cells: mean brightness of the cells of each working image, as `light.measure` takes it, (n, 3, 64);
            zeros where images are tiled.
        left_out: images of which nothing may enter the bank, (n,) bool.
        roi: the region of interest; None: everything is looked at.
        unaligned: why the pose of each image was not found; empty where it was, or is not looked for.
        tiling: how images are tiled; None: they are not.
    """

    features: PatchFeatures
    valid: NDArray[np.bool_]
    frames: tuple[Frame, ...]
    grid: tuple[int, int]
    digests: tuple[str, ...]
    statistics: tuple[ImageStatistics, ...]
    cells: NDArray[np.float32]
    left_out: NDArray[np.bool_]
    roi: Roi | None = None
    unaligned: tuple[str, ...] = ()
    tiling: Tiling | None = None

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """Which patches may enter the bank, (n, views x patches) bool."""
        return np.asarray(self.valid & ~self.left_out[:, None])

    @property
    def looked_at(self) -> NDArray[np.bool_]:
        """Which patches of the images themselves were looked at, (n, h, w) bool."""
        h, w = self.grid
        return self.valid[:, : h * w].reshape(-1, h, w)

    def seen(self, index: int) -> NDArray[np.bool_] | None:
        """Which pixels of an image lie in the region of interest, (H, W) bool; None: all of them."""
        return None if self.roi is None else self.roi.seen(self.frames[index].image_size)

    def of_tile(self, tile: int) -> GoodFeatures:
        """The same, but only patches of one tile may enter the bank."""
        patches = self.grid[0] * self.grid[1]
        only = np.zeros_like(self.valid)
        part = slice(tile * patches, (tile + 1) * patches)
        only[:, part] = self.valid[:, part]
        return replace(self, valid=only)

    def without(self, left_out: NDArray[np.bool_]) -> GoodFeatures:
        """The same with these images left out of the bank; they can still be scored."""
        return replace(self, left_out=left_out)

    def __len__(self) -> int:
        return len(self.frames)


class Extractor:
    """From a working image to its patch features: the first half of the pipeline, compiled."""

    def __init__(self, backbone: Backbone, recipe: Recipe, whitening: Whitening | None = None) -> None:
        from goodparts.engines.openvino import Engine

        graph = features_graph(backbone, recipe, whitening)
        self.grid = grid_of(graph)
        self.dimensions = graph.model.graph.output[0].type.tensor_type.shape.dim[3].dim_value
        self._engine: Engine = Engine(
            graph, {"image": (1, *recipe.image_size, 3)}, throughput=not recipe.tiling
        )

    def __call__(self, working: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Patch features, (patches, d) float32, of a working image (height, width, 3) uint8."""
        return self._engine({"image": working[None]})["patch_features"].reshape(-1, self.dimensions)


def features_graph(
    backbone: Backbone, recipe: Recipe, whitening: Whitening | None = None, usual: Light | None = None
) -> Graph:
    """The graph from a working image to patch features, for a backbone that is cut down to the recipe's layers.

    `usual` is the light to which an image is brought; good images need none, since it is theirs.
    """
    from goodparts.engines.openvino import layer_shapes
    from goodparts.features import features_graph as graph

    shapes = layer_shapes(backbone.model, recipe.image_size)
    return graph.features_graph(backbone.model, shapes, recipe, backbone.mean, backbone.std, whitening, usual)


def grid_of(graph: Graph) -> tuple[int, int]:
    """(h, w) of the patches that a features graph gives."""
    shape = graph.model.graph.output[0].type.tensor_type.shape.dim
    return shape[1].dim_value, shape[2].dim_value


def learn_whitening(images: Sequence[ImageLike], extractor: Extractor, viewing: Viewing) -> Whitening | None:
    """What whitens the features of good images, from some of them; None where the recipe leaves them as they are.

    Raises:
        ImageError: one of them can't be read, or does not fit the region of interest.
    """
    recipe, tiling = viewing.recipe, viewing.tiling
    if not whitening.wanted(recipe, extractor.dimensions):
        return None
    views = [0]
    if tiling is not None:
        views = tiling.searched(tiling.looked_at(viewing.roi, recipe))
    count = len(images) * len(views)
    sample: Sequence[int]
    if tiling is None:
        sample = range(0, count, -(-count // whitening.SAMPLE))
    else:  # of every so many tiles all might lie at the same place
        rng = np.random.default_rng(recipe.seed)
        drawn = rng.choice(count, min(count, whitening.SAMPLE), replace=False, shuffle=False)
        sample = np.sort(drawn).tolist()

    def one(index: int) -> NDArray[np.float32]:
        placed, looked_at = viewing.place(images[index // len(views)], extractor.grid)
        if tiling is None:
            return extractor(placed.working)[looked_at.ravel()]
        view = views[index % len(views)]
        return extractor(tiling.pixels(placed.working, view))[tiling.cells(looked_at, view).ravel()]

    def told() -> Iterator[NDArray[np.float32]]:
        with closing(parallel.ordered(one, sample, workers=viewing.abreast)) as extracted:
            for done, patches in enumerate(extracted, 1):
                viewing.tell("whitening", done, len(sample))
                yield patches

    return Whitening.learn(told(), recipe)


@contextmanager
def extract(images: Sequence[ImageLike], extractor: Extractor, viewing: Viewing) -> Iterator[GoodFeatures]:
    """The features of all images and of the copies of them that the recipe asks for, for as long as the block lasts.

    Images are aligned to the reference, if there is one.

    Raises:
        ImageError: one of them can't be read, or does not fit the region of interest.
        OutputError: no room for their features in the temporary folder.
    """
    recipe, roi, tiling = viewing.recipe, viewing.roi, viewing.tiling
    copies = recipe_copies.copies(recipe.augment)
    patches = extractor.grid[0] * extractor.grid[1]
    views = 1 + len(copies) if tiling is None else len(tiling)
    whole, grid = tiles.whole(tiling, recipe, extractor.grid)
    with patch_features((len(images), patches, extractor.dimensions), recipe, views) as features:
        valid = np.ones((len(images), views * patches), dtype=bool)
        steps = parallel.Steps(len(images) * (views if tiling is not None else 1))  # an image, or a tile

        def one(index: int) -> tuple[Placed, str, ImageStatistics, NDArray[np.float32]]:
            placed, looked_at = viewing.place(images[index], extractor.grid)
            frame, working = placed.frame, placed.working
            judged = framing.without_padding(frame, placed.picture)
            if roi is not None:
                judged = working[roi.judged(whole, grid)]
            for view in range(views):
                if tiling is not None:
                    seen, shown = tiling.cells(looked_at, view), tiling.pixels(working, view)
                elif view:
                    copy = copies[view - 1]
                    seen = augment.valid_cells(copy, looked_at, frame)
                    shown = augment.apply(copy, working, frame)
                else:
                    seen, shown = looked_at, working
                valid[index, view * patches : (view + 1) * patches] = seen.ravel()
                if seen.any():
                    features.put(index, extractor(shown), view)
                if tiling is not None:
                    steps.take()
            if tiling is None:
                steps.take()
            cells = light.measure(working) if tiling is None else np.zeros((3, light.CELLS**2), np.float32)
            return placed, digest(working), image_statistics.measure(judged), cells

        frames, digests, statistics, cells, unaligned = [], [], [], [], []

        def tell() -> None:
            viewing.tell("features", steps.done, steps.total)

        order = range(len(images))
        with closing(parallel.ordered(one, order, workers=viewing.abreast, meanwhile=tell)) as extracted:
            for placed, hashed, measured, brightness in extracted:
                frames.append(placed.frame)
                unaligned.append(placed.pose.failure if placed.pose else "")
                digests.append(hashed)
                statistics.append(measured)
                cells.append(brightness)
                tell()
        everyone = np.zeros(len(images), dtype=bool)
        yield GoodFeatures(
            features,
            valid,
            tuple(frames),
            extractor.grid,
            tuple(digests),
            tuple(statistics),
            np.stack(cells),
            everyone,
            roi,
            tuple(unaligned),
            tiling,
        )


def digest(working: NDArray[np.uint8]) -> str:
    """A short hash of a working image's pixels, by which an image that was learnt from is known again."""
    return hashlib.blake2b(np.ascontiguousarray(working).tobytes(), digest_size=8).hexdigest()
