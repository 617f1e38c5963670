"""The page Review, and what comes of it: the last word, disagreement, an export as a data set."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import PASSWORD, Visit, drawn, hand_in, with_accounts
from PIL import Image
from playwright.sync_api import expect
from serving import Running, running, settings_for

from goodparts.server.history import audit


@pytest.fixture
def shift(fitted_file: Path, mini_dataset: Path, tmp_path: Path) -> Iterator[Running]:
    """A service with 24 parts in its history: 14 good, 5 with stains, 5 with scratches."""
    test = mini_dataset / "test"
    with running(settings_for(fitted_file, tmp_path / "history")) as found:
        with_accounts(found)
        for number in range(14):
            hand_in(found, (test / "good" / f"{number % 6:03d}.png").read_bytes(), part=f"G-{number}")
        for number in range(5):
            for kind in ("stain", "scratch"):
                png = (test / kind / f"{number % 3:03d}.png").read_bytes()
                hand_in(found, png, part=f"{kind}-{number}")
        yield found


def test_twenty_parts_are_reviewed_by_keyboard(visit: Visit, shift: Running) -> None:
    visitor = visit(service=shift)
    page = visitor.login("rita")
    page.goto("/review")
    done = page.locator("#done")
    expect(done).to_have_text("0 of 24")
    drawn(page, "#look .under")
    assert visitor.violations() == []
    expect(page.locator("#about .verdict")).to_have_text("✕BAD")  # what was rejected comes first
    page.get_by_label("Kind of defect").fill("stain")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    expect(done).to_have_text("1 of 24")
    page.keyboard.press("z")
    expect(done).to_have_text("0 of 24")
    for number in range(20):
        kind = page.locator("#about a").inner_text().split("-")[0]
        if kind != "G" and number == 0:
            page.get_by_label("Kind of defect").fill(kind)
            page.keyboard.press("Escape")
        page.keyboard.press({"G": "g"}.get(kind, "b"))
        expect(done).to_have_text(f"{number + 1} of 24")
    with shift.login() as browser:
        reviewed = browser.get("/api/v1/inspections?review=reviewed&limit=200").json()["items"]
        assert len(reviewed) == 20
        assert all(one["review"] == ("GOOD" if one["part"].startswith("G") else "BAD") for one in reviewed)
        assert "stain" in {one["name"] for one in browser.get("/api/v1/defect-classes").json()}
    with shift.service.database.snapshot() as connection:  # undone words stay in the chain, and it is whole
        assert audit.verify(connection).faults == []
    expect(page.locator(".review")).to_be_visible()
    for _ in range(4):
        page.keyboard.press("g")
        page.wait_for_timeout(150)
    expect(page.get_by_text("Nothing left to review")).to_be_visible()
    assert visitor.violations() == []


def test_a_region_is_drawn_and_exported_as_ground_truth(visit: Visit, shift: Running) -> None:
    page = visit("large", shift).login("rita")
    page.goto("/review")
    drawn(page, "#look .under")
    page.get_by_role("button", name="Draw where").click()
    box = page.locator("#look .picture").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.75, steps=4)
    page.mouse.up()
    page.get_by_label("Kind of defect").fill("oil stain")
    page.get_by_label("Comment").fill("from the press")
    page.get_by_role("button", name="Bad").click()
    expect(page.locator("#done")).to_have_text("1 of 24")
    with shift.login() as browser:
        (one,) = browser.get("/api/v1/inspections?review=reviewed").json()["items"]
        (said,) = browser.get(f"/api/v1/inspections/{one['id']}/reviews").json()
        assert (said["label"], said["defect_class"], said["comment"]) == (
            "BAD",
            "oil stain",
            "from the press",
        )
        assert np.allclose(said["regions"], [[24, 48, 48, 72]], atol=2)
        data = browser.get("/api/v1/export?layout=mvtec&review=reviewed").content
    with zipfile.ZipFile(io.BytesIO(data)) as exported:
        assert f"disc/test/oil stain/{one['id']}.png" in exported.namelist()
        mask = np.asarray(Image.open(exported.open(f"disc/ground_truth/oil stain/{one['id']}_mask.png")))
    left, top, right, bottom = said["regions"][0]
    assert mask[top:bottom, left:right].all()
    assert mask.astype(bool).sum() == (right - left) * (bottom - top)


def test_two_reviewers_disagree_and_an_operator_may_not_review(visit: Visit, shift: Running) -> None:
    with shift.login("rita", PASSWORD) as rita, shift.login("egon", PASSWORD) as egon:
        one = rita.get("/api/v1/inspections?verdict=BAD").json()["items"][0]
        place = f"/api/v1/inspections/{one['id']}/reviews"
        assert rita.post(place, json={"label": "GOOD"}).status_code == 201
        assert rita.get("/api/v1/disagreements").json() == []
        assert egon.post(place, json={"label": "UNSURE"}).status_code == 201
        assert [row["id"] for row in rita.get("/api/v1/disagreements").json()] == [one["id"]]
        visitor = visit(service=shift)
        page = visitor.login("rita")
        page.goto("/review")
        page.get_by_label("Which").select_option(label="Reviewers disagree")
        expect(page.locator("#earlier")).to_contain_text("Reviewers disagree")
        expect(page.locator("#earlier")).to_contain_text("egon")
        assert visitor.violations() == []
        assert egon.post(place, json={"label": "none"}).status_code == 201  # takes it back
        assert rita.get("/api/v1/disagreements").json() == []
    with shift.login("olga", PASSWORD) as olga:
        assert olga.post(place, json={"label": "GOOD"}).status_code == 403
