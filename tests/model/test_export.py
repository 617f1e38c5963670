"""Exported files: in ONNX Runtime and OpenVINO they give what `inspect` gives."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspector, Recipe, read_dataset
from goodparts import __version__ as goodparts_version
from goodparts.cli import cli
from goodparts.data.images import read_image
from goodparts.errors import ModelError, OutputError
from goodparts.model import export as export_module
from goodparts.preprocessing import framing

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
Outputs = dict[str, NDArray[np.float32]]
OUTPUTS = ["score", "anomaly_map", "distance_grid"]


def in_onnxruntime(path: Path) -> Callable[..., Outputs]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda **inputs: dict(zip(OUTPUTS, session.run(OUTPUTS, inputs), strict=True))


def in_openvino(path: Path) -> Callable[..., Outputs]:
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(**inputs: NDArray[Any]) -> Outputs:
        found = compiled(inputs)
        return {name: found[name].copy() for name in OUTPUTS}

    return run


def inputs_of(inspector: Inspector, images: list[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    """What an integrator feeds."""
    frames = [framing.frame_of(image.shape[:2], inspector.recipe) for image in images]
    working = [framing.apply(frame, image) for frame, image in zip(frames, images, strict=True)]
    inputs: dict[str, NDArray[Any]] = {"image": np.stack(working)}
    if inspector.recipe.framing == "letterbox":
        cells = [framing.patch_mask(frame, inspector.model.grid) for frame in frames]
        inputs["valid"] = np.stack(cells).astype(np.float32)
    return inputs


def runs_of(inspector: Inspector, folder: Path, precision: str = "f32") -> Iterator[Callable[..., Outputs]]:
    """The exported files, loaded: ONNX in both runtimes, and OpenVINO's own."""
    written = inspector.export(folder / "part.onnx", precision=precision)
    yield in_onnxruntime(written)
    yield in_openvino(written)
    yield in_openvino(inspector.export(folder / "part.xml", format="openvino", precision=precision))


def assert_agrees(inspector: Inspector, images: list[NDArray[np.uint8]], folder: Path) -> None:
    """One by one and all at once, scores and grids are those of `inspect`."""
    expected = [inspector.inspect(image) for image in images]
    scores = [found.score for found in expected]
    grids = np.stack([found.distance_grid for found in expected])
    assert np.ptp(scores) > 0.01 * max(scores), "images that tell right from wrong"
    inputs = inputs_of(inspector, images)
    for run in runs_of(inspector, folder):
        together = run(**inputs)
        alone = [run(**{name: value[[i]] for name, value in inputs.items()}) for i in range(len(images))]
        joined = {name: np.concatenate([found[name] for found in alone]) for name in OUTPUTS}
        for found in (together, joined):
            assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
            assert found["anomaly_map"].shape == (len(images), *inspector.recipe.image_size)
            np.testing.assert_allclose(found["score"], scores, rtol=1e-3)
            np.testing.assert_allclose(found["distance_grid"], grids, rtol=1e-3, atol=1e-3 * np.nanmax(grids))


@pytest.fixture(scope="module")
def images(mini_dataset: Path) -> list[NDArray[np.uint8]]:
    """Eight: good and bad ones, colour and grey, of several sizes."""
    samples = read_dataset(mini_dataset).test
    whole = [read_image(sample.path) for sample in (*samples[:2], *samples[-4:])]
    grey = read_image(np.asarray(Image.fromarray(whole[-1]).convert("L")))
    wide = read_image(np.asarray(Image.fromarray(whole[-2]).resize((170, 60))))
    return [*whole, grey, wide]


@pytest.fixture(scope="module")
def plain(mini_backbone: Path) -> Recipe:
    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        layer_weights=(),
        image_size=64,
        sampling_ratio=0.1,
        precision="f32",
    )


@pytest.fixture(scope="module")
def exportable(plain: Recipe, mini_dataset: Path) -> Inspector:
    """Read only."""
    return Inspector(plain).fit(mini_dataset)


@pytest.mark.parametrize("image_score", ["max", "reweighted", "top_mean"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"image_size": "96x64", "smoothing_sigma": 0},
        {"framing": "letterbox", "image_size": "80x64", "top_share": 0.1},
        {"framing": "crop", "resize_size": 80, "layer_fusion": "adaptive", "pooled_dimensions": 24},
        {
            "layers": "layer1,layer2",
            "sampling_ratio": 0.4,
            "search_dimensions": 8,
        },  # as many principal dimensions as the bank needs
        {"position_window": 10, "sampling_ratio": 0.3},
        {"position_window": 10, "framing": "letterbox", "image_size": "80x64"},
    ],
    ids=str,
)
def test_runtimes_agree_with_inspect(
    plain: Recipe,
    keys: dict[str, Any],
    image_score: str,
    mini_dataset: Path,
    images: list[NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    recipe = plain.replace({**keys, "image_score": image_score})
    assert_agrees(Inspector(recipe).fit(mini_dataset), images, tmp_path)


@pytest.mark.parametrize("image_size", ["96x96", "128x64"])
def test_the_built_in_backbone_agrees(
    image_size: str, mini_dataset: Path, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    recipe = Recipe(image_size=image_size, sampling_ratio=0.1, precision="f32")
    assert_agrees(Inspector(recipe).fit(mini_dataset), images, tmp_path)


def test_grey_parts_agree(plain: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    grey = [
        np.asarray(Image.open(path).convert("L"))
        for path in sorted((mini_dataset / "train" / "good").iterdir())
    ]
    bad = [
        read_image(np.asarray(Image.open(sample.path).convert("L")))
        for sample in read_dataset(mini_dataset).test
    ]
    assert_agrees(Inspector(plain).fit(grey), bad[-8:], tmp_path)


def test_the_map_is_that_of_inspect(
    exportable: Inspector, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    working = inputs_of(exportable, images)[
        "image"
    ]  # inspected at the working size, both maps are of one size
    expected = np.stack([exportable.inspect(pixels).anomaly_map for pixels in working])
    for run in runs_of(exportable, tmp_path):
        np.testing.assert_allclose(run(image=working)["anomaly_map"], expected, rtol=1e-3, atol=1e-3)


def test_a_letterboxed_map_is_that_of_inspect(plain: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    recipe = plain.replace({"framing": "letterbox", "image_size": "160x64", "smoothing_sigma": 2})
    inspector = Inspector(recipe).fit(mini_dataset)
    image = read_image(read_dataset(mini_dataset).test[-1].path)
    image = np.asarray(Image.fromarray(image).resize((64, 64)))  # fits without a change
    expected = inspector.inspect(image).anomaly_map
    for run in runs_of(inspector, tmp_path):
        found = run(**inputs_of(inspector, [image]))
        np.testing.assert_allclose(found["anomaly_map"][0, :, 48:112], expected, rtol=1e-3, atol=1e-3)
        assert np.isnan(found["anomaly_map"][0, :, :32]).all(), "never shown as good"
        assert np.isnan(found["distance_grid"][0, :, :6]).all()
        assert np.isfinite(found["distance_grid"][0, :, 6:14]).all()


def test_half_precision_is_half_the_size(
    exportable: Inspector, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    whole = exportable.export(tmp_path / "whole.onnx").stat().st_size
    scores = [exportable.inspect(image).score for image in images]
    for run in runs_of(exportable, tmp_path, "f16"):
        found = run(**inputs_of(exportable, images))["score"]
        np.testing.assert_allclose(found, scores, rtol=1e-2)
        assert not np.allclose(found, scores, rtol=1e-6)
    assert (tmp_path / "part.onnx").stat().st_size < 0.7 * whole
    exportable.export(tmp_path / "whole.xml", format="openvino")
    sizes = [(tmp_path / name).stat().st_size for name in ("part.bin", "whole.bin")]
    assert sizes[0] < 0.7 * sizes[1]


def test_numbers_too_large_for_half_precision_stay_as_they_are(exportable: Inspector) -> None:
    network = export_module.exported(exportable.model, "f16")
    halves = [item.name for item in network.graph.initializer if item.data_type == onnx.TensorProto.FLOAT16]
    assert "bank:f16" in halves
    assert "backbone/layer2.weight:f16" in halves
    assert not any(name.startswith(("map/", "search_offset", "bank_mean")) for name in halves)


# ---- the file itself -----------------------------------------------------------------------------


def test_interface_and_metadata(exportable: Inspector, tmp_path: Path) -> None:
    network = onnx.load(exportable.export(tmp_path / "part.onnx"))
    onnx.checker.check_model(network, full_check=True)
    assert [item.version for item in network.opset_import] == [19]

    def shape(item: onnx.ValueInfoProto) -> list[str | int]:
        return [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]

    assert {item.name: shape(item) for item in network.graph.input} == {"image": ["n", 64, 64, 3]}
    assert {item.name: shape(item) for item in network.graph.output} == {
        "score": ["n"],
        "anomaly_map": ["n", 64, 64],
        "distance_grid": ["n", 8, 8],
    }
    about = {item.key: item.value for item in network.metadata_props}
    calibration = exportable.model.calibration
    assert float(about["threshold"]) == calibration.threshold
    assert float(about["pixel_threshold"]) == calibration.pixel_threshold
    assert Recipe.from_toml(about["recipe"]).product == exportable.recipe.product
    assert about["model"] == exportable.model.identity
    assert (about["image_size"], about["framing"], about["color"]) == ("64x64", "stretch", "RGB")
    assert (about["threshold_rule"], about["minimum_area"]) == ("robust_sigma", "16")
    assert about["backbone_source"].endswith("random weights, for tests")
    assert about["goodparts"] == goodparts_version
    exportable.export(tmp_path / "part.xml", format="openvino")
    model = openvino.Core().read_model(tmp_path / "part.xml")
    assert {key: model.get_rt_info(["goodparts", key]).value for key in about} == about
    documented = set(re.findall(r"`(\w+)`", DOCUMENT.split("## Metadata")[1].split("## From")[0]))
    assert set(about) <= documented


def test_the_same_model_gives_the_same_file(exportable: Inspector, tmp_path: Path) -> None:
    files = [exportable.export(tmp_path / f"{i}.onnx").read_bytes() for i in range(2)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("part.xml", {}, r"part\.xml: expected .* ending in \.onnx for format onnx, or take format openvino"),
        ("part.onnx", {"format": "openvino"}, r"ending in \.xml for format openvino, or take format onnx"),
        ("part", {}, r"ending in \.onnx"),
        ("part.onnx", {"format": "tflite"}, "format: expected one of onnx, openvino, found 'tflite'"),
        ("part.onnx", {"precision": "int8"}, "precision: expected one of f32, f16, found 'int8'"),
        ("file/part.onnx", {}, "can't be written"),
        ("file/part.xml", {"format": "openvino"}, "can't be written"),
        ("folder.onnx", {}, "can't be written"),
    ],
)
def test_what_can_not_be_written(
    exportable: Inspector, tmp_path: Path, name: str, options: dict[str, str], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match=message):
        exportable.export(tmp_path / name, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_a_failed_export_leaves_the_old_pair(
    exportable: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("part.xml", "part.bin"):
        (tmp_path / name).write_text("old")

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(OutputError, match=r"part\.xml.*disk full"):
        exportable.export(tmp_path / "part.xml", format="openvino")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "part.xml": "old",
        "part.bin": "old",
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", [*range(2), *(f"replace {n}" for n in range(3))])
def test_an_export_that_stops_anywhere_leaves_the_old_pair(
    exportable: Inspector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    call: int | str,
) -> None:
    exportable.export(tmp_path / "part.xml", format="openvino")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            calls.append(name)
            number = calls.count(name) - 1
            if call in (f"{name} {number}", number if name == "fsync" else None):
                raise error
            return real(*arguments)

        return called

    monkeypatch.setattr(os, "fsync", failing("fsync", os.fsync))
    monkeypatch.setattr(Path, "replace", failing("replace", Path.replace))
    with pytest.raises(OutputError if error is OSError else error):
        exportable.export(tmp_path / "part.xml", format="openvino", precision="f16")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_too_large_for_one_file(
    exportable: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_LARGEST", 10_000)
    with pytest.raises(OutputError, match="sampling_ratio"):
        exportable.export(tmp_path / "part.onnx")


def test_without_a_threshold(plain: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    inspector = Inspector(plain.replace({"threshold_rule": "f1"})).fit(mini_dataset)
    with pytest.raises(ModelError, match="oracle"):
        inspector.export(tmp_path / "part.onnx")
    assert not list(tmp_path.iterdir())


def run_command(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments], standalone_mode=False) or 0


def test_the_command(exportable: Inspector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = exportable.save(tmp_path / "part.goodparts")
    assert run_command("export", model, "--format", "openvino", "--out", tmp_path / "a.xml", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["files"]) == [str(tmp_path / "a.xml"), str(tmp_path / "a.bin")]
    assert record["threshold"] == exportable.model.calibration.threshold
    assert run_command("export", model) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'part.onnx'} (" in printed
    assert "(n, 64, 64, 3) RGB" in printed
    assert (tmp_path / "part.onnx").is_file()


# ---- what the documentation says -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stretch", "letterbox", "crop"])
def test_the_example_says_what_inspect_says(
    kind: str, plain: Recipe, mini_dataset: Path, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    recipe = plain.replace({"framing": kind, "image_size": "80x64", "resize_size": 90})
    inspector = Inspector(recipe).fit(mini_dataset)
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    grey = Image.fromarray(np.asarray(Image.fromarray(images[-1]).convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "deep.png")
    Image.fromarray(images[-1]).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(images[-1]).convert("RGBA").save(tmp_path / "alpha.png")
    paths += [tmp_path / name for name in ("deep.png", "turned.png", "alpha.png")]
    exported = inspector.export(tmp_path / "part.onnx")
    command = [sys.executable, str(ROOT / "examples" / "inspect_onnx.py"), str(exported), *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, path in zip(lines, paths, strict=True):
        verdict, multiple, name = line.split(maxsplit=2)
        found = inspector.inspect(path)
        assert (verdict, name) == (found.verdict, str(path))
        assert float(multiple) == pytest.approx(found.score / found.threshold, abs=2e-3)


def vector() -> NDArray[np.uint8]:
    y, x, c = np.mgrid[:64, :96, :3]
    return ((x * (3 + c) + y * 5 + (x * y) % 31 * 4) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("stretch to 32x32", {"image_size": "32x32"}),
        ("stretch to 90x24", {"image_size": "90x24"}),
        ("letterbox to 32x32, padding 124,116,104", {"image_size": "32x32", "framing": "letterbox"}),
        ("crop to 32x32, resize_size 40", {"image_size": "32x32", "framing": "crop", "resize_size": 40}),
    ],
)
def test_vector_of_the_documentation(words: str, keys: dict[str, Any]) -> None:
    documented = dict(re.findall(r"\| ([^|]+) \| `([0-9a-f]{64})` \|", DOCUMENT))
    assert hashlib.sha256(vector().tobytes()).hexdigest() == documented["the image itself"]
    working = framing.apply(framing.frame_of((64, 96), Recipe(**keys)), vector())
    assert hashlib.sha256(np.ascontiguousarray(working).tobytes()).hexdigest() == documented[words]


def test_resizing_is_what_the_documentation_says() -> None:
    (code,) = re.findall(r"```python\n(def resize.*?)```", DOCUMENT, flags=re.DOTALL)
    names: dict[str, Any] = {"np": np}
    exec(code, names)
    rng = np.random.default_rng(3)
    for _ in range(30):
        height, width, *size = (int(side) for side in rng.integers(16, 120, 4))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        recipe = Recipe(image_size=(size[0], size[1]))
        working = framing.apply(framing.frame_of((height, width), recipe), image)
        np.testing.assert_array_equal(working, names["resize"](image, size))


@pytest.mark.real
def test_real_images_agree(shared: Path, tmp_path: Path) -> None:
    nuts = shared / "mvtec_ad" / "metal_nut"
    recipe = Recipe(
        precision="f32",
        backbone=str(shared / "weights" / "resnet50_he.onnx"),
        layers=("layer2", "layer3"),
        layer_weights=(),
        image_size="224x160",
    )
    good = sorted((nuts / "train" / "good").iterdir())[:20]
    images = [read_image(sample.path) for sample in read_dataset(nuts).test[::15][:8]]
    assert_agrees(Inspector(recipe).fit(good), images, tmp_path)


# ---- regions of interest -------------------------------------------------------------------------

ZONES = {
    "size": [96, 96],
    "zones": [
        {"name": "left", "polygons": [[[4, 8], [48, 8], [48, 88], [4, 88]]]},
        {"name": "right", "polygons": [[[40, 20], [92, 20], [92, 88], [40, 88]]]},
    ],
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"image_score": "top_mean", "top_share": 0.1},
        {"framing": "letterbox", "image_size": "80x64"},
        {"framing": "crop", "resize_size": 80},
        {"image_score": "reweighted"},
    ],
    ids=str,
)
def test_a_region_of_interest_is_inside(
    plain: Recipe,
    keys: dict[str, Any],
    count: int,
    mini_dataset: Path,
    images: list[NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    if count == 2 and keys.get("image_score") == "reweighted":
        pytest.skip("refused: see test_roi.py")
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES | {"zones": ZONES["zones"][:count]}), encoding="utf-8")  # type: ignore[index]
    inspector = Inspector(plain.replace({**keys, "roi": str(path)})).fit(mini_dataset)
    square = images[:-1]
    expected = [inspector.inspect(image) for image in square]
    frames = [framing.frame_of(image.shape[:2], inspector.recipe) for image in square]
    working = np.stack([framing.apply(frame, image) for frame, image in zip(frames, square, strict=True)])
    written = [
        inspector.export(tmp_path / name, precision=p) for name, p in (("a.onnx", "f32"), ("b.onnx", "f16"))
    ]
    written.append(inspector.export(tmp_path / "c.xml", format="openvino"))
    for file, tolerance in zip(written, (1e-3, 1e-2, 1e-3), strict=True):
        if file.suffix == ".onnx":
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            assert [item.name for item in session.get_inputs()] == ["image"]
            names = [item.name for item in session.get_outputs()]
            found = dict(zip(names, session.run(names, {"image": working}), strict=True))
        else:
            compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            found = {port.get_any_name(): value for port, value in compiled({"image": working}).items()}
        assert set(found) == {*OUTPUTS, *(["zone_scores"] if count == 2 else [])}
        np.testing.assert_allclose(found["score"], [one.score for one in expected], rtol=tolerance)
        grids = np.stack([one.distance_grid for one in expected])
        np.testing.assert_array_equal(np.isnan(found["distance_grid"]), np.isnan(grids))
        if count == 2:
            zones = [[zone.score for zone in one.zones] for one in expected]
            np.testing.assert_allclose(found["zone_scores"], zones, rtol=tolerance)
        for frame, shown, one in zip(frames, found["anomaly_map"], expected, strict=True):
            seen = ~np.isnan(one.anomaly_map)
            assert 0 < (~np.isnan(shown)).mean() < 1
            if keys.get("framing") != "crop":
                inside = framing.without_padding(frame, shown[..., None])[..., 0]
                assert abs((~np.isnan(inside)).mean() - seen.mean()) < 0.02
            assert np.nanmax(shown) == pytest.approx(np.nanmax(one.anomaly_map), rel=0.05)


def test_zones_in_the_metadata(plain: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(ZONES), encoding="utf-8")
    inspector = Inspector(plain.replace({"roi": str(path)})).fit(mini_dataset)
    about = export_module.metadata(inspector.model)
    assert about["threshold"] == about["pixel_threshold"] == "1.0"
    assert about["roi_size"] == "96x96"
    decision = inspector.model.calibration.decision
    assert json.loads(about["zones"]) == [
        {"name": zone.name, "threshold": zone.threshold, "pixel_threshold": zone.pixel_threshold}
        for zone in decision.zones
    ]
