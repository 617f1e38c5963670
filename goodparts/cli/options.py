"""What the commands share: common options, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from goodparts.cli.streams import complain, is_verbose, verbose_logging
from goodparts.engines.runtime import ENGINES, KINDS
from goodparts.progress import Bars, Lines, Progress, silent

WIDTH = 100


class Command(click.Command):
    """A command whose help ends in an example, and which can say what it does meanwhile."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        about = "Log what is done to standard error, and a line for each stage."
        self.params.append(
            click.Option(["--verbose"], is_flag=True, expose_value=False, callback=_log, help=about)
        )

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The example as it stands, without wrapping."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(f"{self.epilog.strip()}\n")


workers_option = click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Threads. [default: cores + 2]"
)
pixel_limit_option = click.option(
    "--pixel-limit",
    metavar="N",
    type=click.IntRange(1),
    help="Refuse images of more pixels undecoded. [default: 100 million]",
)
strict_option = click.option("--strict", is_flag=True, help="Files that are passed over are an error.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable lines on standard output."
)
signature_option = click.option(
    "--require-signature",
    metavar="PUBLICKEY",
    type=click.Path(path_type=Path),
    help="Refuse a model that the key of this .pub file has not signed.",
)
device_option = click.option(
    "--device",
    metavar="NAME",
    help=f"Compute on {', '.join(KINDS)} or cuda:N. [default: auto]",
)
engine_option = click.option(
    "--engine", metavar="NAME", help=f"Compute by {' or '.join(ENGINES)}. [default: auto]"
)
offline_option = click.option("--offline", is_flag=True, help="Never ask the network for a backbone.")


def _log(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.with_resource(verbose_logging())


@contextmanager
def progress_bars(as_json: bool) -> Iterator[Progress]:
    """A bar with the time left for each stage; a line for each where standard error is no terminal, or is logged to.

    With JSON only what is logged.
    """
    if is_verbose() or not (as_json or _at_terminal()):
        yield Lines(complain)
    elif as_json:
        yield silent
    else:
        from tqdm import tqdm

        with closing(Bars(tqdm, leave=False)) as bars:
            yield bars


def _at_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
