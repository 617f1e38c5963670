"""Held out: whichever way an image is searched without its own entries, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.bank.held_out import BroughtAlong, Excluding, HeldOutBank, held_out_bank
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.search_graph import search_graph
from goodparts.engines.engine import open_engine
from goodparts.engines.runtime import Products
from goodparts.recipe.recipe import Recipe

Array = NDArray[Any]
EXACT = Products(int8=False, exact=True)


def bank_of(
    owners: list[int], only_for: list[int], dimensions: int = 4, *, scaled: bool = False, seed: int = 0
) -> tuple[MemoryBank, NDArray[np.int32]]:
    """Random entries of these images, the last of which serve an image alone."""
    rng = np.random.default_rng(seed)
    features = (rng.standard_normal((len(owners), dimensions)) + 20).astype(np.float32)
    bank = MemoryBank(
        features=features,
        image_ids=np.array(owners, dtype=np.int32),
        mean=features.mean(axis=0),
        basis=None,
        cells=np.zeros(len(owners), dtype=np.int32),
        local_scale=rng.uniform(0.5, 2, len(owners)).astype(np.float32) if scaled else None,
    )
    serves = np.full(len(owners), -1, dtype=np.int32)
    if only_for:
        serves[-len(only_for) :] = only_for
    return bank, serves


def recipe_of(neighbours: int = 1, *, scaled: bool = False, **keys: Any) -> Recipe:
    return Recipe(
        score_neighbours=neighbours, density_neighbours=3 if scaled else 0, **{"image_score": "max"} | keys
    )


def search_of(
    held_out: HeldOutBank, bank: MemoryBank, recipe: Recipe, grid: tuple[int, int]
) -> Callable[[int, Array], Array]:
    """What finds the distances of the patches of an image, (n h w,)."""
    graph = search_graph(bank, grid, recipe, held_out=[held_out], products=EXACT)
    engine = open_engine(graph)

    def search(image: int, patches: Array) -> Array:
        given = {"patch_features": patches, **held_out.inputs(image)}
        assert {name: value.shape for name, value in given.items()} == graph.inputs
        return engine(given)["distance_grid"].ravel()

    return search


def expected(
    bank: MemoryBank, serves: Array, image: int, patches: Array, neighbours: int
) -> tuple[Array, int]:
    """Distances by brute force, and of how many entries."""
    allowed = np.where(serves < 0, bank.image_ids != image, serves == image)
    entries = bank.features[allowed].astype(np.float64)
    if not len(entries):
        return np.empty(0), 0
    flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    apart = np.sqrt(((flat[:, None] - entries) ** 2).sum(axis=2))
    nearest = apart.argsort(axis=1)[:, :neighbours]
    units = np.ones(len(entries)) if bank.local_scale is None else bank.local_scale[allowed]
    return (np.take_along_axis(apart, nearest, axis=1) / units[nearest]).mean(axis=1), len(entries)


@settings(deadline=None, max_examples=30)
@given(
    owners=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    only_for=st.lists(st.integers(0, 4), max_size=60),
    neighbours=st.integers(1, 4),
    scaled=st.booleans(),
    seed=st.integers(0, 100),
)
def test_either_way_finds_what_brute_force_finds(
    owners: list[int], only_for: list[int], neighbours: int, scaled: bool, seed: int
) -> None:
    """An image may have more replacements than entries, none of either, or nothing left."""
    replacing = [(absent + 1) % 5 for absent in only_for]  # of another image than the one they serve
    bank, serves = bank_of(owners + replacing, only_for, scaled=scaled, seed=seed)
    recipe = recipe_of(neighbours, scaled=scaled)
    patches = (np.random.default_rng(seed + 1).standard_normal((1, 3, 4, 4)) + 20).astype(np.float32)
    ways = (Excluding(bank, serves), BroughtAlong(bank, serves, 0, neighbours + 1))
    searches = [search_of(held_out, bank, recipe, (3, 4)) for held_out in ways]
    for image in range(5):
        by_hand, left = expected(bank, serves, image, patches, neighbours)
        for search in searches:
            found = search(image, patches)
            if left:
                np.testing.assert_allclose(found, by_hand, rtol=1e-4)
            else:
                assert np.isfinite(found).all()
                assert found.min() > 1e14


def test_what_an_image_brings_along_is_its_own() -> None:
    bank, serves = bank_of([0, 0, 1, 1, 2, 2, 1], [0])
    held_out = BroughtAlong(bank, serves, 0, 2)
    before = held_out.inputs(1)["entries"].copy()
    held_out.inputs(0)["entries"][:] = 0
    np.testing.assert_array_equal(held_out.inputs(1)["entries"], before)


@pytest.mark.parametrize(
    ("changes", "brings"),
    [
        ({}, True),
        ({"products": Products(int8=True, exact=True)}, True),  # no bank in int8
        ({"products": Products(int8=False, exact=False)}, False),
        ({"grid": (1, 11)}, False),
        ({"grid": (3, 4)}, True),
        ({"recipe": recipe_of(image_score="reweighted")}, False),
        ({"recipe": recipe_of(position_window=30)}, False),
        ({"bank": {"basis": np.eye(4, 2, dtype=np.float32)}}, False),
        ({"bank": {"tiles": np.zeros(6, dtype=np.int32)}}, False),
        ({"bank": {"int8": True}}, True),  # of few dimensions
        ({"bank": {"int8": True}, "products": Products(int8=True, exact=False)}, False),
    ],
    ids=str,
)
def test_a_bank_is_brought_along_where_that_is_faster_and_possible(
    changes: dict[str, Any], brings: bool
) -> None:
    bank, serves = bank_of([0, 0, 1, 1, 2, 2], [])
    bank = replace(bank, **changes.pop("bank", {}))
    arguments = {"recipe": recipe_of(), "grid": (20, 20), "products": EXACT} | changes
    found = held_out_bank(bank, serves, 0, **arguments)
    assert isinstance(found, BroughtAlong if brings else Excluding)


def test_a_large_bank_is_not_copied_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, serves = bank_of([0, 0, 1, 1], [])
    for most, way in ((bank.features.nbytes, BroughtAlong), (bank.features.nbytes - 1, Excluding)):
        monkeypatch.setattr("goodparts.bank.held_out._COPIED", most)
        assert isinstance(held_out_bank(bank, serves, 0, (20, 20), recipe_of(), EXACT), way)


def test_depths_have_inputs_of_their_own() -> None:
    bank, serves = bank_of([0, 0, 1, 1], [], scaled=True)
    assert set(BroughtAlong(bank, serves, 1, 2).inputs(0)) == {"entries_2", "density_2"}
    assert set(Excluding(bank, serves, 2).inputs(0)) == {"excluded_3"}
