"""The documentation against the program: nothing is missing, nothing is out of date, nothing is there no more."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import click
import pytest

from goodparts import PRESETS, Recipe
from goodparts.cli import cli
from goodparts.errors import RecipeError
from goodparts.recipe.keys import KEYS, SECTIONS
from goodparts.recipe.rules import RULES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


def reference() -> Any:
    """docs/make_reference.py, which is no part of the package."""
    spec = spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, and every command below one."""
    for name, command in group.commands.items():
        yield " ".join((*above, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


COMMANDS = dict(commands())


@pytest.mark.parametrize("page", ["recipe.md", "commands.md"])
def test_the_reference_is_what_the_program_says(page: str) -> None:
    made = reference().PAGES[page]()
    assert text(page) == made, f"docs/{page} is out of date: python docs/make_reference.py"


def test_every_key_section_preset_and_rule_is_documented() -> None:
    page = text("recipe.md")
    assert [key for key in KEYS if not re.search(rf"^\| (\*\*)?`{key}`", page, re.MULTILINE)] == []
    assert [name for name in PRESETS if f"\n| `{name}` |" not in page] == []
    assert [section for section in SECTIONS if f"\n## {section.title.capitalize()}\n" not in page] == []
    for rule in RULES:
        with pytest.raises(RecipeError) as caught:
            Recipe(**rule.example)
        assert f" | {caught.value} |\n" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_flag_is_documented(name: str) -> None:
    page = text("commands.md")
    found = re.search(rf"^##+ {name}\n(.*?)(?=^## |^### |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no heading for {name}"
    flags = [flag for item in COMMANDS[name].params if isinstance(item, click.Option) for flag in item.opts]
    below = page[page.index("## Flags of the recipe") :] if "(#flags-of-the-recipe)" in found[1] else ""
    assert [flag for flag in flags if not re.search(rf"`{flag}[` ]", found[1] + below)] == []


def shown() -> Iterator[tuple[str, str]]:
    """Every command line of `goodparts` in the documentation: (page, what follows the name of the program)."""
    for page in PAGES:
        for line in re.findall(
            r"(?:^ *|`)goodparts ([^`\n#]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            yield page.name, line


@pytest.mark.parametrize(("page", "line"), list(dict.fromkeys(shown())))
def test_what_is_shown_can_be_typed(page: str, line: str) -> None:
    words = shlex.split(line.replace("'", ""))
    name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in COMMANDS), words[0])
    if name.startswith("-"):
        return
    assert name in COMMANDS
    known = {flag for item in COMMANDS[name].params for flag in (*item.opts, *item.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_the_readme_says_how_the_command_is_found() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    start = page[page.index("## Start") : page.index("goodparts run DATA")]
    for words in (
        ".venv/bin/goodparts",
        ".venv/bin/activate",
        "externally-managed-environment",
        "pipx install .",
        "-m venv",
    ):
        assert words in start
