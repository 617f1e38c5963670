"""Learning in a page: images in, what `check` says of them, a version out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.errors import GoodpartsError
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import FindingAnswer, Json, LearnBody, LearningAnswer
from goodparts.server.faults import Invalid
from goodparts.server.history.export import suffix_of
from goodparts.server.inspection import learning
from goodparts.server.routes.asked import AskedService, ModelName, faults, needs
from goodparts.server.routes.uploads import read_upload
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1/learning", tags=["learning"])
_AT_ONCE = 64
_SECONDS = 600.0  # that images may take to come


@router.get("/{model}", response_model=LearningAnswer, responses=faults())
async def state(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("models"))]
) -> Response:
    """What there is to learn from, and how far a model is that learns."""
    return Json(await run_in_threadpool(_state, service, model))


@router.post(
    "/{model}/images",
    response_model=LearningAnswer,
    status_code=201,
    responses=faults(409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {
                            "image": {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                                "maxItems": _AT_ONCE,
                                "minItems": 1,
                            }
                        },
                        "additionalProperties": False,
                    }
                }
            },
        }
    },
)
async def add_images(
    request: Request,
    service: AskedService,
    model: ModelName,
    _: Annotated[Identity, Depends(needs("models"))],
) -> Response:
    """Images of good parts, in fields `image` of a form; they wait to be learnt from."""
    upload = await read_upload(request, most=_AT_ONCE, seconds=_SECONDS)
    if not upload.images or len(upload.names) != len(upload.images):
        raise Invalid("expected one or more fields `image` of a form")

    def keep() -> dict[str, Any]:
        for name, data in zip(upload.names, upload.images, strict=True):
            service.learning.add_image(model, name, data)
        return _state(service, model)

    return Json(await run_in_threadpool(keep), status_code=201)


@router.delete("/{model}/images", status_code=204, response_class=Response, responses=faults(409))
async def remove_images(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("models"))]
) -> Response:
    """Take back the images that were not learnt from yet."""
    await run_in_threadpool(service.learning.clear, model)
    return Response(status_code=204)


@router.get("/{model}/check", response_model=list[FindingAnswer], responses=faults(409))
async def check(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("models"))]
) -> Response:
    """What is wrong with these images, as `goodparts check` says it: the worst first; nothing is a good sign."""

    def look() -> list[dict[str, Any]]:
        try:
            return [learning.finding_record(finding) for finding in service.learning.check(model)]
        except GoodpartsError as error:
            raise Invalid(str(error)) from None

    return Json(await run_in_threadpool(look))


@router.post("/{model}", response_model=LearningAnswer, status_code=202, responses=faults(404, 409))
async def learn(
    service: AskedService,
    model: ModelName,
    body: LearnBody,
    identity: Annotated[Identity, Depends(needs("models"))],
) -> Response:
    """Begin to learn; the version that comes of it serves when somebody activates it."""
    if body.preset is not None and body.preset not in learning.presets():
        raise Invalid(f"preset: expected one of {', '.join(learning.presets())}, or null to learn on")

    def begin() -> dict[str, Any]:
        reviewed = list(_reviewed_good(service, model)) if body.reviewed else []
        service.learning.start(model, identity.name, preset=body.preset, reviewed=reviewed)
        return _state(service, model)

    return Json(await run_in_threadpool(begin), status_code=202)


@router.post("/{model}/stop", response_model=LearningAnswer, responses=faults(404))
async def stop(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("models"))]
) -> Response:
    """Have it stop; nothing comes of it, and the images stay."""
    service.learning.stop(model)
    return Json(await run_in_threadpool(_state, service, model))


def _state(service: Service, model: str) -> dict[str, Any]:
    images, job = service.learning.new_images(model), service.learning.job(model)
    return {
        "model": model,
        "serves": model in service.models.names(),
        "images": len(images),
        "bytes": sum(path.stat().st_size for path in images),
        "reviewed_good": len(service.reviewed.rows(model, ("GOOD",))),
        "presets": learning.presets(),
        "job": None if job is None else job.record(),
    }


def _reviewed_good(service: Service, model: str) -> Any:
    for row in service.reviewed.rows(model, ("GOOD",)):
        data = service.blobs.read(row["image_sha256"]) if row["kept"] else None
        if data is not None:
            yield f"{row['id']}{suffix_of(row)}", data
