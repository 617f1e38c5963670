"""A coreset of parts on disk, each read by the worker that has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goodparts.bank.composable import covering_radius, first_round
from goodparts.errors import DatasetError
from goodparts.fleet.coreset import choose_coreset
from goodparts.scale.pool import WorkerPool


def test_parts_on_disk(tmp_path: Path, pool: WorkerPool) -> None:
    points = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    parts = []
    for number, part in enumerate(np.array_split(points, 4)):
        np.save(tmp_path / f"{number}.npy", part)
        parts.append(tmp_path / f"{number}.npy")
    found = choose_coreset(parts, 200, pool)
    np.testing.assert_array_equal(found.features, points[1000 * found.parts + found.rows])
    assert set(found.parts) == {0, 1, 2, 3}
    assert found.radius == covering_radius(points, found.features)

    np.save(tmp_path / "all.npy", points)
    single = choose_coreset([tmp_path / "all.npy"], 200, pool)
    np.testing.assert_array_equal(single.rows, first_round(points, 200))
    assert found.radius <= 1.5 * single.radius


def test_parts_that_are_none(tmp_path: Path, pool: WorkerPool) -> None:
    np.save(tmp_path / "double.npy", np.zeros((3, 2)))
    np.save(tmp_path / "few.npy", np.zeros((3, 2), dtype=np.float32))
    for name, words in (
        ("none", "can't be read"),
        ("double", r"found \(3, 2\) float64"),
        ("few", "expected 1 to 3"),
    ):
        with pytest.raises(DatasetError, match=words):
            choose_coreset([tmp_path / f"{name}.npy"], 9, pool)
