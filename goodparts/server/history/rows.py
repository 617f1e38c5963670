"""Rows as dictionaries."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select

Row = dict[str, Any]


def rows_of(connection: Connection, statement: Select[Any]) -> list[Row]:
    """All rows that a statement finds, in its order."""
    return [dict(row) for row in connection.execute(statement).mappings()]


def row_of(connection: Connection, statement: Select[Any]) -> Row | None:
    """The first row that a statement finds."""
    row = connection.execute(statement).mappings().first()
    return None if row is None else dict(row)
