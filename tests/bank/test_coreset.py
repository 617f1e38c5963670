"""Coresets against the algorithm as everyone writes it: one pick at a time, all points read for each."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.backbones.backbone import cut_down
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import coreset
from goodparts.bank.projected_points import ProjectedPoints
from goodparts.data import dataset
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.features.extract import Extractor, extract
from goodparts.features.projection import Projection
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE
from goodparts.recipe.recipe import Recipe


def one_at_a_time(points: NDArray[np.float32], count: int, start: int) -> list[int]:
    """Greedy k-center in float64; ties go to the lowest index, and a picked point is never picked again."""
    exact = points.astype(np.float64)
    picks = [start]
    nearest = np.full(len(points), np.inf)
    while len(picks) < count:
        nearest = np.minimum(nearest, ((exact - exact[picks[-1]]) ** 2).sum(axis=1))
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return picks


def shortfalls(points: NDArray[np.float32], picks: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how much each pick after the first is nearer to those before it than the farthest point was, relatively."""
    exact = points.astype(np.float64)
    nearest = np.full(len(points), np.inf)
    short = []
    for pick, following in itertools.pairwise(picks):
        nearest = np.minimum(nearest, np.sqrt(((exact - exact[pick]) ** 2).sum(axis=1)))
        short.append(1 - nearest[following] / nearest.max())
    return np.array(short)


@st.composite
def integer_points(draw: st.DrawFn) -> tuple[NDArray[np.float32], int, int]:
    """Points of small whole numbers, many of them equal or equally far; a count and a start."""
    n = draw(st.integers(1, 60))
    d = draw(st.integers(1, 4))
    most = draw(st.sampled_from([1, 2, 5, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = rng.integers(-most, most + 1, (n, d)).astype(np.float32)
    return points, draw(st.integers(1, n)), draw(st.integers(0, n - 1))


@given(integer_points(), st.sampled_from([1, 2, 3, 8, 59, 2048]))
@settings(max_examples=200, deadline=None)
def test_greedy_is_the_one_at_a_time_sequence(
    case: tuple[NDArray[np.float32], int, int], candidates: int
) -> None:
    points, count, start = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "_CANDIDATES", candidates)
        picks = coreset.greedy(points, count, start=start)
    assert picks.tolist() == one_at_a_time(points, count, start)
    assert picks.dtype == np.int64


@given(integer_points(), st.sampled_from([1, 7, 64]))
@settings(max_examples=60, deadline=None)
def test_greedy_does_not_depend_on_how_distances_are_blocked(
    case: tuple[NDArray[np.float32], int, int], block: int
) -> None:
    points, count, start = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "_ROWS", block)
        patch.setattr(coreset, "_PICKS", block)
        picks = coreset.greedy(points, count, start=start)
    assert picks.tolist() == one_at_a_time(points, count, start)


@given(integer_points(), st.integers(1, 60), st.sampled_from([2, 8, 2048]))
@settings(max_examples=60, deadline=None)
def test_greedy_goes_on_where_it_left_off(
    case: tuple[NDArray[np.float32], int, int], first: int, candidates: int
) -> None:
    points, count, start = case
    expected = one_at_a_time(points, count, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "_CANDIDATES", candidates)
        picks = coreset.greedy(points, count, start=np.array(expected[:first]))
    assert picks.tolist() == expected


@pytest.mark.parametrize("start", [0, 2, 4])
def test_worked_example(start: int) -> None:
    points = np.array([[0], [1], [2], [3], [8]], dtype=np.float32)
    # From 0: 8 is 8 away; then 3 (of 3, 5 away) before 2; then 1 and 2 are both 1 away, and 1 comes first.
    expected = {0: [0, 4, 3, 1, 2], 2: [2, 4, 0, 1, 3], 4: [4, 0, 3, 1, 2]}[start]
    assert coreset.greedy(points, 5, start=start).tolist() == expected


@pytest.mark.parametrize("candidates", [3, 50, 2048])
def test_equal_points_are_picked_in_order(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "_CANDIDATES", candidates)
    points = np.ones((100, 3), dtype=np.float32)
    assert coreset.greedy(points, 100, start=40).tolist() == [40, *range(40), *range(41, 100)]


@given(st.integers(0, 2**32 - 1), st.integers(40, 400), st.integers(2, 40), st.sampled_from([4, 32, 2048]))
@settings(max_examples=50, deadline=None)
def test_every_greedy_pick_is_the_farthest_point(seed: int, n: int, d: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, d)).astype(np.float32) * np.float32(10.0 ** rng.integers(-3, 4))
    count = n // 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "_CANDIDATES", candidates)
        picks = coreset.greedy(points, count, start=int(rng.integers(n)))
    assert len(set(picks.tolist())) == count
    assert shortfalls(points, picks).max() <= 1e-5


def test_greedy_of_more_points_than_candidates_and_blocks() -> None:
    rng = np.random.default_rng(3)
    clusters = rng.standard_normal((30, 16)) * 5
    points = clusters[rng.integers(30, size=6000)] + rng.standard_normal((6000, 16))
    points = (points - points.mean(axis=0)).astype(np.float32)
    picks = coreset.greedy(points, 600, start=11)
    assert len(set(picks.tolist())) == 600
    assert picks[0] == 11
    assert shortfalls(points, picks).max() <= 1e-5


@pytest.mark.real
def test_every_greedy_pick_of_real_patches_is_the_farthest(shared: Path) -> None:
    recipe = Recipe.preset("classic").replace(
        {"backbone": str(shared / "weights" / "resnet50_he.onnx"), "sampling": "greedy"}
    )
    images = dataset.good_images(shared / "mvtec_ad" / "metal_nut")[:12]
    good_images = GoodImages.of(images, read=read_image, workers=2)
    extractor = Extractor(cut_down(load_backbone(recipe.backbone), recipe), recipe)
    preprocessor = Preprocessor.learn(good_images, recipe, extractor.grid, EVERYWHERE)
    with extract(good_images, extractor, preprocessor) as good:
        source = ProjectedPoints.of(good.features, np.flatnonzero(good.eligible))
        points = source[np.arange(len(source))]
        picks = coreset.greedy(source, len(source) // 10, start=5)
    assert picks.tolist() == coreset.greedy(points, len(points) // 10, start=5).tolist()
    assert len(set(picks.tolist())) == len(points) // 10 == 940
    assert shortfalls(points, picks).max() <= 1e-5


def test_greedy_covers_better_than_chance() -> None:
    rng = np.random.default_rng(5)
    points = np.concatenate([rng.normal(0, 0.1, (990, 2)), rng.normal(9, 0.1, (10, 2))]).astype(np.float32)

    def radius(kept: NDArray[np.int64]) -> float:
        apart = points[:, None] - points[kept]
        return float(np.sqrt((apart**2).sum(axis=2)).min(axis=1).max())

    assert radius(coreset.greedy(points, 10)) < 0.25  # optimal covers are at least half of it
    assert radius(np.arange(10)) > 8


def test_greedy_reports_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "_CANDIDATES", 16)
    points = np.random.default_rng(2).standard_normal((200, 3)).astype(np.float32)
    reported: list[tuple[int, int]] = []
    coreset.greedy(points, 50, progress=lambda done, total: reported.append((done, total)))
    done = [number for number, _ in reported]
    assert done[0] == 1
    assert done == sorted(set(done))
    assert {total for _, total in reported} == {50}
    assert 3 <= len(reported) < 50  # in batches, neither all at once nor one by one
    assert reported[-1] == (50, 50)


class Reads:
    """Points that count how often each is read."""

    def __init__(self, points: NDArray[np.float32]) -> None:
        self.points = points
        self.count = np.zeros(len(points), dtype=int)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        np.add.at(self.count, rows, 1)
        return self.points[rows]


def test_points_near_an_early_pick_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "_CANDIDATES", 32)
    rng = np.random.default_rng(2)
    points = rng.standard_normal((4000, 3)).astype(np.float32)
    points[:2000] *= 0.01  # one pick is near to all of them
    source = Reads(points)
    picks = coreset.greedy(source, 300, start=0)
    np.testing.assert_array_equal(picks, coreset.greedy(points, 300, start=0))
    assert source.count[1:2000].mean() < 4
    assert source.count[2000:].mean() > 2 * source.count[1:2000].mean()


def test_greedy_leaves_its_points_alone() -> None:
    points = np.random.default_rng(2).standard_normal((50, 3)).astype(np.float32)
    before = points.copy()
    first = coreset.greedy(points, 20)
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(coreset.greedy(np.asfortranarray(points), 20), first)


@pytest.mark.parametrize("count", [0, -1, 6])
def test_a_count_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 5, found {count}"):
        coreset.greedy(np.zeros((5, 2), dtype=np.float32), count)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=50, deadline=None)
def test_random_draws_without_replacement(n: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    drawn = coreset.random(n, count, np.random.default_rng(seed))
    assert drawn.dtype == np.int64
    assert drawn.shape == (count,)
    assert (np.diff(drawn) > 0).all()
    assert set(drawn.tolist()) <= set(range(n))
    np.testing.assert_array_equal(drawn, coreset.random(n, count, np.random.default_rng(seed)))


def test_random_favours_none() -> None:
    rng = np.random.default_rng(9)
    counts = np.zeros(20)
    for _ in range(2000):
        counts[coreset.random(20, 5, rng)] += 1
    assert counts.sum() == 10_000
    assert np.abs(counts - 500).max() < 100  # 5 standard deviations of a binomial count


# ---- projection


def drawn(d: int, dimensions: int, seed: int = 0) -> Projection:
    return Projection.draw(d, Recipe(projection_dimensions=dimensions, seed=seed))


def test_projection_keeps_distances() -> None:
    rng = np.random.default_rng(4)
    features = rng.standard_normal((60, 1000)).astype(np.float32) + 7
    projected = drawn(1000, 256).of(features)
    assert projected.shape == (60, 256)
    assert projected.dtype == np.float32
    upper = np.triu_indices(60, 1)
    before, after = (
        np.linalg.norm(points[upper[0]] - points[upper[1]], axis=1) for points in (features, projected)
    )
    ratio = after / before
    assert 0.95 < ratio.mean() < 1.05
    assert ratio.std() < 1.5 / np.sqrt(2 * 256)


def test_projection_is_that_of_the_seed() -> None:
    features = np.random.default_rng(4).standard_normal((5, 30)).astype(np.float32)
    first, again, other = (drawn(30, 6, seed).of(features) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5


@pytest.mark.parametrize("dimensions", [0, 5, 9])
def test_projection_to_no_fewer_dimensions_changes_nothing(dimensions: int) -> None:
    features = np.random.default_rng(1).standard_normal((30, 5)).astype(np.float32)
    projected = drawn(5, dimensions).of(features)
    np.testing.assert_array_equal(projected, features)
    projected += 1  # a copy, that may be centred in place
    assert not np.array_equal(projected, features)
