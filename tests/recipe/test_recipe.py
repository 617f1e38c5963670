"""`Recipe`: what each key takes and refuses, and that TOML brings back what it was given."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.errors import GoodpartsError, RecipeError
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.recipe import Recipe, describe
from goodparts.recipe.values import size_text

FIELDS = {item.name: item for item in dataclasses.fields(Recipe)}
NUMBERS = [name for name, item in FIELDS.items() if item.metadata["limits"] and name != "layer_weights"]
SWITCHES = [name for name, item in FIELDS.items() if item.type == "bool"]
CHOICES = [name for name, item in FIELDS.items() if item.metadata["choices"]]


# ---- values


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
        ({"mean": "0.5,0.5,0.5"}, ("mean", "std", "both or neither")),
        ({"std": "1,1,1"}, ("mean", "std", "both or neither")),
        ({"mean": "a,b,c", "std": "1,1,1"}, ("mean", "a list", "'a,b,c'")),
        ({"density_limit": 0.9}, ("density_limit", "0.9", "1 or more", "0 for no limit")),
        ({"threshold_rule": "fixed"}, ("threshold_value", "threshold_rule = fixed", "every part", "above 0")),
        (
            {"pixel_threshold_rule": "fixed", "pixel_threshold_value": 0},
            ("pixel_threshold_value", "pixel_threshold_rule = fixed", "marked", "above 0"),
        ),
        ({"image_size": 15}, ("image_size", "16 to 16384", "found 15")),
        ({"image_size": "320x20000"}, ("image_size", "16 to 16384", "found 20000")),
        ({"image_size": "320x"}, ("image_size", "WIDTHxHEIGHT", "'320x'")),
        ({"image_size": "320x240x3"}, ("image_size", "WIDTHxHEIGHT", "'320x240x3'")),
        ({"image_size": "large"}, ("image_size", "WIDTHxHEIGHT", "'large'")),
        ({"image_size": (320,)}, ("image_size", "WIDTHxHEIGHT", "(320,)")),
        ({"image_size": None}, ("image_size", "WIDTHxHEIGHT", "None")),
        ({"image_size": True}, ("image_size", "WIDTHxHEIGHT", "True")),
        (
            {"framing": "crop", "resize_size": 256, "image_size": "224x320"},
            ("image_size", "224x320", "resize_size 256", "stretch"),
        ),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    assert [word for word in words if word not in str(caught.value)] == []


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


def with_limit(name: str, number: float) -> dict[str, Any]:
    """The key at that number, and whatever else it takes for it to be allowed."""
    value: Any = (number, number) if name == "image_size" else number
    needs = {"tiling": "640x640+64"} if name == "smallest_defect" else {}
    return needs | {name: value}


def test_layer_weights_go_with_layers_that_are_named() -> None:
    assert Recipe(layers=("a", "b"), layer_weights="2, 1").layer_weights == (2.0, 1.0)
    for layers, weights, found in (((), (1.0,), "none named"), (("a",), (1.0, 2.0), "found 2")):
        with pytest.raises(RecipeError, match=found):
            Recipe(layers=layers, layer_weights=weights)
    assert Recipe(layers=("a", "b"), grid_layer="b").grid_layer == "b"
    with pytest.raises(RecipeError, match="grid_layer: expected one of the layers a,b, found c"):
        Recipe(layers=("a", "b"), grid_layer="c")
    with pytest.raises(RecipeError, match="layer_weights: expected 1e-06"):
        Recipe(layers=("a",), layer_weights=(0.0,))


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_are_allowed_and_nothing_beyond(name: str) -> None:
    for limit, direction in zip(FIELDS[name].metadata["limits"], (-1, 1), strict=True):
        whole = isinstance(getattr(Recipe(), name), int | tuple)
        allowed = limit - direction if name == "patch_size" and limit % 2 == 0 else limit
        beyond = limit + direction if whole else math.nextafter(limit, direction * math.inf)
        Recipe(**with_limit(name, allowed))
        with pytest.raises(RecipeError, match=f"^{name}: expected "):
            Recipe(**with_limit(name, beyond))


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_allowed_and_nothing_else(name: str) -> None:
    choices = FIELDS[name].metadata["choices"]
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


def test_a_crop_may_be_as_large_as_what_it_is_cut_from() -> None:
    assert Recipe(framing="crop", resize_size=256, image_size=256).image_size == (256, 256)
    for framing in ("stretch", "letterbox"):  # where resize_size means nothing
        assert Recipe(framing=framing, resize_size=256, image_size=320).image_size == (320, 320)


def test_a_recipe_does_not_change_and_equal_ones_are_one() -> None:
    recipe = Recipe(image_size="320x240", layers="layer1,layer2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # type: ignore[misc]
    same = Recipe(image_size=(240, 320), layers=("layer1", "layer2"))
    assert len({recipe, same}) == 1


# ---- replace


def test_replace_changes_these_keys_alone() -> None:
    recipe = Recipe.preset("classic").replace({"seed": "7", "image_size": "320x240"})
    assert (recipe.seed, recipe.image_size) == (7, (240, 320))
    back = recipe.replace(
        {"seed": Recipe.preset("classic").seed, "image_size": Recipe.preset("classic").image_size}
    )
    assert back == Recipe.preset("classic")
    assert recipe.replace({}) == recipe


def test_replace_checks_the_whole() -> None:
    with pytest.raises(RecipeError, match="crop 320x320"):
        Recipe(image_size=320).replace({"framing": "crop"})


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sampling_ration", "sampling_ratio"),
        ("layer", "layers"),
        ("image-size", "image_size"),
        ("pooled_dimension", "pooled_dimensions"),
        ("threshold_sigmas", "threshold_sigma"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(RecipeError, match=f"^{key}: no such recipe key; did you mean (.* or )?{near}\\b"):
        Recipe().replace({key: 1})


def test_an_unknown_key_like_no_other_names_all() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe().replace({"qqq": 1})
    assert [name for name in FIELDS if name not in str(caught.value)] == []


# ---- presets and TOML


def test_recipe_errors_are_the_users() -> None:
    assert issubclass(RecipeError, GoodpartsError)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("comments", [False, True])
def test_presets_survive_toml(name: str, comments: bool) -> None:
    recipe = Recipe.preset(name)
    text = recipe.to_toml(comments=comments)
    assert Recipe.from_toml(text) == recipe
    assert list(tomllib.loads(text)) == list(FIELDS)
    assert tomllib.loads(text) == recipe.to_dict()
    assert ("#" in text) == comments
    assert Recipe.load(name) == recipe


def test_presets_differ() -> None:
    assert len({Recipe.preset(name) for name in PRESETS}) == len(PRESETS)
    assert Recipe.preset("default") == Recipe()
    assert Recipe.preset("classic").sampling == "random"
    assert Recipe.preset("patchcore").pooled_dimensions == 1024


def test_each_key_is_explained() -> None:
    lines = [line for line in Recipe().to_toml().splitlines() if line.startswith("#")]
    for line, name in zip(lines, FIELDS, strict=True):
        assert line == f"# {describe(FIELDS[name])}"
        assert len(describe(FIELDS[name])) > 10
        assert all(choice in line for choice in FIELDS[name].metadata["choices"])


texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs"], exclude_characters=","), min_size=1, max_size=12
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe: each key anywhere within its limits or choices."""
    values: dict[str, Any] = {"backbone": draw(texts)}
    values["layers"] = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    number = st.floats(0.01, 10)
    if draw(st.booleans()):
        count = len(values["layers"])
        values["layer_weights"] = draw(st.lists(number, min_size=count, max_size=count))
    if draw(st.booleans()):
        values |= {key: draw(st.tuples(number, number, number)) for key in ("mean", "std")}
    for name in CHOICES:
        values[name] = draw(st.sampled_from(FIELDS[name].metadata["choices"]))
    for name in NUMBERS:
        low, high = FIELDS[name].metadata["limits"]
        if isinstance(getattr(Recipe(), name), float):
            values[name] = draw(st.floats(low, high))
        else:
            values[name] = draw(st.integers(int(low), int(high)))
    if values["framing"] == "letterbox":
        values["light"] = "as_is"
    for key in ("threshold_value", "pixel_threshold_value"):
        values[key] = values[key] or 1.2  # fixed takes none of 0
    values |= {"tile_bank": "shared", "smallest_defect": 0}  # without tiles
    values["image_size"] = draw(st.tuples(st.integers(16, 1000), st.integers(16, 1000)))
    values["resize_size"] = draw(st.integers(1000, 4096))
    values["patch_size"] |= 1
    if 0 < values["density_limit"] < 1:
        values["density_limit"] = 0
    for name in SWITCHES:
        values[name] = draw(st.booleans())
    return Recipe(**values)


@given(recipes())
@settings(max_examples=60, deadline=None)
def test_any_recipe_survives_toml(recipe: Recipe) -> None:
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe(**recipe.to_dict()) == recipe


def test_toml_starts_from_the_preset_it_names() -> None:
    text = 'recipe = "classic"\nseed = 3\nimage_size = "320x240"\n'
    assert Recipe.from_toml(text) == Recipe.preset("classic").replace({"seed": 3, "image_size": "320x240"})
    assert Recipe.from_toml("seed = 3") == Recipe(seed=3)
    assert Recipe.from_toml("") == Recipe()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 1\nseed 2", ("not a TOML file", "line 2")),
        ('recipe = "clasic"', ("no preset 'clasic'", *PRESETS)),
        ("recipe = 3", ("no preset 3", *PRESETS)),
        ("recipe = []", ("no preset", *PRESETS)),
        ("sede = 3", ("sede", "did you mean seed")),
        ("[inspector]\nseed = 3", ("inspector", "no such recipe key")),
        ("patch_size = 4", ("patch_size", "odd")),
        ("patch_size = 2026-11-24", ("patch_size", "a whole number")),
        ("layers = 3", ("layers", "a list")),
        (f"seed = 1{'0' * 400}", ("seed",)),
        ("mean = [nan, nan, nan]\nstd = [1, 1, 1]", ("mean",)),
    ],
)
def test_errors_in_a_file_name_it(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "my recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    recipe = Recipe(backbone="gießerei/netz.onnx", seed=5)
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.load(path) == Recipe.load(str(path)) == recipe


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 5\r\nlayers = ['layer1']\r\n")  # as Notepad's "UTF-8 with BOM"
    assert Recipe.load(path) == Recipe(seed=5, layers=("layer1",))


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a file nor a preset") as caught:
        Recipe.load("patchcor")
    assert all(name in str(caught.value) for name in PRESETS)
    with pytest.raises(RecipeError, match="can't be read"):
        Recipe.load(tmp_path)
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(RecipeError, match="can't be read"):
        Recipe.load(tmp_path / "picture.toml")
    with pytest.raises(RecipeError, match="no preset 'clasic'"):
        Recipe.preset("clasic")


def test_a_file_is_checked_with_what_is_changed_of_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('tile_bank = "position"\nseed = 3\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.toml: tile_bank: position"):
        Recipe.load(path)
    recipe = Recipe.load(path, {"tiling": "64x64+8"})
    assert (recipe.tile_bank, recipe.tiling, recipe.seed) == ("position", "64x64+8", 3)
    with pytest.raises(RecipeError, match=r"^tiling: "):  # not the file's fault
        Recipe.load(path, {"tiling": "many"})
    assert Recipe.load("fast", {"seed": 5}).image_size == (256, 256)
