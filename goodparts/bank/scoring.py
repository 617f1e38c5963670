"""Scoring: from patch distances to the score of an image and of each zone, in numpy and as nodes of a graph.

    image_score(distances, recipe)                    # of the patches that count, (k,)
    zone_scores(distance_grid, zone_masks, recipe)    # of each zone's patches, (zones, h, w)

`score_nodes` and `zone_nodes` are the same inside a graph. There the patches that do not count are told by the input
`valid`, and there alone is `image_score = reweighted`, which asks the memory bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from goodparts.engines.graph import GraphBuilder
    from goodparts.recipe.recipe import Recipe

FAR = 1e30  # added to a distance that must not win; its square is still finite in float64, itself in float32


def patches_that_count(patches: int, recipe: Recipe) -> int:
    """Of how many of the largest patch distances an image score is the mean."""
    if recipe.image_score != "top_mean":
        return 1
    return max(1, math.ceil(recipe.top_share * patches - 1e-9))


def image_score(distances: NDArray[np.float32], recipe: Recipe) -> float:
    """The anomaly score of patches: the largest distance, or the mean of the largest.

    Args:
        distances: of the patches that count, (k,) float32, at least one.
        recipe: image_score, which is `max` or `top_mean`, and top_share.
    """
    largest = patches_that_count(len(distances), recipe)
    return float(np.partition(distances, -largest)[-largest:].mean())


def zone_scores(
    distance_grid: NDArray[np.float32], zone_masks: NDArray[np.bool_], recipe: Recipe
) -> tuple[float, ...]:
    """The anomaly score of each zone, from patch distances (h, w) float32 and its patch mask, (zones, h, w) bool."""
    return tuple(image_score(distance_grid[zone], recipe) for zone in zone_masks)


# ---- in a graph


@dataclass(frozen=True)
class Candidates:
    """What a search found for each patch, by the names that it has in the graph.

    Attributes:
        patches: features, (n h w, d) float32.
        indices: of the bank entries that may be nearest, (n h w, k) int64.
        squared: distances to them, (n h w, k) float32.
        nearest: the least of these, (n h w,) float32.
        stored: the entries, (m, d) float32.
        excluded: `FAR` for those that must not be found, (m,) float32; None: there is none.
        entries: m.
        mean: of the entries, (d,) float32.
    """

    patches: str
    indices: str
    squared: str
    nearest: str
    stored: str
    excluded: str | None
    entries: int
    mean: NDArray[np.float32]


def score_nodes(
    build: GraphBuilder,
    distances: str,
    grid: tuple[int, int],
    found: Candidates | None,
    recipe: Recipe,
    *,
    patch_mask: str | None,
) -> str:
    """The anomaly score of each image, (n,) float32.

    Args:
        build: the graph.
        distances: of the patches, (n h w,) float32.
        grid: (h, w).
        found: what the distances come from; None: not known, and `reweighted` asks for it.
        recipe: image_score and its keys.
        patch_mask: name of the patches that count, (n, h, w) float32, 0 or 1; None: all do.
    """
    patches = grid[0] * grid[1]
    per_image = build.node("Reshape", distances, build.ints([-1, patches]))
    counted = None
    if patch_mask is not None:
        counted = build.node("Reshape", patch_mask, build.ints([-1, patches]))
        hidden = build.node("Mul", build.node("Sub", counted, build.floats([1])), build.floats([FAR]))
        per_image = build.node("Add", per_image, hidden)  # invalid patches fall to -FAR
    if recipe.image_score == "top_mean":
        return _top_mean(build, per_image, counted, patches, recipe)
    largest = build.node("ReduceMax", per_image, build.ints([1]), keepdims=0)
    if recipe.image_score == "reweighted":
        assert found is not None
        return _reweighted(build, largest, per_image, found, patches, recipe.reweighting_neighbours)
    return largest


def zone_nodes(
    distances: str,
    zone_masks: NDArray[np.bool_],
    thresholds: Sequence[float],
    recipe: Recipe,
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """`zone_scores` (n, zones), and as `score` (n,) the largest multiple of a zone's threshold.

    Args:
        distances: name of the distance grid, (n, h, w) float32.
        zone_masks: the patches of each zone, (zones, h, w) bool.
        thresholds: of each zone.
        recipe: image_score, which is `max` or `top_mean`, and top_share.

    Returns:
        (nodes, their constants by name); all names but those of the two outputs begin with `zones/`.
    """
    constants: dict[str, NDArray[Any]] = {
        "zones/shape": np.array([-1, zone_masks[0].size], dtype=np.int64),
        "zones/axis": np.array([1], dtype=np.int64),
        "zones/thresholds": np.array(thresholds, dtype=np.float32),
    }
    nodes = [helper.make_node("Reshape", [distances, "zones/shape"], ["zones/patches"])]
    scores = []
    for index, zone in enumerate(zone_masks):
        name = f"zones/{index}"
        at = np.flatnonzero(zone)
        constants[f"{name}/at"] = at
        constants[f"{name}/count"] = np.array([patches_that_count(len(at), recipe)], dtype=np.int64)
        nodes += [
            helper.make_node("Gather", ["zones/patches", f"{name}/at"], [f"{name}/distances"], axis=1),
            helper.make_node(
                "TopK",
                [f"{name}/distances", f"{name}/count"],
                [f"{name}/largest", f"{name}/which"],
                axis=1,
                largest=1,
                sorted=1,
            ),
            helper.make_node("ReduceMean", [f"{name}/largest", "zones/axis"], [f"{name}/score"], keepdims=1),
        ]
        scores.append(f"{name}/score")
    nodes += [
        helper.make_node("Concat", scores, ["zone_scores"], axis=1),
        helper.make_node("Div", ["zone_scores", "zones/thresholds"], ["zones/multiples"]),
        helper.make_node("ReduceMax", ["zones/multiples", "zones/axis"], ["score"], keepdims=0),
    ]
    for item in nodes:
        item.name = item.output[0]
    return nodes, constants


def squared_distance(build: GraphBuilder, a: str, b: str) -> str:
    """Squared Euclidean distances along the last axis of a and b."""
    difference = build.node("Sub", a, b)
    return build.node("ReduceSumSquare", difference, build.ints([-1]), keepdims=0)


def _top_mean(build: GraphBuilder, per_image: str, counted: str | None, patches: int, recipe: Recipe) -> str:
    """Mean of the largest distances, of as many as the valid patches (n, patches) ask for."""
    wanted_of = np.array([patches_that_count(valid, recipe) for valid in range(patches + 1)], np.float32)
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
    build: GraphBuilder, score: str, per_image: str, found: Candidates, cells: int, count: int
) -> str:
    """Roth et al. 2022, equation 7: the score falls where the nearest bank entry itself lies in a crowd.

    s = (1 - exp(|p - m*|) / sum of exp(|p - m|) over the `count` bank entries m nearest to m*) x |p - m*|
    for the patch p of the largest distance and its nearest bank entry m*. Patch distances that are other than |p - m*|
    are weighted alike.
    """
    neighbour = build.node("ArgMin", found.squared, axis=1, keepdims=1)
    neighbour = build.node("GatherElements", found.indices, neighbour, axis=1)  # (n cells, 1)
    nearest = build.node("Sqrt", found.nearest)
    dimensions = len(found.mean)
    farthest = build.node("ArgMax", per_image, axis=1, keepdims=1)  # (n, 1)
    pick = build.node("Unsqueeze", farthest, build.ints([2]))
    shape = build.node("Shape", farthest)
    images = build.node("Gather", shape, build.constant(np.array([0], dtype=np.int64)))
    wide = build.node(
        "Expand", pick, build.node("Concat", images, build.ints([1]), build.ints([dimensions]), axis=0)
    )
    by_image = build.node("Reshape", found.patches, build.ints([-1, cells, dimensions]))
    patch = build.node("GatherElements", by_image, wide, axis=1)  # (n, 1, d)
    own = build.node(
        "GatherElements", build.node("Reshape", neighbour, build.ints([-1, cells])), farthest, axis=1
    )
    entry = build.node("Gather", found.stored, build.node("Squeeze", own, build.ints([1])), axis=0)  # (n, d)
    mean = build.learnt("bank_mean", found.mean)
    centred = build.node("Sub", entry, mean)
    spread = build.node("Sub", found.stored, mean)  # (m, d)
    norms = build.node("ReduceSumSquare", spread, build.ints([1]), keepdims=0)
    products = build.node("MatMul", centred, build.node("Transpose", spread, perm=[1, 0]))
    near = build.node("Sub", norms, build.node("Mul", products, build.floats([2])))
    if found.excluded is not None:
        near = build.node("Add", near, found.excluded)
    crowd = build.top_k(near, min(count, found.entries), largest=False)[1]
    distances = build.node(
        "Sqrt", squared_distance(build, patch, build.node("Gather", found.stored, crowd, axis=0))
    )  # (n, b)
    first = build.node(
        "GatherElements", build.node("Reshape", nearest, build.ints([-1, cells])), farthest, axis=1
    )  # |p - m*|
    shares = build.node("Exp", build.node("Sub", distances, first))
    if found.excluded is not None:  # they fill the crowd up where fewer than `count` entries are left
        there = build.node("Less", build.node("Gather", found.excluded, crowd), build.floats([FAR / 2]))
        shares = build.node("Mul", shares, build.node("Cast", there, to=TensorProto.FLOAT))
    total = build.node("ReduceSum", shares, build.ints([1]), keepdims=0)
    weight = build.node("Sub", build.floats([1]), build.node("Reciprocal", total))
    return build.node("Mul", weight, score)
