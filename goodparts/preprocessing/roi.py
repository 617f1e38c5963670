"""Regions of interest: which parts of the picture are looked at, in one or several named zones.

    roi = read_roi("zones.json", image_size=(700, 700))      # or a mask: nonzero is looked at
    roi.patch_mask(recipe, (40, 40))                          # (40, 40) bool: the patches that count
    roi.pixel_mask((700, 700))                                # (700, 700) bool: the pixels

A region of interest belongs to images of one shape: an image of another size is fine where the aspect is the same. So
which patches count is a constant of a model. What is outside is neither learnt nor scored, and NaN in maps.

With one zone nothing else changes. With several, each has a threshold of its own, and a part's score is the largest
multiple of its zone's threshold: then one number still orders parts, and its threshold is 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import ImageError, RecipeError
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text

ONLY = "roi"
"""Name of the zone of a mask, which has none of its own."""

ASPECT = 0.01  # by which the aspect of an image may differ from that of the region of interest, relatively
INSIDE = 0.5  # share of a patch's cell that has to lie in a zone
_BAND = 256  # rows that are worked on at a time
_SMALLEST = 16  # working pixels at each side of what the quality gate looks at

Point = tuple[float, float]
Polygon = tuple[Point, ...]


@dataclass(frozen=True)
class Zone:
    """A named part of the picture: polygons, or the runs of a mask.

    Attributes:
        name: unique within a region of interest.
        polygons: each a closed line of (x, y) in pixels, x to the right and y down; whole numbers lie between pixels.
            The zone is all that any of them encloses (even-odd, by the centres of pixels) ...
        holes: ... without what one of these encloses.
        runs: of a mask instead: start and length, start and length, ... of its pixels, counted row by row.
    """

    name: str
    polygons: tuple[Polygon, ...] = ()
    holes: tuple[Polygon, ...] = ()
    runs: tuple[int, ...] = ()

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The zone's pixels in a picture of (H, W), (H, W) bool."""
        inside = np.zeros(size, dtype=bool)
        for start, length in zip(self.runs[::2], self.runs[1::2], strict=True):
            inside.flat[start : start + length] = True
        for polygon in self.polygons:
            inside |= enclosed(polygon, size)
        for polygon in self.holes:
            inside &= ~enclosed(polygon, size)
        return inside


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest.

    Attributes:
        size: (H, W) of the picture that the zones are drawn on.
        zones: one or more; they may overlap. None of them: everything is looked at (`EVERYWHERE`).
    """

    size: tuple[int, int]
    zones: tuple[Zone, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the zones."""
        return tuple(zone.name for zone in self.zones)

    @property
    def several(self) -> bool:
        """Whether there is more than one zone, each with a threshold of its own."""
        return len(self.zones) > 1

    @property
    def everywhere(self) -> bool:
        """Whether all of every image is looked at."""
        return not self.zones

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """Of each zone, (zones, H, W) bool."""
        return np.stack([zone.mask(self.size) for zone in self.zones])

    def masks_at(self, image_size: tuple[int, int]) -> NDArray[np.bool_]:
        """The zones in an image of (H, W), (zones, H, W) bool, by the nearest pixel; none is empty."""
        return _masks_at(self, image_size)

    def pixel_mask(self, image_size: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels of an image of (H, W) are looked at, (H, W) bool."""
        return np.ones(image_size, dtype=bool) if self.everywhere else _pixel_mask(self, image_size)

    def hide_rest(self, anomaly_map: NDArray[np.float32]) -> None:
        """Make an anomaly map (H, W) NaN where it is not looked at, in place."""
        if not self.everywhere:
            anomaly_map[~self.pixel_mask((anomaly_map.shape[0], anomaly_map.shape[1]))] = np.nan

    def zone_patch_masks(self, recipe: Recipe, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """The patches of each zone, (zones, h, w) bool: at least half of their cell of the grid lies in it."""
        return _zone_patch_masks(self, recipe, grid)

    def patch_mask(self, recipe: Recipe, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """The patches of all zones together, (h, w) bool."""
        if self.everywhere:
            return np.ones(grid, dtype=bool)
        return np.asarray(self.zone_patch_masks(recipe, grid).any(axis=0))

    def patch_mask_of(
        self, frame: Frame, recipe: Recipe, grid: tuple[int, int], name: object
    ) -> NDArray[np.bool_]:
        """Which patches look at an image rather than at padding, and at the region of interest, (h, w) bool.

        Args:
            frame: how the image lies in its working image.
            recipe: framing.
            grid: (h, w).
            name: what to call the image in an error.

        Raises:
            ImageError: the image does not fit the region of interest.
        """
        if self.everywhere:
            return framing.patch_mask(frame, grid)
        self.require_fit(frame.image_size, name)
        return self.patch_mask(recipe, grid)

    def require_fit(self, image_size: tuple[int, int], name: object) -> None:
        """Raise ImageError unless an image of (H, W) has the aspect of what the zones are drawn on."""
        (height, width), (h, w) = image_size, self.size
        if abs(width * h / (height * w) - 1) > ASPECT:
            raise ImageError(
                f"{name}: is {size_text(image_size)} pixels, but the region of interest is drawn on "
                f"{size_text(self.size)}; expected that size, or one of the same aspect. Take images of one camera "
                "setting, or draw a roi for these"
            )

    def seen_share(self, frame: Frame) -> float:
        """Share of an image's pixels that are looked at, 0 to 1."""
        if self.everywhere:
            return framing.seen_share(frame)
        return float(np.mean(self.pixel_mask(frame.image_size) & framing.pixel_mask(frame)))

    def bounding_box(self, recipe: Recipe, grid: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of the working image that hold all zones: what the quality gate looks at."""
        patch_mask = self.patch_mask(recipe, grid)
        found = []
        for axis in (0, 1):
            at = np.flatnonzero(patch_mask.any(axis=1 - axis))
            side = recipe.image_size[axis]
            first, last = at[0] * side // grid[axis], -(-(at[-1] + 1) * side // grid[axis])
            more = max(0, _SMALLEST - (last - first))
            first = max(0, min(first - more // 2, side - _SMALLEST))
            found.append(slice(int(first), int(min(side, max(last, first + _SMALLEST)))))
        return found[0], found[1]

    def require_usable(self, recipe: Recipe, grid: tuple[int, int]) -> None:
        """Raise RecipeError if a zone has no patch, or several zones don't go with the recipe."""
        if self.everywhere:
            return
        if self.several and recipe.image_score == "reweighted":
            raise RecipeError(
                f"image_score: reweighted gives one score an image, and the roi has {len(self.zones)} zones with a "
                "score each; take max or top_mean, or one zone"
            )
        for zone, patch_mask in zip(self.zones, self.zone_patch_masks(recipe, grid), strict=True):
            if not patch_mask.any():
                rows, columns = np.nonzero(zone.mask(self.size))
                patch = f"{self.size[1] / grid[1]:.1f}x{self.size[0] / grid[0]:.1f}"
                raise RecipeError(
                    f"roi: no patch lies in zone {zone.name!r}, which is {np.ptp(columns) + 1}x{np.ptp(rows) + 1} of "
                    f"{size_text(self.size)} pixels, while a patch looks at about {patch} and counts if half of it is "
                    f"inside{' what the crop leaves' if recipe.framing == 'crop' else ''}; draw it larger, or raise "
                    "image_size"
                )

    def levels(self, image_size: tuple[int, int], thresholds: Sequence[float]) -> NDArray[np.float32]:
        """The threshold of each pixel, (H, W) float32: where zones overlap the lowest, outside all of them NaN."""
        return _levels(self, image_size, tuple(thresholds))

    def to_json(self) -> str:
        """As JSON: what a model file holds, and what `read_roi` reads."""
        zones: list[dict[str, Any]] = []
        for zone in self.zones:
            shape = {"polygons": zone.polygons, "holes": zone.holes, "runs": zone.runs}
            zones.append({"name": zone.name, **{key: value for key, value in shape.items() if value}})
        return json.dumps({"size": [self.size[1], self.size[0]], "zones": zones}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote; LookupError, TypeError or ValueError if it is something else."""
        values = json.loads(text)
        width, height = values["size"]
        zones = [
            Zone(
                str(zone["name"]),
                polygons=tuple(map(_points, zone.get("polygons", ()))),
                holes=tuple(map(_points, zone.get("holes", ()))),
                runs=tuple(map(int, zone.get("runs", ()))),
            )
            for zone in values["zones"]
        ]
        return cls((int(height), int(width)), tuple(zones))


EVERYWHERE = Roi((1, 1), ())
"""No region of interest: all of every image is looked at."""


def enclosed(polygon: Polygon, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a picture of (H, W) whose centres a polygon encloses (even-odd), (H, W) bool."""
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.uint8)  # odd or even is all that counts
    for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if y0 == y1:
            continue
        rows = np.arange(max(0, math.ceil(min(y0, y1) - 0.5)), min(height, math.ceil(max(y0, y1) - 0.5)))
        at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(np.intp)] ^= 1
    np.bitwise_xor.accumulate(crossings, axis=1, out=crossings)
    return crossings[:, :width].view(np.bool_)


# ---- files


def from_mask(mask: NDArray[np.bool_], name: str = ONLY) -> Roi:
    """One zone from a mask (H, W) bool."""
    flat = np.concatenate([[False], mask.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.stack([edges[::2], edges[1::2] - edges[::2]], axis=1).ravel()
    return Roi((mask.shape[0], mask.shape[1]), (Zone(name, runs=tuple(runs.tolist())),))


def _points(line: Sequence[Sequence[float]]) -> Polygon:
    return tuple((float(x), float(y)) for x, y in line)


# ---- made once


@lru_cache(maxsize=16)
def _zone_patch_masks(roi: Roi, recipe: Recipe, grid: tuple[int, int]) -> NDArray[np.bool_]:
    frame = framing.frame_of(roi.size, recipe)
    rows, columns = (framing.cell_shares(frame, axis, grid[axis]) for axis in (0, 1))
    shares = np.zeros((len(roi.masks), *grid))
    for top in range(0, roi.size[0], _BAND):  # a large picture in float64 is a lot of memory
        band = slice(top, top + _BAND)
        shares += rows[:, band] @ (roi.masks[:, band].astype(np.float64) @ columns.T)
    masks = shares >= INSIDE - 1e-9
    masks.flags.writeable = False
    return masks


@lru_cache(maxsize=16)
def _masks_at(roi: Roi, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    if image_size == roi.size:
        return roi.masks
    at = [
        ((np.arange(image_size[axis]) + 0.5) * roi.size[axis] / image_size[axis]).astype(np.intp)
        for axis in (0, 1)
    ]
    masks = roi.masks[:, at[0][:, None], at[1]]
    for zone, mask in zip(roi.masks, masks, strict=True):
        if not mask.any():  # smaller than a pixel of this image
            row, column = (int(np.mean(where)) for where in np.nonzero(zone))
            mask[row * image_size[0] // roi.size[0], column * image_size[1] // roi.size[1]] = True
    masks.flags.writeable = False
    return masks


@lru_cache(maxsize=16)
def _pixel_mask(roi: Roi, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    pixel_mask = np.asarray(_masks_at(roi, image_size).any(axis=0))
    pixel_mask.flags.writeable = False
    return pixel_mask


@lru_cache(maxsize=16)
def _levels(roi: Roi, image_size: tuple[int, int], thresholds: tuple[float, ...]) -> NDArray[np.float32]:
    lowest = np.full(image_size, np.inf, dtype=np.float32)
    for mask, threshold in zip(_masks_at(roi, image_size), thresholds, strict=True):
        np.minimum(lowest, np.float32(threshold), out=lowest, where=mask)
    lowest[np.isinf(lowest)] = np.nan
    lowest.flags.writeable = False
    return lowest
