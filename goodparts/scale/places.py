"""Where jobs run, as a command line names it: `processes:4`, `dask:local:4`, `dask:tcp://scheduler:8786`."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Protocol

import psutil  # type: ignore[import-untyped]

from goodparts.errors import GoodpartsError
from goodparts.parallel import cores
from goodparts.scale.executor import Executor

_SPELLED = re.compile(r"(?P<kind>processes|dask:local)(:(?P<count>[1-9][0-9]{0,3}))?")
_EXPECTED = "processes, processes:N, dask:local, dask:local:N or dask:tcp://HOST:PORT"
_LEAST = 2**30  # bytes that a worker needs, roughly
CORES_PER_WORKER = 4  # by default; its threads keep them busy, and share what is loaded


class Place(Executor, AbstractContextManager["Place"], Protocol):
    """An executor whose workers stay until its `with` block ends.

    Attributes:
        memory_limit: bytes that each worker may take; 0: nobody here has set a limit.
    """

    memory_limit: int


def open_place(on: str, *, memory: int | None = None, gpu_per_worker: bool = False) -> Place:
    """The executor of this name.

    Args:
        on: where; a number of workers that is left out is one for every 4 cores, as far as memory goes.
        memory: bytes of each worker; None: its share of what is free now.
        gpu_per_worker: whether each worker sees one GPU, that of its number.

    Raises:
        GoodpartsError: no such place, more than there is room for, or Dask is not installed or not there.
    """
    if on.startswith(("dask:tcp://", "dask:tls://", "dask:ws://", "dask:wss://")):
        if gpu_per_worker or memory is not None:
            raise GoodpartsError(
                f"--on {on}: GPU and memory of workers that run already are set where they are started "
                "(`dask worker --memory-limit`, CUDA_VISIBLE_DEVICES); leave out --gpu-per-worker and "
                "--memory-per-worker"
            )
        from goodparts.scale.dask_cluster import DaskCluster

        return DaskCluster.connect(on.removeprefix("dask:"))
    spelled = _SPELLED.fullmatch(on)
    if spelled is None:
        raise GoodpartsError(f"--on {on}: unknown; expected {_EXPECTED}")
    free = psutil.virtual_memory().available
    room = max(1, free // max(_LEAST, memory or 0))
    count = int(spelled["count"] or 0) or min(max(1, cores() // CORES_PER_WORKER), room)
    limit = memory if memory is not None else free // count
    if limit * count > free or limit < _LEAST // 2:
        raise GoodpartsError(
            f"--on {on}: {count} workers of {limit / 2**30:.1f} GiB don't go into the {free / 2**30:.1f} GiB that are "
            f"free; take {room} or fewer, or other --memory-per-worker"
        )
    if spelled["kind"] == "processes":
        from goodparts.scale.pool import WorkerPool

        return WorkerPool(count, memory_limit=limit, gpu_per_worker=gpu_per_worker)
    from goodparts.scale.dask_cluster import DaskCluster

    return DaskCluster.local(count, memory_limit=limit, gpu_per_worker=gpu_per_worker)
