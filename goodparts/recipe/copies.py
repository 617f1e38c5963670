"""Copies: what the recipe's `augment` asks for, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from goodparts.errors import RecipeError, quoted

_KINDS = (
    "rotate90 (or another step that 360 is a multiple of), rotate:15, flip, flip:vertical, brightness:0.8-1.2, "
    "colour:0.15, noise:5"
)
_BRIGHTNESS = (0.1, 10.0)  # factors outside are taken for mistakes
_STRONGEST_COLOUR = 0.9
_STRONGEST_NOISE = 100.0
_SMALLEST_STEP = 5  # degrees: 71 copies


@dataclass(frozen=True)
class Copy:
    """How a copy differs from its image.

    Attributes:
        degrees: turned anticlockwise.
        flip: "left_right", "upside_down" or "" for neither.
        brightness: factor of the pixels.
        warmth: red is 1 + that, blue 1 - that times as bright; negative: colder light.
        noise: standard deviation of what a sensor adds, at the image's own size, in 256 levels.
    """

    degrees: float = 0.0
    flip: str = ""
    brightness: float = 1.0
    warmth: float = 0.0
    noise: float = 0.0

    @property
    def in_place(self) -> bool:
        """Whether everything lies where it lay in the image."""
        return not self.degrees and not self.flip

    @property
    def back(self) -> Copy:
        """What moves everything to where it lay in the image."""
        return Copy(degrees=-self.degrees % 360, flip=self.flip)


def copies(augment: Sequence[str]) -> tuple[Copy, ...]:
    """The copies that a recipe's `augment` asks for, each once; each differs from its image in one way.

    Args:
        augment: "rotate90": all turns by multiples of 90 degrees, or of another step; "rotate:15": by 15 degrees
            either way; "flip": left to right; "flip:vertical": upside down; "brightness:0.8-1.2": at 0.8 and at 1.2
            times the brightness; "colour:0.15": red brighter and blue darker by 15 %, and the other way round;
            "noise:5": with noise of standard deviation 5 of 256 levels.

    Raises:
        RecipeError: something else.
    """
    found: dict[Copy, None] = {}
    for text in augment:
        found |= dict.fromkeys(_kind(text))
    return tuple(found)


def _kind(text: str) -> list[Copy]:
    name, _, value = text.partition(":")
    try:
        if name == "rotate" and value:
            degrees = float(value)
            if 0 < degrees < 180:
                return [Copy(degrees=degrees), Copy(degrees=360 - degrees)]
        elif name.startswith("rotate") and not value:
            step = int(name.removeprefix("rotate"))
            if _SMALLEST_STEP <= step <= 180 and 360 % step == 0:
                return [Copy(degrees=float(degrees)) for degrees in range(step, 360, step)]
        elif text == "flip":
            return [Copy(flip="left_right")]
        elif text == "flip:vertical":
            return [Copy(flip="upside_down")]
        elif name == "brightness":
            least, greatest = map(float, value.split("-"))
            if _BRIGHTNESS[0] <= least <= 1 <= greatest <= _BRIGHTNESS[1]:
                return [Copy(brightness=factor) for factor in (least, greatest) if factor != 1]
        elif name == "colour":
            warmth = float(value)
            if 0 < warmth <= _STRONGEST_COLOUR:
                return [Copy(warmth=warmth), Copy(warmth=-warmth)]
        elif name == "noise":
            noise = float(value)
            if 0 < noise <= _STRONGEST_NOISE:
                return [Copy(noise=noise)]
    except ValueError:
        pass
    raise RecipeError(f"augment: expected {_KINDS}; found {quoted(text)}", key="augment")
