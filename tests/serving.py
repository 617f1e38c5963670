"""A service that runs in this process, at a port of its own, and a PostgreSQL for it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from goodparts.server.run import make_server
from goodparts.server.service import Service, open_service
from goodparts.server.settings import Settings

UNPRIVILEGED = "nobody"
"""PostgreSQL does not run as root; whom it runs as then."""


_CONTEXT = ssl.create_default_context()  # made once: reading all certificates takes longer than most tests


@dataclass
class Running:
    """A service, and a way to ask it."""

    service: Service
    address: str
    password: str
    token: str
    _browsers: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)

    def http(self, token: str | None = None, **options: Any) -> httpx.Client:
        """Asks with a token; the first one (inspect, read) unless another is given, "" for none."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30, verify=_CONTEXT, **options)

    @contextmanager
    def login(self, name: str = "admin", password: str | None = None) -> Iterator[httpx.Client]:
        """A browser that is logged in, and sends the CSRF token; logged in once for all tests of a service."""
        if name not in self._browsers:
            with self.http("") as client:
                body = {"account": name, "password": password or self.password}
                answer = client.post("/api/v1/login", json=body)
                assert answer.status_code == 200, answer.text
                self._browsers[name] = (dict(client.cookies), answer.json()["csrf"])
        cookies, csrf = self._browsers[name]
        with self.http("", cookies=cookies) as client:
            client.headers["X-CSRF-Token"] = csrf
            yield client


def settings_for(model: Path, data: Path, url: str | None = None, **changes: Any) -> Settings:
    """Settings as tests want them: whatever is free on the disk, files looked at only when told."""
    defaults = {"least_free": 0, "reload_seconds": 0.0, "port": 0}
    given = {"models": (str(model),), "data": str(data), "database": url}
    return Settings(**{**defaults, **given, **changes})


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """A service that listens, until the block ends."""
    service = open_service(settings)
    server = thread = None
    try:
        service.start()
        listening = socket.socket(proto=socket.IPPROTO_TCP)  # else answers wait 40 ms for an ACK
        listening.bind(("127.0.0.1", 0))
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started)
        first = service.first
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Running(service, address, first.password if first else "", first.token if first else "")
    finally:
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join()
        service.close()


def wait_until(true: Any, seconds: float = 20) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Postgres:
    """A cluster of its own in a temporary folder, which can be killed and started again."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="goodparts-postgres-"))
        self.port = free_port()
        if os.geteuid() == 0:
            shutil.chown(self.folder, UNPRIVILEGED)
        self._databases = 0
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "goodparts", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        place = ["-D", self.folder / "data", "-k", self.folder, "-p", str(self.port)]
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*self._as_whom(), self._programs / "postgres", *place, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_until(self._answers)

    def kill(self) -> None:
        """Kill it as a power cut would: the postmaster, and with it all that serve."""
        self._postmaster().kill()
        self.process.wait()
        wait_until(lambda: not self._answers())

    def _postmaster(self) -> Any:
        """The process itself, below the one that gave up its rights where there is one."""
        import psutil

        number = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        return psutil.Process(number)

    def new_database(self) -> str:
        """An empty database; its URL."""
        import psycopg

        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return self._url(name)

    def close(self) -> None:
        """End it, and remove its folder."""
        self._postmaster().send_signal(signal.SIGINT)  # without waiting for those that are connected
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _url(self, name: str) -> str:
        return f"postgresql://goodparts@127.0.0.1:{self.port}/{name}"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._url("postgres"), connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as_whom(), self._programs / program, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    @staticmethod
    def _as_whom() -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={UNPRIVILEGED}", "--regid=nogroup", "--clear-groups"]


def postgres_programs() -> Path | None:
    """Where the programs of PostgreSQL are, if it is installed: the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).resolve().parent if path else None
