"""What the names of files tell is said by every command that works on a folder, not by `check` alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Run

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def odd(data: Path) -> Path:
    """A data set with a mask that belongs to no image, and a file that is passed over."""
    masks = data / "ground_truth" / "stain"
    (masks / "000_mask.png").rename(masks / "elsewhere_mask.png")
    (data / "test" / "stain" / "004.heic").touch()
    (data / "train" / "good" / "098.heic").touch()
    return data


def test_masks_that_are_not_matched_are_said_and_are_in_the_report(
    goodparts: Run, recipe_file: Path, odd: Path, tmp_path: Path
) -> None:
    ran = goodparts("run", odd, "--recipe", recipe_file, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (record,) = ran.records
    messages = {finding["kind"]: finding["message"] for finding in record["findings"]}
    assert any("elsewhere_mask.png" in message for message in messages.values())
    assert "elsewhere_mask.png" in " ".join(ran.err.split())
    assert "elsewhere_mask.png" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    again = goodparts("evaluate", tmp_path / "out" / "mini.goodparts", odd)
    assert again.code == 0
    assert "elsewhere_mask.png" in again.err


def test_files_that_are_passed_over_are_said_or_an_error(
    goodparts: Run, recipe_file: Path, fitted_file: Path, odd: Path
) -> None:
    good = odd / "train" / "good"
    for command in (
        ["fit", good, "--recipe", recipe_file],
        ["run", odd, "--recipe", recipe_file],
        ["evaluate", fitted_file, odd],
        ["inspect", fitted_file, good],
    ):
        refused = goodparts(*command, "--strict")
        assert refused.code == 2
        assert "8.heic" in refused.err or "4.heic" in refused.err
        assert refused.out == ""
    assert not list(Path().iterdir()), "nothing was begun"
    ran = goodparts("inspect", fitted_file, good, "--json")
    assert ran.code == 0
    assert len(ran.records) == 16
    assert "098.heic" in ran.err
    fitted = goodparts("fit", good, "--recipe", recipe_file, "--json")
    assert fitted.code == 0
    assert "098.heic" in json.dumps(fitted.records[0]["findings"])
    for finding in (good / "098.heic", odd / "test" / "stain" / "004.heic"):
        finding.unlink()
    assert goodparts("inspect", fitted_file, good, "--strict").code == 0


def test_inspect_says_the_bit_depth_once(
    goodparts: Run, recipe_file: Path, model: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "deep.goodparts"
    good = mini_dataset / "train" / "good"
    fit = goodparts("fit", good, "--recipe", recipe_file, "--bit-depth", "12", "--model", deep)
    assert fit.code == 0, fit.err
    assert goodparts("inspect", deep, mini_dataset / "test" / "good").err.count("12 bits are in use") == 1
    assert "bits" not in goodparts("inspect", model, mini_dataset / "test" / "good").err
