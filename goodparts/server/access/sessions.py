"""Sessions of a browser: a signed cookie that names a row. Logging out, a new password or another role ends them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from goodparts.server.access.permissions import Identity, permissions_of
from goodparts.server.history import audit, schema
from goodparts.server.history.canonical import digest
from goodparts.server.history.rows import row_of
from goodparts.server.history.writer import Transaction

COOKIE = "goodparts_session"
HOURS = 12  # that a session lasts
_KEY_FILE = "session.key"


def load_key(folder: Path) -> bytes:
    """The key that cookies are signed with, made at the first start; only its owner may read it."""
    path = folder / _KEY_FILE
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            stream.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    key = path.read_bytes()
    if len(key) != 32:
        path.unlink()
        return load_key(folder)
    return key


def begin(transaction: Transaction, key: bytes, account: str) -> tuple[str, str]:
    """Log an account in: the cookie's value, and the CSRF token."""
    name, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), audit.now()
    sessions = schema.sessions
    transaction.connection.execute(sessions.delete().where(sessions.c.expires <= now))
    row: dict[str, Any] = {
        "key": digest(name),
        "account": account,
        "csrf": csrf,
        "created": now,
        "expires": now + HOURS * 3_600_000_000,
    }
    transaction.connection.execute(sessions.insert(), row)
    transaction.chain.append(account, "session.begun", account, {})
    return f"{name}.{_sign(key, name)}", csrf


def end(transaction: Transaction, key: bytes, cookie: str) -> None:
    """Log out."""
    if (name := _name(key, cookie)) is not None:
        sessions = schema.sessions
        transaction.connection.execute(sessions.delete().where(sessions.c.key == digest(name)))


def identify(connection: Connection, key: bytes, cookie: str) -> Identity | None:
    """Whose session this is; None where the cookie is not ours, or the session is over."""
    name = _name(key, cookie)
    if name is None:
        return None
    sessions, accounts = schema.sessions, schema.accounts
    found = (
        select(sessions.c.csrf, sessions.c.expires, accounts.c.name, accounts.c.role, accounts.c.active)
        .join(accounts, accounts.c.name == sessions.c.account)
        .where(sessions.c.key == digest(name))
    )
    row = row_of(connection, found)
    if row is None or not row["active"] or row["expires"] <= audit.now():
        return None
    role = str(row["role"])
    return Identity(str(row["name"]), role, permissions_of(role), by="session", csrf=str(row["csrf"]))


def _name(key: bytes, cookie: str) -> str | None:
    name, _, signature = cookie.partition(".")
    if not cookie.isascii() or not hmac.compare_digest(_sign(key, name), signature):
        return None
    return name


def _sign(key: bytes, name: str) -> str:
    return hmac.new(key, name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
