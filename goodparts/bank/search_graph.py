"""The search: from patch features to distances and score, the second half of the one pipeline.

The first half is `goodparts.features.features_graph`.

patch_features (n, h, w, d) ─► ranking of the bank in its search space ─► best candidates ─► exact distances
                                                                                                    │
                                           distance_grid (n, h, w), score (n,) ◄── nearest entries ◄┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts.bank import window as windows
from goodparts.bank import window_blocks
from goodparts.bank.scoring import FAR, Candidates, score_nodes, squared_distance
from goodparts.bank.search_space import candidates as candidates_of
from goodparts.engines.graph import OPSET, Graph, GraphBuilder

if TYPE_CHECKING:
    from goodparts.bank.memory_bank import MemoryBank
    from goodparts.bank.window_blocks import Blocks
    from goodparts.recipe.recipe import Recipe

_SCRATCH = 100 << 20  # bytes


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
    divided by the entries' local scale where the bank has one. With a `position_window` only entries within it count;
    where tiles have banks of their own, with that of the input `tile` (1,) int64, which all n images are.

    Args:
        bank: what is searched.
        grid: (h, w).
        recipe: score_neighbours, image_score and its keys, position_window.
        masked: adds the input `valid` (n, h, w) float32, 0 for patches that must not count for the score.
        held_out: adds the input `excluded` (m,) float32, `FAR` for bank entries that must not be found; where tiles
            have banks of their own, those of the tile in the order of `bank.by_tile`.
        opset: that of the features graph, so that both can be joined.
    """
    build = GraphBuilder("search/", opset=opset)
    dimensions = bank.features.shape[1]
    features = build.input("patch_features", TensorProto.FLOAT, ["n", *grid, dimensions])
    patches = build.node("Reshape", features, build.ints([-1, dimensions]))
    compared = _Compared.of(build, bank)
    stored = compared.learnt("bank", bank.features)
    excluded = build.input("excluded", TensorProto.FLOAT, [compared.entries]) if held_out else None
    if (absent := compared.absent()) is not None:
        excluded = absent if excluded is None else build.node("Add", excluded, absent)

    window = windows.window_of(recipe, grid)
    blocks = None
    if window is not None:
        assert bank.cells is not None  # what chose the bank had the same recipe
        blocks = window_blocks.cut(window, bank.cells)
    candidates, unseen = _search(build, patches, compared, candidates_of(recipe, bank), excluded, blocks)
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
        some_missing = excluded is not None or blocks is not None
        distances = _mean_distance(build, squared, candidates, compared, recipe, some_missing)
    build.node("Reshape", distances, build.ints([-1, *grid]), name="distance_grid")
    build.output("distance_grid", ["n", *grid])

    seen = Candidates(
        patches=patches,
        indices=candidates,
        squared=squared,
        nearest=nearest,
        stored=stored,
        excluded=excluded,
        entries=compared.entries,
        mean=bank.mean,
    )
    score = score_nodes(build, distances, grid, seen, recipe, masked=masked)
    build.node("Identity", score, name="score")
    build.output("score", ["n"])
    return Graph(build.finish(), build.constants)


def side_by_side(bank: MemoryBank, grid: tuple[int, int], recipe: Recipe) -> bool:
    """Whether searches should run side by side, one a core, rather than one on all cores.

    That is faster, but each takes memory for the ranking of all entries and for the candidates of all patches.
    """
    entries, dimensions = bank.features.shape
    window = windows.window_of(recipe, grid)
    if window is not None and bank.cells is not None:
        entries = window_blocks.cut(window, bank.cells).entries.shape[1]
    return bool(4 * grid[0] * grid[1] * (entries + 2 * candidates_of(recipe, bank) * dimensions) <= _SCRATCH)


@dataclass(frozen=True)
class _Compared:
    """The entries that patches are compared with: all of the bank's, or those of one tile.

    Attributes:
        build: the graph.
        bank: what is searched.
        row: that of `bank.by_tile`, (1,) int64; None: entries serve all tiles, or there are none.
    """

    build: GraphBuilder
    bank: MemoryBank
    row: str | None

    @classmethod
    def of(cls, build: GraphBuilder, bank: MemoryBank) -> Self:
        """Those of a bank; adds the input `tile` where its tiles have banks of their own."""
        if bank.tiles is None:
            return cls(build, bank, None)
        tile = build.input("tile", TensorProto.INT64, [1])
        rows = np.searchsorted(bank.tiles_served, np.arange(bank.tiles_served[-1] + 1))
        return cls(build, bank, build.node("Gather", build.constant(rows), tile))

    @property
    def entries(self) -> int:
        """How many there are, those that fill up the banks of tiles that have fewer included."""
        return self.bank.most_compared

    def learnt(
        self, name: str, values: NDArray[Any], width: int = 0, *, fill: float = 0, columns: bool = False
    ) -> str:
        """A value of each of these entries, from that of all entries of the bank.

        Args:
            name: of the constant.
            values: (m, ...).
            width: filled up to so many entries.
            fill: with this; where tiles have banks of their own with anything, and `absent` says so.
            columns: entries come last, not first.
        """
        more = max(0, width - self.entries)
        if self.row is not None:
            own = self.build.node("Gather", self.build.learnt(name, values), self._of_row(self.row, more))
            return self.build.node("Transpose", own, perm=[1, 0]) if columns else own
        if more:
            values = np.pad(values, ((0, more), *((0, 0),) * (values.ndim - 1)), constant_values=fill)
        return self.build.learnt(name, values.T if columns else values)

    def absent(self) -> str | None:
        """`FAR` for what only fills up the bank of a tile, 0 for entries, (entries,) float32; None: all are entries."""
        if self.row is None:
            return None
        missing = np.where(self.bank.by_tile < 0, np.float32(FAR), np.float32(0))
        row = self.build.node("Gather", self.build.learnt("bank_absent", missing), self.row)
        return self.build.node("Squeeze", row, self.build.ints([0]))

    def _of_row(self, row: str, more: int) -> str:
        """Which entries of the bank these are, those of a row of `by_tile`, filled up by `more`, (entries + more,)."""
        entries = np.pad(np.maximum(self.bank.by_tile, 0), ((0, 0), (0, more)))
        rows = self.build.learnt(f"bank_met_{entries.shape[1]}", entries)
        return self.build.node("Squeeze", self.build.node("Gather", rows, row), self.build.ints([0]))


def _search(
    build: GraphBuilder,
    patches: str,
    compared: _Compared,
    count: int,
    excluded: str | None,
    blocks: Blocks | None,
) -> tuple[str, str | None]:
    """Indices of the `count` most promising bank entries, (patches, k) int64.

    And what to add to their squared distances, (patches, k) float32: `FAR` where a patch may find fewer; None: nothing.
    """
    bank = compared.bank
    query = _query(build, patches, bank)
    if blocks is None:
        entries = compared.entries
        ranking = _ranking(build, query, compared, excluded, _padded(entries, count))
        found = _best(build, ranking, entries, count)[1]
        return build.node("Min", found, build.ints([entries - 1])), None  # padding
    entries = blocks.entries.shape[1]
    blocks = blocks.padded(_padded(entries, count))
    ranked = _ranked(bank)
    met = build.learnt("search_bank", ranked[blocks.entries].transpose(0, 2, 1))  # (b, q, e)
    met = _doubled(build, bank, met)
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


def _ranking(build: GraphBuilder, query: str, compared: _Compared, excluded: str | None, padded: int) -> str:
    """|b|^2 - 2 q.b for all entries b, padded with FAR: squared distances up to a constant a patch, (patches, padded).

    q and b are centred and in the bank's search space, |b|^2 is that of all dimensions.
    """
    bank, missing = compared.bank, padded - compared.entries
    entries = _doubled(build, bank, compared.learnt("search_bank", _ranked(bank), padded, columns=True))
    offset = compared.learnt("search_offset", bank.norms, padded, fill=FAR)
    if excluded is not None:
        own = excluded
        if missing:
            own = build.node(
                "Pad", excluded, build.ints([0, missing]), build.constant(np.array(FAR, dtype=np.float32))
            )
        offset = build.node("Add", offset, own)
    return build.node("Sub", offset, build.node("MatMul", query, entries))


def _ranked(bank: MemoryBank) -> NDArray[Any]:
    """The entries as they are ranked, (m, q): in int8, or twice each in float32."""
    return bank.quantised.entries if bank.int8 else 2 * bank.in_search_space()


def _doubled(build: GraphBuilder, bank: MemoryBank, ranked: str) -> str:
    """Twice the entries that are ranked, in float32."""
    if not bank.int8:
        return ranked
    scale, zero = np.float32(2) * bank.quantised.entry_scale, np.array(0, dtype=np.int8)
    return build.node("DequantizeLinear", ranked, build.constant(scale), build.constant(zero))


def _mean_distance(
    build: GraphBuilder,
    squared: str,
    candidates: str,
    compared: _Compared,
    recipe: Recipe,
    some_missing: bool,
) -> str:
    """Mean distance of each patch to its nearest entries, divided by their local scale, (patches,).

    Each by that of its own entry; within a window all by that of the nearest: where one entry stands for all that is
    seen at a place the next ones are of another kind, and by their own scale they would look far away.

    Args:
        build: the graph.
        squared: distances to the candidates, (patches, k); `FAR` and more for entries that must not be found.
        candidates: their indices, (patches, k).
        compared: the entries' local scale.
        recipe: score_neighbours, position_window.
        some_missing: whether some may be so; then the mean is of those that are left.
    """
    bank = compared.bank
    count = min(recipe.score_neighbours, compared.entries)
    nearest, which = build.top_k(squared, count, largest=False)
    distances = build.node("Sqrt", nearest)
    if bank.local_scale is not None:
        if recipe.position_window:
            which = build.node("Slice", which, build.ints([0]), build.ints([1]), build.ints([1]))
        found = build.node("GatherElements", candidates, which, axis=1)
        density = compared.learnt("bank_density", np.float32(1) / bank.local_scale)
        distances = build.node("Mul", distances, build.node("Gather", density, found))
    if not some_missing:
        return build.node("ReduceMean", distances, build.ints([1]), keepdims=0)
    there = build.node("Cast", build.node("Less", nearest, build.floats([FAR / 2])), to=TensorProto.FLOAT)
    total = build.node("ReduceSum", build.node("Mul", distances, there), build.ints([1]), keepdims=0)
    number = build.node("ReduceSum", there, build.ints([1]), keepdims=0)
    mean = build.node("Div", total, build.node("Max", number, build.floats([1])))
    none = build.node("Max", build.node("Sub", build.floats([1]), number), build.floats([0]))
    return build.node("Add", mean, build.node("Mul", none, build.floats([FAR**0.5])))
