"""What the commands share: recipe flags, common options, progress bars."""

from __future__ import annotations

import dataclasses
import functools
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from goodparts.errors import GoodpartsError
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.recipe import Recipe, describe

WIDTH = 100
KEYS = [item.name for item in dataclasses.fields(Recipe)]
_FLAGS = textwrap.wrap(
    " ".join(f"--{name.replace('_', '-')}" for name in KEYS), WIDTH - 4, break_on_hyphens=False
)
RECIPE_HELP = "\n".join(
    [
        "\b",
        "Every key of the recipe is a flag (`goodparts recipe` explains them):",
        *("  " + line for line in _FLAGS),
    ]
)


class Command(click.Command):
    """A command whose help ends in an example and, with a recipe, the list of its flags."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The example as it stands, without wrapping."""
        if self.epilog:
            formatter.write_paragraph()
            for line in self.epilog.splitlines():
                formatter.write(f"{line}\n" if line != "\b" else "")


def with_recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --recipe and a flag for every key; the command gets `recipe: Recipe`."""

    @functools.wraps(function)
    def command(*args: Any, recipe: str | None, **options: Any) -> Any:
        flags = {name: options.pop(name) for name in KEYS}
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            made = Recipe.load(recipe or "default", given)
        except GoodpartsError as error:
            name = str(error).split(":", 1)[0]
            raise type(error)(
                f"--{name.replace('_', '-')}: {error}" if name in given else str(error)
            ) from None
        return function(*args, recipe=made, **options)

    for item in reversed(dataclasses.fields(Recipe)):
        flag = f"--{item.name.replace('_', '-')}"
        if item.type == "bool":
            flag = f"{flag}/--no-{flag[2:]}"
        command = click.option(flag, item.name, default=None, hidden=True, help=describe(item))(command)
    return click.option(
        "--recipe",
        metavar="NAME|FILE",
        help=f"A preset ({', '.join(PRESETS)}) or a TOML file of recipe keys.",
    )(command)


workers_option = click.option("--workers", type=click.IntRange(1), help="Threads. [default: cores + 1]")
pixel_limit_option = click.option(
    "--pixel-limit",
    type=click.IntRange(1),
    help="Refuse images of more pixels before they are decoded. [default: 100 million]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable lines on standard output."
)
offline_option = click.option("--offline", is_flag=True, help="Never ask the network for a backbone.")


@contextmanager
def progress_bars(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left for each stage; none where standard error is not a terminal.

    A stage of another length is another one: held-out scores count tiles, those of other images these.
    """
    from tqdm import tqdm

    bars: dict[tuple[str, int], Any] = {}

    def tell(stage: str, done: int, total: int) -> None:
        key = stage, total
        if key not in bars:
            for bar in bars.values():
                bar.close()
            bars[key] = tqdm(
                total=total,
                desc=f"{stage:12}",
                unit="",
                leave=False,
                disable=as_json or not sys.stderr.isatty(),
            )
        bars[key].update(done - bars[key].n)

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()
