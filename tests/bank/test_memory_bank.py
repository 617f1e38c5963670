"""The memory bank: how far its entries lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from goodparts.bank import memory_bank


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


def test_spacing_has_a_limit() -> None:
    points = np.array([[0.0], [1], [2], [3], [100], [103]], dtype=np.float32)
    np.testing.assert_allclose(memory_bank.spacing(points, 1), [1, 1, 1, 1, 3, 3], rtol=1e-4)
    found = memory_bank.spacing(points, 1, limit=1.5)
    np.testing.assert_allclose(found, [1, 1, 1, 1, 1.5, 1.5], rtol=1e-4)
    found = memory_bank.spacing(points[4:], 1, limit=1.5, among=points[:4], usual=2.0)
    np.testing.assert_allclose(found, [3, 3], rtol=1e-4)


def test_spacing_of_copies_is_nothing_to_divide_by() -> None:
    copies = np.ones((20, 4), dtype=np.float32)
    assert memory_bank.spacing(copies, 9).tolist() == [1] * 20
    some = np.concatenate([copies[:4], np.eye(20, 4, dtype=np.float32) * np.arange(2, 22)[:, None]])
    assert memory_bank.spacing(some, 2).min() > 0.1
