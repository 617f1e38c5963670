"""The writer, the audit chain, files by content, migrations: what a history is trusted for."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from running import Run
from serving import Postgres, Running
from sqlalchemy import text

from goodparts.server.faults import HistoryFullError, HistoryUnavailable
from goodparts.server.history import audit, database, schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.canonical import digest
from goodparts.server.history.database import Database, DatabaseError, open_database
from goodparts.server.history.identifiers import first_of, is_identifier, new_identifier, time_of
from goodparts.server.history.writer import Change, Transaction, Writer, transaction

PLACE = "/api/v1/models/disc/inspections"


@pytest.fixture
def empty(url: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A history without anything in it."""
    if url is not None:
        url = request.getfixturevalue("postgres").new_database()
    found = open_database(url, tmp_path)
    database.migrate(found)
    yield found
    found.close()


@pytest.fixture
def writer(empty: Database) -> Iterator[Writer]:
    found = Writer(empty)
    found.start()
    yield found
    found.stop()


def event(name: str) -> Callable[[Transaction], str]:
    """A change that is easily seen."""

    def apply(found: Transaction) -> str:
        row = {"id": name, "time": 1, "kind": "test", "model": None, "message": ""}
        found.connection.execute(schema.events.insert(), row)
        found.chain.append("test", "event", name, {})
        return name

    return apply


def events(found: Database) -> set[str]:
    with found.read() as connection:
        return set(connection.execute(text("SELECT id FROM events")).scalars())


def test_a_change_is_there_when_its_future_is_done(empty: Database, writer: Writer) -> None:
    for number in range(5):
        assert writer.submit(Change(event(f"{number}"))).result(10) == f"{number}"
        assert f"{number}" in events(empty)


def test_what_comes_together_is_committed_together(empty: Database) -> None:
    writer, commits = Writer(empty), []
    futures = [writer.submit(Change(event(f"{number}"))) for number in range(10)]

    def count(found: Transaction) -> None:
        commits.append(found.connection)

    futures.append(writer.submit(Change(count)))
    futures.append(writer.submit(Change(count)))
    writer.start()
    writer.stop()
    assert all(future.done() for future in futures)
    assert len(events(empty)) == 10
    assert commits[0] is commits[1]


def test_a_change_that_fails_takes_no_other_with_it(empty: Database) -> None:
    writer = Writer(empty)

    def fail(found: Transaction) -> None:
        event("half")(found)
        raise KeyError("x")

    first, second = writer.submit(Change(event("a"))), writer.submit(Change(fail))
    third, fourth = (
        writer.submit(Change(event("a"))),
        writer.submit(Change(event("b"))),
    )  # "a" is there already
    writer.start()
    assert (first.result(10), fourth.result(10)) == ("a", "b")
    assert isinstance(second.exception(10), KeyError)
    assert third.exception(10) is not None
    assert events(empty) == {"a", "b"}
    with empty.read() as connection:
        assert audit.verify(connection).faults == []
        assert audit.head(connection).sequence == 2
    writer.stop()


def test_after_the_end_nothing_is_taken(writer: Writer) -> None:
    writer.stop()
    with pytest.raises(HistoryUnavailable):
        writer.submit(Change(event("late")))


def test_two_programs_write_one_chain(empty: Database, url: str | None) -> None:
    """A command beside a running service: neither is told that the database is locked."""
    place = empty.path.parent if empty.path else Path()
    second = open_database(None if url is None else str(empty.reading.url), place)

    def write(found: Database, name: str) -> None:
        for number in range(20):
            with transaction(found) as change:
                event(f"{name}{number}")(change)

    threads = [threading.Thread(target=write, args=one) for one in ((empty, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with empty.read() as connection:
        found = audit.verify(connection)
    assert (found.faults, found.head.sequence) == ([], 40)
    second.close()


def test_a_database_whose_disk_is_full_says_so(tmp_path: Path) -> None:
    found = open_database(None, tmp_path)
    database.migrate(found)
    with found.writing.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    writer = Writer(found)
    writer.start()
    large: list[Future[Any]] = []

    def apply(change: Transaction) -> None:
        row = {"id": new_identifier(), "time": 1, "kind": "x", "model": None, "message": "x" * 50_000}
        change.connection.execute(schema.events.insert(), row)

    for _ in range(20):
        large.append(writer.submit(Change(apply)))
    assert isinstance(large[-1].exception(10), HistoryFullError)
    writer.stop()
    found.close()


def test_a_lost_database_is_waited_for(postgres: Postgres, tmp_path: Path) -> None:
    found = open_database(postgres.new_database(), tmp_path)
    database.migrate(found)
    writer = Writer(found)
    writer.start()
    writer.submit(Change(event("before"))).result(10)
    postgres.kill()
    waiting = writer.submit(Change(event("meanwhile")))
    postgres.start()
    assert waiting.result(20) == "meanwhile"
    assert events(found) == {"before", "meanwhile"}
    postgres.kill()
    assert isinstance(writer.submit(Change(event("lost"))).exception(20), HistoryUnavailable)
    assert not writer.available
    postgres.start()
    assert writer.submit(Change(event("after"))).result(20) == "after"
    assert events(found) == {"before", "meanwhile", "after"}
    writer.stop()
    found.close()


# ---- the audit chain ---------------------------------------------------------------------------------

TAMPERINGS = {
    "UPDATE inspections SET score = score + 1 WHERE id = :id": "was changed",
    "UPDATE inspections SET verdict = 'GOOD' WHERE id = :id": "was changed",
    "UPDATE inspections SET details = '{ }' WHERE id = :id": "was changed",
    "UPDATE inspections SET review = 'GOOD' WHERE id = :id": "not the last one",
    "DELETE FROM inspections WHERE id = :id": "is gone",
    "UPDATE reviews SET label = 'GOOD'": "was changed",
    "DELETE FROM reviews": "is gone",
    "UPDATE audit SET actor = 'nobody' WHERE sequence = 2": "entry 2 (",
    "DELETE FROM audit WHERE sequence = 3": "entry 3 is missing",
    "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)": "never",
    "UPDATE accounts SET role = 'administrator' WHERE name = 'mary'": "was changed",
    "UPDATE tokens SET expires = expires + 1": "was changed",
    "DELETE FROM accounts WHERE name = 'mary'": "is gone",
    "UPDATE audit SET previous = hash WHERE sequence = 2": "does not carry",
    "INSERT INTO reviews SELECT 'x', inspection, time, account, label, comment, defect_class, regions FROM reviews": (
        "never made"
    ),
    "UPDATE reviews SET defect_class = 'dent'": "was changed",
    "UPDATE reviews SET regions = '[[1,2,3,4]]'": "was changed",
}


@pytest.fixture(scope="module")
def told(live: Running, bad_png: bytes) -> str:
    """A history with all kinds of entries; an inspection of it."""
    with live.login() as browser:
        found = browser.post(PLACE, content=bad_png).json()
        browser.post(f"{found['links']['self']}/reviews", json={"label": "BAD"})
        body = {"name": "mary", "password": "a long password", "role": "operator"}
        assert browser.post("/api/v1/accounts", json=body).status_code == 201
    return str(found["id"])


@pytest.mark.parametrize("statement", TAMPERINGS)
def test_any_change_is_found(live: Running, told: str, statement: str) -> None:
    with live.service.database.writing.connect() as connection:
        assert audit.verify(connection).faults == []
        changed = connection.execute(text(statement), {"id": told} if ":id" in statement else {})
        assert changed.rowcount
        faults = audit.verify(connection).faults
        connection.rollback()
    assert any(TAMPERINGS[statement] in fault for fault in faults), faults


def test_a_chain_that_was_written_anew_is_found_by_an_earlier_head(live: Running, told: str) -> None:
    with live.service.database.writing.connect() as connection:
        noted = audit.head(connection)
        assert audit.verify(connection, known=[noted]).faults == []
        entries = connection.execute(text("SELECT * FROM audit ORDER BY sequence")).mappings().all()
        previous = audit.START
        for entry in entries:
            changed = {**entry, "previous": previous}
            if entry["sequence"] == 2:
                changed["actor"] = "somebody else"
            changed["hash"] = previous = audit.entry_hash(changed)
            values = {name: changed[name] for name in ("sequence", "actor", "previous", "hash")}
            statement = (
                "UPDATE audit SET actor=:actor, previous=:previous, hash=:hash WHERE sequence=:sequence"
            )
            connection.execute(text(statement), values)
        assert audit.verify(connection).faults == []  # whole by itself
        faults = audit.verify(connection, known=[noted]).faults
        assert "written anew" in faults[0]
        connection.execute(text("DELETE FROM audit WHERE action = 'inspection.reviewed' OR sequence > 5"))
        faults = audit.verify(connection, known=[audit.Head(999, "0" * 64)]).faults
        assert any("cut off" in fault for fault in faults)
        connection.rollback()
    assert audit.Head.read(str(noted)) == noted


def test_the_command_verifies_and_names_damaged_files(
    goodparts: Run, live: Running, told: str, url: str | None
) -> None:
    place = ["--data", live.service.settings.data, *(["--database", url] if url else [])]
    ran = goodparts("server", "audit", "verify", "--files", *place)
    assert ran.code == 0, ran.err
    assert "whole" in ran.out
    head = ran.out.splitlines()[-1].removeprefix("head ")
    with live.http() as http:
        sha256 = http.get(f"/api/v1/inspections/{told}").json()["image_sha256"]
    path = live.service.blobs.path(sha256)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with live.http() as http:
        assert http.get(f"/api/v1/inspections/{told}/image").status_code == 404  # never a half file
    ran = goodparts("server", "audit", "verify", "--files", "--head", head, "--json", *place)
    path.write_bytes(whole)
    assert ran.code == 2
    assert sha256 in ran.records[0]["faults"][0]
    assert goodparts("server", "audit", "verify", "--head", "3", *place).code == 2


# ---- files -------------------------------------------------------------------------------------------


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    blobs, data = BlobStore(tmp_path / "files"), os.urandom(5000)
    blobs.make_folders()
    name = digest(data)
    assert blobs.read(name) is None
    blobs.write(data, name)
    blobs.write(data, name)
    assert blobs.read(name) == data
    assert [found for found, _ in blobs.names(int(name[:2], 16))] == [name]
    blobs.path(name).write_bytes(data[:100])
    assert blobs.read(name) is None
    blobs.write(data, name)  # as it should be again
    assert blobs.read(name) == data
    blobs.remove(name)
    blobs.remove(name)
    assert list(blobs.names(int(name[:2], 16))) == []


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", "0" * 63, "0" * 65, "g" * 64, "0" * 62 + "/."]
)
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        BlobStore(tmp_path).path(name)


def test_identifiers_sort_by_time() -> None:
    made = [new_identifier() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert all(map(is_identifier, made[:10]))
    assert first_of(time_of(made[0])) <= made[0]
    assert first_of(time_of(made[-1]) + 1000) > made[-1]
    assert int(made[0][12], 16) == 7  # the version
    assert first_of(-5) == "0" * 32


# ---- migrations --------------------------------------------------------------------------------------


def test_the_migrations_make_what_the_schema_says(empty: Database) -> None:
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.METADATA) == []
    assert database.revision(empty) == database.LATEST
    assert "up to date" in database.migrate(empty)


def test_an_older_file_is_copied_then_migrated(tmp_path: Path) -> None:
    found = open_database(None, tmp_path)
    database.upgrade(found, database.FIRST)
    with transaction(found) as change:
        change.chain.append("test", "kept", "x", {})
    assert database.FIRST in database.require_ready(found)
    assert database.revision(found) == database.LATEST
    with found.read() as connection:
        assert audit.head(connection).sequence == 1
    (copy,) = tmp_path.glob("*.backup")
    with sqlite3.connect(copy) as old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == (database.FIRST,)
        assert old.execute("SELECT count(*) FROM audit").fetchone() == (1,)
    old.close()
    found.close()


def test_an_older_postgresql_is_migrated_when_told(
    goodparts: Run, postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.new_database()
    found = open_database(url, tmp_path)
    database.upgrade(found, database.FIRST)
    with pytest.raises(DatabaseError, match="goodparts server migrate"):
        database.require_ready(found)
    ran = goodparts("server", "migrate", "--database", url)
    assert (ran.code, f"from {database.FIRST} to {database.LATEST}" in ran.out) == (0, True)
    assert database.require_ready(found) == ""
    found.close()


def test_what_is_no_history_of_this_version_is_refused(tmp_path: Path) -> None:
    found = open_database(None, tmp_path)
    with found.write() as connection:
        connection.execute(text("CREATE TABLE others (x INTEGER)"))
    with pytest.raises(DatabaseError, match="another program"):
        database.revision(found)
    with found.write() as connection:
        connection.execute(text("DROP TABLE others"))
    database.migrate(found)
    with found.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer goodparts"):
        database.require_ready(found)
    found.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///x", "needs no URL"),
        ("mysql://x", "expected postgresql"),
        ("x", "expected a URL"),
        ("postgresql://nobody@127.0.0.1:1/x", "can't be used"),
    ],
)
def test_a_database_that_does_not_do_is_told(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(DatabaseError, match=words):
        database.migrate(open_database(url, tmp_path))
