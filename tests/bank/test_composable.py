"""Coresets in two rounds: one part is the greedy choice, several cover nearly as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.bank import coreset
from goodparts.bank.composable import covering_radius, first_round, second_round


def points(seed: int, n: int, d: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_one_part_is_the_greedy_choice() -> None:
    some = points(0, 500)
    centred = some - some.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = first_round(some, 60)
    np.testing.assert_array_equal(rows, coreset.greedy(centred, 60))
    np.testing.assert_array_equal(rows[second_round([some[rows]], 60)], rows)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), parts=st.integers(2, 6), count=st.integers(1, 40))
def test_several_parts_cover_within_the_bound(seed: int, parts: int, count: int) -> None:
    some = points(seed, 400)
    of_parts = np.array_split(some, parts)
    chosen = [part[first_round(part, count)] for part in of_parts]
    kept = second_round(chosen, count)
    assert len(np.unique(kept)) == count
    one = covering_radius(some, some[first_round(some, count)])
    assert (
        covering_radius(some, np.concatenate(chosen)[kept]) <= 4 * one + 1e-5
    )  # one is at most twice the best


def test_the_radius_is_that_of_the_farthest_point() -> None:
    line = np.arange(10, dtype=np.float32)[:, None]
    assert covering_radius(line, line[[0, 4]]) == 5
    assert covering_radius(line, line) == 0
    many = points(3, 5000)
    by_hand = np.sqrt(((many[:, None] - many[None, :7]) ** 2).sum(-1)).min(1).max()
    assert covering_radius(many, many[:7]) == pytest.approx(by_hand, rel=1e-5)


def test_a_part_may_be_smaller_than_what_is_wanted() -> None:
    small, large = points(1, 5), points(2, 300)
    chosen = [part[first_round(part, 20)] for part in (small, large)]
    assert [len(some) for some in chosen] == [5, 20]
    assert len(second_round(chosen, 20)) == 20
