"""The model: everything that was learnt, and the pipeline that it makes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from goodparts.backbones.backbone import Backbone
from goodparts.bank.memory_bank import MemoryBank
from goodparts.decision.calibration import Calibration
from goodparts.engines.precision import UNCHECKED, PrecisionCheck
from goodparts.features.whitening import Whitening
from goodparts.preprocessing import tiling
from goodparts.preprocessing.light import Light
from goodparts.preprocessing.pose import Reference
from goodparts.preprocessing.roi import Roi
from goodparts.preprocessing.tiling import Tiling
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph

FORMAT = 1
_ROI, _LIGHT, _POSE, _TILES = "roi.json", "light.json", "pose.safetensors", "tiles.json"


@dataclass(frozen=True, eq=False)
class Model:
    """What fitting learnt.

    Attributes:
        recipe: the settings.
        backbone: cut down to the recipe's layers.
        bank: the memory bank.
        calibration: thresholds and what they rest on.
        grid: (h, w) of the patch grid of a working image, or of a tile.
        data: what it was fitted on: counts, hash of the file list, image sizes. Part of the identity.
        circumstances: when, where, how long, with which versions. Not part of the identity.
        precision: how far bf16 moves scores on the machine of fitting. Not part of the identity.
        roi: what is looked at; None: everything.
        light: that of good images; None: images are taken as they are.
        whitening: what features are mapped by; None: they stay as they are.
        reference: what images are aligned to; None: they are not.
        tiling: how images are tiled; None: they are not.
    """

    recipe: Recipe
    backbone: Backbone
    bank: MemoryBank
    calibration: Calibration
    grid: tuple[int, int]
    data: dict[str, Any]
    circumstances: dict[str, Any]
    precision: PrecisionCheck = UNCHECKED
    roi: Roi | None = None
    light: Light | None = None
    whitening: Whitening | None = None
    reference: Reference | None = None
    tiling: Tiling | None = None

    @property
    def asks_valid(self) -> bool:
        """Whether the pipeline has the input `valid`: with a region of interest that is a constant of the model.

        It differs from tile to tile, but there the score is made of the merged distances, unless it is `reweighted`.
        """
        if self.tiling is not None:
            return self.recipe.image_score == "reweighted"
        return self.masked and self.roi is None

    @property
    def asks_tile(self) -> bool:
        """Whether the pipeline has the input `tile`: where each place of a tile has a memory bank of its own."""
        return self.bank.tiles is not None

    @property
    def masked(self) -> bool:
        """Whether there are patches that must not count: of padding, beyond the border, or of no interest."""
        return self.recipe.framing == "letterbox" or self.recipe.pose != "as_is" or self.roi is not None

    @property
    def whole(self) -> tuple[Recipe, tuple[int, int]]:
        """The recipe and the patch grid for the whole image; where it is tiled, as if it were not."""
        return tiling.whole(self.tiling, self.recipe, self.grid)

    def with_calibration(self, calibration: Calibration) -> Model:
        """The same with another decision."""
        return replace(self, calibration=calibration)

    def pipeline(self) -> Graph:
        """From pixels to distances and score: the graph that `inspect` runs and an export writes.

        `image` (n, H, W, 3) uint8, letterboxed or aligned also `valid` (n, h, w) float32, to `distance_grid` (n, h, w)
        and `score` (n,) float32. With a region of interest `valid` is a constant, the patches that are looked at. Tiled
        images go through it tile by tile, and `valid` is an input again; so is `tile` (1,) int64, the index of the tile
        row by row, where tiles have banks of their own.
        """
        from goodparts.bank import search_graph
        from goodparts.engines.graph import pipeline_graph
        from goodparts.features import extract as features

        to_features = features.features_graph(self.backbone, self.recipe, self.whitening, self.light)
        found = search_graph.search_graph(
            self.bank,
            self.grid,
            self.recipe,
            masked=self.asks_valid or (self.masked and self.tiling is None),
            opset=to_features.model.opset_import[0].version,
        )
        if self.roi is not None and self.tiling is None:
            looked_at = self.roi.looked_at(self.recipe, self.grid)
            found.constants["valid"] = looked_at[None].astype(np.float32)
        return pipeline_graph(to_features, found)

    @property
    def identity(self) -> str:
        """sha256 over everything but the time and place of fitting."""
        return _identity(_hashes(_members(self)), self)

    def _described(self) -> dict[str, Any]:
        backbone = self.backbone
        return {
            "backbone": {
                "name": backbone.name,
                "source": backbone.source,
                "licence": backbone.licence,
                "sha256": backbone.sha256,
                "input": backbone.input_name,
                "mean": list(backbone.mean),
                "std": list(backbone.std),
                "normalisation": backbone.normalisation,
            },
            "bank": {"entries": len(self.bank.features), "dimensions": self.bank.features.shape[1]},
            "grid": list(self.grid),
            "data": self.data,
        }


def _members(model: Model) -> dict[str, bytes]:
    import safetensors.numpy

    bank = model.bank
    tensors = {"features": bank.features, "origins": bank.origins, "mean": bank.mean}
    if bank.basis is not None:
        tensors["basis"] = bank.basis
    if bank.cells is not None:
        tensors["cells"] = bank.cells
    if bank.tiles is not None:
        tensors["tiles"] = bank.tiles
    if bank.int8:
        tensors["int8"] = np.ones(1, dtype=np.uint8)
    if bank.spacing is not None:
        tensors["spacing"] = bank.spacing
    if model.whitening is not None:
        tensors["whitening.mean"] = model.whitening.mean
        tensors["whitening.matrix"] = model.whitening.matrix
    optional = {_ROI: model.roi.to_json().encode()} if model.roi is not None else {}
    if model.light is not None:
        optional[_LIGHT] = model.light.to_json().encode()
    if model.reference is not None:
        optional[_POSE] = model.reference.to_bytes()
    if model.tiling is not None:
        optional[_TILES] = model.tiling.to_json().encode()
    return {
        "recipe.toml": model.recipe.to_toml().encode(),
        "backbone.onnx": model.backbone.model.SerializeToString(deterministic=True),
        "bank.safetensors": safetensors.numpy.save(tensors),
        "calibration.json": model.calibration.to_json().encode(),
        **optional,
    }


def _hashes(members: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}


def _identity(hashes: dict[str, str], model: Model) -> str:
    """Where the files of backbone and roi lay, and what belongs to the machine, is of no account."""
    product = {**model.recipe.product, "backbone": model.backbone.name, "roi": ""}
    parts = {name: digest for name, digest in hashes.items() if name != "recipe.toml"}
    text = json.dumps(
        {"format": FORMAT, "recipe": product, "sha256": parts, **model._described()}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()
