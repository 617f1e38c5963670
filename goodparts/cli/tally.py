"""What an inspection of several images came to: its exit code and its closing line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from goodparts.decision.inspection import Inspection

EXIT_CODES = {
    0: "all parts are GOOD",
    1: "at least one is BAD",
    2: "an image failed, the others are GOOD; or nothing was inspected, and the message says what to do",
    3: "a fault of the program",
    4: "none is BAD, at least one needs a RECHECK",
    5: "at least one is BAD, and an image failed",
    6: "none is BAD, at least one needs a RECHECK, and an image failed",
    130: "interrupted",
}
"""Of `inspect`, in words. An image failed: it could not be read, or its pictures could not be written."""


@dataclass
class Tally:
    """Counts what was found.

    Attributes:
        inspected: images so far.
        bad: of them BAD.
        recheck: of them RECHECK.
        unreadable: images beside them that could not be read.
        without_pictures: of those inspected, images whose pictures could not be written.
    """

    inspected: int = 0
    bad: int = 0
    recheck: int = 0
    unreadable: int = 0
    without_pictures: int = 0

    def add(self, found: Inspection | None) -> None:
        """One more; None: it could not be read."""
        if found is None:
            self.unreadable += 1
        else:
            self.inspected += 1
            self.bad += found.verdict == "BAD"
            self.recheck += found.verdict == "RECHECK"

    @property
    def exit_code(self) -> int:
        """One of `EXIT_CODES`."""
        failed = bool(self.unreadable or self.without_pictures)
        if self.bad:
            return 5 if failed else 1
        if self.recheck:
            return 6 if failed else 4
        return 2 if failed else 0

    @property
    def in_words(self) -> str:
        """Such as "6 inspected, 2 BAD, 1 unreadable"."""
        counted = {
            "inspected": self.inspected,
            "BAD": self.bad,
            "RECHECK": self.recheck,
            "unreadable": self.unreadable,
            "without pictures": self.without_pictures,
        }
        words = [f"{count:,} {what}" for what, count in counted.items() if count or what == "inspected"]
        if self.inspected and not (self.bad or self.recheck):
            words.insert(1, "all GOOD")
        return ", ".join(words)
