"""The report's decision: what the threshold means, drawn and told to somebody who has never heard of a p-value."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_page import ROWS, evaluation, report

from goodparts.decision.binomial import rarity, share_in_words
from goodparts.decision.calibration import Calibration, Decision
from goodparts.decision.good_scores import GoodMaps, GoodScores
from goodparts.evaluation.evaluation import Evaluation, TestImage
from goodparts.recipe.recipe import Recipe
from goodparts.report.card import (
    DECISION,
    EARLIER,
    FEWER,
    LEARNT,
    LEAST,
    MEANING,
    RARITY,
    UNTESTED,
    false_reject_sections,
)
from goodparts.report.sections import Section, Table
from goodparts.report.strips import Strip, draw_strips

CARD = (
    Section(
        MEANING,
        ("At most 3.49 % of good parts are rejected.", "Show it: `goodparts calibrate MODEL FOLDER`."),
        badge="estimated",
    ),
    Section(
        FEWER,
        ("A lower rate takes more.",),
        Table(("rejected, at most", "you have 220"), (("2 %", "enough"), ("1 %", "79 more"))),
    ),
    Section(DECISION, ("A part with a score above 2 is BAD.",)),
    Section(RARITY, ("1 good part in 50 means",)),
    Section(LEAST, ("Look at these",), Table(("image", "× threshold"), (("<b>.png", "1.102"),))),
    Section(UNTESTED, ("Any other camera",)),
    Section(LEARNT, ("220 images of good parts",), folded=True),
    Section(EARLIER, ("Threshold 3 by sigma",), folded=True),
)


class ModelOf:
    """A model with nothing but what the bound needs."""

    def __init__(self, good: int, above: int, *, calibrated: bool = False, rule: str = "sigma") -> None:
        scores = GoodScores(
            (1.0,) * (good - above) + (3.0,) * above,
            tuple(map(str, range(good))),
            GoodMaps((1.0,) * good, 1.0, 0.1, 1.0),
            "separate" if calibrated else "held_out",
        )
        self.calibration = Calibration(
            scores, scores if calibrated else None, Decision(2.0, rule, 2.0, "fixed")
        )
        self.recipe = Recipe()


def sections_of(*args: int, **options: object) -> tuple[Section, ...]:
    return false_reject_sections(ModelOf(*args, **options))  # type: ignore[arg-type]


def rechecked() -> Evaluation:
    what = evaluation()
    odd = TestImage(
        Path("data/washer/test/good/dark.png"), "good", False, 9.0, 0.05, "RECHECK", True, ("blurred: <0.3>", "flat")
    )  # fmt: skip
    return replace(what, images=(*what.images, odd))


def squares(strip: Strip) -> int:
    """How many images a drawing holds: the length of its lines over that of one square."""
    lines = [float(length) for length in re.findall(r"v-([\d.]+)", strip.svg)]
    dash = re.search(r'stroke-dasharray="([\d.]+) ([\d.]+)"', strip.svg)
    assert dash is not None
    return round(sum(lines) / (float(dash[1]) + float(dash[2])))


def test_what_it_means_comes_first_and_the_history_last(tmp_path: Path) -> None:
    text = report(tmp_path, model={"card": CARD}).text
    order = [MEANING, FEWER, "What the threshold does", DECISION, RARITY, LEAST, UNTESTED, LEARNT, EARLIER]
    places = [text.index(title, text.index("The decision")) for title in order]
    assert places == sorted(places)
    assert places[-1] < text.index("How well good and bad are told apart")


def test_the_badge_the_tables_and_the_commands_are_shown(tmp_path: Path) -> None:
    page = report(tmp_path, model={"card": CARD})
    assert page.all("span", class_="badge estimated")
    assert "ESTIMATED At most 3.49 % of good parts are rejected." in page.text
    assert "rejected, at most you have 220 2 % enough 1 % 79 more" in page.text
    assert "<code>goodparts calibrate MODEL FOLDER</code>." in page.source
    assert "&lt;b&gt;.png" in page.source
    assert len(page.all("th", scope="col")) == 4 + 3  # of the card, and of the classes of defects


def test_only_technical_and_earlier_things_are_folded(tmp_path: Path) -> None:
    source = report(tmp_path, model={"card": CARD}).source
    for section in CARD:
        assert (f"<summary>{section.title}</summary>" in source) == section.folded


def test_a_page_without_a_card_still_draws_the_scores(tmp_path: Path) -> None:
    assert "What the threshold does" in report(tmp_path).text


def test_every_image_is_a_square_on_its_side(tmp_path: Path) -> None:
    drawn = draw_strips(evaluation())
    assert drawn is not None
    assert [(strip.kind, strip.found) for strip in drawn.strips] == [
        ("learnt", "0 of 20 above it"),
        ("good", "1 of 3 rejected"),
        ("bad", "3 of 4 found"),
    ]
    assert [squares(strip) for strip in drawn.strips] == [20, 3, 4]
    for strip in drawn.strips:
        right = [float(x) for x in re.findall(r"M([\d.]+)", strip.svg) if float(x) > 10 * drawn.threshold_at]
        assert len(right) == int(strip.found.partition(" ")[0])
        assert strip.svg.count(f"<title>{strip.label}: {strip.found}</title>") == 1
        assert 'role="img"' in strip.svg
    page = report(tmp_path)
    assert [svg["class"] for svg in page.all("svg")] == ["learnt", "good", "bad"]


def test_a_score_at_the_threshold_is_drawn_as_good() -> None:
    what = evaluation((("bent/000.png", 2.0, False), ("bent/001.png", math.nextafter(2.0, 3), False)))
    drawn = draw_strips(what)
    assert drawn is not None
    left, right = (float(x) for x in re.findall(r"M([\d.]+)", drawn.strips[1].svg))
    assert left < 10 * drawn.threshold_at < right


def test_the_axis_is_in_multiples_of_the_threshold() -> None:
    drawn = draw_strips(evaluation())
    assert drawn is not None
    assert not drawn.logarithmic
    assert dict(map(reversed, drawn.ticks))["1 ×"] == drawn.threshold_at  # type: ignore[arg-type]
    places = [at for at, _ in drawn.ticks]
    assert np.allclose(np.diff(places), np.diff(places)[0], atol=0.02)
    assert all(0 <= at <= 100 for at in places)


def test_scores_far_apart_get_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = (("good/000.png", 0.01, False), ("bent/000.png", 4000.0, False))
    drawn = draw_strips(evaluation(rows))
    assert drawn is not None
    assert drawn.logarithmic
    assert [text for _, text in drawn.ticks] == ["0.01 ×", "0.1 ×", "1 ×", "10 ×", "100 ×", "1000 ×"]
    assert "as a multiple of the threshold (logarithmic)" in report(tmp_path, evaluation(rows)).text


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_a_threshold_without_multiples_is_not_drawn(tmp_path: Path, threshold: float) -> None:
    what = replace(evaluation(), threshold=threshold)
    assert draw_strips(what) is None
    assert "What the threshold does" not in report(tmp_path, what).text


def test_equal_scores_and_many_of_them_are_drawn() -> None:
    rows = tuple((f"good/{i}.png", 2.0, False) for i in range(3000))
    what = replace(evaluation(rows), good_scores=np.array([2.0]))
    drawn = draw_strips(what)
    assert drawn is not None
    assert max(strip.height for strip in drawn.strips) <= 85
    assert sum(len(strip.svg) for strip in drawn.strips) < 2000


def test_images_that_could_not_be_judged_say_why(tmp_path: Path) -> None:
    page = report(tmp_path, rechecked())
    assert "RECHECK good/dark.png class good blurred: <0.3>; flat" in page.text
    assert "1 image could not be judged (RECHECK)" in page.text
    assert "could not be judged (1)" in page.text
    card = next(card for card in page.all("li", class_="card box") if card["data-name"] == "good/dark.png")
    assert card["data-wrong"] == "RECHECK"
    assert "called RECHECK, is good, blurred: <0.3>; flat." in page.panels[0]["alt"]


def test_images_that_could_not_be_judged_are_not_drawn() -> None:
    plain, drawn = draw_strips(evaluation()), draw_strips(rechecked())
    assert plain == drawn


def test_every_image_is_judged_or_there_is_no_filter_for_it(tmp_path: Path) -> None:
    assert not report(tmp_path).all("button", **{"data-show": "RECHECK"})
    assert report(tmp_path, rechecked()).all("button", **{"data-show": "RECHECK"})


@pytest.mark.parametrize(
    ("good", "above", "first", "rows"),
    [
        (220, 3, "At most 3.49 % of good parts are rejected, about 1 in 29.", ["enough", "79 more", "2,775 more"]),
        (60, 2, "At most 10.1 % of good parts are rejected, about 10 in 100.",
         ["enough", "89 more", "239 more", "2,935 more"]),
        (3000, 0, "At most 0.0998 % of good parts are rejected, about 1 in 1,002.", None),
    ],
)  # fmt: skip
def test_a_lower_rate_is_told_with_what_it_needs(
    good: int, above: int, first: str, rows: list[str] | None
) -> None:
    meaning, *fewer = sections_of(good, above)
    assert meaning.lines[0] == first
    assert [row[2] for section in fewer for row in (section.table.rows if section.table else ())] == (
        rows or []
    )
    if fewer:
        assert fewer[0].table is not None
        assert fewer[0].table.head[2] == f"you have {good}"
        assert "--false-reject-rate 0.0" in fewer[0].lines[1]


def test_certified_is_said_only_of_images_never_learnt_from() -> None:
    assert sections_of(220, 3)[0].heading == f"{MEANING} (estimated)"
    assert sections_of(220, 3, calibrated=True)[0].heading == f"{MEANING} (certified)"
    assert "expect worse" in sections_of(220, 3, rule="f1")[0].lines[-1]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1 / 221, "1 in 221"),
        (0.05, "1 in 20"),
        (0.5, "50 in 100"),
        (1.0, "100 in 100"),
        (1e-4, "1 in 10,000"),
        (0.0, "0 in 100"),
    ],
)
def test_shares_are_said_in_whole_numbers(share: float, words: str) -> None:
    assert share_in_words(share) == words


def test_rarity_is_a_sentence() -> None:
    assert rarity(1 / 221) == "at most 1 good part in 221 scores this high"
    assert rarity(0.3) == "30 good parts in 100 score this high"
    assert rarity(1.0) == "100 good parts in 100 score this high"


def test_no_jargon_is_left_on_the_cards(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert len(page.cards) == len(ROWS)
    assert not re.search(r"\bp = ", page.text)
