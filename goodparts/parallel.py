"""Work on many images side by side: results in order, memory bounded."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from operator import itemgetter
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = 0.25  # seconds


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Threads that keep the engine busy: one request a core, and two more that decode meanwhile."""
    return cores() + 2


@contextmanager
def small_products() -> Iterator[None]:
    """NumPy's matrix products run in the calling thread.

    For the small ones made for every image: OpenBLAS's own threads, shared by several callers, make them up to fifty
    times slower on a busy machine, and round otherwise. Any number of threads may be inside; once all have left, the
    process has as many threads for products as before.
    """
    _BLAS.limit()
    try:
        yield
    finally:
        _BLAS.release()


class _BlasThreads:
    """How many threads BLAS libraries use, which is one setting for the whole process: one while anybody asks for that.

    Who comes first notes what the libraries had, who goes last gives it back; were each to do so, the one who came
    second would take the limit of the first for what there was. A library whose number was changed meanwhile by
    somebody else keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._of_thread = threading.local()  # how many of the users this thread is
        self._before: list[tuple[Any, int]] = []  # libraries that are limited, and what they had

    def limit(self) -> None:
        """One thread, until `release` was called as often as this."""
        with self._lock:
            self._users += 1
            self._of_thread.users = self._users_here + 1
            if self._users == 1:
                if not self._before:  # an interrupt may have kept the last one from giving it back
                    self._before = [(library, library.num_threads) for library in _blas_libraries()]
                for library, _ in self._before:
                    _set_threads(library, 1)

    def release(self) -> None:
        """Undo one `limit` of this thread."""
        with self._lock:
            self._users -= 1
            self._of_thread.users = self._users_here - 1
            self._restore_if_unused()

    def start_in_child(self) -> None:
        """After a fork: of all threads only this one is left, and whoever held the lock may be gone."""
        self._lock = threading.Lock()
        self._users = self._users_here
        self._restore_if_unused()

    @property
    def _users_here(self) -> int:
        return getattr(self._of_thread, "users", 0)

    def _restore_if_unused(self) -> None:
        if self._users:
            return
        for library, threads in self._before:
            if library.num_threads == 1:
                _set_threads(library, threads)
        self._before = []


@cache
def _blas_libraries() -> list[Any]:
    import numpy  # noqa: F401  # so that its library is there to be found
    from threadpoolctl import ThreadpoolController

    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def _set_threads(library: Any, count: int) -> None:
    """Set it from whatever thread: threadpoolctl ignores all but the first that ever did, without a word."""
    from threadpoolctl import OpenBLASController

    OpenBLASController.clear_controlling_thread(force=True)
    library.set_num_threads(count)
    OpenBLASController.clear_controlling_thread(force=True)


_BLAS = _BlasThreads()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_BLAS.start_in_child)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    while_waiting: Callable[[], object] | None = None,
) -> Generator[Result]:
    """`map` with threads: results in the order of the items, at most 2 x workers of them in the air.

    While a result is awaited `while_waiting` is called a few times a second, in the caller's thread.

    The first error of `function` is raised where its result would have come; what had not begun is cancelled. The
    same holds when the caller stops early (an interrupt, or a generator that is closed). When it ends, however it
    ends, no call of `function` is running any more.

    A call of `function` has `small_products`. Between calls, and while nobody asks the generator for more, the process
    has as many threads for products as it had.
    """
    if workers <= 1 and while_waiting is None:
        for item in items:
            with small_products():
                result = function(item)
            yield result
        return
    calls = _Calls()
    waiting: deque[Future[Result]] = deque()
    workers = max(1, workers)
    with _pool_of(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(calls.make, function, item))
                if len(waiting) >= 2 * workers:
                    yield _awaited(waiting.popleft(), while_waiting)
            while waiting:
                yield _awaited(waiting.popleft(), while_waiting)
        finally:
            for future in waiting:
                future.cancel()
            calls.end()


@contextmanager
def beside(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[dict[Item, Future[Result]]]:
    """Within, one thread calls a function for each item, in order; gives the future of each call by its item.

    However the block ends, no call is running any more and none begins: the future of one that had not begun raises
    CancelledError. A call has `small_products`.
    """
    calls = _Calls()
    with _pool_of(1) as pool:
        try:
            # The caller alone holds them: what he has done with is free.
            yield {item: pool.submit(calls.make, function, item) for item in items}
        finally:
            calls.end()


def on_all_cores(
    function: Callable[[Item], Result], items: Sequence[Item], *, long: bool = False
) -> list[Result]:
    """`map` on all cores: each thread takes the next item when it is done with one.

    For the parts of one image, or, `long`, of a stage of a fit. In a thread of `parallel_map` it stays in the calling
    thread; so do parts of an image while another one or a stage has all cores, and a stage while another has. However
    it ends, no call is running any more. After an error no further call begins; of several that of the first item is
    raised.
    """
    helpers = min(len(items) - 1, other_cores())
    lock = _STAGE if long else _IMAGE
    held = False
    try:
        held = helpers > 0 and (long or not _STAGE.locked) and lock.acquire(blocking=False)
        if not held:
            return [function(item) for item in items]
        return _Parts(function, items).results(helpers)
    finally:
        if held:
            lock.release()


def other_cores() -> int:
    """How many cores `on_all_cores` takes beside the caller's, if nobody else has them."""
    return 0 if threading.current_thread().name.startswith(_NAME) else cores() - 1


class _Parts(Generic[Item, Result]):
    """Calls that several threads share."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items
        self._next = itertools.count()  # of which no two threads get the same number
        self._made: SimpleQueue[_Made] = SimpleQueue()  # by others than the caller
        self._at_work: deque[None] = deque()  # one for each of them
        self._failed = False

    def help(self) -> None:
        """Make calls until none is left to begin."""
        self._at_work.append(None)
        while (index := next(self._next)) < len(self._items):
            self._made.put(self._make(index))
        self._at_work.pop()

    def results(self, helpers: int) -> list[Any]:
        """Work beside so many others: the results in order, or the first error."""
        by_others = len(self._items)
        made: list[_Made] = []
        try:
            _CREW.help_with(self, helpers)
            while (index := next(self._next)) < len(self._items):
                by_others -= 1
                made.append(self._make(index))
                _, _, error = made[-1]
                if error is not None and not isinstance(error, Exception):
                    raise error
            made += (self._made.get() for _ in range(by_others))
            made.sort(key=itemgetter(0))
            error = next((error for _, _, error in made if error is not None), None)
            if error is not None:
                raise error
            return [result for _, result, _ in made]
        except BaseException:  # an interrupt, or the error of a part
            while next(self._next) < len(self._items):
                pass  # nobody takes it any more
            while self._at_work:
                time.sleep(0.001)
            raise
        finally:
            made.clear()  # an error holds this frame: the frame must not hold the error
            error = None

    def _make(self, index: int) -> _Made:
        if self._failed:
            return index, None, None
        try:
            return index, self._function(self._items[index]), None
        except BaseException as error:
            self._failed = True
            return index, None, error


_Made = tuple[int, Any, BaseException | None]
"""What a call gave: of which item, its result, or its error."""


class _Crew:
    """Threads that wait to help with the parts of one image."""

    def __init__(self) -> None:
        self.start_in_child()

    def start_in_child(self) -> None:
        """After a fork, as at first, there are no threads."""
        self._asked: SimpleQueue[_Parts[Any, Any]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._placed: tuple[int, set[int]] | None = None  # off which core, on which

    def help_with(self, parts: _Parts[Any, Any], helpers: int) -> None:
        """Have so many threads work at them, beside this one; fewer where the system starts no more."""
        with suppress(RuntimeError):
            while len(self._threads) < helpers:
                thread = threading.Thread(target=self._help, name=f"{_NAME}-beside", daemon=True)
                thread.start()
                self._threads.append(thread)
                self._placed = None
        self._keep_off(_current_core())
        for _ in self._threads[:helpers]:
            self._asked.put(parts)

    def _help(self) -> None:
        while True:
            self._asked.get().help()

    def _keep_off(self, core: int | None) -> None:
        """Let them run on all cores but the caller's.

        Linux may wake a thread on the core of who wakes it though another is idle, as it does in virtual machines,
        whose idle cores look busy: the two would take turns.
        """
        if core is None:
            return
        wanted = core, os.sched_getaffinity(0) - {core}
        if wanted != self._placed and wanted[1]:
            self._placed = wanted
            for thread in self._threads:
                with suppress(OSError):  # where that is not allowed, it is slower
                    os.sched_setaffinity(thread.native_id or -1, wanted[1])


def _current_core() -> int | None:
    """The core on which this thread is, where the system tells."""
    ask = _asks_for_core()
    core = -1 if ask is None else ask()
    return None if core < 0 else core


@cache
def _asks_for_core() -> Callable[[], int] | None:
    """The C library's `sched_getcpu`; None where there is none."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    ask: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return ask


class ForkedLock:
    """A lock that a forked child finds free: whoever held it is not there."""

    def __init__(self) -> None:
        self.renew()
        _LOCKS.add(self)

    def renew(self) -> None:
        """Free it."""
        self._lock = threading.Lock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; False if it is not to be waited for, and somebody has it."""
        return self._lock.acquire(blocking)

    @property
    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._lock.locked()

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _renew_locks() -> None:
    for lock in _LOCKS:
        lock.renew()


_LOCKS: weakref.WeakSet[ForkedLock] = weakref.WeakSet()
_IMAGE, _STAGE = ForkedLock(), ForkedLock()  # held by who has all cores
_CREW = _Crew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
    os.register_at_fork(after_in_child=_CREW.start_in_child)
_NAME = "goodparts-worker"  # of threads of a pool
_IDLE: dict[int, list[ThreadPoolExecutor]] = {}  # pools that nobody uses, by their number of threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDLE.clear)  # where their threads are not


@contextmanager
def _pool_of(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, which stay for the next one who asks.

    An engine keeps something of each thread that used it, and a thread that ends gives it back when Python takes it for
    ended already: were the engine freed just then, both would free the same memory. An interrupt may leave a pool with
    a thread that it does not know, so such a pool ends.
    """
    idle = _IDLE.setdefault(workers, [])
    try:
        pool = idle.pop()  # of two threads that ask at the same time, one gets it
    except IndexError:
        pool = ThreadPoolExecutor(workers, thread_name_prefix=_NAME)
    try:
        yield pool
    except (KeyboardInterrupt, SystemExit):
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    except BaseException:
        idle.append(pool)
        raise
    idle.append(pool)


class StepCounter:
    """Counts the steps that several threads take, for progress that is told in one of them.

    Attributes:
        done: so many were taken.
        total: of so many.
    """

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self._lock = threading.Lock()

    def take(self) -> None:
        """One more; from any thread."""
        with self._lock:
            self.done += 1


def _awaited(future: Future[Result], while_waiting: Callable[[], object] | None) -> Result:
    while while_waiting is not None and not wait([future], timeout=_PATIENCE).done:
        while_waiting()
    return future.result()


class _Calls:
    """Counts the calls that are running, so that one can wait for the last of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._ended = False

    def make(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Call the function, unless it is over."""
        with self._changed:
            if self._ended:
                raise CancelledError
            self._running += 1
        try:
            with small_products():
                return function(item)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Let no further call begin, and wait for those that run."""
        with self._changed:
            self._ended = True
            while self._running:
                self._changed.wait()
