"""The models that serve, and which version of each does."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.errors import ModelError
from goodparts.report.card import card, card_record
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import ActivateBody, CardAnswer, Json, ModelAnswer, ModelPageAnswer, finite
from goodparts.server.faults import Conflict
from goodparts.server.history.export import time_text
from goodparts.server.routes.asked import AskedService, ModelName, faults, needs
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1", tags=["models"])


@router.get("/models", response_model=list[ModelAnswer], responses=faults())
async def models(service: AskedService, _: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """The models that serve."""
    return Json([_short(service, name) for name in service.models.names()])


@router.get("/models/{model}", response_model=ModelPageAnswer, responses=faults(404, 409))
async def model(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """A model with its card (what it can be trusted with) and its versions."""
    return Json(await run_in_threadpool(_page, service, model))


@router.get("/models/{model}/drift", response_model=dict[str, Any], responses=faults(404, 409))
async def drift(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """What the last parts look like beside calibration."""

    def read() -> Any:
        try:
            return finite(service.watch(service.models.get(model)).figures())
        except ModelError:
            raise Conflict("this model can't be loaded any more") from None

    return Json(await run_in_threadpool(read))


@router.get("/models/{model}/card", response_model=CardAnswer, responses=faults(404, 409))
async def read_card(
    service: AskedService,
    model: ModelName,
    _: Annotated[Identity, Depends(needs("read"))],
    version: Annotated[
        str | None, Query(pattern="^[0-9a-f]{64}$", description="without: the one that serves")
    ] = None,
) -> Response:
    """What a version can be trusted with, in sentences."""

    def read() -> dict[str, Any]:
        known = version or service.models.entry(model).version
        found = service.models.version(model, known).predictor.model
        return {
            "model": model,
            "version": known,
            "threshold": found.calibration.decision.threshold,
            "good_images": found.provenance.good_images,
            "sections": [asdict(section) for section in card(found)],
        }

    return Json(finite(await run_in_threadpool(read)))


@router.post("/models/{model}/activate", response_model=ModelPageAnswer, responses=faults(404, 409))
async def activate(
    service: AskedService,
    model: ModelName,
    body: ActivateBody,
    identity: Annotated[Identity, Depends(needs("models"))],
) -> Response:
    """Have another version serve, until the model's file changes. What is in work ends on the version it began with."""

    def change() -> Any:
        service.models.activate(model, body.version, identity.name)
        service.tell("model.activated", model, f"{identity.name} had version {body.version} serve")
        return _page(service, model)

    return Json(await run_in_threadpool(change))


def _short(service: Service, name: str) -> dict[str, Any]:
    entry = service.models.entry(name)
    return {
        "name": name,
        "version": entry.version,
        "loaded": entry.loaded is not None,
        "refused": "its file, as it is now, can't serve; the log says why" if entry.refused else None,
        "links": {
            "self": f"/api/v1/models/{name}",
            "inspections": f"/api/v1/models/{name}/inspections",
            "drift": f"/api/v1/models/{name}/drift",
        },
    }


def _page(service: Service, name: str) -> dict[str, Any]:
    entry = service.models.entry(name)
    try:
        loaded = service.models.get(name)
    except ModelError:
        raise Conflict("this model can't be loaded any more") from None
    versions = [
        {
            "version": row["version"],
            "active": row["version"] == entry.version,
            "added": time_text(row["added"]),
            "fitted": row["fitted"],
            "recipe": row["recipe"],
            "author": row["author"],
            "note": row["note"] or "",
        }
        for row in service.models.versions(name)
    ]
    card = finite(card_record(loaded.predictor.model, name))
    return {**_short(service, name), "card": card, "versions": versions}
