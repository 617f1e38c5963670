"""Roles, and what each may do. A token has some of these permissions, never more than its account's role."""

from __future__ import annotations

from dataclasses import dataclass

OPERATOR, REVIEWER, ENGINEER, ADMINISTRATOR = ROLES = ("operator", "reviewer", "engineer", "administrator")

PERMISSIONS = {
    "inspect": "hand in images",
    "read": "see inspections, images, models, drift and events",
    "metrics": "read /metrics",
    "review": "say of an inspection what is true",
    "export": "take a range of the history away",
    "models": "learn models, set thresholds, choose which version serves",
    "audit": "see the audit chain",
    "administer": "accounts, and the tokens of others",
}
"""Each permission, and what it allows."""

_ADDED = {
    OPERATOR: ("inspect", "read", "metrics"),
    REVIEWER: ("review", "export"),
    ENGINEER: ("models", "audit"),
    ADMINISTRATOR: ("administer",),
}


def permissions_of(role: str) -> frozenset[str]:
    """What a role may do: its own, and what the roles below it may."""
    upto = ROLES[: ROLES.index(role) + 1] if role in ROLES else ()
    return frozenset(permission for one in upto for permission in _ADDED[one])


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        name: of the account.
        role: of the account.
        permissions: what may be done.
        by: how we know: "session", "token", "proxy", or "nobody" where no log-in is needed.
        csrf: what a form has to send back; only with a session.
    """

    name: str
    role: str
    permissions: frozenset[str]
    by: str
    csrf: str = ""
