"""The command line: exit codes, JSON, help, flags, and a sentence for every mistake a user can make."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import tomli_w
from interrupting import INTERRUPTIBLE, interrupted
from PIL import Image

from goodparts import PRESETS, Inspector, Recipe, __version__, read_dataset
from goodparts.cli import cli, main
from goodparts.cli.options import WIDTH

BUILT_IN = "efficientnet_lite0"


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for backbones of each test's own, and no network."""
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    return tmp_path / "home"


@pytest.fixture
def goodparts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in a folder of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["goodparts", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        assert "Traceback" not in printed.err, printed.err
        return Ran(caught.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def recipe_file(mini_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that is quick."""
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    recipe = Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        image_size=96,
        sampling_ratio=0.2,
        quality_gate=False,
    )
    path.write_text(recipe.to_toml(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(recipe_file: Path, mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file. Read only."""
    return (
        Inspector(Recipe.load(recipe_file))
        .fit(mini_dataset)
        .save(tmp_path_factory.mktemp("fitted") / "disc.goodparts")
    )


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A model file to change."""
    return Path(shutil.copy(fitted, tmp_path / "disc.goodparts"))


@pytest.fixture
def good(mini_dataset: Path, tmp_path: Path) -> Path:
    """A folder of good images, to spoil."""
    return shutil.copytree(mini_dataset / "train" / "good", tmp_path / "good")


@pytest.fixture
def data(mini_dataset: Path, tmp_path: Path) -> Path:
    """A data set, to spoil."""
    return shutil.copytree(mini_dataset, tmp_path / "mini")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command, and every command below one."""
    for name, command in cli.commands.items():
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in command.commands)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_fits_a_screen_and_has_an_example(goodparts: Run, command: tuple[str, ...]) -> None:
    ran = goodparts(*command, "--help")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert len(lines) <= 50
    assert max(map(len, lines)) <= WIDTH
    assert f"Example: goodparts {command[0]}" in ran.out
    if command[0] != "backbone":
        assert goodparts(*command, "-h").out == ran.out


def test_the_first_help_names_every_command(goodparts: Run) -> None:
    ran = goodparts("--help")
    assert ran.code == 0
    assert len(ran.out.splitlines()) <= 50
    for name in cli.commands:
        assert f"\n  {name} " in ran.out


def test_version(goodparts: Run) -> None:
    assert goodparts("--version") == (0, f"goodparts, version {__version__}\n", "")


HEAVY = ("onnx", "openvino", "matplotlib", "PIL", "torch", "huggingface_hub", "jinja2", "safetensors")
LIGHT = (
    "import goodparts",
    "import goodparts.cli",
    "from goodparts import cli; sys.argv[1:] = ['--help']; cli.main()",
    "from goodparts import cli; sys.argv[1:] = ['run', '--help']; cli.main()",
    "from goodparts import cli; sys.argv[1:] = ['--version']; cli.main()",
)


@pytest.mark.parametrize("statement", LIGHT, ids=["package", "cli", "help", "run help", "version"])
def test_nothing_heavy_is_imported_before_it_is_used(statement: str) -> None:
    script = (
        "import sys\n"
        f"try:\n    exec({statement!r})\nexcept SystemExit:\n    pass\n"
        f"print('loaded', [name for name in ('numpy', *{HEAVY!r}) if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded []"


def test_unknown_commands_and_flags_are_the_users_error(goodparts: Run) -> None:
    for arguments in (["fly"], ["run"], ["fit", "--sampling-ration", "1", "x"], ["inspect", "model"]):
        ran = goodparts(*arguments)
        assert ran.code == 2
        assert ran.err.startswith("Usage: ")


# ---- recipes -------------------------------------------------------------------------------------


VALUES: dict[str, tuple[str, Any]] = {
    "backbone": ("mine.onnx", "mine.onnx"),
    "roi": ("zones.json", "zones.json"),
    "tiling": ("640x480+64", "640x480+64"),
    "layers": ("a,b", ("a", "b")),
    "layer_weights": ("1,2.5", (1.0, 2.5)),
    "grid_layer": ("b", "b"),
    "mean": ("0.1,0.2,0.3", (0.1, 0.2, 0.3)),
    "std": ("0.4,0.5,0.6", (0.4, 0.5, 0.6)),
    "image_size": ("128x96", (96, 128)),
    "augment": ("rotate90,flip", ("rotate90", "flip")),
}
"""How values are spelled that a key's kind and limits say little about, and what they mean."""

COMPANIONS = {
    "mean": "std",
    "std": "mean",
    "layer_weights": "layers",
    "grid_layer": "layers",
    "smallest_defect": "tiling",
    "tile_bank": "tiling",
}
"""Keys that need another one beside them."""


def text_and_value(item: dataclasses.Field[Any]) -> tuple[str, Any]:
    """Another value than the default, as it is typed and as it is meant."""
    if item.name in VALUES:
        return VALUES[item.name]
    if item.type == "bool":
        return str(not item.default).lower(), not item.default
    if choices := item.metadata["choices"]:
        other = next(choice for choice in choices if choice not in (item.default, "crop"))
        return other, other
    kind: Any = {"int": int, "float": float}[str(item.type)]
    default: Any = item.default
    low, high = item.metadata["limits"]
    candidates = [kind(value) for value in (default + 2, default / 2, 2, 0.5)]
    other = next(value for value in candidates if low <= value <= high and value != default)
    return str(other), other


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that commands were about to learn by: the first thing after that stops them."""
    seen: list[Recipe] = []

    def stop(self: Inspector, recipe: Recipe, **options: object) -> None:
        seen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(Inspector, "__init__", stop)
    return seen


@pytest.mark.parametrize("item", dataclasses.fields(Recipe), ids=lambda item: item.name)
def test_every_key_is_a_flag_and_a_toml_key(
    goodparts: Run, recipes: list[Recipe], item: dataclasses.Field[Any], tmp_path: Path
) -> None:
    flag = f"--{item.name.replace('_', '-')}"
    text, value = text_and_value(item)
    arguments, keys = [flag, text], {item.name: value}
    if item.type == "bool":
        arguments = [flag if value else f"--no-{flag[2:]}"]
    if companion := COMPANIONS.get(item.name):
        arguments += [f"--{companion}", VALUES[companion][0]]
        keys[companion] = VALUES[companion][1]
    ran = goodparts("fit", tmp_path, *arguments)
    assert ran.code == 130, ran.err
    assert getattr(recipes[-1], item.name) == value != item.default
    toml = tmp_path / "mine.toml"
    toml.write_text(
        tomli_w.dumps({key: VALUES[key][0] if key == "image_size" else keys[key] for key in keys})
    )
    ran = goodparts("fit", tmp_path, "--recipe", toml)
    assert ran.code == 130, ran.err
    assert getattr(recipes[-1], item.name) == value


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Recipe) if item.type == "bool"])
def test_booleans_can_be_said_both_ways(
    goodparts: Run, recipes: list[Recipe], tmp_path: Path, name: str
) -> None:
    flag = name.replace("_", "-")
    for value in (True, False):
        toml = tmp_path / "mine.toml"
        toml.write_text(f"{name} = {str(not value).lower()}\n")
        goodparts("run", tmp_path, "--recipe", toml, f"--{flag}" if value else f"--no-{flag}")
        goodparts("fit", tmp_path, "--recipe", toml)
        assert [getattr(recipe, name) for recipe in recipes[-2:]] == [value, not value]


@pytest.mark.parametrize("command", ["run", "fit", "benchmark", "demo"])
def test_help_lists_every_recipe_flag(goodparts: Run, command: str) -> None:
    printed = goodparts(command, "--help").out.split()
    for item in dataclasses.fields(Recipe):
        assert f"--{item.name.replace('_', '-')}" in printed


@pytest.mark.parametrize("name", [*PRESETS, None])
def test_a_printed_recipe_loads_back(goodparts: Run, tmp_path: Path, name: str | None) -> None:
    ran = goodparts("recipe", *([name] if name else []))
    assert ran.code == 0
    path = tmp_path / "printed.toml"
    path.write_text(ran.out, encoding="utf-8")
    assert Recipe.load(path) == Recipe.preset(name or "default")
    assert set(tomllib.loads(ran.out)) == {item.name for item in dataclasses.fields(Recipe)}
    assert goodparts("recipe", path).out == ran.out


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("sampling_ration = 0.1", r"sampling_ration: no such recipe key; did you mean sampling_ratio"),
        ("sampling_ratio = 2", "sampling_ratio: expected 1e-06 to 1, found 2"),
        ("sampling_ratio = 'much'", "sampling_ratio: expected a number"),
        ("sampling = 'gready'", "sampling: expected one of greedy, random"),
        ("robust = 1", "robust: expected true or false"),
        ("sampling_ratio 0.1", "not a TOML file"),
        ("recipe = 'nothing'", "no preset 'nothing'; there are default"),
    ],
)
def test_a_wrong_recipe_file_is_explained(goodparts: Run, tmp_path: Path, toml: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(toml)
    for arguments in (["recipe", path], ["fit", tmp_path, "--recipe", path]):
        ran = goodparts(*arguments)
        assert ran.code == 2
        assert "wrong.toml" in ran.err
        assert message in ran.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampling-ratio", "2"], "--sampling-ratio: sampling_ratio: expected 1e-06 to 1"),
        (["--image-size", "big"], "--image-size: image_size: expected pixels such as 224, or WIDTHxHEIGHT"),
        (["--framing", "fit"], "--framing: framing: expected one of stretch, letterbox, crop"),
        (["--mean", "1,2,3"], "mean, std: give both or neither"),
        (["--recipe", "nothing"], "nothing is neither a file nor a preset (default"),
    ],
)
def test_a_wrong_flag_is_explained(goodparts: Run, tmp_path: Path, flags: list[str], message: str) -> None:
    ran = goodparts("fit", tmp_path, *flags)
    assert ran.code == 2
    assert message in ran.err


# ---- the whole job -------------------------------------------------------------------------------


def test_run_then_inspect_and_evaluate(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    ran = goodparts("run", mini_dataset, "--out", out, "--recipe", recipe_file)
    assert ran.code == 0, ran.err
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
    goodparts: Run, recipe_file: Path, mini_dataset: Path, fitted: Path, tmp_path: Path
) -> None:
    ran = goodparts("fit", mini_dataset, "--recipe", recipe_file, "--model", tmp_path / "a", "--json")
    assert ran.code == 0
    (record,) = ran.records
    assert record["model"] == str(tmp_path / "a.goodparts")
    assert record["identity"] == Inspector.load(fitted).model.identity
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
    goodparts: Run, fitted: Path, mini_dataset: Path, folders: list[str], code: int
) -> None:
    ran = goodparts("inspect", fitted, *(mini_dataset / "test" / name for name in folders))
    assert ran.code == code
    lines = ran.out.splitlines()
    assert len(lines) == sum(6 if name == "good" else 3 for name in folders)
    assert sum(line.startswith("BAD") for line in lines) == sum(3 for name in folders if name != "good")
    assert not ran.err


def test_inspect_in_json_and_pictures(
    goodparts: Run, fitted: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "inspected"
    images = [mini_dataset / "test" / "good" / "000.png", mini_dataset / "test" / "stain"]
    ran = goodparts("inspect", fitted, *images, "--out", out, "--json")
    assert ran.code == 1
    assert [record["verdict"] for record in ran.records] == ["GOOD", "BAD", "BAD", "BAD"]
    inspector = Inspector.load(fitted)
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
    goodparts: Run, fitted: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((mini_dataset / "test" / "good" / "000.png").read_bytes()[:500])
    images = [mini_dataset / "test" / "stain" / "000.png", broken, mini_dataset / "test" / "good" / "001.png"]
    ran = goodparts("inspect", fitted, *images, "--json")
    assert ran.code == 2
    verdicts = [record.get("verdict", "error") for record in ran.records]
    assert verdicts == ["BAD", "error", "GOOD"]
    assert str(broken) in ran.records[1]["error"]
    ran = goodparts("inspect", fitted, *images)
    assert ran.code == 2
    assert [line.split()[0] for line in ran.out.splitlines()] == ["BAD", "GOOD"]
    assert ran.err.startswith(f"error: {broken}: ")


def test_inspect_with_a_threshold_of_zero(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    inspector = Inspector.load(model)
    inspector.adopt_oracle(0.0)
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
    assert third.calibration.promise().certified
    assert len(third.calibration.history) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train/good"], "learnt from"),
        (["test/good/000.png"], "at least 2 needed"),
        (["--threshold-rule", "tail"], "tail needs at least 25 good images"),
        (["--threshold-sigma", "many"], "threshold_sigma: expected a number"),
        (["--threshold-quantile", "0.5"], "threshold_quantile: threshold_rule = sigma does not use it"),
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


def test_update_compares_before_and_after(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    parent = Inspector.load(model).model
    good = mini_dataset / "test" / "good"
    grown = model.with_name("grown.goodparts")
    ran = goodparts("update", model, good, "--test", mini_dataset, "--out", grown, "--json")
    assert ran.code == 0
    (record,) = ran.records
    assert record["parent"] == parent.identity
    assert record["good_images"] == 22
    assert record["before"]["image_auroc"] == 1.0
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


def test_card_in_markdown_and_json(goodparts: Run, fitted: Path) -> None:
    ran = goodparts("card", fitted)
    assert ran.code == 0
    assert ran.out.startswith("# disc\n")
    (record,) = goodparts("card", fitted, "--json").records
    assert record["identity"] == Inspector.load(fitted).model.identity
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


# ---- images that spoil a fit ---------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels, and holds hardly any."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + pixels + chunk(b"IEND", b"")


def tiny(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-300]), "damaged or truncated"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    "text": (lambda path: path.write_text("no image"), "it is a text file"),
    "GIF": (lambda path: path.write_bytes(b"GIF89a" + bytes(50)), "it is a GIF image"),
    "1 x 1": (tiny, "is 1 x 1 pixels; expected at least"),
    "huge": (
        lambda path: path.write_bytes(png_header(20_000, 20_000)),
        "has 20000 x 20000 = 400,000,000 pixels, more than the limit of 100,000,000",
    ),
}


@pytest.mark.parametrize("how", list(SPOILT))
@pytest.mark.parametrize("command", ["fit", "run"])
def test_one_bad_file_among_good_ones_is_named(
    goodparts: Run, recipe_file: Path, data: Path, tmp_path: Path, how: str, command: str
) -> None:
    spoil, message = SPOILT[how]
    path = data / "train" / "good" / "007.png"
    spoil(path)
    out = tmp_path / "out"
    flag = ["--model", out / "m.goodparts"] if command == "fit" else ["--out", out]
    ran = goodparts(command, data, "--recipe", recipe_file, *flag)
    assert ran.code == 2
    assert ran.err.startswith(f"error: {path}: ")
    assert message in ran.err
    assert not out.exists() or below(out) == []


def test_the_pixel_limit_can_be_raised_and_lowered(goodparts: Run, fitted: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((10_100, 10_000), bool)).save(large)  # 101 million pixels of one bit
    ran = goodparts("inspect", fitted, large)
    assert ran.code == 2
    assert "more than the limit of 100,000,000" in ran.err
    assert "raise --pixel-limit" in ran.err
    ran = goodparts("inspect", fitted, large, "--pixel-limit", "1000")
    assert "more than the limit of 1,000." in ran.err


def test_a_raised_pixel_limit_holds_for_reading(goodparts: Run, fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "promises.png"
    path.write_bytes(png_header(20_000, 20_000))
    ran = goodparts("inspect", fitted, path, "--pixel-limit", 400_000_000)
    assert ran.code == 2
    assert "can't be decoded" in ran.err, "it was tried"


def test_a_mask_of_another_size_stops_run_before_it_learns(
    goodparts: Run, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    mask = data / "ground_truth" / "stain" / "001_mask.png"
    Image.new("L", (50, 40), 255).save(mask)
    ran = goodparts("run", data, "--recipe", recipe_file, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{mask}: the mask is 50x40 pixels, its image 001.png 96x96" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["fit", "run", "check", "benchmark"])
def test_a_folder_that_is_not_there(goodparts: Run, mini_dataset: Path, command: str) -> None:
    ran = goodparts(command, mini_dataset.parent / "mimi")
    assert ran.code == 2
    printed = ran.err + ran.out
    assert re.search(r"mimi: no such (file or )?folder", printed)
    assert "mini" in printed, "the one that was meant"


@pytest.mark.parametrize("name", ["notes.txt", "photo.heic"])
def test_a_folder_without_images(goodparts: Run, fitted: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(b"something")
    ran = goodparts("fit", folder)
    assert ran.code == 2
    assert f"{folder}: no images; expected files ending in" in ran.err
    assert name in ran.err
    ran = goodparts("inspect", fitted, folder)
    assert ran.code == 2
    assert f"{folder}: no images in this folder" in ran.err


def test_the_content_decides_what_a_file_is(
    goodparts: Run, fitted: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    misnamed = tmp_path / "photo.jpg"
    shutil.copy(mini_dataset / "test" / "good" / "000.png", misnamed)
    assert goodparts("inspect", fitted, misnamed).code == 0
    text = tmp_path / "text.png"
    text.write_text("no image")
    ran = goodparts("inspect", fitted, text)
    assert ran.code == 2
    assert "text.png: not an image that can be read: it is a text file" in ran.err


def test_a_layer_that_is_not_there_names_the_nearest(
    goodparts: Run, recipe_file: Path, good: Path, tmp_path: Path
) -> None:
    ran = goodparts("fit", good, "--recipe", recipe_file, "--layers", "layer2,layr3")
    assert ran.code == 2
    assert "layr3" in ran.err
    assert "layer3" in ran.err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such model"), (b"nonsense", "is not a goodparts model"), (b"PK\x03\x04 x", "damaged")],
    ids=["missing", "other", "damaged"],
)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "calibrate", "update", "card"])
def test_a_file_that_is_no_model(
    goodparts: Run,
    mini_dataset: Path,
    tmp_path: Path,
    command: str,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "part.goodparts"
    if content is not None:
        path.write_bytes(content)
    ran = goodparts(command, path, *([] if command == "card" else [mini_dataset]))
    assert ran.code == 2
    assert ran.err.startswith(f"error: {path}: ")
    assert message in ran.err


def test_a_damaged_model(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    ran = goodparts("inspect", model, mini_dataset / "test" / "good")
    assert ran.code == 2
    assert "damaged or truncated model" in ran.err
    model.write_bytes(data[: len(data) // 2])
    assert goodparts("card", model).code == 2


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written(
    goodparts: Run, recipe_file: Path, good: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    ran = goodparts("fit", good, "--recipe", recipe_file, "--model", locked / "a.goodparts")
    assert ran.code == 2
    assert "choose a folder you may write to" in ran.err


def test_a_file_where_a_folder_should_be(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("in the way")
    ran = goodparts("run", mini_dataset, "--recipe", recipe_file, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{tmp_path / 'out'}" in ran.err
    assert "can't be written" in ran.err


def test_our_own_fault_is_called_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Inspector, "__init__", fail)
    monkeypatch.setattr(sys, "argv", ["goodparts", "fit", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in printed
    assert f"a fault of goodparts {__version__}, not yours" in printed


# ---- backbones -----------------------------------------------------------------------------------


def test_the_life_of_a_backbone(goodparts: Run, mini_backbone: Path, good: Path, tmp_path: Path) -> None:
    (only, *rest) = goodparts("backbone", "list", "--json").records
    assert (only["name"], only["status"]) == (BUILT_IN, "built in")
    assert {record["status"] for record in rest} == {"to download"}
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


# ---- as a process --------------------------------------------------------------------------------


def process(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "goodparts", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=120,
    )


def test_exit_codes_of_a_process(fitted: Path, mini_dataset: Path) -> None:
    test = mini_dataset / "test"
    ran = process("inspect", fitted, test / "stain" / "000.png", "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["verdict"] == "BAD"
    assert ran.stderr == ""
    ran = process("inspect", fitted, test / "nothing.png")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "no such file" in ran.stderr


def test_nothing_is_asked_of_the_network(
    fitted: Path, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.getaddrinfo', 'socket.connect', 'os.fork'):\n"
        "        print('seen', event, arguments, file=sys.stderr)\n"
        "sys.addaudithook(watch)\n"
        "from goodparts.cli import main\n"
        "main()\n"
    )
    user = tmp_path / "user"
    user.mkdir()
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "run",
            mini_dataset,
            "--recipe",
            recipe_file,
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(user), "USERPROFILE": str(user)},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "seen" not in ran.stderr
    assert not [name for name in below(user) if "intel" in name.lower() or "telemetry" in name.lower()]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
@pytest.mark.parametrize("command", ["fit", "run"])
def test_ctrl_c_in_the_middle_of_a_fit(many: Path, tmp_path: Path, command: str) -> None:
    room, out = tmp_path / "room", tmp_path / "out"
    room.mkdir()
    out.mkdir()
    flag = ["--model", out / "a.goodparts"] if command == "fit" else ["--out", out]
    arguments: list[object] = [command, many, *flag, "--memory-limit", "0"]  # features are in a file, then
    code, err = interrupted(
        lambda: any(room.glob("goodparts-*/features")), arguments, TMPDIR=str(room), TMP=str(room)
    )
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert below(out) == []
    assert not list(room.glob("goodparts-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_ctrl_c_when_all_is_done_changes_nothing() -> None:
    late = (
        "import os, signal\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):\n"
        "        kill(pid, number)\n"
        "late = Late()\n"  # it goes when the interpreter takes its modules down
    )
    ran = subprocess.run(
        [sys.executable, "-c", late + INTERRUPTIBLE, "recipe"], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_ctrl_c_while_pictures_are_written(many: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, err = interrupted(
        lambda: any(out.glob("panels/*/*.png")),
        [
            "run",
            many,
            "--recipe",
            recipe_file,
            "--sampling",
            "random",
            "--sampling-ratio",
            0.01,
            "--out",
            out,
        ],
    )
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert Inspector.load(out / "many.goodparts").model.data["good_images"] == 400
    found = below(out)
    assert not {"metrics.json", "report.html", "results.zip"} & set(found)
    assert not [name for name in found if name.endswith(".part")]
    for name in found:
        if name.endswith(".png"):
            with Image.open(out / name) as picture:
                picture.load()  # whole
    assert len(list(out.glob("panels/*/*.png"))) < len(read_dataset(many).test)


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is another thing there")
def test_a_reader_that_stops_reading(fitted: Path, mini_dataset: Path) -> None:
    images = [str(mini_dataset / "test" / "good")] * 20
    child = subprocess.Popen(
        [sys.executable, "-m", "goodparts", "inspect", str(fitted), *images],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert err == ""


# ---- regions of interest -------------------------------------------------------------------------


@pytest.fixture
def zones_file(tmp_path: Path) -> Path:
    """Two zones for the images of 96 x 96."""
    zones = [
        {"name": "left", "polygons": [[[8, 8], [48, 8], [48, 88], [8, 88]]]},
        {"name": "right side", "polygons": [[[48, 8], [88, 8], [88, 88], [48, 88]]]},
    ]
    path = tmp_path / "zones.json"
    path.write_text(json.dumps({"size": [96, 96], "zones": zones}), encoding="utf-8")
    return path


def test_roi_draws_and_says_what_it_comes_to(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path
) -> None:
    image = mini_dataset / "test" / "good" / "000.png"
    ran = goodparts("roi", zones_file, image, "--recipe", recipe_file)
    assert ran.code == 0
    assert re.search(r"left +34\.7 % of the picture, +50 patches, columns 8 to 48, rows 8 to 88", ran.out)
    assert "Looked at: 69.4 % of the picture, 100 of 144 patches" in ran.out
    with Image.open(zones_file.with_name("zones_roi.png")) as picture:
        assert picture.width >= 480
    (record,) = goodparts(
        "roi", zones_file, image, "--recipe", recipe_file, "--json", "--out", "a.png"
    ).records
    assert [zone["patches"] for zone in record["zones"]] == [50, 50]
    assert Path("a.png").is_file()


def test_zones_from_fit_to_inspect(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    model = tmp_path / "part.goodparts"
    ran = goodparts("fit", mini_dataset, "--recipe", recipe_file, "--roi", zones_file, "--model", model)
    assert ran.code == 0
    assert "2 zones: left, right side" in ran.out
    zones_file.unlink()
    pixels = np.array(Image.open(mini_dataset / "test" / "good" / "000.png").convert("RGB"))
    pixels[40:56, 8:16] = (230, 30, 20)
    Image.fromarray(pixels).save(tmp_path / "bad.png")
    ran = goodparts("inspect", model, tmp_path / "bad.png", "--json")
    assert ran.code == 1
    (record,) = ran.records
    assert [(zone["name"], zone["bad"]) for zone in record["zones"]] == [
        ("left", True),
        ("right side", False),
    ]
    assert record["threshold"] == 1
    assert "in left" in goodparts("inspect", model, tmp_path / "bad.png").out
    card = goodparts("card", model).out
    assert "| left | " in card
    assert "30.6 % of every picture, which lies outside the region of interest" in card
    assert goodparts("roi", model, tmp_path / "bad.png", "--out", tmp_path / "again.png").code == 0
    ran = goodparts("run", mini_dataset, "--recipe", recipe_file, "--roi", zones_file)
    assert ran.code == 2
    assert ran.err.startswith(f"error: roi: {zones_file}: no such file")


def test_zones_in_the_results(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    assert (
        goodparts("run", mini_dataset, "--recipe", recipe_file, "--roi", zones_file, "--out", out).code == 0
    )
    rows = list(csv.DictReader((out / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert {"zone left", "zone right side"} <= set(rows[0])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["not_looked_share"] == pytest.approx(1 - 80 * 80 / 96**2)
    assert metrics["threshold"] == 1
    assert metrics["bad_not_looked_at"] == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert re.search(r"30\.6.% of the pixels were not looked at", page)
    bad = [row for row in rows if row["verdict"] == "BAD"]
    assert bad
    assert len(re.findall(r"<span>in (?:left|right side) \d", page)) == len(bad)
    assert "<td>right side</td>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.json", "IMAGE"), "roi: nowhere.json: no such file"),
        (("ZONES", "WIDE"), "is 96x60 pixels, but the region of interest is drawn on 96x96"),
        (
            ("ZONES", "IMAGE", "--image-score", "reweighted"),
            "image_score: reweighted gives one score an image",
        ),
        (("ZONES", "IMAGE", "--threshold-rule", "f1"), "threshold_rule: f1 chooses one threshold"),
        (
            ("ZONES", "IMAGE", "--pose", "rigid"),
            "roi: zones are drawn on the image and pose = rigid moves it",
        ),
        (("ZONES", "IMAGE", "--roi", "m.png"), "zones.json is the region of interest that is checked"),
    ],
)
def test_roi_mistakes(
    goodparts: Run,
    recipe_file: Path,
    zones_file: Path,
    mini_dataset: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    Image.new("RGB", (96, 60)).save(tmp_path / "wide.png")
    places = {
        "IMAGE": mini_dataset / "test" / "good" / "000.png",
        "WIDE": tmp_path / "wide.png",
        "ZONES": zones_file,
    }
    ran = goodparts("roi", *(places.get(word, word) for word in arguments), "--recipe", recipe_file)
    assert ran.code == 2
    assert message in ran.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "this model has no region of interest"),
        (("--image-size", "128"), "--image-size: .*disc.goodparts is a model, which has a recipe of its own"),
        (("--no-robust",), "--robust: .* is a model"),
        (("--recipe", "fast"), "--recipe: .* is a model"),
    ],
)
def test_roi_of_a_model_takes_no_recipe(
    goodparts: Run, fitted: Path, mini_dataset: Path, flags: tuple[str, ...], message: str
) -> None:
    ran = goodparts("roi", fitted, mini_dataset / "test" / "good" / "000.png", *flags)
    assert ran.code == 2
    assert re.search(message, ran.err)


def test_roi_takes_a_recipe_file_that_names_another(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path
) -> None:
    recipe = recipe_file.read_text(encoding="utf-8").replace('roi = ""', 'roi = "other.json"')
    Path("mine.toml").write_text(recipe, encoding="utf-8")
    ran = goodparts("roi", zones_file, mini_dataset / "test" / "good" / "000.png", "--recipe", "mine.toml")
    assert ran.code == 0, ran.err
