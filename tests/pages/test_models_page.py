"""The pages Models and System."""

from __future__ import annotations

from browsing import PASSWORD, Visit, hand_in
from playwright.sync_api import expect
from serving import Running


def test_versions_are_compared_and_taken_back(visit: Visit, line: Running, good_png: bytes) -> None:
    with line.login("egon", PASSWORD) as egon:
        one = hand_in(line, good_png, part="M-1")
        egon.post(f"/api/v1/inspections/{one['id']}/reviews", json={"label": "GOOD"})
        made = egon.post("/api/v1/models/disc/threshold", json={"threshold": 0.01, "reason": "too low"})
        assert made.status_code == 201
    visitor = visit()
    page = visitor.login("egon")
    page.goto("/models")
    expect(page.locator("#versions tr")).to_have_count(2)
    expect(page.locator("#versions")).to_contain_text("too low")
    expect(page.locator("#card")).to_contain_text("Not tested")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_contain_text("1 parts would be decided otherwise")
    expect(page.locator("#compared")).to_contain_text("M-1")
    assert visitor.violations() == []
    page.get_by_role("button", name="Use this version").click()
    expect(page.get_by_text("This version serves from now on")).to_be_visible()
    assert line.service.models.entry("disc").version == made.json()["before"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#versions tr").first).to_contain_text("serves")
    assert line.service.models.entry("disc").version == made.json()["version"]
    page = visit().login("olga")
    page.goto("/models")
    expect(page.locator("#versions tr")).to_have_count(2)
    expect(page.get_by_role("button", name="Use this version")).to_have_count(0)


def test_the_system_is_shown_and_the_chain_to_engineers(visit: Visit) -> None:
    visitor = visit("large")
    page = visitor.login("egon")
    page.goto("/system")
    expect(page.locator("#storage")).to_contain_text("SQLite, answers")
    expect(page.locator("#events tr")).not_to_have_count(0)
    expect(page.locator("#audit tr")).not_to_have_count(0)
    assert visitor.violations() == []
    page = visit("phone").login("olga")
    page.goto("/system")
    expect(page.locator("#queue")).to_contain_text("cores")
    expect(page.locator("#audit")).to_have_count(0)
