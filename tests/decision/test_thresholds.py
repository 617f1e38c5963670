"""Thresholds: hand-made cases, what each rule promises, and a simulation of whether it keeps it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.decision.binomial import upper_rate
from goodparts.decision.thresholds import (
    TAIL_NEEDS,
    Tail,
    fit_tail,
    mean_and_sigmas,
    rate_threshold,
    robust_sigmas,
    tail_threshold,
    upper_quantile,
)


def test_one_odd_image_does_not_move_robust_sigmas() -> None:
    scores = np.random.default_rng(0).normal(1, 0.1, 60)
    odd = np.append(scores, 4.0)
    assert robust_sigmas(odd, 3) == pytest.approx(robust_sigmas(scores, 3), abs=0.02)
    assert mean_and_sigmas(odd, 3) > mean_and_sigmas(scores, 3) + 0.5
    many = np.random.default_rng(1).normal(1, 0.1, 100_000)
    assert robust_sigmas(many, 3) == pytest.approx(1.3, abs=0.01)


def test_robust_sigmas_of_few_or_equal_scores_are_no_less_than_sigmas() -> None:
    for count in (2, 3, 5, 19, 39):
        scores = np.random.default_rng(count).gamma(9, 0.1, count)
        assert robust_sigmas(scores, 3) >= mean_and_sigmas(scores, 3)
    equal = [1.0] * 40 + [1.1] * 5
    assert robust_sigmas(equal, 3) == mean_and_sigmas(equal, 3)
    assert robust_sigmas([1.0] * 50, 3) == 1.0


def test_mean_and_sigmas_is_that_of_a_sample() -> None:
    assert mean_and_sigmas([1.0, 2.0, 3.0], 2) == pytest.approx(2 + 2 * 1.0)


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0, 1.0), (0.25, 1.0), (0.26, 2.0), (0.75, 3.0), (0.99, 4.0), (1, 4.0)]
)
def test_upper_quantile_takes_a_value_that_is_there(quantile: float, expected: float) -> None:
    assert upper_quantile([3.0, 1.0, 4.0, 2.0], quantile) == expected


@pytest.mark.parametrize(
    ("n", "rate", "confidence", "above"),
    [
        (59, 0.05, 0.95, 0),  # just enough for the largest score
        (93, 0.05, 0.95, 1),  # 93 is the least n for one above (Wilks)
        (124, 0.05, 0.95, 2),
        (299, 0.01, 0.95, 0),
        (473, 0.01, 0.95, 1),
    ],
)
def test_rate_takes_the_order_statistic_that_the_tables_give(
    n: int, rate: float, confidence: float, above: int
) -> None:
    scores = np.random.default_rng(0).permutation(n).astype(float)
    assert rate_threshold(scores, rate, confidence) == (n - 1 - above, True)
    assert rate_threshold(scores[scores > 0], rate, confidence)[0] >= n - 1 - above


@given(st.integers(1, 400), st.floats(0.005, 0.5), st.floats(0.5, 0.999))
@settings(max_examples=80, deadline=None)
def test_rate_is_the_lowest_that_keeps_the_promise(n: int, rate: float, confidence: float) -> None:
    threshold, kept = rate_threshold(np.arange(n), rate, confidence)
    above = int(n - 1 - threshold)
    assert kept == (upper_rate(0, n, confidence) <= rate)
    if kept:
        assert upper_rate(above, n, confidence) <= rate
        assert above + 1 == n or upper_rate(above + 1, n, confidence) > rate
    else:
        assert above == 0


def test_rate_keeps_its_promise_where_sigma_does_not() -> None:
    """1,000 draws of 300 good parts from a distribution with a known, heavy tail (lognormal, as scores tend to be).

    `rate` promises at most 2 % false rejects with 95 % confidence, so about 5 % of the draws may exceed it; mean +
    3 sigma, taken for the 0.13 % it would have if scores were Gaussian, exceeds that nearly always.
    """
    rng = np.random.default_rng(2)
    scores = rng.lognormal(0, 0.6, size=(1000, 300))
    rejects = scipy.stats.lognorm(0.6).sf
    by_rate = np.array([rejects(rate_threshold(draw, 0.02, 0.95)[0]) for draw in scores])
    by_sigma = np.array([rejects(mean_and_sigmas(draw, 3)) for draw in scores])
    assert np.mean(by_rate > 0.02) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert np.mean(by_rate > 0.02) > 0.01  # and is no more careful than it must be
    assert np.mean(by_sigma > 0.00135) > 0.95
    assert np.median(by_sigma) > 0.005


@pytest.mark.parametrize("shape", [-0.3, -0.1, 0.0, 0.2, 0.4])
def test_the_fit_recovers_a_pareto_tail(shape: float) -> None:
    rng = np.random.default_rng(3)
    fits = [fit_tail(scipy.stats.genpareto.rvs(shape, size=1000, random_state=rng)) for _ in range(60)]
    assert np.mean([fit.shape for fit in fits]) == pytest.approx(shape, abs=0.08)
    thresholds = [fit.threshold(1e-3) for fit in fits]
    assert np.median(thresholds) == pytest.approx(scipy.stats.genpareto.isf(1e-3, shape), rel=0.12)


@pytest.mark.parametrize("shape", [-0.25, 0.0, 1e-12, 0.3])
def test_a_tail_thresholds_are_those_of_scipy(shape: float) -> None:
    tail = Tail(start=5.0, share=0.1, shape=shape, scale=0.7)
    expected = 5 + scipy.stats.genpareto.isf(0.01 / 0.1, shape, scale=0.7)
    assert tail.threshold(0.01) == pytest.approx(expected)
    assert tail.threshold(0.1) == tail.threshold(0.5) == 5.0


def test_the_interval_of_a_tail_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    truth = scipy.stats.norm.isf(1e-3)
    covered = []
    for seed in range(100):
        threshold, (low, high) = tail_threshold(rng.normal(size=220), 1e-3, 0.9, seed=seed, draws=100)
        assert low < high
        assert 2 < threshold < 6
        covered.append(low <= truth <= high)
    assert 0.7 < np.mean(covered) < 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(5).gamma(4, size=100)
    assert tail_threshold(scores, 0.001, 0.95, seed=1) == tail_threshold(scores, 0.001, 0.95, seed=1)
    assert tail_threshold(scores, 0.001, 0.95, seed=1)[1] != tail_threshold(scores, 0.001, 0.95, seed=2)[1]


def test_tails_of_equal_scores_and_of_too_few() -> None:
    assert fit_tail(np.full(40, 7.0)).threshold(1e-4) == pytest.approx(7.0)
    with pytest.raises(ValueError, match=f"at least {TAIL_NEEDS} scores, found 24"):
        fit_tail(np.arange(TAIL_NEEDS - 1))
