"""Parallel map: order, bounded work in the air, errors and interrupts."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import threads_at_work
from threadpoolctl import threadpool_info, threadpool_limits

from goodparts import parallel


class Ledger:
    """Counts what has been begun and what is still going on, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.begun: list[int] = []
        self.running = self.most_running = 0

    def __enter__(self) -> None:
        with self._lock:
            self.running += 1
            self.most_running = max(self.running, self.most_running)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.running -= 1

    def begin(self, item: int) -> None:
        with self._lock:
            self.begun.append(item)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_results_come_in_the_order_of_the_items(delays: list[int], workers: int) -> None:
    def work(item: tuple[int, int]) -> int:
        index, delay = item
        time.sleep(delay / 5000)
        return index

    assert list(parallel.parallel_map(work, enumerate(delays), workers=workers)) == list(range(len(delays)))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_caller_is_heard_while_a_result_is_awaited(workers: int) -> None:
    heard: list[tuple[int, threading.Thread]] = []
    steps, go = parallel.StepCounter(2 * workers), threading.Event()

    def work(item: int) -> int:
        steps.take()
        assert go.wait(timeout=20)
        return item

    def while_waiting() -> None:
        heard.append((steps.done, threading.current_thread()))
        if len(heard) == 3:
            go.set()

    items = list(range(2 * workers))
    assert list(parallel.parallel_map(work, items, workers=workers, while_waiting=while_waiting)) == items
    assert heard[2] == (workers, threading.current_thread())
    assert steps.done == steps.total


def test_items_are_worked_on_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=20)  # passed only by three at the same time
    results = list(parallel.parallel_map(lambda item: (meeting.wait(), item)[1], range(9), workers=3))
    assert results == list(range(9))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_more_than_twice_the_workers_are_in_the_air(workers: int) -> None:
    ledger = Ledger()
    taken = 0
    handed_out = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(40):
            taken += 1
            yield item

    def work(item: int) -> int:
        with ledger:
            time.sleep(0.0005)
            return item

    for result in parallel.parallel_map(work, items(), workers=workers):
        handed_out += 1
        assert result == handed_out - 1
        assert taken - handed_out < 2 * workers
    assert handed_out == 40
    assert ledger.most_running <= workers


def test_nothing_begins_before_it_is_asked_for() -> None:
    ledger = Ledger()
    results = parallel.parallel_map(ledger.begin, range(5), workers=2)
    time.sleep(0.01)
    assert ledger.begun == []
    next(results)
    assert ledger.begun
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_comes_in_its_place_and_stops_the_rest(workers: int) -> None:
    ledger = Ledger()

    def work(item: int) -> int:
        ledger.begin(item)
        if item in (5, 7):
            raise KeyError(item)
        return item

    results = parallel.parallel_map(work, range(1000), workers=workers)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError, match="5"):
        next(results)
    assert max(ledger.begun) < 5 + 2 * workers
    assert list(results) == []
    assert threads_at_work() == 0


def test_what_waits_when_an_error_comes_is_never_begun() -> None:
    ledger = Ledger()

    def work(item: int) -> None:
        ledger.begin(item)
        if item == 0:
            raise KeyError(item)
        time.sleep(0.3)  # both workers are busy with 1 and 2 while 3 waits

    with pytest.raises(KeyError):
        list(parallel.parallel_map(work, range(10), workers=2))
    assert sorted(ledger.begun) in ([0, 1], [0, 1, 2])


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_among_the_items_comes_through(workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(20)
        raise OSError("the disk is gone")

    results = []
    with pytest.raises(OSError, match="the disk is gone"):
        results.extend(parallel.parallel_map(abs, items(), workers=workers))
    assert threads_at_work() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_a_caller_that_stops_early_stops_the_work(workers: int) -> None:
    ledger = Ledger()

    def work(item: int) -> int:
        ledger.begin(item)
        return item

    results = parallel.parallel_map(work, range(1000), workers=workers)
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    begun = len(ledger.begun)
    assert begun <= 2 + 2 * workers
    assert threads_at_work() == 0
    time.sleep(0.01)
    assert len(ledger.begun) == begun


def test_an_interrupt_stops_the_work() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(parallel.parallel_map(work, range(100), workers=2))
    assert threads_at_work() == 0


def test_calls_beside_the_caller_come_in_order_and_end_with_the_block() -> None:
    begun, goes_on, running = threading.Event(), threading.Event(), 0
    order: list[int] = []

    def slow(item: int) -> int:
        nonlocal running
        running += 1
        order.append(item)
        if item == 2:
            begun.set()
            assert goes_on.wait(10)
        running -= 1
        return item * item

    with parallel.beside(slow, range(9)) as made:
        assert made[1].result() == 1
        assert begun.wait(10)
        threading.Timer(0.1, goes_on.set).start()
    assert running == 0
    assert order[:3] == [0, 1, 2]
    assert made[2].result() == 4
    with pytest.raises(CancelledError):
        made[8].result()


def test_threads_stay_for_the_next_work_and_a_call_may_have_threads_of_its_own() -> None:
    def inner(item: int) -> int:
        return sum(parallel.parallel_map(abs, range(item), workers=2))

    expected = [sum(range(item)) for item in range(20)]
    assert list(parallel.parallel_map(inner, range(20), workers=2)) == expected
    before = threading.active_count()
    for _ in range(5):
        assert list(parallel.parallel_map(inner, range(20), workers=2)) == expected
    assert threading.active_count() <= before + 2


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_blas_threads() -> Iterator[None]:
    """The process has two threads for matrix products, however many cores there are."""
    with threadpool_limits(2, "blas"):
        yield


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_matrix_products_of_a_call_stay_in_its_thread(workers: int) -> None:
    seen = list(parallel.parallel_map(lambda _: blas_threads(), range(4), workers=workers))
    assert seen == [{1}] * 4
    assert blas_threads() == {2}
    with parallel.small_products():
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_the_first_to_come_may_leave_before_the_last() -> None:
    first, second = parallel.small_products(), parallel.small_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_many_threads_come_and_go_and_none_sees_another_limit() -> None:
    seen = []

    def come_and_go(_: int) -> None:
        for _ in range(20):
            with parallel.small_products():
                seen.append(blas_threads())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert seen == [{1}] * 160
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_caller_between_two_results_has_its_own_threads(workers: int) -> None:
    one, other = (parallel.parallel_map(abs, range(20), workers=workers) for _ in range(2))
    next(one), next(other)
    time.sleep(0.05)  # what was begun is done
    assert blas_threads() == {2}
    one.close()
    other.close()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_a_limit_that_somebody_else_sets_meanwhile_stays() -> None:
    with parallel.small_products():
        threadpool_limits(3, "blas")
    assert blas_threads() == {3}


def test_nobody_waits_for_a_thread_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    caller, slow = threading.get_ident(), threading.Event()

    def part(item: int) -> int:
        if item == 19:
            slow.set()
        elif threading.get_ident() != caller:
            slow.wait(10)
        return threading.get_ident()

    threads = parallel.on_all_cores(part, range(20))
    assert threads.count(caller) >= 19


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux tells where threads are")
def test_threads_beside_the_caller_are_kept_off_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        pytest.skip("there is one core")
    together = threading.Barrier(2)

    def where(_: int) -> tuple[int, set[int]]:
        together.wait(10)
        return threading.get_ident(), os.sched_getaffinity(0)

    monkeypatch.setattr(parallel, "cores", lambda: 2)
    for core in sorted(own)[:2]:
        monkeypatch.setattr(parallel, "_current_core", lambda core=core: core)
        parallel.on_all_cores(where, range(2))  # may have to start threads
        found = dict(parallel.on_all_cores(where, range(2)))
        assert found.pop(threading.get_ident()) == own
        assert list(found.values()) == [own - {core}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_child_has_threads_of_its_own_for_parts() -> None:
    script = """
import os, threading
from goodparts import parallel
parallel.cores = lambda: 2
def both():
    together = threading.Barrier(2)
    return parallel.on_all_cores(lambda item: together.wait(10) * 0 + item, range(2))
both()
child = os.fork()
if not child:
    os._exit(0 if both() == [0, 1] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_child_process_has_the_limit_of_the_thread_that_forked() -> None:
    """In a process of its own: what follows a fork among threads is not what other tests should run in."""
    script = """
import os, threading
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from goodparts import parallel

def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def hold():
    with parallel.small_products():
        inside.set()
        done.wait()

threadpool_limits(2, "blas")
inside, done = threading.Event(), threading.Event()
other = threading.Thread(target=hold)
other.start()
inside.wait()
with parallel._BLAS._lock if CHILD_FINDS_IT_LOCKED else done._cond:
    child = os.fork()
if child == 0:
    outside = blas_threads()
    with parallel.small_products():
        within = blas_threads()
    os._exit(0 if (outside, within, blas_threads()) == ([2], [1], [2]) else 3)
done.set()
other.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert blas_threads() == [2]
"""
    for locked in (False, True):
        source = script.replace("CHILD_FINDS_IT_LOCKED", str(locked))
        subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, timeout=60)


@pytest.mark.parametrize("items", [0, 1, 2, 9])
def test_parts_of_one_image_come_in_order_from_all_cores(items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    threads = set()

    def square(item: int) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return item**2

    assert parallel.on_all_cores(square, range(items)) == [item**2 for item in range(items)]
    assert len(threads) == min(items, 3)


def test_in_a_thread_of_parallel_map_parts_stay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)

    def parts(_: int) -> set[int]:
        return {threading.get_ident(), *parallel.on_all_cores(lambda _: threading.get_ident(), range(5))}

    assert [len(found) for found in parallel.parallel_map(parts, range(4), workers=2)] == [1] * 4


def test_one_image_at_a_time_takes_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    together = threading.Barrier(6)

    def threads_of_parts(_: int) -> int:
        def part(_: int) -> int:
            time.sleep(0.02)
            return threading.get_ident()

        together.wait(10)
        return len(set(parallel.on_all_cores(part, range(8))))

    before = threading.active_count()
    with ThreadPoolExecutor(6, thread_name_prefix="of-somebody") as pool:
        found = sorted(pool.map(threads_of_parts, range(6)))
    assert found[:5] == [1] * 5
    assert 1 < found[5] <= 4
    assert threading.active_count() <= before + 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_child_finds_locks_free() -> None:
    script = """
import os
from goodparts.parallel import ForkedLock
lock = ForkedLock()
lock.acquire()
child = os.fork()
if not child:
    os._exit(0 if lock.acquire(blocking=False) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or int(lock.acquire(blocking=False)))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("wrong", [0, 1, 4])
def test_an_error_of_a_part_is_raised_when_no_part_is_running_any_more(
    wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    running = Ledger()

    def work(item: int) -> None:
        with running:
            time.sleep(0.01)
            if item == wrong:
                raise ValueError(str(item))

    with pytest.raises(ValueError, match=str(wrong)):
        parallel.on_all_cores(work, range(5))
    assert running.running == 0


def test_of_several_errors_that_of_the_first_part_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)

    def work(item: int) -> None:
        time.sleep(0.02 - 0.01 * (item % 2))
        raise ValueError(f"part {item}")

    with pytest.raises(ValueError, match="part 0"):
        parallel.on_all_cores(work, range(6))


def test_after_an_error_no_further_part_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        if item < 2:
            raise OSError(str(item))

    with pytest.raises(OSError, match="0"):
        parallel.on_all_cores(work, range(100))
    assert len(begun) <= 3


@pytest.mark.parametrize(
    ("who_has_them", "long", "helped"),
    [("_IMAGE", False, False), ("_IMAGE", True, True), ("_STAGE", False, False), ("_STAGE", True, False)],
)
def test_an_image_gives_way_to_a_stage_of_a_fit(
    who_has_them: str, long: bool, helped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)

    def part(_: int) -> int:
        time.sleep(0.02)
        return threading.get_ident()

    with getattr(parallel, who_has_them):
        found = set(parallel.on_all_cores(part, range(6), long=long))
    assert (len(found) > 1) == helped
    assert len(set(parallel.on_all_cores(part, range(6), long=long))) > 1


def test_an_interrupted_caller_makes_no_more_parts_and_hides_no_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    caller, running, begun = threading.get_ident(), Ledger(), []
    helped = threading.Event()

    def work(item: int) -> None:
        with running:
            begun.append(item)
            if threading.get_ident() != caller:
                helped.set()
                time.sleep(0.05)
                raise ValueError("of a helper")
            assert helped.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parallel.on_all_cores(work, range(20))
    assert running.running == 0
    assert len(begun) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_who_is_interrupted_while_waiting_for_a_part_waits_for_its_end() -> None:
    script = """
import os, signal, threading, time
from goodparts import parallel
parallel.cores = lambda: 2
caller, helped, running = threading.get_ident(), threading.Event(), []
def work(_):
    if threading.get_ident() == caller:
        assert helped.wait(10)
        return
    running.append(1)
    helped.set()
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    running.pop()
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    parallel.on_all_cores(work, range(2))
except KeyboardInterrupt:
    again = parallel.on_all_cores(lambda item: item, range(3))
    raise SystemExit(0 if not running and again == [0, 1, 2] else 1)
raise SystemExit(2)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_where_no_thread_can_be_started_the_caller_makes_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(parallel, "cores", lambda: 3)
    monkeypatch.setattr(parallel, "_CREW", parallel._Crew())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert parallel.on_all_cores(lambda _: threading.get_ident(), range(4)) == [threading.get_ident()] * 4


def test_an_error_of_a_part_keeps_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)

    class Image:
        pass

    def fail() -> weakref.ref[Image]:
        image = Image()

        def work(item: int) -> None:
            assert image
            if item == 1:
                raise MemoryError

        with suppress(MemoryError):
            parallel.on_all_cores(work, range(4))
        return weakref.ref(image)

    gc.disable()
    try:
        kept = fail()
        for _ in range(100):  # a helper may still be on its way out
            if kept() is None:
                break
            time.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()


def test_there_are_two_workers_more_than_cores() -> None:
    assert 1 <= parallel.cores() <= (os.cpu_count() or 1)
    assert parallel.default_workers() == parallel.cores() + 2
