"""Networks of PyTorch as backbones: any module, its layers by name, a model that needs no PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Run
from torch import nn

from goodparts import Inspector, Recipe
from goodparts.data.images import read_image
from goodparts.errors import BackboneError
from goodparts.torch import FeatureExtractor

CHECKOUT = Path(__file__).parents[1]


class Block(nn.Module):
    """As of a ResNet."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made)
        self.two, self.short = nn.Conv2d(made, made, 3, 1, 1), nn.Conv2d(given, made, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))) + self.short(x))


class Net(nn.Module):
    """A small residual network; counts how often its head is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3)
        self.layer1 = nn.Sequential(Block(8, 8, 2))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.layer3 = nn.Sequential(Block(16, 32, 2))
        self.head, self.unused = nn.Linear(32, 5), nn.Linear(3, 3)
        self.pair = Pair()
        self.heads = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.pair(self.layer1(torch.relu(self.stem(x))))
        x = self.layer3(self.layer2(x))
        self.heads += 1
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        shares = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        return x + self.out(torch.nn.functional.gelu(shares @ v))


class Vit(nn.Module):
    """A small transformer with a class token, for images of 64 pixels."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 65, width))
        self.blocks = nn.Sequential(Attention(width), Attention(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.place
        return self.norm(self.blocks(tokens))[:, 0]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(3)
    return Net()


def test_features_of_named_layers(net: Net) -> None:
    images = torch.rand(2, 3, 64, 96)
    features = FeatureExtractor(net, patch_size=1)(images)
    assert features.shape == (2, 8, 12, 48)
    with torch.no_grad():
        layer1 = net.layer1(torch.relu(net.stem(images)))
        layer2 = net.layer2(layer1)
    torch.testing.assert_close(features[..., :16], layer2.permute(0, 2, 3, 1))
    coarse = nn.functional.interpolate(net.layer3(layer2), (8, 12), mode="bilinear")
    torch.testing.assert_close(features[..., 16:], coarse.permute(0, 2, 3, 1))


@pytest.mark.parametrize("layer", ["layer2[-1]", "layer2.1", "layer2[1]", "layer2"])
def test_a_layer_has_several_names(layer: str, net: Net) -> None:
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        FeatureExtractor(net, (layer,))(images), FeatureExtractor(net, ("layer2",))(images)
    )


def test_nothing_is_computed_after_the_last_layer(net: Net) -> None:
    before = net.heads
    FeatureExtractor(net, ("layer3", "layer2.0.norm"))(torch.rand(1, 3, 64, 64))
    assert net.heads == before
    assert not any(module._forward_hooks for module in net.modules()), "no hook is left behind"


def test_adaptive_pooling_takes_the_grid_of_the_first_layer(net: Net) -> None:
    images = torch.rand(1, 3, 64, 64)
    assert FeatureExtractor(net, ("layer3", "layer2"), fusion="adaptive")(images).shape == (1, 4, 4, 48)
    assert FeatureExtractor(net, ("layer3", "layer2"))(images).shape == (1, 8, 8, 48)


def test_it_is_a_module_that_learns_nothing(net: Net) -> None:
    extractor = FeatureExtractor(net.train())
    assert isinstance(extractor, nn.Module)
    assert not net.training
    assert set(extractor.state_dict()) == {f"module.{name}" for name in net.state_dict()}


def test_tokens_become_a_grid_without_those_of_no_place() -> None:
    vit = Vit()
    images = torch.rand(2, 3, 64, 64)
    features = FeatureExtractor(vit, ("blocks[-1]", "norm"), patch_size=1)(images)
    assert features.shape == (2, 8, 8, 48)
    with torch.no_grad():
        tokens = vit.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([vit.token.expand(2, -1, -1), tokens], dim=1) + vit.place
        expected = vit.blocks(tokens)[:, 1:].reshape(2, 8, 8, 24)
    torch.testing.assert_close(features[..., :24], expected)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("layer9",), "layer9: the network has none of that name; the nearest are layer3, layer2, layer1"),
        (("layer2[5]",), r"layer2\[5\]: layer2 has 2 parts, none of index 5"),
        (("head",), r"layer head: gives \(1, 5\) for an image of 64x64 pixels; expected a feature map"),
        (("pair",), "layer pair: gives tuple; expected a feature map"),
        (("unused",), "layer unused: the network never came to it"),
        ("layer2", "layers: expected names such as"),
    ],
)
def test_layers_that_will_not_do(layers: tuple[str, ...], message: str, net: Net) -> None:
    with pytest.raises(BackboneError, match=message):
        FeatureExtractor(net, layers)(torch.rand(1, 3, 64, 64))


# ---- as a backbone ------------------------------------------------------------------------------------


WITHOUT = """
import sys
for name in ("torch", "onnxruntime"):
    sys.modules[name] = None
from goodparts import Inspector
inspector = Inspector.load(sys.argv[1])
for image in sys.argv[2:]:
    print(inspector.inspect(image).score)
"""


def test_a_model_of_a_torch_network_needs_no_torch(net: Net, mini_dataset: Path, tmp_path: Path) -> None:
    extractor = FeatureExtractor(net, ("layer2[-1]", "layer3"), source="random weights", licence="none")
    recipe = Recipe(image_size=96, sampling_ratio=0.2, precision="f32", banks="by_depth")
    inspector = Inspector(recipe, backbone=extractor, engine="torch", device="cpu").fit(mini_dataset)
    model = inspector.model
    assert model.recipe.layers == ("layer2[-1]", "layer3")
    assert (model.backbone.name, model.backbone.source, model.backbone.licence) == (
        "net",
        "random weights",
        "none",
    )
    saved = inspector.save(tmp_path / "part.goodparts")
    images = [mini_dataset / "test" / name for name in ("good/000.png", "stain/000.png", "scratch/001.png")]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, saved, *images],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "GOODPARTS_ENGINE"},
    )
    assert ran.returncode == 0, ran.stderr
    expected = [inspector.inspect(image).score for image in images]
    np.testing.assert_allclose([float(line) for line in ran.stdout.split()], expected, rtol=1e-3)


def test_the_graph_gives_what_the_module_gives_at_any_size(net: Net, mini_dataset: Path) -> None:
    extractor = FeatureExtractor(net)
    image = read_image(mini_dataset / "test" / "good" / "000.png")
    backbone = extractor.to_backbone((64, 64))
    assert not backbone.fixed_size
    from goodparts.backbones.backbone import cut_down
    from goodparts.features.extract import Extractor

    recipe = Recipe(
        image_size=(96, 96), layers=extractor.layers, banks="joined", whitening=0, feature_dimensions=0
    )
    found = Extractor(cut_down(backbone, recipe), recipe)(image)[0]
    normalised = (torch.from_numpy(image) / 255 - torch.tensor(extractor.mean)) / torch.tensor(extractor.std)
    with torch.inference_mode():
        expected = extractor(normalised.permute(2, 0, 1)[None])[0].reshape(len(found), -1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_transformer_keeps_its_size(mini_dataset: Path) -> None:
    torch.manual_seed(1)
    extractor = FeatureExtractor(Vit(), ("blocks.0", "norm"))
    recipe = Recipe(image_size=64, banks="joined", patch_size=1, sampling_ratio=0.2)
    inspector = Inspector(recipe, backbone=extractor).fit(mini_dataset)
    assert inspector.model.grid == (8, 8)
    assert inspector.inspect(mini_dataset / "test" / "stain" / "000.png").score > 0
    with pytest.raises(BackboneError, match=r"norm"):
        Inspector(recipe.replace({"layers": ("nrm",)}), backbone=extractor).fit(mini_dataset)


class Moody(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.rand_like(x))


class Foreign(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.linalg.svd(x, full_matrices=False)[0])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Moody, "moody: exported, layer layer2 differs by .* does it draw random numbers"),
        (Foreign, "foreign: torch.onnx can't export it: .* Try earlier layers"),
    ],
)
def test_modules_that_can_not_be_exported(module: type[Net], message: str) -> None:
    extractor = FeatureExtractor(module())
    with pytest.raises(BackboneError, match=message):
        extractor.to_backbone((64, 64))


def test_timm_that_is_not_installed(goodparts: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    ran = goodparts("backbone", "add", "mine", "--timm", "resnet18")
    assert ran.code == 2
    assert "the library timm can't be imported" in ran.err
    assert "pip install timm" in ran.err


def test_a_file_or_timm_is_needed(goodparts: Run, home: Path) -> None:
    ran = goodparts("backbone", "add", "mine")
    assert ran.code == 2
    assert "FILE is missing" in ran.err


def test_without_pytorch_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['torch'] = None; import goodparts.torch"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT)
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: goodparts.torch needs PyTorch: pip install 'goodparts[torch]'"
    )
