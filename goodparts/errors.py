"""The errors a user can cause.

Every message names the file or option, says what was expected and what was found, and what to do about it.
"""

from __future__ import annotations


class GoodpartsError(Exception):
    """Something the user can mend; the command line prints the message and exits with 2."""


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


class ModelError(GoodpartsError):
    """A model file is damaged, of a newer format, or no model at all."""


class OutputError(GoodpartsError):
    """A result can't be written: disk full, no permission, or something in the way."""
