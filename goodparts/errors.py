"""The errors a user can cause.

Every message names the file or option, says what was expected and what was found, and what to do about it.
"""

from __future__ import annotations

import re
import reprlib

_LONGEST_WORD = 400  # letters; a path may be that long
_LONGEST = 6000


def brief(message: str) -> str:
    """A message without the middle of what is endless in it: words of over 400 letters, texts of over 6,000."""
    message = re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: _ends(word[0], _LONGEST_WORD // 2), message)
    return message if len(message) <= _LONGEST else _ends(message, _LONGEST // 2)


def quoted(value: object) -> str:
    """A value as a message repeats it: as Python writes it, but never much of it."""
    try:
        return _repr.repr(value)
    except ValueError:  # of a whole number with more digits than Python writes
        return "a number of thousands of digits"


def _ends(text: str, kept: int) -> str:
    return f"{text[:kept]}... ({len(text) - 2 * kept:,} letters left out) ...{text[-kept:]}"


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlong = 40
_repr.maxlevel = 3
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 6


def shortened(value: object, longest: int = 100) -> str:
    """A value as a message may repeat it: on one line, the middle left out where it is long."""
    text = " ".join(str(value)[: 100 * longest].split())
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


class GoodpartsError(Exception):
    """Something the user can mend; the command line prints the message and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(brief(message))


class RecipeError(GoodpartsError):
    """A recipe key is unknown, or has a value that does not fit.

    Attributes:
        key: which; empty where it is none in particular.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class ImageError(GoodpartsError):
    """An image can't be read: missing, damaged, too large or of an unknown format."""


class DatasetError(GoodpartsError):
    """A folder does not hold the images that were expected."""


class BackboneError(GoodpartsError):
    """A backbone can't be found, fetched or used, or lacks a layer."""


class EngineError(GoodpartsError):
    """An engine or a device that was asked for is not on this machine, or can't run a graph."""


class ModelError(GoodpartsError):
    """A model file is damaged, of a newer format, not signed as it has to be, or no model at all."""


class OutputError(GoodpartsError):
    """A result can't be written: disk full, no permission, or something in the way."""
