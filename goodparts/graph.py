"""The one pipeline, from uint8 pixels to distances, as an ONNX graph that every engine executes.

    image (n, H, W, 3) uint8 ─► normalise ─► backbone ─► local average ─► fuse layers ─► whiten   features_graph
                                                                                       │
                               patch_features (n, h, w, d) ◄───────────────────────────┘
                                       │
    distance_grid (n, h, w), score (n,) ◄── exact distances of the best candidates ◄── search     search_graph

Before all of it an image can be brought to the light of good images (`light`). `pipeline_graph` joins both. The memory
bank and what else was learnt are inputs of the graph by name, with their values beside it (`Graph.constants`): an
engine binds them without a copy, an export writes them into the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts import position
from goodparts.errors import BackboneError
from goodparts.graph_builder import GraphBuilder
from goodparts.light import CELLS, DARK, LARGEST, TO_CHANNELS, TO_COEFFICIENTS, averaging
from goodparts.memory_bank import candidates as candidates_of

if TYPE_CHECKING:
    from goodparts.light import Light
    from goodparts.memory_bank import MemoryBank
    from goodparts.position import Blocks
    from goodparts.recipe import Recipe
    from goodparts.whitening import Whitening

OPSET = 19
_SCRATCH = 100 << 20  # bytes
FAR = 1e30  # added to a distance that must not win; its square is still finite in float64, itself in float32


@dataclass
class Graph:
    """An ONNX model and the values of those of its inputs that are learnt, by name."""

    model: onnx.ModelProto
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)


def features_graph(
    backbone: onnx.ModelProto,
    layer_shapes: Sequence[tuple[int, ...]],
    recipe: Recipe,
    mean: Sequence[float],
    std: Sequence[float],
    whitening: Whitening | None = None,
    light: Light | None = None,
) -> Graph:
    """The graph from `image` (n, H, W, 3) uint8 to `patch_features` (n, h, w, d) float32.

    Args:
        backbone: input (n, 3, H, W) float32; its outputs are the recipe's layers, in their order.
        layer_shapes: shape of each output for one image of the working size: (1, c, h, w), or (1, tokens, c).
        recipe: image_size, patch_size, layer_fusion, layer_weights, grid_layer, pooled_dimensions.
        mean: of RGB / 255.
        std: of RGB / 255.
        whitening: what features are mapped by in the end; None: they stay as they are.
        light: that of good images, to which an image in other light is brought; None: images are taken as they are.
    """
    height, width = recipe.image_size
    build = GraphBuilder("features/", opset=max(OPSET, backbone.opset_import[0].version))
    image = build.input("image", TensorProto.UINT8, ["n", height, width, 3])
    scale = 1 / (255 * np.asarray(std, np.float64))
    offset = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    pixels = build.node("Cast", image, to=TensorProto.FLOAT)
    pixels = build.node("Transpose", pixels, perm=[0, 3, 1, 2])
    if light is not None:
        pixels = _in_usual_light(build, pixels, light, recipe.image_size)
    pixels = build.node("Mul", pixels, build.constant(scale.reshape(1, 3, 1, 1).astype(np.float32)))
    pixels = build.node("Add", pixels, build.constant(offset.reshape(1, 3, 1, 1).astype(np.float32)))
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
    sizes = [(h, w) for _, (_, h, w) in maps]
    if recipe.grid_layer:
        grid = sizes[recipe.layers.index(recipe.grid_layer)]
    else:
        grid = max(sizes, key=lambda size: size[0] * size[1])
    fused = []
    for (layer, (channels, h, w)), weight in zip(
        maps, recipe.layer_weights or (1.0,) * len(maps), strict=True
    ):
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
    joined = build.node("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]
    if whitening is not None:
        joined = build.node("Sub", joined, build.learnt("features_mean", whitening.mean))
        joined = build.node("MatMul", joined, build.learnt("features_matrix", whitening.matrix))
        dimensions = whitening.matrix.shape[1]
    build.node("Reshape", joined, build.ints([0, *grid, dimensions]), name="patch_features")
    build.output("patch_features", ["n", *grid, dimensions])
    return Graph(build.finish(), build.constants)


def search_graph(
    bank: MemoryBank,
    grid: tuple[int, int],
    recipe: Recipe,
    *,
    masked: bool = False,
    held_out: bool = False,
    opset: int = OPSET,
) -> Graph:
    """The graph from `patch_features` (n, h, w, d) to `distance_grid` (n, h, w) and `score` (n,), float32.

    Each patch is compared with the whole bank in the bank's search space (centred, principal dimensions, int8); the
    exact Euclidean distances of the best candidates decide: that to the nearest entry, or the mean of those to several,
    in units of the entries' spacing where the bank has one. With a `position_window`, only with the entries within it.

    Args:
        bank: what is searched.
        grid: (h, w).
        recipe: score_neighbours, image_score and its keys, position_window.
        masked: adds the input `valid` (n, h, w) float32, 0 for patches that must not count for the score.
        held_out: adds the input `excluded` (m,) float32, `FAR` for bank entries that must not be found.
        opset: that of the features graph, so that both can be joined.
    """
    build = GraphBuilder("search/", opset=opset)
    entries, dimensions = bank.features.shape
    features = build.input("patch_features", TensorProto.FLOAT, ["n", *grid, dimensions])
    patches = build.node("Reshape", features, build.ints([-1, dimensions]))
    stored = build.learnt("bank", bank.features)
    excluded = build.input("excluded", TensorProto.FLOAT, [entries]) if held_out else None

    window = position.window_of(recipe, grid)
    blocks = None
    if window is not None:
        assert bank.cells is not None  # what chose the bank had the same recipe
        blocks = position.cut(window, bank.cells)
    candidates, absent = _search(build, patches, bank, candidates_of(recipe), excluded, blocks)
    found = build.node("Gather", stored, candidates, axis=0)  # (patches, k, d)
    squared = _squared_distance(build, build.node("Unsqueeze", patches, build.ints([1])), found)
    if absent is not None:
        squared = build.node("Add", squared, absent)
    if excluded is not None:
        squared = build.node("Add", squared, build.node("Gather", excluded, candidates))
    nearest = build.node("ReduceMin", squared, build.ints([1]), keepdims=0)
    if bank.spacing is None and recipe.score_neighbours == 1:
        distances = build.node("Sqrt", nearest)
    else:
        some_missing = held_out or blocks is not None
        distances = _mean_distance(build, squared, candidates, bank, recipe.score_neighbours, some_missing)
    build.node("Reshape", distances, build.ints([-1, *grid]), name="distance_grid")
    build.output("distance_grid", ["n", *grid])

    per_image = build.node("Reshape", distances, build.ints([-1, grid[0] * grid[1]]))
    counted = None
    if masked:
        valid = build.input("valid", TensorProto.FLOAT, ["n", *grid])
        counted = build.node("Reshape", valid, build.ints([-1, grid[0] * grid[1]]))
        hidden = build.node("Mul", build.node("Sub", counted, build.floats([1])), build.floats([FAR]))
        per_image = build.node("Add", per_image, hidden)  # invalid patches fall to -FAR
    if recipe.image_score == "top_mean":
        score = _top_mean(build, per_image, counted, grid[0] * grid[1], recipe.top_share)
    else:
        score = build.node("ReduceMax", per_image, build.ints([1]), keepdims=0)
    if recipe.image_score == "reweighted":
        neighbour = build.node("ArgMin", squared, axis=1, keepdims=1)
        neighbour = build.node("GatherElements", candidates, neighbour, axis=1)  # (patches, 1)
        score = _reweighted(
            build,
            score,
            per_image,
            build.node("Sqrt", nearest),
            patches,
            neighbour,
            stored,
            excluded,
            bank,
            grid,
            recipe.reweighting_neighbours,
        )
    build.node("Identity", score, name="score")
    build.output("score", ["n"])
    return Graph(build.finish(), build.constants)


def side_by_side(bank: MemoryBank, grid: tuple[int, int], recipe: Recipe) -> bool:
    """Whether searches should run side by side, one a core, rather than one on all cores.

    That is faster, but each takes memory for the ranking of all entries and for the candidates of all patches.
    """
    entries, dimensions = bank.features.shape
    window = position.window_of(recipe, grid)
    if window is not None and bank.cells is not None:
        entries = position.cut(window, bank.cells).entries.shape[1]
    return bool(4 * grid[0] * grid[1] * (entries + 2 * candidates_of(recipe) * dimensions) <= _SCRATCH)


def pipeline_graph(features: Graph, search: Graph) -> Graph:
    """Both graphs as one: `image` (and `valid`) in, `distance_grid` and `score` out."""
    joined = onnx.ModelProto()
    joined.CopyFrom(features.model)
    graph, second = joined.graph, search.model.graph
    graph.node.extend(second.node)
    graph.initializer.extend(second.initializer)
    graph.input.extend(item for item in second.input if item.name != "patch_features")
    del graph.output[:]
    graph.output.extend(second.output)
    return Graph(joined, {**features.constants, **search.constants})


# ---- features


def _in_usual_light(build: GraphBuilder, pixels: str, light: Light, size: tuple[int, int]) -> str:
    """Pixels (n, 3, H, W) float32, 0 to 255, times what brings their light within that of good images."""
    height, width = size
    across = np.ascontiguousarray(averaging(width).T)
    cells = build.node(
        "MatMul", build.constant(averaging(height)), build.node("MatMul", pixels, build.constant(across))
    )
    cells = build.node("Reshape", cells, build.ints([-1, 3 * CELLS**2]))
    logarithms = build.node("Log", build.node("Add", cells, build.floats([DARK])))
    centred = build.node("Sub", logarithms, build.constant(light.reference.repeat(CELLS**2)))
    # Sums are matrix products: OpenVINO 2026.4 gets ReduceSum with a Sub after it wrong, of several images at once.
    found = build.node(
        "MatMul", centred, build.constant(np.kron(TO_COEFFICIENTS.T, light.weights).T)
    )  # (n, 4)
    within = build.node(
        "Min", build.node("Max", found, build.constant(light.low)), build.constant(light.high)
    )
    exponents = build.node("MatMul", build.node("Sub", within, found), build.constant(TO_CHANNELS))  # (n, 3)
    exponents = build.node("Max", exponents, build.floats([-LARGEST]))
    exponents = build.node("Min", exponents, build.floats([LARGEST]))
    gains = build.node("Reshape", build.node("Exp", exponents), build.ints([-1, 3, 1, 1]))
    return build.node("Mul", pixels, gains)


def _tokens_to_grid(
    build: GraphBuilder, name: str, layer: str, shape: tuple[int, ...], image_size: tuple[int, int]
) -> tuple[str, tuple[int, int, int]]:
    """Token sequences (n, tokens, d) of a vision transformer as a feature map; class and register tokens come first
    and are dropped."""
    _, tokens, dimensions = shape
    for patch in (8, 14, 16, 32):
        h, w = image_size[0] // patch, image_size[1] // patch
        prefix = tokens - h * w
        if 0 <= prefix <= 16 and h * w > prefix:
            kept = build.node("Slice", layer, build.ints([prefix]), build.ints([tokens]), build.ints([1]))
            grid = build.node("Reshape", kept, build.ints([-1, h, w, dimensions]))
            return build.node("Transpose", grid, perm=[0, 3, 1, 2]), (dimensions, h, w)
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


# ---- search


def _search(
    build: GraphBuilder,
    patches: str,
    bank: MemoryBank,
    count: int,
    excluded: str | None,
    blocks: Blocks | None,
) -> tuple[str, str | None]:
    """Indices of the `count` most promising bank entries, (patches, k) int64.

    And what to add to their squared distances, (patches, k) float32: `FAR` where a patch may find fewer; None: nothing.
    """
    query = _query(build, patches, bank)
    if blocks is None:
        entries = len(bank.features)
        ranking = _ranking(build, query, bank, excluded, _padded(entries, count))
        found = _best(build, ranking, entries, count)[1]
        return build.node("Min", found, build.ints([entries - 1])), None  # padding
    entries = blocks.entries.shape[1]
    blocks = blocks.padded(_padded(entries, count))
    ranked = _ranked(bank)
    met = _doubled(build, bank, ranked[blocks.entries].transpose(0, 2, 1))  # (b, q, e)
    ranking = blocks.ranking(build, query, met, ranked.shape[1], bank.norms, excluded)
    return blocks.found(build, *_best(build, ranking, entries, count), min(count, entries))


def _best(build: GraphBuilder, ranking: str, entries: int, count: int) -> tuple[str, str]:
    """The `count` lowest of each row (rows, padded), sorted, (rows, k) float32; and where, (rows, k) int64.

    Of every block of entries the minimum is taken first, then those of the best blocks are ranked: a top-k over whole
    rows would take longer than the products.
    """
    k = min(count, entries)
    block = _block_size(entries)
    blocks = -(-entries // block)
    if blocks <= k:
        return build.top_k(ranking, k, largest=False)
    by_block = build.node("Reshape", ranking, build.ints([-1, blocks, block]))
    lowest = build.node("ReduceMin", by_block, build.ints([2]), keepdims=0)
    best = build.top_k(lowest, k, largest=False)[1]  # (rows, k) blocks
    within = build.node("GatherND", by_block, build.node("Unsqueeze", best, build.ints([2])), batch_dims=1)
    within = build.node("Reshape", within, build.ints([-1, k * block]))
    values, found = build.top_k(within, k, largest=False)
    which = build.node("Div", found, build.ints([block]))
    offset = build.node("Sub", found, build.node("Mul", which, build.ints([block])))
    first = build.node("Mul", build.node("GatherElements", best, which, axis=1), build.ints([block]))
    return values, build.node("Add", first, offset)


def _padded(entries: int, count: int) -> int:
    """How many entries `_best` wants in a row."""
    block = _block_size(entries)
    blocks = -(-entries // block)
    return entries if blocks <= min(count, entries) else blocks * block


def _block_size(entries: int) -> int:
    """About half as many entries in a block as there are blocks: both are then cheap to rank."""
    return int(2 ** max(3, round(np.log2(entries / 2) / 2)))


def _query(build: GraphBuilder, patches: str, bank: MemoryBank) -> str:
    """Patches (patches, d), centred and in the bank's search space."""
    if bank.basis is None:
        query = build.node("Sub", patches, build.learnt("bank_mean", bank.mean))
    else:
        query = build.node("MatMul", patches, build.learnt("bank_basis", bank.basis))
        query = build.node("Sub", query, build.constant(bank.mean @ bank.basis))
    if not bank.int8:
        return query
    scale, zero = build.constant(bank.quantised.patch_scale), build.constant(np.array(0, dtype=np.int8))
    return build.node("DequantizeLinear", build.node("QuantizeLinear", query, scale, zero), scale, zero)


def _ranking(build: GraphBuilder, query: str, bank: MemoryBank, excluded: str | None, padded: int) -> str:
    """|b|^2 - 2 q.b for all entries b, padded with FAR: squared distances up to a constant a patch, (patches, padded).

    q and b are centred and in the bank's search space, |b|^2 is that of all dimensions.
    """
    missing = padded - len(bank.features)
    entries = _doubled(build, bank, np.pad(_ranked(bank).T, ((0, 0), (0, missing))))
    offset = build.learnt("search_offset", np.pad(bank.norms, (0, missing), constant_values=FAR))
    if excluded is not None:
        own = build.node("Pad", excluded, build.ints([0, missing])) if missing else excluded
        offset = build.node("Add", offset, own)
    return build.node("Sub", offset, build.node("MatMul", query, entries))


def _ranked(bank: MemoryBank) -> NDArray[Any]:
    """The entries as they are ranked, (m, q) int8 or float32."""
    return bank.quantised.entries if bank.int8 else bank.search_bank


def _doubled(build: GraphBuilder, bank: MemoryBank, ranked: NDArray[Any]) -> str:
    """Twice these entries, in float32."""
    if not bank.int8:
        return build.learnt("search_bank", 2 * ranked)
    scale, zero = np.float32(2) * bank.quantised.entry_scale, np.array(0, dtype=np.int8)
    learnt = build.learnt("search_bank", ranked)
    return build.node("DequantizeLinear", learnt, build.constant(scale), build.constant(zero))


def _squared_distance(build: GraphBuilder, a: str, b: str) -> str:
    difference = build.node("Sub", a, b)
    return build.node("ReduceSumSquare", difference, build.ints([-1]), keepdims=0)


def _mean_distance(
    build: GraphBuilder, squared: str, candidates: str, bank: MemoryBank, neighbours: int, some_missing: bool
) -> str:
    """Mean distance of each patch to its nearest entries, each in units of the entry's spacing, (patches,).

    Args:
        build: the graph.
        squared: distances to the candidates, (patches, k); `FAR` and more for entries that must not be found.
        candidates: their indices, (patches, k).
        bank: its spacing.
        neighbours: how many entries.
        some_missing: whether some may be so; then the mean is of those that are left.
    """
    count = min(neighbours, len(bank.features))
    nearest, which = build.top_k(squared, count, largest=False)
    distances = build.node("Sqrt", nearest)
    if bank.spacing is not None:
        found = build.node("GatherElements", candidates, which, axis=1)
        units = build.learnt("bank_density", np.float32(1) / bank.spacing)
        distances = build.node("Mul", distances, build.node("Gather", units, found))
    if not some_missing:
        return build.node("ReduceMean", distances, build.ints([1]), keepdims=0)
    there = build.node("Cast", build.node("Less", nearest, build.floats([FAR / 2])), to=TensorProto.FLOAT)
    total = build.node("ReduceSum", build.node("Mul", distances, there), build.ints([1]), keepdims=0)
    number = build.node("ReduceSum", there, build.ints([1]), keepdims=0)
    mean = build.node("Div", total, build.node("Max", number, build.floats([1])))
    none = build.node("Max", build.node("Sub", build.floats([1]), number), build.floats([0]))
    return build.node("Add", mean, build.node("Mul", none, build.floats([FAR**0.5])))


def _top_mean(build: GraphBuilder, per_image: str, counted: str | None, patches: int, share: float) -> str:
    """Mean of the largest ceil(share x valid patches) distances."""
    wanted_of = np.maximum(1, np.ceil(share * np.arange(patches + 1) - 1e-9)).astype(np.float32)
    most = int(wanted_of[-1])
    largest = build.top_k(per_image, most, largest=True)[0]
    if counted is None:
        return build.node("ReduceMean", largest, build.ints([1]), keepdims=0)
    valid = build.node("ReduceSum", counted, build.ints([1]), keepdims=1)
    count = build.node("Cast", build.node("Round", valid), to=TensorProto.INT64)
    wanted = build.node("Gather", build.constant(wanted_of), count)
    taken = build.node("Less", build.constant(np.arange(most, dtype=np.float32)[None]), wanted)
    kept = build.node("Where", taken, largest, build.floats([0]))
    total = build.node("ReduceSum", kept, build.ints([1]), keepdims=1)
    return build.node("Squeeze", build.node("Div", total, wanted), build.ints([1]))


def _reweighted(
    build: GraphBuilder,
    score: str,
    per_image: str,
    nearest: str,
    patches: str,
    neighbour: str,
    stored: str,
    excluded: str | None,
    bank: MemoryBank,
    grid: tuple[int, int],
    count: int,
) -> str:
    """Roth et al. 2022, equation 7: the score falls where the nearest bank entry itself lies in a crowd.

    s = (1 - exp(|p - m*|) / sum of exp(|p - m|) over the `count` bank entries m nearest to m*) x |p - m*|
    for the patch p of the largest distance and its nearest bank entry m*. Patch distances that are other than |p - m*|
    are weighted alike.
    """
    entries, dimensions = bank.features.shape
    cells = grid[0] * grid[1]
    farthest = build.node("ArgMax", per_image, axis=1, keepdims=1)  # (n, 1)
    pick = build.node("Unsqueeze", farthest, build.ints([2]))
    shape = build.node("Shape", farthest)
    images = build.node("Gather", shape, build.constant(np.array([0], dtype=np.int64)))
    wide = build.node(
        "Expand", pick, build.node("Concat", images, build.ints([1]), build.ints([dimensions]), axis=0)
    )
    by_image = build.node("Reshape", patches, build.ints([-1, cells, dimensions]))
    patch = build.node("GatherElements", by_image, wide, axis=1)  # (n, 1, d)
    own = build.node(
        "GatherElements", build.node("Reshape", neighbour, build.ints([-1, cells])), farthest, axis=1
    )
    entry = build.node("Gather", stored, build.node("Squeeze", own, build.ints([1])), axis=0)  # (n, d)
    mean = build.learnt("bank_mean", bank.mean)
    centred = build.node("Sub", entry, mean)
    spread = build.node("Sub", stored, mean)  # (m, d)
    norms = build.node("ReduceSumSquare", spread, build.ints([1]), keepdims=0)
    products = build.node("MatMul", centred, build.node("Transpose", spread, perm=[1, 0]))
    near = build.node("Sub", norms, build.node("Mul", products, build.floats([2])))
    if excluded is not None:
        near = build.node("Add", near, excluded)
    crowd = build.top_k(near, min(count, entries), largest=False)[1]
    distances = build.node(
        "Sqrt", _squared_distance(build, patch, build.node("Gather", stored, crowd, axis=0))
    )  # (n, b)
    first = build.node(
        "GatherElements", build.node("Reshape", nearest, build.ints([-1, cells])), farthest, axis=1
    )  # |p - m*|
    shares = build.node("Exp", build.node("Sub", distances, first))
    if excluded is not None:  # they fill the crowd up where fewer than `count` entries are left
        there = build.node("Less", build.node("Gather", excluded, crowd), build.floats([FAR / 2]))
        shares = build.node("Mul", shares, build.node("Cast", there, to=TensorProto.FLOAT))
    total = build.node("ReduceSum", shares, build.ints([1]), keepdims=0)
    weight = build.node("Sub", build.floats([1]), build.node("Reciprocal", total))
    return build.node("Mul", weight, score)
