"""Jobs in processes: what they come to, how many run at a time, and how they end."""

from __future__ import annotations

import os
import time
from contextlib import closing
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest

from goodparts.errors import RecipeError
from goodparts.parallel import cores
from goodparts.scale import processes
from goodparts.scale.executor import Executor, Job, WorkerDiedError
from goodparts.scale.processes import Processes


def refuse(message: str) -> None:
    raise RecipeError(message)


def test_results_and_errors_come_back_as_jobs_finish() -> None:
    executor: Executor = Processes(2)
    jobs: list[Job[object]] = [
        Job("product", partial(pow, 2, 10)),
        Job("refused", partial(refuse, "layers: none")),
        Job("fault", partial(divmod, 1, 0)),
        Job("gone", partial(os._exit, 3)),
    ]
    found = {job.name: what for job, what in executor.run(jobs)}
    assert found["product"] == 1024
    assert isinstance(found["refused"], RecipeError)
    assert str(found["refused"]) == "layers: none"
    assert isinstance(found["fault"], ZeroDivisionError)
    assert isinstance(found["gone"], WorkerDiedError)
    assert found["gone"].exit_code == 3
    assert str(found["gone"]) == "its process ended early with exit code 3"


def test_no_job_is_no_process() -> None:
    assert list(Processes(3).run([])) == []


def test_the_cores_are_shared() -> None:
    assert Processes(1).workers == cores() + 1
    assert Processes(10**6).workers == 2


def test_whoever_stops_early_ends_what_is_running() -> None:
    jobs = [Job("short", os.getpid), *(Job("long", partial(time.sleep, 600)) for _ in range(2))]
    with closing(Processes(2).run(jobs)) as finished:
        job, _ = next(finished)
        assert job.name == "short"
        sleeping = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
        assert sleeping
        began = time.monotonic()
    assert time.monotonic() - began < 2 * processes.GRACE
    assert not any(each.is_running() for each in sleeping)


class FakeProcess:
    """Has ended."""

    exitcode = -9

    def join(self, timeout: float | None = None) -> None:
        pass

    def terminate(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False


@pytest.mark.parametrize(("needed", "most"), [(1, 3), (40, 2), (70, 1), (10**30, 1)])
def test_no_more_start_than_memory_allows(monkeypatch: pytest.MonkeyPatch, needed: int, most: int) -> None:
    running: list[int] = []
    peak = 0

    def start(job: Job[int], slot: int, slots: int, workers: int) -> tuple[Any, FakeProcess]:
        nonlocal peak
        assert slot not in running
        assert slots == 3
        running.append(slot)
        peak = max(peak, len(running))
        ours, theirs = Pipe(duplex=False)
        theirs.send(slot)
        theirs.close()
        return ours, FakeProcess()

    monkeypatch.setattr(processes, "_start", start)
    free = type("Memory", (), {"available": 100})
    monkeypatch.setattr(processes.psutil, "virtual_memory", lambda: free)

    jobs = [Job(name, Path.cwd, needed) for name in "abcdefg"]
    done = []
    for job, slot in Processes(3).run(jobs):
        running.remove(slot)
        done.append(job.name)

    assert sorted(done) == list("abcdefg")
    assert peak == most
