"""What every request passes: an identifier, limits, headers that keep browsers strict, a line in the log; never
a trace."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from goodparts.server.access.gate import Gate
from goodparts.server.faults import Fault, TooLarge
from goodparts.server.logs import REQUEST

_LOGGER = logging.getLogger("goodparts.server.requests")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SMALL = 64 * 1024  # bytes of a request that brings no image
_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_POLICY = b"content-security-policy"
_OF_DATA = f"default-src 'none'; {_CLOSED}".encode()
_OF_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    f"{_CLOSED}"
).encode()
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_PATIENCE, _DRAINED = 2.0, 64 * 2**20  # seconds and bytes for what is still sent to a request that is refused
_TLS_ONLY = ("strict-transport-security", "max-age=31536000")


class Boundary:
    """Around the whole application; pure ASGI, so bodies stream through it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate,
        max_bytes: int,
        tls: bool,
        observe: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._gate, self._max_bytes, self._observe = app, gate, max_bytes, observe
        headers = {**_HEADERS, **({_TLS_ONLY[0]: _TLS_ONLY[1]} if tls else {})}
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._own = {_POLICY, *(name for name, _ in self._headers)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; others (lifespan) go through as they are, and web sockets are refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request"] = request
        REQUEST.set(request)
        status = 0
        limited = _Limited(receive, self._limit(scope["path"]))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and "expect" not in headers:
                    await limited.drain()
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in self._own]
                if not any(name.lower() == b"cache-control" for name, _ in kept):
                    kept.append((b"cache-control", b"no-store"))
                own = [*self._headers, (_POLICY, _policy(kept)), (b"x-request-id", request.encode())]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        try:
            self._gate.require_origin(scope["method"], headers)
            limited.require(headers.get("content-length"))
            await self._app(scope, limited, answer)
        except Fault as fault:
            if not status:
                await _refuse(answer, fault, request)
        except ClientDisconnect:
            status = status or 499  # nobody is there any more to be answered
        except Exception:
            _LOGGER.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await _refuse(answer, _Failed("something went wrong here; the log knows more"), request)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, scope["method"], status, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            facts = {"method": scope["method"], "path": scope["path"], "status": status, "client": client}
            _LOGGER.info(
                "%s %s %s %d %.1f ms",
                client,
                scope["method"],
                scope["path"],
                status,
                1000 * seconds,
                extra={"facts": {**facts, "ms": round(1000 * seconds, 1)}, "request": request},
            )

    def _limit(self, path: str) -> int:
        return self._max_bytes if path.endswith(("/inspections", "/batches", "/images")) else SMALL


def _policy(headers: list[tuple[bytes, bytes]]) -> bytes:
    """What a browser may do with an answer: a page loads this service's scripts, styles and images, data nothing."""
    kinds = (value for name, value in headers if name.lower() == b"content-type")
    return _OF_PAGES if next(kinds, b"").startswith(b"text/html") else _OF_DATA


class _Limited:
    """A request's body, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._received = receive, limit, 0
        self._whole = False

    def require(self, length: str | None) -> None:
        """Raise TooLarge for what says beforehand that it is."""
        if length is not None and (
            not length.isascii() or not length.isdigit() or int(length[:20]) > self._limit
        ):
            raise self._fault()

    async def __call__(self) -> Message:
        message = await self._take()
        if self._received > self._limit:
            raise self._fault()
        return message

    async def drain(self) -> None:
        """Let the rest come, up to a few seconds and megabytes: who still sends would not hear why it is refused."""
        end = self._received + _DRAINED
        try:
            async with asyncio.timeout(_PATIENCE):
                while not self._whole and self._received < end:
                    await self._take()
        except TimeoutError:
            pass

    async def _take(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def _fault(self) -> TooLarge:
        return TooLarge(f"a request here has at most {self._limit:,} bytes")


class _Failed(Fault):
    status, code = 500, "failed"


def fault_record(fault: Fault, request: str) -> dict[str, Any]:
    """A fault as it is answered."""
    return {"error": {"code": fault.code, "message": fault.message, "request": request}}


def fault_headers(fault: Fault) -> dict[str, str]:
    """What goes with it."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return headers if fault.status != 401 else {**headers, "WWW-Authenticate": 'Bearer realm="goodparts"'}


async def _refuse(send: Send, fault: Fault, request: str) -> None:
    body = json.dumps(fault_record(fault, request)).encode()
    given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **fault_headers(fault)}
    headers = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
