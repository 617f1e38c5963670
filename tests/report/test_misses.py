"""What fewer misses need: the sentences and the table agree with the figures, wherever they are shown."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from running import Run

from goodparts import Inspector, Recipe
from goodparts.decision.inspection import RECHECK
from goodparts.decision.trade_offs import TradeOff, trade_offs
from goodparts.evaluation.evaluation import Evaluation, InspectedTestSet, inspect_test_set, read_test_set
from goodparts.report.card import FEWER, MEANING, card, card_text
from goodparts.report.misses import FEWER_MISSES, miss_sections
from goodparts.report.sections import Section


@pytest.fixture(scope="module")
def fitted_file(recipe: Recipe, mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that nobody has evaluated. Read only."""
    return Inspector(recipe).fit(mini_dataset).save(tmp_path_factory.mktemp("fitted") / "disc.goodparts")


@pytest.fixture
def inspector(fitted_file: Path) -> Inspector:
    """A fitted inspector, to change."""
    return Inspector.load(fitted_file)


@pytest.fixture(scope="module")
def inspected(fitted_file: Path, mini_dataset: Path) -> InspectedTestSet:
    """A test set of which all bad parts are found."""
    return inspect_test_set(Inspector.load(fitted_file), read_test_set(mini_dataset))


def blunt(inspector: Inspector, inspected: InspectedTestSet, missed: int) -> tuple[Inspector, Evaluation]:
    """The inspector with a threshold at which so many bad parts are missed, and its evaluation."""
    scores = sorted(image.score for image in inspected.images if image.label)
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": scores[missed - 1]})
    threshold = inspector.model.calibration.threshold
    images = tuple(
        replace(image, verdict="BAD" if image.score > threshold else "GOOD") for image in inspected.images
    )
    found = replace(
        inspected, images=images, calibration=inspector.model.calibration, recipe=inspector.recipe
    )
    return inspector, found.measured()


def misses(inspector: Inspector, evaluation: Evaluation | None = None) -> Section:
    found = miss_sections(inspector.model, evaluation)[0]
    assert found.title == FEWER_MISSES
    return found


def cells(section: Section) -> list[tuple[str, ...]]:
    assert section.table is not None
    return list(section.table.rows)


# ---- without bad parts ------------------------------------------------------------------------------


def test_it_stands_beside_what_fewer_false_rejects_need(inspector: Inspector) -> None:
    titles = [section.title for section in card(inspector.model)]
    assert titles[titles.index(MEANING) :][:3] == [MEANING, FEWER, FEWER_MISSES]


def test_without_bad_parts_it_says_so_and_how_to_find_out(inspector: Inspector) -> None:
    section = misses(inspector)
    text = " ".join(section.lines)
    assert "can't be told without bad parts" in text
    assert "`goodparts evaluate MODEL DATA`" in text
    assert "each scored as if not learnt from, and is right in 95 % of cases" in text
    rows = trade_offs(inspector.model.calibration, inspector.recipe)
    assert len(rows) > 2
    shown = cells(section)
    assert [row[0] for row in shown] == [f"{row.threshold:.4g}" for row in rows]
    assert [row[1].split(",")[0] for row in shown] == [
        f"{row.good_scores_above} of {row.good_scores}" for row in rows
    ]
    assert shown[0][-1] == "in force"
    assert [f"goodparts calibrate MODEL {row[-1]}" for row in shown[1:]] == [row.command for row in rows[1:]]


def test_a_calibration_set_was_never_learnt_from(inspector: Inspector, mini_dataset: Path) -> None:
    inspector.calibrate(mini_dataset / "test" / "good")
    assert "6 good parts, never learnt from" in " ".join(misses(inspector).lines)


def test_an_evaluation_that_was_kept_is_named(inspector: Inspector, mini_dataset: Path) -> None:
    inspector.evaluate(mini_dataset)
    text = " ".join(misses(inspector).lines)
    assert "0 of 6 bad parts was missed in the last evaluation" in text
    assert "can't be told" not in text


def test_no_threshold_no_section(inspector: Inspector) -> None:
    calibration = inspector.model.calibration
    unseen = replace(calibration, decision=replace(calibration.decision, threshold=None, threshold_rule="f1"))
    assert miss_sections(replace(inspector.model, calibration=unseen)) == ()


# ---- with bad parts ---------------------------------------------------------------------------------


def test_none_missed_is_one_line(inspector: Inspector, inspected: InspectedTestSet) -> None:
    section = misses(inspector, inspected.measured())
    assert section.lines[0].startswith(
        "None of 6 bad parts was missed, so at most 39.3 % of parts like these"
    )
    assert (len(section.lines), section.table) == (1, None)
    assert len(miss_sections(inspector.model, inspected.measured())) == 1, "nothing else to try"


def test_counts_stand_beside_shares_and_agree(inspector: Inspector, inspected: InspectedTestSet) -> None:
    inspector, evaluation = blunt(inspector, inspected, missed=4)
    section = misses(inspector, evaluation)
    assert section.lines[0].startswith("4 of 6 bad parts were missed.")
    for row, shown in zip(evaluation.trade_offs, cells(section), strict=True):
        assert shown[1] == f"{row.rejected} of 6, {100 * row.rejected / 6:.3g} %"
        assert shown[2] == f"{row.missed} of 6, {100 * row.missed / 6:.3g} %"
        assert shown[3] == f"{100 * row.rate_at_most:.3g} %"
    assert (
        evaluation.metrics["false_good"] == next(row for row in evaluation.trade_offs if row.in_force).missed
    )
    (oracle,) = [row for row in cells(section) if "oracle" in " ".join(row)]
    assert oracle[-1] == "an oracle, for comparison only"
    assert any("best F1 on these very test images" in line for line in section.lines)
    assert any("picked it on test images" in line for line in section.lines)


def test_one_bad_part_is_one(inspector: Inspector, inspected: InspectedTestSet) -> None:
    worst = max((image for image in inspected.images if image.label), key=lambda image: image.score)
    one = replace(inspected, images=(*(image for image in inspected.images if not image.label), worst))
    inspector, evaluation = blunt(inspector, one, missed=1)
    section = misses(inspector, evaluation)
    assert section.lines[0].startswith("1 of 1 bad part was missed.")
    assert {row[2] for row in cells(section)} == {"1 of 1, 100 %", "0 of 1, 0 %"}


def test_without_a_good_part_that_is_said(inspector: Inspector, inspected: InspectedTestSet) -> None:
    bad = replace(inspected, images=tuple(image for image in inspected.images if image.label))
    inspector, evaluation = blunt(inspector, bad, missed=2)
    assert {row[1] for row in cells(misses(inspector, evaluation))} == {"none tested"}


def test_without_a_bad_part_it_is_as_of_good_parts_alone(
    inspector: Inspector, inspected: InspectedTestSet
) -> None:
    good = replace(inspected, images=tuple(image for image in inspected.images if not image.label))
    assert misses(inspector, good.measured()) == misses(inspector)


def test_what_could_not_be_judged_counts_for_nothing(
    inspector: Inspector, inspected: InspectedTestSet
) -> None:
    odd = tuple(replace(image, verdict=RECHECK, score=9.0) for image in inspected.images[:3])
    some = replace(inspected, images=(*odd, *inspected.images[3:]))
    (now,) = [row for row in some.measured().trade_offs if row.in_force]
    judged = inspected.images[3:]
    assert now.good == sum(not image.label for image in judged)
    assert now.bad == sum(image.label for image in judged)
    none = replace(inspected, images=tuple(replace(image, verdict=RECHECK) for image in inspected.images))
    assert {row.bad + row.good for row in none.measured().trade_offs} == {0}


def test_bad_parts_like_good_ones_are_named(inspector: Inspector, inspected: InspectedTestSet) -> None:
    rows = (
        TradeOff(2.0, in_force=True, bad=9, missed=3, good_scores=30),
        TradeOff(1.5, setting={"threshold_sigma": 0.5}, bad=9, missed=1, good_scores=30),
    )
    section = misses(inspector, replace(inspected.measured(), trade_offs=rows))
    assert "1 of the missed scores no higher than an average good part" in " ".join(section.lines)


@pytest.mark.parametrize(("rejected", "said"), [(0, False), (1, False), (6, True)])
def test_good_test_parts_that_contradict_the_held_out_ones_are_named(
    inspector: Inspector, inspected: InspectedTestSet, rejected: int, said: bool
) -> None:
    now = TradeOff(
        2.0, in_force=True, good=20, rejected=rejected, bad=9, missed=3, good_scores=60, rate_at_most=0.05
    )
    rows = (now, replace(now, setting={"threshold_sigma": 2.0}, in_force=False, missed=0))
    text = " ".join(misses(inspector, replace(inspected.measured(), trade_offs=rows)).lines)
    assert (f"{rejected} of 20 good parts were rejected, more than that allows" in text) == said


def test_zones_are_shown_as_multiples_of_what_is_in_force(
    inspector: Inspector, inspected: InspectedTestSet
) -> None:
    rows = (
        TradeOff(1.0, zones=(2.0, 4.0), in_force=True, bad=9, missed=3, good=3, good_scores=30),
        TradeOff(1.0, zones=(1.5, 3.5), setting={"threshold_sigma": 2.0}, bad=9, missed=0, good=3, good_scores=30),
    )  # fmt: skip
    section = misses(inspector, replace(inspected.measured(), trade_offs=rows))
    assert section.table is not None
    assert section.table.head[0] == "× threshold now"
    assert [row[0] for row in cells(section)] == ["1", "0.75 to 0.875"]


# ---- where it is shown ------------------------------------------------------------------------------


@pytest.fixture
def blunted(model: Path, inspected: InspectedTestSet) -> Path:
    """A model file at whose threshold three bad parts are missed."""
    inspector, _ = blunt(Inspector.load(model), inspected, missed=3)
    return inspector.save(model)


def test_command_line_page_card_and_json_say_the_same(
    goodparts: Run, blunted: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = goodparts("evaluate", blunted, mini_dataset, "--out", out)
    assert ran.code == 0
    rows = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["trade_offs"]
    assert rows[0]["in_force"]
    assert (rows[0]["missed"], rows[0]["bad"]) == (3, 6)
    assert sum(row["oracle"] for row in rows) == 1
    (record,) = goodparts("evaluate", blunted, mini_dataset, "--json").records
    assert record["trade_offs"] == rows
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.index(FEWER_MISSES) < page.index("What the threshold does")
    for row in rows:
        assert re.search(rf"^    {row['threshold']:.4g} ", ran.out, re.MULTILINE)
        assert f"<td>{row['threshold']:.4g}</td>" in page
        flags = row["command"].removeprefix("goodparts calibrate MODEL ")
        if flags and not row["in_force"]:
            assert f"<code>{flags}</code>" in page
            assert flags in ran.out
    assert (
        page.count("an oracle, for comparison only") == ran.out.count("an oracle, for comparison only") == 1
    )
    assert FEWER_MISSES in card_text(Inspector.load(blunted).model, "disc")


def test_every_command_works_as_it_is_typed(
    goodparts: Run, blunted: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    (evaluated,) = goodparts("evaluate", blunted, mini_dataset, "--json").records
    (told,) = goodparts("card", blunted, "--json").records
    rows = [row for row in (*evaluated["trade_offs"], *told["trade_offs"]) if row["command"]]
    assert len(rows) > 5
    for row in rows:
        other = Path(shutil.copy(blunted, tmp_path / "other.goodparts"))
        typed = [str(other) if word == "MODEL" else word for word in shlex.split(row["command"])]
        ran = goodparts(*typed[1:])
        assert ran.code == 0, ran.err
        (now,) = goodparts("evaluate", other, mini_dataset, "--json").records
        assert now["threshold"] == row["threshold"]
        if row["bad"]:
            assert (now["false_bad"], now["false_good"]) == (row["rejected"], row["missed"])
        if not row["in_force"]:
            assert FEWER_MISSES in ran.out


def test_an_oracle_in_force_is_called_one(
    goodparts: Run, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    good = next((data / "train" / "good").iterdir())
    shutil.copy(good, data / "test" / "stain" / "looks_good.png")
    ran = goodparts("run", data, "--recipe", recipe_file, "--threshold-rule", "f1", "--out", tmp_path / "out")
    assert ran.code == 0
    assert re.search(r"^    \S+ .* 1 of 7, 14\.3 % .* an oracle, in force$", ran.out, re.MULTILINE)
    assert "an oracle, in force" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_zones_move_together_by_a_command_that_works(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    sides = {"left": [8, 48], "right": [48, 88]}
    zones = [
        {"name": name, "polygons": [[[first, 8], [last, 8], [last, 88], [first, 88]]]}
        for name, (first, last) in sides.items()
    ]
    (tmp_path / "zones.json").write_text(json.dumps({"size": [96, 96], "zones": zones}), encoding="utf-8")
    model = tmp_path / "part.goodparts"
    ran = goodparts(
        "fit", mini_dataset, "--recipe", recipe_file, "--roi", tmp_path / "zones.json", "--threshold-sigma", 300,
        "--model", model,
    )  # fmt: skip
    assert ran.code == 0
    (found,) = goodparts("evaluate", model, mini_dataset, "--json").records
    now, *others = found["trade_offs"]
    assert (now["missed"], now["rejected"]) == (found["false_good"], found["false_bad"])
    assert now["missed"] > 0
    assert now["threshold"] == 1
    assert len(now["zone_thresholds"]) == 2
    assert others
    for row in others:
        assert not row["oracle"]
        typed = [str(model) if word == "MODEL" else word for word in shlex.split(row["command"])]
        assert goodparts(*typed[1:]).code == 0
        (after,) = goodparts("evaluate", model, mini_dataset, "--json").records
        assert (after["false_good"], after["false_bad"]) == (row["missed"], row["rejected"])
        assert (
            goodparts(*[str(model) if word == "MODEL" else word for word in now["command"].split()[1:]]).code
            == 0
        )
