"""From an opened image file to its pixels as an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.data import deep, structure, tiff
from goodparts.data.image_file import ImageHeader, open_picture, orientation_of, reason_of
from goodparts.errors import ImageError

Scalar = TypeVar("Scalar", bound=np.generic)

_HALF = 128  # of 256 levels: from here on a lossy mask marks a defect


def decode(
    stream: BinaryIO,
    picture: Any,
    header: ImageHeader,
    name: str,
    convert: Callable[[Any], NDArray[Scalar]],
) -> NDArray[Scalar]:
    """Decode, convert to an array and turn it upright; whatever goes wrong names the file.

    What `convert` gets is the picture, loaded; of PGM and PPM with a white of their own, an array of levels.
    """
    try:
        with structure.turn_to_decode(header.width * header.height):
            structure.look_at_pixels(stream, header.format, header.width * header.height)
            levels = deep.pnm_levels(stream, picture) if header.format == "PNM" else None
            if levels is not None:
                return np.ascontiguousarray(convert(levels))
            _load(picture, header)
            # A TIFF is turned by Pillow itself, which then takes the tag away.
            return np.ascontiguousarray(upright(convert(picture), orientation_of(picture)))
    except ImageError:
        raise
    except MemoryError as error:
        megapixels = header.width * header.height / 1e6
        raise ImageError(
            f"{name}: not enough memory to decode {header.width} x {header.height} pixels ({megapixels:.0f} "
            "megapixels); close other programs or lower --pixel-limit"
        ) from error
    except Exception as error:  # decoders raise whatever damaged data makes them stumble over
        raise ImageError(
            f"{name}: the {header.format} image is damaged or truncated and can't be decoded "
            f"({reason_of(error)}). Copy it again from its source, or take it out of the folder"
        ) from error


def _load(picture: Any, header: ImageHeader) -> None:
    if header.format == "TIFF":
        _allocate(picture)
    picture.load()


def _allocate(picture: Any) -> None:
    """Give a TIFF its pixels beforehand: allocating them itself it would ask Pillow's own limit."""
    from PIL import Image

    picture.im = Image.new(picture.mode, getattr(picture, "_tile_size", picture.size)).im


def is_grey_deep(picture: Any) -> bool:
    """Whether a picture is grey of 16 bits."""
    mode: str = picture.mode
    return mode == "I" or mode.startswith("I;16")


def pixels_to_rgb(
    picture: Any, header: ImageHeader, name: str, depth: int, stream: BinaryIO
) -> NDArray[np.uint8]:
    """`(h, w, 3) uint8 RGB` of a loaded picture, or of levels as `decode` gives them; not turned upright."""
    if isinstance(picture, np.ndarray):
        whole = header.bits < deep.FULL  # scaled by the white that the file names
        return levels_to_rgb(picture, deep.FULL if whole else depth, name)
    if is_grey_deep(picture):
        levels = np.asarray(picture)
        if header.format == "PNM" and header.bits < deep.FULL:
            return levels_to_rgb(levels[:, :, None].astype(np.uint16), deep.FULL, name)
        depth = depth if header.bits == deep.FULL else header.bits
        if header.format == "TIFF" and tiff.white_is_zero(picture):
            return 255 - levels_to_rgb(levels[:, :, None], depth, name)
        return levels_to_rgb(levels[:, :, None], depth, name)
    high = colours(picture)
    if header.bits < deep.FULL or depth == deep.FULL:
        return high
    again, _ = open_picture(stream, name)
    channels = deep.seek_low_bytes(again)
    if channels is None:
        raise ImageError(
            f"{name}: has 16-bit colours of a kind of which only the upper 8 bits can be read, and with bit_depth = "
            f"{depth} these are nearly black; save it as PNG, or let the camera scale its levels to 16 bits"
        )
    _load(again, header)
    low = np.asarray(again)[:, :, channels]
    return deep.to_8_bits((high.astype(np.uint16) << 8) | low, depth, name)


def colours(picture: Any) -> NDArray[np.uint8]:
    """`(h, w, 3) uint8 RGB` of a loaded picture that is not grey of 16 bits."""
    # Alpha is ignored, and a transparent palette entry or colour key with it.
    picture.info.pop("transparency", None)
    straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
    if straight is not None:
        picture = picture.convert(straight)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def levels_to_rgb(levels: NDArray[Any], depth: int, name: str) -> NDArray[np.uint8]:
    """From `(h, w, 1)` or `(h, w, 3)` levels, of 8 bits or of 16 of which `depth` are in use."""
    pixels = deep.to_8_bits(levels, depth, name) if levels.dtype.itemsize > 1 else levels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def pixels_to_mask(picture: Any, white_is_zero: bool, lossy: bool) -> NDArray[np.bool_]:
    """`(h, w) bool`, True for a defect, of what `pixels_to_rgb` takes."""
    if isinstance(picture, np.ndarray):
        return np.asarray((picture > 0).any(axis=2))
    if picture.mode == "F" or is_grey_deep(picture):
        levels = np.asarray(picture)
        return levels < 65535 if white_is_zero else levels > 0
    straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
    if straight is not None:
        picture = picture.convert(straight)
    rgba = np.asarray(picture.convert("RGBA"))
    shown: NDArray[np.bool_] = rgba[:, :, 3] > 0
    defect: NDArray[np.bool_] = (rgba[:, :, :3] >= (_HALF if lossy else 1)).any(axis=2) & shown
    black_on_nothing = not defect.any() and not shown.all()
    return shown if black_on_nothing else defect


def is_lossy(stream: BinaryIO, picture: Any, header: ImageHeader) -> bool:
    """Whether the format of a file changes levels a little when it is saved."""
    if header.format == "WEBP":
        stream.seek(0)
        return b"VP8 " in stream.read(1 << 16)
    if header.format == "JPEG2000":
        stream.seek(0)
        start = stream.read(1 << 16)
        coding = start.find(b"\xff\x52")  # its last byte: 1 where the wavelet can be undone
        return start[coding + 13 : coding + 14] != b"\1"
    return header.format == "JPEG" or picture.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def upright(pixels: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Undo an EXIF orientation (Exif 2.3, table 6) on `(h, w, ...)` pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
