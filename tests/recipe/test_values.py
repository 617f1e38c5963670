"""Values of a recipe's keys: what each takes, in which type it comes out, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.errors import RecipeError
from goodparts.recipe.keys import KEYS
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text

NUMBERS = [key for key, item in KEYS.items() if item.metadata["limits"] and key != "layer_weights"]
SWITCHES = [key for key, item in KEYS.items() if item.type == "bool"]
CHOICES = [key for key, item in KEYS.items() if item.metadata["choices"]]


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("backbone", "folder/my net.onnx", "folder/my net.onnx"),
        ("layers", "layer2", ("layer2",)),
        ("layers", " layer1 , layer3 ", ("layer1", "layer3")),
        ("layers", ["layer3", "layer1"], ("layer3", "layer1")),
        ("layers", ("/blocks.7/Add_output_0",), ("/blocks.7/Add_output_0",)),
        ("patch_size", "5", 5),
        ("patch_size", 5.0, 5),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("sampling_ratio", 1, 1.0),
        ("sampling_ratio", "1e-2", 0.01),
        ("smoothing_sigma", 0, 0.0),
        ("sampling", "random", "random"),
    ],
)
def test_a_value_comes_in_the_type_of_its_key(key: str, given: Any, expected: Any) -> None:
    value = getattr(Recipe(**{key: given}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("given", ["0.5, 0.4,0.3", [0.5, 0.4, 0.3], ("0.5", "0.4", "0.3")])
def test_mean_and_std_are_three_numbers(given: Any) -> None:
    recipe = Recipe(mean=given, std=given)
    assert recipe.mean == recipe.std == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("given", "height_width"),
    [
        (320, (320, 320)),
        ("320", (320, 320)),
        ("320x240", (240, 320)),  # people write the width first ...
        ("320X240", (240, 320)),
        (" 320 x 240 ", (240, 320)),
        ((240, 320), (240, 320)),  # ... arrays have the height first
        ([240, 320], (240, 320)),
        ("16x4096", (4096, 16)),
    ],
)
def test_image_size_has_several_forms(given: Any, height_width: tuple[int, int]) -> None:
    size = Recipe(image_size=given).image_size
    assert size == height_width
    assert {type(number) for number in size} == {int}


@given(height=st.integers(16, 4096), width=st.integers(16, 4096))
@settings(max_examples=40, deadline=None)
def test_size_text_is_read_back(height: int, width: int) -> None:
    recipe = Recipe(image_size=size_text((height, width)))
    assert recipe.image_size == (height, width)
    assert Recipe(**recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patch_size": 4}, ("patch_size", "odd", "4")),
        ({"patch_size": 2.5}, ("patch_size", "a whole number", "2.5")),
        ({"patch_size": "3.0"}, ("patch_size", "a whole number", "'3.0'")),
        ({"patch_size": True}, ("patch_size", "a whole number", "True")),
        ({"patch_size": None}, ("patch_size", "a whole number", "None")),
        ({"seed": -1}, ("seed", "0 to", "-1")),
        ({"seed": math.inf}, ("seed", "a whole number", "inf")),
        ({"sampling_ratio": 0}, ("sampling_ratio", "1e-06 to 1", "found 0")),
        ({"sampling_ratio": math.nan}, ("sampling_ratio", "a number", "nan")),
        ({"sampling_ratio": "a tenth"}, ("sampling_ratio", "a number", "'a tenth'")),
        ({"smoothing_sigma": False}, ("smoothing_sigma", "a number", "False")),
        ({"smoothing_sigma": [4.0]}, ("smoothing_sigma", "a number", "[4.0]")),
        ({"backbone": 50}, ("backbone", "a text", "50")),
        ({"sampling": "gredy"}, ("sampling", "one of greedy, random", "'gredy'")),
        ({"framing": []}, ("framing", "a text", "[]")),
        ({"layers": 2}, ("layers", "a list", "2")),
        ({"layers": "layer2,layer3,layer2"}, ("layers", "distinct", "layer2,layer3,layer2")),
        ({"mean": "0.5,0.5", "std": "1,1"}, ("mean", "three", "found 2")),
        ({"mean": "0.5,0.5,0.5", "std": "1,1,1,1"}, ("std", "three", "found 4")),
        ({"mean": "0.5,0.5,0.5", "std": "1,0,1"}, ("std", "positive", "0.0")),
        ({"mean": "a,b,c", "std": "1,1,1"}, ("mean", "a list", "'a,b,c'")),
        ({"density_limit": 0.9}, ("density_limit", "0.9", "1 or more", "0 for no limit")),
        ({"image_size": 15}, ("image_size", "16 to 16384", "found 15")),
        ({"image_size": "320x20000"}, ("image_size", "16 to 16384", "found 20000")),
        ({"image_size": "320x"}, ("image_size", "WIDTHxHEIGHT", "'320x'")),
        ({"image_size": "320x240x3"}, ("image_size", "WIDTHxHEIGHT", "'320x240x3'")),
        ({"image_size": "large"}, ("image_size", "WIDTHxHEIGHT", "'large'")),
        ({"image_size": (320,)}, ("image_size", "WIDTHxHEIGHT", "(320,)")),
        ({"image_size": None}, ("image_size", "WIDTHxHEIGHT", "None")),
        ({"image_size": True}, ("image_size", "WIDTHxHEIGHT", "True")),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.key == words[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean": (math.nan, 0.5, 0.5), "std": (1, 1, 1)}, ("mean", "nan")),
        ({"mean": (0.5, 0.5, 0.5), "std": (1, math.nan, 1)}, ("std", "nan")),
        ({"mean": (0.5, 0.5, 0.5), "std": (1, math.inf, 1)}, ("std", "inf")),
        ({"mean": (True, True, True), "std": (1, 1, 1)}, ("mean", "True")),
        ({"image_size": (240.7, 320)}, ("image_size", "240.7")),
        ({"layers": [2, 3]}, ("layers", "[2, 3]")),
        ({"seed": 10**400}, ("seed",)),
        ({"sampling_ratio": 10**400}, ("sampling_ratio",)),
    ],
)
def test_nonsense_that_python_would_take_is_refused(values: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.key == words[0]


def with_limit(name: str, number: float) -> dict[str, Any]:
    """The key at that number, and whatever else it takes for it to be allowed."""
    value: Any = (number, number) if name == "image_size" else number
    needs = {"tiling": "640x640+64"} if name == "smallest_defect" else {}
    return needs | {name: value}


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_are_allowed_and_nothing_beyond(name: str) -> None:
    for limit, direction in zip(KEYS[name].metadata["limits"], (-1, 1), strict=True):
        whole = isinstance(getattr(Recipe(), name), int | tuple)
        allowed = limit - direction if name == "patch_size" and limit % 2 == 0 else limit
        beyond = limit + direction if whole else math.nextafter(limit, direction * math.inf)
        Recipe(**with_limit(name, allowed))
        with pytest.raises(RecipeError, match=f"^{name}: expected "):
            Recipe(**with_limit(name, beyond))


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_allowed_and_nothing_else(name: str) -> None:
    choices = KEYS[name].metadata["choices"]
    assert getattr(Recipe(), name) in choices
    for choice in choices:
        needs: dict[str, Any] = {"tiling": "640x640+64"} if name == "tile_bank" else {}
        if choice == "fixed":
            needs = {name.replace("rule", "value"): 1.2}
        assert getattr(Recipe(image_size=224, **needs, **{name: choice}), name) == choice
        for other in (choice.upper(), f" {choice}"):
            with pytest.raises(RecipeError, match=f"^{name}: expected one of {', '.join(choices)}"):
                Recipe(**{name: other})


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_are_on_or_off(name: str) -> None:
    assert [getattr(Recipe(**{name: value}), name) for value in (True, False)] == [True, False]
    for value in (1, 0.0, None, "maybe", []):
        with pytest.raises(RecipeError, match=f"^{name}: expected true or false"):
            Recipe(**{name: value})
