"""Too much, too late, too large, killed, full: what a service does then."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Postgres, Running, free_port, running, settings_for, wait_until

from goodparts.server.history import audit, retention
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import open_database
from goodparts.server.history.pages import Filter, every

PLACE = "/api/v1/models/disc/inspections"
TOKEN = re.compile(r"gp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


def test_beyond_the_queue_requests_are_told_when_to_come_again(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    with running(settings_for(fitted_file, tmp_path, queue=2, workers=1)) as live:
        live.service.models.get("disc")
        gate = threading.Event()
        live.service.pool._pool.submit(gate.wait)  # the one worker is busy

        def post() -> httpx.Response:
            with live.http() as http:
                return http.post(PLACE, content=good_png)

        with ThreadPoolExecutor(2) as clients:
            accepted = [clients.submit(post) for _ in range(2)]
            wait_until(lambda: live.service.pool.accepted == 2)
            refused = post()
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "busy"
            assert int(refused.headers["retry-after"]) >= 1
            with live.http() as http:
                assert http.get("/healthz").status_code == 200  # it is not stuck
                batch = http.post("/api/v1/models/disc/batches", files=[("image", ("a", good_png))])
                assert batch.status_code == 503
            gate.set()
            assert [future.result().status_code for future in accepted] == [200, 200]
        wait_until(lambda: live.service.pool.accepted == 0)
        with live.login() as browser:
            assert 'goodparts_refused_total{reason="busy"} 2.0' in browser.get("/metrics").text


def test_a_deadline_that_passes_in_the_queue_is_told(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    with running(settings_for(fitted_file, tmp_path, workers=1)) as live, live.http() as http:
        gate = threading.Event()
        live.service.pool._pool.submit(gate.wait, 0.4)
        answer = http.post(PLACE, content=good_png, params={"deadline": 0.1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline")
        assert http.get("/api/v1/inspections").json()["items"] == []
        wait_until(lambda: live.service.pool.accepted == 0)
        assert http.post(PLACE, content=good_png, params={"deadline": 10}).status_code == 200


def test_a_body_that_does_not_come_gives_its_place_back(fitted_file: Path, tmp_path: Path) -> None:
    with running(settings_for(fitted_file, tmp_path, queue=1, deadline=0.3)) as live:
        connection = http.client.HTTPConnection(live.address.removeprefix("http://"))
        connection.putrequest("POST", PLACE)
        connection.putheader("Authorization", f"Bearer {live.token}")
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b"slow")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "deadline")
        connection.close()
        wait_until(lambda: live.service.pool.accepted == 0)


def test_who_still_sends_hears_why_it_is_refused(lone: Running) -> None:
    """A client that sends all it has before it listens, as most do."""
    for headers in ({}, {"Authorization": f"Bearer {lone.token}"}):
        connection = http.client.HTTPConnection(lone.address.removeprefix("http://"))
        place = PLACE if not headers else "/api/v1/models/none/inspections"
        connection.request("POST", place, b"x" * 20_000_000, headers)
        answer = connection.getresponse()
        assert answer.status == (404 if headers else 401)
        assert "error" in json.loads(answer.read())
        connection.close()


@pytest.mark.parametrize("told", [True, False])
def test_more_bytes_than_may_be_are_refused(
    fitted_file: Path, tmp_path: Path, good_png: bytes, told: bool
) -> None:
    def pieces() -> Any:
        yield from (b"x" * 10_000 for _ in range(50))

    settings = settings_for(fitted_file, tmp_path, max_bytes=100_000)
    with running(settings) as live, live.http() as http:
        answer = http.post(PLACE, content=b"x" * 500_000 if told else pieces())
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        small = http.post("/api/v1/login", content=b"x" * 70_000)
        assert small.status_code == 413
        assert http.post(PLACE, content=good_png).status_code == 200
        assert live.service.pool.accepted == 0


def test_an_image_of_too_many_pixels_is_refused_undecoded(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    settings = settings_for(fitted_file, tmp_path, pixel_limit=96 * 96 - 1)
    with running(settings) as live, live.http() as http:
        answer = http.post(PLACE, content=good_png)
        assert answer.status_code == 422
        assert "pixels" in answer.json()["error"]["message"]


def test_what_was_accepted_is_finished_when_it_stops(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    settings = settings_for(fitted_file, tmp_path, workers=1)
    with ThreadPoolExecutor(6) as clients:
        with running(settings) as live:
            gate = threading.Event()
            live.service.pool._pool.submit(gate.wait, 0.3)

            def post() -> httpx.Response:
                with live.http() as http:
                    return http.post(PLACE, content=good_png)

            futures = [clients.submit(post) for _ in range(6)]
            wait_until(lambda: live.service.pool.accepted == 6)
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert ids_in(settings.folder) == Counter(answer.json()["id"] for answer in answers)


def ids_in(folder: Path, url: str | None = None) -> Counter[str]:
    found = open_database(url, folder)
    counted = Counter(row["id"] for row in every(found, Filter()))
    found.close()
    return counted


def test_buffered_answers_before_the_commit_and_loses_nothing_in_peace(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    settings = settings_for(fitted_file, tmp_path, durability="buffered")
    with running(settings) as live, live.http() as http:
        made = [http.post(PLACE, content=good_png).json()["id"] for _ in range(5)]
    assert ids_in(settings.folder) == Counter(made)


# ---- killed ------------------------------------------------------------------------------------------


class Process:
    """`goodparts serve` as a process that can be killed."""

    def __init__(self, model: Path, folder: Path, url: str | None) -> None:
        self.model, self.folder, self.url, self.port = model, folder, url, free_port()
        self.log, self.token = folder.parent / "log", ""

    def start(self) -> None:
        place = ["--database", self.url] if self.url else []
        command = [sys.executable, "-m", "goodparts", "serve", str(self.model), "--data", str(self.folder)]
        with self.log.open("a") as log:
            options = ["--port", str(self.port), "--least-free", "0", *place]
            self.process = subprocess.Popen([*command, *options], stderr=log)
        wait_until(self.ready, 60)
        self.token = self.token or TOKEN.findall(self.log.read_text())[0]

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def load(self, images: list[bytes], stop: threading.Event) -> list[dict[str, Any]]:
        """What one client was answered until it was told to stop."""
        answered = []
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30) as http:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    answer = http.post(PLACE, content=images[number % len(images)])
                except httpx.HTTPError:
                    time.sleep(0.05)
                    continue
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    answered.append(answer.json())
        return answered


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
def test_nothing_that_was_answered_is_lost_when_it_is_killed(
    fresh_url: str | None, fitted_file: Path, tmp_path: Path, good_png: bytes, bad_png: bytes
) -> None:
    process = Process(fitted_file, tmp_path / "history", fresh_url)
    answered: list[dict[str, Any]] = []
    process.start()
    stop = threading.Event()
    with ThreadPoolExecutor(3) as clients:
        loads = [clients.submit(process.load, [good_png, bad_png], stop) for _ in range(3)]
        time.sleep(0.7)
        process.kill()
        stop.set()
    for load in loads:
        answered += load.result()
    process.start()
    process.process.terminate()
    assert process.process.wait(30) in (0, -signal.SIGTERM)
    assert len(answered) > 10
    counted = ids_in(process.folder, fresh_url)
    assert all(counted[one["id"]] == 1 for one in answered)
    require_whole(process.folder, fresh_url)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such signal")
def test_nothing_that_was_answered_is_lost_when_postgresql_is_killed(
    postgres: Postgres, fitted_file: Path, tmp_path: Path, good_png: bytes, bad_png: bytes
) -> None:
    url = postgres.new_database()
    with running(settings_for(fitted_file, tmp_path / "history", url)) as live:
        process = Process(fitted_file, tmp_path / "history", url)
        process.port, process.token = int(live.address.rsplit(":", 1)[1]), live.token
        stop = threading.Event()
        with ThreadPoolExecutor(3) as clients:
            loads = [clients.submit(process.load, [good_png, bad_png], stop) for _ in range(3)]
            for _ in range(2):
                time.sleep(0.4)
                postgres.kill()
                time.sleep(0.2)
                postgres.start()
                time.sleep(1.0)
            with live.http() as http:
                wait_until(lambda: http.get("/readyz").status_code == 200)
            time.sleep(0.5)
            stop.set()
        answered = [one for load in loads for one in load.result()]
        last = max(one["time"] for one in answered)
        with live.http() as http:
            after = http.post(PLACE, content=good_png)
            assert after.status_code == 200
            assert after.json()["time"] > last
    counted = ids_in(tmp_path, url)
    assert len(answered) > 10
    assert all(counted[one["id"]] == 1 for one in answered)
    require_whole(tmp_path / "history", url)


def require_whole(folder: Path, url: str | None) -> None:
    """The chain verifies, and every file that a row speaks of is what it was."""
    found, blobs = open_database(url, folder), BlobStore(folder / "files")

    def row_fault(row: Any) -> str | None:
        names = (row["image_sha256"], row["findings_sha256"]) if row["kept"] else ()
        return next((name for name in names if blobs.read(name) is None), None)

    with found.snapshot() as connection:
        assert audit.verify(connection, row_fault=row_fault).faults == []
    found.close()


# ---- a disk that fills -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Leave no room on the disk."""
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)


def test_a_full_disk_gives_verdicts_without_storage_and_recovers(
    fitted_file: Path, tmp_path: Path, small_disk: Path, good_png: bytes, bad_png: bytes
) -> None:
    data = tmp_path / "history"
    data.mkdir()
    (data / "files").symlink_to(small_disk)
    with running(settings_for(fitted_file, data)) as live, live.http() as http:
        assert http.post(PLACE, content=good_png).json()["image_kept"] is True
        ballast = small_disk / "ballast"
        fill(ballast)
        found = http.post(PLACE, content=bad_png).json()
        assert (found["verdict"], found["recorded"], found["image_kept"]) == ("BAD", True, False)
        assert http.get(f"/api/v1/inspections/{found['id']}/image").status_code == 410
        assert http.get("/readyz").json() == {"status": "degraded"}
        with live.login() as browser:
            assert "goodparts_storage_degraded 1.0" in browser.get("/metrics").text
        ballast.unlink()
        assert http.post(PLACE, content=bad_png).json()["image_kept"] is True
        assert http.get("/readyz").json() == {"status": "ready"}
    require_whole(data, None)


def test_a_full_disk_below_the_database_gives_verdicts_unrecorded_and_recovers(
    fitted_file: Path, small_disk: Path, good_png: bytes
) -> None:
    with running(settings_for(fitted_file, small_disk)) as live, live.http() as http:
        assert http.post(PLACE, content=good_png).json()["recorded"] is True
        ballast = small_disk / "ballast"
        fill(ballast)
        answers = [http.post(PLACE, content=good_png) for _ in range(30)]
        assert {answer.status_code for answer in answers} == {200}
        last = answers[-1].json()
        assert (last["verdict"], last["recorded"], last["id"]) == ("GOOD", False, None)
        ballast.unlink()
        assert http.post(PLACE, content=good_png).json()["recorded"] is True
        with live.login() as browser:
            assert "goodparts_unrecorded 0.0" not in browser.get("/metrics").text
    require_whole(small_disk, None)


# ---- retention ---------------------------------------------------------------------------------------


def apply(live: Running, rules: retention.Rules) -> int:
    service = live.service
    return retention.apply_rules(service.writer, service.blobs, service.room, rules)


def test_good_parts_go_first_and_reviewed_ones_stay(
    fresh_url: str | None,
    fitted_file: Path,
    tmp_path: Path,
    good_png: bytes,
    bad_png: bytes,
    mini_dataset: Path,
) -> None:
    others = [path.read_bytes() for path in sorted((mini_dataset / "test" / "good").iterdir())[1:4]]
    with running(settings_for(fitted_file, tmp_path / "history", fresh_url)) as live, live.http() as http:
        made = [http.post(PLACE, content=image).json() for image in (good_png, *others, bad_png, good_png)]
        made = [one for one in made if not one["borderline"]]
        good = [one for one in made if one["verdict"] == "GOOD"]
        bad = [one for one in made if one["verdict"] == "BAD"]
        assert len(good) >= 3
        assert bad
        with live.login() as browser:
            browser.post(f"{good[0]['links']['self']}/reviews", json={"label": "GOOD"})

        def kept(one: dict[str, Any]) -> bool:
            return bool(http.get(f"/api/v1/inspections/{one['id']}").json()["image_kept"])

        before = live.service.room.stored
        assert apply(live, retention.Rules(days=1, rows_days=1)) == 0
        assert apply(live, retention.Rules(most_bytes=before)) == 0
        assert apply(live, retention.Rules(good_days=1e-9)) == len(good) - 1
        assert [kept(one) for one in good] == [True] + [False] * (len(good) - 1)
        assert all(map(kept, bad))
        assert http.get(good[0]["links"]["image"]).content == good_png  # though another of the same went
        assert http.get(good[1]["links"]["image"]).status_code == 410
        assert live.service.room.stored < before
        assert live.service.room.stored == retention.stored_bytes(live.service.database)
        assert apply(live, retention.Rules(most_bytes=1)) == len(bad)
        assert [kept(one) for one in made].count(True) == 1
        blobs = live.service.blobs
        left = [name for first in range(256) for name, _ in blobs.names(first)]
        assert len(left) == 2  # an image and its findings
        apply(live, retention.Rules(rows_days=1e-9))
        assert [row["id"] for row in http.get("/api/v1/inspections").json()["items"]] == [good[0]["id"]]
    require_whole(tmp_path / "history", fresh_url)


def test_what_a_kill_left_behind_is_swept(lone: Running, good_png: bytes) -> None:
    service = lone.service
    with lone.http() as http:
        kept = http.post(PLACE, content=good_png).json()["image_sha256"]
    nobodys = [kept[:2] + "0" * 62, kept[:2] + "f" * 62]
    for name in nobodys:
        service.blobs.path(name).write_bytes(b"x")
    unfinished = service.blobs.path(kept).with_name("0123-1-1.part")
    unfinished.write_bytes(b"x")
    first = int(kept[:2], 16)
    assert retention.sweep(service.writer, service.blobs, first) == 0  # they may be somebody's still
    for path in (*map(service.blobs.path, [*nobodys, kept]), unfinished):
        os.utime(path, (1, 1))
    assert retention.sweep(service.writer, service.blobs, first) == 3
    assert [name for name, _ in service.blobs.names(first)] == [kept]


def test_with_little_free_no_more_images_are_kept(lone: Running, good_png: bytes) -> None:
    room = lone.service.room
    with lone.http() as http:
        room.least_free = 2**62
        assert http.post(PLACE, content=good_png).json()["image_kept"] is False
        room.least_free = 0
        assert http.post(PLACE, content=good_png).json()["image_kept"] is True
