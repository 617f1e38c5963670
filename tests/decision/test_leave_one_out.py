"""Held-out scores: nothing of an image is left when it is scored, and what stands in for it is what was missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from exact_features import everything, good_features_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.bank.sampling import choose, extend
from goodparts.decision import leave_one_out, replacements
from goodparts.errors import DatasetError
from goodparts.features.extract import GoodFeatures
from goodparts.recipe.recipe import Recipe

GRID = (4, 4)
RECIPE = Recipe(
    image_size=32,
    sampling_ratio=0.25,
    projection_dimensions=0,
    smoothing_sigma=0,
    score_neighbours=1,
    density_neighbours=0,
)


def good_features(images: int, d: int, seed: int, *, spread: float = 1.0) -> GoodFeatures:
    """Features of made-up images: a few clusters that all images share, and some noise of their own."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, d)) * 3
    patches = GRID[0] * GRID[1]
    features = centres[rng.integers(6, size=(images, patches))] + spread * rng.normal(
        size=(images, patches, d)
    )
    return good_features_of(features.astype(np.float32), RECIPE, GRID)


def scores_of(scored: Iterator[leave_one_out.HeldOutScore]) -> NDArray[np.float64]:
    return np.array([one.score for one in sorted(scored, key=lambda one: one.index)])


def silent(stage: str, done: int, total: int) -> None:
    pass


def brute_force(good: GoodFeatures, index: int, entries: NDArray[np.float32]) -> float:
    differences = good.features.image(index)[:, None].astype(np.float64) - entries
    return float(np.sqrt((differences**2).sum(axis=2)).min(axis=1).max())


def test_a_random_bank_is_searched_without_an_images_own_entries() -> None:
    good = good_features(7, 5, seed=0)
    recipe = RECIPE.replace({"sampling": "random"})
    bank = choose(good.features, good.patch_mask, recipe)
    scores = scores_of(leave_one_out.score(good, bank, recipe, workers=2, progress=silent))
    for index, score in enumerate(scores):
        others = bank.features[bank.image_ids != index]
        assert score == pytest.approx(brute_force(good, index, others), rel=1e-5)


@given(st.integers(3, 12), st.integers(2, 8), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_replacements_cover_what_the_others_lack_and_are_never_the_images_own(
    images: int, d: int, seed: int
) -> None:
    good = good_features(images, d, seed)
    bank = choose(good.features, good.patch_mask, RECIPE)
    found, absent = replacements.find(good, bank, RECIPE)
    entries, image_ids = found.features, found.image_ids
    assert len(entries) == len(image_ids) == len(absent)
    assert not np.any(image_ids == absent)
    for entry, origin in zip(entries, image_ids, strict=True):
        assert (good.features.image(origin) == entry).all(axis=1).any()

    def reach(points: NDArray[np.float32], kept: NDArray[np.float32]) -> float:
        return float(np.sqrt(((points[:, None] - kept) ** 2).sum(axis=2)).min(axis=1).max())

    patches = everything(good.features)
    radius = reach(patches.reshape(-1, d), bank.features)
    for image in range(images):
        own = bank.of_image(image)
        assert np.count_nonzero(absent == image) <= own.stop - own.start
        others = np.delete(patches, image, axis=0).reshape(-1, d)
        left = np.concatenate([bank.features[bank.image_ids != image], entries[absent == image]])
        if (
            np.count_nonzero(absent == image) < own.stop - own.start
        ):  # it stopped because nothing was left to cover
            assert reach(others, left) <= radius * (1 + 1e-4)


def test_scores_are_those_of_the_bank_with_replacements() -> None:
    good = good_features(8, 6, seed=3)
    bank = choose(good.features, good.patch_mask, RECIPE)
    found, absent = replacements.find(good, bank, RECIPE)
    entries = found.features
    assert len(found.features)
    scores = scores_of(leave_one_out.score(good, bank, RECIPE, workers=2, progress=silent))
    for index, score in enumerate(scores):
        others = np.concatenate([bank.features[bank.image_ids != index], entries[absent == index]])
        assert score == pytest.approx(brute_force(good, index, others), rel=1e-5)


@pytest.mark.parametrize("limit", [0, 1.02])
def test_local_scale_of_replacements_is_that_to_entries_of_other_images(limit: float) -> None:
    good = good_features(8, 6, seed=3)
    recipe = RECIPE.replace({"score_neighbours": 2, "density_neighbours": 3, "density_limit": limit})
    bank = choose(good.features, good.patch_mask, recipe)
    assert bank.local_scale is not None
    found, absent = replacements.find(good, bank, recipe)
    assert len(found.features)
    assert not limit or bank.local_scale.max() == pytest.approx(limit * bank.local_scale.min())
    scores = scores_of(leave_one_out.score(good, bank, recipe, workers=2, progress=silent))
    for index, score in enumerate(scores):
        left = bank.image_ids != index
        own = found.features[absent == index]
        apart = np.linalg.norm(own[:, None] - bank.features[left], axis=2)
        apart.sort(axis=1)
        usual = np.median(bank.local_scale)
        units = np.clip(apart[:, :3].mean(axis=1), usual, limit * usual if limit else np.inf)
        others = np.concatenate([bank.features[left], own])
        local_scale = np.concatenate([bank.local_scale[left], units])
        distances = np.linalg.norm(good.features.image(index)[:, None] - others, axis=2)
        nearest = distances.argsort(axis=1)[:, :2]
        expected = np.take_along_axis(distances / local_scale, nearest, axis=1).mean(axis=1).max()
        assert score == pytest.approx(expected, rel=1e-4)


def test_replacements_bring_held_out_scores_nearer_to_those_of_new_images() -> None:
    biased, filled = [], []
    for seed in range(5):
        every = good_features(80, 4, seed, spread=0.6)
        learnt = replace(every, left_out=np.arange(80) >= 40)
        bank = choose(learnt.features, learnt.eligible, RECIPE)
        nobody = np.full(len(bank.features), -1, dtype=np.int32)
        run = (RECIPE, 2, silent)
        new = scores_of(leave_one_out.score_against(learnt, bank, nobody, range(40, 80), *run)).mean()
        plain = scores_of(leave_one_out.score_against(learnt, bank, nobody, range(40), *run)).mean()
        corrected = scores_of(leave_one_out.score(learnt, bank, RECIPE, workers=2, progress=silent))[
            :40
        ].mean()
        biased.append(plain / new - 1)
        filled.append(corrected / new - 1)
    assert np.mean(biased) > 0.02
    assert abs(np.mean(filled)) < np.mean(biased) / 2


def test_folds_score_every_image_once_against_a_bank_without_its_fold() -> None:
    good = good_features(9, 5, seed=4)
    scored = list(leave_one_out.score_by_folds(good, RECIPE, 3, workers=2, progress=silent))
    assert sorted(one.index for one in scored) == list(range(9))
    without = good.patch_mask.copy()
    without[3:6] = False
    bank = choose(good.features, without, RECIPE)
    for one in scored:
        if 3 <= one.index < 6:
            assert one.score == pytest.approx(brute_force(good, one.index, bank.features), rel=1e-5)


def test_a_bank_of_one_image_falls_back_to_refits() -> None:
    good = good_features(4, 5, seed=5)
    recipe = RECIPE.replace({"sampling_ratio": 1e-6})  # one entry, so all of the bank is one image's
    bank = choose(good.features, good.patch_mask, recipe)
    scores = scores_of(leave_one_out.score(good, bank, recipe, workers=2, progress=silent))
    assert len(scores) == 4
    assert (scores < 100).all()  # and not the distance to nothing


def test_new_images_leave_out_their_own_entries_of_an_extended_bank() -> None:
    old, new = good_features(5, 5, seed=6), good_features(3, 5, seed=7)
    recipe = RECIPE.replace({"sampling": "random"})
    bank = choose(old.features, old.patch_mask, recipe)
    grown = extend(bank, new.features, new.patch_mask, recipe, first_image=5)
    scores = scores_of(leave_one_out.score(new, grown, recipe, first_image=5, workers=2, progress=silent))
    for index, score in enumerate(scores):
        others = grown.features[grown.image_ids != index + 5]
        assert score == pytest.approx(brute_force(new, index, others), rel=1e-5)


@pytest.mark.parametrize("sampling", ["greedy", "random"])
def test_a_bank_of_one_new_image_alone_has_nothing_to_judge_it_by(sampling: str) -> None:
    recipe = RECIPE.replace({"sampling": sampling, "sampling_limit": 1, "sampling_ratio": 1e-6})
    new = good_features(1, 6, seed=4)
    bank = choose(new.features, new.patch_mask, recipe)
    bank = replace(bank, image_ids=bank.image_ids + np.int32(5))
    with pytest.raises(DatasetError, match=r"one good image alone \(1\).*sampling_limit"):
        list(leave_one_out.score(new, bank, recipe, first_image=5, workers=1, progress=silent))
    two = good_features(2, 6, seed=4)
    scores = scores_of(leave_one_out.score(two, bank, recipe, first_image=5, workers=1, progress=silent))
    assert (scores < 1e6).all()
