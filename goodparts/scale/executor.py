"""`Executor`: runs jobs side by side, wherever it has room, and gives what each came to.

A job is a callable that can be pickled, its name, and the memory that it takes; what it is about, nobody here knows.

    jobs = [Job(path.name, partial(measure, path), memory=2**30) for path in paths]
    for job, found in Processes(at_once=4).run(jobs):          # in the order they finish
        print(job.name, found)                                 # what it returned, or the error that it ended with
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from goodparts.errors import GoodpartsError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Work that depends on no other.

    Attributes:
        name: what people know it by.
        call: the work, a callable that can be pickled: a function of a module, or a `partial` of one. So must be what
            it returns.
        memory: bytes that it takes at most, roughly, the program's own included.
        affinity: jobs with the same one share something that takes a while to make (a compiled model, say): a worker
            whose processes stay goes on with those of its last job.
    """

    name: str
    call: Callable[[], Result]
    memory: int = 0
    affinity: str = ""


class WorkerDiedError(GoodpartsError):
    """The worker of a job ended without a result; `exit_code` says how."""

    def __init__(self, exit_code: int | None, where: str = "") -> None:
        how = f" with exit code {exit_code}" if exit_code is not None or not where else f" on {where}"
        super().__init__(f"its process ended early{how}")
        self.exit_code = exit_code


class Executor(Protocol):
    """Runs jobs side by side."""

    @property
    def workers(self) -> int | None:
        """Threads that each job should use, so that those side by side share the cores; None: all of its machine's."""

    def run(
        self, jobs: Sequence[Job[Result]]
    ) -> Generator[tuple[Job[Result], Result | Exception], None, None]:
        """Yield every job with what it returned, or the exception it ended with (`WorkerDiedError`), as they finish.

        No more run at a time than fit into memory; one always does. Whatever ends the generator (an interrupt, its
        `close`) ends the jobs that are running: each stops where it is and removes its temporary files.
        """
