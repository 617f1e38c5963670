"""Reading images and masks: whatever the file holds, pixels come out as `(h, w, 3) uint8 RGB`.

The content decides what a file is, never its name. The header is read first, so an image that is too large is
refused before any of it is decoded. Everything here may be called from several threads at once.

How pixels become 8-bit RGB:

- 16-bit channels keep their high byte (`value >> 8`), 12-bit ones their upper 8 bits. Nothing is stretched or
  clamped, so two images of one camera stay comparable.
- Alpha is ignored: the colours are taken as they are stored. (A premultiplied TIFF is divided by its alpha.)
- Grey is repeated three times; palettes, CMYK and YCbCr become RGB; colour profiles are not applied.
- EXIF orientation is applied, so an image stands as a viewer shows it.
- Of an animation or a multi-page file, the first frame is taken.
- Floating point, 32-bit integer and Lab images are refused: their range can't be known.
"""

from __future__ import annotations

import importlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Scalar = TypeVar("Scalar", bound=np.generic)
ImageLike = str | os.PathLike[str] | bytes | NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
PIXEL_LIMIT = 100_000_000  # pixels; about 400 MB once decoded
MINIMUM_SIDE = 8  # pixels; nothing smaller can be an image of a part

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_BITS = 256, 257, 258

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

_PLUGINS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
}

_FOREIGN_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the image itself was never fetched (`git lfs pull`)"),
    (b"GIF8", "a GIF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xffO\xffQ", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"MZ", "a Windows program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"RIFF", "an audio or video file"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"<svg", "an SVG drawing"),
)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself before it is decoded.

    Attributes:
        width, height: pixels, after EXIF orientation.
        mode: Pillow's name for the kind of pixel, such as "L", "RGB" or "I;16".
        bits: bits of one channel as stored, such as 8 or 16.
        format: "PNG", "JPEG", "BMP", "TIFF" or "WEBP", by content.
    """

    width: int
    height: int
    mode: str
    bits: int
    format: str


def read_image(image: ImageLike, *, pixel_limit: int = PIXEL_LIMIT) -> NDArray[np.uint8]:
    """Read one image.

    Args:
        image: a path, the bytes of an image file, or an array: `(h, w, 3)` RGB, `(h, w, 4)` RGBA, `(h, w)` or
            `(h, w, 1)` grey, all uint8. An RGB array that is already contiguous is returned as it is.
        pixel_limit: files of more pixels are refused before they are decoded. Arrays are not limited.

    Returns:
        `(h, w, 3) uint8 RGB`, contiguous.

    Raises:
        ImageError: the file is missing, damaged, truncated, too large, too small or no image of a known kind,
            or the array has another dtype or shape.
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    with _stream(image) as (stream, name):
        picture, header = _open(stream, name)
        _require_readable(header, name, pixel_limit)
        if min(header.width, header.height) < MINIMUM_SIDE:
            raise ImageError(_too_small(name, header.width, header.height))
        return _decode(picture, header, name, _pixels_to_rgb)


def read_mask(path: str | os.PathLike[str], *, pixel_limit: int = PIXEL_LIMIT) -> NDArray[np.bool_]:
    """Read a ground-truth mask: every pixel above 0 is a defect.

    A palette counts by its colours (black is no defect), and a fully transparent pixel is no defect whatever
    its colour.

    Returns:
        `(h, w) bool`, True for a defect.

    Raises:
        ImageError: as `read_image`; a mask may be of any size.
    """
    with _stream(path) as (stream, name):
        picture, header = _open(stream, name)
        _require_within(header, name, pixel_limit)
        return _decode(picture, header, name, _pixels_to_mask)


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read only what an image file says about itself; nothing is decoded.

    Raises:
        ImageError: the file is missing, no image of a known kind, or its header is damaged.
    """
    with _stream(path) as (stream, name):
        return _open(stream, name)[1]


def path_of(image: ImageLike) -> Path | None:
    """The path of an image that is a file, else None."""
    return Path(image) if isinstance(image, str | os.PathLike) else None


def name_of(image: ImageLike) -> str:
    """What errors call an image."""
    if isinstance(image, str | os.PathLike):
        return str(image)
    return "image bytes" if isinstance(image, bytes) else "image array"


def image_size(path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Return `(width, height, mode)` from the header of an image file, the size after EXIF orientation.

    Raises:
        ImageError: as `read_header`.
    """
    header = read_header(path)
    return header.width, header.height, header.mode


# ---- files and what is in them -------------------------------------------------------------------


@contextmanager
def _stream(image: str | os.PathLike[str] | bytes) -> Iterator[tuple[BinaryIO, str]]:
    """Open a path or bytes for reading, with the name that errors give it."""
    if isinstance(image, bytes):
        yield BytesIO(image), "image bytes"
        return
    path = Path(image)
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder; expected an image file")
        stream = path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; check the name and the folder") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{path}: can't be opened ({reason}); check the file and your permissions"
        ) from error
    with stream:
        yield stream, str(path)


def _open(stream: BinaryIO, name: str) -> tuple[ImageFile, ImageHeader]:
    """Read the header with the Pillow plugin that the content asks for.

    The plugin is called directly: `PIL.Image.open` would hold the image against a limit of its own, which is
    a global of the process and answers with warnings.
    """
    try:
        start = stream.read(256)
        stream.seek(0)
    except OSError as error:
        raise ImageError(f"{name}: can't be read ({error.strerror or error})") from error
    image_format = _sniff(start)
    if image_format is None:
        raise ImageError(
            f"{name}: not an image that can be read: {_describe(start)}. "
            "Expected PNG, JPEG, BMP, TIFF or WebP; convert it or take it out of the folder"
        )
    try:
        module, plugin = _PLUGINS[image_format]
        picture = getattr(importlib.import_module(module), plugin)(stream)
        header = _header(picture, image_format, start)
    except Exception as error:  # plugins raise whatever a damaged header makes them stumble over
        raise ImageError(
            f"{name}: a {image_format} image that is damaged, or of a kind that can't be read "
            f"({_reason(error)}). Save it again as an 8- or 16-bit PNG"
        ) from error
    return picture, header


def _sniff(start: bytes) -> str | None:
    """Name the image format by its first bytes, or None for anything that isn't read."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)


def _describe(start: bytes) -> str:
    """Say in words what a file is that isn't an image."""
    if not start:
        return "the file is empty (0 bytes)"
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("ascii", "replace").strip()
        return "it is an HEIC or AVIF image" if brand[:3] in {"hei", "hev", "mif", "avi"} else "it is a video"
    if start[128:132] == b"DICM":
        return "it is a DICOM image"
    for signature, words in _FOREIGN_SIGNATURES:
        if start.lstrip().lower().startswith(signature.lower()):
            return f"it is {words}"
    if not start.strip(b"\0"):
        return "it holds nothing but zeros"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode("utf-8") if error.start > len(start) - 4 else "\0"
    if all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return "it is a text file"
    return f"its content is unknown (it starts with {start[:8].hex(' ')})"


def _header(picture: Any, image_format: str, start: bytes) -> ImageHeader:
    width, height = picture.size
    orientation = 1
    bits = 1 if picture.mode == "1" else 8
    if image_format == "TIFF":
        width, height = picture.tag_v2[_TIFF_WIDTH], picture.tag_v2[_TIFF_LENGTH]
        orientation = picture.tag_v2.get(_ORIENTATION, 1)
        bits = max(picture.tag_v2.get(_TIFF_BITS, (1,)))
    elif image_format == "PNG":
        bits = start[24]
        # Pillow would decode a PNG in search of EXIF data: only look where some stands before the pixels.
        if "exif" in picture.info or "XML:com.adobe.xmp" in picture.info:
            orientation = _orientation(picture)
    else:
        orientation = _orientation(picture)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return ImageHeader(width=width, height=height, mode=picture.mode, bits=bits, format=image_format)


def _orientation(picture: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or only damaged metadata."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return 1  # the pixels are whole; viewers, too, show such an image as it is stored
    return orientation if orientation in range(1, 9) else 1


# ---- what is refused -----------------------------------------------------------------------------


def _require_readable(header: ImageHeader, name: str, pixel_limit: int) -> None:
    _require_within(header, name, pixel_limit)
    found = None
    if header.mode == "F":
        found = "floating point"
    elif header.mode == "I" and header.format != "PNG":  # PNG stores at most 16 bits, whatever the mode
        found = f"{header.bits}-bit signed or 32-bit integer"
    elif header.mode == "LAB":
        found = "Lab"
    if found is not None:
        raise ImageError(
            f"{name}: has {found} pixels, whose range can't be known; expected 8- or 16-bit grey or colour. "
            "Scale it to 16 bits when saving, by the same factor for all images"
        )


def _require_within(header: ImageHeader, name: str, pixel_limit: int) -> None:
    if header.width * header.height > pixel_limit:
        pixels = f"{header.width} x {header.height} = {header.width * header.height:,} pixels"
        raise ImageError(
            f"{name}: has {pixels}, more than the limit of {pixel_limit:,}. "
            "If the image is meant to be so large, raise --pixel-limit"
        )


def _too_small(name: str, width: int, height: int) -> str:
    return f"{name}: is {width} x {height} pixels; expected at least {MINIMUM_SIDE} on each side"


# ---- pixels --------------------------------------------------------------------------------------


def _decode(
    picture: ImageFile, header: ImageHeader, name: str, convert: Callable[[Any, ImageHeader], NDArray[Scalar]]
) -> NDArray[Scalar]:
    """Decode, convert to an array and turn it upright; whatever goes wrong names the file."""
    try:
        if header.format == "TIFF":
            _allocate(picture)
        picture.load()
        pixels = convert(picture, header)
        # A TIFF is turned by Pillow itself, which then takes the tag away.
        return np.ascontiguousarray(_upright(pixels, _orientation(picture)))
    except MemoryError as error:
        megapixels = header.width * header.height / 1e6
        raise ImageError(
            f"{name}: not enough memory to decode {header.width} x {header.height} pixels ({megapixels:.0f} "
            "megapixels); close other programs or lower --pixel-limit"
        ) from error
    except Exception as error:  # decoders raise whatever damaged data makes them stumble over
        raise ImageError(
            f"{name}: the {header.format} image is damaged or truncated and can't be decoded "
            f"({_reason(error)}). Copy it again from its source, or take it out of the folder"
        ) from error


def _allocate(picture: Any) -> None:
    """Give a TIFF its pixels beforehand: allocating them itself it would ask Pillow's own limit."""
    from PIL import Image

    picture.im = Image.new(picture.mode, getattr(picture, "_tile_size", picture.size)).im


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _pixels_to_rgb(picture: Any, header: ImageHeader) -> NDArray[np.uint8]:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> (header.bits - 8)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # Alpha is ignored, and a transparent palette entry or colour key with it.
    picture.info.pop("transparency", None)
    straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
    if straight is not None:
        picture = picture.convert(straight)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _pixels_to_mask(picture: Any, header: ImageHeader) -> NDArray[np.bool_]:
    if picture.mode == "I" or picture.mode == "F" or picture.mode.startswith("I;16"):
        above: NDArray[np.bool_] = np.asarray(picture) > 0
        return above
    straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
    if straight is not None:
        picture = picture.convert(straight)
    rgba = np.asarray(picture.convert("RGBA"))
    defect: NDArray[np.bool_] = rgba[:, :, :3].any(axis=2) & (rgba[:, :, 3] > 0)
    return defect


def _upright(pixels: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Undo an EXIF orientation (Exif 2.3, table 6) on `(h, w, ...)` pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _array_to_rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            "image array: expected uint8 of shape (h, w, 3), (h, w, 4), (h, w, 1) or (h, w), "
            f"found {array.dtype} of shape {array.shape}"
        )
    if min(array.shape[:2]) < MINIMUM_SIDE:
        raise ImageError(_too_small("image array", array.shape[1], array.shape[0]))
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
