"""Compiled graphs that this machine keeps for the next process, which then starts in a fraction of the time.

    name = name_of("identity of a model", "openvino 2026.4.1", "f32")
    content = read(name)        # None: none is kept, or what is kept is damaged
    write(name, content)        # as far as it can be

They lie in the user's own cache folder, or where $GOODPARTS_CACHE says; `GOODPARTS_CACHE=off` keeps none. Whatever is
in there may be deleted at any time. Together they take at most `LIMIT` bytes: those that were used least lately go.

What is read is run, so it has to be what this user wrote: a folder of somebody else's, or that others can write into,
is not used. Where anything is amiss nothing is read, and whoever asks compiles as if there were no such folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import OutputError
from goodparts.files import replacing

VARIABLE = "GOODPARTS_CACHE"
LIMIT = 512 * 2**20
"""Bytes that all of them may take."""

LARGEST = 128 * 2**20
"""Bytes of the constants of a graph that is kept; to write out larger ones takes memory, and leaves few others."""

_LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"[0-9a-f]{64}\.compiled")
_HEADER = struct.Struct("<8sQI")  # magic, bytes of the content, their CRC-32
_MAGIC = b"gpkept1\n"
_ALIGNMENT = 64  # bytes, as processors load constants fastest
_ROOMS = ("backbones", "bank", "engines", "features", "model", "preprocessing", "recipe")


def folder() -> Path | None:
    """Where they are kept, which need not be there yet; None: nowhere."""
    given = os.environ.get(VARIABLE, "").strip()
    if given.lower() in ("off", "0", "no", "false"):
        return None
    if given:
        try:
            return Path(given).expanduser()
        except RuntimeError as error:  # ~ of somebody who has no home
            _LOGGER.info("%s: %s", VARIABLE, error)
            return None
    from platformdirs import user_cache_path

    return user_cache_path("goodparts", appauthor=False) / "compiled"


def name_of(*parts: str) -> str:
    """The file name of what these texts, and the program as it is, settle."""
    return (
        hashlib.sha256("\0".join((_program(), *parts)).encode("utf-8", "replace")).hexdigest() + ".compiled"
    )


def read(name: str) -> NDArray[np.uint8] | None:
    """What is kept under a name, (bytes,) uint8; None where there is none, or it is damaged."""
    place = folder()
    if place is None or not _own(place):
        return None
    path = place / name
    try:
        with path.open("rb") as stream:
            magic, size, expected = _HEADER.unpack(stream.read(_HEADER.size))
            if magic != _MAGIC or size != os.fstat(stream.fileno()).st_size - _HEADER.size:
                raise ValueError("not whole")
            content = _aligned(size)
            if stream.readinto(content.data) != size or zlib.crc32(content.data) != expected:
                raise ValueError("not as it was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, struct.error, MemoryError) as error:
        _LOGGER.info("%s can't be used (%s)", path, error)
        return None
    with suppress(OSError):  # it may be read only, or gone by now
        os.utime(path)  # used just now
    return content


def write(name: str, content: bytes) -> None:
    """Keep something under a name, and let go of what that makes too much; nothing is raised where it can't be."""
    place = folder()
    if place is None or len(content) > LIMIT:
        return
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _own(place):
            return
        with replacing(place / name, durable=False) as stream:
            stream.write(_HEADER.pack(_MAGIC, len(content), zlib.crc32(content)))
            stream.write(content)
        _make_room(place)
    except (OSError, OutputError) as error:
        _LOGGER.info("%s: a compiled graph can't be kept (%s)", place, error)


def _own(place: Path) -> bool:
    """Whether only this user writes into the folder; Windows has its own rules for what lies in a user's profile."""
    try:
        found = place.stat()
    except OSError:
        return False
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        _LOGGER.info("%s is not used: others can write into it", place)
        return False
    return True


def _make_room(place: Path) -> None:
    """Remove the files that were used least lately until the others are within the limit."""
    with os.scandir(place) as entries:
        files = [(entry.stat(), Path(entry.path)) for entry in entries if _NAME.fullmatch(entry.name)]
    taken = sum(found.st_size for found, _ in files)
    for found, path in sorted(files, key=lambda item: item[0].st_mtime):
        if taken <= LIMIT:
            return
        with suppress(OSError):  # Windows: another process reads it just now
            path.unlink(missing_ok=True)
            taken -= found.st_size


def _aligned(size: int) -> NDArray[np.uint8]:
    raw = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + size]


@cache
def _program(package: Path = Path(__file__).parents[1]) -> str:
    """What tells this program from an earlier one: the modules that make graphs, as they are, or else the version."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((package / room).glob("*.py")):
            digest.update(path.read_bytes())
    from goodparts.version import __version__

    return f"{__version__} {digest.hexdigest()}"
