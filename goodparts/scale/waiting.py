"""Jobs that wait for a worker, those that share something together."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from goodparts.scale.executor import Job


class Waiting:
    """Jobs in their order, handed out so that few workers make the same thing anew.

    >>> waiting = Waiting([Job("1", int, affinity="a"), Job("2", int, affinity="b"), Job("3", int, affinity="a")])
    >>> waiting.take("a").name, waiting.take(None, {"a"}).name, waiting.take("b", {"a"}).name
    ('1', '2', '3')
    """

    def __init__(self, jobs: Sequence[Job[Any]]) -> None:
        self._groups: dict[str, deque[Job[Any]]] = {}
        for job in jobs:
            self._groups.setdefault(job.affinity, deque()).append(job)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, last: str | None, busy: Collection[str] = ()) -> Job[Any]:
        """The next job for a worker.

        Args:
            last: affinity of its last job; None: it has had none.
            busy: affinities of the jobs that others are working on.

        Returns:
            One like its last; else of the first kind that nobody is working on; else of the kind that has most left.
        """
        groups = self._groups
        if last is not None and last in groups:
            chosen = last
        else:
            free = next((affinity for affinity in groups if affinity not in busy), None)
            chosen = free if free is not None else max(groups, key=lambda affinity: len(groups[affinity]))
        job = groups[chosen].popleft()
        if not groups[chosen]:
            del groups[chosen]
        return job
