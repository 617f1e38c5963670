"""Image files of products: found in folders, by globs or in object stores, and read once, by whoever inspects them.

A place is a folder, a glob (`archive/**/*.png`), or the same behind an address that fsspec knows (`s3://bucket/flange`),
where fsspec and the store's own package are installed.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from goodparts.data.folders import is_image, list_images, natural_key
from goodparts.data.images import require_regular
from goodparts.errors import DatasetError, GoodpartsError, ImageError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")  # more than one letter, which would be a drive of Windows
_WILD = re.compile(r"[*?\[]")


class ImageFile(NamedTuple):
    """An image file as it was listed.

    Attributes:
        name: below its place, with slashes; bytes that are no text as `\\udc..` escapes spelled out.
        where: its path or address.
        size: bytes.
        changed: when it was last changed, in nanoseconds since 1970, or another number that a change changes.
    """

    name: str
    where: str
    size: int
    changed: int


def is_address(place: str) -> bool:
    """Whether a place is in an object store, or anywhere else that only fsspec reaches."""
    return _ADDRESS.match(place) is not None


def list_image_files(place: str) -> list[ImageFile]:
    """The image files of a place, in natural order; those of folders inside, too.

    Raises:
        DatasetError: the place can't be read.
        GoodpartsError: it is an address, and fsspec is not installed.
    """
    if is_address(place):
        return list(_in_store(place))
    if _WILD.search(place) and not Path(place).exists():
        root = Path(_before_wildcards(place))
        paths = (Path(path) for path in glob.iglob(place, recursive=True))  # noqa: PTH207
        kept = sorted(
            (path for path in paths if path.is_file() and is_image(path)),
            key=lambda path: natural_key(path.relative_to(root)),
        )
        return [_listed(path, root) for path in kept]
    root = Path(place)
    if root.is_file():
        return [_listed(root, root.parent)]
    if not root.is_dir():
        raise DatasetError(
            f"{place}: no such file or folder; expected a folder, a glob or an address of images"
        )
    return [_listed(path, root) for path in list_images(root, recursive=True)]


def read_bytes(where: str) -> bytes:
    """The bytes of an image file; ImageError if it can't be read."""
    try:
        if not is_address(where):
            require_regular(Path(where))
            return Path(where).read_bytes()
        with _fsspec().open(where, "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise ImageError(f"{where}: no such file; check the name and the folder") from None
    except OSError as error:
        raise ImageError(
            f"{where}: can't be read ({error.strerror or error}); check your permissions"
        ) from error


class OnceRead(io.BytesIO):
    """An image file whose bytes are read when they are asked for, and hashed meanwhile; an open file to a decoder.

    Attributes:
        name: its path or address, and what errors call it.
        content: sha256 of its bytes, in hex, once they were read; else empty.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.content = ""

    def read(self, size: int | None = -1, /) -> bytes:
        """All its bytes, read anew at each call."""
        found = read_bytes(self.name)
        self.content = hashlib.sha256(found).hexdigest()
        return found


def stamp_of(files: list[ImageFile]) -> str:
    """What a list of files is known by without reading them: sha256 over names, sizes and dates, in hex."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0{file.changed}\n".encode())
    return digest.hexdigest()


def content_of(files: list[ImageFile]) -> str:
    """sha256 over names and contents, in hex; a file that can't be read counts as empty."""
    digest = hashlib.sha256()
    for file in files:
        try:
            content = hashlib.sha256(read_bytes(file.where)).hexdigest()
        except ImageError:
            content = ""
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def _listed(path: Path, root: Path) -> ImageFile:
    status = path.stat()
    return ImageFile(_text(path.relative_to(root).as_posix()), str(path), status.st_size, status.st_mtime_ns)


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _before_wildcards(place: str) -> str:
    """The folder before the first part of a glob that has a wildcard."""
    parts = Path(place).parts
    fixed = []
    for part in parts:
        if _WILD.search(part):
            break
        fixed.append(part)
    return os.path.join(*fixed) if fixed else "."  # noqa: PTH118


def _in_store(place: str) -> Iterator[ImageFile]:
    fsspec = _fsspec()
    try:
        files, root = fsspec.core.url_to_fs(place)
        root = str(root).rstrip("/")
        if _WILD.search(root):
            found = files.glob(root, detail=True)
            root = _WILD.split(root, maxsplit=1)[0].rpartition("/")[0]
        else:
            found = files.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise DatasetError(
            f"{place}: can't be listed ({error}); check the address and its package"
        ) from error
    protocol = place.partition("://")[0]
    for path in sorted(found, key=lambda path: natural_key(Path(path))):
        facts = found[path]
        if facts.get("type") == "file" and is_image(Path(path)):
            name = path.removeprefix(root).lstrip("/")
            yield ImageFile(_text(name), f"{protocol}://{path}", int(facts.get("size") or 0), _changed(facts))


def _changed(facts: dict[str, Any]) -> int:
    """A number that a change of a stored file changes."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created", "ETag", "etag"):
        value = facts.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 10**9)
        if isinstance(value, int | float):
            return int(value * 10**9)
        if isinstance(value, str):
            return int.from_bytes(hashlib.sha256(value.encode()).digest()[:7], "big")
    return 0


def _fsspec() -> Any:
    try:
        import fsspec
        import fsspec.core
    except ImportError:
        raise GoodpartsError(
            "addresses with :// need fsspec; pip install fsspec, and the package of the store"
        ) from None
    return fsspec
