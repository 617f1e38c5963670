"""Depths: when there are several, and what each keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goodparts import Inspector, Recipe
from goodparts.bank.depths import DEPTHS_NEED, recipe_at, settled


@pytest.mark.parametrize(
    ("banks", "images", "expected"),
    [
        ("auto", DEPTHS_NEED - 1, "joined"),
        ("auto", DEPTHS_NEED, "by_depth"),
        ("by_depth", 2, "by_depth"),
        ("joined", 1000, "joined"),
    ],
)
def test_few_images_have_one_bank(banks: str, images: int, expected: str) -> None:
    assert settled(Recipe(banks=banks), images).banks == expected


def test_coarser_banks_keep_half_as_many() -> None:
    recipe = Recipe(sampling_limit=300)
    assert [recipe_at(recipe, depth).sampling_limit for depth in range(3)] == [300, 150, 150]
    assert recipe_at(Recipe(sampling_limit=0), 1).sampling_limit == 0


def test_a_model_says_which_it_has(mini_backbone: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(DEPTHS_NEED)]
    recipe = Recipe(
        backbone=str(mini_backbone), layers=("layer1", "layer2", "layer3"), grid_layer="layer2", image_size=48
    )
    many = Inspector(recipe).fit(images)
    assert many.recipe.banks == "by_depth"
    assert [len(depth.bank.features) for depth in many.model.depths] == [40 * 36 // 10, 40 * 9 // 10]
    few = Inspector(recipe).fit(images[1:])
    assert few.recipe.banks == "joined"
    assert few.model.coarser == ()
    assert few.model.fusion is None
    for inspector in (many, few):
        loaded = Inspector.load(inspector.save(tmp_path / "model"))
        assert loaded.recipe.banks == inspector.recipe.banks
        assert loaded.inspect(images[0]).score == inspector.inspect(images[0]).score
