"""What is recorded, told to whoever watches: per place (model, line, camera) the last inspection and counts since.

A watcher that is slow, or away for a while, misses pictures and no counts: nothing piles up behind it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from goodparts.server.faults import Busy

MOST_WATCHERS = 200
TRY_LINE = "try"
"""The line under which images are handed in on the page Try; they count for no shift."""
_MOST_PLACES = 256  # names of lines and cameras are whatever clients send
Place = tuple[str, str, str]


@dataclass
class News:
    """What came at one place since a watcher looked last."""

    last: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)


class Watcher:
    """One who watches, in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: dict[Place, News] = {}
        self._awake = asyncio.Event()
        self.over = False

    def add(self, row: dict[str, Any]) -> None:
        """One more inspection; from any thread."""
        place = (row["model"], row["line"] or "", row["camera"] or "")
        with self._lock:
            if place not in self._waiting:
                if len(self._waiting) >= _MOST_PLACES:
                    return
                self._waiting[place] = News(row)
            news = self._waiting[place]
            news.last = row
            news.counts[row["verdict"]] += 1
        self.wake()

    def end(self) -> None:
        """Nothing comes any more."""
        self.over = True
        self.wake()

    def wake(self) -> None:
        """Have `take` look again."""
        try:
            self._loop.call_soon_threadsafe(self._awake.set)
        except RuntimeError:  # its loop has ended
            self.over = True

    async def take(self, seconds: float) -> dict[Place, News]:
        """What came since; waits for so long, and is empty where nothing came."""
        try:
            await asyncio.wait_for(self._awake.wait(), seconds)
        except TimeoutError:
            return {}
        self._awake.clear()
        with self._lock:
            found, self._waiting = self._waiting, {}
        return found


class Feed:
    """Tells all watchers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._closed = False

    def watch(self) -> Watcher:
        """One more watcher; Busy where there are too many, or the service stops."""
        with self._lock:
            if self._closed or len(self._watchers) >= MOST_WATCHERS:
                raise Busy("too many pages watch at a time", retry_after=5)
            watcher = Watcher()
            self._watchers.add(watcher)
            return watcher

    def leave(self, watcher: Watcher) -> None:
        """It watches no more."""
        with self._lock:
            self._watchers.discard(watcher)

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def tell(self, row: dict[str, Any]) -> None:
        """An inspection was recorded."""
        if row["line"] == TRY_LINE:
            return
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.add(row)

    def close(self) -> None:
        """End all, so that the service need not wait for them."""
        with self._lock:
            self._closed = True
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.end()
