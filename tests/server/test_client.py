"""`goodparts.Client`, the command that serves, TLS, logs, settings: what a person or a program meets first."""

from __future__ import annotations

import datetime
import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import Run
from serving import Running, free_port, running, settings_for, wait_until

from goodparts import Client, Inspector
from goodparts.client import ServiceError
from goodparts.server.history.zip_stream import stream_zip
from goodparts.server.settings import KEYS, Settings, SettingsError


@pytest.fixture
def client(lone: Running) -> Iterator[Client]:
    with Client(lone.address, lone.token, patience=0) as found:
        yield found


def test_a_client_inspects_and_finds_again(
    client: Client, fitted: Inspector, mini_dataset: Path, bad_png: bytes
) -> None:
    path = mini_dataset / "test" / "stain" / "000.png"
    found = client.inspect("disc", path, part="A-1", line="2", camera="top", metadata={"shift": 3})
    expected = fitted.inspect(path)
    assert (found.verdict, found.bad, found.part) == (expected.verdict, True, "A-1")
    assert found.score == pytest.approx(expected.score, rel=1e-4)
    assert found.regions[0].box == expected.regions[0].box
    assert found.record["metadata"] == {"shift": 3}
    assert found.id is not None
    assert client.inspection(found.id) == found
    assert client.picture(found.id) == bad_png
    assert client.picture(found.id, "panel.png").startswith(b"\x89PNG")
    now = datetime.datetime.now(datetime.UTC)
    assert abs(now - found.time) < datetime.timedelta(minutes=1)
    for _ in range(4):
        client.inspect("disc", bad_png, part="A-1")
    ids = [one.id for one in client.inspections(part="A-1", since=found.time, borderline=False, limit=2)]
    assert len(ids) == len(set(ids)) == 5
    assert ids[-1] == found.id
    assert [one["name"] for one in client.models()] == ["disc"]
    assert client.model("disc")["card"]["identity"] == fitted.model.identity


def test_a_client_says_what_is_wrong(client: Client, lone: Running, tmp_path: Path) -> None:
    for ask, status, code, words in (
        (lambda: client.inspect("none", b"x"), 404, "not_found", "no model"),
        (lambda: client.inspect("disc", b"x"), 422, "invalid", "image"),
        (lambda: client.review("0" * 32, "BAD"), 403, "not_allowed", "review"),
        (lambda: client.export(tmp_path / "x.zip"), 403, "not_allowed", "export"),
        (lambda: client.inspection("../x"), 404, "not_found", "nothing"),
    ):
        with pytest.raises(ServiceError, match=words) as caught:
            ask()
        assert (caught.value.status, caught.value.code) == (status, code)
    assert not (tmp_path / "x.zip").exists()
    with (
        Client(f"http://127.0.0.1:{free_port()}", patience=0) as nobody,
        pytest.raises(ServiceError, match="reached"),
    ):
        nobody.models()


def test_a_client_comes_again_when_it_is_told_to() -> None:
    """A service that is busy twice and then answers: the client waits as long as `Retry-After` says."""
    answers = [(503, b'{"error": {"code": "busy", "message": "later"}}')] * 2 + [(200, b"[]")]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0)
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as busy:
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{busy.server_port}", patience=5) as client:
            assert client.models() == []
        answers[:] = [(503, b"no json")] * 9
        with Client(f"http://127.0.0.1:{busy.server_port}", patience=0) as client:
            client._patience = -1
            with pytest.raises(ServiceError) as caught:
                client.models()
            assert caught.value.status == 503
        busy.shutdown()
        thread.join()


def test_a_client_reviews_and_exports(lone: Running, tmp_path: Path, bad_png: bytes) -> None:
    with lone.login() as browser:
        body = {"name": "all", "scopes": ["inspect", "read", "review", "export", "models"], "days": 1}
        token = browser.post("/api/v1/tokens", json=body).json()["token"]
    with Client(lone.address, token) as client:
        found = client.inspect("disc", bad_png, part="exported")
        assert found.id is not None
        client.review(found.id, "GOOD", "only dust")
        assert client.inspection(found.id).review == "GOOD"
        path = client.export(tmp_path / "out.zip", part="exported", until=datetime.datetime(2100, 1, 1))
        client.activate("disc", found.model_version)
    with zipfile.ZipFile(path) as archive:
        assert f"disc/test/good/{found.id}.png" in archive.namelist()


# ---- the command -------------------------------------------------------------------------------------


def test_the_printed_line_works(fitted_file: Path, tmp_path: Path, good_png: bytes) -> None:
    """As a new user would: start it, copy the line for curl, stop it."""
    image, log = tmp_path / "part.png", tmp_path / "log"
    image.write_bytes(good_png)
    command = [sys.executable, "-m", "goodparts", "serve", str(fitted_file), "--port", str(free_port())]
    with log.open("w") as stream:
        options = ["--data", "history", "--log-format", "json"]
        process = subprocess.Popen([*command, *options], stderr=stream, cwd=tmp_path)
    wait_until(lambda: "Try " in log.read_text() or process.poll() is not None, 60)
    lines = log.read_text().splitlines()
    (line,) = (line.removeprefix("Try").strip() for line in lines if line.startswith("Try"))
    assert any(line.startswith("Account  admin, password ") for line in lines)
    asked = []

    def ask() -> bool:
        asked[:] = [subprocess.run(f"{line} -s", shell=True, capture_output=True, text=True, cwd=tmp_path)]
        return asked[0].returncode == 0

    wait_until(ask)
    assert json.loads(asked[0].stdout)["verdict"] == "GOOD"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)
    records = [json.loads(one) for one in log.read_text().splitlines() if one.startswith("{")]
    (request,) = [one for one in records if one.get("path", "").endswith("/inspections")]
    assert (request["status"], request["method"]) == (200, "POST")
    assert request["request"] == json.loads(asked[0].stdout)["request"]
    again = (tmp_path / "history" / "session.key").stat()
    assert os.name != "posix" or again.st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.goodparts"], "no such model"),
        (["x", "--port", "99999"], "port"),
        (["x", "--no-login", "--host", "0.0.0.0"], "this machine only"),
        (["x", "--certificate", "c.pem"], "TLS needs both"),
        (["x", "--certificate", "c.pem", "--key", "k.pem"], "no such file"),
        (["x", "--trusted-proxy", "everybody"], "expected an address"),
        (["x", "--durability", "never"], "answered or buffered"),
        (["x", "--database", "mysql://x"], "no such model"),
        (["x", "--config", "none.toml"], "can't be read"),
    ],
)
def test_what_does_not_fit_is_told(goodparts: Run, arguments: list[str], words: str) -> None:
    ran = goodparts("serve", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert list(Path().iterdir()) == []  # nothing was made


def test_settings_come_from_a_file_and_flags_go_before(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('models = "a.goodparts"\nport = 1\nkeep_days = 30\nlogin = false\n')
    found = Settings.load(path, {"port": 2, "host": None})
    assert (found.models, found.port, found.keep_days, found.login) == (("a.goodparts",), 2, 30.0, False)
    assert Settings.load(None, {}) == Settings()
    for text, words in (
        ("colour = 1", "colour: is no setting"),
        ("port = 'x'", "port: expected int"),
        ("port = true", "port: expected int"),
        ("models = 3", "models: expected a list"),
        ("models = [", "is no TOML"),
        ("queue = 0", "queue: expected 1 or more"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=words):
            Settings.load(path, {})
    assert all(item.metadata["about"] for item in KEYS.values())


def test_accounts_by_the_command_line(goodparts: Run, lone: Running, tmp_path: Path) -> None:
    place = ["--data", lone.service.settings.data]
    file = tmp_path / "password"
    file.write_text("a long password\n")
    assert (
        goodparts(
            "server", "account", "add", "mary", "--role", "reviewer", "--password-file", file, *place
        ).code
        == 0
    )
    with lone.login("mary", "a long password") as browser:
        assert browser.get("/api/v1/me").json()["role"] == "reviewer"
        assert goodparts("server", "account", "change", "mary", "--close", *place).code == 0
        wait_until(lambda: browser.get("/api/v1/me").status_code == 401, 10)
    listed = goodparts("server", "account", "list", "--json", *place).records
    assert {"name": "mary", "role": "reviewer", "active": False} in listed
    for arguments, words in (
        (("add", "mary", "--password-file", file), "already"),
        (("add", "../x", "--password-file", file), "a name has"),
        (("change", "admin", "--close"), "last administrator"),
        (("password", "nobody", "--password-file", file), "no account"),
        (("add", "x", "--password-file", tmp_path / "none"), "can't be read"),
    ):
        ran = goodparts("server", "account", *arguments, *place)
        assert ran.code == 2, arguments
        assert words in ran.err
    ran = goodparts("server", "account", "list", "--data", tmp_path / "elsewhere")
    assert (ran.code, "there is no history here" in ran.err) == (2, True)
    assert not (tmp_path / "elsewhere").exists()


def test_the_doctor_looks_at_what_a_service_needs(goodparts: Run, lone: Running, tmp_path: Path) -> None:
    port = lone.address.rsplit(":", 1)[1]
    ran = goodparts(
        "doctor", "--server", "--data", lone.service.settings.data, "--port", free_port(), "--json"
    )
    assert ran.code == 0, ran.out
    found = {row["name"]: row for row in ran.records}
    assert found["port"]["status"] == found["database"]["status"] == "ok"
    assert "a safe write takes" in found["folder of the history"]["value"]
    ran = goodparts("doctor", "--server", "--data", tmp_path, "--port", port, "--json")
    assert (ran.code, ran.records[0]["status"]) == (2, "error")
    assert "not made yet" in ran.records[-1]["value"]
    ran = goodparts("doctor", "--server", "--database", "postgresql://x@127.0.0.1:1/x", "--json")
    assert (ran.code, "can't be used" in ran.records[-1]["value"]) == (2, True)
    assert list(tmp_path.glob("*.sqlite")) == []


def test_with_a_certificate_all_is_encrypted(fitted_file: Path, tmp_path: Path, good_png: bytes) -> None:
    certificate, key = self_signed(tmp_path)
    settings = settings_for(fitted_file, tmp_path / "h", certificate=str(certificate), key=str(key))
    with running(settings) as live:
        address = live.address.replace("http:", "https:").replace("127.0.0.1", "localhost")
        with Client(address, live.token, certificate=certificate) as client:
            assert client.inspect("disc", good_png).verdict == "GOOD"
            answer = client._http.post("/api/v1/login", json={"account": "admin", "password": live.password})
        assert "Secure" in answer.headers["set-cookie"]
        assert "strict-transport-security" in answer.headers
        with (
            Client(address, live.token, patience=0) as client,
            pytest.raises(ServiceError, match="reached"),
        ):
            client.models()


def self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "c.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "k.pem").write_bytes(private)
    return folder / "c.pem", folder / "k.pem"


# ---- a ZIP while it is sent --------------------------------------------------------------------------


def test_a_streamed_zip_is_read_by_others(tmp_path: Path) -> None:
    members: list[tuple[str, list[bytes]]] = [
        (f"f/{number} ü.bin", [os.urandom(50)] * 3) for number in range(300)
    ]
    members += [("empty", []), ("big", [b"x" * 1_000_000] * 3)]
    path = tmp_path / "a.zip"
    path.write_bytes(b"".join(stream_zip(iter(members))))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [name for name, _ in members]
        assert all(archive.read(name) == b"".join(pieces) for name, pieces in members)
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-t", path], capture_output=True, text=True)
    assert listed.returncode == 0


def test_a_streamed_zip_takes_members_one_by_one_and_no_memory() -> None:
    taken = 0

    def members() -> Iterator[tuple[str, Iterator[bytes]]]:
        nonlocal taken
        for number in range(1000):
            taken = number
            yield str(number), iter([b"x"])

    stream: Any = stream_zip(members())
    for _ in range(10):
        next(stream)
    assert taken < 10
    size = sum(map(len, stream))
    assert size > 1000 * 50
    assert zipfile.ZipFile(io.BytesIO(b"".join(stream_zip(iter([]))))).namelist() == []
