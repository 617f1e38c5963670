"""What a service will meet on this machine: its port, database, disk and clock, for `goodparts doctor --server`."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from goodparts.server.settings import GIB, Settings

_SLOW = 0.05  # seconds that a disk may take to have a page written safely
_CLOCK = 2.0  # seconds that two clocks may differ
_PACKAGES = (
    "alembic",
    "argon2",
    "fastapi",
    "httptools",
    "prometheus_client",
    "python_multipart",
    "sqlalchemy",
    "uvicorn",
)


class Check(NamedTuple):
    """One thing that was looked at; as a row of the doctor."""

    name: str
    value: str
    status: Literal["ok", "note", "warning", "error"] = "ok"
    advice: str = ""


def missing_packages() -> list[str]:
    """What the service needs and is not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def examine(settings: Settings) -> list[Check]:
    """Look at everything that a service with these settings depends on; nothing is made or changed."""
    if missing := missing_packages():
        advice = "pip install 'goodparts[server]'"
        return [Check("service's packages", f"missing: {', '.join(missing)}", "error", advice)]
    return [*_models(settings), *_port(settings), *_disk(settings), *_database(settings), *_network(settings)]


def _models(settings: Settings) -> Iterator[Check]:
    for path in map(Path, settings.models):
        if not path.exists():
            yield Check(
                f"model {path.name}", f"{path}: not there", "error", "give the path of a .goodparts file"
            )


def _port(settings: Settings) -> Iterator[Check]:
    place = f"{settings.host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((settings.host, settings.port))
    except OSError as error:
        advice = "stop what listens there (a service that runs already?), or give another --port"
        yield Check("port", f"{place}: can't be listened at ({error.strerror or error})", "error", advice)
    else:
        yield Check("port", f"{place}: free")


def _disk(settings: Settings) -> Iterator[Check]:
    folder = settings.folder.absolute()
    present = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=present) as stream:
            began = time.perf_counter()
            for _ in range(5):
                stream.write(b"\0" * 4096)
                stream.flush()
                os.fsync(stream.fileno())
            seconds = (time.perf_counter() - began) / 5
            drift = abs(time.time() - os.fstat(stream.fileno()).st_mtime)
    except OSError as error:
        advice = "give a --data folder that this user may write to"
        yield Check(
            "folder of the history", f"{folder}: can't be written ({error.strerror})", "error", advice
        )
        return
    free = shutil.disk_usage(present).free
    value = f"{folder}, {free / GIB:.1f} GiB free, a safe write takes {1000 * seconds:.1f} ms"
    if free < settings.least_free:
        advice = "free some space, or give another --data or a smaller --least-free: images are not kept below that"
        yield Check("folder of the history", value, "warning", advice)
    elif seconds > _SLOW:
        advice = "every answer waits for one; take a local disk, or --durability buffered if losing seconds is fine"
        yield Check("folder of the history", value, "warning", advice)
    else:
        yield Check("folder of the history", value)
    if drift > _CLOCK:
        advice = "set both clocks by NTP: the history is sorted by time"
        yield Check("clock of the disk", f"{drift:.0f} s off this machine's", "warning", advice)


def _database(settings: Settings) -> Iterator[Check]:
    from contextlib import closing

    from sqlalchemy import text

    from goodparts.server.history.database import LATEST, DatabaseError, open_database, revision

    try:
        with closing(open_database(settings.database, settings.folder)) as database:
            found = revision(database)
            if found is None:
                yield Check("database", f"{database.shown}: not made yet")
                return
            if found != LATEST:
                newer = found > LATEST
                advice = "install the version that wrote it" if newer else "goodparts server migrate"
                value = f"{database.shown}: at step {found}, this version needs {LATEST}"
                yield Check("database", value, "error" if newer or database.path is None else "note", advice)
                return
            yield Check("database", f"{database.shown}: step {found}")
            if database.path is None:
                with database.read() as connection:
                    there = connection.execute(
                        text("SELECT extract(epoch FROM clock_timestamp())")
                    ).scalar_one()
                if (off := abs(time.time() - float(there))) > _CLOCK:
                    advice = "set both clocks by NTP: the history is sorted by time"
                    yield Check("clock of the database", f"{off:.0f} s off this machine's", "warning", advice)
    except DatabaseError as error:
        yield Check("database", str(error), "error", "start it, or correct --database")


def _network(settings: Settings) -> Iterator[Check]:
    if not settings.login:
        yield Check("log-in", "none is asked for: whoever uses this machine may do everything", "note")
    elif not settings.loopback and settings.certificate is None and settings.trusted_proxy is None:
        advice = "give --certificate and --key, or put a reverse proxy before it"
        yield Check("network", "passwords and tokens would cross it unencrypted", "warning", advice)
