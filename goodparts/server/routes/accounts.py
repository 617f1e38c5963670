"""Logging in and out, accounts, tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.server.access import accounts, sessions, tokens
from goodparts.server.access.permissions import Identity, permissions_of
from goodparts.server.answers import (
    AccountAnswer,
    AccountBody,
    AccountChange,
    IdentityAnswer,
    Json,
    LoginBody,
    NewTokenAnswer,
    PasswordBody,
    TokenAnswer,
    TokenBody,
)
from goodparts.server.faults import Invalid, NotAllowed, NotFound, NotLoggedIn
from goodparts.server.history.export import time_text
from goodparts.server.history.writer import Transaction
from goodparts.server.routes.asked import AskedService, faults, needs
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1", tags=["accounts"])
AccountName = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$", examples=["admin"])]


@router.post("/login", response_model=IdentityAnswer, responses=faults(429))
async def login(request: Request, service: AskedService, body: LoginBody) -> Response:
    """Log in; the answer sets the cookie of a session. Attempts are slowed, by address and by account."""
    service.attempts.take(f"address {service.gate.address(request)}", f"account {body.account}")
    row = await run_in_threadpool(_account, service, body.account)
    if not await run_in_threadpool(accounts.verify_password, row, body.password):
        raise NotLoggedIn("this account and password don't go together")

    def begin(transaction: Transaction) -> tuple[str, str]:
        return sessions.begin(transaction, service.key, body.account)

    cookie, csrf = await asyncio.wrap_future(service.submit(begin))
    role = str(_account_role(row))
    response = Json(_identity(Identity(body.account, role, permissions_of(role), "session", csrf)))
    response.set_cookie(
        sessions.COOKIE,
        cookie,
        max_age=sessions.HOURS * 3600,
        httponly=True,
        samesite="strict",
        secure=service.settings.certificate is not None,
        path="/",
    )
    return response


@router.post("/logout", status_code=204, response_class=Response, responses=faults())
async def logout(
    request: Request, service: AskedService, identity: Annotated[Identity, Depends(needs(None))]
) -> Response:
    """End the session."""
    cookie = request.cookies.get(sessions.COOKIE)
    if identity.by == "session" and cookie is not None:
        await asyncio.wrap_future(service.submit(lambda change: sessions.end(change, service.key, cookie)))
        service.gate.forget()
    response = Response(status_code=204)
    response.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict")
    return response


@router.get("/me", response_model=IdentityAnswer, responses=faults())
async def me(identity: Annotated[Identity, Depends(needs(None))]) -> Response:
    """Who asks, and what may be done."""
    return Json(_identity(identity))


@router.post("/me/password", status_code=204, response_class=Response, responses=faults(404, 429))
async def change_password(
    request: Request,
    service: AskedService,
    body: PasswordBody,
    identity: Annotated[Identity, Depends(needs(None))],
) -> Response:
    """Change one's own password; every session of the account ends."""
    if identity.by != "session":
        raise NotAllowed("only who is logged in with a password can change it")
    service.attempts.take(f"address {service.gate.address(request)}", f"account {identity.name}")
    row = await run_in_threadpool(_account, service, identity.name)
    if not await run_in_threadpool(accounts.verify_password, row, body.old):
        raise NotAllowed("this is not the password until now")
    await _change(service, identity, identity.name, password=body.new)
    return Response(status_code=204)


@router.get("/accounts", response_model=list[AccountAnswer], responses=faults())
async def list_accounts(
    service: AskedService, _: Annotated[Identity, Depends(needs("administer"))]
) -> Response:
    """All accounts."""

    def read() -> list[dict[str, Any]]:
        with service.database.read() as connection:
            return [_account_record(row) for row in accounts.every(connection)]

    return Json(await run_in_threadpool(read))


@router.post("/accounts", response_model=AccountAnswer, status_code=201, responses=faults(409))
async def add_account(
    service: AskedService, body: AccountBody, identity: Annotated[Identity, Depends(needs("administer"))]
) -> Response:
    """Make an account."""

    def add(transaction: Transaction) -> dict[str, Any]:
        return accounts.add(transaction, identity.name, body.name, body.password, body.role)

    return Json(_account_record(await asyncio.wrap_future(service.submit(add))), status_code=201)


@router.patch("/accounts/{name}", response_model=AccountAnswer, responses=faults(404, 409))
async def change_account(
    service: AskedService,
    name: AccountName,
    body: AccountChange,
    identity: Annotated[Identity, Depends(needs("administer"))],
) -> Response:
    """Change an account's password or role, or close it; its sessions end."""
    row = await _change(service, identity, name, password=body.password, role=body.role, active=body.active)
    return Json(_account_record(row))


@router.get("/tokens", response_model=list[TokenAnswer], responses=faults())
async def list_tokens(
    service: AskedService,
    identity: Annotated[Identity, Depends(needs(None))],
    everybody: Annotated[bool, Query(alias="all", description="of all accounts; for administrators")] = False,
) -> Response:
    """One's own tokens, or everybody's."""
    if everybody and "administer" not in identity.permissions:
        raise NotAllowed("this needs the permission `administer`")

    def read() -> list[dict[str, Any]]:
        with service.database.read() as connection:
            return [
                _token_record(row) for row in tokens.every(connection, None if everybody else identity.name)
            ]

    return Json(await run_in_threadpool(read))


@router.post("/tokens", response_model=NewTokenAnswer, status_code=201, responses=faults(404))
async def add_token(
    service: AskedService, body: TokenBody, identity: Annotated[Identity, Depends(needs(None))]
) -> Response:
    """Make a token for one's own account, with at most what its role may do. It is shown this once."""
    if identity.by == "token":
        raise NotAllowed("a token can't make tokens; log in")
    if await run_in_threadpool(_account, service, identity.name) is None:
        raise NotAllowed("a token needs an account of this service; `goodparts server account add` makes one")

    def add(transaction: Transaction) -> tuple[str, dict[str, Any]]:
        return tokens.add(
            transaction, identity.name, identity.name, body.name, body.scopes, body.days, identity.role
        )

    token, row = await asyncio.wrap_future(service.submit(add))
    return Json({**_token_record(row), "token": token}, status_code=201)


@router.delete("/tokens/{token}", status_code=204, response_class=Response, responses=faults(404))
async def revoke_token(
    service: AskedService,
    token: Annotated[str, Path(pattern="^[0-9a-f]{16}$", examples=["0123456789abcdef"])],
    identity: Annotated[Identity, Depends(needs(None))],
) -> Response:
    """End a token: one's own, or as an administrator anybody's."""
    of = None if "administer" in identity.permissions else identity.name
    await asyncio.wrap_future(
        service.submit(lambda change: tokens.revoke(change, identity.name, token, of=of))
    )
    service.gate.forget()
    return Response(status_code=204)


# ---- inside ------------------------------------------------------------------------------------------


async def _change(service: Service, identity: Identity, name: str, **changes: Any) -> dict[str, Any]:
    def change(transaction: Transaction) -> dict[str, Any]:
        return accounts.change(transaction, identity.name, name, **changes)

    row = await asyncio.wrap_future(service.submit(change))
    service.gate.forget()
    return row


def _account(service: Service, name: str) -> Any:
    try:
        accounts.require_name(name)
    except Invalid:
        return None
    with service.database.read() as connection:
        return accounts.get(connection, name)


def _account_role(row: Mapping[str, Any] | None) -> str:
    if row is None:
        raise NotFound("there is no such account")
    return str(row["role"])


def _identity(identity: Identity) -> dict[str, Any]:
    return {
        "account": identity.name,
        "role": identity.role,
        "permissions": sorted(identity.permissions),
        "csrf": identity.csrf or None,
    }


def _account_record(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "role": row["role"],
        "active": bool(row["active"]),
        "created": time_text(row["created"]),
    }


def _token_record(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "name", "account")},
        "scopes": json.loads(row["scopes"]),
        "created": time_text(row["created"]),
        "expires": time_text(row["expires"]),
        "revoked": bool(row["revoked"]),
    }
