"""Whitening: distances become those along principal components of equal spread, as far as the recipe wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.features import whitening
from goodparts.features.whitening import Whitening
from goodparts.recipe.recipe import Recipe

Array = NDArray[Any]


def features_of(images: int, patches: int, d: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Far from zero, and spread widely along some directions and narrowly along others, none of them an axis."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.standard_normal((d, d)))
    spread = np.geomspace(10, 0.1, d)
    return [
        ((rng.standard_normal((patches, d)) * spread) @ turned + 50).astype(np.float32) for _ in range(images)
    ]


def mapped(learnt: Whitening, features: Array) -> Array:
    return (features.astype(np.float64) - learnt.mean) @ learnt.matrix.astype(np.float64)


@given(st.integers(1, 5), st.integers(2, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_components_have_their_spread_to_the_power_that_is_left(
    images: int, d: int, power: float, seed: int
) -> None:
    features = features_of(images, 400, d, seed)
    learnt = Whitening.learn(features, Recipe(whitening=power, feature_dimensions=0))
    assert learnt.mean.shape == (d,)
    assert learnt.matrix.shape == (d, d)
    everything = np.concatenate(features)
    np.testing.assert_allclose(learnt.mean, everything.mean(axis=0), rtol=1e-4)
    covariance = np.cov(mapped(learnt, everything).T, bias=True).reshape(d, d)
    variances = np.linalg.eigvalsh(np.cov(everything.T.astype(np.float64), bias=True).reshape(d, d))[::-1]
    expected = variances / (variances + 1e-3 * variances.mean()) ** power
    np.testing.assert_allclose(np.diag(covariance), expected, rtol=2e-2)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-3 * np.diag(covariance).max()


def test_without_whitening_distances_stay_as_they_are() -> None:
    features = np.concatenate(features_of(2, 100, 8))
    learnt = Whitening.learn([features], Recipe(whitening=0, feature_dimensions=0))
    apart = np.linalg.norm(features[:50, None] - features[50:100], axis=2)
    seen = mapped(learnt, features)
    np.testing.assert_allclose(np.linalg.norm(seen[:50, None] - seen[50:100], axis=2), apart, rtol=1e-3)


def test_dimensions_of_little_spread_are_cut_off() -> None:
    features = features_of(3, 300, 10)
    whole = Whitening.learn(features, Recipe(feature_dimensions=0))
    cut = Whitening.learn(features, Recipe(feature_dimensions=4))
    np.testing.assert_array_equal(cut.matrix, whole.matrix[:, :4])
    assert Whitening.learn(features, Recipe(feature_dimensions=400)).matrix.shape == (10, 10)


def test_directions_without_any_spread_are_not_blown_up() -> None:
    features = features_of(2, 200, 6)
    flat = [np.concatenate([part, np.full((200, 2), 7, dtype=np.float32)], axis=1) for part in features]
    learnt = Whitening.learn(flat, Recipe(whitening=1, feature_dimensions=0))
    assert np.isfinite(learnt.matrix).all()
    assert np.abs(mapped(learnt, np.concatenate(flat))[:, -2:]).max() < 1
    blank = Whitening.learn([np.zeros((50, 4), dtype=np.float32)], Recipe(whitening=1))
    assert np.isfinite(blank.matrix).all()


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ({}, True),
        ({"whitening": 0.0}, False),
        ({"whitening": 0.0, "feature_dimensions": 99}, True),
        ({"whitening": 0.0, "feature_dimensions": 100}, False),
        ({"whitening": 0.5, "feature_dimensions": 0}, True),
        ({"whitening": 0.0, "feature_dimensions": 0}, False),
    ],
)
def test_it_is_learnt_only_where_it_changes_something(keys: dict[str, Any], needed: bool) -> None:
    assert whitening.wanted(Recipe(**keys), 100) is needed
