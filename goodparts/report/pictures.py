"""Pictures of what was found: heatmaps, outlines, masks.

    scale = heatmap_scale(inspection.pixel_threshold)                    # one scale for all pictures of a run
    overlay = heatmap_overlay(image, inspection.anomaly_map, low=scale[0], high=scale[1])
    found = segmentation_picture(image, inspection.mask)

Pixels that were not looked at (NaN in the anomaly map) are covered with diagonal grey stripes wherever
something is said about them. All of it may be called from several threads at once.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont
from PIL.PngImagePlugin import PngInfo

from goodparts.files import replacing
from goodparts.report.picture_files import SOFTWARE

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]  # (H, W)
Colour = tuple[int, int, int]

# Yellow and sky blue stay apart from each other and from grey metal in every kind of colour blindness; the
# dark rim around an outline keeps it visible on bright metal. Green and orange are Okabe and Ito's, darkened
# until white letters on them have a contrast of at least 4.5.
FOUND: Colour = (255, 221, 0)
TRUTH: Colour = (86, 180, 233)
RIM: Colour = (16, 16, 20)
GOOD_COLOUR: Colour = (0, 120, 90)
BAD_COLOUR: Colour = (190, 70, 0)
RECHECK_COLOUR: Colour = (91, 79, 160)
WRONG_COLOUR: Colour = (24, 24, 28)
BORDERLINE_COLOUR: Colour = (240, 190, 0)
INK: Colour = (28, 30, 36)
QUIET: Colour = (92, 96, 108)
PAPER: Colour = (255, 255, 255)
NOT_LOOKED_AT = 128  # the grey of NaN in `jet`


def _jet_table() -> Picture:
    position = np.arange(256) / 255
    centres = np.array([0.75, 0.5, 0.25])  # of red, green and blue
    table = np.clip(1.5 - 4 * np.abs(position[:, None] - centres), 0, 1)
    colours: Picture = np.rint(255 * table).astype(np.uint8)
    return colours


_JET = _jet_table()


def jet(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour values with the classic jet map: dark blue at 0, green at 0.5, dark red at 1.

    Args:
        values: any shape (...), float; clipped to [0, 1].

    Returns:
        (..., 3) uint8 RGB; NaN is mid grey, which jet does not contain.
    """
    nan = np.isnan(values)
    index = np.rint(255 * np.clip(np.where(nan, 0, values), 0, 1)).astype(np.intp)
    colours: NDArray[np.uint8] = _JET[index]
    colours[nan] = NOT_LOOKED_AT
    return colours


def heatmap_scale(pixel_threshold: float, typical: float | None = None) -> tuple[float, float]:
    """Return the ends of the colour scale that all pictures of one run share.

    It starts, dark blue, at what is typical of good parts, and has the threshold in its middle: blue is good,
    yellow and red are bad.

    Args:
        pixel_threshold: value of the anomaly map above which a pixel is bad.
        typical: value of the anomaly map on good parts, their mean or median; half the threshold if None or
            not below the threshold.

    Returns:
        (low, high), low < high.
    """
    if not math.isfinite(pixel_threshold):
        return 0.0, 1.0
    if typical is None or not typical < pixel_threshold:
        typical = pixel_threshold - max(abs(pixel_threshold) / 2, 1e-6)
    return float(typical), float(2 * pixel_threshold - typical)


def heatmap_overlay(
    image: Picture, anomaly_map: NDArray[np.float32], *, low: float, high: float, opacity: float = 0.5
) -> Picture:
    """Lay an anomaly map over its image in jet colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) float32; NaN, not looked at, is striped.
        low: value shown dark blue, like everything below it.
        high: value shown dark red, like everything above it.
        opacity: share of the colours in the mixture, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if the sizes differ, or `low` is not below `high`.
    """
    check_size(image, anomaly_map, "anomaly_map")
    if not low < high:
        raise ValueError(f"low, high: expected low < high, found {low}, {high}")
    colours = jet((anomaly_map - np.float32(low)) / np.float32(high - low))
    return hatch(_mix(image, colours, opacity), np.isnan(anomaly_map))


def hatch(image: Picture, where: Mask) -> Picture:
    """Return a copy of an image with diagonal grey stripes over the pixels that were not looked at.

    Args:
        image: (H, W, 3) uint8 RGB.
        where: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    check_size(image, where, "where")
    striped = image.copy()
    rows, columns = np.nonzero(where)
    period = max(6, round(max(where.shape) / 30))
    stripes = np.where((rows + columns) % period < period // 2, 90, 190)
    grey = 0.3 * image[rows, columns, 1] + 0.7 * stripes
    striped[rows, columns] = np.rint(grey).astype(np.uint8)[:, None]
    return striped


def outline(mask: Mask, width: int) -> Mask:
    """Return the line around the regions of a mask.

    The line runs outside the regions, so that it hides nothing of a small defect; only where a region touches
    the edge of the picture does it run inside.

    Args:
        mask: (H, W) bool.
        width: of the line, in pixels.

    Returns:
        (H, W) bool.
    """
    edge = np.ones_like(mask)
    edge[width:-width, width:-width] = False
    line: Mask = (_grow(mask, width) & ~mask) | (mask & edge)
    return line


def segmentation_picture(image: Picture, mask: Mask, colour: Colour = FOUND) -> Picture:
    """Draw the regions of a mask on their image: an outline with a dark rim, and a translucent filling.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        colour: of outline and filling, RGB.

    Returns:
        (H, W, 3) uint8 RGB; the image itself, copied, where the mask is empty.
    """
    check_size(image, mask, "mask")
    picture = image.copy()
    if not mask.any():
        return picture
    width = max(2, round(max(mask.shape) / 320))
    line = outline(mask, width)
    picture[_grow(mask, width + max(1, width // 2)) & ~mask] = RIM
    picture[mask] = _mix(image[mask], np.array(colour, dtype=np.uint8), 0.25)
    picture[line] = colour
    return picture


def mask_picture(mask: Mask) -> NDArray[np.uint8]:
    """Return a mask (H, W) bool as (H, W) uint8: 255 where bad, 0 elsewhere."""
    return mask.astype(np.uint8) * np.uint8(255)


def save_panel(path: Path, panel: Image.Image) -> None:
    """Write a panel as PNG, at the compression that costs little time; raises `OutputError`."""
    _save(path, panel, "PNG", compress_level=3, pnginfo=_made_here())


def save_map(path: Path, anomaly_map: NDArray[np.float32]) -> None:
    """Write an anomaly map (H, W) as an uncompressed float32 TIFF, NaN included; raises `OutputError`."""
    _save(
        path, Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32)), "TIFF", software=SOFTWARE
    )


def save_mask(path: Path, mask: Mask) -> None:
    """Write a mask (H, W) bool as an 8-bit grey PNG of 0 and 255; raises `OutputError`."""
    _save(path, Image.fromarray(mask_picture(mask)), "PNG", pnginfo=_made_here())


def _mix(under: Picture, over: Picture, opacity: float) -> Picture:
    mixed = under * np.float32(1 - opacity) + over * np.float32(opacity)
    return np.rint(mixed).astype(np.uint8)


def _grow(mask: Mask, width: int) -> Mask:
    """Grow a mask by a number of pixels; crosses and squares in turn make the corners octagonal."""
    for step in range(width):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        side = tall if step % 2 else mask
        grown = tall.copy()
        grown[:, 1:] |= side[:, :-1]
        grown[:, :-1] |= side[:, 1:]
        mask = grown
    return mask


def check_size(image: Picture, other: NDArray[np.generic], name: str) -> None:
    """Raise ValueError, which names the argument, if `other` (H, W) is not of the size of an image (H, W, 3)."""
    if image.ndim != 3 or other.shape != image.shape[:2]:
        raise ValueError(f"{name}: expected the size of the image, {image.shape[:2]}, found {other.shape}")


def fit_image(image: Picture, size: tuple[int, int]) -> Picture:
    """Resize an image (H, W, 3) to (width, height)."""
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(resized)


def fit_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map: the mean of what was looked at, and NaN only where less than half was."""
    pixel_mask = ~np.isnan(values)
    resized = _resize_float(np.where(pixel_mask, values, np.float32(0)), size)
    if pixel_mask.all():
        return resized
    weight = _resize_float(pixel_mask.astype(np.float32), size)
    resized[weight < 0.5] = np.nan
    resized /= np.maximum(weight, np.float32(0.5))
    return resized


def _resize_float(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


def fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask so that not even a single pixel gets lost."""
    (height, width), (new_width, new_height) = mask.shape, size
    if new_width > width:
        rows, columns = (
            np.arange(new_height) * height // new_height,
            np.arange(new_width) * width // new_width,
        )
        return mask[np.ix_(rows, columns)]
    rows, columns = np.nonzero(mask)
    fitted = np.zeros((new_height, new_width), dtype=bool)
    fitted[rows * new_height // height, columns * new_width // width] = True
    return fitted


@lru_cache(maxsize=32)
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return DejaVu Sans, which matplotlib brings along: Pillow's own font has no letters beyond ASCII."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # on every platform
    return ImageFont.load_default(size)


def _made_here() -> PngInfo:
    """By which a picture is known for a result of ours."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    return info


def _save(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    with replacing(path) as stream:
        image.save(stream, format=kind, **options)
