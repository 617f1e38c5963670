"""Feeding: work on many images side by side, results in order, memory bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Threads that keep the engine busy: one request a core, and one more that decodes meanwhile."""
    return cores() + 1


@contextmanager
def small_products() -> Iterator[None]:
    """NumPy's matrix products run in the calling thread.

    For the small ones made for every image: OpenBLAS's own threads, shared by several callers, make them up to fifty
    times slower on a busy machine.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def ordered(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`map` with threads: results in the order of the items, at most 2 x workers of them in the air.

    The first error of `function` is raised where its result would have come; what had not begun is cancelled. The
    same holds when the caller stops early (an interrupt, or a generator that is closed).
    """
    with small_products():
        if workers <= 1:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="goodparts")
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
