"""Entries: patch features that a memory bank has, or may have, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.window import Neighbourhood
from goodparts.features.store import PatchFeatures


@dataclass(frozen=True, eq=False)
class Entries:
    """Some patch features, and where they came from.

    Attributes:
        features: (m, d) float32.
        image_ids: their images, (m,) int32.
        cells: the cells of the patch grid that they belong to, (m,) int32; all 0 without a window.
    """

    features: NDArray[np.float32]
    image_ids: NDArray[np.int32]
    cells: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        features: PatchFeatures,
        rows: NDArray[np.int64],
        neighbourhood: Neighbourhood,
        first_image: int = 0,
    ) -> Self:
        """Those of some rows of patches; `first_image` is the index of the first of these images."""
        image_ids = (rows // features.shape[1]).astype(np.int32) + np.int32(first_image)
        return cls(features.rows(rows), image_ids, neighbourhood.cells_of(rows))

    def only(self, which: NDArray[np.int64]) -> Entries:
        """Some of them, by index."""
        return Entries(self.features[which], self.image_ids[which], self.cells[which])

    def joined(self, more: Entries) -> Entries:
        """These and more behind them."""
        return Entries.of_all([self, more])

    @classmethod
    def of_all(cls, several: Sequence[Entries]) -> Entries:
        """Those of several, one behind the other."""
        return Entries(
            np.concatenate([one.features for one in several]),
            np.concatenate([one.image_ids for one in several]),
            np.concatenate([one.cells for one in several]),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        return {"features": self.features, "image_ids": self.image_ids, "cells": self.cells}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where something of it is missing."""
        return cls(tensors["features"], tensors["image_ids"], tensors["cells"])


class Candidates(NamedTuple):
    """What a partition of the good images gives for the bank.

    Attributes:
        entries: that it would keep.
        patches: others of its patches, to try a search space on; of its entries where it has no others.
        own: which of the entries each patch is, -1: none, (s,) int64.
    """

    entries: Entries
    patches: Entries
    own: NDArray[np.int64]

    @classmethod
    def joined(cls, several: Sequence[Candidates]) -> Candidates:
        """Those of all partitions."""
        before = np.cumsum([0, *(len(one.entries.features) for one in several)])
        own = [
            np.where(one.own < 0, -1, one.own + first) for one, first in zip(several, before, strict=False)
        ]
        return cls(
            Entries.of_all([one.entries for one in several]),
            Entries.of_all([one.patches for one in several]),
            np.concatenate(own),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        patches = {f"patches.{name}": values for name, values in self.patches.tensors().items()}
        return {**self.entries.tensors(), **patches, "own": self.own}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where something of it is missing."""
        patches = {
            name.removeprefix("patches."): values
            for name, values in tensors.items()
            if name.startswith("patches.")
        }
        return cls(Entries.from_tensors(tensors), Entries.from_tensors(patches), tensors["own"])
