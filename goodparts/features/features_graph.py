"""The one pipeline, from uint8 pixels to distances, as an ONNX graph that every engine executes.

    image (n, H, W, 3) uint8 ─► normalise ─► backbone ─► local average ─► fuse layers ─► whiten   features_graph
                                                                                       │
                  patch_features (n, h, w, d) of each depth ◄──────────────────────────┘
                                       │
    distance_grid (n, h, w), score (n,) ◄── exact distances of the best candidates ◄── search   bank.search_graph

The second half is in `goodparts.bank.search_graph`; `pipeline_graph` in `goodparts.engines.graph` joins both.
Before them steps of the preprocessing add what they do within the graph (`Step.add_nodes`). The memory bank and what
else was learnt are inputs of the graph by name, with their values beside it (`Graph.constants`): an engine binds them
without a copy, an export writes them into the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts.engines.graph import OPSET, PATCH_FEATURES, Graph, GraphBuilder, numbered
from goodparts.errors import BackboneError
from goodparts.recipe.values import size_text

if TYPE_CHECKING:
    from goodparts.features.whitening import Whitening
    from goodparts.preprocessing.step import Step
    from goodparts.recipe.recipe import Recipe

LAYERS = "layers"
"""The input of `whitening_graph` for the finest depth."""


def features_graph(
    backbone: onnx.ModelProto,
    layer_shapes: Sequence[tuple[int, ...]],
    recipe: Recipe,
    mean: Sequence[float],
    std: Sequence[float],
    whitening: Sequence[Whitening | None] = (),
    steps: Sequence[Step] = (),
) -> Graph:
    """The graph from `image` (n, H, W, 3) uint8 to `patch_features` (n, h, w, d) float32.

    With `banks = by_depth` layers of other grids have outputs of their own, `patch_features_2` and so on, from fine to
    coarse.

    Args:
        backbone: input (n, 3, H, W) float32; its outputs are the recipe's layers, in their order.
        layer_shapes: shape of each output for one image of the working size: (1, c, h, w), or (1, tokens, c).
        recipe: image_size, banks, patch_size, layer_fusion, layer_weights, grid_layer, pooled_dimensions.
        mean: of RGB / 255.
        std: of RGB / 255.
        whitening: what the features of each depth are mapped by in the end; None, and where there is none: they stay
            as they are.
        steps: of the preprocessing, which add their nodes at the beginning.
    """
    height, width = recipe.image_size
    build = GraphBuilder("features/", opset=max(OPSET, backbone.opset_import[0].version))
    image = build.input("image", TensorProto.UINT8, ["n", height, width, 3])
    scale = 1 / (255 * np.asarray(std, np.float64))
    offset = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    pixels = build.node("Cast", image, to=TensorProto.FLOAT)
    for step in steps:
        pixels = step.add_nodes(build, pixels, recipe.image_size)
    pixels = build.node("Mul", pixels, build.constant(scale.astype(np.float32)))
    pixels = build.node("Add", pixels, build.constant(offset.astype(np.float32)))
    pixels = build.node("Transpose", pixels, perm=[0, 3, 1, 2])
    layers = build.embed(backbone, pixels)

    maps = []
    for name, layer, shape in zip(recipe.layers, layers, layer_shapes, strict=True):
        if len(shape) == 3:
            maps.append(_tokens_to_grid(build, name, layer, shape, recipe.image_size))
        elif len(shape) == 4:
            maps.append((layer, (shape[1], shape[2], shape[3])))
        else:
            raise BackboneError(
                f"layers: {name} has shape {shape}; expected a feature map (n, c, h, w) or tokens (n, tokens, d)"
            )
    weighted = list(zip(maps, recipe.layer_weights or (1.0,) * len(maps), strict=True))
    for depth, (grid, members) in enumerate(_depths([(h, w) for _, (_, h, w) in maps], recipe)):
        joined, dimensions = _join(build, [weighted[index] for index in members], grid, recipe)
        learnt = whitening[depth] if whitening else None
        if learnt is not None:
            if learnt.mean.shape != (dimensions,):
                raise BackboneError(
                    f"layers: have {dimensions} channels in all, and what was learnt is of {len(learnt.mean)}; the "
                    "model is damaged, or its backbone is another one"
                )
            joined, dimensions = _whitened(build, joined, learnt, depth)
        name = numbered(PATCH_FEATURES, depth)
        build.node("Reshape", joined, build.ints([0, *grid, dimensions]), name=name)
        build.output(name, ["n", *grid, dimensions])
    return Graph(build.finish(), build.constants)


def whitening_graph(grids: Sequence[tuple[int, int]], whitening: Sequence[Whitening | None]) -> Graph:
    """The end of a features graph alone: from the features of each depth before they are whitened to what comes then.

    Inputs are `layers` (n, h, w, d), `layers_2` and so on, of the depths that are whitened.
    """
    build = GraphBuilder("whitening/", opset=OPSET)
    for depth, (grid, learnt) in enumerate(zip(grids, whitening, strict=True)):
        if learnt is not None:
            given = build.input(numbered(LAYERS, depth), TensorProto.FLOAT, ["n", *grid, len(learnt.mean)])
            rows = build.node("Reshape", given, build.ints([0, grid[0] * grid[1], len(learnt.mean)]))
            mapped, dimensions = _whitened(build, rows, learnt, depth)
            name = numbered(PATCH_FEATURES, depth)
            build.node("Reshape", mapped, build.ints([0, *grid, dimensions]), name=name)
            build.output(name, ["n", *grid, dimensions])
    return Graph(build.finish(), build.constants)


def _whitened(build: GraphBuilder, rows: str, learnt: Whitening, depth: int) -> tuple[str, int]:
    """Features (n, h w, d) of a depth whitened, and how many dimensions they then have."""
    centred = build.node("Sub", rows, build.learnt(numbered("features_mean", depth), learnt.mean))
    mapped = build.node("MatMul", centred, build.learnt(numbered("features_matrix", depth), learnt.matrix))
    return mapped, learnt.matrix.shape[1]


def _depths(sizes: Sequence[tuple[int, int]], recipe: Recipe) -> list[tuple[tuple[int, int], list[int]]]:
    """The grid (h, w) of each depth and the layers that it has, from fine to coarse.

    Layers finer than `grid_layer` come to its grid; so do all others with `banks = joined`.
    """
    finest = max(sizes, key=lambda size: size[0] * size[1])
    grid = sizes[recipe.layers.index(recipe.grid_layer)] if recipe.grid_layer else finest
    depths: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        coarser = size[0] * size[1] < grid[0] * grid[1] and recipe.banks != "joined"
        depths.setdefault(size if coarser else grid, []).append(index)
    return sorted(depths.items(), key=lambda depth: -depth[0][0] * depth[0][1])


def _join(
    build: GraphBuilder,
    layers: Sequence[tuple[tuple[str, tuple[int, int, int]], float]],
    grid: tuple[int, int],
    recipe: Recipe,
) -> tuple[str, int]:
    """Layers ((name, (channels, h, w)), weight) as features of the cells of a grid, (n, h w, d); and d."""
    fused = []
    for (layer, (channels, h, w)), weight in layers:
        layer, channels = _local_average(build, layer, channels, recipe)
        if weight != 1:
            layer = build.node("Mul", layer, build.floats([weight]))
        if (h, w) != grid:
            finer = h * w > grid[0] * grid[1]
            layer = _to_grid(build, layer, (h, w), grid, "adaptive" if finer else recipe.layer_fusion)
        fused.append((layer, channels))
    dimensions = sum(channels for _, channels in fused)
    if recipe.pooled_dimensions and recipe.pooled_dimensions != dimensions:
        joined = build.node("Concat", *(layer for layer, _ in fused), axis=1)
        dimensions = recipe.pooled_dimensions
        fused = [
            (
                _adaptive_channels(build, joined, sum(channels for _, channels in fused), dimensions),
                dimensions,
            )
        ]
    # Channels come last, and cells in a row, in each layer before they are joined: so engines need not move them again.
    rows = []
    for layer, channels in fused:
        last = build.node("Transpose", layer, perm=[0, 2, 3, 1])
        rows.append(build.node("Reshape", last, build.ints([0, grid[0] * grid[1], channels])))
    return (build.node("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]), dimensions


# ---- features


def _tokens_to_grid(
    build: GraphBuilder, name: str, layer: str, shape: tuple[int, ...], image_size: tuple[int, int]
) -> tuple[str, tuple[int, int, int]]:
    """Token sequences (n, tokens, d) of a vision transformer as a feature map; class and register tokens come first
    and are dropped."""
    _, tokens, dimensions = shape
    cut = 0  # patches of so many pixels would leave the last pixels out
    for patch in (8, 14, 16, 32):
        h, w = image_size[0] // patch, image_size[1] // patch
        prefix = tokens - h * w
        if 0 <= prefix <= 16 and h * w > prefix:
            if image_size[0] % patch or image_size[1] % patch:
                cut = cut or patch
                continue
            kept = build.node("Slice", layer, build.ints([prefix]), build.ints([tokens]), build.ints([1]))
            grid = build.node("Reshape", kept, build.ints([-1, h, w, dimensions]))
            return build.node("Transpose", grid, perm=[0, 3, 1, 2]), (dimensions, h, w)
    if cut:
        height, width = image_size
        smaller = size_text((height // cut * cut, width // cut * cut))
        larger = size_text((-(-height // cut) * cut, -(-width // cut) * cut))
        raise BackboneError(
            f"image_size: {size_text(image_size)} is not filled by the transformer's patches of {cut} pixels; "
            f"take {smaller} or {larger}"
        )
    raise BackboneError(
        f"layers: the {tokens} tokens of {name} don't fill a grid of {image_size[1]}x{image_size[0]} pixels with "
        "patches of 8, 14, 16 or 32; take an image_size that is a multiple of the transformer's patch size"
    )


def _local_average(build: GraphBuilder, layer: str, channels: int, recipe: Recipe) -> tuple[str, int]:
    """Features averaged over patch_size x patch_size cells, zeros outside (Roth et al. 2022, equation 2).

    With pooled_dimensions, as in the authors' code: the patch's channels x cells vector, adaptively average-pooled to
    that many dimensions, which is a grouped convolution.
    """
    size, pooled = recipe.patch_size, recipe.pooled_dimensions
    pad = size // 2
    if not pooled:
        if size == 1:
            return layer, channels
        return (
            build.node(
                "AveragePool",
                layer,
                kernel_shape=[size, size],
                pads=[pad] * 4,
                strides=[1, 1],
                count_include_pad=1,
            ),
            channels,
        )
    weights, groups = _pooling_weights(channels, size * size, pooled)
    return (
        build.node(
            "Conv",
            layer,
            build.constant(weights.reshape(pooled, channels // groups, size, size)),
            group=groups,
            kernel_shape=[size, size],
            pads=[pad] * 4,
        ),
        pooled,
    )


def _pooling_weights(channels: int, cells: int, pooled: int) -> tuple[NDArray[np.float32], int]:
    """Adaptive average pooling of (channels x cells) to `pooled` bins as weights (pooled, channels / groups * cells).

    Bin i averages elements floor(i L / pooled) to ceil((i + 1) L / pooled); at multiples of gcd(channels, pooled) bins
    and channels end together, which makes it a convolution in that many groups.
    """
    groups = int(np.gcd(channels, pooled))
    elements = channels * cells
    per_group = elements // groups
    weights = np.zeros((pooled, per_group), dtype=np.float32)
    for i in range(pooled):
        first, last = i * elements // pooled, -(-(i + 1) * elements // pooled)
        offset = i // (pooled // groups) * per_group
        weights[i, first - offset : last - offset] = 1 / (last - first)
    return weights, groups


def _adaptive_channels(build: GraphBuilder, joined: str, dimensions: int, pooled: int) -> str:
    weights, groups = _pooling_weights(dimensions, 1, pooled)
    return build.node(
        "Conv", joined, build.constant(weights.reshape(pooled, -1, 1, 1)), group=groups, kernel_shape=[1, 1]
    )


def _to_grid(
    build: GraphBuilder, layer: str, size: tuple[int, int], grid: tuple[int, int], fusion: str
) -> str:
    """A layer on another grid: bilinear (half-pixel centres), or by adaptive average pooling."""
    if fusion == "bilinear":
        return build.node(
            "Resize",
            layer,
            "",
            "",
            build.ints(grid),
            axes=[2, 3],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    rows = build.constant(_adaptive_matrix(size[0], grid[0]))
    columns = build.constant(np.ascontiguousarray(_adaptive_matrix(size[1], grid[1]).T))
    return build.node("MatMul", build.node("MatMul", rows, layer), columns)


def _adaptive_matrix(size: int, target: int) -> NDArray[np.float32]:
    matrix = np.zeros((target, size), dtype=np.float32)
    for i in range(target):
        first, last = i * size // target, -(-(i + 1) * size // target)
        matrix[i, first:last] = 1 / (last - first)
    return matrix
