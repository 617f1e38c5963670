"""Retention: which images go when they are old, too many, or the disk fills, as video recorders do it.

Images of GOOD parts go first, the oldest before; then those of other parts. What somebody has reviewed and what
was borderline is kept: that is what a better model learns from. Rows stay, unless their own age is limited; each
removal is an entry in the audit chain. Everything runs in the writer's thread, so no file goes that a new row is
about to need.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, func, select

from goodparts.server.history import audit, schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import Database
from goodparts.server.history.identifiers import first_of
from goodparts.server.history.records import Room
from goodparts.server.history.rows import Row, rows_of
from goodparts.server.history.writer import Change, Transaction, Writer

_LOGGER = logging.getLogger(__name__)
_AT_ONCE = 200  # rows in a change
_DAY = 86_400_000_000  # microseconds
_SETTLED = 3600  # seconds after which a file without a row is nobody's
_ACTOR = "retention"


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Attributes:
        good_days, days: age of images of GOOD parts, and of all; None: no limit.
        rows_days: age of rows.
        most_bytes: of all images together.
        least_free: bytes that stay free on the disk.
    """

    good_days: float | None = None
    days: float | None = None
    rows_days: float | None = None
    most_bytes: int | None = None
    least_free: int = 0


def stored_bytes(database: Database) -> int:
    """What the files take that rows speak of."""
    columns = schema.inspections.c
    total = func.coalesce(func.sum(columns.image_bytes + columns.findings_bytes), 0)
    with database.read() as connection:
        return int(connection.execute(select(total).where(columns.kept.is_(True))).scalar_one())


def apply_rules(writer: Writer, blobs: BlobStore, room: Room, rules: Rules) -> int:
    """Do what the rules ask for now; how many images went. Errors as `Writer.submit`'s future."""
    gone = 0
    for verdicts, days in ((("GOOD",), rules.good_days or rules.days), (("BAD", "RECHECK"), rules.days)):
        while days is not None and (some := _remove(writer, blobs, room, verdicts, _before(days))):
            gone += some
    for verdicts in (("GOOD",), ("BAD", "RECHECK")):
        while _too_much(blobs, room, rules) and (some := _remove(writer, blobs, room, verdicts, None)):
            gone += some
    while rules.rows_days is not None and _remove_rows(writer, blobs, room, _before(rules.rows_days)):
        pass
    if gone:
        _LOGGER.info("retention: the images of %d inspections went", gone)
    return gone


def sweep(writer: Writer, blobs: BlobStore, first: int) -> int:
    """Remove files without a row, as a kill between file and row leaves them: those that begin with one byte, 0
    to 255."""
    old = [(name, path) for name, path in blobs.names(first) if _is_settled(path)]

    def apply(transaction: Transaction) -> int:
        count = 0
        for name, path in old:
            if not name or not _needed(transaction.connection, name):
                path.unlink(missing_ok=True)
                count += 1
        return count

    return writer.submit(Change(apply)).result() if old else 0


def _is_settled(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _SETTLED
    except OSError:  # it went just now
        return False


def _too_much(blobs: BlobStore, room: Room, rules: Rules) -> bool:
    if rules.most_bytes is not None and room.stored > rules.most_bytes:
        return True
    return blobs.free() < rules.least_free


def _before(days: float) -> str:
    return first_of(audit.now() - int(days * _DAY))


def _remove(
    writer: Writer, blobs: BlobStore, room: Room, verdicts: tuple[str, ...], before: str | None
) -> int:
    """Remove the files of the oldest such inspections that nobody reviewed, a few at a time; of how many."""
    columns = schema.inspections.c
    wanted = select(
        columns.id, columns.image_sha256, columns.image_bytes, columns.findings_sha256, columns.findings_bytes
    )

    def oldest(verdict: str) -> Select[Any]:
        found = wanted.where(
            columns.kept.is_(True),
            columns.verdict == verdict,
            columns.borderline.is_(False),
            columns.review == schema.NONE,
        )
        return (
            (found if before is None else found.where(columns.id < before))
            .order_by(columns.id)
            .limit(_AT_ONCE)
        )

    def apply(transaction: Transaction) -> list[Row]:
        rows = sorted(
            (row for verdict in verdicts for row in rows_of(transaction.connection, oldest(verdict))),
            key=lambda row: str(row["id"]),
        )[:_AT_ONCE]
        if rows:
            keys = [row["id"] for row in rows]
            changed = schema.inspections.update().where(columns.id.in_(keys)).values(kept=False)
            transaction.connection.execute(changed)
            details = {"count": len(keys), "first": keys[0], "last": keys[-1]}
            transaction.chain.append(_ACTOR, "images.removed", keys[0], details)
        return rows

    return _run(writer, blobs, room, apply)


def _remove_rows(writer: Writer, blobs: BlobStore, room: Room, before: str) -> int:
    """Remove the oldest rows that nobody reviewed, and their files, a few at a time; how many."""
    table, columns = schema.inspections, schema.inspections.c

    def apply(transaction: Transaction) -> list[Row]:
        oldest = (
            select(table)
            .where(columns.review == schema.NONE, columns.id < before)
            .order_by(columns.id)
            .limit(_AT_ONCE)
        )
        rows = rows_of(transaction.connection, oldest)
        if rows:
            keys = [row["id"] for row in rows]
            transaction.connection.execute(table.delete().where(columns.id.in_(keys)))
            transaction.chain.append(_ACTOR, audit.REMOVED, keys[0], {"inspections": keys})
        return rows

    return _run(writer, blobs, room, apply)


def _run(writer: Writer, blobs: BlobStore, room: Room, apply: Any) -> int:
    """Have rows changed, and remove the files that no row needs any more."""

    def remove_files(rows: list[Row]) -> None:
        for row in rows:
            if row.get("kept", True):
                room.stored -= row["image_bytes"] + row["findings_bytes"]
        names = {row[name] for row in rows for name in ("image_sha256", "findings_sha256")}
        with writer.reading() as connection:
            for name in names:
                if not _needed(connection, name):
                    blobs.remove(name)

    change: Change[list[Row]] = Change(apply, after=remove_files)
    future: Future[list[Row]] = writer.submit(change)
    return len(future.result())


def _needed(connection: Connection, sha256: str) -> bool:
    columns = schema.inspections.c
    for column in (columns.image_sha256, columns.findings_sha256):
        found = select(columns.id).where(column == sha256, columns.kept.is_(True)).limit(1)
        if connection.execute(found).first() is not None:
            return True
    return False
