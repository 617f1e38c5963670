"""Handing images in, and looking at what became of them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from goodparts.data.images import read_image
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import (
    BatchAnswer,
    InspectionAnswer,
    Json,
    PageAnswer,
    ReviewAnswer,
    ReviewBody,
    Text,
    inspection_record,
    read_details,
)
from goodparts.server.faults import Fault, Gone, Invalid, NotFound
from goodparts.server.history import findings, records
from goodparts.server.history.canonical import to_json
from goodparts.server.history.export import export, panel_of, suffix_of, time_text
from goodparts.server.history.pages import MOST, Filter, page
from goodparts.server.inspection.pool import Inspected, Part, Slot
from goodparts.server.routes.asked import (
    AskedFilter,
    AskedService,
    InspectionId,
    ModelName,
    asked_filter,
    faults,
    needs,
)
from goodparts.server.routes.uploads import Upload, read_upload
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1")
Include = Literal["heatmap", "mask", "map", "panel"]
MOST_IN_BATCH = 64
_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "JPEG2000": "image/jp2",
    "PNM": "image/x-portable-anymap",
}
_INFO = {
    "type": "string",
    "description": 'JSON: {"part": "A-17", "line": "3", "camera": "top", "metadata": {"shift": 2}}, each optional',
}


def _body(image: dict[str, Any], *, raw: bool) -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": image, "info": _INFO},
        "additionalProperties": False,
    }
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


_ONE = {"type": "string", "format": "binary", "description": "PNG, JPEG, TIFF, BMP, WebP, ..."}
_SEVERAL = {"type": "array", "items": _ONE, "maxItems": MOST_IN_BATCH, "minItems": 1}


class _Info(BaseModel):
    """What is to be known of a part."""

    model_config = ConfigDict(extra="forbid")
    part: Text | None = None
    line: Text | None = None
    camera: Text | None = None
    metadata: dict[str, Any] = {}


@router.post(
    "/models/{model}/inspections",
    response_model=InspectionAnswer,
    responses=faults(404),
    openapi_extra=_body(_ONE, raw=True),
    summary="Inspect an image",
    tags=["inspections"],
)
async def inspect(
    request: Request,
    service: AskedService,
    model: ModelName,
    identity: Annotated[Identity, Depends(needs("inspect"))],
    part: Annotated[Text | None, Query()] = None,
    line: Annotated[Text | None, Query()] = None,
    camera: Annotated[Text | None, Query()] = None,
    include: Annotated[list[Include] | None, Query(max_length=4)] = None,
    deadline: Annotated[
        float | None, Query(ge=0.1, le=3600, description="seconds; the service's own if longer")
    ] = None,
) -> Response:
    """Inspect an image; it is in the history when this is answered.

    The image is the body itself, or the field `image` of a form whose field `info` has what is to be known of the part.
    """
    service.models.entry(model)
    until = _until(service, deadline)
    (slot,) = _admit(service, 1)
    try:
        upload = await read_upload(request, most=1, seconds=_left(until))
        if len(upload.images) != 1:
            raise Invalid("expected an image: the body itself, or the field `image` of a form")
        given = _Info(part=part, line=line, camera=camera)
        about = _about(identity, request, _info(upload.info, given))
    except BaseException:
        slot.release()
        raise
    found = await _inspect(service, slot, model, upload.images[0], about, until, frozenset(include or ()))
    return Json(_record(found))


@router.post(
    "/models/{model}/batches",
    response_model=BatchAnswer,
    responses=faults(404),
    openapi_extra=_body(_SEVERAL, raw=False),
    summary="Inspect several images",
    tags=["inspections"],
)
async def inspect_batch(
    request: Request,
    service: AskedService,
    model: ModelName,
    identity: Annotated[Identity, Depends(needs("inspect"))],
    include: Annotated[list[Include] | None, Query(max_length=4)] = None,
    deadline: Annotated[float | None, Query(ge=0.1, le=3600)] = None,
) -> Response:
    """Inspect several images; `info` is a JSON list then, one entry an image. One that fails does not end the others.

    They are accepted together or not at all.
    """
    service.models.entry(model)
    until = _until(service, deadline)
    slots = _admit(service, 1)
    try:
        most = min(MOST_IN_BATCH, service.pool.limit)
        upload = await read_upload(request, most=most, seconds=_left(until))
        if not upload.images:
            raise Invalid("expected one or more fields `image`")
        infos = _infos(upload)
        slots += _admit(service, len(upload.images) - 1)
    except BaseException:
        for slot in slots:
            slot.release()
        raise
    pictures = frozenset(include or ())
    results = await asyncio.gather(
        *(
            _inspect(service, slot, model, image, _about(identity, request, info), until, pictures)
            for slot, image, info in zip(slots, upload.images, infos, strict=True)
        ),
        return_exceptions=True,
    )
    return Json({"items": [_item(result, request) for result in results]})


@router.get("/inspections", response_model=PageAnswer, responses=faults(), tags=["history"])
async def inspections(
    request: Request,
    service: AskedService,
    wanted: AskedFilter,
    _: Annotated[Identity, Depends(needs("read"))],
    before: Annotated[
        str | None, Query(pattern="^[0-9a-f]{32}$", description="an id: what is older than that")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> Response:
    """A page of the history, newest first."""

    def read() -> list[dict[str, Any]]:
        with service.database.read() as connection:
            return [inspection_record(row) for row in page(connection, wanted, before=before, limit=limit)]

    items = await run_in_threadpool(read)
    more = None
    if len(items) == limit:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "before"]
        more = f"/api/v1/inspections?{urlencode([*query, ('before', items[-1]['id'])])}"
    return Json({"items": items, "next": more})


@router.get(
    "/inspections/{inspection}", response_model=InspectionAnswer, responses=faults(404), tags=["history"]
)
async def inspection(
    service: AskedService, inspection: InspectionId, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """One inspection."""
    return Json(inspection_record(await run_in_threadpool(row_of_inspection, service, inspection)))


_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "The picture"},
    **faults(404, 410),
}


@router.get(
    "/inspections/{inspection}/image",
    response_class=Response,
    responses={
        **_PICTURE,
        200: {"content": {kind: {} for kind in _TYPES.values()}, "description": "The file that came in"},
    },
    tags=["history"],
)
async def image(
    service: AskedService, inspection: InspectionId, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """The image file as it came in."""

    def read() -> Response:
        row = row_of_inspection(service, inspection)
        data, kind = kept_files(service, row)[0], _TYPES.get(row["image_type"], "application/octet-stream")
        return _picture(data, kind, f"{inspection}{suffix_of(row)}")

    return await run_in_threadpool(read)


@router.get(
    "/inspections/{inspection}/{picture}.png",
    response_class=Response,
    responses=_PICTURE,
    tags=["history"],
)
async def picture(
    service: AskedService,
    inspection: InspectionId,
    picture: Literal["heatmap", "mask", "panel"],
    _: Annotated[Identity, Depends(needs("read"))],
) -> Response:
    """What was found: as a heatmap over the image, as a mask, or as a panel of all of it."""

    def draw() -> bytes:
        row = row_of_inspection(service, inspection)
        data, found = kept_files(service, row)
        if picture == "panel":
            panel = panel_of(service.blobs, row, service.settings.pixel_limit)
            if panel is None:
                raise Gone("its image is kept no more")
            return panel
        kept = findings.inspection_of(row, found)
        if picture == "mask":
            return findings.mask_png(kept.mask)
        pixels = read_image(data, pixel_limit=service.settings.pixel_limit, bit_depth=row["bit_depth"])
        return findings.heatmap_png(pixels, kept, row["typical_pixel"])

    return _picture(await service.draw(draw), "image/png", f"{inspection}-{picture}.png")


@router.post(
    "/inspections/{inspection}/reviews",
    response_model=ReviewAnswer,
    status_code=201,
    responses=faults(404),
    tags=["history"],
)
async def review(
    service: AskedService,
    inspection: InspectionId,
    body: ReviewBody,
    identity: Annotated[Identity, Depends(needs("review"))],
) -> Response:
    """Say what is true of a part. The last word counts; earlier ones stay."""
    future = records.review(
        service.writer,
        inspection,
        account=identity.name,
        label=body.label,
        comment=body.comment,
        defect_class=body.defect_class,
        regions=to_json([list(box) for box in body.regions]) if body.regions else None,
    )
    return Json(_review(await asyncio.wrap_future(future)), status_code=201)


@router.get(
    "/inspections/{inspection}/reviews",
    response_model=list[ReviewAnswer],
    responses=faults(404),
    tags=["history"],
)
async def reviews(
    service: AskedService, inspection: InspectionId, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """What was said of an inspection, in order."""

    def read() -> list[dict[str, Any]]:
        with service.database.read() as connection:
            records.one(connection, inspection)
            return [_review(row) for row in records.reviews_of(connection, inspection)]

    return Json(await run_in_threadpool(read))


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}, "description": "The ZIP"}, **faults()},
    tags=["history"],
)
async def export_zip(
    service: AskedService,
    wanted: Annotated[Filter, Depends(asked_filter)],
    _: Annotated[Identity, Depends(needs("export"))],
    layout: Annotated[Literal["mvtec", "report"], Query()] = "mvtec",
) -> Response:
    """A range of the history as a ZIP that is made while it is sent: in the layout of MVTec AD, or as a report."""
    name = f"goodparts-{layout}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.zip"
    return StreamingResponse(
        export(service.database, service.blobs, wanted, layout, pixel_limit=service.settings.pixel_limit),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


# ---- inside ------------------------------------------------------------------------------------------


async def _inspect(
    service: Service, slot: Slot, model: str, image: bytes, part: Part, until: float, include: frozenset[str]
) -> Inspected:
    began = time.monotonic()
    try:
        found = await service.pool.inspect(slot, model, image, part, until=until, include=include)
    except Fault as fault:
        if fault.status == 503:
            service.metrics.refused.labels(fault.code).inc()
        raise
    service.metrics.stages.labels(model, "all").observe(time.monotonic() - began)
    return found


def _admit(service: Service, count: int) -> list[Slot]:
    try:
        return service.pool.admit(count)
    except Fault as fault:
        service.metrics.refused.labels(fault.code).inc()
        raise


def _until(service: Service, deadline: float | None) -> float:
    seconds = service.settings.deadline
    return time.monotonic() + (seconds if deadline is None else min(deadline, seconds))


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _about(identity: Identity, request: Request, info: _Info) -> Part:
    return Part(identity.name, request.state.request, info.part, info.line, info.camera, info.metadata)


def _info(text: bytes | None, given: _Info) -> _Info:
    if text is None:
        return given
    found = _checked(read_details(text))
    return found.model_copy(update={key: value for key, value in given if value})


def _infos(upload: Upload) -> list[_Info]:
    if upload.info is None:
        return [_Info()] * len(upload.images)
    found = read_details(b'{"all":' + upload.info + b"}").get("all")
    if not isinstance(found, list) or len(found) != len(upload.images):
        raise Invalid("info: expected a JSON list with an entry for each image, in their order")
    return [_checked(one) for one in found]


def _checked(value: object) -> _Info:
    try:
        return _Info.model_validate(value)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        raise Invalid(f"info: {where or 'the whole'}: {error.errors()[0]['msg']}") from None


def _record(found: Inspected) -> dict[str, Any]:
    record = inspection_record(found.row, recorded=found.recorded)
    if found.pictures:
        record["pictures"] = {name: base64.b64encode(data).decode() for name, data in found.pictures.items()}
    return record


def _item(result: Inspected | BaseException, request: Request) -> dict[str, Any]:
    if isinstance(result, Inspected):
        return {"inspection": _record(result), "error": None}
    if not isinstance(result, Fault):
        raise result
    error = {"code": result.code, "message": result.message, "request": request.state.request}
    return {"inspection": None, "error": error}


def row_of_inspection(service: Service, identifier: str) -> dict[str, Any]:
    """The row of an inspection; NotFound."""
    with service.database.read() as connection:
        return records.one(connection, identifier)


def kept_files(service: Service, row: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The files of an inspection, whole; Gone."""
    if not row["kept"]:
        raise Gone("its image is kept no more, or could not be kept")
    image, found = (service.blobs.read(row[name]) for name in ("image_sha256", "findings_sha256"))
    if image is None or found is None:
        raise NotFound(
            "its files are damaged or gone; `goodparts server audit verify --files` names all such"
        )
    return image, found


def _picture(data: bytes, kind: str, name: str) -> Response:
    headers = {
        "Content-Disposition": f'inline; filename="{name}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    return Response(data, media_type=kind, headers=headers)


def _review(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "inspection", "account", "label", "comment")},
        "defect_class": row["defect_class"] or "",
        "regions": json.loads(row["regions"] or "[]"),
        "time": time_text(row["time"]),
    }
