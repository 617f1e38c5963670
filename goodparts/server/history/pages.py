"""Pages of the history, newest first, each found from the last identifier of the one before."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.sql.expression import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from goodparts.server.history import schema
from goodparts.server.history.database import Database
from goodparts.server.history.identifiers import first_of
from goodparts.server.history.rows import Row, rows_of

MOST = 200
"""Rows of a page, at most."""

_COLUMNS = ("part", "review", "borderline", "model", "verdict")
_AS_IT_IS: custom_op[Any] = custom_op("+")  # before a column SQLite looks for no index of it
REVIEWED = "reviewed"


@dataclass(frozen=True)
class Filter:
    """Which inspections are asked for; None: whatever it is.

    Attributes:
        since, until: microseconds since 1970, to whole milliseconds; `until` is exclusive.
        review: GOOD, BAD, UNSURE, none for those that nobody has reviewed, or reviewed for all others.
    """

    since: int | None = None
    until: int | None = None
    model: str | None = None
    verdict: str | None = None
    part: str | None = None
    review: str | None = None
    borderline: bool | None = None

    def conditions(self, sought: Collection[str] = _COLUMNS) -> Iterator[ColumnElement[bool]]:
        """As SQL; time is in the identifiers, so every index is in its order.

        Args:
            sought: the columns by which an index may be sought; the others are only compared.
        """
        columns = schema.inspections.c
        if self.since is not None:
            yield columns.id >= first_of(self.since)
        if self.until is not None:
            yield columns.id < first_of(self.until)
        for name in _COLUMNS:
            if (value := getattr(self, name)) is None:
                continue
            column: ColumnElement[Any] = columns[name]
            if name not in sought:
                column = UnaryExpression(column, operator=_AS_IT_IS)
            if name == "review" and value == REVIEWED:
                yield column.in_(("GOOD", "BAD", "UNSURE"))
            else:
                yield column == value


def page(connection: Connection, wanted: Filter, *, before: str | None = None, limit: int = 50) -> list[Row]:
    """Rows, newest first; those before an identifier, where one is given."""
    table = schema.inspections
    sought = sought_in_sqlite(wanted) if connection.dialect.name == "sqlite" else _COLUMNS
    found = select(table.c.id).where(*wanted.conditions(sought)).order_by(table.c.id.desc()).limit(limit)
    if before is not None:
        found = found.where(table.c.id < before)
    keys = list(connection.execute(found).scalars())  # of an index alone
    rows = rows_of(connection, select(table).where(table.c.id.in_(keys)))
    return sorted(rows, key=lambda row: str(row["id"]), reverse=True)


def sought_in_sqlite(wanted: Filter) -> tuple[str, ...]:
    """The columns of the index in which the fewest entries are passed over.

    SQLite knows of each column how many values it has, and not that few inspections are reviewed or borderline and most
    are GOOD, so it is told; PostgreSQL counts.
    """
    if wanted.part is not None:
        return ("part",)
    if wanted.review not in (None, schema.NONE):
        return ("review",)
    if wanted.borderline is True:
        return ("borderline",)
    return ("model", "verdict")


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
