"""Trade-offs: what another threshold would do, counted by hand, and that each can be set as it says."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from goodparts.decision.binomial import upper_rate
from goodparts.decision.calibration import Calibration, decide
from goodparts.decision.good_scores import COPIES, LEAVE_ONE_OUT, GoodMaps, GoodScores
from goodparts.decision.thresholds import robust_sigmas
from goodparts.decision.trade_offs import LabelledParts, TradeOff, trade_offs
from goodparts.recipe.recipe import Recipe

SCORES = tuple(np.random.default_rng(3).normal(1.0, 0.1, 100).tolist())


def maps(n: int) -> GoodMaps:
    return GoodMaps((2.0,) * n, 1.0, 0.5, 1.75)


def good(scores: Sequence[float], source: str = LEAVE_ONE_OUT, zone: str = "") -> GoodScores:
    return GoodScores(tuple(scores), tuple(map(str, range(len(scores)))), maps(len(scores)), source, zone)


def zoned(*zones: Sequence[float]) -> GoodScores:
    whole = good(np.max(zones, axis=0).tolist())
    parts = tuple(good(scores, zone=name) for name, scores in zip("ab", zones, strict=True))
    return replace(whole, zones=parts)


def calibrated(held_out: GoodScores, **keys: object) -> tuple[Calibration, Recipe]:
    recipe = Recipe().replace(keys)
    return Calibration(held_out, None, decide(held_out, recipe)), recipe


def labelled(
    good_parts: Sequence[float],
    bad_parts: Sequence[float],
    *,
    zones: Sequence[Sequence[float]] = (),
    oracle: float = math.nan,
) -> LabelledParts:
    labels = np.arange(len(good_parts) + len(bad_parts)) >= len(good_parts)
    scores = np.array([*good_parts, *bad_parts], dtype=np.float64)
    return LabelledParts(labels, scores, np.array(zones, dtype=np.float64), oracle)


def now(rows: Sequence[TradeOff]) -> TradeOff:
    (found,) = [row for row in rows if row.in_force]
    return found


def sigma(rows: Sequence[TradeOff]) -> list[float]:
    return [
        row.setting["threshold_sigma"] for row in rows if row.alternative and "threshold_sigma" in row.setting
    ]


# ---- without bad parts ------------------------------------------------------------------------------


def test_good_parts_alone_give_the_usual_lower_thresholds() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe)
    assert sigma(rows) == [2.5, 2.0, 1.5]
    assert {row.setting.get("false_reject_rate") for row in rows} >= {0.05, 0.1}
    assert 0.02 not in {row.setting.get("false_reject_rate") for row in rows}, "100 images don't suffice"
    assert [row.threshold for row in rows] == sorted((row.threshold for row in rows), reverse=True)
    assert rows[0] is now(rows)
    assert not any(row.oracle or row.good or row.bad for row in rows)
    for row in rows:
        above = sum(score > row.threshold for score in SCORES)
        assert (row.good_scores, row.good_scores_above) == (100, above)
        assert row.rate_at_most == upper_rate(above, 100)
        if "threshold_sigma" in row.setting:
            assert row.threshold == robust_sigmas(SCORES, row.setting["threshold_sigma"])
        if "false_reject_rate" in row.setting:
            assert row.rate_at_most <= row.setting["false_reject_rate"]


def test_only_lower_thresholds_are_given() -> None:
    calibration, recipe = calibrated(good(SCORES), threshold_sigma=2)
    rows = trade_offs(calibration, recipe)
    assert sigma(rows) == [1.5]
    assert all(row.threshold < now(rows).threshold for row in rows if not row.in_force)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"threshold_rule": "quantile", "threshold_quantile": 1.0},
        {"threshold_rule": "rate", "false_reject_rate": 0.04},
        {"threshold_rule": "tail", "false_reject_rate": 0.001},
        {"threshold_rule": "fixed", "threshold_value": 9.012345678901234},
    ],
    ids=str,
)
def test_every_row_can_be_set_as_it_says(keys: dict[str, Any]) -> None:
    calibration, recipe = calibrated(good(SCORES), **keys)
    rows = [row for row in trade_offs(calibration, recipe) if row.alternative]
    assert len(rows) >= 3
    for row in rows:
        words = shlex.split(row.command)
        assert words[:3] == ["goodparts", "calibrate", "MODEL"]
        typed = {
            flag[2:].replace("-", "_"): value for flag, value in zip(words[3::2], words[4::2], strict=True)
        }
        assert calibration.decide(recipe.replace(typed)).threshold == row.threshold
        assert typed.keys() == row.setting.keys()
        lowered = recipe.replace(typed)
        back = shlex.split(now(trade_offs(calibration, recipe)).flags)
        keys_back = {
            flag[2:].replace("-", "_"): value for flag, value in zip(back[::2], back[1::2], strict=True)
        }
        assert calibration.decide(lowered.replace(keys_back)).threshold == calibration.threshold


def test_confidence_is_the_recipes() -> None:
    calibration, recipe = calibrated(good(SCORES), confidence=0.6)
    assert now(trade_offs(calibration, recipe)).rate_at_most == upper_rate(
        sum(score > calibration.threshold for score in SCORES), 100, 0.6
    )


def test_copies_of_one_image_are_one_image() -> None:
    calibration, recipe = calibrated(good(SCORES[:8], COPIES))
    rows = trade_offs(calibration, recipe)
    assert {row.good_scores for row in rows} == {1}
    assert not any("false_reject_rate" in row.setting for row in rows)


def test_equal_scores_give_nothing_lower() -> None:
    calibration, recipe = calibrated(good((1.0,) * 30))
    assert [row.in_force for row in trade_offs(calibration, recipe)] == [True]


def test_an_oracle_that_saw_nothing_has_no_trade_offs() -> None:
    assert trade_offs(*calibrated(good(SCORES), threshold_rule="f1")) == ()


# ---- with bad parts ---------------------------------------------------------------------------------


def test_counts_are_those_of_each_threshold() -> None:
    calibration, recipe = calibrated(good(SCORES))
    bad_parts = [0.9, 1.0, 1.1, 1.15, 1.2, 1.25, 1.28, 1.29, 2.0, 3.0]
    parts = labelled([0.9, 1.05, 1.22], bad_parts, oracle=1.23)
    rows = trade_offs(calibration, recipe, parts)
    for row in rows:
        assert (row.good, row.bad) == (3, 10)
        assert row.missed == sum(score <= row.threshold for score in bad_parts)
        assert row.rejected == sum(score > row.threshold for score in (0.9, 1.05, 1.22))
    assert [row.missed for row in rows] == sorted((row.missed for row in rows), reverse=True)
    assert 4 <= len(rows) <= 7


def test_a_lower_row_is_the_highest_step_that_misses_no_more() -> None:
    calibration, recipe = calibrated(good(SCORES))
    bad_parts = [1.05, 1.1, 1.2, 1.25]
    rows = [row for row in trade_offs(calibration, recipe, labelled([], bad_parts)) if row.alternative]
    assert now(trade_offs(calibration, recipe, labelled([], bad_parts))).missed == 4
    assert [row.missed for row in rows] == [3, 2, 1, 0]
    for row in rows:
        higher = robust_sigmas(SCORES, row.setting["threshold_sigma"] + 0.25)
        assert sum(score <= higher for score in bad_parts) > row.missed
        assert row.setting["threshold_sigma"] * 4 % 1 == 0, "round figures, whatever the labels"


def test_no_threshold_depends_on_a_test_image_but_the_oracle() -> None:
    calibration, recipe = calibrated(good(SCORES))
    steps = {robust_sigmas(SCORES, quarter / 4) for quarter in range(25)}
    rng = np.random.default_rng(0)
    for _ in range(20):
        parts = labelled(rng.normal(1, 0.1, 9), rng.normal(1.2, 0.2, 9), oracle=1.1234)
        rows = trade_offs(calibration, recipe, parts)
        assert {row.threshold for row in rows if not row.oracle} <= steps
        assert [row.threshold for row in rows if row.oracle] == [1.1234] * (now(rows).missed > 0)


def test_the_oracle_is_marked_and_has_no_command() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe, labelled([1.0], [1.2], oracle=1.1))
    (oracle,) = [row for row in rows if row.oracle]
    assert (oracle.threshold, oracle.missed, oracle.command, oracle.in_force) == (1.1, 0, "", False)
    assert oracle.to_dict()["oracle"] is True


def test_an_oracle_in_force_is_marked_and_stands_once() -> None:
    calibration, recipe = calibrated(good(SCORES), threshold_rule="f1")
    rows = trade_offs(calibration.with_oracle(1.3), recipe, labelled([1.0], [1.2, 2], oracle=1.3))
    assert [row.oracle for row in rows].count(True) == 1
    assert now(rows).oracle
    assert all(row.setting["threshold_rule"] == "sigma" for row in rows if row.setting)


def test_ties_are_called_alike_and_a_score_at_the_threshold_is_good() -> None:
    calibration, recipe = calibrated(good(SCORES), threshold_rule="fixed", threshold_value=1.2)
    rows = trade_offs(calibration, recipe, labelled([1.2, 1.2], [1.2, 1.2, 1.2]))
    assert (now(rows).missed, now(rows).rejected) == (3, 0)
    lower = [row for row in rows if row.alternative]
    assert [(row.missed, row.rejected) for row in lower] == [(0, 2)], "all of them at once"


def test_one_bad_part() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe, labelled([1.0], [1.1], oracle=1.05))
    assert [(row.missed, row.bad) for row in rows if row.alternative] == [(0, 1)]
    assert now(rows).to_dict()["miss_rate"] == 1.0


def test_none_missed_needs_no_other_threshold() -> None:
    calibration, recipe = calibrated(good(SCORES))
    (row,) = trade_offs(calibration, recipe, labelled([1.0], [2.0], oracle=1.5))
    assert (row.in_force, row.missed, row.bad) == (True, 0, 1)


def test_a_part_like_any_good_one_is_found_by_no_threshold() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe, labelled([1.0], [0.1, 1.1], oracle=1.05))
    assert [row.missed for row in rows if row.alternative] == [1]
    only = trade_offs(calibration, recipe, labelled([1.0], [0.1], oracle=0.05))
    assert [row.missed for row in only if row.alternative] == []


def test_without_a_good_part_its_share_is_undefined() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe, labelled([], [1.1, 2.0]))
    assert {row.to_dict()["false_reject_rate"] for row in rows} == {None}
    assert {row.good_scores for row in rows} == {100}
    assert len(rows) == 2


def test_without_a_bad_part_it_is_as_of_good_parts_alone() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows, alone = trade_offs(calibration, recipe, labelled([1.1, 1.3], [])), trade_offs(calibration, recipe)
    assert [row.threshold for row in rows] == [row.threshold for row in alone]
    assert {row.to_dict()["miss_rate"] for row in rows} == {None}
    assert now(rows).rejected == 1 or calibration.threshold >= 1.3


def test_no_number_is_never_called_good() -> None:
    calibration, recipe = calibrated(good(SCORES))
    rows = trade_offs(calibration, recipe, labelled([math.nan], [math.nan, 1.1]))
    assert all(row.rejected == 1 for row in rows)
    assert now(rows).missed == 1


def test_no_part_was_judged() -> None:
    for held_out in (good(SCORES), zoned(SCORES, SCORES)):
        rows = trade_offs(*calibrated(held_out), labelled([], []))
        assert {(row.good, row.bad) for row in rows} == {(0, 0)}


# ---- zones ------------------------------------------------------------------------------------------


def test_zones_move_together_each_by_its_own_scores() -> None:
    wide = [10 * score for score in reversed(SCORES)]
    calibration, recipe = calibrated(zoned(SCORES, wide))
    bad_zones = [[1.15, 9.0], [0.9, 11.5], [0.9, 20.0], [0.9, math.nan]]
    parts = labelled([1.0], [0.0] * 4, zones=[[1.0, 10.0], *bad_zones], oracle=0.95)
    rows = trade_offs(calibration, recipe, parts)
    assert {row.threshold for row in rows} == {1.0}
    assert (now(rows).missed, now(rows).zones) == (
        2,
        tuple(zone.threshold for zone in calibration.decision.zones),
    )
    assert not any(row.oracle for row in rows), "no one threshold decides"
    for row in rows[1:]:
        assert row.zones == tuple(
            robust_sigmas(scores, row.setting["threshold_sigma"]) for scores in (SCORES, wide)
        )
        again = calibration.decide(recipe.replace(dict(row.setting)))
        assert tuple(zone.threshold for zone in again.decision.zones) == row.zones
        multiples = again.as_inspected(again.used)
        assert row.good_scores_above == sum(multiple > 1 for multiple in multiples)
    assert [row.missed for row in rows[1:]][-1] == 0


def test_zones_without_bad_parts_keep_only_what_raises_no_zone() -> None:
    narrow = [1 + (score - 1) / 100 for score in SCORES]
    calibration, recipe = calibrated(zoned(SCORES, [*narrow[:-1], 2.0]), threshold_sigma=1.5)
    rows = trade_offs(calibration, recipe)
    before = now(rows).zones
    for row in rows:
        assert all(after <= at for after, at in zip(row.zones, before, strict=True))


def test_rows_are_json() -> None:
    rows = trade_offs(*calibrated(good(SCORES)), labelled([1.0], [1.1], oracle=1.05))
    json.dumps([row.to_dict() for row in rows], allow_nan=False)
