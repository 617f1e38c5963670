"""Vision transformers built from parameters, against plain PyTorch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from small_networks import State, small_transformer
from torch.nn import functional

from goodparts.backbones.backbone import read_backbone
from goodparts.backbones.vision_transformer import build_vision_transformer, is_vision_transformer
from goodparts.errors import BackboneError

KINDS: dict[str, dict[str, Any]] = {
    "vit_small_patch16": {"patch": 16, "side": 4, "scaled": False},  # DINO
    "vit_small_patch14": {"patch": 14},  # DINOv2
    "vit_small_patch14_reg4": {"patch": 14, "registers": 4},
    "vit_small_patch16_reg4_rope": {"patch": 16, "registers": 4, "rotary": True},  # DINOv3
    "vit_base_patch14": {"dimensions": 768, "depth": 1},
}
GRIDS = ((5, 5), (4, 4), (3, 7), (9, 2))  # of patches


def resampled(positions: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """timm's resample_abs_pos_embed: (1, side * side, d) to (1, h * w, d)."""
    side = math.isqrt(positions.shape[1])
    if (h, w) == (side, side):
        return positions
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = functional.interpolate(square, (h, w), mode="bicubic", antialias=True)
    return square.permute(0, 2, 3, 1).reshape(1, h * w, -1)


def turned(x: torch.Tensor, h: int, w: int, prefix: int) -> torch.Tensor:
    """DINOv3's rotary embeddings of (n, heads, tokens, 64)."""
    rows, columns = ((torch.arange(size) + 0.5) / size * 2 - 1 for size in (h, w))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(h * w, 2)
    periods = 100 ** (2 * torch.arange(16) / 32)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    patches = x[:, :, prefix:]
    first, second = patches.chunk(2, dim=-1)
    patches = patches * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    return torch.cat([x[:, :, :prefix], patches], dim=2)


def expected(arrays: State, image: torch.Tensor) -> list[torch.Tensor]:
    """Tokens of each block, after the last LayerNorm, and of unit length."""
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rotary = "pos_embed" not in state
    epsilon = 1e-5 if rotary else 1e-6

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], epsilon)

    def scaled(x: torch.Tensor, block: str, number: int) -> torch.Tensor:
        name = f"{block}.gamma_{number}" if rotary else f"{block}.ls{number}.gamma"
        return x * state[name] if name in state else x

    kernel = state["patch_embed.proj.weight"]
    maps = functional.conv2d(image, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    h, w = maps.shape[2:]
    x = maps.flatten(2).transpose(1, 2)
    n, _, d = x.shape
    prefix = [state[name].expand(n, -1, -1) for name in ("cls_token", "reg_token") if name in state]
    if not rotary:
        positions = state["pos_embed"]
        if "reg_token" not in state:
            prefix[0] = prefix[0] + positions[:, :1]
            positions = positions[:, 1:]
        x = x + resampled(positions, h, w)
    x = torch.cat([*prefix, x], dim=1)
    outputs = []
    while (block := f"blocks.{len(outputs)}") + ".norm1.weight" in state:
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(n, -1, 3, d // 64, 64).permute(2, 0, 3, 1, 4)
        if rotary:
            q, k = (turned(part, h, w, x.shape[1] - h * w) for part in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, d)
        x = x + scaled(linear(y, f"{block}.attn.proj"), block, 1)
        y = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + scaled(linear(y, f"{block}.mlp.fc2"), block, 2)
        outputs.append(x)
    last = norm(x, "norm")
    return [*outputs, last, last / last.norm(dim=-1, keepdim=True)]


def assert_runs_like(model: onnx.ModelProto, state: State, sizes: list[tuple[int, int]]) -> None:
    """In OpenVINO with dynamic and with static sizes."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    graph = core.read_model(model.SerializeToString())
    dynamic = core.compile_model(graph, "CPU", options)
    for size in sizes:
        image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(6))
        tensors = expected(state, image)
        graph.reshape([2, 3, *size])
        for executable in (dynamic, core.compile_model(graph, "CPU", options)):
            found = [array.copy() for array in executable(image.numpy()).values()]
            assert len(found) == len(tensors)
            for array, tensor in zip(found, tensors, strict=True):
                assert array.shape == tuple(tensor.shape)
                assert np.abs(array - tensor.numpy()).max() < 1e-5 * float(tensor.abs().max())


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_those_of_pytorch(name: str) -> None:
    state = small_transformer(**KINDS[name])
    assert is_vision_transformer(state)
    model = build_vision_transformer(state)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.name == name
    depth = KINDS[name].get("depth", 2)
    names = [output.name for output in model.graph.output]
    assert names == [*(f"block{index + 1}" for index in range(depth)), "norm", "unit"]
    patch = KINDS[name].get("patch", 14)
    assert_runs_like(model, state, [(h * patch, w * patch) for h, w in GRIDS])


def test_onnxruntime_agrees_on_the_rotation_and_the_positions() -> None:
    import onnxruntime

    for name in ("vit_small_patch14", "vit_small_patch16_reg4_rope"):
        state = small_transformer(**KINDS[name])
        model = build_vision_transformer(state)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        image = torch.randn(1, 3, 112, 224, generator=torch.Generator().manual_seed(6))
        for array, tensor in zip(
            session.run(None, {"image": image.numpy()}), expected(state, image), strict=True
        ):
            assert np.abs(array - tensor.numpy()).max() < 1e-5 * float(tensor.abs().max())


def test_metas_own_names_of_registers() -> None:
    state = small_transformer(registers=4)
    meta = {name: value for name, value in state.items() if name != "reg_token"}
    of_class = np.full((1, 1, 384), 0.25, np.float32)
    meta["register_tokens"] = state["reg_token"]
    meta["cls_token"] = state["cls_token"] - of_class
    meta["pos_embed"] = np.concatenate([of_class, state["pos_embed"]], axis=1)
    meta["mask_token"] = np.zeros((1, 384), np.float32)
    found, wanted = (build_vision_transformer(each).graph for each in (meta, state))
    assert found.node == wanted.node
    for one, other in zip(found.initializer, wanted.initializer, strict=True):
        assert np.allclose(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other), atol=1e-6)


def test_a_file_of_parameters(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from goodparts.backbones.onnx_file import shapes_at

    save_file(small_transformer(), tmp_path / "mine.safetensors")
    backbone = read_backbone(tmp_path / "mine.safetensors")
    assert (backbone.architecture, backbone.normalisation) == ("vit_small_patch14", "ImageNet assumed")
    assert backbone.layers()[:4] == ["block1", "block2", "norm", "unit"]
    assert backbone.usual_layers("by_depth") == {"layers": ("norm",)}
    assert shapes_at(backbone.model, "image", 224)["block2"] == (257, 384)


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.fc2.bias": None}, r"blocks\.1\.mlp\.fc2\.bias is missing; expected .*\(384\)"),
        ({"blocks.0.attn.qkv.weight": np.zeros((384, 384))}, r"qkv\.weight has shape .*expected \(1152, 384\)"),
        ({"blocks.0.ls2.gamma": None}, r"blocks\.0\.ls2\.gamma is missing"),
        ({"blocks.1.attn.q_norm.weight": np.ones(64)}, r"blocks\.1\.attn\.q_norm\.weight .*no part of vit_small"),
        ({"norm.weight": None}, r"parameter norm\.weight is missing"),
        ({"pos_embed": None}, r"parameter pos_embed is missing"),
        ({"pos_embed": np.zeros((1, 24, 384))}, r"pos_embed holds 24 positions; expected .*square"),
        ({"norm.bias": np.full(384, np.nan)}, r"norm\.bias holds NaN"),
        ({"patch_embed.proj.weight": np.zeros((512, 3, 14, 14))}, r"of 512 dimensions; expected one of 192, 384"),
        ({"patch_embed.proj.weight": np.zeros((384, 3, 14, 7))}, r"proj\.weight .*expected \(384, 3, 14, 14\)"),
    ],
)  # fmt: skip
def test_errors_name_the_parameter(change: dict[str, NDArray[Any] | None], message: str) -> None:
    state = without(small_transformer(), *change)
    state |= {name: value for name, value in change.items() if value is not None}
    with pytest.raises(BackboneError, match=message):
        build_vision_transformer(state)
