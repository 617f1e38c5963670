"""Recipes: TOML files of every preset and of many keys."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import tomli_w
from numpy.random import Generator
from test_golden import RECIPES

from fuzz.mutations import changed_text, changed_value
from goodparts.recipe.presets import PRESETS
from goodparts.recipe.recipe import Recipe


class Recipes:
    """See `fuzz.target.Target`."""

    suffix = ".toml"

    def write_seeds(self, folder: Path) -> None:
        for name in PRESETS:
            (folder / f"preset_{name}.toml").write_text(Recipe.preset(name).to_toml(), encoding="utf-8")
        for name, keys in RECIPES.items():
            (folder / f"{name}.toml").write_text(tomli_w.dumps(keys), encoding="utf-8")

    def read_seeds(self, folder: Path) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]

    def make(self, seeds: list[str], rng: Generator) -> bytes:
        text = seeds[int(rng.integers(len(seeds)))]
        if rng.random() < 0.3:
            return changed_text(text, seeds, rng)
        try:
            return tomli_w.dumps(changed_value(tomllib.loads(text), rng)).encode()
        except (TypeError, AttributeError, ValueError):  # TOML has no null
            return changed_text(text, seeds, rng)

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        yield lambda: _same_again(Recipe.load(path))
        yield lambda: _same_again(Recipe.load(path, {"image_size": 64}))


def _same_again(recipe: Recipe) -> None:
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe, [key for key, value in again.to_dict().items() if value != recipe.to_dict()[key]]


TARGET = Recipes()
