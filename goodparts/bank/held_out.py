"""Held out: how a good image is searched in a memory bank without its own entries, one bank with replacements for all.

    held_out = held_out_bank(bank, only_for, 0, grid, recipe, products)
    graph = search_graph(bank, grid, recipe, held_out=[held_out], products=products)
    engine({"patch_features": ..., **held_out.inputs(image)})

Either the graph holds all entries and is told which of them an image must not find, or each image brings its own bank
along. The first is the simpler; but there are more than half as many replacements as entries, each image is compared
with those of all, and to hide them is a pass over all ranks. Where an image has many patches a bank is sooner copied,
if it is not large. Either finds the same distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts.bank.ranking import AllEntries, Compared, Ranking, padded_width, ranked_in
from goodparts.bank.scoring import FAR
from goodparts.bank.search_space import candidates
from goodparts.bank.window import EVERYWHERE, window_of
from goodparts.engines.graph import numbered

if TYPE_CHECKING:
    from goodparts.bank.memory_bank import MemoryBank
    from goodparts.engines.graph import GraphBuilder
    from goodparts.engines.runtime import Products
    from goodparts.recipe.recipe import Recipe

_NOWHERE = np.float32(FAR**0.5)  # each coordinate of an entry that nothing is near
_COPIED = 8 << 20  # bytes of a bank up to which each of several threads may have one of its own
_PATCHES = 3  # of an image for each dimension, from which on a bank is sooner copied than hidden from


class HeldOutBank(Protocol):
    """A bank with replacements, as images are searched in it."""

    def compared(self, build: GraphBuilder, bank: MemoryBank) -> Compared:
        """The entries, in a graph to which `inputs` are given; `bank` is this one in the numbers it is ranked in."""

    def inputs(self, image: int, tile: int = 0) -> Mapping[str, NDArray[np.float32]]:
        """What the graph is given for a tile of an image, which is counted as the bank's `image_ids` are, by name."""


def held_out_bank(
    bank: MemoryBank,
    only_for: NDArray[np.int32],
    depth: int,
    grid: tuple[int, int],
    recipe: Recipe,
    products: Products,
) -> HeldOutBank:
    """The faster of the two ways.

    Args:
        bank: with replacements, entries in any order.
        only_for: the image that each entry serves alone, -1: all of them, (m,) int32.
        depth: of the bank, 0 for the finest.
        grid: (h, w) of an image's patches.
        recipe: of the search.
        products: those for which the graph is made.
    """
    ranked = ranked_in(bank, products, held_out=True)
    brings = (
        products.exact
        and not ranked.int8
        and ranked.basis is None
        and bank.tiles is None
        and window_of(recipe, grid) is EVERYWHERE
        and recipe.image_score != "reweighted"  # asks the bank once more
        and bank.features.nbytes <= _COPIED
        and grid[0] * grid[1] >= _PATCHES * bank.features.shape[1]
    )
    if brings:
        return BroughtAlong(bank, only_for, depth, candidates(ranked, recipe, EVERYWHERE, exact=True))
    return Excluding(bank, only_for, depth)


@dataclass(frozen=True, eq=False)
class Excluding:
    """All entries are in the graph, and an image says which it must not find.

    Input `excluded` (m,) float32, `FAR` for these; where tiles have banks of their own, those of the tile in the order
    of `bank.by_tile`.

    Attributes:
        bank: with replacements.
        only_for: the image that each entry serves alone, -1: all of them, (m,) int32.
        depth: of the bank.
    """

    bank: MemoryBank
    only_for: NDArray[np.int32]
    depth: int = 0

    def compared(self, build: GraphBuilder, bank: MemoryBank) -> Compared:
        """See `HeldOutBank`."""
        return _WithExclusions.of(build, bank)

    def inputs(self, image: int, tile: int = 0) -> dict[str, NDArray[np.float32]]:
        """See `HeldOutBank`."""
        hidden = (self.bank.image_ids == image) | ((self.only_for >= 0) & (self.only_for != image))
        excluded = np.where(hidden, np.float32(FAR), np.float32(0))
        if self.bank.tiles is not None:
            excluded = excluded[self.bank.entries_of_tile(tile)]
        return {numbered("excluded", self.depth): excluded}


@dataclass(frozen=True)
class _WithExclusions(Compared):
    """Entries of which some must not be found."""

    def excluded(self) -> str:
        """Which, as an input says."""
        return self.build.input(numbered("excluded", self.build.depth), TensorProto.FLOAT, [self.entries])


@dataclass(frozen=True, eq=False)
class BroughtAlong:
    """Each image brings its bank along, in which its replacements stand where its own entries stood.

    Inputs `entries` (m, d) float32 and, where the bank has a local scale, `density` (m,) float32, one over it. What is
    left of the image's places lies so far away that nothing is near.

    Attributes:
        bank: with replacements.
        only_for: the image that each entry serves alone, -1: all of them, (m,) int32.
        depth: of the bank.
        count: candidates of a patch.
    """

    bank: MemoryBank
    only_for: NDArray[np.int32]
    depth: int
    count: int

    def compared(self, build: GraphBuilder, bank: MemoryBank) -> Compared:
        """See `HeldOutBank`."""
        return _Brought(build, bank, None, len(self._entries))

    def inputs(self, image: int, tile: int = 0) -> dict[str, NDArray[np.float32]]:
        """See `HeldOutBank`."""
        own = np.flatnonzero(self.bank.image_ids[self._shared] == image)
        others = np.flatnonzero(self.only_for == image)
        places = np.concatenate([own, np.arange(len(self._shared), len(self._entries))])[: len(others)]
        entries = self._entries.copy()
        entries[own] = _NOWHERE
        entries[places] = self.bank.features[others]
        found = {numbered("entries", self.depth): entries}
        if self._density is not None and self.bank.local_scale is not None:
            density = self._density.copy()
            density[places] = 1 / self.bank.local_scale[others]
            found[numbered("density", self.depth)] = density
        return found

    @cached_property
    def _shared(self) -> NDArray[np.intp]:
        """The entries that serve all images."""
        return np.flatnonzero(self.only_for < 0)

    @cached_property
    def _entries(self) -> NDArray[np.float32]:
        """Those, and room for replacements where an image has more of them than entries; whole blocks of them."""
        images = 1 + max(self.bank.image_ids.max(initial=0), self.only_for.max(initial=0))
        own = np.bincount(self.bank.image_ids[self._shared], minlength=images)
        others = np.bincount(self.only_for[self.only_for >= 0], minlength=images)
        most = len(self._shared) + max(0, int((others - own).max()))
        shape = (padded_width(most, self.count), self.bank.features.shape[1])
        entries = np.full(shape, _NOWHERE, dtype=np.float32)
        entries[: len(self._shared)] = self.bank.features[self._shared]
        return entries

    @cached_property
    def _density(self) -> NDArray[np.float32] | None:
        """One over the local scale of each of these."""
        if self.bank.local_scale is None:
            return None
        density = np.ones(len(self._entries), dtype=np.float32)
        density[: len(self._shared)] = 1 / self.bank.local_scale[self._shared]
        return density


@dataclass(frozen=True)
class _Brought(Compared):
    """Entries that an image brings along.

    Attributes:
        width: how many, those that nothing is near included.
    """

    width: int

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.width

    def ranking(self, of_bank: Ranking) -> Ranking:
        """All of them, whose norms are not known before."""
        return _BroughtEntries(self.width, self.width)

    def features(self) -> str:
        """The entries, (entries, d) float32."""
        shape = [self.width, self.bank.features.shape[1]]
        return self.build.input(numbered("entries", self.build.depth), TensorProto.FLOAT, shape)

    def density(self) -> str:
        """One over their local scale, (entries,) float32."""
        return self.build.input(numbered("density", self.build.depth), TensorProto.FLOAT, [self.width])


@dataclass(frozen=True)
class _BroughtEntries(AllEntries):
    """The ranking of entries that an image brings along."""

    def ranks(self, build: GraphBuilder, query: str, compared: Compared, excluded: str | None) -> str:
        """|b|^2 - 2 q.b as one product, in which |b|^2 is one more dimension: a sum would be a pass over all ranks."""
        centred = build.node("Sub", compared.features(), build.learnt("bank_mean", compared.bank.mean))
        norms = build.node("ReduceSumSquare", centred, build.ints([1]), keepdims=1)
        twice = build.node("Mul", centred, build.floats([-2]))
        entries = build.node("Concat", twice, norms, axis=1)
        query = build.node(
            "Pad", query, build.ints([0, 0, 0, 1]), build.constant(np.array(1, dtype=np.float32))
        )
        return build.node("MatMul", query, build.node("Transpose", entries, perm=[1, 0]))
