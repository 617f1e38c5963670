"""ResNets as ONNX, from their parameters under the names that torchvision and timm give them.

Deep Residual Learning (He et al. 2015, https://arxiv.org/abs/1512.03385) in torchvision's form: the stride of
a bottleneck sits in its 3 × 3 convolution ("v1.5"), and the stem's max pooling is padded. Wide ResNets
(Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146) differ in the width of the bottleneck alone.
"""

from __future__ import annotations

import re

import onnx

from goodparts.backbones.network import INPUT, Network, State, folded_convolution, parameter, refuse_unknown
from goodparts.errors import BackboneError

EPSILON = 1e-5
STAGES = ("layer1", "layer2", "layer3", "layer4")
EXPANSION = 4  # output channels of a bottleneck for each of its planes
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# (bottleneck, width of layer1's inner convolutions, blocks of layer1 to layer4): name
ARCHITECTURES = {
    (False, 64, (2, 2, 2, 2)): "resnet18",
    (False, 64, (3, 4, 6, 3)): "resnet34",
    (True, 64, (3, 4, 6, 3)): "resnet50",
    (True, 64, (3, 4, 23, 3)): "resnet101",
    (True, 64, (3, 8, 36, 3)): "resnet152",
    (True, 128, (3, 4, 6, 3)): "wide_resnet50_2",
    (True, 128, (3, 4, 23, 3)): "wide_resnet101_2",
}


def is_resnet(state: State) -> bool:
    """Whether these parameters look like those of a ResNet."""
    return "conv1.weight" in state and any(name.startswith("layer1.0.") for name in state)


def resnet_architecture(state: State) -> str:
    """Name of the architecture, such as "resnet50", from the shapes of its parameters.

    layer4 may be missing, or layer3 and layer4.

    Raises:
        BackboneError: no ResNet of a known depth and width.
    """
    bottleneck = "layer1.0.conv3.weight" in state
    width = parameter(state, "layer1.0.conv1.weight", (None, 64, None, None)).shape[0]
    blocks = _blocks(state)
    names = [
        name
        for (kind, inner, depths), name in ARCHITECTURES.items()
        if (kind, inner, depths[: len(blocks)]) == (bottleneck, width, blocks)
    ]
    if len(blocks) < 2 or not names:
        raise BackboneError(
            f"a ResNet with {'bottlenecks' if bottleneck else 'basic blocks'} of width {width} and "
            f"{blocks} blocks a layer; expected one of {', '.join(ARCHITECTURES.values())}"
        )
    return names[0]


def build_resnet(state: State) -> onnx.ModelProto:
    """Build the ONNX graph of a ResNet: 18, 34, 50, 101, 152, and the wide 50 and 101.

    Args:
        state: parameters by name ("conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", ...),
            of any floating type; layer4 and fc may be missing.

    Returns:
        A graph from "image", float32 (n, 3, h, w), to "layer1" .. "layer4" at strides 4, 8, 16 and 32. The
        tensors inside are named after the module that computes them ("layer2.0", "layer2.0.conv1"), the
        convolutions with their BatchNorm folded in.

    Raises:
        BackboneError: a parameter is missing, misshapen or no part of such a network.
    """
    architecture = resnet_architecture(state)
    block = _bottleneck if "layer1.0.conv3.weight" in state else _basic_block
    network = Network()
    used = ["fc.", "bn1.", "conv1.weight"]
    stem = folded_convolution(state, "conv1", "bn1", (64, 3, 7, 7), EPSILON)
    x = network.convolution(INPUT, "conv1", stem, stride=2, padding=3)
    x = network.relu(x, "relu")
    x = network.max_pool(x, "maxpool", size=3, stride=2, padding=1)
    blocks = _blocks(state)
    for stage, (name, depth) in enumerate(zip(STAGES, blocks, strict=False)):
        for index in range(depth):
            module = f"{name}.{index}"
            stride = 2 if index == 0 and stage > 0 else 1
            x = block(network, state, x, module, name if index == depth - 1 else module, 64 << stage, stride)
            used += [f"{module}.conv{i}.weight" for i in (1, 2, 3)]
            used += [f"{module}.bn{i}.{kind}" for i in (1, 2, 3) for kind in BATCH_NORM]
            used += [f"{module}.downsample.0.weight", f"{module}.downsample.1."]
    refuse_unknown(state, used, f"torchvision's {architecture}")
    return network.model(architecture, STAGES[: len(blocks)])


def _blocks(state: State) -> tuple[int, ...]:
    """Number of blocks of each layer, up to the last layer that has any."""
    depths = [0] * len(STAGES)
    for name in state:
        if match := re.match(r"layer([1-4])\.(\d{1,3})\.", name):
            stage = int(match[1]) - 1
            depths[stage] = max(depths[stage], int(match[2]) + 1)
    while depths and depths[-1] == 0:
        depths.pop()
    return tuple(depths)


def _basic_block(
    network: Network, state: State, x: str, module: str, output: str, planes: int, stride: int
) -> str:
    channels = network.channels[x]
    first = folded_convolution(state, f"{module}.conv1", f"{module}.bn1", (planes, channels, 3, 3), EPSILON)
    second = folded_convolution(state, f"{module}.conv2", f"{module}.bn2", (planes, planes, 3, 3), EPSILON)
    y = network.convolution(x, f"{module}.conv1", first, stride=stride, padding=1)
    y = network.relu(y, f"{module}.relu1")
    y = network.convolution(y, f"{module}.conv2", second, padding=1)
    return _residual(network, state, x, y, module, output, stride)


def _bottleneck(
    network: Network, state: State, x: str, module: str, output: str, planes: int, stride: int
) -> str:
    channels = network.channels[x]
    inner = parameter(state, f"{module}.conv1.weight", (None, channels, 1, 1)).shape[0]
    shapes = ((inner, channels, 1, 1), (inner, inner, 3, 3), (planes * EXPANSION, inner, 1, 1))
    first, second, third = (
        folded_convolution(state, f"{module}.conv{i}", f"{module}.bn{i}", shape, EPSILON)
        for i, shape in enumerate(shapes, start=1)
    )
    y = network.convolution(x, f"{module}.conv1", first)
    y = network.relu(y, f"{module}.relu1")
    y = network.convolution(y, f"{module}.conv2", second, stride=stride, padding=1)
    y = network.relu(y, f"{module}.relu2")
    y = network.convolution(y, f"{module}.conv3", third)
    return _residual(network, state, x, y, module, output, stride)


def _residual(network: Network, state: State, x: str, y: str, module: str, output: str, stride: int) -> str:
    """relu(y + x), where x is projected if its size or number of channels differs."""
    shape = (network.channels[y], network.channels[x], 1, 1)
    if stride != 1 or shape[0] != shape[1]:
        projection = folded_convolution(
            state, f"{module}.downsample.0", f"{module}.downsample.1", shape, EPSILON
        )
        x = network.convolution(x, f"{module}.downsample", projection, stride=stride)
    return network.relu(network.add(y, x, f"{module}.add"), output)
