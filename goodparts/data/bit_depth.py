"""How many of 16 bits a product's images use, learnt from its good ones: see `deep` for why no file says so."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial

from goodparts.data import deep
from goodparts.data.good_images import GoodImages
from goodparts.data.images import greatest_level, is_deep, read_image
from goodparts.recipe.recipe import Recipe


def with_bit_depth(recipe: Recipe, good: GoodImages, *, pixel_limit: int) -> tuple[Recipe, GoodImages]:
    """The recipe with the bit depth of the good images where it names none, and these images as they are read with it.

    Without images of 16 bits both stay as they are. Images that are made when asked for are judged by the first of
    them.

    Raises:
        ImageError: an image can't be read.
    """
    if recipe.bit_depth:
        return recipe, good
    images = good.images
    count = len(images) if isinstance(images, list | tuple) else min(1, len(images))
    deep_ones = [index for index in range(count) if is_deep(images[index])]
    if not deep_ones:
        return recipe, good
    greatest = 0
    with closing(good.map(lambda i: greatest_level(images[i], pixel_limit=pixel_limit), deep_ones)) as levels:
        for level in levels:
            greatest = max(greatest, level)
            if deep.depth_of(greatest) == deep.FULL:
                break
    depth = deep.depth_of(greatest)
    read = partial(read_image, pixel_limit=pixel_limit, bit_depth=depth)
    return recipe.replace({"bit_depth": depth}), replace(good, read=read)


def in_words(bit_depth: int) -> str | None:
    """How 16-bit images are read, to be told after learning; None where there were none."""
    if not bit_depth:
        return None
    if bit_depth == deep.FULL:
        return "16-bit images use all of their bits"
    return (
        f"of 16-bit images {bit_depth} bits are in use, levels up to {(1 << bit_depth) - 1:,}; if that is wrong, fit "
        "with --bit-depth"
    )
