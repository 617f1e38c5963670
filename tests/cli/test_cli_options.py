"""The command line: help, flags, and recipes."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w
from running import Run

from goodparts import PRESETS, Inspector, Recipe, __version__
from goodparts.cli import cli
from goodparts.cli.options import WIDTH
from goodparts.cli.recipe_flags import flag_of
from goodparts.recipe.keys import KEYS, MACHINE, SECTIONS, keys_of

pytestmark = pytest.mark.usefixtures("home")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command, and every command below one."""
    for name, command in cli.commands.items():
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in command.commands)


# ---- help ----------------------------------------------------------------------------------------


WITH_RECIPE = ("run", "fit", "demo", "benchmark", "roi")


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_fits_a_screen_and_has_an_example(
    goodparts: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    ran = goodparts(*command, "--help")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert len(lines) <= (67 if command[-1] in (*WITH_RECIPE, "serve") else 40)
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
    "from goodparts import cli; sys.argv[1:] = ['fit', '--help-all']; cli.main()",
    "from goodparts import cli; sys.argv[1:] = ['--version']; cli.main()",
)


@pytest.mark.parametrize(
    "statement", LIGHT, ids=["package", "cli", "help", "run help", "all help", "version"]
)
def test_nothing_heavy_is_imported_before_it_is_used(statement: str) -> None:
    script = (
        "import sys\n"
        f"try:\n    exec({statement!r})\nexcept SystemExit:\n    pass\n"
        f"print('loaded', [name for name in ('numpy', *{HEAVY!r}) if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded []"


LEARNING = (
    "goodparts.model.fit",
    "goodparts.model.export",
    "goodparts.decision.leave_one_out",
    "goodparts.evaluation",
)
SHOWING = ("goodparts.report", "matplotlib", "jinja2", "PIL.ImageDraw")
OTHERS = (
    "goodparts.cli.fit",
    "goodparts.cli.fleet",
    "goodparts.server",
    "openvino.tools.ovc.convert",
    "torch",
)


def test_inspect_imports_neither_learning_nor_other_commands(fitted_file: Path, mini_dataset: Path) -> None:
    image = mini_dataset / "test" / "good" / "000.png"
    script = (
        "import sys\nfrom goodparts import cli\n"
        f"sys.argv[1:] = ['inspect', {str(fitted_file)!r}, {str(image)!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as ended:\n    print(ended.code)\n"
        f"print('loaded', [name for name in {LEARNING + SHOWING + OTHERS!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-2:] == ["0", "loaded []"]


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
    "bit_depth": ("12", 12),
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


def sections(printed: str) -> dict[str, list[str]]:
    """The flags under each heading of a help, as they stand there."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if re.fullmatch(r"[A-Z][a-z ]+:", line):
            found[line[:-1]] = []
        elif line.startswith("  -") and found:
            found[list(found)[-1]].append(line.split()[0])
    return found


@pytest.mark.parametrize("command", WITH_RECIPE)
def test_help_shows_the_common_flags_and_help_all_every_flag_by_section(goodparts: Run, command: str) -> None:
    short, full = goodparts(command, "--help"), goodparts(command, "--help-all")
    assert short.code == full.code == 0
    for ran, shown in ((short, lambda item: item.metadata["common"]), (full, lambda item: True)):
        found = sections(ran.out)
        titles = [section.title.capitalize() for section in SECTIONS]
        assert list(found) == ["Options", *titles]
        for section, title in zip(SECTIONS, titles, strict=True):
            flags = [flag_of(item.name) for item in keys_of(section) if shown(item)]
            others = (
                {"--workers", "--pixel-limit", "--device", "--engine", "--offline"}
                if section is MACHINE
                else set()
            )
            assert found[title][: len(flags)] == flags
            assert set(found[title][len(flags) :]) <= others
        assert "--offline" in found["Machine"]
    hidden = sum(not item.metadata["common"] for item in KEYS.values())
    assert f"--help-all shows {hidden} more flags" in short.out
    assert "[default: 320]" in short.out


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
