"""One text for one value, so that hashes of it are the same in every database and on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from goodparts.server.history.schema import LATER, MUTABLE


def to_json(value: object) -> str:
    """JSON without blanks, keys in order; ValueError for what JSON has no word for (NaN, infinity)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str | bytes) -> str:
    """sha256, in hexadecimal digits."""
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def row_digest(table: Table, row: Mapping[str, Any]) -> str:
    """sha256 over all of a row that never changes."""
    values = {
        column.name: row[column.name]
        for column in table.columns
        if column.name not in MUTABLE and (column.name not in LATER or row[column.name] is not None)
    }
    return digest(to_json([table.name, values]))
