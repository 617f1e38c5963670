"""PyTorch runs the backbones that the package builds: each family gives what OpenVINO gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from small_networks import small_transformer

from goodparts.backbones.catalogue import load_backbone
from goodparts.backbones.vision_transformer import build_vision_transformer
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph
from goodparts.engines.runtime import Runtime

TRANSFORMERS: dict[str, tuple[dict[str, Any], int]] = {
    "DINO": ({"patch": 16, "side": 4, "scaled": False}, 16),
    "DINOv2": ({"patch": 14}, 14),
    "DINOv2 with registers": ({"patch": 14, "registers": 4}, 14),
    "DINOv3": ({"patch": 16, "registers": 4, "rotary": True}, 16),
}


def assert_alike(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    name = model.graph.input[0].name
    image = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    found, expected = (
        open_engine(Graph(model), {name: shape}, on=Runtime(engine, "cpu"))({name: image})
        for engine in ("torch", "openvino")
    )
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=0, atol=1e-4 * np.abs(values).max())


@pytest.mark.parametrize("grid", [(5, 5), (3, 7)], ids=str)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, grid: tuple[int, int]) -> None:
    keys, patch = TRANSFORMERS[name]
    model = build_vision_transformer(small_transformer(**keys))
    assert_alike(model, (2, 3, grid[0] * patch, grid[1] * patch))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_efficientnets(name: str) -> None:
    assert_alike(load_backbone(name).model, (1, 3, 96, 64))
