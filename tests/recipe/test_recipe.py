"""`Recipe`: presets, changes, and that TOML brings back what it was given."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.errors import GoodpartsError, RecipeError
from goodparts.recipe.keys import KEYS, SECTIONS
from goodparts.recipe.presets import ABOUT, PRESETS
from goodparts.recipe.recipe import Recipe

NUMBERS = [key for key, item in KEYS.items() if item.metadata["limits"] and key != "layer_weights"]
SWITCHES = [key for key, item in KEYS.items() if item.type == "bool"]
CHOICES = [key for key, item in KEYS.items() if item.metadata["choices"]]


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
    assert [name for name in KEYS if name not in str(caught.value)] == []


# ---- presets and TOML


def test_recipe_errors_are_the_users() -> None:
    assert issubclass(RecipeError, GoodpartsError)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("comments", [False, True])
def test_presets_survive_toml(name: str, comments: bool) -> None:
    recipe = Recipe.preset(name)
    text = recipe.to_toml(comments=comments)
    assert Recipe.from_toml(text) == recipe
    assert list(tomllib.loads(text)) == list(KEYS)
    assert tomllib.loads(text) == recipe.to_dict()
    assert ("#" in text) == comments
    assert Recipe.load(name) == recipe


def test_presets_differ() -> None:
    assert len({Recipe.preset(name) for name in PRESETS}) == len(PRESETS)
    assert Recipe.preset("default") == Recipe()
    assert Recipe.preset("classic").sampling == "random"
    assert Recipe.preset("patchcore").pooled_dimensions == 1024
    assert Recipe.preset("dino").layers == ("unit",)
    assert list(ABOUT) == list(PRESETS)


def test_a_printed_recipe_has_a_heading_for_each_section_and_a_word_on_each_key() -> None:
    text = Recipe().to_toml()
    assert max(map(len, text.splitlines())) <= 100
    places = [text.index(f"# ---- {section.title}: {section.about} ----\n") for section in SECTIONS]
    assert places == sorted(places)
    comments = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    assert [key for key, item in KEYS.items() if item.metadata["about"] not in comments] == []
    assert "precision" not in Recipe().to_toml(comments=False, machine=False)


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
        values[name] = draw(st.sampled_from(KEYS[name].metadata["choices"]))
    for name in NUMBERS:
        low, high = KEYS[name].metadata["limits"]
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
    values["bit_depth"] = values["bit_depth"] if values["bit_depth"] >= 8 else 0
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
    with pytest.raises(RecipeError, match=r"^tiling: ") as caught:  # not the file's fault
        Recipe.load(path, {"tiling": "many"})
    assert caught.value.key == "tiling"
    assert Recipe.load("fast", {"seed": 5}).image_size == (256, 256)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("imagesize", "image_size"), ("treshold_rule", "threshold_rule"), ("sede", "seed")]
)
def test_a_recipe_of_an_unknown_key_says_which_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"^{wrong}: no such recipe key; did you mean .*{meant}") as caught:
        Recipe(**{wrong: 3})
    assert caught.value.key == wrong


def test_a_recipe_still_says_what_it_takes() -> None:
    assert list(inspect.signature(Recipe).parameters) == list(KEYS)
    assert pickle.loads(pickle.dumps(Recipe(seed=3))) == Recipe(seed=3)
