"""Channels of more than 8 bits: how many of them are in use, and how they become 8.

Cameras of 10, 12 or 14 bits write files of 16, mostly with the levels as they are: read as 16 bits, such an image is
nearly black. How many bits are in use no file says, but all good images of a product together show it.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import ImageError

FULL = 16  # bits
DEPTHS = (8, 10, 12, 14, FULL)  # of cameras

_OTHER_ORDER = {"L": "B", "B": "L"}
_BEYOND = 0.25  # share of an image that may be lighter than what a camera of that bit depth can tell
_NATIVE = "L" if sys.byteorder == "little" else "B"


def depth_of(level: int) -> int:
    """The bit depth of the camera whose greatest level this is."""
    return next(depth for depth in DEPTHS if level < 1 << depth)


def is_deep(array: NDArray[Any]) -> bool:
    """Whether an array has 16 bits a channel."""
    return array.dtype.kind == "u" and array.dtype.itemsize == 2


def to_8_bits(levels: NDArray[Any], depth: int, name: str) -> NDArray[np.uint8]:
    """Keep the upper 8 of `depth` bits. Levels that take more become white, as in a camera of so many bits.

    Raises:
        ImageError: more than a quarter are such: then the image was written in another way.
    """
    white = (1 << depth) - 1
    if depth < FULL and (greatest := int(levels.max(initial=0))) > white:
        if np.count_nonzero(levels > white) > _BEYOND * levels.size:
            raise ImageError(
                f"{name}: has levels up to {greatest:,}, and too many beyond {white:,}, which is white with "
                f"bit_depth = {depth}; let the camera write them as it wrote the good images, or "
                f"fit anew with --bit-depth {depth_of(greatest)}"
            )
        levels = np.minimum(levels, white)
    return (levels >> (depth - 8)).astype(np.uint8)


def maximum_of_pnm(picture: Any) -> int:
    """The level that is white in a PGM or PPM file; 1 for PBM."""
    if picture.mode == "1":
        return 1
    arguments = picture.tile[0].args
    if isinstance(arguments, tuple) and isinstance(arguments[-1], int) and len(arguments) == 2:
        return arguments[-1]
    return 65535 if picture.mode == "I" else 255


def pnm_levels(stream: BinaryIO, picture: Any) -> NDArray[Any] | None:
    """Pixels of a binary PGM or PPM whose white is not 255, `(h, w, channels)`, scaled to 8 or 16 bits.

    16 bits where there are more than 8, and then by a power of two where that is how white is written. None for other
    files, which Pillow reads as quickly.

    Raises:
        ValueError: pixels are missing.
    """
    if picture.tile[0].codec_name != "ppm":
        return None
    white = maximum_of_pnm(picture)
    width, height = picture.size
    channels = 3 if picture.mode == "RGB" else 1
    stored = np.dtype(">u2" if white > 255 else "u1")
    stream.seek(picture.tile[0].offset)
    data = stream.read(width * height * channels * stored.itemsize)
    if len(data) < width * height * channels * stored.itemsize:
        raise ValueError("pixels are missing")
    levels = np.minimum(np.frombuffer(data, stored), white).reshape(height, width, channels)
    bits = white.bit_length()
    if white > 255 and white == (1 << bits) - 1:
        return levels.astype(np.uint16) << np.uint16(FULL - bits)
    most, kind = (65535, np.uint16) if white > 255 else (255, np.uint8)
    return np.rint(levels * (most / white)).astype(kind)


def seek_low_bytes(picture: Any) -> slice | None:
    """Have a picture of 16-bit colours, not loaded yet, decoded to the low byte of each.

    Pillow keeps the high byte alone. Told that the bytes stand in the other order, it keeps the low one.

    Returns:
        in which channels they will be; None if it can't be done.
    """
    if picture.mode not in ("RGB", "RGBA"):
        return None
    tiles = []
    for tile in picture.tile:
        first, *others = (tile.args,) if isinstance(tile.args, str) else tile.args
        kind, _, order = first.partition(";16")
        order = _NATIVE if order == "N" else order
        if first == "LA;16B":
            swapped = "RGBA"  # its four bytes
        elif kind in ("RGB", "RGBA", "RGBX", "R", "G", "B", "A") and order in _OTHER_ORDER:
            swapped = f"{kind};16{_OTHER_ORDER[order]}"
        else:
            return None
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *others)))
    picture.tile = tiles
    return slice(1, 2) if first == "LA;16B" else slice(0, 3)
