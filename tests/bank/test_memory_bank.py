"""The memory bank: how far its entries lie apart."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank import memory_bank
from goodparts.bank.memory_bank import MemoryBank


@pytest.mark.parametrize(("entries", "neighbours"), [(1, 9), (2, 9), (9, 9), (700, 9), (700, 1)])
def test_local_scale_is_the_mean_distance_to_the_nearest_others(entries: int, neighbours: int) -> None:
    points = np.random.default_rng(entries).standard_normal((entries, 5)).astype(np.float32) + 20
    apart = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)
    apart.sort(axis=1)
    expected = apart[:, 1 : 1 + neighbours].mean(axis=1) if entries > 1 else np.ones(1)
    found = memory_bank.local_scale_of(points, neighbours)
    np.testing.assert_allclose(found, np.maximum(expected, np.median(expected)), rtol=1e-3)


def test_local_scale_is_the_same_to_the_bit_on_however_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    found = memory_bank.local_scale_of(points, 3)
    for cores in (1, 7):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        np.testing.assert_array_equal(memory_bank.local_scale_of(points, 3), found)


def test_local_scale_among_more_entries_than_make_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    found = memory_bank.local_scale_of(points, 3)
    for most in (1, 1000, 30_000):
        monkeypatch.setattr(memory_bank, "_DISTANCES", most)
        np.testing.assert_allclose(memory_bank.local_scale_of(points, 3), found, rtol=1e-5)


def test_an_entry_that_sees_no_other_has_the_least_local_scale() -> None:
    points = np.array([[0.0], [1], [3], [100]], dtype=np.float32)
    alone = np.array([False, False, False, True])
    hidden = alone[:, None] | alone

    def hide(squared: NDArray[np.float32], part: slice) -> None:
        squared[hidden[part]] = np.inf

    found = memory_bank.local_scale_of(points, 1, hide=hide)
    np.testing.assert_allclose(found, [1, 1, 2, 1], rtol=1e-5)
    nobody = memory_bank.local_scale_of(points, 1, hide=lambda squared, _: squared.fill(np.inf))
    assert nobody.tolist() == [1] * 4


def test_local_scale_has_a_limit() -> None:
    points = np.array([[0.0], [1], [2], [3], [100], [103]], dtype=np.float32)
    np.testing.assert_allclose(memory_bank.local_scale_of(points, 1), [1, 1, 1, 1, 3, 3], rtol=1e-4)
    found = memory_bank.local_scale_of(points, 1, limit=1.5)
    np.testing.assert_allclose(found, [1, 1, 1, 1, 1.5, 1.5], rtol=1e-4)
    found = memory_bank.local_scale_of(points[4:], 1, limit=1.5, among=points[:4], scale_floor=2.0)
    np.testing.assert_allclose(found, [3, 3], rtol=1e-4)


def test_local_scale_of_copies_is_nothing_to_divide_by() -> None:
    copies = np.ones((20, 4), dtype=np.float32)
    assert memory_bank.local_scale_of(copies, 9).tolist() == [1] * 20
    some = np.concatenate([copies[:4], np.eye(20, 4, dtype=np.float32) * np.arange(2, 22)[:, None]])
    assert memory_bank.local_scale_of(some, 2).min() > 0.1


@pytest.mark.parametrize("whole", [True, False])
def test_a_bank_comes_back_from_its_tensors(whole: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6, 4)).astype(np.float32)
    cells = np.zeros(6, dtype=np.int32)
    bank = MemoryBank(features, np.arange(6, dtype=np.int32), features.mean(axis=0), None, cells)
    if whole:
        bank = replace(
            bank,
            basis=np.eye(4, 2, dtype=np.float32),
            int8=True,
            local_scale=np.ones(6, dtype=np.float32),
            cells=np.arange(6, dtype=np.int32),
            tiles=np.arange(6, dtype=np.int32),
        )
    tensors = bank.tensors()
    names = ["features", "origins", "mean"]  # as model files have them
    assert list(tensors) == [*names, *(["basis", "cells", "tiles", "int8", "spacing"] if whole else [])]
    back = MemoryBank.from_tensors({**tensors, "whitening.mean": features[0]})
    for field in fields(MemoryBank):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(bank, field.name))
