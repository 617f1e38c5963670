"""The command line. Exit codes: 0 all is well, 2 the user's error, 3 ours, 130 interrupted; `tally` has more."""

from __future__ import annotations

import atexit
import io
import signal
import sys
import traceback
from typing import NoReturn

import click

from goodparts.cli.backbone import backbone
from goodparts.cli.benchmark import benchmark
from goodparts.cli.check import check, doctor, recipe_command
from goodparts.cli.fit import demo, fit, run
from goodparts.cli.fleet import fleet
from goodparts.cli.inspect import evaluate, inspect
from goodparts.cli.model import calibrate, card_command, export, update
from goodparts.cli.options import WIDTH
from goodparts.cli.roi import roi_command
from goodparts.cli.serve import serve, server
from goodparts.cli.sign import sign
from goodparts.cli.streams import StdoutError, complain, watched_streams
from goodparts.cli.verify import verify
from goodparts.errors import GoodpartsError, brief
from goodparts.version import __version__


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
    verify,
    sign,
    serve,
    server,
    check,
    roi_command,
    demo,
    doctor,
    recipe_command,
    backbone,
    benchmark,
    fleet,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit."""
    # An interrupt while the interpreter ends would turn the code of what is done into that of a killed process.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
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
        complain(
            f"{traceback.format_exc()}\nThis is a fault of goodparts {__version__}, not yours. Please report it with "
            "the lines above."
        )
        sys.exit(3)
