"""Identifiers that sort by time: UUIDs of version 7 (RFC 9562), as 32 hexadecimal digits."""

from __future__ import annotations

import re
import secrets
import threading
import time

_PATTERN = re.compile(r"[0-9a-f]{32}")
_LOCK = threading.Lock()
_last = 0  # the 60 bits of time and count that were given last


def new_identifier() -> str:
    """One that is larger than all this process gave before, whatever the clock does."""
    global _last
    with _LOCK:
        _last = max(_last + 1, (time.time_ns() // 1_000_000) << 12)
        milliseconds, count = _last >> 12, _last & 0xFFF
    value = (milliseconds & (2**48 - 1)) << 80 | 7 << 76 | count << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def is_identifier(text: str) -> bool:
    """Whether a text could be an identifier."""
    return _PATTERN.fullmatch(text) is not None


def time_of(identifier: str) -> int:
    """When one was made: microseconds since 1970, in whole milliseconds."""
    return 1000 * (int(identifier, 16) >> 80)


def first_of(microseconds: int) -> str:
    """Not larger than any identifier that was made at this time (since 1970) or later, in whole milliseconds."""
    milliseconds = min(max(microseconds // 1000, 0), 2**48 - 1)
    return f"{milliseconds << 80:032x}"
