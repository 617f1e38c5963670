"""Features that tell nothing apart, or are no numbers, are refused when a model is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from goodparts import Inspector, Recipe
from goodparts.backbones.backbone import cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.data.good_images import GoodImages
from goodparts.data.images import ImageLike
from goodparts.errors import BackboneError
from goodparts.features.extract import Extractor, extract, learn_whitening
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE


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


@pytest.mark.parametrize("banks", ["joined", "by_depth"])
def test_what_whitening_was_learnt_from_is_read_once_and_has_the_features_of_any_other(
    recipe: Recipe, banks: str
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(96, 96, 3), dtype=np.uint8) for _ in range(5)]
    read: list[int] = []

    def counted(image: ImageLike) -> np.ndarray:
        assert isinstance(image, np.ndarray)
        read.append(next(index for index, other in enumerate(images) if other is image))
        return image

    good = GoodImages.of(images, read=counted, workers=2)
    recipe = recipe.replace({"whitening": 0.25, "banks": banks, "grid_layer": ""})
    backbone = load_backbone(recipe.backbone, offline=True)
    recipe = with_layers(recipe, backbone)
    backbone = cut_down(backbone, recipe)
    first = Extractor(backbone, recipe)
    preprocessor = Preprocessor.learn(good, recipe, first.grid, EVERYWHERE)
    read.clear()
    whitening = learn_whitening(good, first, preprocessor)
    extractor, anew = first.whitened(whitening), Extractor(backbone, recipe, whitening)
    assert extractor.dimensions == anew.dimensions
    with (
        extract(good, extractor, preprocessor) as features,
        extract(good, anew, preprocessor) as expected,
    ):
        assert sorted(read) == sorted([*range(5), *range(5)])  # of learning, and of `anew`
        assert not extractor.kept
        for of, other in zip(features.depths, expected.depths, strict=True):
            for index in range(5):
                found, wanted = of.features.image(index), other.features.image(index)
                assert found == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))
