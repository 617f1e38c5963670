"""A bank of what partitions give: of one that of `choose`, of several nearly as good."""

from __future__ import annotations

import numpy as np
import pytest
from exact_features import exact
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.bank import sampling
from goodparts.bank.composable import covering_radius
from goodparts.bank.entries import Candidates
from goodparts.bank.memory_bank import MemoryBank
from goodparts.recipe.recipe import Recipe

RECIPE = Recipe(image_size=32, sampling_ratio=0.1, projection_dimensions=0)


def in_partitions(features: np.ndarray, partitions: int, recipe: Recipe) -> MemoryBank:
    count = sampling.entries_of(features.shape[0] * features.shape[1], recipe)
    found, first = [], 0
    for part in np.array_split(features, partitions):
        eligible = np.ones(part.shape[:2], dtype=bool)
        candidates = sampling.propose(
            exact(part, recipe), eligible, count, recipe, first_image=first, partitions=partitions
        )
        assert len(candidates.entries.features) == min(count * (2 if partitions > 1 else 1), eligible.size)
        found.append(Candidates.from_tensors(candidates.tensors()))
        first += len(part)
    return sampling.choose_among(found, count, recipe)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    partitions=st.integers(2, 5),
    sampling_rule=st.sampled_from(["greedy", "random"]),
)
def test_several_partitions(seed: int, partitions: int, sampling_rule: str) -> None:
    recipe = RECIPE.replace({"sampling": sampling_rule})
    features = np.random.default_rng(seed).normal(size=(11, 16, 4)).astype(np.float32)
    one = sampling.choose(exact(features, recipe), np.ones((11, 16), dtype=bool), recipe)
    bank = in_partitions(features, partitions, recipe)
    assert bank.features.shape == one.features.shape
    assert np.all(np.diff(bank.image_ids) >= 0)
    for entry, image in zip(bank.features, bank.image_ids, strict=True):
        assert (features[image] == entry).all(axis=1).any()
    if sampling_rule == "greedy":
        points = features.reshape(-1, 4)
        assert covering_radius(points, bank.features) <= 4 * covering_radius(points, one.features) + 1e-5


def test_one_partition_and_all_patches() -> None:
    features = np.random.default_rng(0).normal(size=(6, 16, 4)).astype(np.float32)
    for ratio in (0.1, 1.0):
        recipe = RECIPE.replace({"sampling_ratio": ratio})
        one = sampling.choose(exact(features, recipe), np.ones((6, 16), dtype=bool), recipe)
        same = in_partitions(features, 1, recipe)
        for name, values in one.tensors().items():
            np.testing.assert_array_equal(same.tensors()[name], values)
    several = in_partitions(features, 3, RECIPE.replace({"sampling_ratio": 1.0}))
    np.testing.assert_array_equal(several.features, features.reshape(-1, 4))
    np.testing.assert_array_equal(several.local_scale, one.local_scale)


def test_a_partition_without_eligible_patches_gives_nothing() -> None:
    features = exact(np.ones((2, 16, 4), dtype=np.float32), RECIPE)
    none = sampling.propose(features, np.zeros((2, 16), dtype=bool), 5, RECIPE, partitions=2)
    assert len(none.entries.features) == len(none.patches.features) == 0
    some = sampling.propose(features, np.ones((2, 16), dtype=bool), 5, RECIPE, first_image=2, partitions=2)
    bank = sampling.choose_among([none, some], 5, RECIPE)
    assert set(bank.image_ids) <= {2, 3}
    with pytest.raises(KeyError):
        Candidates.from_tensors({})
