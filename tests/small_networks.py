"""Small networks with random weights: as files, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

State = dict[str, NDArray[Any]]


def small_resnet(depths: tuple[int, ...], *, dtype: type[np.floating[Any]] = np.float16) -> State:
    """Random parameters of the first layers of a ResNet with basic blocks."""
    rng = np.random.default_rng(1)
    state: State = {}

    def convolution(name: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        scale = (2 / (inputs * size * size)) ** 0.5
        state[f"{name}.weight"] = rng.normal(0, scale, (outputs, inputs, size, size)).astype(dtype)
        for kind, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{norm}.{kind}"] = np.full(outputs, value, dtype)

    convolution("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, depth in enumerate(depths):
        planes = 64 << stage
        for index in range(depth):
            block = f"layer{stage + 1}.{index}"
            convolution(f"{block}.conv1", f"{block}.bn1", planes, channels, 3)
            convolution(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
            if channels != planes:
                convolution(f"{block}.downsample.0", f"{block}.downsample.1", planes, channels, 1)
            channels = planes
    return state


def small_transformer(
    *,
    patch: int = 14,
    depth: int = 2,
    dimensions: int = 384,
    registers: int = 0,
    side: int = 5,
    scaled: bool = True,
    rotary: bool = False,
) -> State:
    """Random parameters of the first blocks of a vision transformer, under timm's names.

    `side` patches each way have positions (none if `rotary`); `scaled` adds LayerScale.
    """
    rng = np.random.default_rng(4)
    d = dimensions

    def normal(*shape: int, scale: float = 0.5) -> NDArray[np.float32]:
        return rng.normal(0, scale, shape).astype(np.float32)

    def linear(name: str, outputs: int, *inputs: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = normal(outputs, *inputs, scale=float(np.prod(inputs)) ** -0.5)
        if bias:
            state[f"{name}.bias"] = normal(outputs, scale=0.1)

    def norm(name: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + normal(d, scale=0.1), normal(d, scale=0.1)

    state: State = {"cls_token": normal(1, 1, d)}
    if registers:
        state["reg_token"] = normal(1, registers, d)
    if not rotary:  # with registers, the class token's position is in the token
        state["pos_embed"] = normal(1, side**2 + (not registers), d)
    linear("patch_embed.proj", d, 3, patch, patch)
    for index in range(depth):
        block = f"blocks.{index}"
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv", 3 * d, d, bias=not rotary)
        linear(f"{block}.attn.proj", d, d)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", 4 * d, d)
        linear(f"{block}.mlp.fc2", d, 4 * d)
        for number in (1, 2) if scaled else ():
            scale = f"gamma_{number}" if rotary else f"ls{number}.gamma"
            state[f"{block}.{scale}"] = 1 + normal(d, scale=0.2)
    norm("norm")
    return state


def write_onnx(
    path: Path,
    *,
    shape: tuple[int | str | None, ...] = ("n", 3, "h", "w"),
    element: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
    opset: int = 18,
    baked: int | None = None,
    tokens: bool = False,
    second_input: bool = False,
) -> Path:
    """A network of two convolutions (4 channels at stride 2, then at 4), and what the options ask for.

    `baked` adds a Reshape to that many positions, `tokens` one to a sequence (n, tokens, 4).
    """
    rng = np.random.default_rng(2)
    type_ = helper.tensor_dtype_to_np_dtype(element)
    channels = shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 3
    weights = [
        numpy_helper.from_array(rng.normal(size=(4, channels, 3, 3)).astype(type_), "w1"),
        numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(type_), "w2"),
        numpy_helper.from_array(rng.normal(size=(9, 9)).astype(type_), "unused"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["first"], strides=[2, 2], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Conv", ["first", "w2"], ["second"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Identity", ["w2"], ["constant"]),
        helper.make_node("Shape", ["second"], ["sizes"]),
    ]
    outputs = {"second": 4}
    if baked is not None:
        weights.append(numpy_helper.from_array(np.array([1, 4, baked]), "baked_shape"))
        nodes.append(helper.make_node("Reshape", ["second", "baked_shape"], ["flat"]))
        outputs["flat"] = 3
    if tokens:
        weights.append(numpy_helper.from_array(np.array([0, 4, -1]), "rows"))
        nodes.append(helper.make_node("Reshape", ["second", "rows"], ["flat"]))
        nodes.append(helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]))
        outputs["tokens"] = 3
    inputs = [helper.make_tensor_value_info("x", element, shape)]
    if second_input:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        [helper.make_tensor_value_info(name, element, [None] * rank) for name, rank in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    import openvino

    core = openvino.Core()
    network = core.read_model(model.SerializeToString())
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [array.copy() for array in compiled(image).values()]


def image_of(height: int, width: int, n: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((n, 3, height, width)).astype(np.float32)
