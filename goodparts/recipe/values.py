"""Values of a recipe: from Python, TOML or a command line in the type of their key."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Set
from typing import Any

from goodparts.errors import RecipeError, quoted
from goodparts.recipe.copies import copies

_LARGEST_TILE = 100_000_000  # pixels


def size_text(size: tuple[int, int]) -> str:
    """`(height, width)` as people write it: WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"


def tile_size(tiling: str) -> tuple[tuple[int, int], int]:
    """((height, width), overlap) of tiles from WIDTHxHEIGHT+OVERLAP; RecipeError if it is something else."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?(?:\+(\d{1,6}))?", tiling.strip().lower())
    if not match:
        raise RecipeError(
            "tiling: expected WIDTHxHEIGHT+OVERLAP in pixels of the image, such as 640x640+64, or auto, "
            f"found {quoted(tiling)}",
            key="tiling",
        )
    width, overlap = int(match[1]), int(match[3] or 0)
    height = int(match[2] or width)
    if min(width, height) < 16 or overlap >= min(width, height):
        raise RecipeError(
            f"tiling: expected tiles of at least 16x16 pixels, and an overlap less than that, found {tiling}",
            key="tiling",
        )
    if width * height > _LARGEST_TILE:
        raise RecipeError(
            f"tiling: expected tiles of at most {_LARGEST_TILE:,} pixels, which is as much as an image may have, found "
            f"{tiling}; take smaller ones, or tiling = '' to look at the whole image at once",
            key="tiling",
        )
    return (height, width), overlap


def coerce(item: dataclasses.Field[Any], value: Any) -> Any:
    """The value in the type of the key, from Python, TOML or a command line.

    Raises:
        RecipeError: it is of another type, none of the choices, beyond the limits, or not what the key takes.
    """
    kind = str(item.type)
    name = item.name
    choices, limits = item.metadata["choices"], item.metadata["limits"]
    try:
        if name == "image_size":
            value = _size(value)
        elif kind.startswith("tuple"):
            if isinstance(value, bytes | Mapping | Set):
                raise ValueError
            parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
            of = _number if "float" in kind else _text
            value = tuple(of(part) for part in parts if part != "")
        elif kind == "int":
            if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                raise ValueError
            value = int(value)
        elif kind == "float":
            value = _number(value)
        elif kind == "bool":
            if not isinstance(value, bool):
                raise ValueError
        else:
            value = _text(value)
    except (TypeError, ValueError, OverflowError):
        expected = {
            "int": "a whole number",
            "float": "a number",
            "str": "a text",
            "bool": "true or false",
        }.get(kind, "a list")
        if name == "image_size":
            expected = "pixels such as 224, or WIDTHxHEIGHT such as 320x240"
        raise RecipeError(f"{name}: expected {expected}, found {quoted(value)}", key=name) from None
    if choices and value not in choices:
        raise RecipeError(f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}", key=name)
    if limits:
        for number in value if isinstance(value, tuple) else (value,):
            if not limits[0] <= number <= limits[1]:
                raise RecipeError(
                    f"{name}: expected {limits[0]:g} to {limits[1]:g}, found {_shortly(number)}", key=name
                )
    _require(name, value)
    return value


def _require(name: str, value: Any) -> None:
    """RecipeError if the value, of the right type and within its limits, is not what the key takes."""
    wrong = ""
    if name == "augment":
        copies(value)
    elif name == "tiling" and value not in ("", "auto"):
        tile_size(value)
    elif name == "layers" and len(set(value)) < len(value):
        wrong = f"expected distinct names, found {','.join(value)}"
    elif name in ("mean", "std") and value and len(value) != 3:
        wrong = f"expected three numbers (red, green, blue), found {len(value)}"
    elif name == "std" and any(number <= 0 for number in value):
        wrong = f"expected positive numbers, found {quoted(value)}"
    elif name == "bit_depth" and 0 < value < 8:
        wrong = f"expected 8 to 16, or 0 to learn it from the good images, found {value}"
    elif name == "patch_size" and value % 2 == 0:
        wrong = f"expected an odd number, found {quoted(value)}"
    elif name == "density_limit" and 0 < value < 1:
        wrong = (
            f"{value:g} would be less than the smallest unit, which is the median; take 1 or more, or 0 for "
        )
        wrong += "no limit"
    if wrong:
        raise RecipeError(f"{name}: {wrong}", key=name)


def _shortly(number: float) -> str:
    try:
        return f"{number:g}"
    except OverflowError:
        return "a number of hundreds of digits"


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _size(value: Any) -> tuple[int, int]:
    """(height, width) from 224, "224", "WIDTHxHEIGHT" or a (height, width) pair."""
    if isinstance(value, bool | bytes | Mapping | Set):
        raise ValueError
    if isinstance(value, str):
        parts = [int(part) for part in value.lower().split("x")]
        if len(parts) == 1:
            parts *= 2
        width, height = parts
        return height, width
    if isinstance(value, int):
        return value, value
    height, width = value
    if isinstance(height, bool) or isinstance(width, bool) or int(height) != height or int(width) != width:
        raise ValueError
    return int(height), int(width)
