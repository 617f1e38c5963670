"""The command line. Exit codes: 0 all is well, 2 the user's error, 3 ours, 130 interrupted; `tally` has more."""

from __future__ import annotations

import atexit
import gc
import io
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NoReturn

import click

from goodparts.cli.options import WIDTH
from goodparts.cli.streams import StdoutError, complain, watched_streams
from goodparts.engines.telemetry import without_converter
from goodparts.errors import GoodpartsError, brief

_HOMES = {
    "run": "fit:run",
    "fit": "fit:fit",
    "inspect": "inspect:inspect",
    "evaluate": "inspect:evaluate",
    "calibrate": "model:calibrate",
    "update": "model:update",
    "card": "model:card_command",
    "export": "model:export",
    "verify": "verify:verify",
    "sign": "sign:sign",
    "serve": "serve:serve",
    "server": "serve:server",
    "check": "check:check",
    "roi": "roi:roi_command",
    "demo": "fit:demo",
    "doctor": "check:doctor",
    "recipe": "check:recipe_command",
    "backbone": "backbone:backbone",
    "benchmark": "benchmark:benchmark",
    "fleet": "fleet:fleet",
}
"""Module and name of each command."""


class _Commands(Mapping[str, click.Command]):
    """The commands by name, each imported when it is asked for: all of them take longer than one that runs."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = _HOMES[name].partition(":")
        command: click.Command = getattr(import_module(f"goodparts.cli.{module}"), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


class _Group(click.Group):
    """A group whose help has whole sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are met."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the first sentence of its help, however long."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(limit=1000)) for name, found in self.commands.items()]
            )


def _say_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from goodparts.version import __version__

        click.echo(f"goodparts, version {__version__}")
        context.exit()


@click.group(
    cls=_Group,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_say_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Visual inspection that learns what good parts look like from images of good parts only.

    \b
    Start with:   goodparts demo
    Your parts:   goodparts run DATA --out results      (DATA/train/good, DATA/test/...)
    On the line:  goodparts inspect results/DATA.goodparts new_part.png
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    # An interrupt while the interpreter ends would turn the code of what is done into that of a killed process.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    atexit.register(gc.freeze)  # else all that was imported is searched for circles once more before it goes
    without_converter()
    try:
        with watched_streams():
            code = cli.main(standalone_mode=False) or 0
        sys.exit(code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        complain("interrupted; nothing is half-written")
        sys.exit(130)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        complain(brief(said.getvalue().rstrip()))
        sys.exit(2)
    except GoodpartsError as error:
        complain(f"error: {error}")
        sys.exit(2)
    except StdoutError as error:
        if not error.left:
            complain(f"error: {error.message}")
        sys.exit(0 if error.left else 2)
    except Exception:
        from goodparts.version import __version__

        complain(
            f"{traceback.format_exc()}\nThis is a fault of goodparts {__version__}, not yours. Please report it with "
            "the lines above."
        )
        sys.exit(3)
