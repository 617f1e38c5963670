"""The finest working size within a budget of milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Run

from goodparts import Inspector, Recipe
from goodparts.errors import RecipeError
from goodparts.model import budget
from goodparts.model.records import FitRecord


def images(size: tuple[int, int], count: int = 4) -> Sequence[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def thousand_pixels_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine of a known pace; returns the sizes that it tried."""
    tried: list[tuple[int, int]] = []

    def milliseconds(recipe: Recipe, *_: Any) -> float:
        tried.append(recipe.image_size)
        return recipe.image_size[0] * recipe.image_size[1] / 1000

    monkeypatch.setattr(budget, "_milliseconds", milliseconds)
    return tried


def fitted(size: tuple[int, int], milliseconds: float, **keys: Any) -> Inspector:
    return Inspector(Recipe(**keys)).fit(images(size), budget_ms=milliseconds)


@pytest.mark.parametrize(
    ("image", "milliseconds", "expected"),
    [
        ((300, 300), 65.536, (256, 256)),
        ((300, 300), 65.535, (224, 224)),
        ((300, 300), 1e6, (288, 288)),  # no finer than the images
        ((300, 300), 17, (128, 128)),
        ((100, 100), 1e6, (128, 128)),  # the coarsest that there is
        ((200, 400), 60, (160, 320)),  # as they are shaped: 256 x 256 as 160 x 320
    ],
)
def test_the_finest_that_is_fast_enough(
    thousand_pixels_a_millisecond: list[tuple[int, int]],
    image: tuple[int, int],
    milliseconds: float,
    expected: tuple[int, int],
) -> None:
    inspector = fitted(image, milliseconds)
    assert inspector.recipe.image_size == expected
    assert inspector.model.grid == (expected[0] // 8, expected[1] // 8)
    taken = inspector.model.fit_record.image_milliseconds
    assert taken == pytest.approx(expected[0] * expected[1] / 1000, abs=0.01)
    assert taken <= milliseconds + 0.01
    assert len(thousand_pixels_a_millisecond) == len(set(thousand_pixels_a_millisecond)) <= 5


def test_a_square_stays_one_where_proportions_are_as_given(
    thousand_pixels_a_millisecond: list[tuple[int, int]],
) -> None:
    assert fitted((200, 400), 60, aspect="as_given").recipe.image_size == (224, 224)


def test_too_small_a_budget_says_what_would_do(
    thousand_pixels_a_millisecond: list[tuple[int, int]],
) -> None:
    with pytest.raises(RecipeError, match=r"budget_ms: expected at least 16\.4, found 16: .* 128x128"):
        fitted((300, 300), 16)


@pytest.mark.parametrize("keys", [{"tiling": "128x128"}, {"framing": "crop", "resize_size": 384}])
def test_a_recipe_that_leaves_no_choice_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"leaves no choice"):
        fitted((200, 200), 100, **keys)


def test_measured_here_and_kept_in_the_model_but_not_in_its_identity(tmp_path: Path) -> None:
    inspector = fitted((160, 160), 1e6)
    taken = inspector.model.fit_record.image_milliseconds
    assert taken is not None
    assert taken > 0
    assert inspector.recipe.image_size == (160, 160)
    loaded = Inspector.load(inspector.save(tmp_path / "part.goodparts"))
    assert loaded.model.fit_record == inspector.model.fit_record
    record: FitRecord = replace(loaded.model.fit_record, image_milliseconds=None)
    assert replace(loaded.model, fit_record=record).identity == loaded.model.identity
    plain = Inspector(Recipe(image_size=160)).fit(images((160, 160)))
    assert plain.model.identity == inspector.model.identity


def test_fit_says_what_was_chosen(goodparts: Run, mini_dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "part.goodparts"
    ran = goodparts("fit", mini_dataset, "--model", model, "--budget-ms", "100000")
    assert ran.code == 0
    assert "128x128 px is the finest working size within it" in ran.out
    ran = goodparts("fit", mini_dataset, "--model", model, "--budget-ms", "0")
    assert ran.code == 2
    assert "--budget-ms" in ran.err
