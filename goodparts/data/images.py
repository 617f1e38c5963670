"""Reading images and masks: whatever the file holds, pixels come out as `(h, w, 3) uint8 RGB`.

The content decides what a file is, never its name. The header is read first, so an image that is too large is
refused before any of it is decoded. Everything here may be called from several threads at once; together they decode
no more than 100 million pixels at a time (or one image that is larger by itself), which takes 1 to 1.4 GB.

How pixels become 8-bit RGB:

- 16-bit channels keep their high byte (`value >> 8`). Where a `bit_depth` is given, they hold so many bits and no more,
  and keep the upper 8 of these; levels beyond become white, and an image with many such is refused. Levels of 12-bit
  files, and of PGM and PPM with a maximum of their own, keep the upper 8 bits, too. Nothing is stretched, so two images
  of one camera stay comparable.
- Alpha is ignored: the colours are taken as they are stored. (A premultiplied TIFF is divided by its alpha.)
- Grey is repeated three times; palettes, CMYK and YCbCr become RGB; colour profiles are not applied.
- EXIF orientation is applied, so an image stands as a viewer shows it.
- Of an animation or a multi-page file, the first frame is taken.
- Signed, floating point, 32-bit integer and Lab images are refused: their range can't be known.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.data import deep, pixels, structure, tiff
from goodparts.data.image_file import (
    ImageHeader,
    ImageLike,
    is_pillow_image,
    name_of,
    open_picture,
    opened,
    orientation_of,
    path_of,
    reason_of,
    require_regular,
)
from goodparts.errors import ImageError

__all__ = [
    "MINIMUM_SIDE",
    "PIXEL_LIMIT",
    "ImageHeader",
    "ImageLike",
    "greatest_level",
    "image_size",
    "is_deep",
    "is_lossy",
    "name_of",
    "path_of",
    "read_header",
    "read_image",
    "read_mask",
    "require_regular",
]

PIXEL_LIMIT = 100_000_000  # of one file
MINIMUM_SIDE = 8  # pixels; nothing smaller can be an image of a part


def read_image(
    image: ImageLike, *, pixel_limit: int = PIXEL_LIMIT, bit_depth: int | None = None
) -> NDArray[np.uint8]:
    """Read one image.

    Args:
        image: a path, the bytes of an image file or the file itself, open (it is read from its beginning), an image of
            Pillow, or an array: `(h, w, 3)` RGB, `(h, w, 4)` RGBA, `(h, w)` or `(h, w, 1)` grey, uint8 or uint16. An
            RGB array of uint8 that is already contiguous is returned as it is.
        pixel_limit: files of more pixels are refused before they are decoded. What is decoded already is not limited.
        bit_depth: how many of 16 bits are in use; None or 0: all.

    Returns:
        `(h, w, 3) uint8 RGB`, contiguous.

    Raises:
        ImageError: the file is missing, damaged, truncated, too large, too small or no image of a known kind, has
            levels beyond the bit depth, or the array has another dtype or shape.
    """
    depth = bit_depth or deep.FULL
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, depth)
    if is_pillow_image(image):
        return _picture_to_rgb(image, depth)
    with opened(image) as (stream, name):
        picture, header = open_picture(stream, name)
        _require_readable(picture, header, name, pixel_limit)
        if min(header.width, header.height) < MINIMUM_SIDE:
            raise ImageError(_too_small(name, header.width, header.height))
        return pixels.decode(
            stream,
            picture,
            header,
            name,
            lambda loaded: pixels.pixels_to_rgb(loaded, header, name, depth, stream),
        )


def read_mask(path: str | os.PathLike[str], *, pixel_limit: int = PIXEL_LIMIT) -> NDArray[np.bool_]:
    """Read a ground-truth mask: every pixel above 0 is a defect; of a lossy file (JPEG, WebP), from 128 of 255 on.

    A palette counts by its colours (black is no defect), and a fully transparent pixel is no defect whatever
    its colour. Where all that can be seen is black on transparency, it is the defect.

    Returns:
        `(h, w) bool`, True for a defect.

    Raises:
        ImageError: as `read_image`; a mask may be of any size.
    """
    with opened(path) as (stream, name):
        picture, header = open_picture(stream, name)
        _require_within(header, name, pixel_limit)
        lossy = pixels.is_lossy(stream, picture, header)
        white_is_zero = header.format == "TIFF" and tiff.white_is_zero(picture)
        return pixels.decode(
            stream, picture, header, name, lambda loaded: pixels.pixels_to_mask(loaded, white_is_zero, lossy)
        )


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read only what an image file says about itself; nothing is decoded.

    Raises:
        ImageError: the file is missing, no image of a known kind, or its header is damaged.
    """
    with opened(path) as (stream, name):
        return open_picture(stream, name)[1]


def is_lossy(path: str | os.PathLike[str]) -> bool:
    """Whether a file's format changes pixels a little when it is saved, so that a mask has no clean edge; ImageError as
    `read_header`."""
    with opened(path) as (stream, name):
        return pixels.is_lossy(stream, *open_picture(stream, name))


def is_deep(image: ImageLike) -> bool:
    """Whether an image has 16 bits a channel, of which not all need to be in use; ImageError as `read_header`."""
    if isinstance(image, np.ndarray):
        return deep.is_deep(image)
    if is_pillow_image(image):
        return _bits_of_picture(image) == deep.FULL
    with opened(image) as (stream, name):
        return open_picture(stream, name)[1].bits == deep.FULL


def greatest_level(image: ImageLike, *, pixel_limit: int = PIXEL_LIMIT) -> int:
    """The greatest level, 0 to 65535, of an image of 16 bits a channel as it is stored.

    Of colours only the high byte is looked at, so that it may be up to 255 less than what is returned. ImageError as
    `read_image`.
    """
    if isinstance(image, np.ndarray):
        return int(image.max(initial=0))
    if is_pillow_image(image):
        return int(np.asarray(image).max(initial=0))
    with opened(image) as (stream, name):
        picture, header = open_picture(stream, name)
        _require_readable(picture, header, name, pixel_limit)

        def greatest(loaded: Any) -> NDArray[np.uint16]:
            if isinstance(loaded, np.ndarray) or pixels.is_grey_deep(loaded):
                level = int(np.asarray(loaded).max())
            else:
                level = int(pixels.colours(loaded).max()) << 8 | 0xFF
            return np.full((1, 1), level, np.uint16)

        return int(pixels.decode(stream, picture, header, name, greatest)[0, 0])


def image_size(path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Return `(width, height, mode)` from the header of an image file, the size after EXIF orientation.

    Raises:
        ImageError: as `read_header`.
    """
    header = read_header(path)
    return header.width, header.height, header.mode


# ---- what is refused -----------------------------------------------------------------------------


def _require_readable(picture: Any, header: ImageHeader, name: str, pixel_limit: int) -> None:
    _require_within(header, name, pixel_limit)
    found = None
    if header.mode == "F":
        found = "floating point"
    elif header.mode == "I" and header.format not in ("PNG", "PNM"):  # these store at most 16 bits
        found = f"{header.bits}-bit signed or 32-bit integer"
    elif header.mode == "LAB":
        found = "Lab"
    if found is not None:
        raise ImageError(
            f"{name}: has {found} pixels, whose range can't be known; expected 8- or 16-bit grey or colour. "
            "Scale it to 16 bits when saving, by the same factor for all images"
        )
    if header.format == "TIFF" and (problem := tiff.unreadable(picture)) is not None:
        raise ImageError(f"{name}: has {problem}. Save it again as an 8- or 16-bit PNG")


def _require_within(header: ImageHeader, name: str, pixel_limit: int) -> None:
    if header.width * header.height > pixel_limit:
        pixels = f"{header.width} x {header.height} = {header.width * header.height:,} pixels"
        raise ImageError(
            f"{name}: has {pixels}, more than the limit of {pixel_limit:,}. "
            "If the image is meant to be so large, raise --pixel-limit"
        )


def _too_small(name: str, width: int, height: int) -> str:
    return f"{name}: is {width} x {height} pixels; expected at least {MINIMUM_SIDE} on each side"


# ---- what is decoded already ---------------------------------------------------------------------


def _array_to_rgb(array: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    is_known = array.dtype == np.uint8 or deep.is_deep(array)
    if not is_known or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            "image array: expected uint8 or uint16 of shape (h, w, 3), (h, w, 4), (h, w, 1) or (h, w), "
            f"found {array.dtype} of shape {array.shape}"
        )
    if min(array.shape[:2]) < MINIMUM_SIDE:
        raise ImageError(_too_small("image array", array.shape[1], array.shape[0]))
    return pixels.levels_to_rgb(array.reshape(*array.shape[:2], channels)[:, :, :3], depth, "image array")


def _bits_of_picture(picture: Any) -> int:
    return deep.FULL if picture.mode.startswith("I;16") or _is_deep_png(picture) else 8


def _is_deep_png(picture: Any) -> bool:
    """Whether older releases of Pillow read 16-bit grey into 32-bit integers."""
    return bool(picture.mode == "I" and picture.format in ("PNG", "PPM"))


def _picture_to_rgb(picture: Any, depth: int) -> NDArray[np.uint8]:
    """As the file would be read that the picture came from."""
    name = name_of(picture)
    if picture.mode in ("F", "LAB") or (picture.mode == "I" and not _is_deep_png(picture)):
        raise ImageError(
            f"{name}: is a Pillow image of mode {picture.mode}, whose range can't be known; expected 8- or 16-bit grey "
            "or colour"
        )
    if picture.format == "TIFF" and (problem := tiff.unreadable_by_pillow(picture)) is not None:
        raise ImageError(f"{name}: is a Pillow image of a TIFF with {problem}; give the file itself")
    if min(picture.size) < MINIMUM_SIDE:
        raise ImageError(_too_small(name, *picture.size))
    try:
        with structure.turn_to_decode(picture.width * picture.height):
            picture.load()
            if pixels.is_grey_deep(picture):
                array = pixels.levels_to_rgb(np.asarray(picture)[:, :, None], depth, name)
            else:
                array = pixels.colours(picture if "transparency" not in picture.info else picture.copy())
            return np.ascontiguousarray(pixels.upright(array, orientation_of(picture)))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{name}: can't be decoded ({reason_of(error)})") from error
