"""The memory bank: the patch features of good images that are kept, as they are searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel

_BLOCK = 1 << 12  # entries that are worked on at once
_ROWS = 250  # entries whose distances to all others one core works on at once;
_DISTANCES = 1 << 20  # fewer in large banks, so that these are at most so many
_STEPS = 127  # of int8 either way, for entries in principal dimensions; in others half as many: processors without int8
_STEPS_IN_ALL = (
    63  # dot products add two neighbouring products in 16 bits, and there any two dimensions may be large
)
_PATCH_RANGE = 1.25  # largest component of a patch that int8 holds, in those of the entries


@dataclass(frozen=True, eq=False)
class Quantised:
    """Memory bank entries in int8, to rank them: what is ranked best is measured exactly.

    Attributes:
        entries: centred, in the search space, (m, q) int8, in units of `entry_scale`.
        entry_scale: () float32.
        patch_scale: unit of what is compared with them, () float32.
    """

    entries: NDArray[np.int8]
    entry_scale: NDArray[np.float32]
    patch_scale: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What is searched for the nearest good patch.

    Attributes:
        features: (m, d) float32, in the order of the images they came from.
        image_ids: for each entry the index of its image among the good images, (m,) int32, ascending; where there are
            `tiles`, for each of them.
        mean: of the features, (d,) float32: distances of near neighbours are small beside the norms, so the search
            works on centred features.
        basis: the q principal dimensions in which the search ranks entries, (d, q) float32; None: all d.
        cells: for each entry the cell of the patch grid that it belongs to, (m,) int32; all 0 where it serves them all.
        int8: whether it ranks them in int8 rather than in float32.
        local_scale: mean distance of each entry to its nearest others, which distances to it are divided by, (m,)
            float32; None: distances are taken as they are.
        tiles: for each entry the tile that it serves, (m,) int32, ascending; None: it serves them all.
    """

    features: NDArray[np.float32]
    image_ids: NDArray[np.int32]
    mean: NDArray[np.float32]
    basis: NDArray[np.float32] | None
    cells: NDArray[np.int32]
    int8: bool = False
    local_scale: NDArray[np.float32] | None = None
    tiles: NDArray[np.int32] | None = None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a model file keeps it: `from_tensors` makes the same bank of them."""
        tensors: dict[str, NDArray[Any]] = {
            "features": self.features,
            "origins": self.image_ids,
            "mean": self.mean,
        }
        if self.basis is not None:
            tensors["basis"] = self.basis
        if self.cells.any():
            tensors["cells"] = self.cells
        if self.tiles is not None:
            tensors["tiles"] = self.tiles
        if self.int8:
            tensors["int8"] = np.ones(1, dtype=np.uint8)
        if self.local_scale is not None:
            tensors["spacing"] = self.local_scale
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The bank of what `tensors` gave; others among them do not matter.

        Raises:
            KeyError: features, origins or mean are missing.
        """
        return cls(
            features=tensors["features"],
            image_ids=tensors["origins"],
            mean=tensors["mean"],
            basis=tensors.get("basis"),
            cells=tensors.get("cells", np.zeros(len(tensors["features"]), dtype=np.int32)),
            int8="int8" in tensors,
            local_scale=tensors.get("spacing"),
            tiles=tensors.get("tiles"),
        )

    @cached_property
    def tiles_served(self) -> NDArray[np.int64]:
        """The tiles that have entries of their own, ascending, (t,) int64."""
        assert self.tiles is not None
        return np.unique(self.tiles).astype(np.int64)

    @cached_property
    def by_tile(self) -> NDArray[np.int64]:
        """The entries of each of `tiles_served`, (t, w) int64; -1 behind them where others have more."""
        assert self.tiles is not None
        order = np.argsort(self.tiles, kind="stable")
        rows = np.searchsorted(self.tiles_served, self.tiles[order])
        nth = np.arange(len(order)) - np.searchsorted(rows, rows)
        entries = np.full((len(self.tiles_served), int(nth.max()) + 1), -1, dtype=np.int64)
        entries[rows, nth] = order
        return entries

    def entries_of_tile(self, tile: int) -> NDArray[np.int64]:
        """The line of `by_tile` of one of `tiles_served`, (w,) int64."""
        of_tile: NDArray[np.int64] = self.by_tile[np.searchsorted(self.tiles_served, tile)]
        return of_tile

    @property
    def most_compared(self) -> int:
        """How many entries a patch is compared with at the most."""
        return len(self.features) if self.tiles is None else self.by_tile.shape[1]

    def of_tile(self, tile: int) -> MemoryBank:
        """The bank of one tile alone."""
        assert self.tiles is not None
        which = np.flatnonzero(self.tiles == tile)
        return replace(
            self,
            features=self.features[which],
            image_ids=self.image_ids[which],
            cells=self.cells[which],
            local_scale=None if self.local_scale is None else self.local_scale[which],
            tiles=None,
        )

    def in_search_space(self) -> NDArray[np.float32]:
        """The entries in the search space, centred, (m, q) float32: made anew, since graphs have what is made of it."""
        if self.basis is None:
            return self.features - self.mean
        bank = np.empty((len(self.features), self.basis.shape[1]), dtype=np.float32)
        for first in range(0, len(bank), _BLOCK):  # rather than a centred copy of all
            part = slice(first, first + _BLOCK)
            bank[part] = (self.features[part] - self.mean) @ self.basis
        return bank

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """Squared norms of the centred entries in all d dimensions, (m,) float32."""
        norms = np.empty(len(self.features), dtype=np.float32)
        for first in range(0, len(norms), _BLOCK):
            part = slice(first, first + _BLOCK)
            centred = self.features[part] - self.mean
            norms[part] = np.einsum("md,md->m", centred, centred)
        return norms

    @cached_property
    def quantised(self) -> Quantised:
        """The entries in int8."""
        entries = self.in_search_space()
        largest = max(float(np.abs(entries).max()), 1e-30)
        scale = np.float32(largest / (_STEPS_IN_ALL if self.basis is None else _STEPS))
        return Quantised(
            entries=np.rint(entries / scale).astype(np.int8),
            entry_scale=np.array(scale, dtype=np.float32),
            patch_scale=np.array(largest * _PATCH_RANGE / 127, dtype=np.float32),
        )

    def of_image(self, index: int) -> slice:
        """The entries that came from the good image of that index; of a bank without `tiles`."""
        first, last = np.searchsorted(self.image_ids, (index, index + 1))
        return slice(int(first), int(last))

    def with_entries(
        self,
        features: NDArray[np.float32],
        image_ids: NDArray[np.int32],
        cells: NDArray[np.int32],
        local_scale: NDArray[np.float32] | None,
    ) -> MemoryBank:
        """The same with more entries behind, in the same search space; `image_ids` are no longer ascending."""
        return replace(
            self,
            features=np.concatenate([self.features, features]),
            image_ids=np.concatenate([self.image_ids, image_ids]),
            local_scale=None
            if self.local_scale is None or local_scale is None
            else np.concatenate([self.local_scale, local_scale]),
            cells=np.concatenate([self.cells, cells]),
        )


def of_tiles(banks: Mapping[int, MemoryBank]) -> MemoryBank:
    """The banks of tiles as one; what is searched is that of the tile in question. In all dimensions, in float32."""
    banks = dict(sorted(banks.items()))
    parts = list(banks.values())
    features = np.concatenate([bank.features for bank in parts])
    scales = [bank.local_scale for bank in parts if bank.local_scale is not None]
    return MemoryBank(
        features=features,
        image_ids=np.concatenate([bank.image_ids for bank in parts]),
        mean=features.mean(axis=0, dtype=np.float64).astype(np.float32),
        basis=None,
        cells=np.concatenate([bank.cells for bank in parts]),
        local_scale=np.concatenate(scales) if scales else None,
        tiles=np.repeat(np.array(list(banks), dtype=np.int32), [len(bank.features) for bank in parts]),
    )


def local_scale_of(
    entries: NDArray[np.float32],
    neighbours: int,
    *,
    limit: float = math.inf,
    among: NDArray[np.float32] | None = None,
    hide: Callable[[NDArray[np.float32], slice], None] | None = None,
    scale_floor: float | None = None,
) -> NDArray[np.float32]:
    """The local scale of entries: how far each lies from its nearest others, on average.

    A patch of a good part is about as far from its nearest entry as entries lie apart there: farther where good parts
    differ much. Divided by this scale, distances suit one threshold here and there (local outlier factor, Breunig
    et al., SIGMOD 2000; the neighbours of the nearest neighbour stand for its own).

    Args:
        entries: (m, d) float32.
        neighbours: how many nearest others; all where there are fewer.
        limit: how many times `scale_floor` the largest may be.
        among: what the others are, (n, d) float32; None: the entries themselves, none its own neighbour.
        hide: sets the squared distances of some of the entries to all others, (entries of the slice, n) float32, to
            infinity where one must not see the other; None: each sees all. Called from several threads.
        scale_floor: the least, and that of an entry that sees no other; None: the median of those that do.

    Returns:
        (m,) float32, positive, and nowhere less than `scale_floor`: entries that crowd together, as in a random
        sample, would make distances of good patches near them long. Nor beyond the limit: among strands that lie
        anyhow, say, entries are far apart, and what is wrong there would hardly count.
    """
    others = entries if among is None else among
    mean = others.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = others - mean
    norms = np.einsum("nd,nd->n", centred, centred)
    found = np.zeros(len(entries), dtype=np.float32)
    lone = np.zeros(len(entries), dtype=bool)
    rows = min(_ROWS, max(1, _DISTANCES // max(1, len(others))))

    def measure(first: int) -> None:
        part = slice(first, first + rows)
        x = entries[part] - mean
        squared = norms - 2 * (x @ centred.T)
        squared += np.einsum("md,md->m", x, x)[:, None]
        if among is None:
            lines = np.arange(len(x))
            squared[lines, first + lines] = np.inf
        if hide is not None:
            hide(squared, part)
        count = min(neighbours, squared.shape[1])
        nearest = np.partition(squared, count - 1, axis=1)[:, :count]
        there = np.isfinite(nearest)
        distances = np.sqrt(np.maximum(np.where(there, nearest, 0), 0))
        found[part] = distances.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        lone[part] = ~there.any(axis=1)

    with parallel.small_products():  # OpenBLAS's own threads go on spinning after each product
        parallel.on_all_cores(measure, range(0, len(entries), rows), long=True)
    if scale_floor is None:
        scale_floor = 0.0 if lone.all() else float(np.median(found[~lone]))
    found[lone] = scale_floor
    return bounded(found, scale_floor or 1, limit)


def bounded(local_scale: NDArray[np.float32], scale_floor: float, limit: float) -> NDArray[np.float32]:
    """Local scales, clipped to what lies from `scale_floor` to `limit` times that."""
    return np.clip(local_scale, np.float32(scale_floor), np.float32(scale_floor * limit))
