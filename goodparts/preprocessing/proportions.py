"""Proportions: a square working size takes those of the good images, with as many pixels.

Squashed into a square, shapes suffer and fine defects get lost along the longer side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from goodparts.data.good_images import GoodImages
from goodparts.data.images import image_size, path_of
from goodparts.recipe.recipe import Recipe

_STEP = 32  # pixels: the coarsest cells of the usual networks
_SIDE = 96  # pixels of the shorter side at the least
_ALIKE = 1.15  # times as long as wide, or less: as good as a square
_AREA = (0.85, 1.125)  # times the pixels of the square
_SAMPLE = 32  # good images whose sizes are looked at


def in_proportion(recipe: Recipe, good: GoodImages) -> Recipe:
    """The recipe with the working size that goes with the good images.

    The same where it says so (`aspect = as_given`), where the size is no square, in tiles, and with a framing that has
    another way with proportions.

    Raises:
        ImageError: one of the images can't be read.
    """
    return recipe if recipe.aspect == "as_given" else at_proportion(recipe, sizes_of(good))


def sizes_of(good: GoodImages) -> list[tuple[int, int]]:
    """The sizes (H, W) of some good images, spread evenly over all; ImageError if one of them can't be read."""
    return [_size_of(good, index) for index in range(0, len(good), -(-len(good) // _SAMPLE))]


def at_proportion(recipe: Recipe, sizes: Iterable[tuple[int, int]]) -> Recipe:
    """The recipe with the working size that goes with images of these sizes (H, W), which then is as given."""
    height, width = recipe.image_size
    if recipe.aspect == "as_given":
        return recipe
    if height == width and not recipe.tiling and recipe.framing == "stretch":
        height, width = size_for(height, sizes)
    return recipe.replace({"image_size": (height, width), "aspect": "as_given"})


def size_for(side: int, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) with about as many pixels as a square, for images of these sizes (H, W).

    Multiples of 32 px, of the median proportion as nearly as they can; the square itself where nothing comes nearer.
    """
    wanted = statistics.median(math.log(width / height) for height, width in sizes)
    best, found = abs(wanted), (side, side)
    if best < math.log(_ALIKE):
        return found
    low, high = (share * side * side for share in _AREA)
    for height in range(_SIDE, 4 * side, _STEP):
        for width in range(_SIDE, 4 * side, _STEP):
            off = abs(math.log(width / height) - wanted)
            if low <= width * height <= high and off < best - 1e-9:
                best, found = off, (height, width)
    return found


def _size_of(good: GoodImages, index: int) -> tuple[int, int]:
    """(H, W) of an image, from its header where it is a file."""
    path = path_of(good.images[index])
    if path is None:
        height, width = good.pixels(index).shape[:2]
    else:
        width, height, _ = image_size(path)
    return height, width
