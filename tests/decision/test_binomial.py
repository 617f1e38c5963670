"""Rates against SciPy's distributions, and the figures that people quote."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.decision.binomial import clopper_pearson, images_needed, upper_rate


@pytest.mark.parametrize(("rate", "images"), [(0.1, 29), (0.05, 59), (0.02, 149), (0.01, 299), (0.001, 2995)])
def test_images_needed_without_a_single_reject(rate: float, images: int) -> None:
    assert images_needed(rate) == images
    assert upper_rate(0, images) <= rate < upper_rate(0, images - 1)


@given(st.integers(0, 200), st.integers(1, 300), st.floats(0.01, 0.999))
@settings(max_examples=60, deadline=None)
def test_upper_rate_is_a_quantile_of_the_beta_distribution(
    rejected: int, good: int, confidence: float
) -> None:
    rejected = min(rejected, good)
    expected = scipy.stats.beta.ppf(confidence, rejected + 1, good - rejected) if rejected < good else 1.0
    assert upper_rate(rejected, good, confidence) == pytest.approx(expected, abs=1e-9)


@given(st.floats(0.002, 0.9), st.floats(0.05, 0.995), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_images_needed_is_the_least_number(rate: float, confidence: float, rejected: int) -> None:
    images = images_needed(rate, confidence, rejected)
    assert upper_rate(rejected, images, confidence) <= rate
    assert images == rejected + 1 or upper_rate(rejected, images - 1, confidence) > rate


def test_the_rate_above_an_order_statistic_is_bounded_as_promised() -> None:
    rng = np.random.default_rng(5)
    draws, n, above = 4000, 60, 2
    threshold = np.sort(rng.exponential(size=(draws, n)), axis=1)[:, n - 1 - above]
    share_kept = np.mean(np.exp(-threshold) <= upper_rate(above, n, 0.9))
    assert 0.885 < share_kept < 0.915


def test_rates_without_parts() -> None:
    assert upper_rate(0, 0) == 1.0
    assert upper_rate(3, 3) == 1.0


@pytest.mark.parametrize(
    ("rate", "confidence", "rejected"), [(0, 0.95, 0), (1, 0.95, 0), (0.1, 1, 0), (0.1, 0.9, -1)]
)
def test_images_needed_refuses_the_impossible(rate: float, confidence: float, rejected: int) -> None:
    with pytest.raises(ValueError, match="expected 0 < rate"):
        images_needed(rate, confidence, rejected)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("k", "n"),
    [
        (0, 1),
        (1, 1),
        (0, 10),
        (10, 10),
        (3, 10),
        (1, 115),
        (22, 22),
        (7, 93),
        (500, 1000),
        (1, 20_000),
        (19_990, 20_000),
    ],
)
def test_clopper_pearson_is_that_of_scipy(k, n, confidence):
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.01, 0.999))
@settings(max_examples=60, deadline=None)
def test_clopper_pearson_agrees_with_beta_quantiles_and_mirrors(k, n, confidence):
    k = min(k, n)
    tail = (1 - confidence) / 2
    lower, upper = clopper_pearson(k, n, confidence)
    if k > 0:
        assert lower == pytest.approx(scipy.stats.beta.ppf(tail, k, n - k + 1), abs=1e-9)
    if k < n:
        assert upper == pytest.approx(scipy.stats.beta.ppf(1 - tail, k + 1, n - k), abs=1e-9)
    assert 0 <= lower <= k / n <= upper <= 1
    assert clopper_pearson(n - k, n, confidence) == pytest.approx((1 - upper, 1 - lower), abs=1e-12)


def test_clopper_pearson_at_its_ends():
    # nothing counted in n: the upper end is where the chance of that is 2.5 %
    assert clopper_pearson(0, 22) == (0.0, pytest.approx(1 - 0.025 ** (1 / 22), abs=1e-14))
    assert clopper_pearson(22, 22) == (pytest.approx(0.025 ** (1 / 22), abs=1e-14), 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_clopper_pearson_refuses_impossible_counts(k, n, confidence):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        clopper_pearson(k, n, confidence)
