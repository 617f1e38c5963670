"""How the service is: health, metrics, events, the audit chain's head."""

from __future__ import annotations

import json
import os
import platform
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.server import metrics
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import AuditAnswer, EventAnswer, HeadAnswer, HealthAnswer, Json, SystemAnswer
from goodparts.server.history import audit, schema
from goodparts.server.history.export import time_text
from goodparts.server.history.pages import MOST
from goodparts.server.history.rows import rows_of
from goodparts.server.routes.asked import AskedService, faults, needs
from goodparts.version import __version__

router = APIRouter(tags=["system"])


@router.get("/healthz", response_model=HealthAnswer)
async def health() -> Response:
    """Whether the process answers; open to all."""
    return Json({"status": "ok"})


@router.get(
    "/readyz", response_model=HealthAnswer, responses={503: {"model": HealthAnswer, "description": "Not now"}}
)
async def ready(service: AskedService) -> Response:
    """Whether images can be inspected and recorded; open to all. `degraded`: they are, but images can't be kept."""

    def ask() -> bool:
        try:
            with service.database.read() as connection:
                audit.head(connection)
        except SQLAlchemyError:
            return False
        return bool(service.models.names()) and not service.stopping.is_set()

    if not await run_in_threadpool(ask):
        return Json({"status": "unavailable"}, status_code=503)
    return Json({"status": "degraded" if service.room.degraded else "ready"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "For Prometheus"}, **faults()},
)
async def read_metrics(service: AskedService, _: Annotated[Identity, Depends(needs("metrics"))]) -> Response:
    """Latencies, verdicts, queue, storage and drift, for Prometheus."""
    text = await run_in_threadpool(service.metrics.text)
    return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


@router.get("/api/v1/system", response_model=SystemAnswer, responses=faults())
async def system(service: AskedService, _: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """Disk, database, queue and processor."""

    def read() -> dict[str, Any]:
        return {
            "version": __version__,
            "running_seconds": round(time.monotonic() - service.began, 1),
            "database": "SQLite" if service.database.path else "PostgreSQL",
            "available": bool(service.writer.available),
            "stored_bytes": service.room.stored,
            "free_bytes": service.blobs.free(),
            "degraded": service.room.degraded,
            "images_lost": service.room.lost,
            "unrecorded": service.pool.unrecorded,
            "queue": service.pool.accepted,
            "queue_limit": service.pool.limit,
            "workers": service.pool.workers,
            "waiting_changes": service.writer.waiting,
            "watchers": service.feed.watchers,
            "models": len(service.models.names()),
            "models_loaded": service.models.loaded,
            "processor": platform.machine(),
            "cores": os.cpu_count() or 1,
        }

    return Json(await run_in_threadpool(read))


@router.get("/api/v1/events", response_model=list[EventAnswer], responses=faults())
async def events(
    service: AskedService,
    _: Annotated[Identity, Depends(needs("read"))],
    before: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> Response:
    """What happened, newest first: drift, models taken up, refused or activated."""
    table = schema.events

    def read(connection: Connection) -> list[dict[str, Any]]:
        found = select(table).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            found = found.where(table.c.id < before)
        return [{**row, "time": time_text(row["time"])} for row in rows_of(connection, found)]

    return Json(await run_in_threadpool(_read, service, read))


@router.get("/api/v1/audit/head", response_model=HeadAnswer, responses=faults())
async def audit_head(service: AskedService, _: Annotated[Identity, Depends(needs("audit"))]) -> Response:
    """The last entry of the audit chain."""
    return Json({"head": await run_in_threadpool(_read, service, lambda found: str(audit.head(found)))})


@router.get("/api/v1/audit", response_model=list[AuditAnswer], responses=faults())
async def audit_entries(
    service: AskedService,
    _: Annotated[Identity, Depends(needs("audit"))],
    after: Annotated[int, Query(ge=0, le=2**53, description="a sequence number: what came after that")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Entries of the audit chain, in order."""
    table = schema.audit

    def read(connection: Connection) -> list[dict[str, Any]]:
        found = select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(limit)
        return [
            {**row, "time": time_text(row["time"]), "details": json.loads(row["details"])}
            for row in rows_of(connection, found)
        ]

    return Json(await run_in_threadpool(_read, service, read))


def _read(service: AskedService, read: Any) -> Any:
    with service.database.read() as connection:
        return read(connection)
