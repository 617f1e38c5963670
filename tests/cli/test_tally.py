"""Exit codes of `inspect`, its closing line, and what its JSON lines say of themselves."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import Run

from goodparts import Inspector, __version__
from goodparts.cli.tally import EXIT_CODES, Tally

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("verdicts", "code", "words"),
    [
        (["GOOD"] * 3, 0, "3 inspected, all GOOD"),
        (["GOOD", "BAD", "GOOD"], 1, "3 inspected, 1 BAD"),
        (["RECHECK", "BAD"], 1, "2 inspected, 1 BAD, 1 RECHECK"),
        ([None, "GOOD"], 2, "1 inspected, all GOOD, 1 unreadable"),
        ([None], 2, "0 inspected, 1 unreadable"),
        (["RECHECK", "GOOD"], 4, "2 inspected, 1 RECHECK"),
        (["BAD", "BAD", None, "GOOD", "GOOD", "GOOD"], 5, "5 inspected, 2 BAD, 1 unreadable"),
        (["BAD", "RECHECK", None], 5, "2 inspected, 1 BAD, 1 RECHECK, 1 unreadable"),
        (["RECHECK", None], 6, "1 inspected, 1 RECHECK, 1 unreadable"),
    ],
)
def test_each_outcome_has_its_code(verdicts: list[str | None], code: int, words: str) -> None:
    tally = Tally()
    for verdict in verdicts:
        found: Any = None if verdict is None else SimpleNamespace(verdict=verdict)
        tally.add(found)
    assert tally.exit_code == code
    assert code in EXIT_CODES
    assert tally.in_words == words


@pytest.fixture
def gated(fitted_file: Path, tmp_path: Path) -> Path:
    """The model with the quality gate on."""
    return Inspector.load(fitted_file).calibrate(changes={"quality_gate": True}).save(tmp_path / "gated")


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (("good",), 0),
        (("bad", "good"), 1),
        (("broken", "good"), 2),
        (("black", "good"), 4),
        (("bad", "black", "broken"), 5),
        (("black", "broken"), 6),
    ],
    ids=str,
)
def test_inspect_tells_them_apart(
    goodparts: Run, gated: Path, mini_dataset: Path, tmp_path: Path, kinds: tuple[str, ...], code: int
) -> None:
    images = {
        "good": mini_dataset / "test" / "good" / "001.png",
        "bad": mini_dataset / "test" / "stain" / "000.png",
        "broken": tmp_path / "broken.png",
        "black": tmp_path / "black.png",
    }
    images["broken"].write_text("no image")
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(images["black"])
    chosen = [images[kind] for kind in kinds]
    ran = goodparts("inspect", gated, *chosen)
    assert ran.code == code
    assert ran.err.splitlines()[-1].startswith(f"{len(kinds) - kinds.count('broken')} inspected, ")
    ran = goodparts("inspect", gated, *chosen, "--json", "--exit-zero")
    assert ran.code == 0
    assert len(ran.records) == len(kinds)
    assert ["error" in record for record in ran.records] == [kind == "broken" for kind in kinds]


@pytest.mark.parametrize("flag", [[], ["--exit-zero"]], ids=str)
def test_where_nothing_can_be_inspected_it_is_2(
    goodparts: Run, mini_dataset: Path, tmp_path: Path, flag: list[str]
) -> None:
    ran = goodparts("inspect", tmp_path / "no.goodparts", mini_dataset / "test" / "good", *flag)
    assert ran.code == 2
    assert "no such model" in ran.err


def test_a_json_line_stands_by_itself(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    began = datetime.now(UTC) - timedelta(milliseconds=1)
    ran = goodparts("inspect", fitted_file, mini_dataset / "test" / "good" / "000.png", broken, "--json")
    ended = datetime.now(UTC)
    for record in ran.records:
        assert record["model"] == str(fitted_file)
        assert record["identity"] == Inspector.load(fitted_file).model.identity
        assert record["version"] == __version__
        assert began <= datetime.fromisoformat(record["time"]) <= ended
    assert ran.err.startswith("1 inspected, all GOOD, 1 unreadable; computed by ")


def test_the_line_says_how_many_good_parts_scored_as_high(
    goodparts: Run, fitted_file: Path, mini_dataset: Path
) -> None:
    ran = goodparts("inspect", fitted_file, mini_dataset / "test" / "stain" / "000.png")
    assert "p 0.0588 (none of 16 good parts scored as high)" in ran.out
    calibration = Inspector.load(fitted_file).model.calibration
    scores = sorted(calibration.scores)
    assert calibration.rarity(scores[0]) == "16 of 16 good parts scored as high"
    assert calibration.rarity(scores[-1]) == "1 of 16 good parts scored as high"


def test_help_and_reference_say_the_codes(goodparts: Run) -> None:
    text = goodparts("inspect", "--help").out
    assert "1 at least one BAD" in text
    assert "4 none BAD" in text
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert all(f"| {code} | {words} |" in page for code, words in EXIT_CODES.items())


def test_stages_are_lines_where_nobody_looks_on(
    goodparts: Run, recipe_file: Path, good: Path, tmp_path: Path
) -> None:
    arguments = ["fit", good, "--recipe", recipe_file, "--model", tmp_path / "a.goodparts"]
    ran = goodparts(*arguments)
    lines = [line.split() for line in ran.err.splitlines()]
    stages = [line[0] for line in lines]
    assert "features" in stages
    once = [stage for stage in stages if stage != "memory"]  # a bank a depth
    assert len(once) == len(set(once)) < 8
    assert "16 done" in ran.err
    ran = goodparts(*arguments, "--json")
    assert ran.err == ""


def test_verbose_logs_and_quiet_is_quiet(goodparts: Run, fitted_file: Path, mini_dataset: Path) -> None:
    arguments = ["inspect", fitted_file, mini_dataset / "test" / "good" / "000.png", "--json"]
    assert "goodparts." not in goodparts(*arguments).err
    ran = goodparts(*arguments, "--verbose")
    assert "goodparts.model.file: " in ran.err
    assert "goodparts.engines.engine: " in ran.err
    assert json.loads(ran.out)["verdict"] == "GOOD"
    assert "goodparts." not in goodparts(*arguments).err, "no longer than it was asked for"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_name_can_not_look_like_another_verdict(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    name = "a\nGOOD   0.100 x threshold\x1b[2K.png"
    shutil.copy(mini_dataset / "test" / "good" / "000.png", tmp_path / name)
    (line,) = goodparts("inspect", fitted_file, tmp_path / name).out.splitlines()
    assert "a\\nGOOD   0.100 x threshold\\x1b[2K.png" in line
