"""A picture of a region of interest, so that a person can check it: zones outlined and named, the rest striped.

picture = draw_roi(image, roi, recipe, grid)
facts = zone_facts(roi, recipe, grid)        # share of the picture and number of patches, zone by zone
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from goodparts.preprocessing import framing
from goodparts.preprocessing.roi import Roi
from goodparts.recipe.recipe import Recipe
from goodparts.report.pictures import (
    INK,
    PAPER,
    QUIET,
    RIM,
    Colour,
    Picture,
    fit_image,
    fit_mask,
    hatch,
    load_font,
    outline,
)

# Okabe and Ito's without black and green, yellow and blue first; a zone beyond the sixth starts anew, and names tell.
COLOURS: tuple[Colour, ...] = (
    (255, 221, 0),
    (86, 180, 233),
    (230, 120, 0),
    (204, 121, 167),
    (240, 228, 200),
    (0, 114, 178),
)
_LARGEST, _SMALLEST = 1200, 480  # pixels of the picture's longer side
_MARGIN, _LINE, _RADIUS = 16, 28, 12


@dataclass(frozen=True)
class ZoneFacts:
    """What a zone comes to.

    Attributes:
        name: of the zone.
        share: of the picture's pixels, 0 to 1.
        patches: that count for it.
        box: (left, top, right, bottom) in pixels of the roi's own size, right and bottom exclusive.
    """

    name: str
    share: float
    patches: int
    box: tuple[int, int, int, int]


def zone_facts(roi: Roi, recipe: Recipe, grid: tuple[int, int]) -> tuple[ZoneFacts, ...]:
    """Share of the picture, number of patches and box of each zone."""
    found = []
    for name, mask, patch_mask in zip(roi.names, roi.masks, roi.zone_patch_masks(recipe, grid), strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        found.append(ZoneFacts(name, float(mask.mean()), int(patch_mask.sum()), box))
    return tuple(found)


def draw_roi(image: Picture, roi: Roi, recipe: Recipe, grid: tuple[int, int]) -> Image.Image:
    """Draw the zones on an image, with a legend below; what is not looked at is striped.

    Args:
        image: (H, W, 3) uint8 RGB.
        roi: drawn on this size, or on one of the same aspect.
        recipe: framing and image_size.
        grid: (h, w) of the patches.

    Raises:
        ImageError: the image does not fit.
    """
    roi.require_fit((image.shape[0], image.shape[1]), "image")
    factor = min(_LARGEST, max(_SMALLEST, *image.shape[:2])) / max(image.shape[:2])
    size = (max(1, round(factor * image.shape[1])), max(1, round(factor * image.shape[0])))
    frame = framing.frame_of((image.shape[0], image.shape[1]), recipe)
    pixel_mask = framing.pixel_mask(frame)
    masks = [fit_mask(mask & pixel_mask, size) for mask in roi.masks_at((image.shape[0], image.shape[1]))]
    picture = hatch(fit_image(image, size), ~np.any(masks, axis=0))
    width = max(2, round(max(size) / 320))
    for mask, colour in zip(masks, _colours(roi), strict=True):
        rim = outline(mask, width + 1)
        picture[rim] = RIM
        picture[outline(mask, width)] = colour
    facts = zone_facts(roi, recipe, grid)
    texts = [
        f"{fact.name}: {_percent(fact.share)} of the picture, {_patches(fact.patches)}" for fact in facts
    ]
    patch_mask = roi.patch_mask(recipe, grid)
    share = roi.seen_share(frame)
    notes = [
        f"looked at: {_percent(share)} of the picture, {patch_mask.sum()} of {patch_mask.size} patches of "
        f"{recipe.image_size[1] / grid[1]:.3g} × {recipe.image_size[0] / grid[0]:.3g} working pixels",
        f"striped: {_percent(1 - share)}, neither learnt nor inspected",
    ]
    wide = max(size[0], 420, *(round(load_font(15).getlength(text)) + 40 for text in [*texts, *notes]))
    canvas = Image.new(
        "RGB", (wide + 2 * _MARGIN, size[1] + 3 * _MARGIN + _LINE * (len(texts) + len(notes))), PAPER
    )
    canvas.paste(Image.fromarray(picture), (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(canvas)
    for number, (mask, colour) in enumerate(zip(masks, _colours(roi), strict=True), 1):
        _label(draw, str(number), _middle(mask), colour)
    top = size[1] + 2 * _MARGIN
    for number, (text, colour) in enumerate(zip(texts, _colours(roi), strict=True), 1):
        _label(draw, str(number), (_RADIUS, top - _MARGIN + 9), colour)
        draw.text((_MARGIN + 34, top), text, font=load_font(15), fill=INK)
        top += _LINE
    for note in notes:
        draw.text((_MARGIN, top), note, font=load_font(15), fill=QUIET)
        top += _LINE
    return canvas


def _colours(roi: Roi) -> list[Colour]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(roi.zones))]


def _middle(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is nearest its centre of mass: a ring is labelled on the ring."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0, 0
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def _label(draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], colour: Colour) -> None:
    """A number on a disc of the zone's colour, in the coordinates of the image."""
    x, y = at[0] + _MARGIN, at[1] + _MARGIN
    draw.circle((x, y), _RADIUS, fill=colour, outline=RIM, width=2)
    dark = sum(colour) < 330
    draw.text((x, y), text, font=load_font(14, bold=True), fill=PAPER if dark else INK, anchor="mm")


def _patches(count: int) -> str:
    return f"{count} patch{'es' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
