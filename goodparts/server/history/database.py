"""The database: SQLite in a file beside the images, or PostgreSQL by URL; opened, migrated, and told apart when
it fails."""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, TimeoutError

from goodparts.errors import GoodpartsError

_LOGGER = logging.getLogger(__name__)
FILE_NAME = "history.sqlite"
FIRST, LATEST = "0001", "0003"
_PATIENCE = 30  # seconds that a program waits for another one that writes
_WRITERS = 0x676F6F64  # the number under which PostgreSQL lets one transaction write at a time
_DISK_FULL = "53100"  # PostgreSQL's code


class DatabaseError(GoodpartsError):
    """The database can't be used as it is."""


@dataclass(frozen=True)
class Database:
    """Two ways into one database: one at a time may write, any number may read.

    Attributes:
        writing, reading: engines of SQLAlchemy.
        path: of the file, for SQLite.
    """

    writing: Engine
    reading: Engine
    path: Path | None

    @property
    def shown(self) -> str:
        """Where it is, without a password."""
        return str(self.path) if self.path else self.reading.url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; others that write wait, in other processes too."""
        with self.writing.begin() as connection:
            if self.path is None:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITERS})
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads."""
        with self.reading.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that reads everything as it is at one moment, whatever is written meanwhile."""
        options = {} if self.path else {"isolation_level": "REPEATABLE READ"}
        with self.reading.connect().execution_options(**options) as connection:
            yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self.writing.dispose()
        self.reading.dispose()


def open_database(url: str | None, folder: Path, *, durable: bool = True) -> Database:
    """Open PostgreSQL by URL, or the SQLite file in a folder; nothing is made or migrated.

    Args:
        url: such as postgresql://user:password@host/name; None for SQLite.
        folder: where SQLite's file is.
        durable: whether a commit waits for the disk even where only a power cut could lose it.

    Raises:
        DatabaseError: the URL is none, or of another kind of database.
    """
    if url is None or url.startswith("sqlite"):
        if url is not None:
            raise DatabaseError(
                "database: SQLite needs no URL; leave `database` out and give the folder as `data`"
            )
        path = folder / FILE_NAME
        return Database(
            _sqlite(path, begin="BEGIN IMMEDIATE", durable=durable, connections=1),
            _sqlite(path, begin="BEGIN", durable=durable, connections=8),
            path,
        )
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError("database: expected a URL such as postgresql://user:password@host/name") from None
    if parsed.get_backend_name() != "postgresql":
        raise DatabaseError(
            f"database: expected postgresql://..., found {parsed.get_backend_name()}; without a URL, SQLite is used"
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise DatabaseError(
            "database: PostgreSQL needs the package psycopg: pip install 'goodparts[server,postgresql]'"
        ) from None
    parsed = parsed.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"connect_args": {"connect_timeout": 5}}
    return Database(
        create_engine(parsed, pool_size=1, max_overflow=4, **options),
        create_engine(parsed, pool_size=8, max_overflow=8, pool_pre_ping=True, **options),
        None,
    )


def _sqlite(path: Path, *, begin: str, durable: bool, connections: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _PATIENCE, "check_same_thread": False},
        pool_size=connections,
        max_overflow=connections,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy says when a transaction begins
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA cache_size=-16000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_so(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


# ---- migrations --------------------------------------------------------------------------------------


def revision(database: Database) -> str | None:
    """Which step of the migrations a database is at; None where it is empty.

    Raises:
        DatabaseError: it can't be reached, or holds something else.
    """
    if database.path is not None and not database.path.exists():
        return None
    try:
        with database.read() as connection:
            tables = inspect(connection).get_table_names()
            if "alembic_version" in tables:
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
                return None if found is None else str(found)
            if tables:
                raise DatabaseError(
                    f"{database.shown}: holds tables of another program ({', '.join(sorted(tables)[:3])}); "
                    "give goodparts a database of its own"
                )
            return None
    except DBAPIError as error:
        raise unreachable(database, error) from error


def migrate(database: Database) -> str:
    """Bring a database to the latest step; a copy of an older SQLite file is kept beside it. Says what was done.

    Raises:
        DatabaseError: it can't be reached or written, or is newer than this program.
    """
    before = revision(database)
    if before == LATEST:
        return f"{database.shown}: up to date ({LATEST})"
    if before is not None and before > LATEST:
        raise DatabaseError(
            f"{database.shown}: was written by a newer goodparts (step {before}, known here: {LATEST}); "
            "install that version or later"
        )
    copy = ""
    if database.path is not None:
        database.path.parent.mkdir(parents=True, exist_ok=True)
        if before is not None:
            kept = database.path.with_name(f"{FILE_NAME}.{before}-{time.strftime('%Y%m%dT%H%M%S')}.backup")
            back_up(database.path, kept)
            copy = f"; the file as it was: {kept}"
    upgrade(database)
    return f"{database.shown}: {'made' if before is None else f'brought from {before}'} to {LATEST}{copy}"


def upgrade(database: Database, to: str = "head") -> None:
    """Run the migrations up to a step; DatabaseError as `migrate`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    try:
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    except DBAPIError as error:
        raise unreachable(database, error) from error


def back_up(path: Path, copy: Path) -> None:
    """A whole copy of a SQLite database, whatever is going on in it; DatabaseError where it can't be written."""
    unfinished = copy.with_name(copy.name + ".part")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
        unfinished.replace(copy)
    except (sqlite3.Error, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise DatabaseError(f"{copy}: the backup can't be written ({error}); free some space") from error


def require_ready(database: Database) -> str:
    """Make an empty database, migrate an older SQLite file; says what was done, if anything.

    Raises:
        DatabaseError: PostgreSQL is older (the message says how to migrate it), or as `migrate`.
    """
    before = revision(database)
    if before == LATEST:
        return ""
    if before is not None and before < LATEST and database.path is None:
        raise DatabaseError(
            f"{database.shown}: is at step {before}, this version needs {LATEST}; make a backup (pg_dump), then run "
            "`goodparts server migrate --database URL`"
        )
    return migrate(database)


# ---- what a failure means ----------------------------------------------------------------------------


def is_full(error: BaseException | None) -> bool:
    """Whether a database or disk has no room left; also where that made what came after it fail."""
    while error is not None:
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, OSError) and original.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if getattr(original, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        if getattr(original, "sqlstate", None) == _DISK_FULL:
            return True
        error = error.__context__
    return False


def in_transaction(connection: Connection) -> bool:
    """Whether a transaction is still open: SQLite ends it by itself when its disk is full or fails."""
    open_now = getattr(connection.connection.dbapi_connection, "in_transaction", None)
    return open_now is not False


def is_lost(error: BaseException) -> bool:
    """Whether the database could not be reached, or was busy for too long: worth another try."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # of SQLAlchemy's pool: no connection was free
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (isinstance(error, OperationalError) and _passes(state))


def _passes(state: str | None) -> bool:
    """Whether PostgreSQL's reason goes by itself: no connection, starting or stopping, too many at a time."""
    return state is None or state[:2] in ("08", "53", "57", "40")


def unreachable(database: Database, error: DBAPIError) -> DatabaseError:
    """What to tell the user when a database does not answer as it should."""
    reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
    return DatabaseError(f"{database.shown}: can't be used ({reason}); check that it runs and who may use it")
