"""What reviewers need beside single inspections: the classes of defects that are in use, and where they disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.server.access.permissions import Identity
from goodparts.server.answers import DefectClassAnswer, InspectionAnswer, Json, inspection_record
from goodparts.server.history import schema
from goodparts.server.history.rows import Row, rows_of
from goodparts.server.routes.asked import AskedService, faults, needs

router = APIRouter(prefix="/api/v1", tags=["history"])
_LATEST = 5000  # reviews that are looked at
_SHOWN = 200


@router.get("/defect-classes", response_model=list[DefectClassAnswer], responses=faults())
async def defect_classes(service: AskedService, _: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """The classes that reviewers have named, the most frequent first."""

    def read() -> list[dict[str, Any]]:
        found = select(schema.reviews.c.defect_class).where(schema.reviews.c.defect_class.is_not(None))
        with service.database.read() as connection:
            names = connection.execute(found.order_by(schema.reviews.c.id.desc()).limit(_LATEST)).scalars()
            return [{"name": name, "reviews": count} for name, count in Counter(names).most_common(50)]

    return Json(await run_in_threadpool(read))


@router.get("/disagreements", response_model=list[InspectionAnswer], responses=faults())
async def disagreements(service: AskedService, _: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """Inspections of which two reviewers' last words differ, newest first."""

    def read() -> list[dict[str, Any]]:
        reviews, inspections = schema.reviews, schema.inspections
        with service.database.read() as connection:
            latest = rows_of(connection, select(reviews).order_by(reviews.c.id.desc()).limit(_LATEST))
            keys = sorted(disputed(reversed(latest)), reverse=True)[:_SHOWN]
            rows = rows_of(connection, select(inspections).where(inspections.c.id.in_(keys)))
        return [inspection_record(row) for row in sorted(rows, key=lambda row: str(row["id"]), reverse=True)]

    return Json(await run_in_threadpool(read))


def disputed(reviews: Iterable[Row]) -> set[str]:
    """The inspections of which reviewers' last words differ; reviews in their order."""
    words: dict[str, dict[str, str]] = {}
    for row in reviews:
        by_account = words.setdefault(row["inspection"], {})
        if row["label"] == schema.NONE:
            by_account.pop(row["account"], None)
        else:
            by_account[row["account"]] = row["label"]
    return {inspection for inspection, said in words.items() if len(set(said.values())) > 1}
