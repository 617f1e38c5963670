"""The one writer: everything that changes the history goes through one thread, which commits in groups.

    future = writer.submit(Change(apply))       # apply(transaction) runs in the writer's thread
    future.result()                             # after the commit, and not before

What comes in while a commit is under way makes the next group, so a busy service commits seldom and a quiet one at
once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from goodparts.server.faults import Busy, HistoryFullError, HistoryUnavailable
from goodparts.server.history.audit import Chain
from goodparts.server.history.database import Database, in_transaction, is_full, is_lost

_LOGGER = logging.getLogger(__name__)
Result = TypeVar("Result")
GROUP = 64  # changes in a commit, at most
_PATIENCE = 5.0  # seconds for which a lost database is asked again
_PAUSE = 0.2
_BEFORE = 8  # files that are written side by side: a disk makes several safe in the time of one


@dataclass(frozen=True)
class Transaction:
    """What a change works with.

    Attributes:
        connection: to the database.
        chain: for the entry that says what was changed.
    """

    connection: Connection
    chain: Chain


@dataclass(frozen=True, eq=False)
class Change(Generic[Result]):
    """One change.

    Attributes:
        apply: makes it; called once more where the database was lost before the commit.
        before: what comes before the transaction begins, such as writing files; these run side by side.
        settle: called in the writer's thread when they are done, with the error of the first that failed, or None.
        after: called after the commit.
    """

    apply: Callable[[Transaction], Result]
    before: tuple[Callable[[], object], ...] = ()
    settle: Callable[[OSError | None], object] = lambda error: None
    after: Callable[[Result], object] = lambda result: None
    future: Future[Result] = field(default_factory=Future)


@contextmanager
def transaction(database: Database) -> Iterator[Transaction]:
    """A transaction outside the writer's thread: for commands, and before the service has begun."""
    with database.write() as connection:
        yield Transaction(connection, Chain(connection))


class Writer:
    """Commits changes in groups, in the order in which they came."""

    def __init__(self, database: Database, *, waiting: int = 2000) -> None:
        self._database = database
        self._changes: queue.Queue[Change[Any] | None] = queue.Queue(waiting)
        self._before = ThreadPoolExecutor(_BEFORE, thread_name_prefix="goodparts-files")
        self._thread = threading.Thread(target=self._run, name="goodparts-history", daemon=True)
        self._closed = threading.Lock()
        self._ended = False
        self.available = True

    @property
    def waiting(self) -> int:
        """Changes that no group has taken yet."""
        return self._changes.qsize()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads, for what comes after a commit."""
        with self._database.read() as connection:
            yield connection

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, change: Change[Result]) -> Future[Result]:
        """Have a change made. The future has its result once it is committed, or

        - HistoryUnavailable: the database can't be reached; it may still have taken the change if that was just then.
        - HistoryFullError: its disk is full.
        - whatever `apply` raised; then nothing of the change is kept.

        Raises:
            Busy: more is waiting than may.
        """
        with self._closed:
            if self._ended:
                raise HistoryUnavailable("the service is stopping", retry_after=5)
            if self._changes.full():  # nobody else puts anything in while this lock is held
                raise Busy("the history is behind; try again later", retry_after=5)
            change.future.set_running_or_notify_cancel()  # whoever waits may leave; it is made nevertheless
            self._changes.put_nowait(change)
        return change.future

    def stop(self) -> None:
        """Commit what was submitted, then end."""
        with self._closed:
            if self._ended:
                return
            self._ended = True
            self._changes.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._before.shutdown()

    def _run(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                return
            self._commit(group)

    def _next_group(self) -> list[Change[Any]] | None:
        first = self._changes.get()
        if first is None:
            return None
        group = [first]
        while len(group) < GROUP:
            try:
                change = self._changes.get_nowait()
            except queue.Empty:
                break
            if change is None:
                self._changes.put(None)  # for the next round; nothing comes after it
                break
            group.append(change)
        return group

    def _commit(self, group: list[Change[Any]]) -> None:
        ready = self._prepare(group)
        until = time.monotonic() + (_PATIENCE if self.available else 0)
        while ready:
            try:
                done, failed = self._attempt(ready)
            except _OutcomeUnknownError as error:
                self._refuse(ready, error.__cause__ or error)
                return
            except Exception as error:
                if is_lost(error) and not is_full(error) and time.monotonic() < until:
                    self._database.writing.dispose()
                    time.sleep(_PAUSE)
                    continue
                self._refuse(ready, error)
                return
            self.available = True
            for change, fault in failed:
                change.future.set_exception(fault)
            for change, result in done:
                self._finish(change, result)
            return

    def _attempt(
        self, group: list[Change[Any]]
    ) -> tuple[list[tuple[Change[Any], Any]], list[tuple[Change[Any], Exception]]]:
        """One transaction; a change that fails by itself is left out of it."""
        done: list[tuple[Change[Any], Any]] = []
        failed: list[tuple[Change[Any], Exception]] = []
        committing = False
        try:
            with self._database.write() as connection:
                chain = Chain(connection)
                for change in group:
                    last = chain.last
                    try:
                        with connection.begin_nested():
                            done.append((change, change.apply(Transaction(connection, chain))))
                    except Exception as error:
                        if is_lost(error) or is_full(error) or not in_transaction(connection):
                            raise  # it takes the whole group with it
                        chain.last = last
                        failed.append((change, error))
                committing = True
        except Exception as error:
            if committing and not is_full(error):
                raise _OutcomeUnknownError from error
            raise
        return done, failed

    def _prepare(self, group: list[Change[Any]]) -> list[Change[Any]]:
        """Do what comes before the transaction, of all changes side by side; those that can go on."""
        begun = [[self._before.submit(step) for step in change.before] for change in group]
        ready = []
        for change, steps in zip(group, begun, strict=True):
            errors = [error for step in steps if (error := step.exception()) is not None]
            try:
                for error in errors:
                    if not isinstance(error, OSError):
                        raise error
                change.settle(next((error for error in errors if isinstance(error, OSError)), None))
            except Exception as error:
                change.future.set_exception(error)
            else:
                ready.append(change)
        return ready

    def _finish(self, change: Change[Any], result: Any) -> None:
        try:
            change.after(result)
        except Exception:
            _LOGGER.exception("after a commit")
        change.future.set_result(result)

    def _refuse(self, group: list[Change[Any]], error: BaseException) -> None:
        refused: Exception
        if is_full(error):
            _LOGGER.error("the database's disk is full")
            refused = HistoryFullError(str(error))
        elif isinstance(error, DBAPIError):
            self.available = False
            _LOGGER.error("the database can't be reached: %s", str(error.orig).splitlines()[:1])
            refused = HistoryUnavailable("the history can't be reached; try again later", retry_after=5)
        else:
            _LOGGER.error("a group of changes failed", exc_info=error)
            refused = HistoryUnavailable("the history failed; try again later", retry_after=5)
        for change in group:
            change.future.set_exception(refused)


class _OutcomeUnknownError(Exception):
    """The database was lost while it committed: nobody knows whether it has."""
