"""Features that tell nothing apart, or are no numbers, are refused when a model is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from goodparts import Inspector, Recipe
from goodparts.errors import BackboneError


def changed(backbone: Path, path: Path, factor: float, *, bias: float = 0.0) -> str:
    """A backbone with the kernels of its first layer multiplied, and biases of its own."""
    model = onnx.load(backbone)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "layer1.weight":
            values *= np.float32(factor)
        elif tensor.name == "layer1.bias":
            values[:] = bias
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("whitening", [0.0, 0.25])
def test_a_backbone_that_tells_nothing_apart_is_refused(
    recipe: Recipe, mini_dataset: Path, mini_backbone: Path, tmp_path: Path, whitening: float
) -> None:
    zero = changed(mini_backbone, tmp_path / "zero.onnx", 0.0, bias=0.0)
    dull = recipe.replace({"backbone": zero, "layers": ("layer1",), "whitening": whitening, "grid_layer": ""})
    with pytest.raises(BackboneError, match="backbone zero: its features are the same in every patch"):
        Inspector(dull).fit(mini_dataset)


@pytest.mark.parametrize("whitening", [0.0, 0.25])
def test_features_that_are_no_numbers_are_refused(
    recipe: Recipe, mini_dataset: Path, mini_backbone: Path, tmp_path: Path, whitening: float
) -> None:
    endless = changed(mini_backbone, tmp_path / "endless.onnx", 3e38)
    with pytest.raises(BackboneError, match="backbone endless: some of its features are NaN or infinite"):
        Inspector(recipe.replace({"backbone": endless, "layers": ("layer1",), "whitening": whitening})).fit(
            mini_dataset
        )


def test_images_of_one_colour_can_be_learnt_where_features_differ(recipe: Recipe) -> None:
    images = [np.full((96, 96, 3), level, dtype=np.uint8) for level in (80, 90, 100, 110)]
    assert Inspector(recipe).fit(images).model.bank.features.size
