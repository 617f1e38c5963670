"""Tables of results: one row an image, as CSV, or as Parquet where PyArrow is installed; written whole, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodparts.errors import GoodpartsError
from goodparts.files import replacing
from goodparts.fleet.manifest import Row

FORMATS = ("csv", "parquet")
COLUMNS = (
    "product",
    "name",
    "verdict",
    "score",
    "threshold",
    "p_value",
    "borderline",
    "regions",
    "reasons",
    "error",
    "tries",
    "size",
    "changed",
    "content",
    "model",
)
_BATCH = 10_000  # rows that are in memory at a time


@contextmanager
def table_writer(out: Path, format: str) -> Iterator[Callable[[Row], object]]:
    """What takes rows one after the other; the table takes the place of earlier ones when the block ends well.

    Raises:
        GoodpartsError: Parquet is asked for, and PyArrow is not installed.
        OutputError: the file can't be written.
    """
    if format == "parquet":
        with _parquet(out / "results.parquet") as add:
            yield add
        (out / "results.csv").unlink(missing_ok=True)
        return
    with replacing(out / "results.csv") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        yield lambda row: writer.writerow(["" if value is None else value for value in cells(row)])
        text.flush()
        text.detach()
    (out / "results.parquet").unlink(missing_ok=True)


def cells(row: Row) -> list[Any]:
    """The cells of a row, in the order of the columns."""
    values = row._asdict()
    values["changed"] = _date(row.changed)
    values["borderline"] = None if row.borderline is None else bool(row.borderline)
    return [values[column] for column in COLUMNS]


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Row], object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise GoodpartsError(
            "--table parquet: PyArrow is not installed; pip install pyarrow, or take --table csv"
        ) from None
    kinds = {
        "score": pyarrow.float64(),
        "threshold": pyarrow.float64(),
        "p_value": pyarrow.float64(),
        "borderline": pyarrow.bool_(),
        "regions": pyarrow.int64(),
        "tries": pyarrow.int64(),
        "size": pyarrow.int64(),
    }
    schema = pyarrow.schema([(column, kinds.get(column, pyarrow.string())) for column in COLUMNS])
    with replacing(path) as stream, pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        batch: list[list[Any]] = []

        def write() -> None:
            columns = [list(column) for column in zip(*batch, strict=True)]
            writer.write_table(pyarrow.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema))
            batch.clear()

        def add(row: Row) -> None:
            batch.append(cells(row))
            if len(batch) >= _BATCH:
                write()

        yield add
        if batch:
            write()


def _date(nanoseconds: int) -> str:
    """ISO 8601, UTC; a store's own number as it is."""
    try:
        return datetime.fromtimestamp(nanoseconds / 10**9, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(nanoseconds)
