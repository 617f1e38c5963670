"""Backbones by name, and from ONNX files: what is in them, and the part that the layers need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_networks import image_of, run, write_onnx

from goodparts.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, is_path, trim
from goodparts.backbones.catalogue import load_backbone
from goodparts.errors import BackboneError

pytestmark = pytest.mark.usefixtures("home")


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
    assert load_backbone("efficientnet_lite0").source.startswith("PyPI package")
    with pytest.raises(BackboneError, match=r"efficientnet_lite0: expected a file that ends in"):
        load_backbone("./efficientnet_lite0")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(
        BackboneError, match=r"'resnet5'; did you mean resnet50.*Known are efficientnet_lite0, .*resnet18"
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


def test_weights_in_a_second_file_are_refused(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "whole.onnx")
    split = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(whole), split, save_as_external_data=True, location="split.onnx.data", size_threshold=0
    )
    with pytest.raises(
        BackboneError,
        match=r"split\.onnx: not a usable ONNX file: keeps tensor .* \(in 'split\.onnx\.data'\).*save it in one piece",
    ):
        load_backbone(str(split))
    onnx.save(onnx.load(split), split)  # what the message says
    assert load_backbone(str(split)).layers() == load_backbone(str(whole)).layers()


def test_a_tensor_of_a_constant_shape_is_not_enormous(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    sizes = onnx.numpy_helper.from_array(np.array([200_000, 200_000]), "long")
    model.graph.initializer.append(sizes)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["long"], ["large"]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BackboneError, match=r"net\.onnx: tensor 'large' would have 4e\+10 values"):
        load_backbone(str(tmp_path / "net.onnx"))


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
