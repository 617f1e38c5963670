"""Sampling: how many patch features are kept, which, and where they came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact_features import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.bank import coreset
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import choose, extend
from goodparts.recipe.recipe import Recipe

Features = NDArray[np.float32]


def features_of(images: int, patches: int, dimensions: int, seed: int = 0) -> Features:
    """All different, and each says in its first dimension which it is: 1000 x image + patch."""
    features = np.random.default_rng(seed).standard_normal((images, patches, dimensions))
    features[:, :, 0] = 1000 * np.arange(images)[:, None] + np.arange(patches)
    return features.astype(np.float32)


def chosen(features: Features, patch_mask: NDArray[np.bool_] | None = None, **keys: Any) -> MemoryBank:
    if patch_mask is None:
        patch_mask = np.ones(features.shape[:2], dtype=bool)
    settings_ = {"sampling": "greedy", "sampling_ratio": 1.0, "sampling_limit": 0, "search_dimensions": 0}
    recipe = Recipe(**settings_ | keys)
    return choose(exact(features, recipe), patch_mask, recipe)


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
    assert len(bank.image_ids) == kept


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
    patch_mask = np.random.default_rng(seed).random((images, patches)) < 0.7
    patch_mask[-1, -1] = True
    keys = {"sampling_ratio": ratio, "sampling": sampling, "projection_dimensions": projection, "seed": seed}
    bank = chosen(features, patch_mask, **keys)
    image, patch = np.divmod(np.rint(bank.features[:, 0]).astype(int), 1000)
    np.testing.assert_array_equal(bank.features, features[image, patch])
    np.testing.assert_array_equal(bank.image_ids, image)
    assert patch_mask[image, patch].all()
    assert (np.diff(image * patches + patch) > 0).all()
    assert len(bank.features) == max(1, round(ratio * patch_mask.sum()))
    for index in range(-1, images + 1):
        np.testing.assert_array_equal(
            np.arange(len(image))[bank.of_image(index)], np.flatnonzero(image == index)
        )


def test_everything_is_kept_as_it_is_whatever_the_sampling() -> None:
    features = features_of(3, 5, 4)
    patch_mask = np.ones((3, 5), dtype=bool)
    patch_mask[1, 1:4] = False
    for how in ("greedy", "random"):
        bank = chosen(features, patch_mask, sampling=how)
        np.testing.assert_array_equal(bank.features, features[patch_mask])
        assert bank.image_ids.tolist() == [0] * 5 + [1] * 2 + [2] * 5
        assert [bank.of_image(index) for index in range(3)] == [slice(0, 5), slice(5, 7), slice(7, 12)]


def test_greedy_keeps_the_greedy_coreset() -> None:
    features = np.random.default_rng(3).standard_normal((5, 30, 3)).astype(np.float32)
    patch_mask = np.arange(150).reshape(5, 30) % 3 > 0
    rows = np.flatnonzero(patch_mask)
    bank = chosen(features, patch_mask, sampling_ratio=0.2, projection_dimensions=0)
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
    reported: list[tuple[int, int]] = []
    features = features_of(4, 50, 3)
    patch_mask = np.ones((4, 50), dtype=bool)
    recipe = Recipe(sampling="greedy", sampling_ratio=0.25, sampling_limit=0)
    choose(
        exact(features, recipe),
        patch_mask,
        recipe,
        progress=lambda done, total: reported.append((done, total)),
    )
    assert reported[-1] == (50, 50)


def test_learning_on_keeps_the_bank_and_goes_on_greedily() -> None:
    rng = np.random.default_rng(8)
    old, new = (rng.normal(size=(4, 20, 6)).astype(np.float32) for _ in range(2))
    recipe = Recipe(sampling_ratio=0.1, projection_dimensions=0)
    everywhere = np.ones((4, 20), dtype=bool)
    bank = choose(exact(old, recipe), everywhere, recipe)
    grown = extend(bank, exact(new, recipe), everywhere, recipe, first_image=4)
    np.testing.assert_array_equal(grown.features[: len(bank.features)], bank.features)
    np.testing.assert_array_equal(grown.image_ids[: len(bank.image_ids)], bank.image_ids)
    added = grown.features[len(bank.features) :]
    assert len(added) == 8
    assert (np.diff(grown.image_ids) >= 0).all()
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
    bank = choose(exact(old, recipe), everywhere, recipe)
    grown = extend(bank, exact(new, recipe), everywhere, recipe, first_image=4)
    assert len(bank.features) == 16
    assert len(grown.features) == 18
    assert set(grown.image_ids.tolist()) <= set(range(8))
    assert (np.diff(grown.image_ids) >= 0).all()
    both = np.concatenate([old, new]).reshape(-1, 6)
    assert all((both == entry).all(axis=1).any() for entry in grown.features)
