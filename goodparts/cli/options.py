"""What the commands share: common options, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

WIDTH = 100


class Command(click.Command):
    """A command whose help ends in an example."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The example as it stands, without wrapping."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(f"{self.epilog.strip()}\n")


workers_option = click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Threads. [default: cores + 1]"
)
pixel_limit_option = click.option(
    "--pixel-limit",
    metavar="N",
    type=click.IntRange(1),
    help="Refuse images of more pixels undecoded. [default: 100 million]",
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

    def update_bar(stage: str, done: int, total: int) -> None:
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
        yield update_bar
    finally:
        for bar in bars.values():
            bar.close()
