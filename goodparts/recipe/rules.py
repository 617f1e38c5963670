"""Which keys are refused together, why, and what to do instead: one table, from which the documentation has its own.

What a single key asks of its value is in `keys` (choices, limits) and `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from goodparts.recipe.keys import Keys
from goodparts.recipe.values import size_text


@dataclass(frozen=True)
class Rule:
    """Keys that do not go together.

    Attributes:
        keys: which; the first is the one that the error names.
        refused: whether a recipe breaks the rule.
        message: of the error: the key, why, and what to do instead.
        example: keys and values, as few as it takes, that break it and no other rule.
    """

    keys: tuple[str, ...]
    refused: Callable[[Keys], bool]
    message: Callable[[Keys], str]
    example: Mapping[str, Any]


def _turned(recipe: Keys) -> list[str]:
    """The copies that move what they show to other places."""
    return [kind for kind in recipe.augment if kind.startswith(("rotate", "flip"))]


def _layers(recipe: Keys) -> str:
    return ",".join(recipe.layers) or "(none named)"


def _not_with_tiling(key: str, value: Callable[[Keys], str], off: str, example: Any) -> Rule:
    return Rule(
        keys=("tiling", key),
        refused=lambda r: bool(r.tiling) and value(r) != off,
        message=lambda r: f"tiling: {r.tiling} does not go with {key} = {value(r)}; leave out one of the two",
        example={"tiling": "640x640+64", key: example},
    )


def _not_fixed_at_zero(rule: str, key: str, at_zero: str) -> Rule:
    return Rule(
        keys=(key, rule),
        refused=lambda r: getattr(r, rule) == "fixed" and getattr(r, key) == 0,
        message=lambda r: (
            f"{key}: {rule} = fixed takes it as it is, and at 0 {at_zero}; give a value above 0, such as {key} = 1.2, "
            "or take another rule"
        ),
        example={rule: "fixed"},
    )


RULES = (
    Rule(
        keys=("layer_weights", "layers"),
        refused=lambda r: bool(r.layer_weights) and len(r.layer_weights) != len(r.layers),
        message=lambda r: (
            f"layer_weights: expected one for each of the layers {_layers(r)}, found {len(r.layer_weights)}"
        ),
        example={"layer_weights": [1.0, 0.5]},
    ),
    Rule(
        keys=("grid_layer", "layers"),
        refused=lambda r: bool(r.grid_layer) and r.grid_layer not in r.layers,
        message=lambda r: f"grid_layer: expected one of the layers {_layers(r)}, found {r.grid_layer}",
        example={"grid_layer": "layer2"},
    ),
    Rule(
        keys=("mean", "std"),
        refused=lambda r: bool(r.mean) != bool(r.std),
        message=lambda r: "mean, std: give both or neither",
        example={"mean": [0.485, 0.456, 0.406]},
    ),
    Rule(
        keys=("light", "framing"),
        refused=lambda r: r.light != "as_is" and r.framing == "letterbox",
        message=lambda r: (
            f"light: {r.light} measures the whole working image, which framing = letterbox pads; take framing = "
            "stretch or crop, or light = as_is"
        ),
        example={"light": "colour", "framing": "letterbox"},
    ),
    _not_fixed_at_zero("threshold_rule", "threshold_value", "every part would be BAD"),
    _not_fixed_at_zero("pixel_threshold_rule", "pixel_threshold_value", "all of a BAD image would be marked"),
    Rule(
        keys=("roi", "pose"),
        refused=lambda r: bool(r.roi) and r.pose != "as_is",
        message=lambda r: (
            f"roi: zones are drawn on the image and pose = {r.pose} moves it; take pose = as_is, or no roi"
        ),
        example={"roi": "zones.json", "pose": "shift"},
    ),
    Rule(
        keys=("augment", "pose"),
        refused=lambda r: bool(_turned(r)) and r.pose != "as_is",
        message=lambda r: (
            f"augment: {', '.join(_turned(r))} would undo what pose = {r.pose} does; leave out one of the two"
        ),
        example={"augment": ["rotate90"], "pose": "rigid"},
    ),
    Rule(
        keys=("position_window", "augment"),
        refused=lambda r: bool(_turned(r)) and bool(r.position_window),
        message=lambda r: (
            f"position_window: {', '.join(_turned(r))} of augment would move patches to other places; leave out one "
            "of the two"
        ),
        example={"position_window": 24, "augment": ["flip"]},
    ),
    _not_with_tiling("augment", lambda r: ", ".join(r.augment), "", ["rotate90"]),
    _not_with_tiling("pose", lambda r: r.pose, "as_is", "rigid"),
    _not_with_tiling("position_window", lambda r: f"{r.position_window:g}", "0", 24),
    Rule(
        keys=("tile_bank", "tiling"),
        refused=lambda r: not r.tiling and r.tile_bank != "shared",
        message=lambda r: (
            f"tile_bank: {r.tile_bank} is a memory bank for each place of a tile, and tiling is off; say how large "
            "tiles are, such as tiling = 640x640+64, or take tile_bank = shared"
        ),
        example={"tile_bank": "position"},
    ),
    Rule(
        keys=("smallest_defect", "tiling"),
        refused=lambda r: not r.tiling and bool(r.smallest_defect),
        message=lambda r: (
            f"smallest_defect: {r.smallest_defect:g} says how far tiling = auto reduces images, and tiling is off; "
            "take tiling = auto, or leave out smallest_defect"
        ),
        example={"smallest_defect": 12},
    ),
    Rule(
        keys=("smallest_defect", "tiling"),
        refused=lambda r: r.tiling == "auto" and not r.smallest_defect,
        message=lambda r: (
            "smallest_defect: tiling = auto reduces images as far as it allows; say how many pixels of the image a "
            "defect is across at least, such as smallest_defect = 12"
        ),
        example={"tiling": "auto"},
    ),
    Rule(
        keys=("tiling", "framing"),
        refused=lambda r: bool(r.tiling) and r.framing != "stretch",
        message=lambda r: (
            f"tiling: tiles cover the whole image, so framing = {r.framing} does not go with them; take framing = "
            "stretch, or tiling = '' (off)"
        ),
        example={"tiling": "640x640+64", "framing": "letterbox"},
    ),
    Rule(
        keys=("tiling", "light"),
        refused=lambda r: bool(r.tiling) and r.light != "as_is",
        message=lambda r: (
            f"tiling: a tile does not show the light of the whole image, which light = {r.light} measures; take "
            "light = as_is, or tiling = '' (off)"
        ),
        example={"tiling": "640x640+64", "light": "colour"},
    ),
    Rule(
        keys=("image_size", "framing", "resize_size"),
        refused=lambda r: r.framing == "crop" and max(r.image_size) > r.resize_size,
        message=lambda r: (
            f"image_size: the crop {size_text(r.image_size)} does not fit into resize_size {r.resize_size}; raise "
            "resize_size or take framing = stretch"
        ),
        example={"framing": "crop"},
    ),
)
"""All rules; the first that a recipe breaks is the one it is told."""
