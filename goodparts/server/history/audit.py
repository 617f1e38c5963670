"""The audit chain: every change of the history is an entry, and each entry carries the hash of the one before.

    hash = sha256(JSON of [sequence, time, actor, action, subject, details, previous])

An entry about a row has the row's digest in its details, so a row that was changed, removed or put in by another
way than the service's is found, too. Whoever can write into the database could write a whole new chain: keep its
head (`head`, or what `goodparts server audit verify` prints) elsewhere from time to time, and hand it to `verify`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, func, select

from goodparts.server.history import schema
from goodparts.server.history.canonical import digest, row_digest, to_json
from goodparts.server.history.rows import Row, rows_of

START = "0" * 64
"""What the first entry carries for the hash of the one before."""

RECORDED, REVIEWED, REMOVED = "inspection.recorded", "inspection.reviewed", "inspections.removed"
_AT_ONCE = 1000  # entries
_LATEST = {"accounts": schema.accounts.c.name, "tokens": schema.tokens.c.id}  # rows that change by entries


@dataclass(frozen=True)
class Head:
    """The last entry of a chain, or what comes before its first."""

    sequence: int = 0
    hash: str = START

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"

    @classmethod
    def read(cls, text: str) -> Head:
        """What `str` gave; ValueError if it is something else."""
        number, _, found = text.partition(":")
        if len(found) != 64:
            raise ValueError("expected NUMBER:HASH, as `goodparts server audit verify` prints it")
        return cls(int(number), found)


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def head(connection: Connection) -> Head:
    """The last entry."""
    last = select(schema.audit.c.sequence, schema.audit.c.hash).order_by(schema.audit.c.sequence.desc())
    row = connection.execute(last.limit(1)).first()
    return Head() if row is None else Head(row.sequence, row.hash)


def entry_hash(entry: Mapping[str, Any]) -> str:
    """The hash that an entry has to have."""
    names = ("sequence", "time", "actor", "action", "subject", "details", "previous")
    return digest(to_json([entry[name] for name in names]))


@dataclass
class Chain:
    """Puts entries at the end, within one transaction that no other writes beside."""

    connection: Connection
    last: Head | None = None

    def append(self, actor: str, action: str, subject: str, details: Mapping[str, object]) -> Head:
        """One more entry."""
        last = self.last or head(self.connection)
        entry: dict[str, Any] = {
            "sequence": last.sequence + 1,
            "time": now(),
            "actor": actor,
            "action": action,
            "subject": subject,
            "details": to_json(details),
            "previous": last.hash,
        }
        entry["hash"] = entry_hash(entry)
        self.connection.execute(schema.audit.insert(), entry)
        self.last = Head(entry["sequence"], entry["hash"])
        return self.last

    def append_row(
        self, actor: str, action: str, table: Table, row: Mapping[str, Any], key: str, subject: str = ""
    ) -> Head:
        """An entry about a row as it is from now on."""
        details = {"table": table.name, "key": key, "digest": row_digest(table, row)}
        return self.append(actor, action, subject or key, details)


# ---- verifying ---------------------------------------------------------------------------------------


@dataclass
class Verified:
    """What came of looking through a chain.

    Attributes:
        head: the last entry.
        inspections: how many were compared with their entries.
        removed: how many were removed by retention, and are gone.
        faults: what does not fit, the first of it; `more` counts the rest.
    """

    head: Head = field(default_factory=Head)
    inspections: int = 0
    removed: int = 0
    faults: list[str] = field(default_factory=list)
    more: int = 0

    def fault(self, text: str) -> None:
        """One more thing that does not fit."""
        if len(self.faults) < 100:
            self.faults.append(text)
        else:
            self.more += 1


def verify(
    connection: Connection,
    *,
    known: Sequence[Head] = (),
    row_fault: Callable[[Mapping[str, Any]], str | None] = lambda row: None,
) -> Verified:
    """Look through the whole chain, and at every row that it speaks of.

    Args:
        connection: within one transaction, so that nothing is added meanwhile.
        known: heads that were noted earlier, which the chain has to go through.
        row_fault: what else is wrong with the row of an inspection, such as its files.
    """
    found = Verified()
    wanted = {one.sequence: one.hash for one in known if one.sequence}
    latest: dict[tuple[str, str], str] = {}
    removed: set[bytes] = set()
    for entry in _entries(connection):
        _verify_entry(entry, found, wanted)
        details = _details(entry, found)
        if entry["action"] == REMOVED:
            removed |= {bytes.fromhex(one) for one in details.get("inspections", ())}
        elif "digest" in details and entry["action"] != RECORDED:
            latest[details["table"], details["key"]] = details["digest"]
    for number in wanted:
        found.fault(
            f"entry {number}, of which the hash was noted, is not there: the end of the chain was cut off"
        )
    reviewed = _verify_reviews(connection, latest, found)
    _verify_latest(connection, latest, found)
    _verify_inspections(connection, removed, reviewed, found, row_fault)
    return found


def _entries(connection: Connection) -> Iterator[Row]:
    table, after = schema.audit, 0
    while True:
        some = select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(_AT_ONCE)
        rows = rows_of(connection, some)
        if not rows:
            return
        yield from rows
        after = rows[-1]["sequence"]


def _verify_entry(entry: Row, found: Verified, wanted: dict[int, str]) -> None:
    number = entry["sequence"]
    if number != found.head.sequence + 1:
        found.fault(f"entry {found.head.sequence + 1} is missing (the next is {number})")
    elif entry["previous"] != found.head.hash:
        found.fault(f"entry {number} does not carry the hash of the one before")
    if entry_hash(entry) != entry["hash"]:
        found.fault(f"entry {number} ({entry['action']}) was changed")
    if wanted.pop(number, entry["hash"]) != entry["hash"]:
        found.fault(f"entry {number} has another hash than was noted: the chain was written anew")
    found.head = Head(number, entry["hash"])


def _details(entry: Row, found: Verified) -> dict[str, Any]:
    try:
        details = json.loads(entry["details"])
    except ValueError:
        details = None
    if not isinstance(details, dict):
        found.fault(f"entry {entry['sequence']}: its details are no JSON object")
        return {}
    return details


def _verify_reviews(
    connection: Connection, latest: dict[tuple[str, str], str], found: Verified
) -> dict[str, str]:
    """Compare reviews with their entries; gives the last label of each inspection."""
    labels: dict[str, str] = {}
    known = {key: value for (table, key), value in latest.items() if table == "reviews"}
    for row in rows_of(connection, select(schema.reviews).order_by(schema.reviews.c.id)):
        expected = known.pop(row["id"], None)
        if expected is None:
            found.fault(f"review {row['id']} was never made: no entry speaks of it")
        elif expected != row_digest(schema.reviews, row):
            found.fault(f"review {row['id']} of inspection {row['inspection']} was changed")
        labels[row["inspection"]] = row["label"]
    for key in known:
        found.fault(f"review {key} is gone")
    return labels


def _verify_latest(connection: Connection, latest: dict[tuple[str, str], str], found: Verified) -> None:
    for name, column in _LATEST.items():
        table = schema.METADATA.tables[name]
        known = {key: value for (of, key), value in latest.items() if of == name}
        for row in rows_of(connection, select(table)):
            key = row[column.name]
            expected = known.pop(key, None)
            if expected is None:
                found.fault(f"{name}: {key} was never made: no entry speaks of it")
            elif expected != row_digest(table, row):
                found.fault(f"{name}: {key} was changed by another way than the service's")
        for key in known:
            found.fault(f"{name}: {key} is gone")


def _verify_inspections(
    connection: Connection,
    removed: set[bytes],
    reviewed: Mapping[str, str],
    found: Verified,
    row_fault: Callable[[Mapping[str, Any]], str | None],
) -> None:
    """Compare every inspection with its entry, a thousand at a time."""
    table = schema.audit
    after = 0
    while True:
        some = (
            select(table.c.sequence, table.c.subject, table.c.details)
            .where(table.c.action == RECORDED, table.c.sequence > after)
            .order_by(table.c.sequence)
            .limit(_AT_ONCE)
        )
        entries = connection.execute(some).all()
        if not entries:
            break
        after = entries[-1].sequence
        wanted = {entry.subject: json.loads(entry.details)["digest"] for entry in entries}
        rows = select(schema.inspections).where(schema.inspections.c.id.in_(list(wanted)))
        for row in rows_of(connection, rows):
            if wanted.pop(row["id"]) != row_digest(schema.inspections, row):
                found.fault(f"inspection {row['id']} was changed")
            elif row["review"] != reviewed.get(row["id"], schema.NONE):
                found.fault(f"inspection {row['id']}: its review is not the last one that was made")
            elif (fault := row_fault(row)) is not None:
                found.fault(f"inspection {row['id']}: {fault}")
            found.inspections += 1
        for key in wanted:
            if bytes.fromhex(key) in removed:
                found.removed += 1
            else:
                found.fault(f"inspection {key} is gone, and nothing says that it was removed")
    count = connection.execute(select(func.count()).select_from(schema.inspections)).scalar_one()
    if count != found.inspections:
        found.fault(f"{count - found.inspections} inspections were never recorded: no entry speaks of them")
