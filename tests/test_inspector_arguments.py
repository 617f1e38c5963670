"""What `Inspector` takes: a preset's name, images one after another, bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodparts import PRESETS, Inspector, Recipe
from goodparts.errors import DatasetError, RecipeError


@pytest.fixture
def good_files(mini_dataset: Path) -> list[Path]:
    return sorted((mini_dataset / "test" / "good").iterdir())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_by_its_name(name: str) -> None:
    assert Inspector(name).recipe == Recipe.preset(name)


def test_a_recipe_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "fast"\nseed = 3\n', encoding="utf-8")
    assert Inspector(path).recipe == Inspector(str(path)).recipe == Recipe.preset("fast").replace({"seed": 3})
    assert Inspector().recipe == Inspector(None).recipe == Recipe()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("fsat", ("neither a file nor a preset", "did you mean fast?")),
        ({"seed": 3}, ("expected a Recipe", "'seed': 3")),
        (3, ("expected a Recipe", "found 3")),
    ],
)
def test_what_is_no_recipe_is_refused(given: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        Inspector(given)
    assert [word for word in words if word not in str(caught.value)] == []


def test_learning_from_a_generator_is_learning_from_a_list(recipe: Recipe, good_files: list[Path]) -> None:
    identity = Inspector(recipe).fit(good_files).model.identity
    assert Inspector(recipe).fit(path for path in good_files).model.identity == identity
    inspector = Inspector(recipe).fit(iter(good_files))
    assert inspector.model.provenance.good_images == len(good_files)


@pytest.mark.parametrize(
    "given",
    [b"\x89PNG", np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8), 3, None],
    ids=["bytes", "colour", "grey", "number", "None"],
)
def test_a_single_image_is_no_row_of_images(recipe: Recipe, given: Any) -> None:
    with pytest.raises(DatasetError, match=r"expected a folder, or images one after another .*\[image\]"):
        Inspector(recipe).fit(given)


def test_progress_may_be_bars(
    recipe: Recipe, good_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Inspector(recipe).fit(good_files, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "features" in printed.err
    assert "6/6" in printed.err
    Inspector(recipe).fit(good_files, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["parts", Path("parts"), b"a file's bytes", np.zeros((4, 4, 3), np.uint8)])
def test_a_folder_or_one_image_is_not_several(fitted: Inspector, given: Any) -> None:
    with pytest.raises(DatasetError, match=r"images: expected images one after another .*\[image\]"):
        fitted.inspect_many(given)
    with pytest.raises(DatasetError, match="found one"):
        fitted.score_many(given)
