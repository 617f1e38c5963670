"""The model: everything that was learnt, and the pipeline that it makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodparts.backbones.backbone import Backbone
from goodparts.bank.memory_bank import MemoryBank
from goodparts.decision.calibration import Calibration
from goodparts.engines.precision import UNCHECKED, PrecisionCheck
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
        whitening: what features are mapped by; None: they stay as they are.
        bank: the memory bank.
        calibration: thresholds and what they rest on.
        provenance: what it was learnt from. Part of the identity.
        fit_record: when, where, how long, with which versions. Not part of the identity.
        precision: how far bf16 moves scores on the machine of fitting. Not part of the identity.
        evaluation: what was measured last, of this very bank and decision; None where nothing was. Not part of the
            identity.
        path: the file that it was read from, which errors name; None where it was not. Not part of the identity.
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

    def pipeline(self) -> Graph:
        """From pixels to distances and score: the graph that `inspect` runs and an export writes.

        `image` (n, H, W, 3) uint8 to `distance_grid` (n, h, w) and `score` (n,) float32. Where padding, or what a pose
        turns in, must not count, also `valid` (n, h, w) float32; with a region of interest that is a constant, the
        patches that are looked at. Tiled images go through it tile by tile: there the score is made of the merged
        distances, unless it is `reweighted`, and then `valid` is an input; so is `tile` (1,) int64, the index of the
        tile row by row, where tiles have banks of their own.

        Raises:
            ModelError: the memory bank is not all numbers, or does not go with the backbone.
        """
        from goodparts.bank.search_graph import search_graph
        from goodparts.engines.graph import pipeline_graph
        from goodparts.features.extract import backbone_graph

        preprocessor, recipe = self.preprocessor, self.recipe
        if not (np.isfinite(self.bank.features.min()) and np.isfinite(self.bank.features.max())):
            raise self.damaged("its memory bank holds NaN or infinite values")
        try:
            to_features = backbone_graph(self.backbone, recipe, self.whitening, preprocessor.steps)
        except BackboneError as error:
            raise self.damaged(str(error)) from error
        sizes = to_features.model.graph.output[0].type.tensor_type.shape.dim[1:]
        given, expected = tuple(size.dim_value for size in sizes), (*self.grid, self.bank.features.shape[1])
        if given != expected:
            raise self.damaged(
                f"its backbone gives patch features (h, w, d) of {given}, and its memory bank has {expected}"
            )
        found = search_graph(
            self.bank,
            self.grid,
            recipe,
            masked=preprocessor.masked if preprocessor.single_crop else recipe.image_score == "reweighted",
            opset=to_features.model.opset_import[0].version,
        )
        if (mask := preprocessor.constant_mask) is not None:
            found.constants["valid"] = mask[None].astype(np.float32)
        return pipeline_graph(to_features, found)

    def damaged(self, why: str) -> ModelError:
        """What to tell the user of a model that can't be run."""
        return ModelError(f"{self.path or 'model'}: damaged model ({why}); copy it again, or fit it anew")

    @property
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
            "grid": list(self.grid),
            "data": self.provenance.to_dict(),
        }


def members(model: Model) -> dict[str, bytes]:
    """What the model file holds, by name, without its manifest."""
    import safetensors.numpy

    tensors = model.bank.tensors()
    if model.whitening is not None:
        tensors["whitening.mean"] = model.whitening.mean
        tensors["whitening.matrix"] = model.whitening.matrix
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
