"""Files and folders in natural order, the same on every platform, without those of the system."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from goodparts.data.formats import IMAGE_SUFFIXES, START, format_of
from goodparts.errors import DatasetError

_SYSTEM = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
    }
)


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the image files in a folder in natural order of their path below it.

    Files count by suffix, or by content where they have none; hidden ones are passed over. A folder that
    is missing has none.

    Raises:
        DatasetError: a folder can't be read.
    """
    return [path for path in list_files(folder, recursive=recursive) if is_image(path)]


def list_files(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the files in a folder, except hidden ones and those of the system, in natural order.

    Links to folders are followed, but no folder is entered twice, nor one that this one lies in. A
    folder that is missing has none.

    Raises:
        DatasetError: a folder can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    files: list[Path] = []
    entered = set(root.resolve().parents)
    for parent, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = Path(parent).resolve()
        if real in entered or not recursive:
            folders.clear()
        if real in entered:
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        files += [Path(parent, name) for name in names if not _hidden(name)]
    return sorted(files, key=lambda path: natural_key(path.relative_to(root)))


def list_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """List the folders in a folder, except hidden ones, in natural order; a folder that is missing has none.

    Raises:
        DatasetError: the folder can't be read.
    """
    if not Path(folder).is_dir():
        return []
    try:
        found = [path for path in Path(folder).iterdir() if path.is_dir() and not _hidden(path.name)]
    except OSError as error:
        _refuse(error)
    return sorted(found, key=lambda path: natural_key(Path(path.name)))


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or, where it has none, by its first bytes."""
    if path.suffix:
        return path.suffix.lower() in IMAGE_SUFFIXES
    try:
        if not path.is_file():  # a pipe would wait
            return False
        with path.open("rb") as stream:
            return format_of(stream.read(START)) is not None
    except OSError:
        return False


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sorting key that orders folder by folder, numbers by value, and letters without their case."""
    parts = tuple(
        tuple(int(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces))
        for pieces in (re.split("([0-9]+)", part) for part in path.parts)
    )
    return parts, path.as_posix()


def _refuse(error: OSError) -> NoReturn:
    reason = error.strerror or error
    raise DatasetError(
        f"{error.filename}: the folder can't be read ({reason}); check your permissions"
    ) from error


def _hidden(name: str) -> bool:
    """Whether a name is one of the system's, or of what an office program has open."""
    return name.startswith((".", "~$")) or name.casefold() in _SYSTEM
