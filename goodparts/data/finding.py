"""A finding: something about a data set that its owner should know, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something about a data set that its owner should know.

    Attributes:
        severity: "error" makes fitting or evaluating fail, or its result wrong; "warning" is probably not what was
            meant; "note" is good to know.
        kind: a stable name for the kind of finding, such as "unreadable" or "near-duplicate".
        message: what was found, what was expected and what to do.
        paths: all the files concerned, of which the message names a few.
    """

    severity: Severity
    kind: str
    message: str
    paths: tuple[Path, ...] = ()


def about(
    root: Path, severity: Severity, kind: str, thing: str, paths: Sequence[Path], text: str
) -> Iterator[Finding]:
    """Say something about some files, if there are any."""
    if paths:
        message = f"{counted(paths, thing)} {text}: {some(root, paths)}"
        yield Finding(severity, kind, message, tuple(paths))


def about_groups(
    root: Path, severity: Severity, kind: str, thing: str, groups: Sequence[list[Path]], text: str
) -> Iterator[Finding]:
    """Say something about groups of files that show the same, if there are any."""
    if groups:
        shown = "; ".join(" = ".join(short(root, path) for path in paths) for paths in groups[:3])
        more = f"; and {len(groups) - 3} more" if len(groups) > 3 else ""
        paths = tuple(dict.fromkeys(path for group in groups for path in group))
        yield Finding(severity, kind, f"{counted(groups, thing)} {text}: {shown}{more}", paths)


def counted(things: Collection[object], name: str) -> str:
    """Such as `3 images`."""
    return f"{len(things)} {name}" + ("" if len(things) == 1 else "s")


def some(root: Path, paths: Sequence[Path], limit: int = 3) -> str:
    """The first of some files by name, and how many more there are."""
    names = ", ".join(short(root, path) for path in paths[:limit])
    return names + (f" and {len(paths) - limit} more" if len(paths) > limit else "")


def short(root: Path, path: Path) -> str:
    """The name of a file below a folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
