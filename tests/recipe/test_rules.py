"""The rules: what does not go together, and that the error says so."""

from __future__ import annotations

import pickle
from itertools import combinations
from typing import Any

import pytest

from goodparts.errors import RecipeError
from goodparts.recipe.keys import KEYS
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.rules import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.keys))
def test_a_rule_refuses_its_example_and_no_part_of_it(rule: Rule) -> None:
    assert set(rule.keys) <= set(KEYS)
    assert set(rule.example) <= set(rule.keys)
    with pytest.raises(RecipeError) as caught:
        Recipe(**rule.example)
    assert caught.value.key == rule.keys[0]
    assert str(caught.value).startswith(rule.keys[0])
    named = [key for key in rule.keys if key in str(caught.value)]
    assert len(named) >= 2, "an error names both keys"
    for count in range(len(rule.example)):
        for part in combinations(rule.example.items(), count):
            Recipe(**dict(part))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"std": "1,1,1"}, "mean, std: give both or neither"),
        (
            {"layers": "a", "layer_weights": "1,2"},
            "layer_weights: expected one for each of the layers a, found 2",
        ),
        ({"layers": "a,b", "grid_layer": "c"}, "grid_layer: expected one of the layers a,b, found c"),
        (
            {"light": "colour", "framing": "letterbox"},
            "light: colour measures the whole working image, which framing = letterbox pads; take framing = stretch "
            "or crop, or light = as_is",
        ),
        (
            {"threshold_rule": "fixed"},
            "threshold_value: threshold_rule = fixed takes it as it is, and at 0 every part would be BAD; give a value "
            "above 0, such as threshold_value = 1.2, or take another rule",
        ),
        (
            {"pixel_threshold_rule": "fixed", "pixel_threshold_value": 0},
            "pixel_threshold_value: pixel_threshold_rule = fixed takes it as it is, and at 0 all of a BAD image would "
            "be marked; give a value above 0, such as pixel_threshold_value = 1.2, or take another rule",
        ),
        (
            {"pose": "rigid", "roi": "zones.json"},
            "roi: zones are drawn on the image and pose = rigid moves it; take pose = as_is, or no roi",
        ),
        (
            {"pose": "shift", "augment": "noise:5,rotate:15,flip"},
            "augment: rotate:15, flip would undo what pose = shift does; leave out one of the two",
        ),
        (
            {"position_window": 24, "augment": "flip:vertical"},
            "position_window: flip:vertical of augment would move patches to other places; leave out one of the two",
        ),
        (
            {"tiling": "64x64+8", "augment": "noise:5,colour:0.1"},
            "tiling: 64x64+8 does not go with augment = noise:5, colour:0.1; leave out one of the two",
        ),
        (
            {"tiling": "64x64", "position_window": 24},
            "tiling: 64x64 does not go with position_window = 24; leave out one of the two",
        ),
        (
            {"smallest_defect": 12},
            "smallest_defect: 12 says how far tiling = auto reduces images, and tiling is off; take tiling = auto, or "
            "leave out smallest_defect",
        ),
        (
            {"tiling": "auto"},
            "smallest_defect: tiling = auto reduces images as far as it allows; say how many pixels of the image a "
            "defect is across at least, such as smallest_defect = 12",
        ),
        (
            {"tiling": "64x64", "framing": "letterbox"},
            "tiling: tiles cover the whole image, so framing = letterbox does not go with them; take framing = "
            "stretch, or tiling = '' (off)",
        ),
        (
            {"framing": "crop", "resize_size": 256, "image_size": "224x320"},
            "image_size: the crop 224x320 does not fit into resize_size 256; raise resize_size or take framing = "
            "stretch",
        ),
    ],
)
def test_what_does_not_go_together_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    assert str(caught.value) == message


def test_layer_weights_go_with_layers_that_are_named() -> None:
    assert Recipe(layers=("a", "b"), layer_weights="2, 1").layer_weights == (2.0, 1.0)
    assert Recipe(layers=("a", "b"), grid_layer="b").grid_layer == "b"


def test_a_crop_may_be_as_large_as_what_it_is_cut_from() -> None:
    assert Recipe(framing="crop", resize_size=256, image_size=256).image_size == (256, 256)
    for framing in ("stretch", "letterbox"):  # where resize_size means nothing
        assert Recipe(framing=framing, resize_size=256, image_size=320).image_size == (320, 320)


def test_an_error_keeps_its_key_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RecipeError("seed: expected a number", key="seed")))
    assert (str(error), error.key) == ("seed: expected a number", "seed")
    assert RecipeError("anything").key == ""
