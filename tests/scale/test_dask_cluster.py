"""A Dask cluster that runs already: a scheduler and workers started by hand, as on several machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from goodparts.errors import GoodpartsError
from goodparts.scale import dask_cluster
from goodparts.scale.executor import Job, WorkerDiedError
from goodparts.scale.places import open_place

SETTINGS = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    process = subprocess.Popen(
        command, env=os.environ | SETTINGS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def worker(file: Path, folder: Path) -> contextmanager[subprocess.Popen[bytes]]:  # type: ignore[type-arg]
    return started(
        "worker", "--scheduler-file", file, "--nthreads", 1, "--no-dashboard", "--local-directory", folder
    )


def test_workers_come_and_die_and_the_scheduler_goes(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            started(
                "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file
            )
        )
        until = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        place = stack.enter_context(open_place(f"dask:{address}"))
        assert place.workers is None
        assert place.memory_limit == 0
        run = place.run(
            [Job(str(n), partial(pow, n, 2)) for n in range(20)] + [Job("gone", partial(os._exit, 3))]
        )
        stack.enter_context(worker(file, tmp_path / "one"))
        _, found = next(run)
        assert found == 0
        stack.enter_context(worker(file, tmp_path / "two"))
        rest = {job.name: found for job, found in run}
        assert {name: found for name, found in rest.items() if name != "gone"} == {
            str(n): n**2 for n in range(1, 20)
        }
        assert isinstance(rest["gone"], WorkerDiedError)

        run = place.run([Job("long", partial(time.sleep, 20)), Job("short", os.getpid)])
        assert next(run)[0].name == "short"
        scheduler.kill()
        with pytest.raises(GoodpartsError, match=r"start .*the same command again"):
            next(run)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "_START", 0.2)
    with pytest.raises(GoodpartsError, match=r"--on dask:tcp://127\.0\.0\.1:1: no scheduler answers there"):
        open_place("dask:tcp://127.0.0.1:1")


def test_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(GoodpartsError, match=r"pip install 'goodparts\[cluster\]'"):
        open_place("dask:local:1", memory=2**30)
