"""Thresholds: what one does to good parts and to those that were reviewed, and having another one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.decision.binomial import upper_rate
from goodparts.errors import GoodpartsError, ModelError
from goodparts.model import recalibrate
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import (
    DecisionAnswer,
    Json,
    NewVersionAnswer,
    ReviewedPartsAnswer,
    ThresholdBody,
)
from goodparts.server.faults import Conflict, Invalid
from goodparts.server.inspection.reviewed import parts_record
from goodparts.server.routes.asked import AskedService, ModelName, faults, needs
from goodparts.server.service import Service

router = APIRouter(prefix="/api/v1", tags=["models"])
_BOUNDS = 200  # counts of rejected good parts for which the bound is given


@router.get("/models/{model}/reviewed", response_model=ReviewedPartsAnswer, responses=faults(404, 409))
async def reviewed(
    service: AskedService,
    model: ModelName,
    _: Annotated[Identity, Depends(needs("read"))],
    version: Annotated[
        str | None, Query(pattern="^[0-9a-f]{64}$", description="without: the one that serves")
    ] = None,
) -> Response:
    """The latest reviewed parts as a version of the model scores them; measured anew where it is another version."""
    return Json(await run_in_threadpool(_reviewed, service, model, version))


@router.get("/models/{model}/decision", response_model=DecisionAnswer, responses=faults(404, 409))
async def decision(
    service: AskedService, model: ModelName, _: Annotated[Identity, Depends(needs("read"))]
) -> Response:
    """What the threshold in force rests on: scores of good images, and of reviewed parts."""

    def read() -> dict[str, Any]:
        found = _reviewed(service, model, None)
        loaded = service.models.version(model, found["version"]).predictor.model
        calibration, confidence = loaded.calibration, loaded.recipe.confidence
        scores, images = calibration.scores, calibration.used.images
        most = min(images, _BOUNDS)
        return {
            **found,
            "rule": calibration.decision.threshold_rule,
            "zones": len(calibration.decision.zones),
            "good_scores": sorted(scores),
            "good_images": images,
            "source": calibration.used.source,
            "certified": calibration.used.certifies,
            "confidence": confidence,
            "bounds": [upper_rate(count, images, confidence) for count in range(most + 1)],
        }

    return Json(await run_in_threadpool(read))


@router.post(
    "/models/{model}/threshold", response_model=NewVersionAnswer, status_code=201, responses=faults(404, 409)
)
async def set_threshold(
    service: AskedService,
    model: ModelName,
    body: ThresholdBody,
    identity: Annotated[Identity, Depends(needs("models"))],
) -> Response:
    """Decide by another threshold from now on: a new version of the model, which measures as the one before."""

    def change() -> dict[str, Any]:
        entry = service.models.entry(model)
        try:
            predictor = service.models.get(model).predictor
        except ModelError:
            raise Conflict("this model can't be loaded any more") from None
        before = entry.version
        if predictor.model.calibration.decision.zones:
            raise Conflict("this model has a threshold for each zone; `goodparts calibrate` changes those")
        if predictor.model.calibration.decision.threshold == body.threshold:
            raise Conflict("this threshold is in force already")
        changes = {"threshold_rule": "fixed", "threshold_value": body.threshold}
        try:
            made = recalibrate.recalibrate(predictor, None, changes)
        except GoodpartsError as error:
            raise Invalid(str(error)) from None
        version = service.models.add(
            model, made, identity.name, action="model.decided", note=body.reason, activate=True
        )
        words = f"{identity.name} set the threshold to {body.threshold:g}: {body.reason}"
        service.tell("model.decided", model, words)
        return {"version": version, "before": before}

    return Json(await run_in_threadpool(change), status_code=201)


def _reviewed(service: Service, model: str, version: str | None) -> dict[str, Any]:
    version = version or service.models.entry(model).version
    parts, left_out = service.reviewed.of(model, version)
    calibration = service.models.version(model, version).predictor.model.calibration
    return {
        "model": model,
        "version": version,
        "threshold": calibration.threshold,
        "parts": parts_record(parts),
        "left_out": left_out,
    }
