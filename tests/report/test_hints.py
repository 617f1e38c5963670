"""Hints: each where it applies to the product, with its numbers, and none elsewhere."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodparts import Inspector, Recipe
from goodparts.decision.trade_offs import TradeOff
from goodparts.model.model import Model
from goodparts.recipe.keys import KEYS
from goodparts.report.hints import hints, larger_size
from goodparts.report.misses import ELSE, miss_sections

GOOD_ONLY = (TradeOff(2.0, in_force=True),)
NONE_MISSED = (TradeOff(2.0, in_force=True, bad=9),)
MISSED = (
    TradeOff(2.0, in_force=True, good=5, bad=9, missed=2),
    TradeOff(1.5, setting={"threshold_sigma": 2.0}, good=5, rejected=1, bad=9),
)
FOUND_FOR_NOTHING = (MISSED[0], replace(MISSED[1], rejected=0))


@pytest.fixture(scope="module")
def fitted(recipe: Recipe, mini_dataset: Path) -> Inspector:
    """An inspector that nobody has evaluated. Read only."""
    return Inspector(recipe).fit(mini_dataset)


def of_size(model: Model, width: int, height: int, **keys: Any) -> Model:
    """A model that learnt from images of a size, by a recipe with some keys changed."""
    recipe = model.recipe.replace(keys)
    preprocessor = replace(model.preprocessor, recipe=recipe)
    provenance = replace(model.provenance, image_sizes={f"{width}x{height}": 16})
    return replace(model, recipe=recipe, preprocessor=preprocessor, provenance=provenance)


def built_in(model: Model) -> Model:
    return replace(model, backbone=replace(model.backbone, name="efficientnet_lite0"))


@pytest.mark.parametrize(
    ("size", "keys", "flags"),
    [
        ((96, 96), {}, None),
        ((144, 144), {}, None),
        ((115, 96), {}, None),
        ((150, 150), {}, "--image-size 160x160"),
        ((512, 512), {}, "--image-size 512x512"),
        ((640, 480), {}, "--image-size 640x480"),
        ((128, 64), {}, "--image-size 128x64"),
        ((4000, 1000), {}, "--image-size 1120x288"),
        ((64, 64), {}, None),
        ((144, 96), {"framing": "letterbox"}, None),
        ((512, 256), {"framing": "letterbox"}, "--image-size 512x256"),
        ((144, 96), {"framing": "crop", "resize_size": 96}, None),
        ((700, 700), {"framing": "crop", "resize_size": 256}, "--framing stretch --image-size 544x544"),
    ],
    ids=str,
)
def test_a_working_size_for_this_very_product(
    fitted: Inspector, size: tuple[int, int], keys: dict[str, Any], flags: str | None
) -> None:
    model = of_size(fitted.model, *size, **keys)
    said = [line for line in hints(model, GOOD_ONLY) if "--image-size" in line]
    assert len(said) == (flags is not None)
    if flags is not None:
        assert f"`{flags}`" in said[0]
        assert f"Images are {size[0]}x{size[1]} px" in said[0]


def test_a_size_says_what_it_costs(fitted: Inspector) -> None:
    (line,) = hints(of_size(fitted.model, 192, 192), GOOD_ONLY)
    assert line == "Images are 192x192 px, reduced by 2: `--image-size 192x192` shows more, in 4 × the time."
    (line,) = hints(of_size(fitted.model, 96, 48), GOOD_ONLY)
    assert "not reduced across and enlarged by 2 down" in line
    assert "keeps their shape" in line


def test_no_smaller_size_than_there_is(fitted: Inspector) -> None:
    big = of_size(fitted.model, 2000, 2000, image_size=800)
    assert larger_size(replace(big, preprocessor=replace(big.preprocessor))) is None


def test_a_backbone_of_one_size_gets_no_other(fitted: Inspector) -> None:
    model = of_size(fitted.model, 512, 512)
    network = type(model.backbone.model)()
    network.CopyFrom(model.backbone.model)
    for side in network.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 96
    assert larger_size(model)
    assert larger_size(replace(model, backbone=replace(model.backbone, model=network))) is None


@pytest.mark.parametrize(
    ("size", "keys", "expected"),
    [
        ((512, 512), {}, None),
        ((2000, 2000), {}, "62"),
        ((2000, 2000), {"framing": "letterbox"}, None),
        ((2000, 2000), {"pose": "shift"}, None),
    ],
    ids=str,
)
def test_tiles_for_large_images(
    fitted: Inspector, size: tuple[int, int], keys: dict[str, Any], expected: str | None
) -> None:
    text = " ".join(hints(of_size(fitted.model, *size, **keys), GOOD_ONLY))
    found = re.search(r"--tiling auto --smallest-defect (\d+)", text)
    assert (found and found[1]) == expected
    if expected:
        assert f"smaller than about {2 * int(expected) + 1} px" in text


def test_tiles_that_are_there_are_not_suggested(tiled_by_place: Inspector) -> None:
    assert hints(tiled_by_place.model, MISSED) == () or all(
        "--tiling" not in line and "--image-size" not in line for line in hints(tiled_by_place.model, MISSED)
    )


def test_all_in_their_order(fitted: Inspector) -> None:
    lines = hints(built_in(of_size(fitted.model, 2000, 2000)), MISSED)
    flags = [re.findall(r"`(--[a-z-]+)", line)[0] for line in lines]
    assert flags == ["--image-size", "--backbone", "--tiling", "--roi"]
    for line in lines:
        words = shlex.split(re.findall(r"`(.+)`", line)[0])
        assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= set(KEYS)


def test_networks_and_zones_only_where_no_threshold_finds_the_missed_for_nothing(fitted: Inspector) -> None:
    model = built_in(of_size(fitted.model, 96, 96))
    assert [("--backbone" in line, "--roi" in line) for line in hints(model, MISSED)] == [
        (True, False),
        (False, True),
    ]
    assert hints(model, FOUND_FOR_NOTHING) == ()
    assert all("--backbone" not in line for line in hints(fitted.model, MISSED)), "another network already"


def test_quiet_where_none_is_missed_and_where_nothing_applies(fitted: Inspector) -> None:
    large = built_in(of_size(fitted.model, 2000, 2000))
    assert hints(large, NONE_MISSED) == ()
    assert hints(large, ()) == ()
    assert hints(fitted.model, GOOD_ONLY) == ()
    assert ELSE not in [section.title for section in miss_sections(fitted.model)]
    figures = dict.fromkeys(("images", "good", "rejected", "rechecks", "learnt_from"), 9)
    kept = {"name": "x", "image_auroc": 1.0, "pixel_auroc": None, "by_class": (), **figures}
    assert hints(large.with_evaluation({**kept, "bad": 9, "missed": 0}), GOOD_ONLY) == ()
    assert hints(large.with_evaluation({**kept, "bad": 9, "missed": 1}), GOOD_ONLY) != ()


def test_a_suggested_size_can_be_fitted(mini_backbone: Path) -> None:
    recipe = Recipe(backbone=str(mini_backbone), layers=("layer2", "layer3"), image_size=64)
    good = [np.random.default_rng(seed).integers(0, 255, (80, 240, 3), dtype=np.uint8) for seed in range(3)]
    model = Inspector(recipe).fit(good).model
    size = larger_size(model)
    assert size == (96, 256)
    assert larger_size(Inspector(recipe.replace({"image_size": size})).fit(good).model) is None
