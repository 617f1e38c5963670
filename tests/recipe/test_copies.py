"""Copies: what `augment` asks for, read and checked."""

from __future__ import annotations

import pytest

from goodparts.errors import RecipeError
from goodparts.recipe.copies import Copy, copies
from goodparts.recipe.recipe import Recipe


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], ()),
        (["rotate90"], (Copy(90.0), Copy(180.0), Copy(270.0))),
        (["rotate:15"], (Copy(15.0), Copy(345.0))),
        (["flip", "flip:vertical"], (Copy(flip="left_right"), Copy(flip="upside_down"))),
        (["brightness:0.8-1.2"], (Copy(brightness=0.8), Copy(brightness=1.2))),
        (["brightness:1-1.2"], (Copy(brightness=1.2),)),
        (["colour:0.15", "noise:5"], (Copy(warmth=0.15), Copy(warmth=-0.15), Copy(noise=5.0))),
        (
            ["rotate180", "rotate90", "flip", "flip"],
            (Copy(180.0), Copy(90.0), Copy(270.0), Copy(flip="left_right")),
        ),
    ],
)
def test_copies(texts: list[str], found: tuple[Copy, ...]) -> None:
    assert copies(texts) == found


@pytest.mark.parametrize(
    "text",
    [
        "rotate", "rotate50", "rotate1", "rotate360", "rotate:", "rotate:0", "rotate:180", "rotate:x", "rotate90:3",
        "flip:up", "brightness", "brightness:1.2", "brightness:1.1-1.2", "brightness:0-1", "brightness:1-nan", "blur",
        "colour", "colour:0", "colour:-0.1", "colour:1", "colour:nan", "colour:red", "noise", "noise:0", "noise:1000",
        "noise:inf", "noise:a",
    ],
)  # fmt: skip
def test_what_is_no_kind_of_copy_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"augment: expected rotate90 .*found '" + text):
        Recipe(augment=(text,))


def test_the_recipe_takes_a_list_or_a_flag() -> None:
    wanted = ("rotate90", "brightness:0.8-1.2")
    assert Recipe.from_toml('augment = ["rotate90", "brightness:0.8-1.2"]').augment == wanted
    assert Recipe().replace({"augment": "rotate90, brightness:0.8-1.2"}).augment == wanted
