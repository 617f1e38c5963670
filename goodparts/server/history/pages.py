"""Pages of the history, newest first, each found from the last identifier of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select

from goodparts.server.history import schema
from goodparts.server.history.database import Database
from goodparts.server.history.identifiers import first_of
from goodparts.server.history.rows import Row, rows_of

MOST = 200
"""Rows of a page, at most."""


@dataclass(frozen=True)
class Filter:
    """Which inspections are asked for; None: whatever it is.

    Attributes:
        since, until: microseconds since 1970, to whole milliseconds; `until` is exclusive.
        review: GOOD, BAD, or none for those that nobody has reviewed.
    """

    since: int | None = None
    until: int | None = None
    model: str | None = None
    verdict: str | None = None
    part: str | None = None
    review: str | None = None
    borderline: bool | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """As SQL; time is in the identifiers, so every index is in its order."""
        columns = schema.inspections.c
        if self.since is not None:
            yield columns.id >= first_of(self.since)
        if self.until is not None:
            yield columns.id < first_of(self.until)
        for name in ("model", "verdict", "part", "review", "borderline"):
            if (value := getattr(self, name)) is not None:
                yield columns[name] == value


def page(connection: Connection, wanted: Filter, *, before: str | None = None, limit: int = 50) -> list[Row]:
    """Rows, newest first; those before an identifier, where one is given."""
    table = schema.inspections
    found = select(table.c.id).where(*wanted.conditions()).order_by(table.c.id.desc()).limit(limit)
    if before is not None:
        found = found.where(table.c.id < before)
    if (index := index_of(wanted)) is not None:
        found = found.with_hint(table, f"INDEXED BY {index}", "sqlite")
    keys = list(connection.execute(found).scalars())  # of an index alone
    rows = rows_of(connection, select(table).where(table.c.id.in_(keys)))
    return sorted(rows, key=lambda row: str(row["id"]), reverse=True)


def index_of(wanted: Filter) -> str | None:
    """The index in which the fewest entries are passed over; None: that of the identifiers.

    SQLite knows of each column how many values it has, and not that few inspections are reviewed or borderline and most
    are GOOD; PostgreSQL counts, and needs no word of ours.
    """
    rare = {
        "part": wanted.part is not None,
        "review": wanted.review not in (None, schema.NONE),
        "borderline": wanted.borderline is True,
        "model_verdict": wanted.model is not None and wanted.verdict is not None,
        "verdict": wanted.verdict is not None,
        "model": wanted.model is not None,
    }
    return next((f"ix_inspections_{name}" for name, chosen in rare.items() if chosen), None)


def every(database: Database, wanted: Filter, *, at_once: int = 500) -> Iterator[Row]:
    """All rows, newest first, a few at a time: no transaction stays open while they are looked at."""
    before: str | None = None
    while True:
        with database.read() as connection:
            rows = page(connection, wanted, before=before, limit=at_once)
        if not rows:
            return
        yield from rows
        before = rows[-1]["id"]
