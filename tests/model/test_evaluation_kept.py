"""What was measured last is kept with the model, outside of its identity, and shown by its card."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Run

from goodparts import Inspector
from goodparts.model import file

pytestmark = pytest.mark.usefixtures("home")


def test_run_keeps_what_it_measured_and_the_card_shows_it(
    goodparts: Run, recipe_file: Path, fitted: Inspector, mini_dataset: Path, tmp_path: Path
) -> None:
    (ran,) = goodparts(
        "run", mini_dataset, "--recipe", recipe_file, "--out", tmp_path / "out", "--json"
    ).records
    path = tmp_path / "out" / "mini.goodparts"
    (record,) = goodparts("card", path, "--json").records
    found = record["evaluation"]
    assert (found["name"], found["images"], found["good"], found["bad"]) == ("mini", 12, 6, 6)
    assert (found["image_auroc"], found["pixel_auroc"]) == (ran["image_auroc"], ran["pixel_auroc"])
    assert (found["rejected"], found["missed"]) == (ran["false_bad"], ran["false_good"])
    assert found["by_class"] == ran["by_class"]
    assert record["identity"] == ran["identity"] == fitted.model.identity, "no part of it"
    text = goodparts("card", path).out
    assert "## The last evaluation" in text
    assert f"{found['missed']} of 6 bad images missed." in text
    assert "| scratch | " in text
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The last evaluation" not in report, "it is that evaluation"


def test_evaluate_keeps_it_where_asked_to(goodparts: Run, model: Path, mini_dataset: Path) -> None:
    before = model.read_bytes()
    assert goodparts("evaluate", model, mini_dataset).code == 0
    assert model.read_bytes() == before
    assert file.load(model).evaluation is None
    assert goodparts("evaluate", model, mini_dataset, "--keep").code == 0
    kept = file.load(model).evaluation
    assert kept is not None
    assert kept.name == "mini"


def test_it_goes_when_the_model_changes(fitted_file: Path, mini_dataset: Path, tmp_path: Path) -> None:
    inspector = Inspector.load(fitted_file)
    inspector.evaluate(mini_dataset)
    measured = Inspector.load(inspector.save(tmp_path / "measured"))
    assert measured.model.evaluation == inspector.model.evaluation is not None
    measured.calibrate(changes={"threshold_sigma": 4})
    assert measured.model.evaluation is None
    inspector.update(mini_dataset / "test" / "good")
    assert inspector.model.evaluation is None


def test_an_oracle_is_not_kept_with_figures_of_another_set(
    goodparts: Run, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "oracle.goodparts"
    goodparts("fit", mini_dataset, "--recipe", recipe_file, "--threshold-rule", "f1", "--model", path)
    before = path.read_bytes()
    refused = goodparts("evaluate", path, mini_dataset, "--keep")
    assert refused.code == 2
    assert "leave out --keep" in " ".join(refused.err.split())
    assert path.read_bytes() == before
