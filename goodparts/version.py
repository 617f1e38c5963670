"""The version of the installed package, looked up when it is asked for: that takes longer than most imports."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("goodparts")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
