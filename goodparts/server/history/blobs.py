"""Files by their content: `ab/<sha256>` below one folder. A file is whole or not there, and never changes."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from goodparts.server.history.identifiers import is_identifier

_LOGGER = logging.getLogger(__name__)
_UNFINISHED = ".part"
_numbers = itertools.count()


class BlobStore:
    """Files by the sha256 of what is in them.

    Any thread may write and read; nothing may be removed while somebody writes, and the history's writer sees to that.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def make_folders(self) -> None:
        """Make the folders in which files will lie, once and for all."""
        for first in range(256):
            (self.root / f"{first:02x}").mkdir(parents=True, exist_ok=True)
        _sync_folder(self.root)

    def path(self, sha256: str) -> Path:
        """Where a file is, if it is; ValueError for what is no sha256."""
        if len(sha256) != 64 or not (is_identifier(sha256[:32]) and is_identifier(sha256[32:])):
            raise ValueError("expected a sha256 in hexadecimal digits")
        return self.root / sha256[:2] / sha256

    def write(self, data: bytes, sha256: str) -> None:
        """Put a file there, if it is not yet; it is on the disk when this returns. OSError where that can't be."""
        place = self.path(sha256)
        with suppress(OSError):
            if place.stat().st_size == len(data):
                return
        unfinished = place.with_name(f"{sha256[:16]}-{os.getpid()}-{next(_numbers)}{_UNFINISHED}")
        try:
            with unfinished.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(place)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(place.parent)

    def read(self, sha256: str) -> bytes | None:
        """What is in a file; None where it is not there, or is not what it was."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            _LOGGER.error("stored file %s is damaged", sha256)
            return None
        return data

    def remove(self, sha256: str) -> None:
        """Remove a file, if it is there."""
        with suppress(OSError):
            self.path(sha256).unlink(missing_ok=True)

    def free(self) -> int:
        """Bytes free on the disk."""
        return shutil.disk_usage(self.root).free

    def names(self, first: int) -> Iterator[tuple[str, Path]]:
        """The files whose sha256 begins with a byte (0 to 255): (sha256, or empty for what a killed process
        left, path)."""
        folder = self.root / f"{first:02x}"
        with suppress(OSError):
            for path in folder.iterdir():
                yield ("" if path.suffix == _UNFINISHED else path.name), path


def _sync_folder(folder: Path) -> None:
    """See a new name safely to the disk; Windows has no such thing, and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
