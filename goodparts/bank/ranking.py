"""Ranking: what a search orders bank entries by, in the bank's search space, so that few are measured exactly.

For a patch q and entries b, both centred, it is |b|^2 - 2 q.b: squared distances up to a constant a patch. All of it
is nodes of a graph; a `Ranking` says which entries a patch is ranked against: `AllEntries`, or those of its part of the
grid (`window_blocks.Blocks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.scoring import FAR

if TYPE_CHECKING:
    from goodparts.bank.memory_bank import MemoryBank
    from goodparts.engines.graph import GraphBuilder
    from goodparts.engines.runtime import Products

_SMALL = 32 << 20  # bytes of a bank: four times those of int8 are no matter
_FEW = 200_000  # numbers of the entries up to which the candidates that int8 needs more cost what it saves
_NARROW = 128  # dimensions up to which that is so in a held-out search


def ranked_in(bank: MemoryBank, products: Products, *, held_out: bool) -> MemoryBank:
    """The bank in the numbers that its entries are ranked in: int8 unless float32 is as fast."""
    if not bank.int8 or 4 * bank.features.size > _SMALL:
        return bank
    dimensions = bank.features.shape[1]
    few = bank.most_compared * dimensions <= _FEW or (held_out and dimensions <= _NARROW)
    as_fast = not products.int8 or (few and products.exact and bank.basis is None)
    return replace(bank, int8=False) if as_fast else bank


@dataclass(frozen=True)
class Compared:
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
        from onnx import TensorProto

        if bank.tiles is None:
            return cls(build, bank, None)
        tile = build.input("tile", TensorProto.INT64, [1])
        rows = np.searchsorted(bank.tiles_served, np.arange(bank.tiles_served[-1] + 1))
        return cls(build, bank, build.node("Gather", build.constant(rows), tile))

    @property
    def entries(self) -> int:
        """How many there are, those that fill up the banks of tiles that have fewer included."""
        return self.bank.most_compared

    def ranking(self, of_bank: Ranking) -> Ranking:
        """How they are ranked: as those of the bank are."""
        return of_bank

    def excluded(self) -> str | None:
        """An input: `FAR` for those that must not be found, (entries,) float32; None: there is none."""
        return None

    def features(self) -> str:
        """The entries, (entries, d) float32."""
        return self.learnt("bank", self.bank.features)

    def density(self) -> str:
        """One over their local scale, (entries,) float32."""
        assert self.bank.local_scale is not None
        return self.learnt("bank_density", np.float32(1) / self.bank.local_scale)

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


class Ranking(Protocol):
    """Which entries patches are ranked against, in rows of entries."""

    @property
    def width(self) -> int:
        """Entries in a row."""

    def padded(self, width: int) -> Self:
        """The same with so many in a row."""

    def ranks(self, build: GraphBuilder, query: str, compared: Compared, excluded: str | None) -> str:
        """What the entries of each row are ranked by, (rows, width) float32: the lowest is the nearest.

        Args:
            build: the graph.
            query: patches in the search space, (n h w, q).
            compared: the entries.
            excluded: what to add to each of them, (m,); None: nothing.
        """

    def found(self, build: GraphBuilder, values: str, at: str, count: int) -> tuple[str, str | None]:
        """The entries in the bank that are ranked best, (n h w, count) int64.

        And what to add to their squared distances, (n h w, count) float32: more than any where a patch sees fewer;
        None: nothing.

        Args:
            build: the graph.
            values: what they are ranked by, sorted, (rows, count).
            at: where they are in their row, (rows, count).
            count: so many.
        """


@dataclass(frozen=True)
class AllEntries:
    """Each patch is ranked against all entries.

    Attributes:
        entries: how many there are.
        width: and with those that fill up.
    """

    entries: int
    width: int

    def padded(self, width: int) -> Self:
        """The same with so many in a row."""
        return replace(self, width=width)

    def ranks(self, build: GraphBuilder, query: str, compared: Compared, excluded: str | None) -> str:
        """A row a patch; `FAR` and more for those that fill up."""
        bank, missing = compared.bank, self.width - self.entries
        entries = twice(build, bank, compared.learnt("search_bank", ranked(bank), self.width, columns=True))
        offset = compared.learnt("search_offset", bank.norms, self.width, fill=FAR)
        if excluded is not None:
            own = excluded
            if missing:
                own = build.node(
                    "Pad", excluded, build.ints([0, missing]), build.constant(np.array(FAR, dtype=np.float32))
                )
            offset = build.node("Add", offset, own)
        return build.node("Sub", offset, build.node("MatMul", query, entries))

    def found(self, build: GraphBuilder, values: str, at: str, count: int) -> tuple[str, None]:
        """Where they are in the row is where they are in the bank."""
        return build.node("Min", at, build.ints([self.entries - 1])), None  # padding


def query_nodes(build: GraphBuilder, patches: str, bank: MemoryBank) -> str:
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


def ranked(bank: MemoryBank) -> NDArray[Any]:
    """The entries as they are ranked, (m, q): in int8, or twice each in float32."""
    return bank.quantised.entries if bank.int8 else 2 * bank.in_search_space()


def twice(build: GraphBuilder, bank: MemoryBank, entries: str) -> str:
    """Twice the entries that `ranked` gave, in float32."""
    if not bank.int8:
        return entries
    scale, zero = np.float32(2) * bank.quantised.entry_scale, np.array(0, dtype=np.int8)
    return build.node("DequantizeLinear", entries, build.constant(scale), build.constant(zero))


def best_nodes(build: GraphBuilder, ranks: str, entries: int, count: int) -> tuple[str, str]:
    """The `count` lowest of each row (rows, padded), sorted, (rows, k) float32; and where, (rows, k) int64.

    Of every block of entries the minimum is taken first, then those of the best blocks are ranked: a top-k over whole
    rows would take longer than the products. So would one along short rows: in columns it is of many patches at once.
    """
    k = min(count, entries)
    block = _block_size(entries)
    blocks = -(-entries // block)
    if blocks <= k:
        return build.top_k(ranks, k, largest=False)
    by_block = build.node("Reshape", ranks, build.ints([-1, blocks, block]))
    lowest = build.node("ReduceMin", by_block, build.ints([2]), keepdims=0)
    best = _turned(
        build, build.top_k(_turned(build, lowest), k, largest=False, axis=0)[1]
    )  # (rows, k) blocks
    within = build.node("GatherND", by_block, build.node("Unsqueeze", best, build.ints([2])), batch_dims=1)
    within = build.node("Reshape", within, build.ints([-1, k * block]))
    lowest, at = build.top_k(_turned(build, within), k, largest=False, axis=0)
    values, found = _turned(build, lowest), _turned(build, at)
    which = build.node("Div", found, build.ints([block]))
    offset = build.node("Sub", found, build.node("Mul", which, build.ints([block])))
    first = build.node("Mul", build.node("GatherElements", best, which, axis=1), build.ints([block]))
    return values, build.node("Add", first, offset)


def _turned(build: GraphBuilder, matrix: str) -> str:
    """Rows as columns, and columns as rows."""
    return build.node("Transpose", matrix, perm=[1, 0])


def padded_width(entries: int, count: int) -> int:
    """How many entries `best_nodes` wants in a row."""
    block = _block_size(entries)
    blocks = -(-entries // block)
    return entries if blocks <= min(count, entries) else blocks * block


def _block_size(entries: int) -> int:
    """About half as many entries in a block as there are blocks: both are then cheap to rank."""
    return int(2 ** max(3, round(np.log2(entries / 2) / 2)))
