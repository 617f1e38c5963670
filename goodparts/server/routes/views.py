"""Pictures for a page: small, of a kind that every browser shows, whatever came in."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query
from numpy.typing import NDArray
from starlette.responses import Response

from goodparts.data.images import read_image
from goodparts.report import pictures
from goodparts.server.access.permissions import Identity
from goodparts.server.history import findings
from goodparts.server.routes.asked import AskedService, InspectionId, faults, needs
from goodparts.server.routes.inspections import kept_files, row_of_inspection

router = APIRouter(prefix="/api/v1", tags=["history"])
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "The picture"},
    **faults(404, 410),
}
Side = Annotated[int, Query(ge=16, le=2048, description="pixels of the longer side, at most")]


@router.get("/inspections/{inspection}/view.jpg", response_class=Response, responses=JPEG)
async def view(
    service: AskedService,
    inspection: InspectionId,
    _: Annotated[Identity, Depends(needs("read"))],
    of: Annotated[Literal["image", "heatmap"], Query()] = "image",
    side: Side = 900,
) -> Response:
    """The image, or the map in colours above it, as a JPEG for a page."""

    def draw() -> bytes:
        row = row_of_inspection(service, inspection)
        data, found = kept_files(service, row)
        pixels = read_image(data, pixel_limit=service.settings.pixel_limit, bit_depth=row["bit_depth"])
        small = scaled(pixels, side)
        if of == "image":
            return jpeg(small)
        kept = findings.inspection_of(row, found)
        values = pictures.fit_map(kept.anomaly_map, (small.shape[1], small.shape[0]))
        low, high = pictures.heatmap_scale(kept.pixel_threshold, row["typical_pixel"])
        return jpeg(pictures.heatmap_overlay(small, values, low=low, high=high))

    return Response(await service.draw(draw), media_type="image/jpeg", headers=KEPT)


def scaled(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 with no side longer than so many."""
    from PIL import Image

    height, width = pixels.shape[:2]
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
