"""The panel of an inspection: original, heatmap, what was found and ground truth side by side, below the verdict.

    scale = heatmap_scale(inspection.pixel_threshold)                    # one scale for all panels of a run
    panel = draw_panel(image, inspection, truth, scale=scale, title="bent/003.png")

Several may be drawn in several threads at once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from goodparts.decision.binomial import rarity
from goodparts.decision.inspection import BAD, GOOD, RECHECK, Inspection, telling_zones
from goodparts.report.pictures import (
    BAD_COLOUR,
    BORDERLINE_COLOUR,
    FOUND,
    GOOD_COLOUR,
    INK,
    PAPER,
    QUIET,
    RECHECK_COLOUR,
    RIM,
    TRUTH,
    WRONG_COLOUR,
    Colour,
    Mask,
    Picture,
    check_size,
    fit_image,
    fit_map,
    fit_mask,
    hatch,
    heatmap_overlay,
    jet,
    load_font,
    segmentation_picture,
)

# Measures of a panel, in pixels.
_HEADER, _CAPTION, _NOTE, _GAP, _MINIMUM_COLUMN = 80, 24, 48, 16, 240
_VISIBLE = 12  # a found region with shorter sides gets a circle around it, so that nobody overlooks it


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
    check_size(image, inspection.anomaly_map, "inspection.anomaly_map")
    check_size(image, inspection.mask, "inspection.mask")
    if truth is None and label is False:
        truth = np.zeros(image.shape[:2], dtype=bool)  # a good part: that is known without a mask
    if truth is not None:
        check_size(image, truth, "truth")
        label = bool(truth.any()) if label is None else label
    across, size = _tile_size(image.shape[1], image.shape[0], tile)
    small = fit_image(image, size)
    grid = fit_map(inspection.anomaly_map, size)
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
        draw.text((left, top), shown.caption, font=load_font(15, bold=True), fill=INK)
        top += _CAPTION
        canvas.paste(Image.fromarray(shown.picture), (left, top))
        top += size[1] + 7
        if shown.note is None:
            _draw_colour_bar(canvas, (left, top), column, scale, inspection.pixel_threshold)
        else:
            draw.text((left, top), shown.note, font=load_font(14), fill=QUIET, spacing=2)
    return canvas


def multiple_text(score: float, threshold: float, called: str = "threshold") -> str:
    """Say a score as a multiple of the threshold ("1.32 × threshold"), with more digits close to it."""
    if not (threshold > 0 and math.isfinite(threshold) and math.isfinite(score)):
        return f"{called} {threshold:.4g}"
    ratio = score / threshold
    return f"{ratio:.{2 if abs(ratio - 1) >= 0.02 else 4}f} × {called}"


class _Tile(NamedTuple):
    caption: str
    picture: Picture
    note: str | None  # None: the colour bar


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
        above = inspection.verdict == GOOD and bool(
            np.nanmax(inspection.anomaly_map, initial=-np.inf) > inspection.pixel_threshold
        )
        return "nothing: its score is not above\nthe image threshold" if above else "nothing"
    count = len(inspection.regions)
    return f"{count} region{'s' * (count != 1)}, {_percent(inspection.mask.mean())} of the picture"


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
    draw, font = ImageDraw.Draw(canvas), load_font(20, bold=True)
    draw.text((left, 13), _shorten(title, font, right - left), font=font, fill=INK)
    if inspection.reasons:
        more = f" (and {len(inspection.reasons) - 1} more)" if len(inspection.reasons) > 1 else ""
        reason = _shorten(inspection.reasons[0] + more, load_font(16), right - left)
        draw.text((left, 42), reason, font=load_font(16), fill=INK)
        return
    zones = telling_zones(inspection.zones)
    called = "threshold" if zones else "image threshold"  # beside the pixels' on the bar
    multiple = multiple_text(inspection.score, inspection.threshold, called)
    where = f"{multiple} in {', '.join(zone.name for zone in zones)}"
    facts = where if zones else f"score {inspection.score:.4g} = {multiple}"
    text = f"{rarity(inspection.p_value)}   {facts}" if zones else f"{facts}   {rarity(inspection.p_value)}"
    draw.text((left, 42), _cut(text, load_font(16), canvas.width - _GAP - left), font=load_font(16), fill=INK)


@lru_cache(maxsize=16)
def _badge(text: str, size: int, fill: Colour, ink: Colour) -> Image.Image:
    """Draw words on a rounded box; its corners are smoothed by drawing it four times as large."""
    font = load_font(size, bold=True)
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
    (left, top), (low, high), font = corner, scale, load_font(12)
    bar = np.broadcast_to(jet(np.linspace(0, 1, width)), (10, width, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), corner)
    draw = ImageDraw.Draw(canvas)
    below = top + 13
    draw.text((left, below), f"≤ {low:.3g}", font=font, fill=QUIET)
    draw.text((left + width, below), f"≥ {high:.3g}", font=font, fill=QUIET, anchor="ra")
    if low < pixel_threshold < high:
        at = left + width * (pixel_threshold - low) / (high - low)
        draw.line((at, top - 2, at, top + 12), fill=INK, width=2)
        draw.text((at, below), f"pixel threshold {pixel_threshold:.3g}", font=font, fill=INK, anchor="ma")
