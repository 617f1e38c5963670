"""The gate: who asks, and whether they may. What was looked up is remembered for a few seconds."""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from sqlalchemy import Connection
from starlette.requests import HTTPConnection

from goodparts.server.access import accounts, sessions, tokens
from goodparts.server.access.permissions import ADMINISTRATOR, OPERATOR, ROLES, Identity, permissions_of
from goodparts.server.faults import NotAllowed, NotLoggedIn
from goodparts.server.history.canonical import digest
from goodparts.server.history.database import Database
from goodparts.server.settings import Settings

REMEMBERED = 5.0  # seconds for which a token or session is not looked up again
_MOST = 1000
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-csrf-token"
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Gate:
    """Says who asks. Any thread may ask."""

    def __init__(self, settings: Settings, database: Database, key: bytes) -> None:
        self._settings, self._database, self._key = settings, database, key
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    def forget(self) -> None:
        """Look everybody up anew: an account, a session or a token has changed."""
        with self._lock:
            self._seen.clear()

    def address(self, request: HTTPConnection) -> str:
        """Where a request comes from; as a trusted proxy says, behind one."""
        peer = request.client.host if request.client else ""
        if peer == self._settings.trusted_proxy:
            forwarded = request.headers.get("x-forwarded-for", "").rsplit(",", 1)[-1].strip()
            return forwarded[:64] or peer
        return peer

    def remembered(self, request: HTTPConnection) -> Identity | None:
        """Who asks, where that takes no look into the database; else None."""
        credential = self._credential(request)
        if credential is None:
            return self._without_credential(request)
        return self._lookup(digest("\0".join(credential)))

    def identify(self, request: HTTPConnection) -> Identity:
        """Who asks; NotLoggedIn where nobody knows."""
        credential = self._credential(request)
        if credential is None:
            found = self._without_credential(request)
            if found is None:
                raise NotLoggedIn("log in, or send `Authorization: Bearer TOKEN`")
            return found
        name = digest("\0".join(credential))
        if (known := self._lookup(name)) is not None:
            return known
        with self._database.read() as connection:
            found = self._look_up(connection, *credential)
        if found is None:
            raise NotLoggedIn("this token or session is not known, or is over")
        with self._lock:
            self._seen[name] = (time.monotonic() + REMEMBERED, found)
            while len(self._seen) > _MOST:
                self._seen.popitem(last=False)
        return found

    def require(self, request: HTTPConnection, identity: Identity, permission: str | None) -> Identity:
        """The identity, if it may do this; NotAllowed."""
        if permission is not None and permission not in identity.permissions:
            raise NotAllowed(f"this needs the permission `{permission}`")
        if identity.by == "session" and request.scope["method"] not in SAFE:
            sent = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(sent.encode("utf-8", "replace"), identity.csrf.encode()):
                raise NotAllowed("the header X-CSRF-Token has to have what the log-in gave")
        return identity

    def require_origin(self, method: str, headers: dict[str, str]) -> None:
        """Raise NotAllowed for what a page of somebody else's has a browser send, or for a strange name of this
        host."""
        host = headers.get("host", "")
        if not self._settings.login:
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            if name.lower() not in LOCAL_HOSTS:
                raise NotAllowed("without a log-in only requests to localhost are answered")
        if method in SAFE:
            return
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") or foreign:
            raise NotAllowed("a page of another origin may not do this")

    def _credential(self, request: HTTPConnection) -> tuple[str, str] | None:
        authorization = request.headers.get("authorization")
        if authorization is not None:
            return "token", authorization
        if self._proxied(request) is None and (cookie := request.cookies.get(sessions.COOKIE)) is not None:
            return "session", cookie
        return None

    def _without_credential(self, request: HTTPConnection) -> Identity | None:
        proxied = self._proxied(request)
        if proxied is not None:
            return proxied
        if not self._settings.login:
            return Identity("nobody", ADMINISTRATOR, permissions_of(ADMINISTRATOR), by="nobody")
        return None

    def _proxied(self, request: HTTPConnection) -> Identity | None:
        proxy = self._settings.trusted_proxy
        if proxy is None or request.client is None or request.client.host != proxy:
            return None
        name = request.headers.get(self._settings.user_header, "")
        role = request.headers.get(self._settings.role_header, OPERATOR).strip().lower()
        if not name:
            return None
        accounts.require_name(name)
        if role not in ROLES:
            raise NotAllowed(f"the proxy names a role that is none; expected {', '.join(ROLES)}")
        return Identity(name, role, permissions_of(role), by="proxy")

    def _look_up(self, connection: Connection, kind: str, value: str) -> Identity | None:
        if kind == "session":
            return sessions.identify(connection, self._key, value)
        scheme, _, token = value.partition(" ")
        return tokens.identify(connection, token.strip()) if scheme.lower() == "bearer" else None

    def _lookup(self, name: str) -> Identity | None:
        with self._lock:
            until, identity = self._seen.get(name, (0.0, None))
        return identity if time.monotonic() < until else None
