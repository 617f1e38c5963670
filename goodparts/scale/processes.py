"""Categories side by side, each in a process of its own on its share of the cores.

Processes are spawned, as Windows does it. Each sends its row through a pipe; the parent alone writes. An interrupt
reaches all of them: each stops where it is, removes its temporary files and ends.
"""

from __future__ import annotations

import io
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import psutil  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

from goodparts.benchmark.row import Row, Settings, Task, measure
from goodparts.data.images import image_size
from goodparts.errors import GoodpartsError, ImageError

GRACE = 10.0  # seconds that a process has to end
PROGRAM = 2**29  # bytes: interpreter, engine and backbone


@dataclass(frozen=True)
class _Running:
    task: Task
    process: SpawnProcess
    slot: int
    memory: int


def measure_side_by_side(
    tasks: list[Task], settings: Settings, progress: Callable[[str, int, int], None]
) -> Generator[tuple[Task, Row], None, None]:
    """Yield every task with its row, in the order they are finished.

    At most `settings.jobs` run at a time, and no more than fit into the memory that is free at the start; one always
    does. A process that dies gives a row with its error.

    Raises:
        BackboneError, RecipeError: no category could be measured.
    """
    waiting = deque(tasks)
    running: dict[Connection, _Running] = {}
    free = psutil.virtual_memory().available
    done = 0
    progress("categories", done, len(tasks))
    try:
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                needed = memory_needed(waiting[0], settings)
                if running and needed + sum(each.memory for each in running.values()) > free:
                    break
                slot = min(set(range(settings.jobs)) - {each.slot for each in running.values()})
                connection, process = _start(waiting[0], settings, slot)
                running[connection] = _Running(waiting.popleft(), process, slot, needed)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                ended = running.pop(ready)
                message = _receive(ready, ended)
                ready.close()
                ended.process.join()
                if isinstance(message, GoodpartsError):
                    raise message
                done += 1
                progress("categories", done, len(tasks))
                yield ended.task, message
    finally:
        _stop([each.process for each in running.values()])


def memory_needed(task: Task, settings: Settings) -> int:
    """Bytes that a process takes at most, roughly: features, and the pixel metrics' values of all test images."""
    try:
        width, height, _ = image_size(task.data.test[0].path)
    except ImageError:  # told when it is inspected
        width = height = 0
    values = 4 * width * height * len(task.data.test)  # float32, and a sorted copy and its parts meanwhile
    return PROGRAM + int(1.5 * settings.recipe.memory_limit * 2**30) + 3 * values


def _start(task: Task, settings: Settings, slot: int) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(theirs, task, settings, slot), name=f"goodparts {task.category.name}", daemon=True
    )
    process.start()
    theirs.close()  # so that the pipe ends when the process does
    return ours, process


def _receive(connection: Connection, running: _Running) -> Row | GoodpartsError:
    """The row that a process sent, or the error that stops everything."""
    try:
        message: Row | GoodpartsError = connection.recv()
    except (EOFError, OSError):
        running.process.join(GRACE)
        category = running.task.category
        return Row(
            category.name,
            category.layout.name,
            error=f"its process ended early with exit code {running.process.exitcode}; if memory ran out, "
            "take fewer --jobs",
        )
    return message


def _stop(processes: list[SpawnProcess]) -> None:
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


def _work(connection: Connection, task: Task, settings: Settings, slot: int) -> None:
    _interrupt_once()
    try:
        _take_share(slot, settings.jobs)
        try:
            with threadpool_limits(limits=settings.workers):
                connection.send(measure(task, settings, lambda stage, done, total: None))
        except GoodpartsError as error:
            connection.send(error)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        connection.close()


def _interrupt_once() -> None:
    """The first signal to stop unwinds this process, in silence; any further one must not disturb that."""
    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            sys.stderr = io.StringIO()
            raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _take_share(slot: int, jobs: int) -> None:
    """Keep to the cores of this slot, where the system lets a process choose (not on macOS)."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        cores = process.cpu_affinity()
        if len(cores) >= jobs:
            process.cpu_affinity(cores[slot::jobs])
