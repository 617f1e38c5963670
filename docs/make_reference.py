"""Writes docs/recipe.md and docs/commands.md from the program itself, so that they can't be out of date.

python docs/make_reference.py               # both; tests/test_docs.py says when it is time
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import click

from goodparts import PRESETS, Recipe
from goodparts.cli import cli
from goodparts.cli.recipe_flags import RecipeFlag, flag_of, placeholder, shown_default
from goodparts.cli.tally import EXIT_CODES
from goodparts.errors import RecipeError
from goodparts.recipe.keys import SECTIONS, keys_of
from goodparts.recipe.presets import ABOUT
from goodparts.recipe.rules import RULES, Rule

_ENDLESS = 10**9  # a limit that nobody will meet
DOCS = Path(__file__).parent
MADE = "<!-- Written by docs/make_reference.py from the program itself: change it there, then run that. -->\n"


def recipe_page() -> str:
    """Every key by section, the presets, and what does not go together."""
    parts = [
        MADE,
        """# The recipe

Every setting of an inspector, in one flat list of keys. The key `sampling_ratio` is the flag `--sampling-ratio`, the
TOML key `sampling_ratio` and the argument `Recipe(sampling_ratio=...)`, without exception.

    goodparts recipe > mine.toml                    # all keys of the preset default, each explained
    goodparts run DATA --recipe mine.toml           # a file may leave out what it does not change
    goodparts run DATA --recipe fast --pose shift   # flags change what preset or file say

A file may start from a preset with `recipe = "fast"`. **Bold** are the dozen that people touch first, which
`goodparts fit --help` shows; `--help-all` shows the rest. Nothing is taken silently: a key that is unknown, or a value
that does not fit, is an error that says what was expected.
""",
    ]
    for section in SECTIONS:
        parts.append(f"## {section.title.capitalize()}\n\n{_sentence(section.about)}\n")
        rows = [_key_row(item) for item in keys_of(section)]
        parts.append(_table(("key", "default", "takes", "what it does"), rows))
    parts.append("## Presets\n\nA preset is the default with other values for some keys.\n")
    parts.append(_table(("preset", "what it is", "what it changes"), map(_preset_row, PRESETS)))
    parts.append("## What does not go together\n")
    parts.append(
        _paragraph(
            "Such a recipe is refused before anything is computed, with these words. What only images or a backbone "
            "can tell (a zone without a patch, a layer that is not there) is told when they are there."
        )
    )
    parts.append(_table(("for example", "what the error says"), map(_rule_row, RULES)))
    return "\n".join(parts)


def commands_page() -> str:
    """Every command, each with what it takes; the flags of the recipe once, at the end."""
    codes = _paragraph(
        "Exit codes: 0 all is well, 2 something that you can mend (the message says how), 3 a fault of the program, "
        "130 interrupted; `inspect` tells more of them apart. With `--json`, what is printed is one JSON object a "
        "line; progress and errors go to standard error. Where that is no terminal, a line says when a stage is over, "
        "instead of a bar. Each command has `--help` or `-h`, and `--verbose`, which logs what is done to standard "
        "error (in Python: `logging`, below the name `goodparts`)."
    )
    parts = [MADE, "# Commands\n", codes, "Exit codes of `inspect`:\n"]
    parts.append(_table(("code", "means"), ((str(code), words) for code, words in EXIT_CODES.items())))
    parts.append(
        _paragraph(
            "An image failed: it can't be read, or its pictures can't be written; the others are inspected anyway. "
            "`--exit-zero` makes 0 of all that the lines say (1, 4, and images that can't be read). "
            "Each JSON line of `inspect` says which model (`model`, `identity`), which `version` of the program and at "
            "what `time` (UTC), and has a `verdict`, or an `error` for an image that can't be read."
        )
    )
    program = click.Context(cli, info_name="goodparts", **cli.context_settings)
    for path, command in _commands(cli, ()):
        if isinstance(command, click.Group):
            names = ", ".join(f"`{name}`" for name in command.commands)
            parts.append(f"## {' '.join(path)}\n\n{_help(command)}\nIts commands: {names}.\n")
            continue
        context = click.Context(command, parent=program, info_name=" ".join(path))
        usage = " ".join(["goodparts", *path, *command.collect_usage_pieces(context)])
        options = [flag for flag in command.get_params(context) if isinstance(flag, click.Option)]
        own = [flag for flag in options if not isinstance(flag, RecipeFlag) and "--help" not in flag.opts]
        lines = [_flag_line(flag, context) for flag in own]
        if any(isinstance(flag, RecipeFlag) for flag in options):
            lines.append("- a flag for each key of the recipe: [below](#flags-of-the-recipe)")
        heading = "#" * (1 + len(path))
        parts.append(f"{heading} {' '.join(path)}\n\n    {usage}\n\n{_help(command)}")
        parts.append("\n".join(lines) + "\n" if lines else "")
        if command.epilog:
            parts.append(f"{command.epilog.strip().replace('Example: ', 'Example: `')}`\n")
    parts.append("## Flags of the recipe\n")
    parts.append(
        _paragraph(
            "Of `run`, `fit`, `fleet fit`, `demo`, `benchmark` and `roi`; [the recipe](recipe.md) explains them. A "
            "switch has a `--no-` form, for a recipe that turns it on."
        )
    )
    for section in SECTIONS:
        flags = ", ".join(
            f"`{f'{flag_of(item.name)} {placeholder(item)}'.strip()}`" for item in keys_of(section)
        )
        parts.append(_paragraph(f"**{section.title.capitalize()}**: {flags}"))
    return "\n".join(part for part in parts if part)


def _key_row(item: Field[Any]) -> tuple[str, ...]:
    key = f"**`{item.name}`**" if item.metadata["common"] else f"`{item.name}`"
    default = "false" if item.type == "bool" else shown_default(item)
    return key, f"`{default}`" if default else "", _takes(item), item.metadata["about"]


def _takes(item: Field[Any]) -> str:
    """What a key takes, in a few words."""
    kind, limits = str(item.type), item.metadata["limits"]
    if item.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
    words = {"bool": "`true`, `false`", "str": "text", "int": "whole number", "float": "number"}
    kind = "size" if item.name == "image_size" else words.get(kind, "numbers" if "float" in kind else "names")
    if not limits:
        return kind
    least, most = limits
    return f"{kind}, {least:g} or more" if most >= _ENDLESS else f"{kind}, {least:g} to {most:,.10g}"


def _preset_row(name: str) -> tuple[str, ...]:
    values = Recipe.preset(name).to_dict()
    changed = {key: value for key, value in values.items() if value != Recipe().to_dict()[key]}
    return (
        f"`{name}`",
        _sentence(ABOUT[name]),
        ", ".join(f"`{key} = {_value(changed[key])}`" for key in changed),
    )


def _rule_row(rule: Rule) -> tuple[str, ...]:
    try:
        Recipe(**rule.example)
    except RecipeError as error:
        return ", ".join(f"`{key} = {_value(value)}`" for key, value in rule.example.items()), str(error)
    raise AssertionError(f"{rule.example} is no example of what a rule refuses")


def _value(value: Any) -> str:
    """As TOML writes it."""
    return json.dumps(value)


def _commands(group: click.Group, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*above, name))


def _help(command: click.Command) -> str:
    """A command's help; what stands as it is there is code here."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(textwrap.indent(paragraph[1:].strip("\n"), "    ") + "\n")
        elif paragraph.startswith("Example: "):
            parts.append(f"Example: `{paragraph.removeprefix('Example: ')}`\n")
        else:
            parts.append(_paragraph(" ".join(paragraph.split())))
    return "\n".join(parts)


def _flag_line(flag: click.Option, context: click.Context) -> str:
    names, about = flag.get_help_record(context) or ("", "")
    return f"- `{names}`: {' '.join(about.replace('  [x>=1]', '').split())}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _paragraph(text: str) -> str:
    """The text in lines of 120 columns that don't break code."""
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    wrapped = textwrap.fill(whole, 120, break_long_words=False, break_on_hyphens=False)
    return wrapped.replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


PAGES = {"recipe.md": recipe_page, "commands.md": commands_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8", newline="\n")
        print(DOCS / name)
