"""Jobs side by side in processes that stay: each takes job after job, and keeps what it has loaded for the next.

Results come back one at a time and go to whoever asked before more is begun, so none are gathered. A process that dies
costs the job that it had; another takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Self

from threadpoolctl import threadpool_limits

from goodparts.parallel import cores
from goodparts.scale.executor import Job, Result
from goodparts.scale.memory import resident_memory
from goodparts.scale.processes import interrupt_once, receive, stop, take_share
from goodparts.scale.waiting import Waiting


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    slot: int
    job: Job[Any] | None = None
    last: str | None = None


class WorkerPool:
    """An `Executor` on this machine whose processes stay until `close`, or the end of a `with` block.

    Args:
        at_once: processes.
        memory_limit: bytes; a process that has more after a job ends, and a new one takes its place. 0: no limit.
        gpu_per_worker: whether each process sees one GPU, that of its number.
    """

    def __init__(self, at_once: int, *, memory_limit: int = 0, gpu_per_worker: bool = False) -> None:
        self.at_once = at_once
        self.memory_limit = memory_limit
        self.gpu_per_worker = gpu_per_worker
        self._workers: dict[Connection, _Worker] = {}

    @property
    def workers(self) -> int:
        """One thread for each core of a job's share, and one that decodes meanwhile."""
        return max(1, cores() // self.at_once) + 1

    def run(
        self, jobs: Sequence[Job[Result]]
    ) -> Generator[tuple[Job[Result], Result | Exception], None, None]:
        """Yield every job with its result or error, as they finish."""
        waiting = Waiting(jobs)
        running = 0
        try:
            while waiting or running:
                running += self._hand_out(waiting)
                for ready in wait(list(self._workers)):
                    assert isinstance(ready, Connection)
                    worker = self._workers[ready]
                    received = receive(ready, worker.process)
                    found, leaving = received if isinstance(received, tuple) else (received, True)
                    job = worker.job
                    if leaving:
                        self._forget(ready)
                    if job is not None:
                        worker.job, worker.last = None, job.affinity
                        running += self._hand_out(waiting) - 1  # before the caller takes its time
                        yield job, found
        finally:
            busy = {end: worker for end, worker in self._workers.items() if worker.job is not None}
            for end in busy:
                del self._workers[end]
            stop([worker.process for worker in busy.values()])

    def close(self) -> None:
        """End all processes."""
        for end in self._workers:
            end.close()  # the end of their jobs
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.process.join(1)
        stop([worker.process for worker in workers if worker.process.is_alive()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hand_out(self, waiting: Waiting) -> int:
        """Give every idle process a job, and as many new ones as there may be; how many jobs were given."""
        given = 0
        while waiting:
            idle = [(end, worker) for end, worker in self._workers.items() if worker.job is None]
            if not idle and len(self._workers) >= self.at_once:
                break
            end, worker = idle[0] if idle else self._start()
            busy = {other.job.affinity for other in self._workers.values() if other.job is not None}
            job = waiting.take(worker.last, busy)
            worker.job = job
            given += 1
            try:
                end.send(job)
            except OSError:  # it has ended; `run` sees that
                continue
        return given

    def _start(self) -> tuple[Connection, _Worker]:
        slot = min(set(range(self.at_once)) - {worker.slot for worker in self._workers.values()})
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(theirs, slot, self.at_once, self.workers, self.memory_limit, self.gpu_per_worker),
            name=f"goodparts worker {slot}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers[ours] = _Worker(process, slot)
        return ours, self._workers[ours]

    def _forget(self, end: Connection) -> None:
        worker = self._workers.pop(end)
        end.close()
        worker.process.join()


# ---- in the process ------------------------------------------------------------------------------------


def see_one_gpu(slot: int) -> None:
    """Let this process see one GPU alone, before anything has looked for them."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(slot)
    os.environ.setdefault("GOODPARTS_DEVICE", "cuda")


def _work(
    connection: Connection, slot: int, slots: int, workers: int, memory_limit: int, gpu_per_worker: bool
) -> None:
    interrupt_once()
    try:
        take_share(slot, slots)
        if gpu_per_worker:
            see_one_gpu(slot)
        while True:
            job: Job[Any] = connection.recv()
            try:
                with threadpool_limits(limits=workers):
                    result = job.call()
            except Exception as error:  # whoever asked for the job decides what becomes of it
                result = error
            leaving = bool(memory_limit) and resident_memory() > memory_limit
            connection.send((result, leaving))
            if leaving:
                break
    except (EOFError, OSError):  # whoever hands out jobs is gone
        pass
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        connection.close()
