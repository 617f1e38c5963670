"""The application: routes, and what becomes of faults."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from goodparts.server.answers import Json
from goodparts.server.faults import Fault, HistoryFullError, HistoryUnavailable, Invalid
from goodparts.server.history.database import is_lost
from goodparts.server.middleware import Boundary, fault_headers, fault_record
from goodparts.server.pages import addresses
from goodparts.server.routes import (
    accounts,
    deciding,
    inspections,
    learning,
    live,
    models,
    reviewing,
    system,
    views,
)
from goodparts.server.service import Service
from goodparts.version import __version__

_LOGGER = logging.getLogger(__name__)
_WORDS = {
    404: ("not_found", "there is nothing here"),
    405: ("method", "this address does not take that method"),
}


def make_app(service: Service) -> ASGIApp:
    """The whole application around a service that has started; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="goodparts",
        version=__version__,
        summary="Visual inspection over HTTP, with a history that can be trusted.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    for routes in (
        inspections,
        views,
        reviewing,
        live,
        models,
        deciding,
        learning,
        accounts,
        system,
        addresses,
    ):
        app.include_router(routes.router)
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(SQLAlchemyError, _on_database)
    app.add_exception_handler(HistoryFullError, _on_database)
    _describe_security(app)

    def observe(route: str, method: str, status: int, seconds: float) -> None:
        service.metrics.requests.labels(route, method, str(status)).observe(seconds)

    return Boundary(
        app,
        gate=service.gate,
        max_bytes=service.settings.max_bytes,
        tls=service.settings.certificate is not None,
        observe=observe,
    )


def _answer(request: Request, fault: Fault) -> Response:
    record = fault_record(fault, request.state.request)
    return Json(record, status_code=fault.status, headers=fault_headers(fault))


async def _on_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    return _answer(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, words = _WORDS.get(error.status_code, ("bad_request", "this request can't be read"))
    record = {"error": {"code": code, "message": words, "request": request.state.request}}
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_of(request)))
    return Json(record, status_code=error.status_code, headers=headers)


def _methods_of(request: Request) -> set[str]:
    """What an address takes: of all routes there, not of the first alone."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    return found


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc']))[:100]}: {one['msg']}" for one in error.errors()[:5]]
    return _answer(request, Invalid("; ".join(told)))


async def _on_database(request: Request, error: Exception) -> Response:
    """The database is out of reach, or its disk full: both pass."""
    if isinstance(error, HistoryFullError):
        return _answer(request, HistoryUnavailable("the history's disk is full", retry_after=60))
    if is_lost(error):
        return _answer(
            request, HistoryUnavailable("the history can't be reached; try again later", retry_after=5)
        )
    raise error


def _describe_security(app: FastAPI) -> None:
    """Say in the OpenAPI document how one shows who one is."""
    make = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            schema.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "goodparts_session"},
            }
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    if path not in ("/healthz", "/readyz", "/api/v1/login"):
                        operation["security"] = [{"token": []}, {"session": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
