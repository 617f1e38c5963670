"""The flags of the recipe: one for every key, in the sections that the help shows them in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from goodparts.cli.options import Command
from goodparts.errors import RecipeError
from goodparts.recipe.keys import KEYS, MACHINE, SECTIONS, Section
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.recipe import Recipe

_MACHINE_OPTIONS = (
    "workers",
    "pixel_limit",
    "device",
    "engine",
    "offline",
)  # no keys, but of the machine, too
_EVERYTHING = "goodparts.help_all"  # whether all flags are shown, in a context's meta
_PLACEHOLDERS = {"backbone": "NAME|FILE", "image_size": "SIZE", "roi": "FILE", "tiling": "TILES"}
_WIDEST = 30  # columns of the flags; what is longer has its explanation below


def flag_of(key: str) -> str:
    """The flag of a key of the recipe."""
    return f"--{key.replace('_', '-')}"


def shown_default(item: dataclasses.Field[Any]) -> str:
    """The default of a key as it is typed; nothing where it is empty or off."""
    value = Recipe().to_dict()[item.name]
    if isinstance(value, bool) or value in ("", []):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def placeholder(item: dataclasses.Field[Any]) -> str:
    """What stands for the value of a flag; nothing for a switch."""
    kind = str(item.type)
    if item.name in _PLACEHOLDERS:
        return _PLACEHOLDERS[item.name]
    if kind.startswith("tuple"):
        return "A,B,..."
    return {"bool": "", "int": "N", "float": "X"}.get(kind, "NAME" if item.metadata["choices"] else "TEXT")


class RecipeFlag(click.Option):
    """The flag of a key of the recipe."""

    def __init__(self, names: Sequence[str], item: dataclasses.Field[Any], **options: Any) -> None:
        super().__init__(names, help=item.metadata["about"], **options)
        self.section: Section = item.metadata["section"]
        self.common: bool = item.metadata["common"]
        self.record = (
            f"{flag_of(item.name)} {placeholder(item)}".rstrip(),
            f"{self.help} [default:\N{NO-BREAK SPACE}{shown_default(item)}]"
            if shown_default(item)
            else str(self.help),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """The flag with what stands for its value, and what it means with its default."""
        return self.record


class RecipeCommand(Command):
    """A command with a recipe: its help shows the common flags of it by section, --help-all all of them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own flags, those of the recipe by section, and how to see the rest."""
        everything = ctx.meta.get(_EVERYTHING, False)
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        groups |= {section.title.capitalize(): [] for section in SECTIONS}
        hidden = 0
        for flag in self.get_params(ctx):
            title = "Options"
            if isinstance(flag, RecipeFlag):
                title = flag.section.title.capitalize()
                if not (flag.common or everything):
                    hidden += 1
                    continue
            elif flag.name in _MACHINE_OPTIONS:
                title = MACHINE.title.capitalize()
            if isinstance(flag, click.Option) and (record := flag.get_help_record(ctx)):
                groups[title].append(record)
        wide = min(_WIDEST, max(len(first) for rows in groups.values() for first, _ in rows))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(first.ljust(wide), about) for first, about in rows])
        formatter.buffer = [text.replace("\N{NO-BREAK SPACE}", " ") for text in formatter.buffer]
        formatter.write_paragraph()
        formatter.write_text(
            "A switch that a recipe turns on is turned off by --no-SWITCH. docs/recipe.md says which keys do not go "
            "together."
            if everything
            else f"--help-all shows {hidden} more flags of the recipe. Defaults are those of the preset default."
        )


def with_recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --recipe, a flag for every key, and --help-all; the command gets `recipe: Recipe`."""

    @functools.wraps(function)
    def command(*args: Any, recipe: str | None, **options: Any) -> Any:
        flags = {key: options.pop(key) for key in KEYS}
        given = {key: value for key, value in flags.items() if value is not None}
        try:
            made = Recipe.load(recipe or "default", given)
        except RecipeError as error:
            if error.key not in given:
                raise
            raise RecipeError(f"{flag_of(error.key)}: {error}", key=error.key) from None
        return function(*args, recipe=made, **options)

    command = click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_help_all,
        help="Show all flags of the recipe and exit.",
    )(command)
    for key, item in reversed(KEYS.items()):
        flag = flag_of(key)
        names = [f"{flag}/--no-{flag[2:]}" if item.type == "bool" else flag, key]
        command = click.option(*names, cls=RecipeFlag, item=item, default=None)(command)
    return click.option(
        "--recipe",
        metavar="NAME|FILE",
        help=f"A preset ({', '.join(PRESETS)}) or a TOML file.",
    )(command)


def _help_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_EVERYTHING] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
