"""Sections: what is said of a model or an evaluation, in sentences and small tables, wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A small table of text: the head of each column, and rows of as many cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of a card or report.

    Attributes:
        title: what it is about.
        lines: its sentences.
        table: below them.
        badge: "estimated" or "certified" where the sentences are that.
        folded: whether a page may hide it until somebody asks.
        wide: whether it needs the whole width of a page.
    """

    title: str
    lines: tuple[str, ...]
    table: Table | None = None
    badge: str = ""
    folded: bool = False
    wide: bool = False

    @property
    def heading(self) -> str:
        """The title, and the badge where there is one."""
        return f"{self.title} ({self.badge})" if self.badge else self.title


def percent(share: float) -> str:
    """A share, 0 to 1, as a percentage of three digits."""
    return f"{100 * share:.3g} %"
