"""What somebody sends to do harm: damaged images, bombs, wrong types, odd requests. None is a fault of the service."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from image_bytes import png, png_chunk, saved
from serving import Running, running, settings_for

from goodparts.server.access import tokens
from goodparts.server.access.permissions import PERMISSIONS
from goodparts.server.history.writer import Transaction

PLACE = "/api/v1/models/disc/inspections"
COUNT = int(os.environ.get("GOODPARTS_MUTATIONS", "120"))


@pytest.fixture(scope="module")
def live(fitted_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(settings_for(fitted_file, tmp_path_factory.mktemp("h"), max_bytes=2_000_000)) as found:
        yield found


@pytest.fixture(autouse=True)
def faultless(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No trace in the log, whatever came."""
    caplog.set_level("ERROR", logger="goodparts")
    yield
    assert [record for record in caplog.records if record.exc_info] == []


def mutated(rng: np.random.Generator, image: bytes) -> bytes:
    """An image with something wrong in it."""
    data = bytearray(image)
    match rng.integers(6):
        case 0:
            return bytes(data[: rng.integers(len(data))])
        case 1:
            for _ in range(int(rng.integers(1, 20))):
                data[rng.integers(len(data))] = rng.integers(256)
        case 2:
            at = int(rng.integers(8, 60))
            data[at : at + 4] = rng.bytes(4)
        case 3:
            at = int(rng.integers(len(data)))
            data[at:at] = rng.bytes(int(rng.integers(1, 500)))
        case 4:
            return bytes(data[:8]) + rng.bytes(int(rng.integers(0, 2000)))
        case _:
            first, second = sorted(rng.integers(0, len(data), 2))
            del data[int(first) : int(second)]
    return bytes(data)


def test_mutated_images_are_answered_and_nothing_grows(live: Running, good_png: bytes) -> None:
    rng = np.random.default_rng(5)
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    kinds = [good_png, *(saved(pixels, kind) for kind in ("JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"))]
    statuses: Counter[int] = Counter()
    process = psutil.Process()
    with live.http() as http:
        for number in range(COUNT):
            if number == COUNT // 3:
                before = process.memory_info().rss
            answer = http.post(PLACE, content=mutated(rng, kinds[number % len(kinds)]))
            statuses[answer.status_code] += 1
            assert answer.status_code in (200, 422), answer.text
            assert "Traceback" not in answer.text
            assert str(live.service.settings.folder) not in answer.text
    assert statuses[422] > COUNT / 4
    assert process.memory_info().rss - before < 100 * 2**20
    assert live.service.pool.accepted == 0


def zip_bomb() -> bytes:
    """A PNG of 40,000 x 40,000 pixels in a few kilobytes."""
    return png(40_000, 40_000, 8, 2, b"\0" * 1_000_000)


def many_chunks() -> bytes:
    return png(64, 64, 8, 2, b"\0" * 64 * 193, extra=png_chunk(b"tEXt", b"a\0b") * 50_000)


def long_text() -> bytes:
    packed = zlib.compress(b"\0" * 50_000_000)
    return png(64, 64, 8, 2, b"\0" * 64 * 193, extra=png_chunk(b"zTXt", b"a\0\0" + packed))


def huge_tiff() -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + b"\0" * 1000


@pytest.mark.parametrize("make", [zip_bomb, many_chunks, long_text, huge_tiff])
def test_bombs_are_refused_before_they_are_decoded(live: Running, make: object) -> None:
    assert callable(make)
    content = make()
    tracemalloc.start()
    with live.http() as http:
        answer = http.post(PLACE, content=content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code in (200, 413, 422), answer.text
    assert peak < 100 * 2**20


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /api/v1/inspections\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\r\nX-Request-ID: ../../b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: goodparts_session=\xff\xfe.\xff\r\n\r\n",
        b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/inspections/..%2f..%2fetc%2fpasswd/image HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_odd_requests_are_no_fault(live: Running, request_bytes: bytes) -> None:
    port = int(live.address.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    if answer:
        status = int(answer.split(b" ", 2)[1])
        assert status < 500, answer
        assert b"Traceback" not in answer
        assert b"passwd" not in answer.lower()
    with live.http() as http:
        assert http.get("/healthz").status_code == 200


WRONG = [
    None,
    True,
    3,
    -1,
    1e308,
    "",
    "x" * 10_000,
    "\u0000",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    "../..",
    "'; DROP TABLE",
]


@pytest.mark.parametrize(
    ("method", "place", "body"),
    [
        ("POST", "/api/v1/login", {"account": "a", "password": "b"}),
        ("POST", "/api/v1/accounts", {"name": "a", "password": "a long password", "role": "operator"}),
        ("PATCH", "/api/v1/accounts/admin", {"role": "administrator"}),
        ("POST", "/api/v1/tokens", {"name": "a", "scopes": ["read"], "days": 1}),
        ("POST", "/api/v1/models/disc/activate", {"version": "0" * 64}),
        ("POST", f"/api/v1/inspections/{'0' * 32}/reviews", {"label": "GOOD", "comment": ""}),
    ],
)
def test_values_of_the_wrong_kind_are_refused(
    live: Running, method: str, place: str, body: dict[str, object]
) -> None:
    with live.login() as browser:
        for key in body:
            for value in WRONG:
                if place.endswith("admin") and value is None:
                    continue
                live.service.attempts._full.clear()
                content = json.dumps({**body, key: value}).encode()
                answer = browser.request(
                    method, place, content=content, headers={"Content-Type": "application/json"}
                )
                assert answer.status_code < 500, (key, value, answer.text)
                assert "Traceback" not in answer.text
        for content in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000, b'{"a":' * 5000, b"1" * 5000):
            answer = browser.request(
                method, place, content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code in (400, 401, 422), answer.text


def test_odd_forms_are_refused(live: Running, good_png: bytes) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../x"\r\n\r\n'
        + good_png
        + b"\r\n"
    )
    with live.http() as http:
        assert (
            http.post(PLACE, content=part + b"--b--\r\n", headers=head).status_code == 200
        )  # whatever its name
        for content in (
            part,
            part + b"--b",
            b"--b\r\n\r\n\r\n--b--\r\n",
            b"--b\r\n" + b"x" * 20_000 + b": y\r\n\r\nz\r\n--b--\r\n",
            b"--b\r\n" + b"x: y\r\n" * 5_000 + b"\r\nz\r\n--b--\r\n",
            (b'--b\r\nContent-Disposition: form-data; name="info"\r\n\r\n{}\r\n' * 400) + b"--b--\r\n",
            b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\nz\r\n--b--\r\n",
        ):
            answer = http.post(PLACE, content=content, headers=head)
            assert answer.status_code == 422, (content[:60], answer.text)
    assert live.service.pool.accepted == 0


def test_the_openapi_document_is_kept_to(live: Running, tmp_path: Path) -> None:
    """Schemathesis makes requests of the document, right and wrong ones, and compares the answers with it."""

    def make(transaction: Transaction) -> str:
        return tokens.add(transaction, "test", "admin", "all", PERMISSIONS, 1, "administrator")[0]

    token = live.service.commit(make)
    live.service.attempts._burst = 10**6
    with live.http() as http:
        document = http.get("/api/v1/openapi.json").json()
    for methods in document["paths"].values():
        for operation in methods.values():  # a deadline of a tenth of a second is a 503 on a busy machine
            given = operation.get("parameters", [])
            operation["parameters"] = [one for one in given if one["name"] != "deadline"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", live.address]
    options = ["--phases", "examples,fuzzing", "--max-examples", "4", "--seed", "1", "--checks", "all"]
    options += ["--exclude-checks", "positive_data_acceptance"]  # random bytes are no image
    options += ["--exclude-path", "/api/v1/accounts/{name}"]  # it would close the account that asks
    given = ["-H", f"Authorization: Bearer {token}"]
    ran = subprocess.run([*command, *options, *given], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr
    assert "46 total" in ran.stdout
