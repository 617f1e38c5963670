"""Log-in attempts, slowed: by address, and by account."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

from goodparts.server.faults import TooMany

_MOST = 10_000  # addresses and accounts that are remembered


class Attempts:
    """So many attempts at once, and one more every so many seconds.

    Args:
        burst: attempts that need not wait.
        seconds: after which one more may be made.
    """

    def __init__(self, burst: int = 5, seconds: float = 2.0) -> None:
        self._burst, self._seconds = burst, seconds
        self._lock = threading.Lock()
        self._full: OrderedDict[str, float] = OrderedDict()  # when all of the burst is there again

    def take(self, *keys: str) -> None:
        """Make an attempt; TooMany where one of the keys has made too many lately."""
        now = time.monotonic()
        with self._lock:
            wait = max(
                self._full.get(key, now) + self._seconds - now - self._burst * self._seconds for key in keys
            )
            if wait > 0:
                raise TooMany("too many log-ins; try again later", retry_after=max(1, math.ceil(wait)))
            for key in keys:
                self._full[key] = max(now, self._full.pop(key, now)) + self._seconds
            while len(self._full) > _MOST:
                self._full.popitem(last=False)
