"""Standard output and standard error: consoles that lack letters, disks that are full, readers that have left."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import click

from goodparts.files import output_error

_PLAIN = {"×": "x", "°": " deg", "…": "...", "≤": "<=", "≥": ">=", "·": "*", "→": "->"}
_LOGGER = logging.getLogger("goodparts")


class StdoutError(Exception):
    """Standard output takes nothing any more.

    Attributes:
        left: whether its reader has stopped reading, which is nobody's fault.
        message: what to tell the user otherwise.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        # Windows calls it an invalid argument
        self.left = error.errno == errno.EPIPE or (sys.platform == "win32" and error.errno == errno.EINVAL)
        self.message = str(output_error(Path("standard output"), error))


@contextmanager
def watched_streams() -> Iterator[None]:
    """Standard output raises StdoutError when it fails, and has taken everything when the block ends.

    Letters that a console's code page lacks are written plainly, or as their numbers, and end nothing.
    """
    codecs.register_error("goodparts.legible", _legible)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="goodparts.legible")
    before = sys.stdout
    if before is not None:  # as it is where it was closed
        sys.stdout = cast(TextIO, _Stdout(before))
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except StdoutError:
        _send_to_nowhere(before)  # what is still to be flushed
        raise
    finally:
        sys.stdout = before


class _Stdout:
    """Standard output whose failures can be told from those of files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise StdoutError(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise StdoutError(error) from None


def complain(message: str) -> None:
    """A line on standard error; nothing ends because that can't be written."""
    try:
        click.echo(message, err=True)
    except OSError:
        _send_to_nowhere(sys.stderr)  # else what is still to be flushed changes the exit code


@contextmanager
def verbose_logging() -> Iterator[None]:
    """What the package logs goes to standard error."""
    from goodparts.version import __version__

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    before = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.info("goodparts %s, Python %s, %s", __version__, sys.version.split()[0], sys.platform)
    try:
        yield
    finally:
        _LOGGER.setLevel(before)
        _LOGGER.removeHandler(handler)


def is_verbose() -> bool:
    """Whether what the package logs is shown."""
    return _LOGGER.isEnabledFor(logging.DEBUG)


def _legible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or ascii(one)[1:-1] for one in letters), error.end


def _send_to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
