"""Inspections as rows: recorded with their files, and reviewed."""

from __future__ import annotations

import errno
import logging
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from goodparts.server.faults import NotFound
from goodparts.server.history import audit, schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.identifiers import new_identifier
from goodparts.server.history.rows import Row, row_of, rows_of
from goodparts.server.history.writer import Change, Transaction, Writer

_LOGGER = logging.getLogger(__name__)
LABELS = ("GOOD", "BAD", "UNSURE", schema.NONE)


@dataclass
class Room:
    """How much the files take, and whether more are taken.

    Attributes:
        least_free: bytes that stay free on the disk; below, files are not kept.
        stored: bytes of the files that rows speak of.
        degraded: whether the last file could not be kept.
        lost: inspections whose files could not be kept.
        unrecorded: inspections that could not be recorded at all.
    """

    least_free: int
    stored: int = 0
    degraded: bool = False
    lost: int = 0
    unrecorded: int = 0


def record(
    writer: Writer, blobs: BlobStore, room: Room, row: dict[str, Any], image: bytes, findings: bytes
) -> Future[Row]:
    """Have an inspection recorded: its files first, then the row and its entry in the audit chain.

    Where the disk has no room for the files the row says that they are not kept. Errors as `Writer.submit`.
    """

    def keep(data: bytes, sha256: str) -> None:
        if room.least_free and blobs.free() < room.least_free // 2:
            raise OSError(errno.ENOSPC, "less is free than has to stay free")
        blobs.write(data, sha256)

    def settle(error: OSError | None) -> None:
        row["kept"] = error is None
        if error is not None:
            if not room.degraded:
                _LOGGER.error("images can't be kept (%s); verdicts go on without", error.strerror or error)
            room.lost += 1
        elif room.degraded:
            _LOGGER.warning("images are kept again")
        room.degraded = error is not None

    def apply(transaction: Transaction) -> Row:
        transaction.connection.execute(schema.inspections.insert(), row)
        transaction.chain.append_row(row["account"], audit.RECORDED, schema.inspections, row, row["id"])
        return row

    def count(_: Row) -> None:
        if row["kept"]:
            room.stored += row["image_bytes"] + row["findings_bytes"]

    files = (partial(keep, image, row["image_sha256"]), partial(keep, findings, row["findings_sha256"]))
    return writer.submit(Change(apply, files, settle, count))


def review(
    writer: Writer,
    inspection: str,
    *,
    account: str,
    label: str,
    comment: str,
    defect_class: str | None = None,
    regions: str | None = None,
) -> Future[Row]:
    """Have somebody's word on an inspection recorded; NotFound where there is none of that name.

    Args:
        label: one of LABELS; `none` takes back what was said before.
        regions: JSON, the boxes that were drawn.
    """
    row: dict[str, Any] = {
        "id": new_identifier(),
        "inspection": inspection,
        "time": audit.now(),
        "account": account,
        "label": label,
        "comment": comment,
        "defect_class": defect_class or None,
        "regions": regions,
    }

    def apply(transaction: Transaction) -> Row:
        table = schema.inspections
        changed = transaction.connection.execute(
            table.update().where(table.c.id == inspection).values(review=label)
        )
        if changed.rowcount != 1:
            raise NotFound("there is no such inspection")
        transaction.connection.execute(schema.reviews.insert(), row)
        transaction.chain.append_row(
            account, audit.REVIEWED, schema.reviews, row, row["id"], subject=inspection
        )
        return row

    return writer.submit(Change(apply))


def one(connection: Connection, identifier: str) -> Row:
    """The row of an inspection; NotFound."""
    table = schema.inspections
    row = row_of(connection, select(table).where(table.c.id == identifier))
    if row is None:
        raise NotFound("there is no such inspection")
    return row


def reviews_of(connection: Connection, identifier: str) -> list[Row]:
    """What was said of an inspection, in order."""
    table = schema.reviews
    found = select(table).where(table.c.inspection == identifier).order_by(table.c.id)
    return rows_of(connection, found)
