"""The page Decide: what a threshold does, and having another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import PASSWORD, Visit, hand_in, with_accounts
from playwright.sync_api import expect
from serving import Running, running, settings_for

from goodparts.server.history import audit


@pytest.fixture
def reviewed(fitted_file: Path, mini_dataset: Path, tmp_path: Path) -> Iterator[Running]:
    """A service with four parts that were reviewed as good, and four as bad."""
    test = mini_dataset / "test"
    with running(settings_for(fitted_file, tmp_path / "history")) as found:
        with_accounts(found)
        with found.login("rita", PASSWORD) as rita:
            for number in range(4):
                for kind in ("good", "stain"):
                    png = (test / kind / f"{number % 3:03d}.png").read_bytes()
                    one = hand_in(found, png)
                    label = "GOOD" if kind == "good" else "BAD"
                    rita.post(f"/api/v1/inspections/{one['id']}/reviews", json={"label": label})
        yield found


def test_a_threshold_is_changed_and_taken_back(visit: Visit, reviewed: Running, good_png: bytes) -> None:
    visitor = visit(service=reviewed)
    page = visitor.login("egon")
    page.goto("/decide")
    expect(page.locator("#matrix")).to_contain_text("0 of 4 bad parts would be missed")
    expect(page.locator("#good")).to_contain_text("Estimated")
    assert visitor.violations() == []
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    page.keyboard.press("Home")  # everything would be rejected
    expect(page.locator("#good")).to_contain_text("16 of 16 would be rejected (100.0 %)")
    expect(page.locator("#matrix")).to_contain_text("4 of 4 good parts would be rejected")
    expect(page.locator("#roc")).to_contain_text("found 100.0 %, falsely rejected 100.0 %")
    page.keyboard.press("End")
    expect(page.locator("#matrix")).to_contain_text("4 of 4 bad parts would be missed")
    before = reviewed.service.models.entry("disc").version
    page.locator("#number").fill("0.001")
    page.get_by_label("Why").fill("to see everything")
    page.get_by_role("button", name="Save and use it").click()
    expect(page.locator("#now")).to_contain_text("0.0010 (fixed)")
    assert hand_in(reviewed, good_png)["verdict"] == "BAD"
    with reviewed.login() as browser:
        newest = browser.get("/api/v1/models/disc").json()["versions"][0]
        assert (newest["active"], newest["author"], newest["note"]) == (True, "egon", "to see everything")
    page.get_by_role("button", name="Back to the version before").click()
    expect(page.locator("#now")).not_to_contain_text("fixed")
    assert reviewed.service.models.entry("disc").version == before
    assert hand_in(reviewed, good_png)["verdict"] == "GOOD"
    assert visitor.violations() == []
    with reviewed.service.database.snapshot() as connection:
        assert audit.verify(connection).faults == []


def test_only_engineers_decide_and_only_numbers_that_fit(reviewed: Running) -> None:
    place = "/api/v1/models/disc/threshold"
    with reviewed.login("rita", PASSWORD) as rita:
        assert rita.post(place, json={"threshold": 2, "reason": "because"}).status_code == 403
    with reviewed.login("egon", PASSWORD) as egon:
        for body in ({"threshold": 0, "reason": "because"}, {"threshold": 1, "reason": ""}):
            assert egon.post(place, json=body).status_code == 422
        made = egon.post(place, json={"threshold": 1.5, "reason": "because"})
        assert made.status_code == 201
        assert egon.post(place, json={"threshold": 1.5, "reason": "again"}).status_code == 409


def test_scores_of_another_version_are_measured_anew(reviewed: Running, mini_dataset: Path) -> None:
    from goodparts import Inspector

    served = reviewed.service.models
    before = served.entry("disc").version
    recorded, left_out = reviewed.service.reviewed.of("disc", before)
    assert (len(recorded), left_out) == (8, 0)
    inspector = Inspector(served.get("disc").predictor.model.recipe)
    inspector.fit(sorted((mini_dataset / "train" / "good").iterdir())[:9])
    other = served.add("disc", inspector.model, "tests", action="model.learnt", note="", activate=False)
    anew, _ = reviewed.service.reviewed.of("disc", other)
    assert [one.inspection for one in anew] == [one.inspection for one in recorded]
    assert {one.score for one in anew}.isdisjoint({one.score for one in recorded})
    image = mini_dataset / "test" / "good" / "000.png"
    assert inspector.inspect(image).score == pytest.approx(anew[1].score, rel=1e-5)
