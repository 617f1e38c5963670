"""The greedy choice in PyTorch: each pick is the farthest point, and the sequence is that of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts.bank import coreset
from goodparts.engines import torch_coreset
from goodparts.engines.runtime import Runtime


def chosen(points: NDArray[np.float32], count: int, start: NDArray[np.int64]) -> NDArray[np.int64]:
    return torch_coreset.greedy(points.__getitem__, len(points), count, start, device="cpu")


@pytest.mark.parametrize("candidates", [5, 64, 2048])
def test_the_sequence_is_that_of_numpy_where_numbers_are_exact(
    candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_coreset, "_CANDIDATES", candidates)
    points = np.random.default_rng(1).integers(-40, 40, (900, 6)).astype(np.float32)
    start = np.array([17, 3])
    seen: list[int] = []
    found = torch_coreset.greedy(
        points.__getitem__, 900, 200, start, device="cpu", progress=lambda done, _: seen.append(done)
    )
    np.testing.assert_array_equal(found, coreset.greedy(points, 200, start=start))
    assert seen[-1] == 200
    assert seen == sorted(seen)


def test_every_pick_is_the_farthest_point_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_coreset, "_SCRATCH", 4 * 3000 * 7)  # batches in parts
    points = np.random.default_rng(2).normal(size=(3000, 24)).astype(np.float32)
    picks = chosen(points, 150, np.array([5]))
    assert len(set(picks.tolist())) == 150
    exact = points.astype(np.float64)
    nearest = ((exact - exact[picks[0]]) ** 2).sum(1)
    for pick in picks[1:]:
        assert nearest[pick] >= nearest.max() * (1 - 1e-5)
        nearest = np.minimum(nearest, ((exact - exact[pick]) ** 2).sum(1))


def test_copies_are_picked_once_the_rest_is() -> None:
    points = np.repeat(np.arange(4, dtype=np.float32)[:, None], 5, axis=0)
    picks = chosen(points, 12, np.array([0]))
    assert len(set(picks.tolist())) == 12
    assert set(points[picks[:4], 0]) == {0, 1, 2, 3}


@pytest.mark.parametrize("runtime", [Runtime("torch", "cpu"), Runtime("openvino", "gpu")])
def test_only_a_gpu_of_pytorch_chooses(runtime: Runtime) -> None:
    assert not torch_coreset.fits(runtime, 10, 10)
