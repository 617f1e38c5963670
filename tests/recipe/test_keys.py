"""The keys: each in a section, explained, with a default that it takes itself."""

from __future__ import annotations

from itertools import groupby

from goodparts.recipe.keys import KEYS, MACHINE, SECTIONS, keys_of
from goodparts.recipe.recipe import Recipe


def test_sections_follow_each_other_and_hold_every_key_once() -> None:
    assert tuple(section for section, _ in groupby(i.metadata["section"] for i in KEYS.values())) == SECTIONS
    assert [item.name for section in SECTIONS for item in keys_of(section)] == list(KEYS)


def test_a_dozen_keys_are_common() -> None:
    common = [key for key, item in KEYS.items() if item.metadata["common"]]
    assert 10 <= len(common) <= 14
    assert {"backbone", "image_size", "threshold_rule"} <= set(common)


def test_each_key_is_explained_in_a_sentence() -> None:
    for item in KEYS.values():
        about = item.metadata["about"]
        assert len(about) > 10
        assert about.endswith(".")
        assert [choice for choice in item.metadata["choices"] if choice not in about] == []


def test_what_belongs_to_the_machine_is_not_the_products() -> None:
    machine = {item.name for item in keys_of(MACHINE)}
    assert machine == {"precision", "memory_limit"}
    before = {
        name: item.metadata["before"] for name, item in KEYS.items() if item.metadata["before"] is not None
    }
    assert set(Recipe(**before).product) == set(KEYS) - machine - set(before)
    assert Recipe(precision="f32", memory_limit=2).product == Recipe().product
