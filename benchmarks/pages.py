"""How heavy and how quick the pages of the service are, and whether a wall of tiles grows.

    python benchmarks/pages.py                      # weight and time of each page
    python benchmarks/pages.py --tiles 24 --rate 5 --minutes 10

Needs the extra `test` (Playwright) and Chromium. It serves a demo model of its own; tiles are told of inspections that
are in its history, so that the browser and what serves it are measured rather than the network.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from goodparts import Inspector
from goodparts.data.demo import write_demo
from goodparts.server.history.records import one
from goodparts.server.pages.frame import PAGES
from goodparts.server.run import make_server
from goodparts.server.service import Service, open_service
from goodparts.server.settings import Settings


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tiles", type=int, default=0)
    arguments.add_argument("--rate", type=float, default=5.0, help="results a second of each tile")
    arguments.add_argument("--minutes", type=float, default=10.0)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        demo = write_demo(folder / "demo", train=20, good=4, bad=4)
        model = Inspector("fast").fit(demo).save(folder / "flange.goodparts")
        service = open_service(Settings(models=(str(model),), data=str(folder / "history"), least_free=0))
        service.start()
        listening = socket.socket(proto=socket.IPPROTO_TCP)  # else answers wait 40 ms for an ACK
        listening.bind(("127.0.0.1", 0))
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        while not server.started:
            time.sleep(0.05)
        try:
            assert service.first is not None
            client, rows = _ready(service, address, demo)
            if asked.tiles:
                _tiles(service, address, rows, asked.tiles, asked.rate, asked.minutes)
            else:
                _pages(client)
        finally:
            server.should_exit = True
            thread.join()


def _ready(service: Service, address: str, demo: Path) -> tuple[httpx.Client, list[dict[str, Any]]]:
    """A client that is logged in, and the rows of some inspections."""
    assert service.first is not None
    client = httpx.Client(base_url=address, timeout=60)
    answer = client.post("/api/v1/login", json={"account": "admin", "password": service.first.password})
    client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    rows = []
    for path in sorted((demo / "test").glob("*/*.png")):
        found = client.post("/api/v1/models/flange/inspections", content=path.read_bytes()).json()
        with service.database.read() as connection:
            rows.append(one(connection, found["id"]))
    return client, rows


def _pages(client: httpx.Client) -> None:
    print(f"{'page':10} {'html kB':>8} {'all kB':>8} {'server ms (median of 20)':>26}")
    for name in PAGES:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            page = client.get(f"/{name}")
            times.append(1000 * (time.perf_counter() - began))
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        weight = len(page.content) + sum(len(client.get(file).content) for file in files)
        print(
            f"{name:10} {len(page.content) / 1000:8.1f} {weight / 1000:8.1f} {statistics.median(times):26.1f}"
        )


def _tiles(
    service: Service, address: str, rows: list[dict[str, Any]], tiles: int, rate: float, minutes: float
) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert service.first is not None
    process, over = psutil.Process(), threading.Event()
    told = [0]

    def tell() -> None:
        begin = time.monotonic()
        while not over.is_set():
            for tile in range(tiles):
                service.feed.tell({**rows[(told[0] + tile) % len(rows)], "line": f"{tile:02d}"})
            told[0] += 1
            over.wait(max(0.0, begin + told[0] / rate - time.monotonic()))

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.goto(f"{address}/login")
        page.locator("[name=account]").fill("admin")
        page.locator("[name=password]").fill(service.first.password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/live")
        devtools = page.context.new_cdp_session(page)
        thread = threading.Thread(target=tell)
        thread.start()
        print(f"{tiles} tiles, {rate:g} results a second each")
        print(f"{'minute':>7} {'heap MB':>8} {'nodes':>7} {'server MB':>10} {'shown':>8} {'told':>8}")
        steps = max(2, round(minutes * 2))
        for step in range(steps + 1):
            devtools.send("HeapProfiler.collectGarbage")
            heap = devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
            nodes = devtools.send("Memory.getDOMCounters")["nodes"]
            counted = page.evaluate(
                "[...document.querySelectorAll('.counts div:first-child dd')]"
                ".reduce((sum, one) => sum + Number(one.textContent.replace(/\\D/g, '')), 0)"
            )
            print(
                f"{step * minutes / steps:7.1f} {heap:8.1f} {nodes:7d} {process.memory_info().rss / 1e6:10.0f} "
                f"{counted:8d} {told[0] * tiles:8d}",
                flush=True,
            )
            if step < steps:
                page.wait_for_timeout(1000 * 60 * minutes / steps)
        over.set()
        thread.join()
        browser.close()


if __name__ == "__main__":
    main()
