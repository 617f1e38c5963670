"""The memory bank: how many entries are kept and which, where they came from, the space they are searched in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exact_features import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts import coreset, memory_bank
from goodparts.memory_bank import MemoryBank
from goodparts.recipe import Recipe

Features = NDArray[np.float32]


def features_of(images: int, patches: int, dimensions: int, seed: int = 0) -> Features:
    """All different, and each says in its first dimension which it is: 1000 x image + patch."""
    features = np.random.default_rng(seed).standard_normal((images, patches, dimensions))
    features[:, :, 0] = 1000 * np.arange(images)[:, None] + np.arange(patches)
    return features.astype(np.float32)


def chosen(features: Features, valid: NDArray[np.bool_] | None = None, **keys: Any) -> MemoryBank:
    if valid is None:
        valid = np.ones(features.shape[:2], dtype=bool)
    settings_ = {"sampling": "greedy", "sampling_ratio": 1.0, "sampling_limit": 0, "search_dimensions": 0}
    recipe = Recipe(**settings_ | keys)
    return memory_bank.choose(exact(features, recipe), valid, recipe)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
@pytest.mark.parametrize(
    ("ratio", "limit", "kept"),
    [
        (1.0, 0, 120),
        (0.5, 0, 60),
        (0.1, 0, 12),
        (0.104, 0, 12),  # 12.48, rounded
        (1e-6, 0, 1),
        (0.5, 7, 7),
        (0.1, 70, 12),
        (1.0, 1, 1),
    ],
)
def test_the_ratio_and_the_limit_say_how_many_are_kept(
    sampling: str, ratio: float, limit: int, kept: int
) -> None:
    features = features_of(6, 20, 3)
    bank = chosen(features, sampling=sampling, sampling_ratio=ratio, sampling_limit=limit)
    assert bank.features.shape == (kept, 3)
    assert bank.features.dtype == np.float32
    assert len(bank.origins) == kept


@given(
    images=st.integers(1, 6),
    patches=st.integers(1, 12),
    ratio=st.floats(0.01, 1),
    sampling=st.sampled_from(["greedy", "random"]),
    projection=st.sampled_from([0, 2]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_entries_are_good_patches_each_once_in_order_with_their_image(
    images: int, patches: int, ratio: float, sampling: str, projection: int, seed: int
) -> None:
    features = features_of(images, patches, 4, seed)
    valid = np.random.default_rng(seed).random((images, patches)) < 0.7
    valid[-1, -1] = True
    keys = {"sampling_ratio": ratio, "sampling": sampling, "projection_dimensions": projection, "seed": seed}
    bank = chosen(features, valid, **keys)
    image, patch = np.divmod(np.rint(bank.features[:, 0]).astype(int), 1000)
    np.testing.assert_array_equal(bank.features, features[image, patch])
    np.testing.assert_array_equal(bank.origins, image)
    assert valid[image, patch].all()
    assert (np.diff(image * patches + patch) > 0).all()
    assert len(bank.features) == max(1, round(ratio * valid.sum()))
    for index in range(-1, images + 1):
        np.testing.assert_array_equal(
            np.arange(len(image))[bank.of_image(index)], np.flatnonzero(image == index)
        )


def test_everything_is_kept_as_it_is_whatever_the_sampling() -> None:
    features = features_of(3, 5, 4)
    valid = np.ones((3, 5), dtype=bool)
    valid[1, 1:4] = False
    for sampling in ("greedy", "random"):
        bank = chosen(features, valid, sampling=sampling)
        np.testing.assert_array_equal(bank.features, features[valid])
        assert bank.origins.tolist() == [0] * 5 + [1] * 2 + [2] * 5
        assert [bank.of_image(index) for index in range(3)] == [slice(0, 5), slice(5, 7), slice(7, 12)]


def test_greedy_keeps_the_greedy_coreset() -> None:
    features = np.random.default_rng(3).standard_normal((5, 30, 3)).astype(np.float32)
    valid = np.arange(150).reshape(5, 30) % 3 > 0
    rows = np.flatnonzero(valid)
    bank = chosen(features, valid, sampling_ratio=0.2, projection_dimensions=0)
    flat = features.reshape(150, 3)
    found = [int(np.flatnonzero((flat == entry).all(axis=1))[0]) for entry in bank.features]
    sequences = (
        coreset.greedy(flat[rows] - flat[rows].mean(axis=0), 20, start=start) for start in range(len(rows))
    )
    assert found in [np.sort(rows[picks]).tolist() for picks in sequences]  # from one start or another


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_the_seed_decides(sampling: str) -> None:
    features = features_of(4, 50, 8)
    banks = [
        chosen(features, sampling=sampling, sampling_ratio=0.1, projection_dimensions=2, seed=seed).features
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(banks[0], banks[1])
    assert (banks[0] != banks[2]).any()


def test_progress_tells_of_the_greedy_picks() -> None:
    told: list[tuple[int, int]] = []
    features = features_of(4, 50, 3)
    valid = np.ones((4, 50), dtype=bool)
    recipe = Recipe(sampling="greedy", sampling_ratio=0.25, sampling_limit=0)
    memory_bank.choose(
        exact(features, recipe), valid, recipe, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (50, 50)


# ---- the search space


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
    assert memory_bank.principal_dimensions_save(features, wanted) == save


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
    found = memory_bank.principal_dimensions(entries, entries.mean(axis=0))
    exact = entries.astype(np.float64)
    _, _, directions = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)
    along = np.abs(directions[:3] @ found[:, :3])
    np.testing.assert_allclose(along, np.eye(3), atol=1e-3)


def test_the_search_takes_as_few_dimensions_as_find_the_nearest() -> None:
    # 24 directions matter: 8 and 12 principal dimensions miss entries, 27 don't.
    bank = chosen(flat_features(900, 24, 64), sampling_ratio=0.5, search_dimensions=8)
    assert bank.basis is not None
    assert bank.basis.shape == (64, 27)
    assert bank.search_bank.shape == (450, 27)
    assert bank.int8


def test_the_search_takes_all_dimensions_where_all_matter() -> None:
    bank = chosen(flat_features(900, 64, 64), sampling_ratio=0.5, search_dimensions=8)
    assert bank.basis is None
    assert bank.int8


def test_entries_that_int8_can_not_tell_apart_are_ranked_in_float32() -> None:
    # In 3 dimensions 3,000 entries lie closer together than the steps of int8.
    dense = flat_features(6000, 3, 3)
    assert not chosen(dense, sampling="random", sampling_ratio=0.5).int8
    assert not chosen(dense, sampling_ratio=1.0).int8


@pytest.mark.parametrize("basis", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_what_misses_the_nearest_is_told_from_what_finds_it(neighbours: int, basis: bool, int8: bool) -> None:
    features = flat_features(400, 6, 32)[0]
    whole = chosen(features[None], sampling_ratio=1.0)
    directions = memory_bank.principal_dimensions(features, whole.mean)
    patches = flat_features(400, 6, 32)[0] + np.float32(1e-3)
    nobody = np.full(400, -1)
    good = replace(whole, basis=directions[:, :6] if basis else None, int8=int8)
    trial = memory_bank.Trial.of(whole, patches, nobody, Recipe(score_neighbours=neighbours))
    squared = ((patches[:, None].astype(np.float64) - whole.features) ** 2).sum(axis=2)
    squared.sort(axis=1)
    np.testing.assert_allclose(trial.distances, np.sqrt(squared[:, :neighbours]).mean(axis=1), atol=1e-4)
    assert trial.passed_by(good)
    blind = replace(whole, basis=directions[:, 30:], int8=int8)
    assert not trial.passed_by(blind)


@pytest.mark.parametrize(("entries", "neighbours"), [(1, 9), (2, 9), (9, 9), (700, 9), (700, 1)])
def test_spacing_is_the_mean_distance_to_the_nearest_others(entries: int, neighbours: int) -> None:
    points = np.random.default_rng(entries).standard_normal((entries, 5)).astype(np.float32) + 20
    apart = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)
    apart.sort(axis=1)
    expected = apart[:, 1 : 1 + neighbours].mean(axis=1) if entries > 1 else np.ones(1)
    found = memory_bank.spacing(points, neighbours)
    np.testing.assert_allclose(found, np.maximum(expected, np.median(expected)), rtol=1e-3)


def test_an_entry_that_sees_no_other_has_the_usual_spacing() -> None:
    points = np.array([[0.0], [1], [3], [100]], dtype=np.float32)
    alone = np.array([False, False, False, True])
    hidden = alone[:, None] | alone
    found = memory_bank.spacing(points, 1, hidden=lambda part: hidden[part])
    np.testing.assert_allclose(found, [1, 1, 2, 1], rtol=1e-5)
    nobody = memory_bank.spacing(points, 1, hidden=lambda part: np.ones_like(hidden[part]))
    assert nobody.tolist() == [1] * 4


def test_spacing_of_copies_is_nothing_to_divide_by() -> None:
    copies = np.ones((20, 4), dtype=np.float32)
    assert memory_bank.spacing(copies, 9).tolist() == [1] * 20
    some = np.concatenate([copies[:4], np.eye(20, 4, dtype=np.float32) * np.arange(2, 22)[:, None]])
    assert memory_bank.spacing(some, 2).min() > 0.1


def test_the_search_space_never_makes_entries_look_farther_apart() -> None:
    features = np.random.default_rng(2).standard_normal((1, 60, 10)).astype(np.float32) + 30
    bank = chosen(features, search_dimensions=4)
    apart = np.linalg.norm(bank.features[:, None] - bank.features, axis=2)
    seen = np.linalg.norm(bank.search_bank[:, None] - bank.search_bank, axis=2)
    assert (seen <= apart + 1e-4).all()
    assert seen.sum() > 0.5 * apart.sum()
    full = chosen(features, search_dimensions=0)
    same = np.linalg.norm(full.search_bank[:, None] - full.search_bank, axis=2)
    np.testing.assert_allclose(same, apart, atol=1e-4)


def test_learning_on_keeps_the_bank_and_goes_on_greedily() -> None:
    rng = np.random.default_rng(8)
    old, new = (rng.normal(size=(4, 20, 6)).astype(np.float32) for _ in range(2))
    recipe = Recipe(sampling_ratio=0.1, projection_dimensions=0)
    everywhere = np.ones((4, 20), dtype=bool)
    bank = memory_bank.choose(exact(old, recipe), everywhere, recipe)
    grown = memory_bank.extend(bank, exact(new, recipe), everywhere, recipe, first_image=4)
    np.testing.assert_array_equal(grown.features[: len(bank.features)], bank.features)
    np.testing.assert_array_equal(grown.origins[: len(bank.origins)], bank.origins)
    added = grown.features[len(bank.features) :]
    assert len(added) == 8
    assert (np.diff(grown.origins) >= 0).all()
    kept = bank.features  # one pick at a time: the farthest new patch from all that is kept
    expected = []
    flat = new.reshape(-1, 6)
    for _ in range(8):
        farthest = np.square(flat[:, None] - kept).sum(axis=2).min(axis=1).argmax()
        expected.append(farthest)
        kept = np.concatenate([kept, flat[farthest][None]])
    np.testing.assert_array_equal(added, flat[np.sort(expected)])


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_learning_on_respects_the_limit(sampling: str) -> None:
    rng = np.random.default_rng(9)
    old, new = (rng.normal(size=(4, 20, 6)).astype(np.float32) for _ in range(2))
    recipe = Recipe(sampling=sampling, sampling_ratio=0.2, sampling_limit=18)
    everywhere = np.ones((4, 20), dtype=bool)
    bank = memory_bank.choose(exact(old, recipe), everywhere, recipe)
    grown = memory_bank.extend(bank, exact(new, recipe), everywhere, recipe, first_image=4)
    assert len(bank.features) == 16
    assert len(grown.features) == 18
    assert set(grown.origins.tolist()) <= set(range(8))
    assert (np.diff(grown.origins) >= 0).all()
    both = np.concatenate([old, new]).reshape(-1, 6)
    assert all((both == entry).all(axis=1).any() for entry in grown.features)
