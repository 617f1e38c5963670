"""Accounts in the database; passwords as argon2id."""

from __future__ import annotations

import re
import secrets
import threading
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, func, select

from goodparts.server.access.permissions import ADMINISTRATOR, ROLES
from goodparts.server.faults import Conflict, Invalid, NotFound
from goodparts.server.history import audit, schema
from goodparts.server.history.rows import Row, row_of, rows_of
from goodparts.server.history.writer import Transaction

FIRST = "admin"
"""The account that is made at the first start."""
LEAST_LENGTH, MOST_LENGTH = 10, 200  # of passwords
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASHER = PasswordHasher()
_HASHING = threading.BoundedSemaphore(2)  # each takes 64 MiB


def get(connection: Connection, name: str) -> Row | None:
    """The row of an account."""
    found = select(schema.accounts).where(schema.accounts.c.name == name)
    return row_of(connection, found)


def every(connection: Connection) -> list[Row]:
    """All accounts, by name."""
    return rows_of(connection, select(schema.accounts).order_by(schema.accounts.c.name))


def add(transaction: Transaction, actor: str, name: str, password: str, role: str) -> dict[str, Any]:
    """Make an account; its row.

    Raises:
        Invalid: the name, password or role does not do.
        Conflict: there is one of that name.
    """
    require_name(name)
    _require_role(role)
    if get(transaction.connection, name) is not None:
        raise Conflict(f"there is an account {name!r} already")
    row: dict[str, Any] = {
        "name": name,
        "password": hash_password(password),
        "role": role,
        "active": True,
        "created": audit.now(),
    }
    transaction.connection.execute(schema.accounts.insert(), row)
    transaction.chain.append_row(actor, "account.added", schema.accounts, row, name)
    return row


def change(
    transaction: Transaction,
    actor: str,
    name: str,
    *,
    password: str | None = None,
    role: str | None = None,
    active: bool | None = None,
) -> dict[str, Any]:
    """Change an account; its row. Whoever is logged in with it is logged out.

    Raises:
        NotFound: there is no such account.
        Invalid: the password or role does not do.
        Conflict: no administrator would be left.
    """
    before = get(transaction.connection, name)
    if before is None:
        raise NotFound(f"there is no account {name!r}")
    row = dict(before)
    if password is not None:
        row["password"] = hash_password(password)
    if role is not None:
        _require_role(role)
        row["role"] = role
    if active is not None:
        row["active"] = active
    stays = row["role"] == ADMINISTRATOR and row["active"]
    if _is_last_administrator(transaction.connection, before) and not stays:
        raise Conflict("this is the last administrator; make another one first")
    columns = schema.accounts.c
    transaction.connection.execute(schema.accounts.update().where(columns.name == name).values(row))
    transaction.connection.execute(schema.sessions.delete().where(schema.sessions.c.account == name))
    transaction.chain.append_row(actor, "account.changed", schema.accounts, row, name)
    return row


def add_first(transaction: Transaction) -> str | None:
    """Make the first administrator where there is no account at all; its password, which nobody can read again."""
    if transaction.connection.execute(select(func.count()).select_from(schema.accounts)).scalar_one():
        return None
    password = secrets.token_urlsafe(15)
    add(transaction, "goodparts", FIRST, password, ADMINISTRATOR)
    return password


def hash_password(password: str) -> str:
    """As it is kept; Invalid where it is too short or too long."""
    if not LEAST_LENGTH <= len(password) <= MOST_LENGTH:
        raise Invalid(f"a password has {LEAST_LENGTH} to {MOST_LENGTH} characters")
    with _HASHING:
        return _HASHER.hash(password.encode("utf-8", "surrogatepass"))


def verify_password(row: Row | None, password: str) -> bool:
    """Whether this is the password of an account; takes as long where there is no such account."""
    kept = _nobodys() if row is None else str(row["password"])
    try:
        with _HASHING:
            _HASHER.verify(kept, password.encode("utf-8", "surrogatepass")[:1000])
    except (Argon2Error, InvalidHashError):
        return False
    return row is not None and bool(row["active"])


def require_name(name: str) -> None:
    """Raise Invalid for what can't be the name of an account."""
    if not _NAME.fullmatch(name):
        raise Invalid("a name has up to 64 of A-Z a-z 0-9 . _ @ - and begins with a letter or digit")


def _require_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"role: expected {', '.join(ROLES)}")


def _is_last_administrator(connection: Connection, row: Row) -> bool:
    columns = schema.accounts.c
    found = select(func.count()).where(columns.role == ADMINISTRATOR, columns.active.is_(True))
    return row["role"] == ADMINISTRATOR and row["active"] and connection.execute(found).scalar_one() < 2


@cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_bytes(16))
