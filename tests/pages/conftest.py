"""A real browser before a real service."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Visit, Visitor, with_accounts
from playwright.sync_api import Browser, sync_playwright
from serving import Running, running, settings_for


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window; Playwright's event loop ends with it, since other tests have their own."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed (Debian: apt install chromium)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def line(fitted_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the model `disc` and an account of each role."""
    with running(settings_for(fitted_file, tmp_path_factory.mktemp("history"))) as found:
        yield with_accounts(found)


@pytest.fixture
def visit(chromium: Browser, line: Running) -> Iterator[Visit]:
    """Opens browsers before the service `line`; none may have met an error of a script, or asked elsewhere."""
    opened: list[Visitor] = []

    def visitor(size: str = "small", service: Running | None = None) -> Visitor:
        opened.append(Visitor(chromium, service or line, size))
        return opened[-1]

    yield visitor
    for one in opened:
        one.close()
        assert one.elsewhere == []
        harmless = re.compile(r"Failed to load resource|net::ERR")  # refused requests, which tests provoke
        assert [fault for fault in one.faults if not harmless.search(fault)] == []


@pytest.fixture(scope="session")
def mini_dataset_train(mini_dataset: Path) -> list[bytes]:
    """The files of its good images to learn from, in order."""
    return [path.read_bytes() for path in sorted((mini_dataset / "train" / "good").iterdir())]
