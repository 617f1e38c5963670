"""Files that are either whole or not there: written beside, synced, then moved into place."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from goodparts.errors import OutputError

JsonRecord = dict[str, object]
"""Keys and values of a JSON object that is written for other programs."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an error, and leaves no trace else.

    Folders on the way are made. A crash at any moment leaves the old file whole.

    Raises:
        OutputError: disk full, no permission, a folder in the way.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{str(path)!r}: can't be written, since that is a folder; give a file name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):  # gone already when all went well
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 with line feeds, whole or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode())


def output_error(path: Path, error: OSError) -> OutputError:
    """What to tell the user when `path` can't be written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            advice = "free some space, or write to another disk"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            advice = "choose a folder you may write to"
        case errno.EISDIR | errno.ENOTDIR | errno.EEXIST:
            advice = "something else has that name; choose another"
        case _:
            advice = "choose another place"
    return OutputError(f"{path}: can't be written ({error.strerror or error}); {advice}")
