"""The pages History and one inspection."""

from __future__ import annotations

from browsing import Visit, drawn, hand_in
from playwright.sync_api import expect
from serving import Running


def test_a_part_is_found_and_all_is_told(
    visit: Visit, line: Running, good_png: bytes, bad_png: bytes
) -> None:
    visitor = visit()
    page = visitor.login("olga")
    page.goto("/history")
    expect(page.get_by_text("No inspection fits")).to_be_visible()
    assert visitor.violations() == []
    for number in range(60):
        hand_in(line, good_png, part=f"H-{number}", line="9")
    wanted = hand_in(line, bad_png, part="H-bad", camera="side")
    page.reload()
    expect(page.locator("#rows tr")).to_have_count(50)
    page.get_by_role("button", name="Show older").click()
    expect(page.locator("#rows tr")).to_have_count(61)
    assert page.locator("#timeline span").count() == 60
    assert visitor.violations() == []
    page.get_by_label("Verdict").select_option("BAD")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_role("searchbox", name="Part").fill("H-7")
    page.get_by_label("Verdict").select_option("")
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr")).to_have_count(1)
    assert "part=H-7" in page.url
    page.goto(f"/inspections/{wanted['id']}")
    expect(page.get_by_role("heading", name="H-bad")).to_be_visible()
    expect(page.locator("#found")).to_contain_text("Threshold")
    expect(page.locator("#technical")).to_contain_text("side")
    expect(page.get_by_text("Nobody has reviewed")).to_be_visible()
    drawn(page, ".picture .over")
    assert visitor.violations() == []
    assert len(page.pdf()) > 10_000
    page.goto(f"/inspections/{'0' * 32}")
    expect(page.get_by_text("There is no such inspection")).to_be_visible()
