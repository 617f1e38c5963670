"""Patch features of good images: what fitting learns from.

`extract` decodes and computes side by side and keeps the features of all images: `feature_store` says where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from goodparts import feeding, framing, light, quality, tiles
from goodparts.feature_store import PatchFeatures, patch_features
from goodparts.framing import Frame
from goodparts.images import ImageLike, name_of
from goodparts.quality import ImageStatistics
from goodparts.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.backbones import Backbone
    from goodparts.engines.openvino import Engine
    from goodparts.graph import Graph
    from goodparts.light import Light
    from goodparts.roi import Roi
    from goodparts.tiles import Tiling

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

Read = Callable[[ImageLike], NDArray[np.uint8]]
"""From an image as users give it to pixels (H, W, 3) uint8."""


@dataclass(frozen=True, eq=False)
class GoodFeatures:
    """The patch features of n good images.

    Attributes:
        features: (n, patches, d); of tiled images those of one tile after the other.
        valid: which patches look at the image rather than at padding, and at the region of interest, (n, patches) bool.
        frames: how each image lies in its working image; tiled, in the canvas, which is the working image then.
        grid: (h, w) of the patches; of one tile if there are tiles.
        digests: of each working image's pixels; equal for equal images.
        statistics: what each working image looks like, without its distance.
        cells: mean brightness of the cells of each working image, as `light.measure` takes it, (n, 3, 64);
            zeros where images are tiled.
        left_out: images of which nothing may enter the bank, (n,) bool.
        roi: the region of interest; None: everything is looked at.
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
    tiling: Tiling | None = None

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """Which patches may enter the bank, (n, patches) bool."""
        return np.asarray(self.valid & ~self.left_out[:, None])

    def seen(self, index: int) -> NDArray[np.bool_] | None:
        """Which pixels of an image lie in the region of interest, (H, W) bool; None: all of them."""
        return None if self.roi is None else self.roi.seen(self.frames[index].image_size)

    def without(self, left_out: NDArray[np.bool_]) -> GoodFeatures:
        """The same with these images left out of the bank; they can still be scored."""
        return replace(self, left_out=left_out)

    def __len__(self) -> int:
        return len(self.frames)


class Extractor:
    """From a working image to its patch features: the first half of the pipeline, compiled."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        from goodparts.engines.openvino import Engine

        graph = features_graph(backbone, recipe)
        self.grid = grid_of(graph)
        self.dimensions = graph.model.graph.output[0].type.tensor_type.shape.dim[3].dim_value
        self._engine: Engine = Engine(
            graph, {"image": (1, *recipe.image_size, 3)}, throughput=not recipe.tiling
        )

    def __call__(self, working: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Patch features, (patches, d) float32, of a working image (height, width, 3) uint8."""
        return self._engine({"image": working[None]})["patch_features"].reshape(-1, self.dimensions)


def features_graph(backbone: Backbone, recipe: Recipe, usual: Light | None = None) -> Graph:
    """The graph from a working image to patch features, for a backbone that is cut down to the recipe's layers.

    `usual` is the light to which an image is brought; good images need none, since it is theirs.
    """
    from goodparts import graph
    from goodparts.engines.openvino import layer_shapes

    shapes = layer_shapes(backbone.model, recipe.image_size)
    return graph.features_graph(backbone.model, shapes, recipe, backbone.mean, backbone.std, usual)


def grid_of(graph: Graph) -> tuple[int, int]:
    """(h, w) of the patches that a features graph gives."""
    shape = graph.model.graph.output[0].type.tensor_type.shape.dim
    return shape[1].dim_value, shape[2].dim_value


@contextmanager
def extract(
    images: Sequence[ImageLike],
    extractor: Extractor,
    recipe: Recipe,
    *,
    read: Read,
    workers: int,
    tell: Progress,
    roi: Roi | None = None,
    tiling: Tiling | None = None,
) -> Iterator[GoodFeatures]:
    """The features of all images, for as long as the block lasts.

    Raises:
        ImageError: one of them can't be read, or does not fit the region of interest.
        OutputError: no room for their features in the temporary folder.
    """
    patches = extractor.grid[0] * extractor.grid[1]
    views = 1 if tiling is None else len(tiling)
    whole, grid = tiles.whole(tiling, recipe, extractor.grid)
    with patch_features((len(images), patches, extractor.dimensions), recipe, views) as features:
        valid = np.ones((len(images), views * patches), dtype=bool)

        def one(index: int) -> tuple[Frame, str, ImageStatistics, NDArray[np.float32]]:
            pixels = read(images[index])
            frame = framing.frame_of(pixels.shape[:2], whole)
            working = framing.apply(frame, pixels)
            judged = framing.without_padding(frame, working)
            if roi is not None:
                roi.require_fit(frame.image_size, name_of(images[index]))
                looked_at = roi.looked_at(whole, grid)
                judged = working[roi.judged(whole, grid)]
            else:
                looked_at = framing.valid_cells(frame, grid)
            valid[index] = looked_at.ravel() if tiling is None else tiling.of_tiles(looked_at)
            for view in range(views):
                if valid[index, view * patches : (view + 1) * patches].any():
                    shown = working if tiling is None else tiling.pixels(working, view)
                    features.put(index, extractor(shown), view)
            cells = light.measure(working) if tiling is None else np.zeros((3, light.CELLS**2), np.float32)
            return frame, digest(working), quality.measure(judged), cells

        frames, digests, statistics, cells = [], [], [], []
        with closing(
            feeding.ordered(one, range(len(images)), workers=tiles.abreast(workers, recipe))
        ) as extracted:
            for frame, hashed, measured, brightness in extracted:
                frames.append(frame)
                digests.append(hashed)
                statistics.append(measured)
                cells.append(brightness)
                tell("features", len(frames), len(images))
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
            tiling,
        )


def digest(working: NDArray[np.uint8]) -> str:
    """A short hash of a working image's pixels, by which an image that was learnt from is known again."""
    return hashlib.blake2b(np.ascontiguousarray(working).tobytes(), digest_size=8).hexdigest()
