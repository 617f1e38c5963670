"""ResNets built from parameters, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from goodparts.backbones.resnet import build_resnet, is_resnet, resnet_architecture
from goodparts.errors import BackboneError

State = dict[str, NDArray[np.generic]]


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = projection(inputs, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, width: int) -> None:
        super().__init__()
        inner = planes * width // 64
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = projection(inputs, planes * 4, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, block: Callable[..., nn.Module], depths: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(depths):
            planes = 64 << stage
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, planes, 2 if stage and not index else 1, width))
                channels = planes if block is BasicBlock else planes * 4
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        outputs = []
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
                outputs.append(x)
        return outputs


NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 64),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 128),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), 128),
}


def random_network(name: str, depths: tuple[int, ...] | None = None) -> ResNet:
    """Random weights, and BatchNorm statistics that are random too but keep the activations in size."""
    block, full, width = NETWORKS[name]
    generator = torch.Generator().manual_seed(3)
    with torch.device("meta"):  # without PyTorch's own initialisation, which takes seconds
        network = ResNet(block, depths or full, width).eval()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.fc.parameters():
            parameter.zero_()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.4, 0.9, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.num_batches_tracked.zero_()
    return network


def numpy_state(network: nn.Module, dtype: torch.dtype = torch.float32) -> State:
    return {
        name: (value.to(dtype) if value.is_floating_point() else value).numpy()
        for name, value in network.state_dict().items()
    }


def compiled(model: onnx.ModelProto) -> Callable[[torch.Tensor], list[NDArray[np.float32]]]:
    import openvino

    core = openvino.Core()
    network = core.read_model(model.SerializeToString())
    executable = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: [array.copy() for array in executable(image.numpy()).values()]


def assert_same(found: list[NDArray[np.float32]], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for array, tensor in zip(found, expected, strict=True):
        assert array.shape == tuple(tensor.shape)
        scale = float(tensor.abs().max())
        assert scale > 1e-3
        assert float(np.abs(array - tensor.detach().numpy()).max()) < 1e-4 * scale


@pytest.mark.parametrize(
    ("name", "depths"),
    [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3)), ("wide_resnet50_2", (3, 4, 6))],
)
def test_outputs_are_those_of_pytorch(name: str, depths: tuple[int, ...]) -> None:
    network = random_network(name, depths)
    model = build_resnet(numpy_state(network))
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == [f"layer{i + 1}" for i in range(len(depths))]
    assert resnet_architecture(numpy_state(network)) == name
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    run = compiled(model)
    for height, width in ((64, 64), (75, 53)):
        image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            expected = network(image)
        assert_same(run(image), expected)


def test_without_layer4_and_in_float16() -> None:
    network = random_network("resnet18", (2, 2, 2))
    network.load_state_dict(
        {name: value.half().to(value.dtype) for name, value in network.state_dict().items()}
    )
    state = {name: value for name, value in numpy_state(network, torch.float16).items() if "fc." not in name}
    assert state["conv1.weight"].dtype == np.float16
    model = build_resnet(state)
    assert [output.name for output in model.graph.output] == ["layer1", "layer2", "layer3"]
    image = torch.randn(1, 3, 65, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert_same(compiled(model)(image), network(image))


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_is_told_from_the_shapes(name: str) -> None:
    block, depths, width = NETWORKS[name]
    with torch.device("meta"):
        network = ResNet(block, depths, width)
    shapes = {key: np.broadcast_to(np.float32(1), value.shape) for key, value in network.state_dict().items()}
    assert is_resnet(shapes)
    assert resnet_architecture(shapes) == name
    without = {key: value for key, value in shapes.items() if not key.startswith(("layer4", "fc"))}
    assert resnet_architecture(without) == name


@pytest.fixture(scope="module")
def state() -> State:
    return numpy_state(random_network("resnet18"))


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("layer2.0.bn1.running_mean", None, r"layer2\.0\.bn1\.running_mean is missing; .*\(128\)"),
        ("layer3.0.downsample.0.weight", None, r"layer3\.0\.downsample\.0\.weight is missing"),
        ("conv1.weight", np.zeros((64, 1, 7, 7)), r"conv1\.weight has shape .*expected \(64, 3, 7, 7\)"),
        ("layer1.1.bn2.bias", np.zeros(65), r"layer1\.1\.bn2\.bias has shape \(65\)"),
        ("bn1.running_var", np.full(64, -1.0), r"bn1\.running_var holds values below 0"),
        ("bn1.weight", np.full(64, np.nan), r"bn1\.weight holds NaN"),
        ("bn1.weight", np.full(64, "x"), r"bn1\.weight is of type"),
        ("layer1.0.se.fc1.weight", np.zeros((4, 64, 1, 1)), r"layer1\.0\.se\.fc1\.weight .*no part"),
        ("layer1.2.conv1.weight", np.zeros((64, 64, 3, 3)), r"\(3, 2, 2, 2\) blocks"),
    ],
)  # fmt: skip
def test_errors_name_the_parameter(
    state: State, name: str, replacement: NDArray[np.generic] | None, message: str
) -> None:
    changed = {key: value for key, value in state.items() if key != name}
    if replacement is not None:
        changed[name] = replacement
    with pytest.raises(BackboneError, match=message):
        build_resnet(changed)


@pytest.mark.real
def test_torchvisions_resnet18(shared: Path) -> None:
    from safetensors.numpy import load_file

    state = load_file(shared / "weights" / "resnet18_tv.safetensors")
    block, depths, width = NETWORKS["resnet18"]
    network = ResNet(block, depths[:3], width).eval()
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()}
    assert not network.load_state_dict(tensors, strict=False).unexpected_keys
    image = torch.randn(1, 3, 224, 160, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert_same(compiled(build_resnet(state))(image), network(image))
