"""Files that are either whole or not there: written beside, synced, then moved into place.

What is not whole yet has a name that says which process of which machine it belongs to. What a killed process left is
so told from what another one is writing, and the next one that writes into the same folder removes it.
"""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from goodparts.errors import OutputError

JsonRecord = dict[str, object]
"""Keys and values of a JSON object that is written for other programs."""

_UNFINISHED = re.compile(r"\.goodparts-([0-9a-f]{8})-(\d+)-\d+\.part")
_CLOCKS = 300  # seconds that the clock of a network's disk may be off
_numbers = itertools.count()
_looked_through: set[str] = set()


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an error, and leaves no trace else.

    Folders on the way are made. A crash at any moment leaves the old file whole; one of the whole machine does so where
    it is `durable`, which waits for the disk.

    Raises:
        OutputError: disk full, no permission, a folder in the way.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{str(path)!r}: can't be written, since that is a folder; give a file name")
    temporary = path.with_name(_unfinished_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_once(path.parent)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):  # gone already when all went well
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 with line feeds, whole or not at all; what UTF-8 can't hold becomes "?"."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder inside another for what is not whole yet; it is gone when the block ends, however it ends.

    Raises:
        OutputError: it can't be made there.
    """
    inside = folder / _unfinished_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_once(folder)
        inside.mkdir()
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield inside
    finally:
        try:
            shutil.rmtree(inside, ignore_errors=True)
        except BaseException:  # an interrupt just now
            shutil.rmtree(inside, ignore_errors=True)
            raise


def swap(moves: Iterable[tuple[Path | None, Path]], *, held: Path) -> None:
    """Put files into their places, all of them or none: what fails or is interrupted on the way is undone.

    Args:
        moves: (file, the place it takes), in this order; (None, place) where a file only goes, if it is there. Folders
            on the way are made.
        held: an empty folder, for what is replaced until all is done; what lies on another disk is kept beside.

    Raises:
        OutputError: a file can't be moved.
    """
    undo: list[Callable[[], object]] = []
    beside: list[Path] = []
    place = held
    try:
        for source, place in moves:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if os.path.lexists(place):
                kept = held / str(len(undo))
                if held.stat().st_dev != place.parent.stat().st_dev:
                    kept = place.with_name(_unfinished_name())
                    beside.append(kept)
                undo.append(partial(kept.replace, place))
                if source is None:
                    place.replace(kept)
                else:
                    _keep(place, kept)
            if source is not None:
                undo.append(partial(_move_back, place, source))
                source.replace(place)
    except BaseException as error:
        for step in reversed(undo):
            with suppress(OSError):  # what was not done yet
                step()
        if isinstance(error, OSError):
            raise output_error(place, error) from error
        raise
    for kept in beside:
        with suppress(OSError):
            kept.unlink()


def sync(path: Path) -> None:
    """See a file that another library wrote safely to the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def abandoned(folder: Path) -> list[Path]:
    """Unfinished files and folders in a folder whose process, of this machine, is gone."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (Path(entry.path), match) for entry in entries if (match := _UNFINISHED.fullmatch(entry.name))
            ]
    except OSError:
        return []
    return sorted(path for path, match in found if match[1] == _machine() and _is_gone(int(match[2]), path))


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that are gone have left unfinished in a folder, as far as that can be done."""
    for path in abandoned(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def output_error(path: Path, error: OSError) -> OutputError:
    """What to tell the user when `path` can't be written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            advice = "free some space, or write to another disk"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            advice = "choose a folder you may write to"
        case errno.EISDIR | errno.ENOTDIR | errno.EEXIST:
            advice = "something else has that name; choose another"
        case errno.ENAMETOOLONG:
            advice = "choose a shorter name"
        case _:
            advice = "choose another place"
    return OutputError(f"{path}: can't be written ({error.strerror or error}); {advice}")


def _unfinished_name() -> str:
    """Short, whatever the name of the file to be: that may be as long as the system takes."""
    return f".goodparts-{_machine()}-{os.getpid()}-{next(_numbers)}.part"


@cache
def _machine() -> str:
    """Numbers of processes mean something on their own machine only, and a disk may be several machines'."""
    return f"{zlib.crc32(platform.node().encode('utf-8', 'replace')):08x}"


def _is_gone(process: int, path: Path) -> bool:
    """Whether the process that made this is no more, or its number has gone to one that began later."""
    import psutil  # type: ignore[import-untyped]

    try:
        running = psutil.Process(process)
        if running.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(running.create_time() > path.lstat().st_mtime + _CLOCKS)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def _remove_abandoned_once(folder: Path) -> None:
    """Once in a process: looking through a folder of many results takes its time."""
    if (place := str(folder.absolute())) not in _looked_through:
        _looked_through.add(place)
        remove_abandoned(folder)


def _move_back(place: Path, source: Path) -> None:
    if not os.path.lexists(source):  # else it has not been moved yet
        place.replace(source)


def _keep(path: Path, kept: Path) -> None:
    """Keep a file that is about to be replaced: by a second name, so that it never lacks its own, or moved."""
    try:
        os.link(path, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a disk without such names
        path.replace(kept)
