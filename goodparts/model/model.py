"""The model: everything that was learnt, and the pipeline that it makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from goodparts.backbones.backbone import Backbone
from goodparts.bank.depths import Depth, depth_prefix
from goodparts.bank.fusion import Fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.decision.calibration import Calibration
from goodparts.engines.precision import UNCHECKED, PrecisionCheck
from goodparts.engines.runtime import ANYWHERE, Products
from goodparts.errors import BackboneError, ModelError
from goodparts.features.whitening import Whitening
from goodparts.model.records import EvaluationRecord, FitRecord, Provenance
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Model:
    """What fitting learnt.

    Attributes:
        recipe: the settings.
        backbone: cut down to the recipe's layers.
        preprocessor: how images are prepared.
        whitening: what features are mapped by; None: they stay as they are. Of the finest depth.
        bank: the memory bank of the finest depth.
        calibration: thresholds and what they rest on.
        provenance: what it was learnt from. Part of the identity.
        fit_record: when, where, how long, with which versions. Not part of the identity.
        precision: how far bf16 moves scores on the machine of fitting. Not part of the identity.
        evaluation: what was measured last, of this very bank and decision; None where nothing was. Not part of the
            identity.
        path: the file that it was read from, which errors name; None where it was not. Not part of the identity.
        coarser: whitening and bank of each coarser depth.
        fusion: how the distances of depths become one; None where there is one depth.
    """

    recipe: Recipe
    backbone: Backbone
    preprocessor: Preprocessor
    whitening: Whitening | None
    bank: MemoryBank
    calibration: Calibration
    provenance: Provenance
    fit_record: FitRecord
    precision: PrecisionCheck = UNCHECKED
    evaluation: EvaluationRecord | None = None
    path: Path | None = None
    coarser: tuple[Depth, ...] = ()
    fusion: Fusion | None = None

    @property
    def depths(self) -> tuple[Depth, ...]:
        """Whitening and bank of each depth, from fine to coarse."""
        return (Depth(self.whitening, self.bank), *self.coarser)

    @property
    def coarser_banks(self) -> list[tuple[MemoryBank, tuple[int, int]]]:
        """Bank and grid of each coarser depth."""
        grids = () if self.fusion is None else self.fusion.grids[1:]
        return [(depth.bank, grid) for depth, grid in zip(self.coarser, grids, strict=True)]

    @property
    def entries(self) -> int:
        """How many patch features all its banks have."""
        return sum(len(depth.bank.features) for depth in self.depths)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid of a working image, or of a tile."""
        return self.preprocessor.crop_grid

    def with_calibration(self, calibration: Calibration) -> Model:
        """The same with another decision, of which nothing was measured yet."""
        return replace(self, calibration=calibration, evaluation=None)

    def with_oracle(self, threshold: float) -> Model:
        """The same with the F1-optimal threshold of a labelled set."""
        return self.with_calibration(self.calibration.with_oracle(threshold))

    def with_evaluation(self, figures: Mapping[str, Any]) -> Model:
        """The same that keeps the figures of an evaluation, made just now."""
        return replace(self, evaluation=EvaluationRecord.of(figures))

    def pipeline(self, products: Products = ANYWHERE) -> Graph:
        """From pixels to distances and score: what `inspect` runs and an export writes.

        `image` (n, H, W, 3) uint8 to `distance_grid` (n, h, w) and `score` (n,) float32. Where padding, or what a pose
        turns in, must not count, also `valid` (n, h, w) float32; with a region of interest that is a constant, the
        patches that are looked at. Tiled images go through it tile by tile: there the score is made of the merged
        distances, unless it is `reweighted`, and then `valid` is an input; so is `tile` (1,) int64, the index of the
        tile row by row, where tiles have banks of their own.

        Args:
            products: what products of matrices are like where it will run.

        Raises:
            ModelError: the memory bank is not all numbers, or does not go with the backbone.
        """
        from goodparts.bank.search_graph import search_graph
        from goodparts.engines.graph import pipeline_graph
        from goodparts.features.extract import backbone_graph

        preprocessor, recipe = self.preprocessor, self.recipe
        banks = [depth.bank for depth in self.depths]
        if not all(np.isfinite(bank.features.min()) and np.isfinite(bank.features.max()) for bank in banks):
            raise self.damaged("its memory bank holds NaN or infinite values")
        try:
            whitening = [depth.whitening for depth in self.depths]
            to_features = backbone_graph(self.backbone, recipe, whitening, preprocessor.steps)
        except BackboneError as error:
            raise self.damaged(str(error)) from error
        grids = (self.grid, *(grid for _, grid in self.coarser_banks))
        given = [
            tuple(size.dim_value for size in item.type.tensor_type.shape.dim[1:])
            for item in to_features.model.graph.output
        ]
        expected = [(*grid, bank.features.shape[1]) for grid, bank in zip(grids, banks, strict=True)]
        if given != expected:
            raise self.damaged(
                f"its backbone gives patch features (h, w, d) of {_listed(given)}, and its memory bank has "
                f"{_listed(expected)}"
            )
        found = search_graph(
            self.bank,
            self.grid,
            recipe,
            coarser=self.coarser_banks,
            fusion=self.fusion,
            masked=self._masked,
            products=products,
            opset=to_features.model.opset_import[0].version,
        )
        if (mask := preprocessor.constant_mask) is not None:
            found.constants["valid"] = mask[None].astype(np.float32)
        return pipeline_graph(to_features, found)

    @property
    def _masked(self) -> bool:
        """Whether the graph is told which patches count: of several tiles only what is not made of the merged grid."""
        if self.preprocessor.single_crop:
            return self.preprocessor.masked
        return self.recipe.image_score == "reweighted" or (bool(self.coarser) and self.preprocessor.masked)

    def damaged(self, why: str) -> ModelError:
        """What to tell the user of a model that can't be run."""
        return ModelError(f"{self.path or 'model'}: damaged model ({why}); copy it again, or fit it anew")

    @cached_property
    def identity(self) -> str:
        """sha256 over everything but the time and place of fitting."""
        return identity_of(hashes(members(self)), self)

    def described(self) -> dict[str, object]:
        """What the manifest says of it, and what its identity covers beside the members."""
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
            **self._coarser_described(),
            "grid": list(self.grid),
            "data": self.provenance.to_dict(),
        }

    def _coarser_described(self) -> dict[str, object]:
        sizes = [depth.bank.features.shape for depth in self.coarser]
        described = [{"entries": entries, "dimensions": dimensions} for entries, dimensions in sizes]
        return {"coarser_banks": described} if described else {}


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


def members(model: Model) -> dict[str, bytes]:
    """What the model file holds, by name, without its manifest."""
    import safetensors.numpy

    tensors: dict[str, NDArray[Any]] = {}
    for number, depth in enumerate(model.depths):
        tensors |= {depth_prefix(number) + name: value for name, value in depth.tensors().items()}
    if model.fusion is not None:
        tensors |= model.fusion.tensors()
    return {
        "recipe.toml": model.recipe.to_toml().encode("utf-8", "replace"),  # a path may be no text
        "backbone.onnx": model.backbone.model.SerializeToString(deterministic=True),
        "bank.safetensors": safetensors.numpy.save(tensors),
        "calibration.json": model.calibration.to_json().encode(),
        **model.preprocessor.members(),
    }


def hashes(members: Mapping[str, bytes]) -> dict[str, str]:
    """sha256 of each member."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}


def identity_of(hashes: Mapping[str, str], model: Model) -> str:
    """Where the files of backbone and roi lay, and what belongs to the machine, is of no account."""
    product = {**model.recipe.product, "backbone": model.backbone.name, "roi": ""}
    parts = {name: digest for name, digest in hashes.items() if name != "recipe.toml"}
    text = json.dumps(
        {"format": FORMAT, "recipe": product, "sha256": parts, **model.described()}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()
