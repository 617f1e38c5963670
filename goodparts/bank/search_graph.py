"""The search: from patch features to distances and score, the second half of the one pipeline.

The first half is `goodparts.features.features_graph`.

patch_features (n, h, w, d) ─► ranking of the bank in its search space ─► best candidates ─► exact distances
                                                                                                    │
   distance_grid (n, h, w), score (n,) ◄── fusion of depths, if there are several ◄── nearest entries ◄┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx import TensorProto

from goodparts.bank.fusion import Fusion, fusion_nodes
from goodparts.bank.ranking import Compared, best_nodes, padded_width, query_nodes, ranked_in
from goodparts.bank.scoring import FAR, Candidates, score_nodes, squared_distance
from goodparts.bank.search_space import candidates as candidates_of
from goodparts.bank.window import window_of
from goodparts.engines.graph import OPSET, PATCH_FEATURES, Graph, GraphBuilder, numbered
from goodparts.engines.runtime import ANYWHERE, Products

if TYPE_CHECKING:
    from goodparts.bank.held_out import HeldOutBank
    from goodparts.bank.memory_bank import MemoryBank
    from goodparts.recipe.recipe import Recipe

DISTANCES = "distances"
"""The input of `fusion_graph` for the finest depth."""

_SCRATCH = 100 << 20  # bytes


def search_graph(
    bank: MemoryBank,
    grid: tuple[int, int],
    recipe: Recipe,
    *,
    coarser: Sequence[tuple[MemoryBank, tuple[int, int]]] = (),
    fusion: Fusion | None = None,
    masked: bool = False,
    held_out: Sequence[HeldOutBank] = (),
    products: Products = ANYWHERE,
    opset: int = OPSET,
) -> Graph:
    """The graph from `patch_features` (n, h, w, d) to `distance_grid` (n, h, w) and `score` (n,), float32.

    Each patch is compared with the whole bank in the bank's search space (centred, principal dimensions, int8); the
    exact Euclidean distances of the best candidates decide: that to the nearest entry, or the mean of those to several,
    divided by the entries' local scale where the bank has one. With a window only entries within it count; where
    tiles have banks of their own, with that of the input `tile` (1,) int64, which all n images are.

    With coarser depths, whose features are `patch_features_2` and so on, distances of all are fused. Without a fusion
    each has an output of its own (`distance_grid_2`, ...) and there is no score: from these it is learnt.

    Args:
        bank: what is searched.
        grid: (h, w).
        recipe: score_neighbours, image_score and its keys, and that of `window_of`.
        coarser: bank and grid of each coarser depth.
        fusion: how the distances of depths become one.
        masked: adds the input `valid` (n, h, w) float32, 0 for patches that must not count for the score.
        held_out: of each depth, how an image is searched in its bank without its own entries: adds the inputs that this
            gives.
        products: what they are like where the graph will run. A bank in int8 is ranked in float32 where that is as
            fast: the exact distances decide, so either finds the same.
        opset: that of the features graph, so that both can be joined.
    """
    build = GraphBuilder("search/", opset=opset)
    scored = fusion is not None or not coarser
    patch_mask = build.input("valid", TensorProto.FLOAT, ["n", *grid]) if masked and scored else None
    without_own = dict(enumerate(held_out))
    distances, seen = _search_nodes(build, bank, grid, recipe, 0, products, without_own.get(0))
    if coarser:
        found = [distances]
        for depth, (of_depth, of_grid) in enumerate(coarser, 1):
            own = _search_nodes(build, of_depth, of_grid, recipe, depth, products, without_own.get(depth))
            found.append(own[0])
        if fusion is None:
            for depth, (values, at) in enumerate(zip(found, (grid, *(at for _, at in coarser)), strict=True)):
                name = numbered("distance_grid", depth)
                build.node("Reshape", values, build.ints([-1, *at]), name=name)
                build.output(name, ["n", *at])
            return Graph(build.finish(), build.constants)
        distances = fusion_nodes(build, found, fusion, patch_mask)
    return _scored(build, distances, grid, seen, recipe, patch_mask)


def fusion_graph(fusion: Fusion, recipe: Recipe, *, masked: bool = False) -> Graph:
    """The end of a search alone: from the distances of each depth to `distance_grid` (n, h, w) and `score` (n,).

    `distances` (n, h, w), `distances_2` and so on are what a search without a fusion gives. `masked` adds the input
    `valid`, as in `search_graph`. Not for `image_score = reweighted`, which asks the memory bank.
    """
    build = GraphBuilder("fusion/", opset=OPSET)
    finest = fusion.grids[0]
    patch_mask = build.input("valid", TensorProto.FLOAT, ["n", *finest]) if masked else None
    given = [
        build.node(
            "Reshape",
            build.input(numbered(DISTANCES, depth), TensorProto.FLOAT, ["n", *grid]),
            build.ints([-1]),
        )
        for depth, grid in enumerate(fusion.grids)
    ]
    return _scored(build, fusion_nodes(build, given, fusion, patch_mask), finest, None, recipe, patch_mask)


def _scored(
    build: GraphBuilder,
    distances: str,
    grid: tuple[int, int],
    found: Candidates | None,
    recipe: Recipe,
    patch_mask: str | None,
) -> Graph:
    """The graph that ends in these distances, (n h w,), and the score that they make."""
    build.node("Reshape", distances, build.ints([-1, *grid]), name="distance_grid")
    build.output("distance_grid", ["n", *grid])
    score = score_nodes(build, distances, grid, found, recipe, patch_mask=patch_mask)
    build.node("Identity", score, name="score")
    build.output("score", ["n"])
    return Graph(build.finish(), build.constants)


def _search_nodes(
    build: GraphBuilder,
    bank: MemoryBank,
    grid: tuple[int, int],
    recipe: Recipe,
    depth: int,
    products: Products,
    held_out: HeldOutBank | None,
) -> tuple[str, Candidates]:
    """The distances of the patches of one depth, (n h w,) float32, and what they come from."""
    build.depth = depth
    bank = ranked_in(bank, products, held_out=held_out is not None)
    dimensions = bank.features.shape[1]
    features = build.input(numbered(PATCH_FEATURES, depth), TensorProto.FLOAT, ["n", *grid, dimensions])
    patches = build.node("Reshape", features, build.ints([-1, dimensions]))
    compared = Compared.of(build, bank) if held_out is None else held_out.compared(build, bank)
    stored = compared.features()
    excluded = compared.excluded()
    if (absent := compared.absent()) is not None:
        excluded = absent if excluded is None else build.node("Add", excluded, absent)

    neighbourhood = window_of(recipe, grid)
    ranking = compared.ranking(neighbourhood.ranking(bank))
    entries, count = ranking.width, candidates_of(bank, recipe, neighbourhood, exact=products.exact)
    query = query_nodes(build, patches, bank)
    ranking = ranking.padded(padded_width(entries, count))
    ranks = ranking.ranks(build, query, compared, excluded)
    best, at = best_nodes(build, ranks, entries, count)
    candidates, unseen = ranking.found(build, best, at, min(count, entries))
    found = build.node("Gather", stored, candidates, axis=0)  # (patches, k, d)
    squared = squared_distance(build, build.node("Unsqueeze", patches, build.ints([1])), found)
    if unseen is not None:
        squared = build.node("Add", squared, unseen)
    if excluded is not None:
        squared = build.node("Add", squared, build.node("Gather", excluded, candidates))
    nearest = build.node("ReduceMin", squared, build.ints([1]), keepdims=0)
    if bank.local_scale is None and recipe.score_neighbours == 1:
        distances = build.node("Sqrt", nearest)
    else:
        distances = _mean_distance(
            build,
            squared,
            candidates,
            compared,
            recipe.score_neighbours,
            scale_of_nearest=neighbourhood.scale_of_nearest,
            some_missing=held_out is not None or excluded is not None or neighbourhood.some_unseen,
        )
    build.depth = 0
    return distances, Candidates(
        patches=patches,
        indices=candidates,
        squared=squared,
        nearest=nearest,
        stored=stored,
        excluded=excluded,
        entries=compared.entries,
        mean=bank.mean,
    )


def side_by_side(
    bank: MemoryBank,
    grid: tuple[int, int],
    recipe: Recipe,
    coarser: Sequence[tuple[MemoryBank, tuple[int, int]]] = (),
) -> bool:
    """Whether searches should run side by side, one a core, rather than one on all cores.

    That is faster, but each takes memory for the ranking of all entries and for the candidates of all patches.
    """
    scratch = 0
    for of_depth, (h, w) in ((bank, grid), *coarser):
        neighbourhood = window_of(recipe, (h, w))
        entries, dimensions = neighbourhood.ranking(of_depth).width, of_depth.features.shape[1]
        count = candidates_of(of_depth, recipe, neighbourhood, exact=False)
        scratch = max(scratch, 4 * h * w * (entries + 2 * count * dimensions))
    return scratch <= _SCRATCH


def _mean_distance(
    build: GraphBuilder,
    squared: str,
    candidates: str,
    compared: Compared,
    neighbours: int,
    *,
    scale_of_nearest: bool,
    some_missing: bool,
) -> str:
    """Mean distance of each patch to its nearest entries, divided by their local scale, (patches,).

    Args:
        build: the graph.
        squared: distances to the candidates, (patches, k); `FAR` and more for entries that must not be found.
        candidates: their indices, (patches, k).
        compared: the entries' local scale.
        neighbours: how many nearest entries.
        scale_of_nearest: whether all are divided by the local scale of the nearest, not each by its own.
        some_missing: whether some must not be found; then the mean is of those that are left.
    """
    bank = compared.bank
    nearest, which = build.top_k(squared, min(neighbours, compared.entries), largest=False)
    distances = build.node("Sqrt", nearest)
    if bank.local_scale is not None:
        if scale_of_nearest:
            which = build.node("Slice", which, build.ints([0]), build.ints([1]), build.ints([1]))
        found = build.node("GatherElements", candidates, which, axis=1)
        distances = build.node("Mul", distances, build.node("Gather", compared.density(), found))
    if not some_missing:
        return build.node("ReduceMean", distances, build.ints([1]), keepdims=0)
    there = build.node("Cast", build.node("Less", nearest, build.floats([FAR / 2])), to=TensorProto.FLOAT)
    total = build.node("ReduceSum", build.node("Mul", distances, there), build.ints([1]), keepdims=0)
    number = build.node("ReduceSum", there, build.ints([1]), keepdims=0)
    mean = build.node("Div", total, build.node("Max", number, build.floats([1])))
    none = build.node("Max", build.node("Sub", build.floats([1]), number), build.floats([0]))
    return build.node("Add", mean, build.node("Mul", none, build.floats([FAR**0.5])))
