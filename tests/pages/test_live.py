"""The page Live."""

from __future__ import annotations

import re

from browsing import Visit, drawn, hand_in
from playwright.sync_api import expect
from serving import Running


def test_results_appear_by_themselves(visit: Visit, line: Running, good_png: bytes, bad_png: bytes) -> None:
    visitor = visit("large")
    page = visitor.login("olga")
    page.get_by_text("No part has come").wait_for()
    assert visitor.violations() == []
    hand_in(line, good_png, line="1", camera="top", part="A-1")
    tile = page.get_by_role("region", name="disc · line 1 · top")
    expect(tile.locator(".verdict")).to_have_text("✓GOOD")
    hand_in(line, bad_png, line="1", camera="top", part="A-2")
    expect(tile.locator(".verdict")).to_have_text("✕BAD")
    expect(tile.locator(".counts")).to_contain_text("50.0 %")
    expect(tile.locator(".caption")).to_contain_text("A-2")
    expect(tile.locator(".regions rect")).not_to_have_count(0)
    drawn(page, ".picture .over")
    page.get_by_label("How much of the map").fill("100")
    assert page.locator(".picture .over").evaluate("map => map.style.opacity") == "1"
    assert visitor.violations() == []

    page.get_by_role("button", name="Pause").click()
    hand_in(line, good_png, line="1", camera="top")
    expect(page.get_by_text("1 parts came since")).to_be_visible()
    expect(tile.locator(".verdict")).to_have_text("✕BAD")
    page.get_by_role("button", name="Go on").click()
    expect(tile.locator(".verdict")).to_have_text("✓GOOD")

    hand_in(line, bad_png, line="2")
    expect(page.locator(".tile")).to_have_count(2)
    page.reload()
    expect(page.locator(".tile")).to_have_count(2)
    expect(tile.locator(".counts")).to_contain_text("33.3 %")
    page.get_by_role("button", name="Show disc · line 2 alone").click()
    expect(page.locator(".tile:visible")).to_have_count(1)
    page.get_by_role("button", name="New shift").click()
    expect(page.locator(".tile:visible .counts div").first).to_have_text(re.compile("0"))


def test_a_lost_connection_is_told_and_comes_back(visit: Visit, line: Running, good_png: bytes) -> None:
    visitor = visit()
    page = visitor.login("olga")
    hand_in(line, good_png, line="7")
    tile = page.get_by_role("region", name="disc · line 7")
    expect(tile.locator(".counts div").first).to_contain_text("1")
    visitor.context.set_offline(True)
    expect(page.locator("#banner-lost")).to_be_visible()
    assert visitor.violations() == []
    hand_in(line, good_png, line="7")
    visitor.context.set_offline(False)
    expect(page.locator("#banner-lost")).to_be_hidden()
    expect(tile.locator(".counts div").first).to_contain_text("2")


def test_who_is_logged_out_watches_no_more(visit: Visit, line: Running) -> None:
    visitor = visit()
    page = visitor.login("olga")
    page.wait_for_selector("#tiles:not([aria-busy])")
    assert line.service.feed.watchers >= 1
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    with line.http("") as client:
        assert client.get("/api/v1/stream").status_code == 401
