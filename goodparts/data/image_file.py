"""An image file, opened: whatever is given as one, and what its header says before anything is decoded."""

from __future__ import annotations

import importlib
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from goodparts.data import deep, formats, structure, tiff
from goodparts.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from PIL.ImageFile import ImageFile

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any] | PILImage"
)
"""What is taken as an image: a path, the bytes of a file, an open file, an array of pixels, an image of Pillow."""

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself before it is decoded.

    Attributes:
        width, height: pixels, after EXIF orientation.
        mode: Pillow's name for the kind of pixel, such as "L", "RGB" or "I;16".
        bits: bits of one channel as stored, such as 8 or 16.
        format: by content, one of `formats.SUFFIXES`, such as "PNG".
    """

    width: int
    height: int
    mode: str
    bits: int
    format: str


def path_of(image: ImageLike) -> Path | None:
    """The path of an image that is a file, else None."""
    return Path(image) if isinstance(image, str | os.PathLike) else None


def name_of(image: object) -> str:
    """What errors call an image."""
    if isinstance(image, str | os.PathLike):
        return str(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return "image bytes"
    if isinstance(image, np.ndarray):
        return "image array"
    named = getattr(image, "filename" if is_pillow_image(image) else "name", None)
    return str(named) if isinstance(named, str) and named else "image"


def is_pillow_image(image: object) -> bool:
    """Whether this is an image of Pillow, which is not imported to find out."""
    module = sys.modules.get("PIL.Image")  # whoever has such an image has imported it, to the end
    kind = getattr(module, "Image", None)  # while another thread still imports it there is none
    return kind is not None and isinstance(image, kind)


def require_regular(path: Path) -> None:
    """Raise ImageError if a path leads to something that is neither a file nor missing, such as a folder or a pipe.

    Opening a pipe would wait for ever for somebody who writes into it.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path}: is a folder; expected an image file")
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")
        raise ImageError(f"{path}: is {kind}; expected an image file")


@contextmanager
def opened(image: Any) -> Iterator[tuple[BinaryIO, str]]:
    """Open a path, bytes or an open file for reading, with the name that errors give it."""
    if isinstance(image, bytes | bytearray | memoryview):
        yield BytesIO(image), name_of(image)
        return
    if hasattr(image, "read"):
        yield BytesIO(_content(image)), name_of(image)
        return
    if not isinstance(image, str | os.PathLike):
        raise ImageError(
            f"image: expected a path, the bytes of an image file, an open file, a NumPy array or an image of Pillow, "
            f"found {type(image).__name__}"
        )
    try:
        path = Path(image)
        require_regular(path)
        stream = path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"{image}: no such file; check the name and the folder") from None
    except (OSError, ValueError, TypeError) as error:  # a NUL in the name, or a name of bytes
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{image}: can't be opened ({reason}); check the file and your permissions"
        ) from error
    with stream:
        yield stream, str(path)


def _content(file: Any) -> bytes:
    """All of an open file, from its beginning where it can go there."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError, AttributeError) as error:
        raise ImageError(f"{name_of(file)}: can't be read ({reason_of(error)})") from error
    if not isinstance(content, bytes):
        raise ImageError(
            f"{name_of(file)}: gives text; expected a file that is opened for bytes, as with 'rb'"
        )
    return content


def open_picture(stream: BinaryIO, name: str) -> tuple[ImageFile, ImageHeader]:
    """Read the header with the Pillow plugin that the content asks for.

    The plugin is called directly: `PIL.Image.open` would hold the image against a limit of its own, which is
    a global of the process and answers with warnings.
    """
    try:
        stream.seek(0)
        start = stream.read(formats.START)
    except OSError as error:
        raise ImageError(f"{name}: can't be read ({error.strerror or error})") from error
    image_format = formats.format_of(start)
    if image_format is None:
        raise ImageError(
            f"{name}: not an image that can be read: {formats.in_words(start)}. "
            f"Expected {formats.IN_WORDS}; convert it or take it out of the folder"
        )
    try:
        structure.look_at_header(stream, image_format)
        stream.seek(0)
        module, plugin = formats.PLUGINS[image_format]
        picture = getattr(importlib.import_module(module), plugin)(stream)
        header = _header(picture, image_format, start)
        if image_format == "TIFF":
            tiff.mend(picture)
    except Exception as error:  # plugins raise whatever a damaged header makes them stumble over
        raise ImageError(
            f"{name}: a {image_format} image that is damaged, or of a kind that can't be read "
            f"({reason_of(error)}). Save it again as an 8- or 16-bit PNG"
        ) from error
    return picture, header


def _header(picture: Any, image_format: str, start: bytes) -> ImageHeader:
    width, height = picture.size
    orientation = 1
    bits = 1 if picture.mode == "1" else 16 if picture.mode.startswith("I;16") else 8
    if image_format == "TIFF":
        width, height = picture.tag_v2[tiff.WIDTH], picture.tag_v2[tiff.LENGTH]
        orientation = picture.tag_v2.get(_ORIENTATION, 1)
        bits = tiff.bits(picture)
    elif image_format == "PNG":
        bits = start[24]
        # Pillow would decode a PNG in search of EXIF data: only look where some stands before the pixels.
        if "exif" in picture.info or "XML:com.adobe.xmp" in picture.info:
            orientation = orientation_of(picture)
    elif image_format == "PNM":
        bits = deep.maximum_of_pnm(picture).bit_length()
    else:
        orientation = orientation_of(picture)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return ImageHeader(width=width, height=height, mode=picture.mode, bits=bits, format=image_format)


def orientation_of(picture: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or only damaged metadata."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return 1  # the pixels are whole; viewers, too, show such an image as it is stored
    return orientation if orientation in range(1, 9) else 1


def reason_of(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
