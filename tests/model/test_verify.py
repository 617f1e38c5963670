"""`verify`: engines, precisions and exported files are held against each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from running import Run
from test_golden import recipe_of, write_roi_files

from goodparts import Inspector
from goodparts.errors import ModelError
from goodparts.model.verify import own_images, verify


def images_of(data: Path) -> list[Path]:
    return [data / "test" / name for name in ("good/000.png", "stain/000.png", "scratch/001.png")]


def test_all_that_is_here_agrees(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    written = fitted.export(tmp_path / "part.onnx")
    rows = verify(fitted.model, images_of(mini_dataset), fitted.read, exported=written)
    names = [row.computed_by for row in rows]
    assert {
        "openvino on cpu in f32",
        "onnxruntime on cpu in f32",
        "torch on cpu in f32",
        "part.onnx in plain onnxruntime on cpu",
        "part.onnx in plain openvino on cpu",
    } <= set(names)
    assert len(set(names)) == len(names)
    assert [row for row in rows if not row.agrees or row.changed] == []
    assert all(row.score_difference < 1e-5 for row in rows if row.computed_by.endswith("f32"))


@pytest.mark.parametrize("name", ["tiles", "tile_bank", "letterbox", "zones", "depths, letterbox"])
def test_exported_files_of_every_kind(
    name: str, mini_backbone: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(name, mini_backbone, write_roi_files(tmp_path))
    if name.startswith("tile"):
        recipe = recipe.replace({"roi": ""})
    inspector = Inspector(recipe).fit(mini_dataset)
    written = inspector.export(tmp_path / "part.xml", format="openvino")
    rows = verify(inspector.model, images_of(mini_dataset), inspector.read, exported=written, engines=False)
    assert [row.computed_by for row in rows[1:]] == ["part.xml in plain openvino on cpu"]
    assert [row for row in rows if not row.agrees or row.changed] == []


def test_half_precision_is_allowed_more(fitted: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    written = fitted.export(tmp_path / "half.onnx", precision="f16")
    rows = verify(fitted.model, images_of(mini_dataset), fitted.read, exported=written, engines=False)
    for row in rows[1:]:
        assert row.computed_by.endswith(", stored in f16")
        assert 1e-6 < row.score_difference <= row.tolerance == 0.01


def spoilt(path: Path) -> Path:
    """The file with distances half as large as they are."""
    model = onnx.load(path)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name in ("score", "distance_grid"):
                node.output[index] = f"{name}:whole"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    for name in ("score", "distance_grid"):
        model.graph.node.append(helper.make_node("Mul", [f"{name}:whole", "half"], [name]))
        for node in list(model.graph.node)[:-1]:
            node.input[:] = [f"{name}:whole" if given == name else given for given in node.input]
    order = sorted(model.graph.node, key=lambda node: node.output[0] == "anomaly_map")
    del model.graph.node[:]
    model.graph.node.extend(order)
    onnx.save(model, path)
    return path


def test_a_file_that_scores_otherwise_is_told(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    written = spoilt(Inspector.load(fitted_file).export(tmp_path / "part.onnx"))
    images = images_of(mini_dataset)
    ran = goodparts("verify", fitted_file, written, *images)
    assert ran.code == 1
    beyond = [line for line in ran.out.splitlines() if line.endswith("BEYOND")]
    assert len(beyond) == 2
    assert all("0.5" in line for line in beyond)

    records = goodparts("verify", fitted_file, written, *images, "--json").records
    assert [record["agrees"] for record in records[-2:]] == [False, False]
    assert all(record["agrees"] for record in records[:-2])
    assert records[0]["images"] == 3


def test_engines_alone(goodparts: Run, fitted_file: Path, mini_dataset: Path) -> None:
    ran = goodparts("verify", fitted_file, mini_dataset / "test" / "stain")
    assert ran.code == 0
    assert "torch on cpu in f32" in ran.out
    assert "3 images; largest differences from openvino on cpu in f32" in ran.out
    assert goodparts("verify", fitted_file, mini_dataset / "test" / "stain", "--tolerance", "1e-12").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["part.onnx"], "no images to run it on"),
        (["missing.onnx", "IMAGE"], "no such exported file"),
        (["other.onnx", "IMAGE"], "says nothing of a model"),
    ],
)
def test_what_can_not_be_verified(
    arguments: list[str],
    message: str,
    goodparts: Run,
    fitted_file: Path,
    mini_backbone: Path,
    mini_dataset: Path,
) -> None:
    shutil.copy(mini_backbone, "other.onnx")
    image = mini_dataset / "test" / "good" / "000.png"
    given = [image if argument == "IMAGE" else argument for argument in arguments]
    ran = goodparts("verify", fitted_file, *given)
    assert ran.code == 2
    assert message in ran.err


def test_a_file_of_another_model_is_refused(
    fitted: Inspector, recipe: object, mini_dataset: Path, tmp_path: Path
) -> None:
    written = fitted.export(tmp_path / "part.onnx")
    model = onnx.load(written)
    for item in model.metadata_props:
        if item.key == "model":
            item.value = "0" * 64
    onnx.save(model, written)
    with pytest.raises(ModelError, match="exported from another model"):
        verify(fitted.model, images_of(mini_dataset), fitted.read, exported=written)


def test_export_tries_its_file_on_good_images(
    goodparts: Run, model: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    assert 1 < len(own_images(Inspector.load(model).model)) <= 4
    ran = goodparts("export", model, "--out", "part.onnx")
    assert ran.code == 0
    assert "verify part.onnx in plain onnxruntime on cpu: scores within" in ran.out
    assert "verdicts the same" in ran.out
    (record,) = goodparts(
        "export", model, "--out", "part.onnx", "--json", "--verify-on", mini_dataset / "test"
    ).records
    assert [row["agrees"] for row in record["verified"]] == [True, True, True]


def test_export_says_where_it_could_not_try_it(goodparts: Run, recipe_file: Path, good: Path) -> None:
    assert goodparts("fit", good, "--recipe", recipe_file, "--model", "part.goodparts").code == 0
    shutil.rmtree(good)
    ran = goodparts("export", "part.goodparts")
    assert ran.code == 0
    assert (
        "verify not tried: what it was learnt from is not there; goodparts verify MODEL part.onnx" in ran.out
    )
