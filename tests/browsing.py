"""A person with a browser before a service, for the tests of pages."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from playwright.sync_api import Browser, Page
from serving import Running, wait_until

from goodparts.server.access import accounts

PASSWORD = "long enough for tests"
ROLES = {"olga": "operator", "rita": "reviewer", "egon": "engineer"}
SIZES = {"small": (1024, 768), "large": (1920, 1080), "phone": (390, 844)}


def with_accounts(service: Running) -> Running:
    """The same with an account of each role."""

    def add(transaction: Any) -> None:
        for name, role in ROLES.items():
            accounts.add(transaction, "tests", name, PASSWORD, role)

    service.service.commit(add)
    return service


class Visitor:
    """A person with a browser: collects whatever the page should not have done."""

    def __init__(self, browser: Browser, service: Running, size: str = "small") -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            base_url=service.address,
            locale="en-GB",
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(10_000)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        self.address = service.address
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda told: self.faults.append(told.text) if told.type == "error" else None)
        self.page.on("request", lambda request: self._watch(request.url))

    def _watch(self, url: str) -> None:
        if not url.startswith((self.address, "blob:", "data:")):
            self.elsewhere.append(url)

    def login(self, name: str = "egon", password: str = PASSWORD) -> Page:
        """Log in on the page for that."""
        self.page.goto("/login")
        self.page.get_by_label("Account").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/live")
        return self.page

    def violations(self) -> list[str]:
        """What axe-core finds serious or critical on the page as it is."""
        source = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
        self.page.evaluate(source)
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:3]
        ]

    def close(self) -> None:
        self.context.close()


Visit = Callable[..., Visitor]


def hand_in(service: Running, png: bytes, /, **about: str) -> dict[str, Any]:
    """Have an image inspected by the model `disc`."""
    with service.http() as client:
        answer = client.post("/api/v1/models/disc/inspections", params=about, content=png)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def drawn(page: Page, selector: str) -> None:
    """Wait until all pictures there are loaded (the page's policy lets no function wait within it)."""
    every = f"[...document.querySelectorAll({selector!r})]"
    wait_until(lambda: page.evaluate(f"{every}.length > 0 && {every}.every(one => one.naturalWidth > 0)"))
