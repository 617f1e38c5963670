"""What happens now: a stream of events, and the counts of a shift to begin with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from goodparts.server.access.permissions import Identity
from goodparts.server.answers import CountsAnswer, Json, inspection_record
from goodparts.server.faults import Fault
from goodparts.server.history import schema
from goodparts.server.history.identifiers import first_of
from goodparts.server.history.records import one
from goodparts.server.inspection.feed import TRY_LINE, News, Place, Watcher
from goodparts.server.routes.asked import AskedService, faults, needs, time_of_text
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1", tags=["live"])
_STATUS = 2.0  # seconds between two looks at how the service is
_AT_ONCE = 0.2  # seconds for which news are gathered, so that a page is told five times a second at most
_STILL_ALLOWED = 10.0  # seconds between two looks at whether whoever watches still may


@router.get("/stream", include_in_schema=False)
async def stream(
    request: Request, service: AskedService, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """Server-sent events: `results` (per place the last inspection, and counts since the event before), `status`."""
    watcher = service.feed.watch()
    return StreamingResponse(
        _events(request, service, watcher),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(request: Request, service: Service, watcher: Watcher) -> AsyncIterator[str]:
    try:
        yield "retry: 2000\n\n"
        told = allowed = time.monotonic()
        yield _event("status", await run_in_threadpool(_status, service))
        while not watcher.over:
            news = await watcher.take(_STATUS)
            if news:
                yield _event("results", [_tile(place, one) for place, one in news.items()])
                await asyncio.sleep(_AT_ONCE)
            now = time.monotonic()
            if now > allowed + _STILL_ALLOWED:
                allowed = now
                try:
                    await needs("read")(request)
                except Fault:
                    return
            if now > told + _STATUS:
                told = now
                yield _event("status", await run_in_threadpool(_status, service))
    finally:
        service.feed.leave(watcher)


@router.get("/counts", response_model=list[CountsAnswer], responses=faults())
async def counts(
    service: AskedService,
    _: Annotated[Identity, Depends(needs("read"))],
    since: Annotated[str, Query(alias="from", max_length=40, examples=["2026-11-29T06:00:00Z"])],
) -> Response:
    """Counts since a time, of each model, line and camera, with the last inspection there."""
    return Json(await run_in_threadpool(_counts, service, time_of_text("from", since)))


def _counts(service: Service, since: int) -> list[dict[str, Any]]:
    columns = schema.inspections.c
    places = (columns.model, columns.line, columns.camera)
    found = (
        select(*places, columns.verdict, func.count(), func.max(columns.id))
        .where(columns.id >= first_of(since), func.coalesce(columns.line, "") != TRY_LINE)
        .group_by(*places, columns.verdict)
    )
    tiles: dict[Place, dict[str, Any]] = {}
    with service.database.read() as connection:
        for model, line, camera, verdict, count, last in connection.execute(found):
            place = (model, line or "", camera or "")
            tile = tiles.setdefault(place, {"counts": {}, "last": ""})
            tile["counts"][verdict] = tile["counts"].get(verdict, 0) + count
            tile["last"] = max(tile["last"], last)
        newest = sorted(tiles.items(), key=lambda item: str(item[1]["last"]), reverse=True)[:256]
        return [
            {
                **_place(place),
                "counts": tile["counts"],
                "last": inspection_record(one(connection, tile["last"])),
            }
            for place, tile in sorted(newest)
        ]


def _tile(place: Place, news: News) -> dict[str, Any]:
    return {**_place(place), "counts": dict(news.counts), "last": inspection_record(news.last)}


def _place(place: Place) -> dict[str, str]:
    return dict(zip(("model", "line", "camera"), place, strict=True))


def _status(service: Service) -> dict[str, Any]:
    drifting = {}
    for name, watch in list(service.watches.items()):
        reached = [quantity for quantity, level in watch.levels().items() if level >= 1]
        if reached:
            drifting[name] = reached
    return {
        "degraded": service.room.degraded,
        "available": bool(service.writer.available),
        "queue": service.pool.accepted,
        "queue_limit": service.pool.limit,
        "drift": drifting,
        "models": service.models.names(),
    }


def _event(kind: str, value: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n"
