"""What was found where, packed small: the anomaly map at no more than 128 samples a side, the mask to the pixel.

The map is smooth, so it is drawn from these samples as well as from all its pixels; the mask is kept exactly. Both
go into one file of safetensors, compressed; it needs no model to be read again.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from goodparts.decision.inspection import Inspection, LaterMap, ZoneScore
from goodparts.decision.regions import Region
from goodparts.report import pictures
from goodparts.report.panel import draw_panel

_SAMPLES = 128  # of the longer side
_LARGEST = 256 << 20  # bytes of unpacked findings


def pack(inspection: Inspection) -> bytes:
    """Map and mask of an inspection as a file."""
    height, width = inspection.mask.shape
    step = -(-max(height, width) // _SAMPLES)
    samples = inspection.anomaly_map[step // 2 :: step, step // 2 :: step].astype(np.float16)
    tensors: dict[str, NDArray[Any]] = {
        "map": np.ascontiguousarray(samples),
        "size": np.array([height, width], dtype=np.int64),
    }
    if inspection.mask.any():
        tensors["mask"] = np.packbits(inspection.mask)
    return zlib.compress(safetensors.numpy.save(tensors), 1)


def unpack(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Map and mask (H, W) of a file."""
    tensors = safetensors.numpy.load(zlib.decompressobj().decompress(data, _LARGEST))
    height, width = (int(side) for side in tensors["size"])
    anomaly_map = pictures.fit_map(tensors["map"].astype(np.float32), (width, height))
    mask = np.zeros((height, width), dtype=bool)
    if "mask" in tensors:
        mask = np.unpackbits(tensors["mask"], count=height * width).reshape(height, width).astype(bool)
    return anomaly_map, mask


def inspection_of(row: Mapping[str, Any], data: bytes) -> Inspection:
    """An inspection as it was, from its row and its file; without the distance grid."""
    anomaly_map, mask = unpack(data)
    return Inspection(
        path=None,
        score=row["score"],
        threshold=row["threshold"],
        p_value=row["p_value"],
        verdict=row["verdict"],
        borderline=bool(row["borderline"]),
        distance_grid=np.zeros((0, 0), dtype=np.float32),
        later_map=LaterMap.of(anomaly_map),
        pixel_threshold=row["pixel_threshold"],
        mask=mask,
        regions=tuple(
            Region(one["area"], one["peak"], tuple(one["box"]), tuple(one["centroid"]))
            for one in json.loads(row["regions"])
        ),
        reasons=tuple(json.loads(row["reasons"])),
        zones=tuple(
            ZoneScore(one["name"], one["score"], one["threshold"]) for one in json.loads(row["zones"])
        ),
    )


def heatmap_png(pixels: NDArray[np.uint8], inspection: Inspection, typical: float | None) -> bytes:
    """The map in colours over the image (H, W, 3) uint8, as a PNG."""
    low, high = pictures.heatmap_scale(inspection.pixel_threshold, typical)
    return _png(pictures.heatmap_overlay(pixels, inspection.anomaly_map, low=low, high=high))


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask (H, W) as a grey PNG of 0 and 255."""
    return _png(pictures.mask_picture(mask))


def panel_png(pixels: NDArray[np.uint8], inspection: Inspection, typical: float | None, title: str) -> bytes:
    """Image, heatmap and what was found, below the verdict, as a PNG."""
    scale = pictures.heatmap_scale(inspection.pixel_threshold, typical)
    stream = io.BytesIO()
    draw_panel(pixels, inspection, None, scale=scale, title=title).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def map_tiff(anomaly_map: NDArray[np.float32]) -> bytes:
    """A map (H, W) as a TIFF of 32-bit numbers; NaN where nothing was looked at."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32)).save(stream, "TIFF")
    return stream.getvalue()


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
