"""The door to the engines."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import goodparts
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph, GraphBuilder


def convolution(side: int = 8) -> Graph:
    """`x` (n, 1, side, side) and `weight` (1,) to `y`: x, doubled by a learnt kernel, times the weight."""
    build = GraphBuilder("", opset=19)
    image = build.input("x", TensorProto.FLOAT, ["n", 1, side, side])
    weight = build.input("weight", TensorProto.FLOAT, [1])
    kernel = build.learnt("kernel", np.full((1, 1, 1, 1), 2, np.float32))
    build.node("Mul", build.node("Conv", image, kernel), weight, name="y")
    build.output("y", ["n", 1, side, side])
    return Graph(build.finish(), build.constants)


@pytest.mark.parametrize("throughput", [False, True])
def test_a_graph_is_opened_for_one_image_at_a_time(throughput: bool) -> None:
    engine = open_engine(convolution(), throughput=throughput)
    assert engine.inputs == {"x", "weight"}
    image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    (found,) = engine({"x": image, "weight": np.array([3], np.float32)}).values()
    np.testing.assert_array_equal(found, 6 * image)


def test_or_for_the_shapes_that_are_asked_for() -> None:
    engine = open_engine(convolution(), {"x": (5, 1, 8, 8), "weight": (1,)})
    images = np.ones((5, 1, 8, 8), np.float32)
    assert engine({"x": images, "weight": np.ones(1, np.float32)})["y"].shape == images.shape


def test_openvino_is_named_in_one_file() -> None:
    package = Path(goodparts.__file__).parent
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.Import) and any(name.name.startswith("openvino") for name in node.names))
        or (
            isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("openvino")
        )
    }
    assert naming == {"engines/openvino.py"}
