"""Jobs in processes that stay, and on a Dask cluster: what they come to, who dies, and who goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import psutil
import pytest

from goodparts.errors import GoodpartsError, RecipeError
from goodparts.scale import places
from goodparts.scale.executor import Job, WorkerDiedError
from goodparts.scale.places import Place, open_place
from goodparts.scale.pool import WorkerPool
from goodparts.scale.waiting import Waiting

GIB = 2**30


def refuse(message: str) -> None:
    raise RecipeError(message)


def grow(size: int) -> int:
    """Take memory that stays; the number of the process."""
    globals().setdefault("taken", []).append(b"1" * size)
    return os.getpid()


@pytest.fixture(scope="module", params=["processes:2", "dask:local:2"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with open_place(request.param, memory=GIB) as opened:
        yield opened


def test_results_errors_and_deaths_come_back_as_jobs_finish(place: Place) -> None:
    jobs: list[Job[object]] = [
        Job("product", partial(pow, 2, 10)),
        Job("refused", partial(refuse, "layers: none")),
        Job("fault", partial(divmod, 1, 0)),
        Job("gone", partial(os._exit, 3)),
        *(Job(f"later {number}", partial(pow, number, 2)) for number in range(8)),
    ]
    found = {job.name: what for job, what in place.run(jobs)}
    assert found["product"] == 1024
    assert isinstance(found["refused"], RecipeError)
    assert str(found["refused"]) == "layers: none"
    assert isinstance(found["fault"], ZeroDivisionError)
    assert isinstance(found["gone"], WorkerDiedError)
    assert "ended early" in str(found["gone"])
    assert [found[f"later {number}"] for number in range(8)] == [number**2 for number in range(8)]


def test_the_processes_stay_from_one_run_to_the_next(place: Place) -> None:
    jobs = [Job(str(number), os.getpid) for number in range(6)]
    first, second = ({found for _, found in place.run(jobs)} for _ in range(2))
    assert os.getpid() not in first | second
    assert len(first | second) <= 2


def test_no_job_is_no_work(place: Place) -> None:
    assert list(place.run([])) == []


def test_whoever_stops_early_ends_what_is_running() -> None:
    with WorkerPool(2) as pool:
        jobs = [Job("short", os.getpid), *(Job("long", partial(time.sleep, 600)) for _ in range(2))]
        with closing(pool.run(jobs)) as finished:
            job, _ = next(finished)
            assert job.name == "short"
            workers = [worker.process.pid for worker in pool._workers.values()]
        assert [found for _, found in pool.run([Job("after", partial(pow, 3, 2))])] == [9]
    assert workers
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_a_process_that_has_too_much_memory_makes_room_for_another() -> None:
    with WorkerPool(1, memory_limit=200 * 2**20) as pool:
        small = [found for _, found in pool.run([Job(str(n), partial(grow, 1000)) for n in range(2)])]
        large = [found for _, found in pool.run([Job(str(n), partial(grow, 300 * 2**20)) for n in range(2)])]
    assert len(set(small)) == 1
    assert large[0] == small[0]
    assert large[1] != large[0]


@pytest.mark.parametrize(
    ("last", "busy", "expected"),
    [
        ("b", {"a"}, "b1"),  # like its last
        (None, set(), "a1"),  # the first kind that nobody is working on
        (None, {"a"}, "b1"),
        ("gone", {"a", "b", "c"}, "c1"),  # the kind that has most left
    ],
)
def test_who_gets_which_job(last: str | None, busy: set[str], expected: str) -> None:
    names = ["a1", "a2", "b1", "c1", "c2", "c3"]
    waiting = Waiting([Job(name, int, affinity=name[0]) for name in names])
    assert waiting.take(last, busy).name == expected
    while waiting:
        waiting.take(None)


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("threads", "--on threads: unknown; expected processes"),
        ("processes:0", "unknown"),
        ("dask:10.0.0.5", "unknown"),
        ("processes:900", "900 workers of 1.0 GiB don't go into"),
        ("dask:tcp://10.0.0.5:8786", "leave out --gpu-per-worker"),
    ],
)
def test_places_that_are_none(on: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 16 * GIB})
    monkeypatch.setattr(places.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(GoodpartsError, match=words):
        open_place(on, memory=GIB)


def test_each_worker_sees_one_gpu_where_that_is_asked_for() -> None:
    with WorkerPool(2, gpu_per_worker=True) as pool:
        jobs = [Job(str(n), partial(_after, 0.2, "CUDA_VISIBLE_DEVICES")) for n in range(2)]
        assert sorted(str(found) for _, found in pool.run(jobs)) == ["0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def _after(seconds: float, name: str) -> str | None:
    time.sleep(seconds)
    return os.environ.get(name)
