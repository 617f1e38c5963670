"""The pipeline's graphs: patch features against PatchCore in plain PyTorch, the search against brute force."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exact_features import exact
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from goodparts.backbones.onnx_file import trim_graph
from goodparts.bank import search_space
from goodparts.bank.held_out import Excluding
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import choose
from goodparts.bank.scoring import FAR
from goodparts.bank.search_graph import search_graph
from goodparts.engines.engine import layer_shapes, open_engine
from goodparts.engines.graph import Graph, pipeline_graph
from goodparts.engines.runtime import Products
from goodparts.errors import BackboneError
from goodparts.features.features_graph import features_graph
from goodparts.recipe.recipe import Recipe

Array = NDArray[Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run(graph: Graph, **inputs: Array) -> dict[str, NDArray[np.float32]]:
    engine = open_engine(graph, {name: value.shape for name, value in inputs.items()})
    return engine(inputs)


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Noise that is coarse enough to differ from cell to cell, (count, h, w, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size[0] // 4 + 1, size[1] // 4 + 1, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2)[:, : size[0], : size[1]].astype(np.uint8)


# ---- patch features


def features_of(backbone: onnx.ModelProto, recipe: Recipe) -> Graph:
    shapes = layer_shapes(backbone, recipe.image_size)
    return features_graph(backbone, shapes, recipe, MEAN, STD)


def declared(graph: Graph) -> tuple[Any, ...]:
    dims = graph.model.graph.output[0].type.tensor_type.shape.dim
    return tuple(dim.dim_param or dim.dim_value for dim in dims)


def normalised(images: NDArray[np.uint8]) -> torch.Tensor:
    pixels = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def mini_layers(path: Path, images: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
    """The layers of `mini_backbone` in PyTorch."""
    weights = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).astype(np.float64))
        for item in onnx.load(path).graph.initializer
    }
    x = normalised(images)
    layers = {}
    for name, stride in (("layer1", 4), ("layer2", 2), ("layer3", 2), ("layer4", 2)):
        kernel = weights[f"{name}.weight"]
        padding = kernel.shape[-1] // 2
        x = functional.conv2d(x, kernel, weights[f"{name}.bias"], stride=stride, padding=padding).relu()
        layers[name] = x
    return layers


def patchcore(layers: Sequence[torch.Tensor], recipe: Recipe) -> Array:
    """Patch features (n, h, w, d) as the authors of PatchCore make them: patches, one grid, pooling, joined.

    Without pooling, a patch's feature is the mean over the patch.
    """
    grid = max((layer.shape[2:] for layer in layers), key=math.prod)
    parts = []
    for layer in layers:
        n, channels, h, w = layer.shape
        size, pooled = recipe.patch_size, recipe.pooled_dimensions
        patches = functional.unfold(layer, size, padding=(size - 1) // 2)  # (n, channels x size², h w)
        patches = patches.reshape(n, -1, h, w)
        if (h, w) != tuple(grid):
            if recipe.layer_fusion == "bilinear":
                patches = functional.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
            else:
                patches = functional.adaptive_avg_pool2d(patches, grid)
        vectors = patches.permute(0, 2, 3, 1).reshape(-1, 1, channels * size * size)
        parts.append(functional.adaptive_avg_pool1d(vectors, pooled or channels)[:, 0])
    joined = torch.cat(parts, dim=1)
    if recipe.pooled_dimensions:
        joined = functional.adaptive_avg_pool1d(joined[:, None], recipe.pooled_dimensions)[:, 0]
    return joined.reshape(n, *grid, -1).numpy()


@pytest.mark.parametrize(
    ("keys", "grid", "dimensions"),
    [
        ({}, (8, 6), 48),
        ({"layers": "layer3,layer2"}, (8, 6), 48),
        ({"layers": "layer1,layer2,layer4"}, (16, 12), 88),
        ({"layers": "layer3"}, (4, 3), 32),
        ({"patch_size": 1}, (8, 6), 48),
        ({"patch_size": 5}, (8, 6), 48),
        ({"patch_size": 15, "layers": "layer3"}, (4, 3), 32),  # wider than the layer itself
        ({"layer_fusion": "adaptive"}, (8, 6), 48),
        ({"image_size": "52x36"}, (5, 7), 48),  # grids of 5 x 7 and 3 x 4
        ({"image_size": "52x36", "layer_fusion": "adaptive"}, (5, 7), 48),
        ({"image_size": "50x90", "layers": "layer1,layer4"}, (23, 13), 72),
        ({"pooled_dimensions": 16}, (8, 6), 16),
        ({"pooled_dimensions": 48}, (8, 6), 48),
        ({"pooled_dimensions": 20, "patch_size": 1}, (8, 6), 20),
        ({"pooled_dimensions": 7, "patch_size": 5}, (8, 6), 7),  # bins that share elements
        ({"pooled_dimensions": 100}, (8, 6), 100),
        ({"pooled_dimensions": 400}, (8, 6), 400),  # more than a patch of layer2 or layer3 has
        ({"pooled_dimensions": 24, "layers": "layer3"}, (4, 3), 24),
        ({"pooled_dimensions": 30, "image_size": "52x36"}, (5, 7), 30),
        ({"pooled_dimensions": 30, "layer_fusion": "adaptive"}, (8, 6), 30),
    ],
    ids=str,
)
def test_patch_features_are_those_of_patchcore(
    keys: dict[str, Any], grid: tuple[int, int], dimensions: int, mini_backbone: Path
) -> None:
    plain = {
        "banks": "joined",
        "layers": "layer2,layer3",
        "image_size": "48x64",
        "patch_size": 3,
        "layer_fusion": "bilinear",
        "pooled_dimensions": 0,
    }
    recipe = Recipe(**plain | keys)
    backbone = trim_graph(onnx.load(mini_backbone), "input", recipe.layers)
    graph = features_of(backbone, recipe)
    assert declared(graph) == ("n", *grid, dimensions)
    images = pictures(2, recipe.image_size)
    features = run(graph, image=images)["patch_features"]
    layers = mini_layers(mini_backbone, images)
    expected = patchcore([layers[name] for name in recipe.layers], recipe)
    assert features.shape == (2, *grid, dimensions)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("fusion", ["bilinear", "adaptive"])
def test_the_graph_has_its_shape_at_every_image_size(mini_backbone: Path, fusion: str) -> None:
    backbone = trim_graph(onnx.load(mini_backbone), "input", ["layer1", "layer3", "layer4"])
    for side in (*range(16, 120, 3), 224, 225, 320, 331, 1000):
        recipe = Recipe(
            image_size=(side, 64), layers="layer1,layer3,layer4", layer_fusion=fusion, banks="joined"
        )
        shapes = [(1, c, -(-side // s), 64 // s) for c, s in ((8, 4), (32, 16), (64, 32))]
        graph = features_graph(backbone, shapes, recipe, MEAN, STD)
        graph.model.graph.output[0].type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(graph.model, strict_mode=True, data_prop=True)
        assert declared(Graph(inferred)) == ("n", -(-side // 4), 16, 104)


def test_normalisation_is_exact_at_both_ends() -> None:
    # A backbone that hands the pixels on shows what the normalisation makes of them.
    recipe = Recipe(image_size=16, layers="pixels", patch_size=1, pooled_dimensions=0)
    graph = features_graph(pixels_as_layer(), [(1, 3, 16, 16)], recipe, MEAN, STD)
    images = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    images[0, 3, 5] = 255
    images[0, 7, 2] = (10, 100, 200)
    features = run(graph, image=images)["patch_features"]
    expected = (images / 255 - MEAN) / STD
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-6)


def pixels_as_layer() -> onnx.ModelProto:
    return model_of(
        [helper.make_node("Identity", ["input"], ["pixels"])],
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, "h", "w"]),
    )


def model_of(
    nodes: list[onnx.NodeProto],
    output: onnx.ValueInfoProto,
    weights: Mapping[str, Array] | None = None,
    *,
    opset: int = 18,
    source: str = "input",
) -> onnx.ModelProto:
    image = helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", 3, "h", "w"])
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "backbone", [image], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def transformer(patch: int, prefix: int, *, opset: int = 18) -> tuple[onnx.ModelProto, torch.Tensor]:
    """Tokens (n, prefix + h w, 6) of patches that are embedded; the first `prefix` are of 99. Also the kernel."""
    kernel = np.random.default_rng(5).normal(0, 0.1, (6, 3, patch, patch)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["embedded"], strides=[patch, patch]),
        helper.make_node("Reshape", ["embedded", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["patches", "pads", "value"], ["tokens"]),
    ]
    weights = {
        "kernel": kernel,
        "flat": np.array([0, 0, -1]),
        "pads": np.array([0, prefix, 0, 0, 0, 0]),
        "value": np.array(99, dtype=np.float32),
    }
    output = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n", "t", 6])
    return model_of(nodes, output, weights, opset=opset), torch.from_numpy(kernel).double()


@pytest.mark.parametrize(
    ("patch", "prefix", "image_size", "grid"),
    [
        (8, 0, "64x48", (6, 8)),
        (8, 1, "48x64", (8, 6)),
        (14, 1, "84x56", (4, 6)),
        (14, 5, "56x84", (6, 4)),  # class token and four registers
        (14, 1, "70x70", (5, 5)),
        (16, 1, "96x64", (4, 6)),
        (16, 5, "96x96", (6, 6)),
        (32, 1, "160x96", (3, 5)),
    ],
)
@pytest.mark.parametrize("patch_size", [1, 3])
def test_tokens_become_a_grid(
    patch: int, prefix: int, image_size: str, grid: tuple[int, int], patch_size: int
) -> None:
    recipe = Recipe(layers="tokens", image_size=image_size, patch_size=patch_size, pooled_dimensions=0)
    backbone, kernel = transformer(patch, prefix)
    graph = features_of(backbone, recipe)
    assert declared(graph) == ("n", *grid, 6)
    images = pictures(2, recipe.image_size)
    layer = functional.conv2d(normalised(images), kernel, stride=patch)
    features = run(graph, image=images)["patch_features"]
    np.testing.assert_allclose(features, patchcore([layer], recipe), rtol=1e-4, atol=1e-4)
    assert features.max() < 50


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 100, 6), ("layers", "100 tokens of tokens", "64x48", "multiple")),
        ((1, 6), ("layers", "tokens has shape (1, 6)", "(n, c, h, w)")),
        ((1, 6, 4, 4, 4), ("layers", "tokens has shape", "(n, tokens, d)")),
    ],
)
def test_a_layer_that_is_no_grid_is_refused(shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    recipe = Recipe(layers="tokens", image_size="64x48")
    with pytest.raises(BackboneError) as caught:
        features_graph(transformer(8, 1)[0], [shape], recipe, MEAN, STD)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("patch", "image_size", "message"),
    [
        (14, "320", "320x320 is not filled .* patches of 14 pixels; take 308x308 or 322x322"),
        (14, "100x70", "100x70 is not filled .* patches of 14 pixels; take 98x70 or 112x70"),
        (16, "250x224", "250x224 is not filled .* patches of 16 pixels; take 240x224 or 256x224"),
    ],
)
def test_an_image_size_that_patches_do_not_fill_names_the_nearest(
    patch: int, image_size: str, message: str
) -> None:
    recipe = Recipe(layers="tokens", image_size=image_size)
    with pytest.raises(BackboneError, match=f"^image_size: {message}$"):
        features_of(transformer(patch, 1)[0], recipe)


# ---- the search


def bank_of(entries: Array, images: int = 1, **keys: Any) -> MemoryBank:
    """Exactly these entries (m, d), from so many images with equally many each."""
    plain = {"sampling_ratio": 1, "sampling_limit": 0, "search_dimensions": 0, "density_neighbours": 0}
    recipe = Recipe(**plain | keys)
    features = np.ascontiguousarray(entries.reshape(images, -1, entries.shape[1]), dtype=np.float32)
    return choose(exact(features, recipe), np.ones(features.shape[:2], dtype=bool), recipe)


def told(bank: MemoryBank) -> list[Excluding]:
    """That the graph has all entries of a bank, and is told which must not be found."""
    return [Excluding(bank, np.full(len(bank.features), -1, dtype=np.int32))]


def scoring(image_score: str = "max", **keys: Any) -> Recipe:
    return Recipe(**{"score_neighbours": 1, "density_neighbours": 0, "image_score": image_score} | keys)


def cloud(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normally distributed, and away from zero as the features of a network are."""
    return (np.random.default_rng(seed).standard_normal(shape) + 20).astype(np.float32)


def distances(patches: Array, entries: Array) -> Array:
    """Of all patches (..., d) to all entries, (patches, m) float64, one difference at a time."""
    flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    return np.stack(
        [np.sqrt(((flat - entry.astype(np.float64)) ** 2).sum(axis=1)) for entry in entries], axis=1
    )


@pytest.mark.parametrize("entries", [1, 3, 5, 256, 257, 1000, 2048, 2049, 2063, 4500])
def test_search_finds_the_nearest_entry(entries: int) -> None:
    bank = bank_of(cloud(entries, 12, seed=1))
    patches = cloud(2, 5, 7, 12, seed=2)
    patches[1, 2, 3] = bank.features[-1]
    patches[0, 4, 6] = bank.features[0]
    found = run(search_graph(bank, (5, 7), scoring()), patch_features=patches)
    nearest = distances(patches, bank.features).min(axis=1).reshape(2, 5, 7)
    assert found["distance_grid"].dtype == np.float32
    np.testing.assert_allclose(found["distance_grid"], nearest, rtol=1e-5)
    assert found["distance_grid"][1, 2, 3] == found["distance_grid"][0, 4, 6] == 0
    np.testing.assert_array_equal(found["score"], found["distance_grid"].max(axis=(1, 2)))


@pytest.mark.parametrize("entries", [4, 300, 2300])
def test_each_entry_finds_itself(entries: int) -> None:
    bank = bank_of(cloud(entries, 8, seed=3))
    patches = bank.features.reshape(1, entries // 4, 4, 8)
    found = run(search_graph(bank, (entries // 4, 4), scoring()), patch_features=patches)
    assert found["distance_grid"].max() == 0
    assert found["score"].tolist() == [0]


@pytest.mark.parametrize("entries", [200, 512, 513, 2300])
def test_search_in_principal_dimensions(entries: int) -> None:
    rng = np.random.default_rng(4)
    turn, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    spread = np.where(np.arange(16) < 6, 1, 1e-3)
    bank = bank_of(rng.standard_normal((entries, 16)) * spread @ turn + 9, search_dimensions=6)
    patches = (rng.standard_normal((1, 6, 8, 16)) * spread @ turn + 9).astype(np.float32)
    found = run(search_graph(bank, (6, 8), scoring()), patch_features=patches)["distance_grid"].ravel()
    all_distances = distances(patches, bank.features)
    np.testing.assert_allclose(found, all_distances.min(axis=1), rtol=1e-4)
    # Whichever entry was taken, its distance is the exact one in all dimensions.
    off = np.abs(all_distances / found[:, None] - 1).min(axis=1)
    assert off.max() < 2e-6


@pytest.mark.parametrize("entries", [400, 2400])
def test_exact_distances_decide_among_what_the_principal_dimensions_leave_open(entries: int) -> None:
    # Entries come in pairs that differ in one dimension only, which is not among the principal ones.
    rng = np.random.default_rng(5)
    halves = rng.standard_normal((entries // 2, 8)) * (3, 3, 3, 3, 0, 0, 0, 0)
    pairs = np.stack([halves, halves], axis=1)
    pairs[:, 0, 7], pairs[:, 1, 7] = 0.4, -0.4
    entries = bank_of(pairs.reshape(-1, 8))
    basis = search_space.principal_dimensions(entries.features, entries.mean)[:, :4]
    bank = replace(entries, basis=np.ascontiguousarray(basis))
    assert np.abs(bank.basis[7]).max() < 1e-3
    patches = bank.features[:60].reshape(1, 6, 10, 8) + np.float32(1e-3)
    found = run(search_graph(bank, (6, 10), scoring()), patch_features=patches)["distance_grid"].ravel()
    np.testing.assert_allclose(found, distances(patches, bank.features).min(axis=1), rtol=1e-4)
    assert found.max() < 0.01


def test_useless_principal_dimensions_never_give_less_than_the_true_distance() -> None:
    entries = bank_of(cloud(2300, 16, seed=6))
    basis = search_space.principal_dimensions(entries.features, entries.mean)[:, :2]
    bank = replace(entries, basis=np.ascontiguousarray(basis), int8=True)
    patches = cloud(1, 6, 8, 16, seed=7)
    found = run(search_graph(bank, (6, 8), scoring()), patch_features=patches)["distance_grid"].ravel()
    all_distances = distances(patches, bank.features)
    assert (found >= all_distances.min(axis=1) * (1 - 1e-6)).all()
    assert (found <= np.median(all_distances, axis=1)).all()


@pytest.mark.parametrize("neighbours", [1, 3])
def test_numbers_that_entries_are_ranked_in_change_no_distance(
    neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    spread = np.where(np.arange(40) < 20, 1, 1e-3)
    bank = bank_of(rng.standard_normal((700, 40)) * spread + 9, search_dimensions=20)
    assert bank.int8
    patches = (rng.standard_normal((1, 30, 30, 40)) * spread + 9).astype(np.float32)
    recipe = scoring(score_neighbours=neighbours)
    expected = np.sort(distances(patches, bank.features), axis=1)[:, :neighbours].mean(axis=1)
    monkeypatch.setattr("goodparts.bank.ranking._FEW", 0)
    for products in (Products(), Products(exact=True), Products(int8=False), Products(False, True)):
        graph = search_graph(bank, (30, 30), recipe, products=products)
        kinds = [node.op_type for node in graph.model.graph.node]
        assert ("QuantizeLinear" in kinds) == products.int8
        found = run(graph, patch_features=patches)["distance_grid"].ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_bank_that_is_large_in_float32_stays_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = replace(bank_of(cloud(300, 40)), int8=True)
    monkeypatch.setattr("goodparts.bank.ranking._SMALL", 4 * 300 * 40 - 1)
    monkeypatch.setattr("goodparts.bank.ranking._FEW", 0)
    graph = search_graph(bank, (2, 2), scoring(), products=Products(int8=False, exact=True))
    assert "QuantizeLinear" in [node.op_type for node in graph.model.graph.node]


@pytest.mark.parametrize(("entries", "dimensions"), [(60, 128), (60, 129)])
def test_what_has_few_numbers_is_ranked_in_float32_where_that_is_exact(
    entries: int, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = replace(bank_of(cloud(entries, dimensions)), int8=True)

    def in_int8(*, few: int, held_out: bool = False, exact: bool = True) -> bool:
        monkeypatch.setattr("goodparts.bank.ranking._FEW", few)
        products = Products(exact=exact)
        graph = search_graph(
            bank, (2, 2), scoring(), products=products, held_out=told(bank) if held_out else ()
        )
        return "QuantizeLinear" in [node.op_type for node in graph.model.graph.node]

    numbers = entries * dimensions
    assert not in_int8(few=numbers)
    assert in_int8(few=numbers - 1)
    assert in_int8(few=numbers, exact=False)
    assert in_int8(few=numbers - 1, held_out=True) == (dimensions > 128)
    bank = replace(bank, basis=np.eye(dimensions, 30, dtype=np.float32))
    assert in_int8(few=numbers, held_out=True)


SPACES = pytest.mark.parametrize(
    ("per_image", "search_dimensions"), [(2, 0), (20, 0), (20, 4), (600, 0), (600, 4)], ids=str
)


@SPACES
def test_held_out_entries_are_not_found(per_image: int, search_dimensions: int) -> None:
    rng = np.random.default_rng(8)
    spread = np.where(np.arange(8) < 4, 1, 1e-3)
    bank = bank_of(
        rng.standard_normal((4 * per_image, 8)) * spread + 5, 4, search_dimensions=search_dimensions
    )
    grid = (per_image // 2, 2)
    graph = search_graph(bank, grid, scoring(), held_out=told(bank))
    engine = open_engine(graph, {"patch_features": (1, *grid, 8), "excluded": (4 * per_image,)})
    for image in range(4):
        own = bank.of_image(image)
        excluded = np.zeros(4 * per_image, dtype=np.float32)
        excluded[own] = FAR
        patches = bank.features[own].reshape(1, *grid, 8)  # would all find themselves
        found = engine({"patch_features": patches, "excluded": excluded})["distance_grid"].ravel()
        others = np.delete(bank.features, own, axis=0)
        np.testing.assert_allclose(found, distances(patches, others).min(axis=1), rtol=1e-4)
        nobody = engine({"patch_features": patches, "excluded": np.zeros_like(excluded)})
        assert nobody["score"].tolist() == [0]


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("entries", [3, 300, 2300])
def test_with_everything_held_out_distances_are_huge_but_numbers(entries: int, neighbours: int) -> None:
    recipe = scoring(score_neighbours=neighbours)
    bank = bank_of(cloud(entries, 4))
    graph = search_graph(bank, (2, 2), recipe, held_out=told(bank))
    excluded = np.full(entries, FAR, dtype=np.float32)
    found = run(graph, patch_features=cloud(1, 2, 2, 4, seed=1), excluded=excluded)
    assert np.isfinite(found["distance_grid"]).all()
    assert found["distance_grid"].min() > 1e14


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(("density_neighbours", "limit"), [(0, 1.1), (4, 0), (4, 1.1)])
@pytest.mark.parametrize(("entries", "neighbours"), [(1, 3), (2, 3), (8, 1), (40, 3), (600, 5), (2300, 3)])
def test_a_patch_distance_is_the_mean_of_several_divided_by_the_entries_local_scale(
    entries: int, neighbours: int, density_neighbours: int, limit: float, held_out: bool
) -> None:
    keys = {"density_neighbours": density_neighbours, "density_limit": limit}
    bank = bank_of(cloud(entries, 9, seed=1), **keys)
    patches = cloud(1, 5, 6, 9, seed=2)
    recipe = scoring(score_neighbours=neighbours, **keys)
    graph = search_graph(bank, (5, 6), recipe, held_out=told(bank) if held_out else ())
    inputs = {"excluded": np.zeros(entries, dtype=np.float32)} if held_out else {}
    found = run(graph, patch_features=patches, **inputs)
    to_entries = distances(patches, bank.features)
    between = distances(bank.features, bank.features)
    between.sort(axis=1)
    local_scale = (
        between[:, 1 : 1 + density_neighbours].mean(axis=1) if density_neighbours and entries > 1 else 1
    )
    nearest = to_entries.argsort(axis=1)[:, :neighbours]
    usual = np.median(local_scale)
    units = np.broadcast_to(np.clip(local_scale, usual, limit * usual if limit else np.inf), (entries,))
    expected = (np.take_along_axis(to_entries, nearest, axis=1) / units[nearest]).mean(axis=1)
    np.testing.assert_allclose(found["distance_grid"].ravel(), expected, rtol=1e-4)
    np.testing.assert_array_equal(found["score"], found["distance_grid"].max(axis=(1, 2)))


def test_of_several_neighbours_those_count_that_are_not_held_out() -> None:
    bank = bank_of(cloud(6, 4), images=3, density_neighbours=2)
    graph = search_graph(bank, (2, 2), scoring(score_neighbours=3, density_neighbours=2), held_out=told(bank))
    excluded = np.array([FAR] * 4 + [0] * 2, dtype=np.float32)
    patches = cloud(1, 2, 2, 4, seed=1)
    assert bank.local_scale is not None
    left = distances(patches, bank.features[4:]) / bank.local_scale[4:]
    found = run(graph, patch_features=patches, excluded=excluded)["distance_grid"].ravel()
    np.testing.assert_allclose(found, left.mean(axis=1), rtol=1e-5)


# ---- the image score


def test_patches_that_must_not_count_do_not() -> None:
    bank = bank_of(cloud(50, 6, seed=1))
    patches = cloud(3, 4, 5, 6, seed=2)
    patches[0, 0, 0] = 500  # the largest by far, but not valid
    patch_mask = np.random.default_rng(3).random((3, 4, 5)) < 0.5
    patch_mask[0, 0, 0] = False
    patch_mask[2] = True
    graph = search_graph(bank, (4, 5), scoring(), masked=True)
    found = run(graph, patch_features=patches, valid=patch_mask.astype(np.float32))
    nearest = distances(patches, bank.features).min(axis=1).reshape(3, 4, 5)
    np.testing.assert_allclose(found["distance_grid"], nearest, rtol=1e-5)
    np.testing.assert_allclose(found["score"], np.where(patch_mask, nearest, 0).max(axis=(1, 2)), rtol=1e-5)


TOP = [
    # grid, share, patches that count, of how many the mean is: ceil(share x patches)
    ((3, 4), 1.0, 12, 12),
    ((3, 4), 0.01, 12, 1),
    ((3, 4), 0.25, 12, 3),
    ((3, 4), 0.26, 12, 4),
    ((3, 4), 0.5, 5, 3),
    ((3, 4), 0.25, 1, 1),
    ((28, 28), 0.01, 784, 8),
    ((40, 40), 0.005, 1600, 8),
    ((10, 10), 0.07, 100, 7),  # 0.07 x 100 is 7.000000000000001 in Python
    ((20, 20), 0.15, 400, 60),  # 60.000004 in float32
    ((20, 20), 0.6, 400, 240),
    ((20, 20), 0.15, 200, 30),
]


@pytest.mark.parametrize(("grid", "share", "counted", "wanted"), TOP, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_top_mean_is_of_the_largest_share(
    grid: tuple[int, int], share: float, counted: int, wanted: int, masked: bool
) -> None:
    cells = math.prod(grid)
    if counted < cells and not masked:
        pytest.skip("only a mask leaves patches out")
    bank = bank_of(np.zeros((1, 2)))
    lengths = np.random.default_rng(4).permutation(cells) + 1.0
    patches = np.stack([lengths, np.zeros(cells)], axis=1).reshape(1, *grid, 2).astype(np.float32)
    patch_mask = np.random.default_rng(5).permutation(cells) < counted
    graph = search_graph(bank, grid, scoring("top_mean", top_share=share), masked=masked)
    mask = {"valid": patch_mask.reshape(1, *grid).astype(np.float32)} if masked else {}
    found = run(graph, patch_features=patches, **mask)["score"]
    kept = np.sort(lengths[patch_mask] if masked else lengths)[::-1][:wanted]
    np.testing.assert_allclose(found, [kept.mean()], rtol=1e-5)


def equation_7(patches: Array, entries: Array, b: int) -> float:
    """Roth et al. 2022, equations 6 and 7, for the patches (p, d) of one image."""
    to_entries = distances(patches, entries)
    farthest = to_entries.min(axis=1).argmax()
    nearest = to_entries[farthest].argmin()
    crowd = distances(entries[nearest], entries)[0].argsort()[:b]  # the entry itself comes first
    s = to_entries[farthest, nearest]
    return float((1 - np.exp(s) / np.exp(to_entries[farthest, crowd]).sum()) * s)


@pytest.mark.parametrize(
    ("entries", "search_dimensions", "b"),
    [(1, 0, 9), (5, 0, 9), (40, 0, 2), (40, 0, 9), (300, 0, 9), (600, 4, 9), (2300, 0, 3), (2300, 0, 50)],
)
def test_reweighting_is_equation_7(entries: int, search_dimensions: int, b: int) -> None:
    rng = np.random.default_rng(9)
    spread = np.where(np.arange(8) < 4, 1, 1e-3)
    bank = bank_of(rng.standard_normal((entries, 8)) * spread + 5, search_dimensions=search_dimensions)
    patches = (rng.standard_normal((3, 4, 5, 8)) * spread * (1.2, *[1] * 7) + 5).astype(np.float32)
    graph = search_graph(bank, (4, 5), scoring("reweighted", reweighting_neighbours=b))
    found = run(graph, patch_features=patches)
    expected = [equation_7(image.reshape(20, 8), bank.features, b) for image in patches]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-6)
    nearest = distances(patches, bank.features).min(axis=1).reshape(3, 4, 5)
    np.testing.assert_allclose(found["distance_grid"], nearest, rtol=1e-4)  # the map is as it was
    assert (found["score"] < found["distance_grid"].max(axis=(1, 2))).all()


def test_reweighting_of_patches_that_count() -> None:
    bank = bank_of(cloud(60, 6, seed=1))
    patches = cloud(2, 4, 5, 6, seed=2)
    patches[:, 1, 1] = 500
    patch_mask = np.random.default_rng(3).random((2, 4, 5)) < 0.6
    patch_mask[:, 1, 1] = False
    recipe = scoring("reweighted", reweighting_neighbours=5)
    graph = search_graph(bank, (4, 5), recipe, masked=True)
    found = run(graph, patch_features=patches, valid=patch_mask.astype(np.float32))["score"]
    expected = [
        equation_7(image[seen], bank.features, 5) for image, seen in zip(patches, patch_mask, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_reweighting_survives_distances_beyond_what_exp_can_hold() -> None:
    bank = bank_of(cloud(30, 4) * 1000)
    patches = cloud(1, 2, 2, 4, seed=1) * 1000
    found = run(search_graph(bank, (2, 2), scoring("reweighted")), patch_features=patches)
    assert found["score"] == pytest.approx(found["distance_grid"].max(), rel=1e-4)


@pytest.mark.parametrize("per_image", [20, 4, 2])
def test_reweighting_leaves_held_out_entries_out_of_the_crowd(per_image: int) -> None:
    # With 2 or 4 entries of each of three images, fewer than 9 are left: none that is held out may fill up.
    bank = bank_of(cloud(3 * per_image, 6, seed=1), images=3)
    recipe = scoring("reweighted", reweighting_neighbours=9)
    patches = cloud(1, 3, 4, 6, seed=2)
    excluded = np.zeros(3 * per_image, dtype=np.float32)
    excluded[bank.of_image(1)] = FAR
    graph = search_graph(bank, (3, 4), recipe, held_out=told(bank))
    found = run(graph, patch_features=patches, excluded=excluded)["score"]
    others = np.delete(bank.features, bank.of_image(1), axis=0)
    np.testing.assert_allclose(found, [equation_7(patches.reshape(12, 6), others, 9)], rtol=1e-4)


# ---- both


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("image_score", ["max", "reweighted", "top_mean"])
def test_the_pipeline_is_features_then_search(mini_backbone: Path, masked: bool, image_score: str) -> None:
    recipe = Recipe(
        banks="joined", layers="layer2,layer3", image_size="48x64", image_score=image_score, top_share=0.2
    )
    features = features_of(trim_graph(onnx.load(mini_backbone), "input", recipe.layers), recipe)
    good = run(features, image=pictures(3, recipe.image_size, seed=1))["patch_features"]
    bank = bank_of(good.reshape(-1, 48), images=3)
    search = search_graph(bank, (8, 6), recipe, masked=masked)
    images = pictures(2, recipe.image_size, seed=2)
    mask = {"valid": np.tri(8, 6, dtype=np.float32)[None].repeat(2, axis=0)} if masked else {}
    patches = run(features, image=images)["patch_features"]
    apart = run(search, patch_features=patches, **mask)
    joined = pipeline_graph(features, search)
    onnx.checker.check_model(joined.model, full_check=True)
    together = run(joined, image=images, **mask)
    assert set(together) == {"distance_grid", "score"}
    for name, values in together.items():
        np.testing.assert_allclose(values, apart[name], rtol=1e-4)

    # The same from ONNX's own, slow reference, which takes nothing for granted that OpenVINO may.
    feed = {"image": images, **mask, **joined.constants}
    for name, values in zip(
        ("distance_grid", "score"), ReferenceEvaluator(joined.model).run(None, feed), strict=True
    ):
        np.testing.assert_allclose(values, together[name], rtol=1e-3)


def test_a_blocked_search_runs_in_the_reference_too() -> None:
    # 32 blocks; the reference's GatherElements takes no more.
    bank = bank_of(cloud(510, 8, seed=1), images=3)
    graph = search_graph(bank, (3, 4), scoring(), masked=True, held_out=told(bank))
    excluded = np.zeros(510, dtype=np.float32)
    excluded[bank.of_image(2)] = FAR
    patch_mask = np.ones((1, 3, 4), dtype=np.float32)
    feed = {"patch_features": cloud(1, 3, 4, 8, seed=2), "excluded": excluded, "valid": patch_mask}
    grid, score = ReferenceEvaluator(graph.model).run(None, {**feed, **graph.constants})
    found = run(graph, **feed)
    np.testing.assert_allclose(found["distance_grid"], grid, rtol=1e-4)
    np.testing.assert_allclose(found["score"], score, rtol=1e-4)


def test_what_was_learnt_is_beside_the_graph_not_in_it(mini_backbone: Path) -> None:
    bank = bank_of(cloud(3000, 48))
    recipe = Recipe(layers="layer2,layer3", image_size=64)
    features = features_of(trim_graph(onnx.load(mini_backbone), "input", recipe.layers), recipe)
    search = search_graph(bank, (8, 8), recipe)
    joined = pipeline_graph(features, search)
    assert search.model.ByteSize() < 20_000 < bank.features.nbytes
    assert np.shares_memory(joined.constants["bank"], bank.features)
    inputs = {item.name: item for item in joined.model.graph.input}
    assert set(inputs) == {"image", *joined.constants}
    for name, value in joined.constants.items():
        shape = tuple(dim.dim_value for dim in inputs[name].type.tensor_type.shape.dim)
        assert shape == value.shape
    assert search.model.graph.input[0].name == "patch_features"  # left as it was


def test_names_of_the_backbone_do_not_meet_those_of_the_pipeline() -> None:
    kernel = np.random.default_rng(1).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    backbone = model_of(
        [
            helper.make_node("Conv", ["image", "bank"], ["patch_features"], strides=[8, 8]),
            helper.make_node("Relu", ["patch_features"], ["score"]),
        ],
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 4, "h", "w"]),
        {"bank": kernel},
        source="image",
    )
    before = backbone.SerializeToString()
    recipe = scoring(layers="score", image_size="48x32", patch_size=1, pooled_dimensions=0)
    features = features_of(backbone, recipe)
    bank = bank_of(cloud(30, 4))
    joined = pipeline_graph(features, search_graph(bank, (4, 6), recipe))
    onnx.checker.check_model(joined.model, full_check=True)
    images = pictures(1, (32, 48))
    layer = functional.conv2d(normalised(images), torch.from_numpy(kernel).double(), stride=8).relu()
    nearest = distances(layer.permute(0, 2, 3, 1).numpy(), bank.features).min(axis=1)
    found = run(joined, image=images)
    np.testing.assert_allclose(found["distance_grid"].ravel(), nearest, rtol=1e-4)
    assert backbone.SerializeToString() == before


@pytest.mark.parametrize(("opset", "expected"), [(18, 19), (21, 21)])
def test_the_opset_is_the_backbones_if_that_is_newer(opset: int, expected: int) -> None:
    recipe = Recipe(layers="tokens", image_size="64x48", patch_size=3)
    features = features_of(transformer(8, 1, opset=opset)[0], recipe)
    assert features.model.opset_import[0].version == expected
    search = search_graph(bank_of(cloud(600, 6)), (6, 8), recipe, opset=expected)
    joined = pipeline_graph(features, search)
    onnx.checker.check_model(joined.model, full_check=True)
    assert run(joined, image=pictures(1, (48, 64)))["distance_grid"].shape == (1, 6, 8)
