"""The search space: as few dimensions as find the nearest entries, in int8 where that does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exact_features import exact
from numpy.typing import NDArray

from goodparts.bank import search_space
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import choose
from goodparts.bank.window import EVERYWHERE, Window
from goodparts.recipe.recipe import Recipe


def chosen(features: NDArray[np.float32], **keys: Any) -> MemoryBank:
    settings = {"sampling": "greedy", "sampling_ratio": 1.0, "sampling_limit": 0, "search_dimensions": 0}
    recipe = Recipe(**settings | keys)
    return choose(exact(features, recipe), np.ones(features.shape[:2], dtype=bool), recipe)


@pytest.mark.parametrize(
    ("entries", "dimensions", "wanted", "save"),
    [
        (200, 16, 0, False),  # off
        (200, 16, 8, True),
        (200, 16, 9, False),  # less than half would be saved
        (200, 16, 1, True),
        (8, 16, 8, False),  # no more entries than dimensions: they span no space worth finding
        (9, 16, 8, True),
    ],
)
def test_principal_dimensions_only_where_they_save_something(
    entries: int, dimensions: int, wanted: int, save: bool
) -> None:
    features = np.random.default_rng(0).standard_normal((entries, dimensions)).astype(np.float32)
    assert search_space.principal_dimensions_save(features, wanted) == save


def flat_features(
    patches: int, wide: int, d: int, *, thin: float = 1e-3, seed: int = 1
) -> NDArray[np.float32]:
    """Features of one image (1, patches, d) that vary in `wide` directions and hardly in the others."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((d, d)))
    spread = np.where(np.arange(d) < wide, 1, thin)
    return (rng.standard_normal((1, patches, d)) * spread @ turn + 9).astype(np.float32)


def test_principal_dimensions_are_those_of_largest_variance() -> None:
    rng = np.random.default_rng(1)
    spread = np.array([9, 0.1, 5, 0.2, 3, 0.1, 0.3, 0.2])
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    entries = (rng.standard_normal((5000, 8)) * spread @ turn + 50).astype(np.float32)
    found = search_space.principal_dimensions(entries, entries.mean(axis=0))
    exact = entries.astype(np.float64)
    _, _, directions = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)
    along = np.abs(directions[:3] @ found[:, :3])
    np.testing.assert_allclose(along, np.eye(3), atol=1e-3)


def test_the_search_takes_as_few_dimensions_as_find_the_nearest() -> None:
    # 24 directions matter: 8 and 12 principal dimensions miss entries, 27 don't.
    bank = chosen(flat_features(900, 24, 64), sampling_ratio=0.5, search_dimensions=8)
    assert bank.basis is not None
    assert bank.basis.shape == (64, 27)
    assert bank.in_search_space().shape == (450, 27)
    assert bank.int8


def test_the_search_takes_all_dimensions_where_all_matter() -> None:
    bank = chosen(flat_features(900, 64, 64), sampling_ratio=0.5, search_dimensions=8)
    assert bank.basis is None
    assert bank.int8


@pytest.mark.parametrize(("tried", "enough"), [(333, False), (334, True)])
def test_a_search_space_is_chosen_where_enough_patches_tell(tried: int, enough: bool) -> None:
    bank = chosen(flat_features(600 + tried, 4, 32), sampling="random", sampling_ratio=600 / (600 + tried))
    assert len(bank.features) == 600
    assert bank.int8 == enough


@pytest.mark.parametrize(("entries", "worth_it"), [(511, False), (512, True)])
def test_a_small_bank_is_searched_as_it_is(entries: int, worth_it: bool) -> None:
    patches = entries + 400
    features = flat_features(patches, 4, 32)
    bank = chosen(features, sampling="random", sampling_ratio=entries / patches, search_dimensions=16)
    assert len(bank.features) == entries
    assert (bank.int8, bank.basis is not None) == (worth_it, worth_it)


def test_entries_that_int8_can_not_tell_apart_are_ranked_in_float32() -> None:
    # In 3 dimensions 3,000 entries lie closer together than the steps of int8.
    dense = flat_features(6000, 3, 3)
    assert not chosen(dense, sampling="random", sampling_ratio=0.5).int8
    assert not chosen(dense, sampling_ratio=1.0).int8


@pytest.mark.parametrize(("entries", "in_int8"), [(4096, 10), (8192, 10), (8193, 12), (40000, 16)])
def test_more_candidates_of_a_large_bank_that_int8_ranks(entries: int, in_int8: int) -> None:
    bank = chosen(flat_features(20, 4, 4))
    large = replace(bank, features=np.zeros((entries, 4), dtype=np.float32), int8=False)
    ranked = replace(large, int8=True)
    window = Window((9, 9), (1, 1))
    for exactly in (False, True):
        assert search_space.candidates(ranked, Recipe(), EVERYWHERE, exact=exactly) == in_int8
        assert search_space.candidates(ranked, Recipe(), window, exact=exactly) == 10
        nearest = search_space.candidates(ranked, Recipe(score_neighbours=1), EVERYWHERE, exact=exactly)
        assert nearest == in_int8 - 2
    assert search_space.candidates(large, Recipe(), EVERYWHERE, exact=False) == 10
    assert search_space.candidates(large, Recipe(), EVERYWHERE, exact=True) == 4
    in_directions = replace(large, basis=np.eye(4, 2, dtype=np.float32))
    assert search_space.candidates(in_directions, Recipe(), EVERYWHERE, exact=True) == 10


def test_a_large_bank_is_ranked_in_int8_and_finds_the_three_nearest() -> None:
    features = flat_features(12000, 24, 24)  # of which 8 candidates miss some
    recipe = Recipe(sampling="random", sampling_ratio=0.8, sampling_limit=0, search_dimensions=0)
    bank = choose(exact(features, recipe), np.ones((1, 12000), dtype=bool), recipe)
    assert bank.int8
    assert len(bank.features) == 9600


@pytest.mark.parametrize("basis", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_what_misses_the_nearest_is_told_from_what_finds_it(neighbours: int, basis: bool, int8: bool) -> None:
    features = flat_features(400, 6, 32)[0]
    whole = chosen(features[None], sampling_ratio=1.0)
    directions = search_space.principal_dimensions(features, whole.mean)
    patches = flat_features(400, 6, 32)[0] + np.float32(1e-3)
    nobody = np.full(400, -1)
    good = replace(whole, basis=directions[:, :6] if basis else None, int8=int8)
    cells = EVERYWHERE.cells_of(nobody)
    recipe = Recipe(score_neighbours=neighbours)
    test = search_space.RecallTest.of(whole, patches, nobody, recipe, cells, EVERYWHERE)
    squared = ((patches[:, None].astype(np.float64) - whole.features) ** 2).sum(axis=2)
    squared.sort(axis=1)
    np.testing.assert_allclose(test.distances, np.sqrt(squared[:, :neighbours]).mean(axis=1), atol=1e-4)
    assert test.passed_by(good)
    blind = replace(whole, basis=directions[:, 30:], int8=int8)
    assert not test.passed_by(blind)


def test_the_search_space_never_makes_entries_look_farther_apart() -> None:
    features = np.random.default_rng(2).standard_normal((1, 60, 10)).astype(np.float32) + 30
    bank = chosen(features, search_dimensions=4)
    apart = np.linalg.norm(bank.features[:, None] - bank.features, axis=2)
    seen = np.linalg.norm(bank.in_search_space()[:, None] - bank.in_search_space(), axis=2)
    assert (seen <= apart + 1e-4).all()
    assert seen.sum() > 0.5 * apart.sum()
    full = chosen(features, search_dimensions=0)
    same = np.linalg.norm(full.in_search_space()[:, None] - full.in_search_space(), axis=2)
    np.testing.assert_allclose(same, apart, atol=1e-4)
