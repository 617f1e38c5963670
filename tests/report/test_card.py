"""The model card: every sentence agrees with the model it is about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodparts import Inspector, Recipe
from goodparts.model.model import Model
from goodparts.report.card import (
    DECISION,
    EARLIER,
    FEWER,
    LEARNT,
    LEAST,
    LEAST_ALIKE,
    MEANING,
    RARITY,
    UNTESTED,
    card,
    card_record,
    card_text,
    describe_detail,
    least_alike,
)


@pytest.fixture
def inspector(fitted_file: Path) -> Inspector:
    """A fitted inspector, to change."""
    return Inspector.load(fitted_file)


def sections(model: Model) -> dict[str, str]:
    """The text of each section by its title."""
    return {
        section.title: "\n".join(
            [*section.lines, *map(" | ".join, section.table.rows if section.table else ())]
        )
        for section in card(model)
    }


def test_says_what_was_learnt(inspector: Inspector) -> None:
    model = inspector.model
    learnt = sections(model)[LEARNT]
    assert "16 images of good parts" in learnt
    assert "16 of 96x96" in learnt
    assert "layers layer2, layer3" in learnt
    fine, coarse = (len(depth.bank.features) for depth in model.depths)
    assert (
        f"{fine:,} patch features of 16 dimensions at the finest depth; {coarse:,} of 32 at coarser ones"
        in learnt
    )
    assert "left out" not in learnt
    assert "Learnt on" not in learnt
    assert EARLIER not in sections(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold_sigma": 2.5}, "plus 2.5 times their usual spread (robust standard deviations"),
        ({"threshold_rule": "sigma", "threshold_sigma": 2.5}, "2.5 standard deviations"),
        ({"threshold_rule": "quantile", "threshold_quantile": 0.9}, "90 % of 16 good scores"),
        (
            {"threshold_rule": "rate", "false_reject_rate": 0.2, "confidence": 0.9},
            "false rejects under 20 % with 90 % confidence",
        ),
        ({"threshold_rule": "rate", "false_reject_rate": 0.001}, "too few to keep false rejects under 0.1 %"),
        ({"threshold_rule": "fixed", "threshold_value": 1.25}, "score above 1.25 is BAD"),
        ({"minimum_area": 77}, "77 pixels"),
        ({"pixel_threshold_rule": "peak_quantile", "pixel_threshold_quantile": 0.9}, "90 % of the peaks"),
        ({"pixel_threshold_rule": "fixed", "pixel_threshold_value": 2.5}, "above 2.5 on the heatmap"),
    ],
)
def test_says_how_it_decides(inspector: Inspector, changes: dict[str, Any], said: str) -> None:
    assert said not in sections(inspector.model)[DECISION]
    inspector.calibrate(changes=changes)
    assert said in sections(inspector.model)[DECISION]


def test_says_what_the_threshold_means(inspector: Inspector) -> None:
    middle = float(np.median(inspector.model.calibration.scores))
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": middle, "confidence": 0.9})
    bound = inspector.model.calibration.false_reject_bound(0.9)
    assert bound.rejected == 8
    said = sections(inspector.model)
    assert "8 of 16 good images lie above the threshold, which is 50 %" in said[MEANING]
    assert f"At most {100 * bound.rate:.3g} % of good parts are rejected" in said[MEANING]
    assert "90 %" in said[MEANING]
    assert f"1 % | {bound.needed(0.01):,} | {bound.needed(0.01) - 16:,} more" in said[FEWER]


def test_a_rate_that_the_images_suffice_for_is_offered(inspector: Inspector) -> None:
    inspector.calibrate(
        changes={"threshold_rule": "fixed", "threshold_value": 1e-9, "confidence": 0.5}
    )  # all of 16 are rejected, and 14 would do for 5 %
    said = sections(inspector.model)[FEWER]
    assert "5 % | 14 | enough" in said
    assert "--false-reject-rate 0.05" in said
    inspector.calibrate(changes={"threshold_rule": "rate", "false_reject_rate": 0.05})
    assert inspector.model.calibration.decision.kept, "as the card said"


def test_separate_images_certify(inspector: Inspector, mini_dataset: Path) -> None:
    def badge() -> str:
        return next(section.badge for section in card(inspector.model) if section.title == MEANING)

    before = sections(inspector.model)
    assert badge() == "estimated"
    assert "Estimated" in before[MEANING]
    assert "another day" in before[UNTESTED]
    inspector.calibrate(mini_dataset / "test" / "good")
    after = sections(inspector.model)
    assert badge() == "certified"
    assert "Certified" in after[MEANING]
    assert "Estimated" not in after[MEANING]
    assert "6 good images, never learnt from" in after[DECISION]
    assert "another day" not in after[UNTESTED]
    assert "1 in 7" in after[RARITY]


def test_names_the_good_images_that_look_least_alike(inspector: Inspector) -> None:
    learnt = inspector.model.calibration.training_set
    named = least_alike(inspector.model.calibration, LEAST_ALIKE)
    assert [score for _, score in named] == sorted(learnt.scores, reverse=True)[:LEAST_ALIKE]
    for name, score in named:
        assert learnt.scores[learnt.names.index(name)] == score
    threshold = 0.5 * (named[1][1] + named[2][1])
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": threshold})
    rows = sections(inspector.model)[LEAST].splitlines()[-LEAST_ALIKE:]
    assert [row.split(" | ")[0] for row in rows] == [name for name, _ in named]
    assert [row.split(" | ")[2] for row in rows] == ["BAD", "BAD", "GOOD", "GOOD", "GOOD"]


def test_earlier_decisions_come_latest_first(inspector: Inspector) -> None:
    for value in (1.5, 2.5, 3.5):
        inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": value})
    earlier = sections(inspector.model)[EARLIER].splitlines()
    assert [line.split()[1] for line in earlier[:2]] == ["2.5", "1.5"]
    assert "by robust_sigma" in earlier[2]
    assert len(earlier) == 3


def test_an_oracle_is_called_one(recipe: Recipe, mini_dataset: Path) -> None:
    inspector = Inspector(recipe.replace({"threshold_rule": "f1"})).fit(mini_dataset)
    waiting = sections(inspector.model)
    assert MEANING not in waiting
    assert "No threshold yet: the oracle (f1) waits" in waiting[DECISION]
    assert "goodparts calibrate MODEL --threshold-rule sigma" in waiting[DECISION]
    assert "none yet" in waiting[LEAST]
    assert card_record(inspector.model, "disc")["threshold"] is None
    inspector.evaluate(mini_dataset)
    knowing = sections(inspector.model)
    assert "an oracle that no line has" in knowing[DECISION]
    assert "chosen on labelled test images" in knowing[MEANING]


def test_names_what_was_left_out(recipe: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    good = shutil.copytree(mini_dataset / "train" / "good", tmp_path / "good")
    pixels = np.array(Image.open(good / "000.png"))
    pixels[40:60, 40:60] = (230, 30, 20)
    Image.fromarray(pixels).save(good / "odd one.png")
    model = Inspector(recipe.replace({"robust": True})).fit(good).model
    assert "left out of the bank: odd one.png" in sections(model)[LEARNT]
    assert card_record(model, "disc")["left_out"] == ["odd one.png"]


def test_names_the_parent(inspector: Inspector, mini_dataset: Path) -> None:
    parent = inspector.model.identity
    model = inspector.update(mini_dataset / "test" / "good").model
    assert f"Learnt on from model {parent[:12]}" in sections(model)[LEARNT]
    assert card_record(model, "disc")["parent"] == parent


def test_says_what_the_framing_cuts_off(recipe: Recipe, mini_dataset: Path, inspector: Inspector) -> None:
    assert "cuts off" not in sections(inspector.model)[UNTESTED]
    crop = recipe.replace({"framing": "crop", "image_size": 64, "resize_size": 96})
    model = Inspector(crop).fit(mini_dataset).model
    unseen = 100 * (1 - 64**2 / 96**2)
    assert (
        f"{unseen:.3g} % of every picture, which the recipe's framing cuts off" in sections(model)[UNTESTED]
    )


def test_says_whether_there_is_a_quality_gate(recipe: Recipe, mini_dataset: Path) -> None:
    for on in (True, False):
        model = Inspector(recipe.replace({"quality_gate": on})).fit(mini_dataset).model
        assert ("quality gate is off" in sections(model)[UNTESTED]) == (not on)


def test_the_text_is_markdown_with_every_line(inspector: Inspector) -> None:
    model = inspector.model
    text = card_text(model, "disc")
    assert text.startswith("# disc\n")
    assert model.identity[:12] in text
    for section in card(model):
        assert f"\n## {section.heading}\n" in text
        for line in section.lines:
            assert f"\n- {line}\n" in text
        for row in section.table.rows if section.table else ():
            assert f"\n| {' | '.join(row)} |" in text
    widths = {len(section.table.head) + 1 for section in card(model) if section.table}
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == widths == {4, 5}


def test_a_name_can_not_break_the_table(recipe: Recipe, mini_dataset: Path, tmp_path: Path) -> None:
    good = shutil.copytree(mini_dataset / "train" / "good", tmp_path / "good")
    for path in list(good.iterdir()):
        path.rename(good / f"a|b {path.name}")
    text = card_text(Inspector(recipe).fit(good).model, "disc")
    below = text[text.index(LEAST) :]
    assert {line.count("|") for line in below.splitlines() if line.startswith("|")} == {4}


def test_the_record_is_json_and_agrees(inspector: Inspector) -> None:
    inspector.calibrate(changes={"confidence": 0.9})
    model = inspector.model
    record = json.loads(json.dumps(card_record(model, "disc"), allow_nan=False))
    bound = model.calibration.false_reject_bound(0.9)
    assert record["name"] == "disc"
    assert record["identity"] == model.identity
    assert record["parent"] is None
    assert record["good_images"] == record["scores"] == 16
    assert record["threshold"] == model.calibration.threshold
    assert record["false_reject_rate_at_most"] == bound.rate
    assert record["confidence"] == 0.9
    assert record["certified"] is False
    assert record["decisions_before"] == 1
    assert [row["in_force"] for row in record["trade_offs"]].count(True) == 1
    assert all(row["false_reject_rate_at_most"] > 0 for row in record["trade_offs"])
    assert record["hints"] == []


@pytest.mark.parametrize(
    ("size", "keys", "words"),
    [
        (
            (240, 320),
            {},
            "320x240 px reduced by 5 across and 3.75 down, so defects smaller than about 30 px may be missed; for",
        ),
        ((128, 128), {}, "128x128 px reduced by 2, so defects smaller than about 12 px may be missed"),
        (
            (32, 64),
            {},
            "64x32 px not reduced across and enlarged by 2 down, so defects smaller than about 6 px",
        ),
        ((128, 256), {"framing": "letterbox"}, "reduced by 4, so defects smaller than about 24 px"),
        ((128, 256), {"framing": "crop", "resize_size": 64}, "256x128 px reduced by 2, so defects"),
        ((256, 256), {"tiling": "128x128+32"}, "defects smaller than about 12 px may be missed"),
    ],
    ids=str,
)
def test_how_small_a_defect_may_be_missed(
    mini_backbone: Path, size: tuple[int, int], keys: dict[str, Any], words: str
) -> None:
    recipe = Recipe(backbone=str(mini_backbone), layers=("layer2", "layer3"), image_size=64, **keys)
    good = [np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8) for seed in range(2)]
    described = describe_detail(Inspector(recipe).fit(good).model)
    assert words in described
    assert ("--tiling" in described) == (words.endswith("for"))
