"""The manifest: what is known of every image and every product, in one SQLite file that only ever grows.

A row says which bytes (their sha256) came to which result with which model. Rows are added a shard at a time, all of
them or none, and never changed; of several rows of an image the last one counts. An image whose name, size, date and
model are those of its row is not looked at again; one that was only touched is read and found to be the same.

The shards' own files (`fleet.shard`) hold the same and more, so that a manifest that is lost is made anew from them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Self

from goodparts.errors import OutputError
from goodparts.files import JsonRecord

FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS results (
    row INTEGER PRIMARY KEY, product TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    changed INTEGER NOT NULL, content TEXT NOT NULL, model TEXT NOT NULL, shard TEXT NOT NULL, tries INTEGER NOT NULL,
    verdict TEXT, score REAL, threshold REAL, p_value REAL, borderline INTEGER, regions INTEGER, reasons TEXT,
    error TEXT);
CREATE INDEX IF NOT EXISTS results_of_product ON results (product);
CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY, product TEXT NOT NULL, images INTEGER NOT NULL,
    seconds REAL NOT NULL, memory INTEGER NOT NULL, written TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS products (
    row INTEGER PRIMARY KEY, product TEXT NOT NULL, stamp TEXT NOT NULL, content TEXT NOT NULL, key TEXT NOT NULL,
    result TEXT NOT NULL);
"""
_GROWS = "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'the manifest only grows'); END;\n"
    for table in ("results", "shards", "products")
    for verb in ("UPDATE", "DELETE")
)


class Row(NamedTuple):
    """What is known of an image; `verdict` None: it was set aside with `error`."""

    product: str
    name: str
    size: int
    changed: int
    content: str
    model: str
    shard: str
    tries: int
    verdict: str | None = None
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    borderline: int | None = None
    regions: int | None = None
    reasons: str | None = None
    error: str | None = None


class Known(NamedTuple):
    """As much of the last row of an image as says whether it is to be inspected; `verdict` None: it was set aside."""

    size: int
    changed: int
    model: str
    content: str
    verdict: str | None


class ShardRow(NamedTuple):
    """A shard's file that is written: how many images, how long it took, how much memory its worker had at most."""

    name: str
    product: str
    images: int
    seconds: float
    memory: int
    written: str


class ProductRow(NamedTuple):
    """What a product came to as a whole: a model that was fitted, or an evaluation.

    Attributes:
        product: its name.
        stamp: of its files, without having read them.
        content: of its files' bytes.
        key: of all else that the result depends on.
        result: as JSON takes it.
    """

    product: str
    stamp: str
    content: str
    key: str
    result: JsonRecord


class Manifest:
    """The manifest of a folder; use it in a `with` block, in one thread. Nobody else can open it meanwhile.

    Args:
        path: of the file, which is made where it is not there.

    Raises:
        OutputError: it can't be opened or written, is none, is of another format, or somebody else has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            self._file = sqlite3.connect(path, timeout=10, isolation_level=None)
            with closing(self._file.execute("PRAGMA user_version")) as found:
                (written,) = found.fetchone()
            if written not in (0, FORMAT):
                self.__exit__()
                raise OutputError(f"{path}: written by another version of goodparts; take another --out")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.executescript(f"{_TABLES}{_GROWS}PRAGMA user_version = {FORMAT};")
        except (sqlite3.Error, OSError) as error:
            if hasattr(self, "_file"):
                self.__exit__()
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.close()

    def add(self, shard: ShardRow, rows: Sequence[Row]) -> None:
        """Add a shard and its rows, all or none; one that is there already is passed over."""
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                new = self._file.execute(f"INSERT OR IGNORE INTO shards VALUES ({_marks(shard)})", shard)
                if new.rowcount:
                    self._file.executemany(
                        f"INSERT INTO results ({','.join(Row._fields)}) VALUES ({_marks(Row._fields)})", rows
                    )
                self._file.execute("COMMIT")
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def add_product(self, row: ProductRow) -> None:
        """Add what a product came to."""
        values = (*row[:-1], json.dumps(row.result))
        try:
            self._file.execute(
                f"INSERT INTO products ({','.join(ProductRow._fields)}) VALUES ({_marks(values)})", values
            )
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def of_product(self, product: str) -> dict[str, Row]:
        """The last row of each image of a product, by its name."""
        rows = self._rows(
            f"SELECT {','.join(Row._fields)} FROM results WHERE product = ? ORDER BY row", (product,)
        )
        return {row[1]: Row._make(row) for row in rows}

    def known(self, product: str) -> dict[str, Known]:
        """The same, but no more of it than says what is to be inspected."""
        columns = ",".join(("name", *Known._fields))
        rows = self._rows(f"SELECT {columns} FROM results WHERE product = ? ORDER BY row", (product,))
        return {name: Known._make(rest) for name, *rest in rows}

    def products(self) -> dict[str, ProductRow]:
        """The last row of each product that has come to something as a whole."""
        rows = self._rows(f"SELECT {','.join(ProductRow._fields)} FROM products ORDER BY row")
        return {row[0]: ProductRow._make((*row[:-1], json.loads(row[-1]))) for row in rows}

    def shards(self) -> set[str]:
        """Names of all shards that are in it."""
        return {name for (name,) in self._rows("SELECT name FROM shards")}

    def shard_rows(self) -> Iterator[ShardRow]:
        """All shards, as they were added."""
        return (ShardRow._make(row) for row in self._rows("SELECT * FROM shards ORDER BY rowid"))

    def _rows(self, query: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._file.execute(query, tuple(values))
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(
            f"{self.path}: the manifest can't be used ({error}). If it is damaged, move it away: it is made anew from "
            "the shards beside it"
        )


def _locked(path: Path) -> sqlite3.Connection:
    """What keeps others out for as long as it is open; a process that dies lets go of it."""
    lock = sqlite3.connect(path.with_suffix(".lock"), timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise OutputError(
            f"{path.parent}: another command is at work there just now; wait until it is over, or take another --out"
        ) from None
    return lock


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
