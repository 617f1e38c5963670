"""Logging in, roles, languages, themes, a connection that is lost: what all pages share."""

from __future__ import annotations

import re

import pytest
from browsing import PASSWORD, ROLES, Visit
from serving import Running

from goodparts.server.access.permissions import permissions_of
from goodparts.server.pages.frame import PAGES
from goodparts.server.pages.texts import LANGUAGES, language_of, texts


def test_every_language_has_every_text_with_the_same_gaps() -> None:
    def leaves(value: object, path: str = "") -> dict[str, list[str]]:
        if isinstance(value, dict):
            return {
                key: gaps
                for name, one in value.items()
                for key, gaps in leaves(one, f"{path}.{name}").items()
            }
        assert isinstance(value, str)
        assert not hasattr(dict, path.rsplit(".", 1)[-1]), (
            f"{path}: a template would find the dictionary's own"
        )
        assert value.strip(), path
        return {path: sorted(re.findall(r"\{\w+\}", value))}

    first = leaves(texts("en"))
    for language in LANGUAGES:
        assert leaves(texts(language)) == first


@pytest.mark.parametrize(
    ("chosen", "accepted", "expected"),
    [
        (None, "", "en"),
        (None, "de-CH,de;q=0.9,en;q=0.5", "de"),
        (None, "fr,en;q=0.4,de;q=0.8", "de"),
        ("en", "de", "en"),
        ("xx", "de", "de"),
        (None, "de;q=broken,en", "en"),
    ],
)
def test_the_language_is_chosen_or_the_browsers(chosen: str | None, accepted: str, expected: str) -> None:
    assert language_of(chosen, accepted) == expected


def test_pages_are_strict_and_light(line: Running) -> None:
    with line.login() as browser:
        for name in PAGES:
            answer = browser.get(f"/{name}")
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "script-src 'self';" in policy
            assert " style=" not in answer.text
            assert "built-in method" not in answer.text
            assert not re.search(r"<script(?![^>]*(src=|application/json))| on[a-z]+=", answer.text)
            loaded = [answer.text.encode()]
            for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
                one = browser.get(address)
                assert one.status_code == 200
                assert "immutable" in one.headers["cache-control"]
                loaded.append(one.content)
            assert sum(map(len, loaded)) < 200_000
        assert browser.get("/static/nothing.js").status_code == 404
        assert "default-src 'none';" in browser.get("/api/v1/models").headers["content-security-policy"]


@pytest.mark.parametrize("name", ROLES)
def test_each_role_sees_its_pages_and_no_others(visit: Visit, name: str) -> None:
    page = visit().login(name)
    allowed = {one for one, permission in PAGES.items() if permission in permissions_of(ROLES[name])}
    shown = page.locator("nav a").evaluate_all(
        "links => links.map(link => link.getAttribute('href').slice(1))"
    )
    assert set(shown) == allowed
    for one in set(PAGES) - allowed:
        answer = page.goto(f"/{one}")
        assert answer is not None
        assert answer.status == 403
        assert "another role" in page.inner_text("main")


def test_log_in_and_out(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    page.goto("/history")
    assert page.url.endswith("/login?next=/history")
    assert visitor.violations() == []
    page.get_by_label("Account").fill("olga")
    page.get_by_label("Password").fill("not her password")
    page.keyboard.press("Enter")
    page.get_by_text("don't go together").wait_for()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/history")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto("/live")
    assert "/login" in page.url


def test_german_and_dark(visit: Visit) -> None:
    visitor = visit()
    page = visitor.login("olga")
    page.get_by_role("button", name="Deutsch").click()
    page.get_by_role("button", name="Abmelden").wait_for()
    assert page.locator("html").get_attribute("lang") == "de"
    page.get_by_role("button", name="Dunkel oder hell").click()
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert visitor.violations() == []
