"""What a target is: a kind of file that strangers may hand to the program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from numpy.random import Generator


class Target(Protocol):
    """A kind of file, how it is changed at random, and what reads it.

    Attributes:
        suffix: of such a file, with its dot.
    """

    suffix: str

    def write_seeds(self, folder: Path) -> None:
        """Make valid files, once for all processes."""

    def read_seeds(self, folder: Path) -> Any:
        """What `make` works on."""

    def make(self, seeds: Any, rng: Generator) -> bytes:
        """The file of a case."""

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        """What reads a file. Each is called, and may raise nothing but a GoodpartsError.

        A result that can't be right is an AssertionError.
        """
