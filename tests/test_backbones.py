"""Backbones from files and by name, the store, and downloads from a hub that runs on this machine."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from goodparts import backbone_store, backbones, efficientnet
from goodparts.backbone_files import IMAGENET_MEAN, IMAGENET_STD, is_path, read_backbone
from goodparts.backbones import Backbone, load_backbone, trim
from goodparts.errors import BackboneError, OutputError

State = dict[str, NDArray[Any]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store and hub cache for every test, and no network."""
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "home" / "backbones"


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


@pytest.fixture(scope="session")
def resnet34_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """layer1 and layer2 of a ResNet-34, 2.7 MB."""
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(small_resnet((3, 4)), path)
    return path


@pytest.fixture(scope="session")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("weights") / "eighteen.safetensors"
    save_file(small_resnet((2, 2)), path)
    return path


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


# ---- names and paths


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", False),
        ("my-vit_2", False),
        ("resnet50.onnx", True),
        ("resnet50.PTH", True),
        ("weights.safetensors", True),
        ("./resnet50", True),
        ("folder/resnet50", True),
        ("C:\\weights\\resnet50", True),
    ],
)
def test_paths_are_told_from_names(name: str, expected: bool) -> None:
    assert is_path(name) is expected


def test_a_file_called_like_a_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "efficientnet_lite0").write_text("not this", encoding="utf-8")
    assert load_backbone("efficientnet_lite0").source == efficientnet.SOURCE
    with pytest.raises(BackboneError, match=r"efficientnet_lite0: expected a file that ends in"):
        load_backbone("./efficientnet_lite0")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(
        BackboneError, match=r"'resnet5'; did you mean resnet50.*Known are efficientnet_lite0, resnet18"
    ):
        load_backbone("resnet5")
    with pytest.raises(BackboneError, match=r"nothing_like_it\.onnx: there is no such file"):
        load_backbone("nothing_like_it.onnx")


# ---- ONNX files


@pytest.mark.parametrize(
    ("metadata", "mean", "std", "normalisation"),
    [
        ({}, IMAGENET_MEAN, IMAGENET_STD, "ImageNet assumed"),
        ({"mean": "0.5,0.25,0.125", "std": "0.5, 1, 2"}, (0.5, 0.25, 0.125), (0.5, 1, 2), "metadata"),
        ({"mean": "[0.5 0.5 0.5]", "std": "(1,1,1)", "range": "0..1"}, (0.5,) * 3, (1,) * 3, "metadata"),
        (
            {"mean": "127.5,0,255", "std": "255,51,127.5", "range": "0..255", "color": "rgb"},
            (0.5, 0, 1),
            (1, 0.2, 0.5),
            "metadata",
        ),
    ],
)
def test_normalisation_from_the_metadata(
    tmp_path: Path,
    metadata: dict[str, str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    normalisation: str,
) -> None:
    backbone = load_backbone(str(write_onnx(tmp_path / "net.onnx", metadata=metadata)))
    assert backbone.mean == pytest.approx(mean)
    assert backbone.std == pytest.approx(std)
    assert backbone.normalisation == normalisation


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "0.5,0.5", "std": "1,1,1"}, r"mean = '0\.5,0\.5'; expected three numbers"),
        ({"mean": "a,b,c", "std": "1,1,1"}, "mean = 'a,b,c'; expected three numbers"),
        ({"mean": "nan,0,0", "std": "1,1,1"}, "mean = 'nan,0,0'; expected three numbers"),
        ({"mean": "0,0,0"}, "std = ''; expected three numbers"),
        ({"mean": "0,0,0", "std": "1,0,1"}, "expected numbers above 0"),
        ({"mean": "0,0,0", "std": "1,1,1", "range": "-1..1"}, r"range = '-1\.\.1'"),
        ({"range": "0..255"}, "mean = ''; expected three numbers"),
        ({"color": "BGR"}, "color = 'BGR'; expected RGB"),
    ],
)
def test_bad_metadata(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = write_onnx(tmp_path / "net.onnx", metadata=metadata)
    with pytest.raises(BackboneError, match=rf"net\.onnx.*{message}"):
        load_backbone(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second_input": True}, "found 2 inputs: x, mask"),
        ({"element": TensorProto.FLOAT16}, r"found x float16 \(n, 3, h, w\)"),
        ({"shape": ("n", 1, "h", "w")}, r"found x float \(n, 1, h, w\)"),
        ({"shape": ("n", 3, "h", "w", "d")}, r"found x float \(n, 3, h, w, d\)"),
    ],
)
def test_unfit_inputs(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write_onnx(tmp_path / "net.onnx", **options)
    with pytest.raises(BackboneError, match=rf"expected a single input, float32 \(n, 3, h, w\); {message}"):
        load_backbone(str(path))


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    good = write_onnx(tmp_path / "good.onnx").read_bytes()
    model = onnx.load_from_string(good)
    model.graph.node[0].op_type = "NoSuchOperator"
    bad = {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut": good[:-40],
        "op": model.SerializeToString(),
    }
    for name, content in bad.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(BackboneError, match=rf"{name}\.onnx: not a usable ONNX file"):
            load_backbone(str(path))


def test_layers_are_listed_outputs_first(tmp_path: Path) -> None:
    backbone = load_backbone(str(write_onnx(tmp_path / "net.onnx", tokens=True)))
    assert backbone.name == "net"
    assert backbone.layers() == ["second", "tokens", "first", "flat"]
    assert replace(backbone, short_names=("first",)).layers()[0] == "first"


def test_trim_keeps_what_the_layers_need_in_their_order(tmp_path: Path) -> None:
    backbone = load_backbone(str(write_onnx(tmp_path / "net.onnx", tokens=True)))
    first = trim(backbone, ["first"])
    assert [node.output[0] for node in first.graph.node] == ["first"]
    assert [tensor.name for tensor in first.graph.initializer] == ["w1"]
    both = trim(backbone, ["tokens", "first"])
    assert [output.name for output in both.graph.output] == ["tokens", "first"]
    assert "unused" not in {tensor.name for tensor in both.graph.initializer}
    onnx.checker.check_model(both, full_check=True)
    image = image_of(12, 20, n=2)
    tokens, maps = run(both, image)
    assert tokens.shape == (2, 15, 4)
    assert maps.shape == (2, 4, 6, 10)
    whole = run(backbone.model, image)  # second, tokens
    assert np.array_equal(whole[1], tokens)
    assert np.array_equal(run(first, image)[0], maps)
    assert len(backbone.model.graph.output) == 2  # untouched


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "no layers given; it has second, first"),
        (["second", "second"], "layers named twice"),
        (["secnd"], "has no layer 'secnd'; the nearest are second"),
        (["zzz"], "has no layer 'zzz'; it has second, first"),
        (["x"], "has no layer 'x'"),
        (["constant"], "has no layer 'constant'; there is a tensor of that name, but"),
        (["sizes"], "has no layer 'sizes'"),
        (["w1"], "has no layer 'w1'"),
    ],
)
def test_trim_errors(tmp_path: Path, layers: list[str], message: str) -> None:
    backbone = load_backbone(str(write_onnx(tmp_path / "net.onnx")))
    with pytest.raises(BackboneError, match=f"backbone net:? ?{message}"):
        trim(backbone, layers)


def test_trim_follows_subgraphs(tmp_path: Path) -> None:
    """A branch of an If reads a tensor and a weight of the graph around it."""
    float_ = TensorProto.FLOAT
    branch = [helper.make_node("Conv", ["stem", "w2"], ["inside"])]
    then = helper.make_graph(branch, "then", [], [helper.make_tensor_value_info("inside", float_, None)])
    other = helper.make_graph(
        [helper.make_node("Identity", ["stem"], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", float_, None)],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["stem"]),
        helper.make_node("If", ["yes"], ["maps"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["maps"], ["out"]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w1"),
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w2"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", float_, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", float_, [None] * 4)],
        weights,
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    trimmed = trim(load_backbone(str(path)), ["maps"])
    assert [node.op_type for node in trimmed.graph.node] == ["Conv", "If"]
    assert {tensor.name for tensor in trimmed.graph.initializer} == {"w1", "w2", "yes"}
    onnx.checker.check_model(trimmed)


def input_sizes(model: onnx.ModelProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("shape", "baked", "layers", "expected"),
    [
        ((1, 3, 32, 32), None, ["second"], ["n", 3, "h", "w"]),
        ((1, 3, 32, 32), 64, ["second"], ["n", 3, "h", "w"]),
        ((1, 3, 32, 32), 64, ["flat"], [1, 3, 32, 32]),
        (("batch", 3, 32, 32), None, ["second"], ["batch", 3, "h", "w"]),
        ((1, 3, "h", "w"), None, ["first"], ["n", 3, "h", "w"]),
        ((None, None, None, None), None, ["first"], ["n", 3, "h", "w"]),
    ],
)
def test_fixed_sizes_are_freed_where_the_layers_allow_it(
    tmp_path: Path,
    shape: tuple[int | str | None, ...],
    baked: int | None,
    layers: list[str],
    expected: list[int | str],
) -> None:
    backbone = load_backbone(str(write_onnx(tmp_path / "net.onnx", shape=shape, baked=baked)))
    trimmed = trim(backbone, layers)
    assert input_sizes(trimmed) == expected
    onnx.checker.check_model(trimmed, full_check=True)
    if expected[2] == "h":
        assert run(trimmed, image_of(20, 44))[0].shape[2:] == ((10, 22) if layers == ["first"] else (5, 11))


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_older_opsets_are_converted_and_give_the_same(tmp_path: Path, opset: int) -> None:
    path = write_onnx(
        tmp_path / "net.onnx", opset=opset, metadata={"mean": "0,0,0", "std": "1,1,1"}, tokens=True
    )
    backbone = load_backbone(str(path))
    assert backbone.model.opset_import[0].version == 18
    assert backbone.normalisation == "metadata"
    image = image_of(16, 12)
    for old, new in zip(run(onnx.load(path), image), run(backbone.model, image), strict=True):
        assert np.array_equal(old, new)


def test_weights_in_a_second_file(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "whole.onnx")
    split = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(whole), split, save_as_external_data=True, location="split.onnx.data", size_threshold=0
    )
    backbone = load_backbone(str(split))
    image = image_of(8, 8)
    assert np.array_equal(run(backbone.model, image)[0], run(onnx.load(whole), image)[0])
    info = backbones.add("split", split)
    assert np.array_equal(run(load_backbone("split").model, image)[0], run(backbone.model, image)[0])
    assert info.path is not None
    data = tmp_path / "split.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert load_backbone(str(split)).sha256 != backbone.sha256
    data.unlink()
    with pytest.raises(BackboneError, match=r"split\.onnx: not a usable ONNX file"):
        load_backbone(str(split))


@pytest.mark.real
def test_resnet50_keeps_its_numbers_through_conversion(shared: Path) -> None:
    path = shared / "weights" / "resnet50_he.onnx"
    backbone = load_backbone(str(path))
    assert backbone.mean == IMAGENET_MEAN
    assert backbone.normalisation == "metadata"
    assert backbone.source.startswith("resnet50_he.onnx: He et al. 2015")
    assert backbone.layers()[:3] == ["layer1", "layer2", "layer3"]
    assert onnx.load(path).opset_import[0].version == 17
    image = image_of(75, 53)
    original = run(onnx.load(path), image)
    trimmed = run(trim(backbone, ["layer3", "layer1"]), image)
    assert np.array_equal(original[2], trimmed[0])
    assert np.array_equal(original[0], trimmed[1])
    assert trimmed[0].shape[1] == 1024


# ---- files of parameters


def test_parameters_in_both_formats_give_the_same_network(tmp_path: Path, resnet18_file: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    state = {f"module.{name}": torch.from_numpy(value) for name, value in load_file(resnet18_file).items()}
    torch.save({"state_dict": state}, tmp_path / "net.pth")
    from_torch = load_backbone(str(tmp_path / "net.pth"))
    backbone = load_backbone(str(resnet18_file))
    assert from_torch.model == backbone.model
    assert backbone.architecture == "resnet18"
    assert backbone.layers()[:2] == ["layer1", "layer2"]
    assert backbone.normalisation == "ImageNet assumed"
    assert backbone.sha256 == sha256(resnet18_file.read_bytes()).hexdigest()
    assert run(trim(backbone, ["layer2"]), image_of(64, 48))[0].shape == (1, 128, 8, 6)


def safetensors_file(path: Path, dtype: str, shape: list[int], content: bytes) -> Path:
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


def test_bfloat16_is_read(tmp_path: Path) -> None:
    from goodparts.backbone_files import read_safetensors

    upper_halves = np.array([1.0, -2.5, 3e30], np.float32).view(np.uint32) >> 16
    path = safetensors_file(tmp_path / "a.safetensors", "BF16", [3], upper_halves.astype("<u2").tobytes())
    assert read_safetensors(path)["w"] == pytest.approx([1.0, -2.5, 3e30], rel=2**-7)


@pytest.mark.parametrize(
    ("dtype", "content", "message"),
    [
        ("F32", b"\0" * 8, r"holds neither a ResNet nor an EfficientNet-Lite \(w"),
        ("F8_E4M3", b"\0" * 2, r"parameter w is of type F8_E4M3; expected one of F64"),
        ("F32", b"\0" * 7, "can't be read as a safetensors file"),
    ],
)
def test_unfit_parameters(tmp_path: Path, dtype: str, content: bytes, message: str) -> None:
    path = safetensors_file(tmp_path / "a.safetensors", dtype, [2], content)
    with pytest.raises(BackboneError, match=rf"a\.safetensors.*{message}"):
        load_backbone(str(path))


def test_broken_network_is_told_with_its_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    state = small_resnet((2, 2))
    del state["layer1.1.bn2.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"a\.safetensors: parameter layer1\.1\.bn2\.bias is missing"):
        load_backbone(str(tmp_path / "a.safetensors"))


# ---- the built-in backbone and the store


def test_built_in_backbone() -> None:
    backbone = load_backbone("efficientnet_lite0", offline=True)
    assert backbone.layers()[:7] == [f"stage{number}" for number in range(1, 8)]
    assert backbone.mean == (127 / 255,) * 3
    assert backbone.std == (128 / 255,) * 3
    assert (backbone.licence, backbone.normalisation) == ("Apache-2.0", "published")
    assert backbone.sha256 == efficientnet.SHA256
    (maps,) = run(trim(backbone, ["stage3.block2.expand"]), image_of(33, 64))
    assert maps.shape == (1, 240, 5, 8)
    assert 0 <= maps.min() < maps.max() <= 6


def test_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "damaged.pth"
    content = efficientnet.package_file().read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(efficientnet, "package_file", lambda: damaged)
    with pytest.raises(BackboneError, match=r"damaged \(its hash differs\); pip install"):
        load_backbone("efficientnet_lite0")


def test_add_list_show_export_remove(tmp_path: Path, home: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", metadata={"licence": "MIT"}, tokens=True)
    info = backbones.add("my-vit_2", path, layers=["tokens"])
    assert (info.status, info.source, info.licence, info.size) == (
        "local",
        "net.onnx",
        "MIT",
        path.stat().st_size,
    )
    path.unlink()  # the store has its own copy
    listed = {info.name: info for info in backbones.list_backbones()}
    assert listed["my-vit_2"] == info
    assert listed["efficientnet_lite0"].status == "built in"
    assert listed["resnet50"].status == "to download"
    assert listed["resnet50"].path is None
    backbone = load_backbone("my-vit_2")
    assert (backbone.name, backbone.source, backbone.sha256) == ("my-vit_2", "net.onnx", info.sha256)
    assert backbone.layers()[0] == "tokens"
    assert backbones.show("my-vit_2") == {
        "tokens": (3136, 4),
        "second": (4, 56, 56),
        "first": (4, 112, 112),
        "flat": (4, 3136),
    }
    backbones.remove("my-vit_2")
    assert list(home.iterdir()) == []
    with pytest.raises(BackboneError, match="'my-vit_2' is not in the store; there is nothing"):
        backbones.remove("my-vit_2")
    with pytest.raises(BackboneError, match="unknown backbone 'my-vit_2'"):
        load_backbone("my-vit_2")


def test_adding_again_replaces(tmp_path: Path, home: Path, resnet18_file: Path) -> None:
    backbones.add("mine", resnet18_file)
    backbones.add("mine", write_onnx(tmp_path / "net.onnx"))
    assert load_backbone("mine").layers() == ["second", "first"]
    assert sorted(path.suffix for path in home.iterdir()) == [".json", ".onnx"]


def test_a_failed_replacement_leaves_the_old_one(
    tmp_path: Path, home: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbones.add("mine", resnet18_file)
    before = sorted(home.iterdir())
    whole = Path.replace

    def full_disk(self: Path, target: Path) -> Path:
        if self.name == "json":
            raise OSError(28, "No space left on device")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(BackboneError, match="No space left on device; make room, or set GOODPARTS_HOME"):
        backbones.add("mine", write_onnx(tmp_path / "net.onnx"))
    monkeypatch.setattr(Path, "replace", whole)
    assert sorted(home.iterdir()) == before
    assert load_backbone("mine").architecture == "resnet18"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite0", "is built in and can't be replaced"),
        ("no spaces", "expected letters, digits"),
        ("../up", "expected letters, digits"),
        ("net.onnx", "expected letters, digits"),
        ("", "expected letters, digits"),
        ("resnet50", r"eighteen\.safetensors: holds resnet18, not resnet50; add it as resnet18"),
    ],
)
def test_names_that_do_not_fit(home: Path, resnet18_file: Path, name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        backbones.add(name, resnet18_file)
    assert not home.exists()


def test_add_checks_the_layers_and_the_file(tmp_path: Path, home: Path) -> None:
    with pytest.raises(BackboneError, match="no layer 'third'"):
        backbones.add("mine", write_onnx(tmp_path / "net.onnx"), layers=["third"])
    (tmp_path / "page.safetensors").write_text("<html>", encoding="utf-8")
    with pytest.raises(BackboneError, match=r"page\.safetensors: can't be read as a safetensors file"):
        backbones.add("mine", tmp_path / "page.safetensors")
    with pytest.raises(BackboneError, match=r"gone\.pth: there is no such file"):
        backbones.add("mine", tmp_path / "gone.pth")
    assert not home.exists()


def test_a_file_fetched_elsewhere_is_recognised_by_its_hash(
    resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = backbones.add("resnet18", resnet18_file)
    assert (plain.source, plain.licence) == ("eighteen.safetensors", "unknown")
    assert load_backbone("resnet18").normalisation == "ImageNet assumed"
    digest = sha256(resnet18_file.read_bytes()).hexdigest()
    published = replace(backbone_store.PUBLISHED["resnet18"], sha256=digest)
    monkeypatch.setitem(backbone_store.PUBLISHED, "resnet18", published)
    known = backbones.add("resnet18", resnet18_file)
    assert (known.source, known.licence) == ("Hugging Face timm/resnet18.tv_in1k", "BSD-3-Clause")
    assert load_backbone("resnet18").normalisation == "published"


def test_damage_in_the_store_is_noticed(home: Path, resnet18_file: Path) -> None:
    info = backbones.add("resnet18", resnet18_file)
    assert info.path is not None
    content = bytearray(info.path.read_bytes())
    content[-1] ^= 1
    info.path.write_bytes(content)
    with pytest.raises(
        BackboneError, match=r"is damaged \(its hash differs\); `goodparts backbone remove resnet18`"
    ):
        load_backbone("resnet18")
    info.path.unlink()
    with pytest.raises(BackboneError, match="is missing"):
        load_backbone("resnet18")
    assert {info.name: info.status for info in backbones.list_backbones()}["resnet18"] == "damaged"
    backbones.remove("resnet18")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1}', '{"layers": 5}', "\x00"])
def test_damaged_descriptions(home: Path, resnet18_file: Path, content: str) -> None:
    backbones.add("mine", resnet18_file)
    (home / "mine.json").write_text(content, encoding="utf-8")
    with pytest.raises(BackboneError, match=r"mine\.json: damaged"):
        load_backbone("mine")


def test_descriptions_cannot_point_outside(tmp_path: Path, home: Path, resnet18_file: Path) -> None:
    backbones.add("mine", resnet18_file)
    fields = json.loads((home / "mine.json").read_text(encoding="utf-8"))
    fields["file"] = "../../precious.safetensors"
    (home / "mine.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(BackboneError, match="names another backbone or folder"):
        backbones.remove("mine")


def test_home_that_cannot_be_written(
    tmp_path: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "file"))
    with pytest.raises(BackboneError, match=r"can't be stored there.*set GOODPARTS_HOME"):
        backbones.add("mine", resnet18_file)


def test_default_home_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOODPARTS_HOME")
    assert backbone_store.store_folder().parts[-2:] == ("goodparts", "backbones")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_export_keeps_everything(tmp_path: Path, resnet18_file: Path, name: str) -> None:
    if name == "resnet18":
        backbones.add(name, resnet18_file)
    original = load_backbone(name)
    path = backbones.export(name, tmp_path / "exported.onnx")
    exported = load_backbone(str(path))
    assert exported.mean == pytest.approx(original.mean, abs=1e-15)
    assert exported.std == pytest.approx(original.std, abs=1e-15)
    assert exported.licence == original.licence
    assert exported.architecture == original.architecture == name
    assert exported.layers() == original.layers()
    layer = original.layers()[1]
    image = image_of(40, 40)
    assert np.array_equal(run(trim(exported, [layer]), image)[0], run(trim(original, [layer]), image)[0])
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["exported.onnx"]


def test_export_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected a name that ends in \.onnx"):
        backbones.export("efficientnet_lite0", tmp_path / "net.txt")
    with pytest.raises(OutputError, match="can't be written"):
        backbones.export("efficientnet_lite0", tmp_path / "no" / "net.onnx")


# ---- downloads


@dataclass
class Hub:
    """A server that speaks as much of the hub's protocol as a download asks for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    breaks_off: bool = False


@pytest.fixture
def hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            state.requests.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = state.files.get(repository)
            if content is None or rest not in ("main/model.safetensors", f"{COMMIT}/model.safetensors"):
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.breaks_off and body and state.requests.count(f"GET {self.path}") > 1:
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            etag = state.etags.get(repository, sha256(content).hexdigest())
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if state.breaks_off else content)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from goodparts import backbone_store, backbones
from goodparts.errors import BackboneError
from dataclasses import replace
name, pin = sys.argv[1:3]
if pin:
    backbone_store.PUBLISHED[name] = replace(backbone_store.PUBLISHED[name], sha256=pin)
try:
    found = backbones.load_backbone(name, offline="offline" in sys.argv)
    keys = ("name", "source", "licence", "sha256", "normalisation")
    print(json.dumps([*(getattr(found, key) for key in keys), found.layers()[0]]))
except BackboneError as error:
    print(json.dumps(str(error)))
"""


def load_in_new_process(
    name: str, endpoint: str, *options: str, pin: str = "", offline: bool = False, quiet: bool = True
) -> Any:
    """What `load_backbone` gives where the hub is at `endpoint`, which its library reads when imported."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(backbones.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, pin, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not quiet or done.stderr == "", "progress bars and warnings where nobody looks"
    return json.loads(done.stdout)


def test_download_once(hub: Hub, home: Path, resnet34_file: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = resnet34_file.read_bytes()
    digest = sha256(resnet34_file.read_bytes()).hexdigest()
    source = f"Hugging Face timm/resnet34.tv_in1k, revision {COMMIT}"
    expected = ["resnet34", source, "BSD-3-Clause", digest, "published", "layer1"]
    assert load_in_new_process("resnet34", hub.url) == expected
    assert {request.split()[1] for request in hub.requests} <= {
        "/timm/resnet34.tv_in1k/resolve/main/model.safetensors",
        f"/timm/resnet34.tv_in1k/resolve/{COMMIT}/model.safetensors",
    }
    assert sorted(path.suffix for path in home.iterdir()) == [".json", ".safetensors"]
    hub.requests.clear()
    backbone = load_backbone("resnet34", offline=True)
    assert [backbone.name, backbone.source, backbone.licence] == expected[:3]
    assert backbones.pull("resnet34").status == "local"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "served_for", "etag", "pin", "message"),
    [
        ("resnet34", "resnet34", "f" * 64, "", "is not the file that was published: SHA-256"),
        ("resnet18", "resnet18", "", "", "is not the file that was published: SHA-256"),
        ("resnet101", "resnet101", "", "", r"timm/resnet101\.tv_in1k holds resnet34 instead"),
        (
            "resnet50",
            "",
            "",
            "",
            r"could not be downloaded from http://127.*resolve/main.*backbone add resnet50 FILE",
        ),
    ],
)
def test_wrong_downloads_leave_nothing_behind(
    hub: Hub, home: Path, resnet34_file: Path, name: str, served_for: str, etag: str, pin: str, message: str
) -> None:
    if served_for:
        hub.files[f"timm/{served_for}.tv_in1k"] = resnet34_file.read_bytes()
    if etag:
        hub.etags[f"timm/{served_for}.tv_in1k"] = etag
    found = load_in_new_process(name, hub.url, pin=pin)
    assert isinstance(found, str)
    with pytest.raises(BackboneError, match=message):
        raise BackboneError(found)
    assert list(home.iterdir()) == []


def test_page_instead_of_a_model(hub: Hub, home: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = b"<html>please sign in</html>" * 9
    found = load_in_new_process("resnet34", hub.url)
    assert "model.safetensors: can't be read as a safetensors file" in found
    assert list(home.iterdir()) == []


def test_broken_off_download(hub: Hub, home: Path, resnet34_file: Path) -> None:
    hub.files["timm/resnet34.tv_in1k"] = resnet34_file.read_bytes()
    hub.breaks_off = True
    found = load_in_new_process("resnet34", hub.url, quiet=False)
    assert "resnet34 could not be downloaded" in found
    assert "https://huggingface.co/timm/resnet34.tv_in1k/resolve/main/model.safetensors" in found
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("way", ["argument", "variable", "no server"])
def test_without_a_network(home: Path, way: str) -> None:
    options = ["offline"] if way == "argument" else []
    found = load_in_new_process("resnet50", "http://127.0.0.1:9", *options, offline=way == "variable")
    reason = (
        "could not be downloaded" if way == "no server" else "is not on this machine, and downloads are off"
    )
    assert reason in found
    assert "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors" in found
    assert "`goodparts backbone add resnet50 FILE`" in found
    assert "efficientnet_lite0, which needs no download" in found
    assert list(home.iterdir()) == []


def test_the_hubs_own_cache_is_used(tmp_path: Path, resnet34_file: Path) -> None:
    repository = tmp_path / "hub" / "hub" / "models--timm--resnet34.tv_in1k"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.copyfile(resnet34_file, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    found = load_in_new_process("resnet34", "http://127.0.0.1:9", offline=True)
    assert found[1] == f"Hugging Face timm/resnet34.tv_in1k, revision {COMMIT}"
    assert (snapshot / "model.safetensors").is_file()


def test_reading_does_not_need_the_store(resnet18_file: Path, home: Path) -> None:
    assert isinstance(read_backbone(resnet18_file), Backbone)
    assert not home.exists()
