"""Where the pictures of an image lie in a folder of results: `panels/NAME.png`, `maps/NAME.tiff`, `masks/NAME.png`.

    names = unique_names([("bent", "000"), ("bent", "000")])        # ("bent/000", "bent/000_2")
    names = names_beside([Path("new/000.png")], Path("inspected"))  # and none in the place of any other file

A name never leads out of these folders, whatever an image is called, and no two are alike on any file system.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

PICTURE_FOLDERS = {"panels": ".png", "maps": ".tiff", "masks": ".png"}
SOFTWARE = "goodparts"
"""Written into our pictures, under PNG's and TIFF's own keyword `Software`."""

_LONGEST = 250  # bytes of a name, of the 255 that most systems take, so that ".tiff" goes with it
_MARKS = (b"Software\0" + SOFTWARE.encode(), SOFTWARE.encode() + b"\0")  # as PNG has it, and TIFF
_HEAD = 1024  # bytes, within which they are


def picture_paths(out: Path, name: str) -> dict[str, Path]:
    """The files of the pictures of this name, by folder."""
    return {folder: out / folder / f"{name}{suffix}" for folder, suffix in PICTURE_FOLDERS.items()}


def unique_names(
    wanted: Iterable[tuple[str, str]], free: Callable[[str], bool] = lambda name: True
) -> tuple[str, ...]:
    """A name for each (folder, stem), "folder/stem" or "stem", with a number where it would be like another.

    Args:
        wanted: folder, which may be empty, and stem. What is no text in them, too long, or would lead elsewhere, is
            made a name that any system takes.
        free: whether nothing else has that name.
    """
    taken: set[str] = set()
    names = []
    for folder, stem in wanted:
        count, name = 1, _joined(folder, stem)
        while _alike(name) in taken or not free(name):
            count += 1
            name = _joined(folder, stem, f"_{count}")
        taken.add(_alike(name))
        names.append(name)
    return tuple(names)


def names_beside(images: Sequence[Path], out: Path) -> tuple[str, ...]:
    """Names for the pictures of images, in places that neither an image has nor any file that is not a result of ours.

    An image's own name, with the name of its folder before it where there are several folders.
    """
    folders = {path.parent: os.path.realpath(path.parent) for path in images}
    given = {_place(folders[path.parent], path.name) for path in images}
    several = len(set(folders.values())) > 1

    def free(name: str) -> bool:
        for path in picture_paths(out, name).values():
            if _place(os.path.realpath(path.parent), path.name) in given:
                return False
            if os.path.lexists(path) and not is_result(path):
                return False
        return True

    wanted = ((Path(folders[path.parent]).name if several else "", path.stem) for path in images)
    return unique_names(wanted, free)


def is_result(path: Path) -> bool:
    """Whether a file is a picture that this program made of an inspection or evaluation."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return head.startswith((b"\x89PNG", b"II*\0", b"MM\0*")) and any(mark in head for mark in _MARKS)


def clean_name(name: str, longest: int = _LONGEST) -> str:
    """A part of a path that any system takes: text (bytes that are none as %E9), no separators, not too many bytes."""
    text = "".join(map(_letter, name)).encode()[:longest].decode("utf-8", "ignore")
    return text if text.strip(". ") else "_"


def _joined(folder: str, stem: str, number: str = "") -> str:
    name = clean_name(stem, _LONGEST - len(number)) + number
    return f"{clean_name(folder)}/{name}" if folder else name


def _letter(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":  # of a byte that is no text, or half a letter of Windows
        code = ord(letter) - 0xDC00
        return f"%{code if 0x80 <= code <= 0xFF else ord(letter):02X}"
    return "_" if letter in "/\\\0" else letter


def _alike(name: str) -> str:
    """Windows and macOS take "A" and "a" for the same, macOS also an accent and a letter that has it."""
    return unicodedata.normalize("NFC", name).casefold()


def _place(folder: str, name: str) -> str:
    return os.path.normcase(Path(folder, name))
