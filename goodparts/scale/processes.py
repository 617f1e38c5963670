"""Jobs side by side, each in a process of its own on its share of the cores.

Processes are spawned, as Windows does it. Each sends its result through a pipe. An interrupt reaches all of them: each
stops where it is, removes its temporary files and ends.
"""

from __future__ import annotations

import io
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic

import psutil  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

from goodparts.parallel import cores
from goodparts.scale.executor import Job, Result, WorkerDiedError

GRACE = 10.0  # seconds that a process has to end


@dataclass(frozen=True)
class _Running(Generic[Result]):
    job: Job[Result]
    process: SpawnProcess
    slot: int


class Processes:
    """An `Executor` on this machine.

    Args:
        at_once: jobs that run at a time at most.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    @property
    def workers(self) -> int:
        """One thread for each core of a job's share, and one that decodes meanwhile."""
        return max(1, cores() // self.at_once) + 1

    def run(
        self, jobs: Sequence[Job[Result]]
    ) -> Generator[tuple[Job[Result], Result | Exception], None, None]:
        """Yield every job with its result or error, as they finish; no more run than fit into memory free now."""
        waiting = deque(jobs)
        running: dict[Connection, _Running[Result]] = {}
        free = psutil.virtual_memory().available
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    needed = waiting[0].memory + sum(each.job.memory for each in running.values())
                    if running and needed > free:
                        break
                    slot = min(set(range(self.at_once)) - {each.slot for each in running.values()})
                    job = waiting.popleft()
                    connection, process = _start(job, slot, self.at_once, self.workers)
                    running[connection] = _Running(job, process, slot)
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    ended = running.pop(ready)
                    found = receive(ready, ended.process)
                    ready.close()
                    ended.process.join()
                    yield ended.job, found
        finally:
            stop([each.process for each in running.values()])


def _start(job: Job[Any], slot: int, slots: int, workers: int) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(theirs, job, slot, slots, workers), name=f"goodparts {job.name}", daemon=True
    )
    process.start()
    theirs.close()  # so that the pipe ends when the process does
    return ours, process


def receive(connection: Connection, process: SpawnProcess) -> Any:
    """What a process sent: the result of its job, or an exception."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        process.join(GRACE)
        return WorkerDiedError(process.exitcode)


def stop(processes: list[SpawnProcess]) -> None:
    """End the processes; each removes what it has half done, unless it takes longer than `GRACE` seconds."""
    for process in processes:
        if sys.platform == "win32":  # the console has told it, too, and there is no gentler way
            process.join(GRACE)
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


# ---- in the process ------------------------------------------------------------------------------------


def _work(connection: Connection, job: Job[Any], slot: int, slots: int, workers: int) -> None:
    interrupt_once()
    try:
        take_share(slot, slots)
        try:
            with threadpool_limits(limits=workers):
                connection.send(job.call())
        except Exception as error:  # whoever asked for the job decides what becomes of it
            connection.send(error)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        connection.close()


def interrupt_once() -> None:
    """The first signal to stop unwinds this process, in silence; any further one must not disturb that."""
    stopped = False

    def unwind(number: int, frame: Any) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            sys.stderr = io.StringIO()
            raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, unwind)


def take_share(slot: int, slots: int) -> None:
    """Keep to the cores of this slot, where the system lets a process choose (not on macOS)."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        allowed = process.cpu_affinity()
        if len(allowed) >= slots:
            process.cpu_affinity(allowed[slot::slots])
