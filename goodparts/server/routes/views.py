"""Pictures for a page: small, of a kind that every browser shows, whatever came in."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Query
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from goodparts.data.images import read_image
from goodparts.model.model import Model
from goodparts.report import pictures
from goodparts.server.access.permissions import Identity
from goodparts.server.answers import Json, NearestAnswer, Text
from goodparts.server.faults import Invalid
from goodparts.server.history import findings
from goodparts.server.inspection.nearest import good_images_of
from goodparts.server.routes.asked import AskedService, InspectionId, ModelName, faults, needs
from goodparts.server.routes.inspections import kept_files, row_of_inspection

router = APIRouter(prefix="/api/v1", tags=["history"])
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "The picture"},
    **faults(404, 410),
}
AskedBox = Annotated[
    str | None,
    Query(
        pattern=r"^\d{1,7},\d{1,7},\d{1,7},\d{1,7}$",
        examples=["10,10,90,90"],
        description="left, top, right, bottom in pixels of the image: only that",
    ),
]
Place = Annotated[float, Query(ge=0, le=1e6, description="pixels of the image")]
Side = Annotated[int, Query(ge=16, le=2048, description="pixels of the longer side, at most")]


@router.get("/inspections/{inspection}/view.jpg", response_class=Response, responses=JPEG)
async def view(
    service: AskedService,
    inspection: InspectionId,
    _: Annotated[Identity, Depends(needs("read"))],
    of: Annotated[Literal["image", "heatmap"], Query()] = "image",
    side: Side = 900,
    box: AskedBox = None,
) -> Response:
    """The image, or the map in colours above it, as a JPEG for a page."""
    part = _part(box)

    def draw() -> bytes:
        row = row_of_inspection(service, inspection)
        data, found = kept_files(service, row)
        pixels = read_image(data, pixel_limit=service.settings.pixel_limit, bit_depth=row["bit_depth"])
        small = scaled(pixels[part], side)
        if of == "image":
            return jpeg(small)
        kept = findings.inspection_of(row, found)
        values = pictures.fit_map(kept.anomaly_map[part], (small.shape[1], small.shape[0]))
        low, high = pictures.heatmap_scale(kept.pixel_threshold, row["typical_pixel"])
        return jpeg(pictures.heatmap_overlay(small, values, low=low, high=high))

    return Response(await service.draw(draw), media_type="image/jpeg", headers=KEPT)


@router.get(
    "/inspections/{inspection}/nearest", response_model=NearestAnswer, responses=faults(404, 409, 410)
)
async def nearest(
    service: AskedService,
    inspection: InspectionId,
    _: Annotated[Identity, Depends(needs("read"))],
    x: Place,
    y: Place,
) -> Response:
    """Compared with what: the good patch that is nearest to a place, on which good image, and where on it."""

    def find() -> dict[str, Any]:
        row = row_of_inspection(service, inspection)
        data, found = kept_files(service, row)
        name, version = row["model"], row["model_version"]
        model = service.models.version(name, version).predictor.model
        pixels = read_image(data, pixel_limit=service.settings.pixel_limit, bit_depth=row["bit_depth"])
        if not (x < pixels.shape[1] and y < pixels.shape[0]):
            raise Invalid("this place is not on the image")
        folders = good_folders(service.settings.folder, name, model)
        answer = service.nearest.find(model, pixels, (x, y), folders)
        value = float(findings.inspection_of(row, found).anomaly_map[int(y), int(x)])
        links = {"image": f"/api/v1/inspections/{inspection}/view.jpg?box={_text(answer.box)}"}
        if answer.good_box is not None:
            asked = urlencode({"version": version, "name": answer.name, "box": _text(answer.good_box)})
            links["good_image"] = f"/api/v1/models/{name}/good.jpg?{asked}"
        return {
            "good_image": answer.name,
            "here": answer.good_box is not None,
            "box": list(answer.box),
            "good_box": None if answer.good_box is None else list(answer.good_box),
            "value": value if math.isfinite(value) else None,
            "pixel_threshold": row["pixel_threshold"],
            "links": links,
        }

    return Json(await run_in_threadpool(find))


@router.get(
    "/models/{model}/good.jpg",
    response_class=Response,
    responses={200: JPEG[200], **faults(404, 409, 410)},
)
async def good_image(
    service: AskedService,
    model: ModelName,
    _: Annotated[Identity, Depends(needs("read"))],
    name: Annotated[Text, Query(description="as the model's card and `nearest` name it")],
    version: Annotated[str, Query(pattern="^[0-9a-f]{64}$")],
    side: Side = 900,
    box: AskedBox = None,
) -> Response:
    """A good image that a model learnt from, where it is still kept on this machine."""

    def draw() -> bytes:
        learnt = service.models.version(model, version).predictor.model
        folders = good_folders(service.settings.folder, model, learnt)
        return jpeg(scaled(service.nearest.good_pixels(learnt, name, folders)[_part(box)], side))

    return Response(await service.draw(draw), media_type="image/jpeg", headers=KEPT)


def good_folders(folder: Path, name: str, model: Model) -> list[Path]:
    """Where the good images of a model may lie: learnt in a page, or in the folder that it was fitted on."""
    fitted = Path(model.fit_record.fitted_on)
    return [
        good_images_of(folder, name),
        *([fitted / "train" / "good", fitted] if fitted.is_absolute() else []),
    ]


def _part(box: str | None) -> tuple[slice, slice]:
    """Rows and columns of a box; of everything where there is none."""
    if box is None:
        return slice(None), slice(None)
    left, top, right, bottom = map(int, box.split(","))
    if not (left < right and top < bottom):
        raise Invalid("box: expected left < right and top < bottom")
    return slice(top, bottom), slice(left, right)


def _text(box: tuple[int, int, int, int]) -> str:
    return ",".join(map(str, box))


def scaled(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 with no side longer than so many."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if not pixels.size:
        raise Invalid("box: lies outside the image")
    if max(height, width) <= side:
        return pixels
    share = side / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX, reducing_gap=2))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3) uint8 as a JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=88)
    return stream.getvalue()
