"""Calibration: decisions, promises, p-values, history, and that JSON keeps all of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.decision.calibration import Calibration, decide
from goodparts.decision.good_scores import (
    CALIBRATION_SET,
    LEAVE_ONE_OUT,
    GoodMaps,
    GoodScores,
    GoodScoresCollector,
)
from goodparts.errors import ModelError, RecipeError
from goodparts.recipe.recipe import Recipe

MAPS = GoodMaps(peaks=(2.0, 4.0, 3.0), mean=1.0, std=0.5, quantile=1.75)


def good(scores: list[float], source: str = LEAVE_ONE_OUT) -> GoodScores:
    return GoodScores(tuple(scores), tuple(f"{i}.png" for i in range(len(scores))), MAPS, source)


def calibrated(scores: list[float], **keys: object) -> Calibration:
    held_out = good(scores)
    return Calibration(held_out, None, decide(held_out, Recipe().replace(keys)))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"threshold_rule": "sigma", "threshold_sigma": 2}, 2.5 + 2 * np.std([1, 2, 3, 4], ddof=1)),
        ({"threshold_rule": "quantile", "threshold_quantile": 0.5}, 2.0),
        ({"threshold_rule": "rate", "false_reject_rate": 0.6, "confidence": 0.5}, 3.0),
        ({"threshold_rule": "fixed", "threshold_value": 7.5}, 7.5),
        ({"threshold_rule": "f1"}, None),
    ],
)
def test_rules(keys: dict[str, object], expected: float | None) -> None:
    decision = calibrated([1.0, 2.0, 3.0, 4.0], **keys).decision
    assert decision.threshold == (None if expected is None else pytest.approx(expected))
    assert decision.threshold_rule == keys["threshold_rule"]
    assert decision.good == (0 if keys["threshold_rule"] in ("fixed", "f1") else 4)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"pixel_threshold_rule": "peak_sigma", "pixel_threshold_sigma": 1}, 3 + 1.0),
        ({"pixel_threshold_rule": "peak_quantile", "pixel_threshold_quantile": 0.6}, 3.0),
        ({"pixel_threshold_rule": "pixel_sigma", "pixel_threshold_sigma": 3}, 2.5),
        ({"pixel_threshold_rule": "pixel_quantile"}, 1.75),
        ({"pixel_threshold_rule": "fixed", "pixel_threshold_value": 9}, 9.0),
    ],
)
def test_pixel_rules(keys: dict[str, object], expected: float) -> None:
    assert calibrated([1.0, 2.0], **keys).pixel_threshold == pytest.approx(expected)


def test_rate_says_when_it_can_not_keep_its_promise() -> None:
    few = calibrated(list(range(58)), threshold_rule="rate", false_reject_rate=0.05).decision
    enough = calibrated(list(range(59)), threshold_rule="rate", false_reject_rate=0.05).decision
    assert (few.kept, few.threshold) == (False, 57.0)
    assert (enough.kept, enough.threshold) == (True, 58.0)


def test_tail_needs_images_and_gives_an_interval() -> None:
    scores = np.random.default_rng(0).gamma(5, size=120).tolist()
    decision = calibrated(scores, threshold_rule="tail", false_reject_rate=0.001).decision
    low, high = decision.interval
    assert decision.threshold is not None
    assert low < decision.threshold < high
    with pytest.raises(RecipeError, match="tail needs at least 25 good images, found 3"):
        calibrated([1.0, 2.0, 3.0], threshold_rule="tail")


def test_the_promise_counts_those_above_and_says_what_it_rests_on() -> None:
    scores = [float(value) for value in range(100)]
    estimated = calibrated(scores, threshold_rule="fixed", threshold_value=98.5).false_reject_bound()
    assert (estimated.good, estimated.rejected, estimated.certified) == (100, 1, False)
    assert estimated.rate == pytest.approx(0.0466, abs=1e-4)
    assert estimated.needed(0.01) == 299
    certified = (
        calibrated(scores)
        .decide(Recipe(), calibration_set=good(scores, CALIBRATION_SET))
        .false_reject_bound()
    )
    assert certified.certified


@pytest.mark.parametrize(
    ("score", "expected"), [(0.5, 1.0), (1.0, 1.0), (2.5, 3 / 5), (4.0, 2 / 5), (4.1, 1 / 5)]
)
def test_p_values_by_hand(score: float, expected: float) -> None:
    assert calibrated([1.0, 2.0, 3.0, 4.0]).p_value(score) == pytest.approx(expected)


@given(st.integers(5, 60), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_p_values_of_good_parts_are_not_too_small(n: int, seed: int) -> None:
    # conformal: over parts that are exchangeable with the good images, P(p <= k / (n + 1)) is at most that
    rng = np.random.default_rng(seed)
    everything = rng.integers(0, 12, n + 1).astype(float)  # many ties
    p_values = [
        calibrated(np.delete(everything, index).tolist()).p_value(everything[index]) for index in range(n + 1)
    ]
    for share in (0.1, 0.3, 0.7):
        assert np.mean(np.array(p_values) <= share + 1e-12) <= share + 1 / (n + 1)


def test_decisions_are_kept_in_the_history() -> None:
    first = calibrated([1.0, 2.0, 3.0])
    second = first.decide(Recipe(threshold_rule="fixed", threshold_value=5.0))
    third = second.decide(Recipe(), calibration_set=good([2.0, 4.0, 6.0, 8.0], CALIBRATION_SET))
    assert [decision.threshold for decision in third.history] == [first.threshold, 5.0]
    assert third.decision.source == CALIBRATION_SET
    assert third.scores == (2.0, 4.0, 6.0, 8.0)
    assert third.training_set.scores == (1.0, 2.0, 3.0)
    assert (
        third.decide(Recipe()).scores == third.scores
    )  # scores of the calibration set stay until there are others


def test_json_keeps_everything() -> None:
    before = calibrated(
        np.random.default_rng(1).gamma(5, size=40).tolist(), threshold_rule="tail", false_reject_rate=0.01
    ).decide(Recipe(), calibration_set=good([1.0, 2.5], CALIBRATION_SET))
    assert Calibration.from_json(before.to_json()) == before
    oracle = calibrated([1.0, 2.0], threshold_rule="f1")
    assert Calibration.from_json(oracle.to_json()) == oracle


def test_the_oracle_has_no_threshold_before_it_saw_labels() -> None:
    oracle = calibrated([1.0, 2.0], threshold_rule="f1")
    with pytest.raises(ModelError, match="f1 is an oracle"):
        oracle.threshold  # noqa: B018
    assert oracle.with_oracle(3.5).threshold == 3.5
    assert oracle.with_oracle(3.5).decision.threshold_rule == "f1"


def test_maps_are_gathered_without_what_was_not_looked_at() -> None:
    rng = np.random.default_rng(2)
    maps = rng.gamma(3, size=(4, 30, 40)).astype(np.float32)
    maps[:, :5] = np.nan
    collector = GoodScoresCollector(LEAVE_ONE_OUT)
    for index, anomaly_map in enumerate(maps):
        collector.add(f"{index}.png", float(index), anomaly_map)
    gathered = collector.result(0.9)
    seen = maps[:, 5:].astype(np.float64)
    assert gathered.maps.peaks == tuple(np.nanmax(maps, axis=(1, 2)).tolist())
    assert gathered.maps.mean == pytest.approx(seen.mean())
    assert gathered.maps.std == pytest.approx(seen.std())
    assert gathered.maps.quantile == pytest.approx(np.quantile(seen, 0.9), rel=0.01)
    assert gathered.scores == (0.0, 1.0, 2.0, 3.0)


def test_joined_scores_are_those_of_all_images() -> None:
    rng = np.random.default_rng(3)
    maps = rng.gamma(3, size=(5, 20, 20)).astype(np.float32)
    parts = []
    for members in (range(2), range(2, 5), range(5)):
        collector = GoodScoresCollector(LEAVE_ONE_OUT)
        for index in members:
            collector.add(f"{index}.png", float(index), maps[index])
        parts.append(collector.result(0.99))
    joined, together = parts[0].joined(parts[1]), parts[2]
    assert joined.scores == together.scores
    assert joined.names == together.names
    assert joined.maps.peaks == together.maps.peaks
    assert joined.maps.mean == pytest.approx(together.maps.mean)
    assert joined.maps.std == pytest.approx(together.maps.std)


# ---- several zones -------------------------------------------------------------------------------


def in_zones(*scores: list[float]) -> GoodScores:
    collector = GoodScoresCollector(LEAVE_ONE_OUT, [f"z{i}" for i in range(len(scores))])
    for index, of_image in enumerate(zip(*scores, strict=True)):
        maps = [np.full((2, 2), score, dtype=np.float32) for score in of_image]
        collector.add(f"{index}.png", max(of_image), maps[0], list(zip(of_image, maps, strict=True)))
    return collector.result(0.9)


def test_zones_are_decided_each_by_itself_and_kept_in_json() -> None:
    gathered = in_zones([1.0, 2.0, 3.0], [10.0, 10.0, 13.0])
    recipe = Recipe(threshold_rule="quantile", threshold_quantile=0.5)
    calibration = Calibration(gathered, None, decide(gathered, recipe))
    assert [zone.threshold for zone in calibration.decision.zones] == [2.0, 10.0]
    assert calibration.decision.threshold == 1.0
    assert calibration.scores == (1.0, 1.0, 1.5)
    assert calibration.false_reject_bound().rejected == 1
    assert calibration.p_value(1.5) == 2 / 4
    assert gathered.zones[1].names == ()
    assert Calibration.from_json(calibration.to_json()) == calibration
    joined = gathered.joined(in_zones([7.0], [8.0]))
    assert [zone.scores for zone in joined.zones] == [(1.0, 2.0, 3.0, 7.0), (10.0, 10.0, 13.0, 8.0)]


def test_without_zones_nothing_of_them_is_written() -> None:
    assert "zone" not in calibrated([1.0, 2.0, 3.0]).to_json()
