"""The command line: what each command does, its exit codes and its JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Run, below

from goodparts import Dataset, Inspector
from goodparts.evaluation import evaluation

BUILT_IN = "efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("home")


def test_run_then_inspect_and_evaluate(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results"
    checked: list[Dataset] = []
    check = evaluation.check_mask_sizes
    monkeypatch.setattr(evaluation, "check_mask_sizes", lambda data: checked.append(data) or check(data))
    ran = goodparts("run", mini_dataset, "--out", out, "--recipe", recipe_file)
    assert ran.code == 0, ran.err
    assert len(checked) == 1  # before it learns
    assert "layers layer2, layer3" in ran.out
    assert "16 good images" in ran.out
    assert str(out / "report.html") in ran.out
    assert {"report.html", "metrics.json", "scores.csv", "results.zip", "mini.goodparts"} <= set(below(out))
    model = out / "mini.goodparts"
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    again = goodparts("evaluate", model, mini_dataset, "--json")
    assert again.code == 0
    (record,) = again.records
    assert {name: record[name] for name in metrics if name in record and name != "name"} == {
        name: value for name, value in metrics.items() if name in record and name != "name"
    }
    assert record["image_auroc"] == 1.0
    assert record["identity"] == Inspector.load(model).model.identity


def test_fit_gives_what_the_library_gives(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, fitted_file: Path, tmp_path: Path
) -> None:
    ran = goodparts("fit", mini_dataset, "--recipe", recipe_file, "--model", tmp_path / "a", "--json")
    assert ran.code == 0
    (record,) = ran.records
    assert record["model"] == str(tmp_path / "a.goodparts")
    assert record["identity"] == Inspector.load(fitted_file).model.identity
    assert record["good_images"] == 16


def test_fit_names_the_model_after_the_folder(goodparts: Run, recipe_file: Path, good: Path) -> None:
    ran = goodparts("fit", good, "--recipe", recipe_file, "--robust", "--seed", "3")
    assert ran.code == 0
    assert Path("good.goodparts").is_file()
    assert Inspector.load("good.goodparts").recipe.seed == 3


def test_fit_with_separate_good_images(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    good = mini_dataset / "test" / "good"
    path = tmp_path / "a.goodparts"
    assert (
        goodparts("fit", mini_dataset, "--recipe", recipe_file, "--calibrate-on", good, "--model", path).code
        == 0
    )
    (record,) = goodparts("card", path, "--json").records
    assert record["certified"] is True
    assert record["scores"] == 6


@pytest.mark.parametrize(
    ("folders", "code"), [(["good"], 0), (["good", "stain"], 1), (["scratch"], 1)], ids=str
)
def test_the_exit_code_says_whether_a_part_is_bad(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, folders: list[str], code: int
) -> None:
    ran = goodparts("inspect", fitted_file, *(mini_dataset / "test" / name for name in folders))
    assert ran.code == code
    lines = ran.out.splitlines()
    assert len(lines) == sum(6 if name == "good" else 3 for name in folders)
    assert sum(line.startswith("BAD") for line in lines) == sum(3 for name in folders if name != "good")
    bad = sum(3 for name in folders if name != "good")
    found = f"{len(lines)} inspected, {f'{bad} BAD' if bad else 'all GOOD'}"
    assert ran.err.startswith(f"{found}; computed by openvino on cpu in ")


def test_inspect_in_json_and_pictures(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "inspected"
    images = [mini_dataset / "test" / "good" / "000.png", mini_dataset / "test" / "stain"]
    ran = goodparts("inspect", fitted_file, *images, "--out", out, "--json")
    assert ran.code == 1
    assert [record["verdict"] for record in ran.records] == ["GOOD", "BAD", "BAD", "BAD"]
    inspector = Inspector.load(fitted_file)
    for record in ran.records:
        assert record["score"] == pytest.approx(inspector.inspect(record["path"]).score, rel=1e-3)
        assert (record["score"] > record["threshold"]) == (record["verdict"] == "BAD")
        assert bool(record["regions"]) == (record["verdict"] == "BAD")
        assert 0 < record["p_value"] <= 1
    names = ["good/000", "stain/000", "stain/001", "stain/002"]
    assert below(out) == sorted(
        f"{folder}/{name}{suffix}"
        for folder, suffix in (("panels", ".png"), ("maps", ".tiff"), ("masks", ".png"))
        for name in names
    )


def test_inspect_goes_on_after_an_image_that_can_not_be_read(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((mini_dataset / "test" / "good" / "000.png").read_bytes()[:500])
    images = [mini_dataset / "test" / "stain" / "000.png", broken, mini_dataset / "test" / "good" / "001.png"]
    ran = goodparts("inspect", fitted_file, *images, "--json")
    assert ran.code == 5
    verdicts = [record.get("verdict", "error") for record in ran.records]
    assert verdicts == ["BAD", "error", "GOOD"]
    assert str(broken) in ran.records[1]["error"]
    ran = goodparts("inspect", fitted_file, *images)
    assert ran.code == 5
    assert [line.split()[0] for line in ran.out.splitlines()] == ["BAD", "GOOD"]
    assert ran.err.startswith(f"error: {broken}: ")


def test_inspect_with_a_threshold_of_zero(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    inspector = Inspector.load(model)
    oracle = inspector.model.calibration.with_oracle(0.0)
    inspector._set_decision(inspector.model.with_calibration(oracle))
    inspector.save(model)
    ran = goodparts("inspect", model, mini_dataset / "test" / "good")
    assert ran.code == 1, ran.err
    assert len(ran.out.splitlines()) == 6


def test_calibrate_writes_what_it_decided(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    before = Inspector.load(model).model
    ran = goodparts("calibrate", model, "--threshold-sigma", "5", "--json")
    assert ran.code == 0
    after = Inspector.load(model).model
    assert ran.records[0]["identity"] == after.identity != before.identity
    assert after.calibration.history == (before.calibration.decision,)
    good = mini_dataset / "test" / "good"
    ran = goodparts("calibrate", model, good, "--false-reject-rate", "0.5", "--out", model.with_name("b"))
    assert ran.code == 0
    assert Inspector.load(model).model.identity == after.identity
    third = Inspector.load(model.with_name("b.goodparts")).model
    assert third.calibration.decision.threshold_rule == "rate"
    assert third.calibration.false_reject_bound().certified
    assert len(third.calibration.history) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train/good"], "learnt from"),
        (["test/good/000.png"], "at least 2 needed"),
        (["--threshold-rule", "tail"], "tail needs at least 25 good images"),
        (["--threshold-sigma", "many"], "threshold_sigma: expected a number"),
        (
            ["--threshold-quantile", "0.5"],
            "threshold_quantile: threshold_rule = robust_sigma does not use it",
        ),
        (["--false-reject-rate", "0.3", "--threshold-rule", "sigma"], "take threshold_rule = rate or tail"),
        (["--sampling-ratio", "1"], "No such option"),
    ],
)
def test_calibrate_refuses_and_keeps_the_model(
    goodparts: Run, model: Path, mini_dataset: Path, arguments: list[str], message: str
) -> None:
    before = model.read_bytes()
    given = [mini_dataset / value if "/" in value else value for value in arguments]
    ran = goodparts("calibrate", model, *given)
    assert ran.code == 2
    assert message in ran.err
    assert model.read_bytes() == before


def test_calibrate_an_oracle_that_has_seen_no_labels(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "oracle.goodparts"
    ran = goodparts("fit", mini_dataset, "--recipe", recipe_file, "--threshold-rule", "f1", "--model", path)
    assert ran.code == 0
    ran = goodparts("inspect", path, mini_dataset / "test" / "good")
    assert ran.code == 2
    assert "f1 is an oracle and has not seen a labelled set yet" in ran.err
    assert "goodparts calibrate MODEL --threshold-rule sigma" in ran.err
    before = path.read_bytes()
    (record,) = goodparts("evaluate", path, mini_dataset, "--json").records
    assert record["identity"] == Inspector.load(path).model.identity
    ran = goodparts("calibrate", path, "--minimum-area", "5")
    assert ran.code == 2
    assert "take a rule that needs good images only, such as threshold_rule = sigma" in ran.err
    assert path.read_bytes() == before
    assert goodparts("calibrate", path, "--threshold-rule", "sigma").code == 0
    assert goodparts("inspect", path, mini_dataset / "test" / "good").code == 0


def test_update_compares_before_and_after(
    goodparts: Run, model: Path, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []

    @contextmanager
    def recorded_stages(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
        yield lambda stage, done, total: stages.append(stage)

    monkeypatch.setattr("goodparts.cli.model.progress_bars", recorded_stages)
    parent = Inspector.load(model).model
    good = mini_dataset / "test" / "good"
    grown = model.with_name("grown.goodparts")
    ran = goodparts("update", model, good, "--test", mini_dataset, "--out", grown, "--json")
    assert ran.code == 0
    (record,) = ran.records
    assert record["parent"] == parent.identity
    assert record["good_images"] == 22
    assert record["before"]["image_auroc"] == 1.0
    assert stages[:12] == ["evaluation before"] * 12
    assert stages[-12:] == ["evaluation after"] * 12
    assert not {"evaluation before", "evaluation after"} & set(stages[12:-12])
    assert set(record["before"]) == set(record["after"])
    assert (record["before"]["learnt_from"], record["after"]["learnt_from"]) == (0, 6)
    assert Inspector.load(model).model.identity == parent.identity
    ran = goodparts("update", model, good, "--test", mini_dataset)
    assert ran.code == 0
    assert "before" in ran.out
    assert "image_auroc" in ran.out
    assert "The new model learnt from 6 of these 12 images" in ran.out
    assert "22 images of good parts (22 of 96x96 pixels)" in ran.out
    assert Inspector.load(model).model.identity == Inspector.load(grown).model.identity
    ran = goodparts("update", model, good)
    assert ran.code == 2
    assert "no good image that this model has not learnt from already" in ran.err


@pytest.mark.parametrize("command", ["calibrate", "update"])
def test_only_good_images_of_a_data_set_are_taken(
    goodparts: Run, model: Path, mini_dataset: Path, command: str
) -> None:
    before = model.read_bytes()
    ran = goodparts(command, model, mini_dataset / "test")
    assert ran.code == 2
    assert "choose the one that holds the good images: good, scratch, stain" in ran.err
    ran = goodparts(command, model, mini_dataset)  # its train/good, which is known
    assert ran.code == 2
    assert "learnt from" in ran.err
    assert model.read_bytes() == before


def test_card_in_markdown_and_json(goodparts: Run, fitted_file: Path) -> None:
    ran = goodparts("card", fitted_file)
    assert ran.code == 0
    assert ran.out.startswith("# disc\n")
    (record,) = goodparts("card", fitted_file, "--json").records
    assert record["identity"] == Inspector.load(fitted_file).model.identity
    assert record["identity"][:12] in ran.out


def test_the_oracle_in_the_zip_is_the_one_on_disk(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = goodparts(
        "run", mini_dataset, "--recipe", recipe_file, "--threshold-rule", "f1", "--out", out, "--zip-all"
    )
    assert ran.code == 0
    assert "oracle" in ran.out
    with zipfile.ZipFile(out / "results.zip") as archive:
        assert archive.read("mini.goodparts") == (out / "mini.goodparts").read_bytes()
    assert goodparts("inspect", out / "mini.goodparts", mini_dataset / "test" / "good" / "000.png").code == 0


def test_check_has_an_exit_code(goodparts: Run, data: Path) -> None:
    ran = goodparts("check", data, "--json")
    assert all({"severity", "message", "paths"} <= set(record) for record in ran.records)
    (data / "train" / "good" / "000.png").write_bytes(b"")
    ran = goodparts("check", data)
    assert ran.code == 2
    assert "000.png" in ran.out
    records = goodparts("check", data, "--json").records
    assert [record for record in records if record["severity"] == "error"]


def test_doctor_in_json(goodparts: Run) -> None:
    ran = goodparts("doctor", "--json")
    assert ran.code in (0, 2)
    assert {"name", "value", "status", "advice"} <= set(ran.records[0])
    assert (ran.code == 2) == any(record["status"] == "error" for record in ran.records)


# ---- backbones -----------------------------------------------------------------------------------


def test_the_life_of_a_backbone(goodparts: Run, mini_backbone: Path, good: Path, tmp_path: Path) -> None:
    (only, *rest) = goodparts("backbone", "list", "--json").records
    assert (only["name"], only["status"]) == (BUILT_IN, "built in")
    assert {record["status"] for record in rest} <= {"to download", "to install", "installed"}
    ran = goodparts("backbone", "add", "mine", mini_backbone, "--layers", "layer3", "--json")
    assert ran.code == 0
    assert ran.records[0]["name"] == "mine"
    (shown,) = goodparts("backbone", "show", "mine", "--json").records
    assert shown["layers"]["layer3"] == [32, 14, 14]
    assert "layer3" in goodparts("backbone", "show", "mine").out
    assert "mine" in goodparts("backbone", "list").out
    ran = goodparts("fit", good, "--backbone", "mine", "--image-size", "96", "--no-quality-gate")
    assert ran.code == 0, ran.err
    assert Inspector.load("good.goodparts").recipe.layers == ("layer3",)
    exported = tmp_path / "exported.onnx"
    assert goodparts("backbone", "export", "mine", exported).code == 0
    (again,) = goodparts("backbone", "show", exported, "--json").records
    assert again["layers"] == shown["layers"]
    assert goodparts("backbone", "remove", "mine").code == 0
    assert goodparts("backbone", "show", "mine").code == 2
    # the model keeps its own copy
    assert goodparts("inspect", "good.goodparts", good / "000.png").code in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "resnet50", "--offline"], f"the built-in backbone {BUILT_IN}"),
        (["pull", "resnet50"], f"the built-in backbone {BUILT_IN}"),
        (["pull", "resnet5"], "did you mean resnet50"),
        (["pull", "dinov3_vits16"], "under the DINOv3 licence"),
        (["pull", "dinov3_vits16", "--accept-licence"], "downloads are off"),
        (["show", "wide_resnet50_2"], f"the built-in backbone {BUILT_IN}"),
        (["show", "nothing"], f"Known are {BUILT_IN}"),
        (["show", "nothing.onnx"], "nothing.onnx"),
        (["add", BUILT_IN, "x.onnx"], f"{BUILT_IN} is built in"),
        (["add", "mine", "nothing.onnx"], "nothing.onnx"),
        (["add", "my model", "x.onnx"], "expected letters, digits"),
        (["remove", BUILT_IN], f"{BUILT_IN} is built in"),
        (["remove", "nothing"], "'nothing' is not in the store"),
        (["export", BUILT_IN, "file.pth"], "file.pth: expected a name that ends in .onnx"),
        (["export", "nothing", "file.onnx"], f"Known are {BUILT_IN}"),
    ],
    ids=" ".join,
)
def test_backbone_errors(goodparts: Run, arguments: list[str], message: str) -> None:
    ran = goodparts("backbone", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert not list(Path.cwd().iterdir())


def test_pulling_the_built_in_backbone_needs_no_network(goodparts: Run) -> None:
    ran = goodparts("backbone", "pull", BUILT_IN, "--offline")
    assert ran.code == 0
    assert BUILT_IN in ran.out


def test_a_fit_that_lacks_its_backbone_names_the_built_in_one(goodparts: Run, good: Path) -> None:
    ran = goodparts("fit", good, "--backbone", "resnet50", "--offline")
    assert ran.code == 2
    assert "backbone resnet50 is not on this machine" in ran.err
    assert f"the built-in backbone {BUILT_IN}" in ran.err


def test_an_interrupted_run_over_earlier_results(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goodparts.report import results_folder

    out = tmp_path / "out"
    assert goodparts("run", mini_dataset, "--recipe", recipe_file, "--out", out).code == 0
    before = {name: (out / name).read_bytes() for name in below(out)}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results_folder, "write_report", interrupt)
    ran = goodparts("run", mini_dataset, "--recipe", recipe_file, "--seed", 7, "--out", out)
    assert ran.code == 130
    assert f"as an earlier run left it; the model just learnt is {out / 'mini.new.goodparts'}" in ran.err
    new = Inspector.load(out / "mini.new.goodparts")
    assert new.recipe.seed == 7
    (out / "mini.new.goodparts").unlink()
    assert {name: (out / name).read_bytes() for name in below(out)} == before


@pytest.mark.skipif(sys.platform != "linux", reason="names there are bytes")
def test_a_data_set_whose_names_are_no_text(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(mini_dataset, root)
    for folder, tail in (("train/good", ".png"), ("test/stain", ".png"), ("ground_truth/stain", "_mask.png")):
        (root / folder / f"000{tail}").rename(root / folder / os.fsdecode(b"\xe8" + tail.encode()))
    out = tmp_path / "out"
    ran = goodparts("run", root, "--recipe", recipe_file, "--out", out, "--json")
    assert ran.code == 0, ran.err
    assert Inspector.load(out / "caf%E9.goodparts").model.provenance.good_images == 16
    assert (out / "panels" / "stain" / "%E8.png").is_file()
    assert goodparts("card", out / "caf%E9.goodparts", "--json").code == 0
    assert goodparts("fit", root, "--recipe", recipe_file, "--json").code == 0
    assert Inspector.load("caf%E9.goodparts").model.identity == ran.records[0]["identity"]


def test_a_data_set_with_a_name_of_the_greatest_length(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(mini_dataset, tmp_path / ("x" * 255))
    ran = goodparts("fit", root, "--recipe", recipe_file, "--json")
    assert ran.code == 0, ran.err
    assert Path(ran.records[0]["model"]).name == f"{'x' * 240}.goodparts"
