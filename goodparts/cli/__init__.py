"""The command line. Exit codes: 0 all good, 1 a bad part was found, 2 the user's error, 3 ours, 130 interrupted."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from goodparts.cli.backbone import backbone
from goodparts.cli.benchmark import benchmark
from goodparts.cli.check import check, doctor, recipe_command
from goodparts.cli.fit import demo, fit, run
from goodparts.cli.inspect import evaluate, inspect
from goodparts.cli.model import calibrate, card_command, export, update
from goodparts.cli.options import WIDTH
from goodparts.cli.roi import roi_command
from goodparts.errors import GoodpartsError
from goodparts.version import __version__


class _ClosedPipeError(Exception):
    """Whoever read standard output has stopped."""


class _Group(click.Group):
    """A group whose help has whole sentences, and whose closed pipe is not exit code 1, which means a bad part."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are met."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the first sentence of its help, however long."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, found.get_short_help_str(limit=1000)) for name, found in self.commands.items()]
            )

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            result = super().invoke(context)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise _ClosedPipeError from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH})
@click.version_option(__version__, prog_name="goodparts")
def cli() -> None:
    """Visual inspection that learns what good parts look like from images of good parts only.

    \b
    Start with:   goodparts demo
    Your parts:   goodparts run DATA --out results      (DATA/train/good, DATA/test/...)
    On the line:  goodparts inspect results/DATA.goodparts new_part.png
    """


for command in (
    run,
    fit,
    inspect,
    evaluate,
    calibrate,
    update,
    card_command,
    export,
    check,
    roi_command,
    demo,
    doctor,
    recipe_command,
    backbone,
    benchmark,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit."""
    # An interrupt while the interpreter ends would turn the code of what is done into that of a killed process.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("interrupted; nothing is half-written", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing is half-written", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except GoodpartsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except _ClosedPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
        sys.exit(0)
    except Exception:
        traceback.print_exc()
        click.echo(
            f"\nThis is a fault of goodparts {__version__}, not yours. Please report it with the lines above.",
            err=True,
        )
        sys.exit(3)
