"""Pictures of what was found: heatmaps, outlines, masks, and the panel that shows them side by side.

    scale = heatmap_scale(inspection.pixel_threshold)                    # one scale for all pictures of a run
    overlay = heatmap_overlay(image, inspection.anomaly_map, low=scale[0], high=scale[1])
    found = segmentation_picture(image, inspection.mask)
    panel = draw_panel(image, inspection, truth, scale=scale, title="bent/003.png")

Pixels that were not looked at (NaN in the anomaly map) are covered with diagonal grey stripes wherever
something is said about them. All of it may be called from several threads at once.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from goodparts.decision.binomial import rarity
from goodparts.decision.inspection import BAD, RECHECK, Inspection, telling_zones
from goodparts.files import replacing

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

# Measures of a panel, in pixels.
_HEADER, _CAPTION, _NOTE, _GAP, _MINIMUM_COLUMN = 80, 24, 48, 16, 240
_VISIBLE = 12  # a found region with shorter sides gets a circle around it, so that nobody overlooks it


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
    _check_size(image, anomaly_map, "anomaly_map")
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
    _check_size(image, where, "where")
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
    _check_size(image, mask, "mask")
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


def draw_panel(
    image: Picture,
    inspection: Inspection,
    truth: Mask | None,
    *,
    scale: tuple[float, float],
    title: str,
    label: bool | None = None,
    tile: int = 360,
) -> Image.Image:
    """Draw one inspection: original, heatmap, segmentation and ground truth, below the verdict.

    Args:
        image: (H, W, 3) uint8 RGB.
        inspection: what was found on it, maps (H, W).
        truth: ground-truth mask, (H, W) bool, empty for a good part; None leaves that tile out, unless `label`
            says that the part is good.
        scale: (low, high) of the heatmap, the same for all images of a run; see `heatmap_scale`.
        title: the image's name.
        label: whether the part is bad, where that is known without a mask; from `truth` if None. A verdict
            that contradicts it is marked MISSED or FALSE REJECT.
        tile: width of a tile in pixels; a tall image may be taller, a wide one wider.

    Returns:
        an RGB picture.

    Raises:
        ValueError: if image and maps differ in size.
    """
    _check_size(image, inspection.anomaly_map, "inspection.anomaly_map")
    _check_size(image, inspection.mask, "inspection.mask")
    if truth is None and label is False:
        truth = np.zeros(image.shape[:2], dtype=bool)  # a good part: that is known without a mask
    if truth is not None:
        _check_size(image, truth, "truth")
        label = bool(truth.any()) if label is None else label
    across, size = _tile_size(image.shape[1], image.shape[0], tile)
    small = fit_image(image, size)
    grid = _fit_map(inspection.anomaly_map, size)
    unseen = np.isnan(grid)
    low, high = scale
    overlay = heatmap_overlay(small, grid, low=low, high=high)
    found = hatch(segmentation_picture(small, fit_mask(inspection.mask, size)), unseen)
    found = _point_out(found, inspection, size[0] / image.shape[1])
    tiles = [
        _Tile("original", small, _size_note(image, inspection.anomaly_map)),
        _Tile("heatmap", overlay, None),
        _Tile("found", found, _found_note(inspection)),
    ]
    if truth is not None:
        picture = segmentation_picture(small, fit_mask(truth, size), TRUTH)
        note = (
            f"{_percent(truth.mean())} of the picture" if truth.any() else "no mask" if label else "good part"
        )
        tiles.append(_Tile("ground truth", picture, note))

    across = min(across, len(tiles))
    column = max(size[0], _MINIMUM_COLUMN)
    row = _CAPTION + size[1] + _NOTE
    canvas = Image.new(
        "RGB",
        (across * (column + _GAP) + _GAP, _HEADER + math.ceil(len(tiles) / across) * row + _GAP // 2),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    _draw_header(canvas, inspection, title, label)
    for i, shown in enumerate(tiles):
        left = _GAP + i % across * (column + _GAP)
        top = _HEADER + i // across * row
        draw.text((left, top), shown.caption, font=letters(15, bold=True), fill=INK)
        top += _CAPTION
        canvas.paste(Image.fromarray(shown.picture), (left, top))
        top += size[1] + 7
        if shown.note is None:
            _draw_colour_bar(canvas, (left, top), column, scale, inspection.pixel_threshold)
        else:
            draw.text((left, top), shown.note, font=letters(14), fill=QUIET, spacing=2)
    return canvas


def save_panel(path: Path, panel: Image.Image) -> None:
    """Write a panel as PNG, at the compression that costs little time; raises `OutputError`."""
    _save(path, panel, "PNG", compress_level=3)


def save_map(path: Path, anomaly_map: NDArray[np.float32]) -> None:
    """Write an anomaly map (H, W) as an uncompressed float32 TIFF, NaN included; raises `OutputError`."""
    _save(path, Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32)), "TIFF")


def save_mask(path: Path, mask: Mask) -> None:
    """Write a mask (H, W) bool as an 8-bit grey PNG of 0 and 255; raises `OutputError`."""
    _save(path, Image.fromarray(mask_picture(mask)), "PNG")


def multiple_text(score: float, threshold: float) -> str:
    """Say a score as a multiple of the threshold ("1.32 × threshold"), with more digits close to it."""
    if not (threshold > 0 and math.isfinite(threshold) and math.isfinite(score)):
        return f"threshold {threshold:.4g}"
    ratio = score / threshold
    return f"{ratio:.{2 if abs(ratio - 1) >= 0.02 else 4}f} × threshold"


class _Tile(NamedTuple):
    caption: str
    picture: Picture
    note: str | None  # None: the colour bar


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


def _check_size(image: Picture, other: NDArray[np.generic], name: str) -> None:
    if image.ndim != 3 or other.shape != image.shape[:2]:
        raise ValueError(f"{name}: expected the size of the image, {image.shape[:2]}, found {other.shape}")


def _tile_size(width: int, height: int, tile: int) -> tuple[int, tuple[int, int]]:
    """Return how many tiles go side by side, and their (width, height); wide ones go below each other."""
    if width > 5 * height:
        across, box_width, box_height = 1, 3 * tile, tile
    elif width > 2 * height:
        across, box_width, box_height = 2, 2 * tile, tile
    else:
        across, box_width, box_height = 4, tile, tile if height <= 2 * width else 2 * tile
    factor = min(box_width / width, box_height / height)
    return across, (max(1, round(width * factor)), max(1, round(height * factor)))


def fit_image(image: Picture, size: tuple[int, int]) -> Picture:
    """Resize an image (H, W, 3) to (width, height)."""
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(resized)


def _fit_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map: the mean of what was looked at, and NaN only where less than half was."""
    seen = ~np.isnan(values)
    resized = _resize_float(np.where(seen, values, np.float32(0)), size)
    if seen.all():
        return resized
    weight = _resize_float(seen.astype(np.float32), size)
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


def _point_out(picture: Picture, inspection: Inspection, factor: float) -> Picture:
    """Draw a circle around the region with the largest peak, if it is too small to be seen."""
    if not inspection.regions:
        return picture
    left, top, right, bottom = (factor * side for side in inspection.regions[0].box)
    if max(right - left, bottom - top) >= _VISIBLE:
        return picture
    pointed = Image.fromarray(picture)
    draw = ImageDraw.Draw(pointed)
    centre = ((left + right) / 2, (top + bottom) / 2)
    draw.circle(centre, _VISIBLE + 3, outline=RIM, width=5)
    draw.circle(centre, _VISIBLE + 2, outline=FOUND, width=3)
    return np.asarray(pointed)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"


def _size_note(image: Picture, anomaly_map: NDArray[np.float32]) -> str:
    note = f"{image.shape[1]} × {image.shape[0]} pixels"
    unseen = np.isnan(anomaly_map).mean()
    return f"{note}\nstriped: {_percent(unseen)} not looked at" if unseen else note


def _found_note(inspection: Inspection) -> str:
    if not inspection.mask.any():
        return "nothing"
    count = len(inspection.regions)
    return f"{count} region{'s' * (count != 1)}, {_percent(inspection.mask.mean())} of the picture"


@lru_cache(maxsize=32)
def letters(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return DejaVu Sans, which matplotlib brings along: Pillow's own font has no letters beyond ASCII."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # on every platform
    return ImageFont.load_default(size)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut the front of a text that is too wide: the end of a path says more than its beginning."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut the end of a text that is too wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _draw_header(canvas: Image.Image, inspection: Inspection, title: str, label: bool | None) -> None:
    """Draw the verdict, the title and the score, and at the right what is to be known about the verdict."""
    bad = inspection.verdict == BAD
    colours = {BAD: BAD_COLOUR, RECHECK: RECHECK_COLOUR}
    badge = _badge(inspection.verdict, 26, colours.get(inspection.verdict, GOOD_COLOUR), PAPER)
    canvas.paste(badge, (_GAP, 16))
    left, right = _GAP + badge.width + 14, canvas.width - _GAP
    notes = []
    if label is not None and label != bad and inspection.verdict != RECHECK:
        notes.append(_badge("MISSED" if label else "FALSE REJECT", 16, WRONG_COLOUR, PAPER))
    if inspection.borderline:
        notes.append(_badge("BORDERLINE", 16, BORDERLINE_COLOUR, INK))
    for note in notes:
        right -= note.width
        canvas.paste(note, (right, 16))
        right -= 8
    draw, font = ImageDraw.Draw(canvas), letters(20, bold=True)
    draw.text((left, 13), _shorten(title, font, right - left), font=font, fill=INK)
    if inspection.reasons:
        more = f" (and {len(inspection.reasons) - 1} more)" if len(inspection.reasons) > 1 else ""
        reason = _shorten(inspection.reasons[0] + more, letters(16), right - left)
        draw.text((left, 42), reason, font=letters(16), fill=INK)
        return
    multiple = multiple_text(inspection.score, inspection.threshold)
    zones = telling_zones(inspection.zones)
    where = f"{multiple} in {', '.join(zone.name for zone in zones)}"
    facts = where if zones else f"score {inspection.score:.4g} = {multiple}"
    text = f"{rarity(inspection.p_value)}   {facts}" if zones else f"{facts}   {rarity(inspection.p_value)}"
    draw.text((left, 42), _cut(text, letters(16), canvas.width - _GAP - left), font=letters(16), fill=INK)


@lru_cache(maxsize=16)
def _badge(text: str, size: int, fill: Colour, ink: Colour) -> Image.Image:
    """Draw words on a rounded box; its corners are smoothed by drawing it four times as large."""
    font = letters(size, bold=True)
    width, height = round(font.getlength(text) + size), round(1.75 * size)
    box = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(box).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), radius=size, fill=255)
    badge = Image.new("RGB", (width, height), PAPER)
    badge.paste(fill, (0, 0, width, height), box.resize((width, height), Image.Resampling.BOX))
    ImageDraw.Draw(badge).text((width / 2, height / 2), text, font=font, fill=ink, anchor="mm")
    return badge


def _draw_colour_bar(
    canvas: Image.Image,
    corner: tuple[int, int],
    width: int,
    scale: tuple[float, float],
    pixel_threshold: float,
) -> None:
    """Draw the heatmap's colours with the values at the ends and at the threshold."""
    (left, top), (low, high), font = corner, scale, letters(12)
    bar = np.broadcast_to(jet(np.linspace(0, 1, width)), (10, width, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), corner)
    draw = ImageDraw.Draw(canvas)
    below = top + 13
    draw.text((left, below), f"≤ {low:.3g}", font=font, fill=QUIET)
    draw.text((left + width, below), f"≥ {high:.3g}", font=font, fill=QUIET, anchor="ra")
    if low < pixel_threshold < high:
        at = left + width * (pixel_threshold - low) / (high - low)
        draw.line((at, top - 2, at, top + 12), fill=INK, width=2)
        draw.text((at, below), f"threshold {pixel_threshold:.3g}", font=font, fill=INK, anchor="ma")


def _save(path: Path, image: Image.Image, kind: str, **options: int) -> None:
    with replacing(path) as stream:
        image.save(stream, format=kind, **options)
