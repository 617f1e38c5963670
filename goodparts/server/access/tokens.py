"""API tokens: `gp_<id>_<secret>`. Only the sha256 of the secret is kept; it has 256 bits, so nobody can guess
it back."""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from goodparts.server.access.permissions import PERMISSIONS, Identity, permissions_of
from goodparts.server.faults import Invalid, NotFound
from goodparts.server.history import audit, schema
from goodparts.server.history.canonical import digest, to_json
from goodparts.server.history.rows import Row, row_of, rows_of
from goodparts.server.history.writer import Transaction

LONGEST = 366  # days that a token may be valid
_DAY = 86_400_000_000  # microseconds
_TOKEN = re.compile(r"gp_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


def add(
    transaction: Transaction, actor: str, account: str, name: str, scopes: Iterable[str], days: int, role: str
) -> tuple[str, dict[str, Any]]:
    """Make a token; what to hand on, which nobody can read again, and its row.

    Raises:
        Invalid: a scope that is none, or that the account's role does not have; too many days.
    """
    wanted = sorted(set(scopes))
    if unknown := [one for one in wanted if one not in PERMISSIONS]:
        raise Invalid(
            f"scopes: {', '.join(unknown)[:100]} is none; expected some of {', '.join(PERMISSIONS)}"
        )
    if not wanted:
        raise Invalid(f"scopes: expected some of {', '.join(PERMISSIONS)}")
    if beyond := [one for one in wanted if one not in permissions_of(role)]:
        raise Invalid(f"scopes: {', '.join(beyond)} is more than the role {role} may do")
    if not 1 <= days <= LONGEST:
        raise Invalid(f"days: expected 1 to {LONGEST}")
    identifier, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    now = audit.now()
    row: dict[str, Any] = {
        "id": identifier,
        "name": name,
        "account": account,
        "secret": digest(secret),
        "scopes": to_json(wanted),
        "created": now,
        "expires": now + days * _DAY,
        "revoked": False,
    }
    transaction.connection.execute(schema.tokens.insert(), row)
    transaction.chain.append_row(actor, "token.added", schema.tokens, row, identifier)
    return f"gp_{identifier}_{secret}", row


def revoke(transaction: Transaction, actor: str, identifier: str, *, of: str | None) -> None:
    """End a token, `of` an account or (None) of anybody; NotFound."""
    columns = schema.tokens.c
    found = select(schema.tokens).where(columns.id == identifier)
    row = row_of(transaction.connection, found)
    if row is None or (of is not None and row["account"] != of):
        raise NotFound("there is no such token")
    changed = {**row, "revoked": True}
    transaction.connection.execute(
        schema.tokens.update().where(columns.id == identifier).values(revoked=True)
    )
    transaction.chain.append_row(actor, "token.revoked", schema.tokens, changed, identifier)


def every(connection: Connection, account: str | None) -> list[Row]:
    """The tokens of an account, or (None) of all."""
    found = select(schema.tokens).order_by(schema.tokens.c.created)
    if account is not None:
        found = found.where(schema.tokens.c.account == account)
    return rows_of(connection, found)


def identify(connection: Connection, token: str) -> Identity | None:
    """Whose token this is; None where it is malformed, unknown, revoked or expired, or its account is closed."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    table = schema.tokens
    found = (
        select(table, schema.accounts.c.role, schema.accounts.c.active)
        .join(schema.accounts, schema.accounts.c.name == table.c.account)
        .where(table.c.id == parts[1])
    )
    row = row_of(connection, found)
    kept = "0" * 64 if row is None else str(row["secret"])
    if not hmac.compare_digest(kept, digest(parts[2])) or row is None:
        return None
    if row["revoked"] or not row["active"] or row["expires"] <= audit.now():
        return None
    allowed = permissions_of(row["role"]) & frozenset(json.loads(row["scopes"]))
    return Identity(row["account"], row["role"], allowed, by="token")
