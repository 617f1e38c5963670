"""EfficientNet-Lite0, 1 and 2 as ONNX, from their parameters under the names that PyTorch's ports give them.

EfficientNet (Tan & Le 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6,
as Google published it in 2020 for edge devices
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The variants differ in how
many blocks their stages have, and how many channels; neither the stem nor the depth of the first and the last
stage is scaled.
"""

from __future__ import annotations

import numpy as np
import onnx

from goodparts.backbones.network import INPUT, Network, State, folded_convolution, refuse_unknown

MEAN = (127 / 255, 127 / 255, 127 / 255)  # of RGB / 255: the network was trained on (RGB - 127) / 128
STD = (128 / 255, 128 / 255, 128 / 255)
EPSILON = 1e-3
STEM_CHANNELS = 32
STAGES = (
    (3, 1, 1),
    (3, 2, 6),
    (5, 2, 6),
    (3, 2, 6),
    (5, 1, 6),
    (5, 2, 6),
    (3, 1, 6),
)  # kernel, stride, expansion
VARIANTS = {  # channels and blocks of each stage
    "efficientnet_lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite1": ((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
BLOCK_MODULES = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
SAME = "SAME_UPPER"  # TensorFlow's padding: an odd row more goes below, an odd column more to the right


def is_efficientnet_lite(state: State) -> bool:
    """Whether these parameters look like those of an EfficientNet-Lite."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def efficientnet_lite_architecture(state: State) -> str:
    """Name of the variant, such as "efficientnet_lite2", that most blocks of these parameters agree with."""

    def agreement(name: str) -> int:
        channels, blocks = VARIANTS[name]
        return sum(
            np.shape(state.get(f"_blocks.{index}._project_conv.weight", ()))[:1] == (wanted,)
            for index, wanted in enumerate(np.repeat(channels, blocks))
        )

    return max(VARIANTS, key=agreement)


def build_efficientnet_lite(state: State) -> onnx.ModelProto:
    """Build the ONNX graph of EfficientNet-Lite0, 1 or 2.

    Args:
        state: parameters by name ("_conv_stem.weight", "_blocks.3._bn1.running_var", ...); the classifier's
            (_conv_head, _bn1, _fc) are left out and may be missing.

    Returns:
        A graph from "image", float32 (n, 3, h, w), to "stage1" .. "stage7" at strides 2, 4, 8, 16, 16, 32 and
        32, ceil(h / stride) high. Inside are the wider tensors of each block: "stage3.block2.expand" and
        "stage3.block2.depthwise", after their ReLU6.

    Raises:
        BackboneError: a parameter is missing, misshapen or no part of this network.
    """
    architecture = efficientnet_lite_architecture(state)
    network = Network()
    stem = folded_convolution(state, "_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3), EPSILON)
    x = network.convolution(INPUT, "stem.convolution", stem, stride=2, padding=SAME)
    x = network.clip(x, "stem", 0, 6)
    index = 0
    stages = zip(STAGES, *VARIANTS[architecture], strict=True)
    for stage, ((kernel, stage_stride, expansion), channels, blocks) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}.block{block}"
            output = f"stage{stage}" if block == blocks else name
            stride = stage_stride if block == 1 else 1
            x = _inverted_residual(
                network, state, x, f"_blocks.{index}", name, output, kernel, stride, expansion, channels
            )
            index += 1
    known = ["_conv_stem.weight", "_bn0.", "_conv_head.", "_bn1.", "_fc."]
    known += [f"_blocks.{number}.{module}." for number in range(index) for module in BLOCK_MODULES]
    refuse_unknown(state, known, architecture)
    return network.model(architecture, [f"stage{stage}" for stage in range(1, len(STAGES) + 1)])


def _inverted_residual(
    network: Network,
    state: State,
    x: str,
    module: str,
    name: str,
    output: str,
    kernel: int,
    stride: int,
    expansion: int,
    channels: int,
) -> str:
    """Expand 1 × 1, convolve each channel by itself, project 1 × 1; add the input where the shapes agree."""
    inputs = network.channels[x]
    inner = inputs * expansion
    y = x
    if expansion > 1:
        expand = folded_convolution(
            state, f"{module}._expand_conv", f"{module}._bn0", (inner, inputs, 1, 1), EPSILON
        )
        y = network.convolution(y, f"{name}.expand.convolution", expand)
        y = network.clip(y, f"{name}.expand", 0, 6)
    depthwise = folded_convolution(
        state, f"{module}._depthwise_conv", f"{module}._bn1", (inner, 1, kernel, kernel), EPSILON
    )
    y = network.convolution(
        y, f"{name}.depthwise.convolution", depthwise, stride=stride, padding=SAME, groups=inner
    )
    y = network.clip(y, f"{name}.depthwise", 0, 6)
    project = folded_convolution(
        state, f"{module}._project_conv", f"{module}._bn2", (channels, inner, 1, 1), EPSILON
    )
    if stride == 1 and inputs == channels:
        y = network.convolution(y, f"{name}.project", project)
        return network.add(y, x, output)
    return network.convolution(y, output, project)
