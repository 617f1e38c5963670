"""Whether the members of a model, each sound in itself, go together: sizes, places, zones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from goodparts.bank.depths import Depth
from goodparts.data.images import PIXEL_LIMIT
from goodparts.model.model import Model
from goodparts.preprocessing.light import Light
from goodparts.preprocessing.pose import Alignment
from goodparts.preprocessing.pose_matching import SIDE
from goodparts.preprocessing.tiling import MOST_TILES


def require_agreement(model: Model, manifest: Mapping[str, Any]) -> None:
    """Raise ValueError where the members of a model don't go together.

    Raises:
        RecipeError: a zone of the region of interest holds no patch.
    """
    _require_places(model)
    _require_bank(model, manifest)
    _require_scores(model)


def _require_bank(model: Model, manifest: Mapping[str, Any]) -> None:
    sizes = [depth.bank.features.shape for depth in model.depths]
    described = [{"entries": entries, "dimensions": dimensions} for entries, dimensions in sizes]
    _require(
        [manifest["bank"], *manifest.get("coarser_banks", ())] == described,
        "bank.safetensors is not of the size that manifest.json says",
    )
    for depth, grid in zip(model.depths, _grids(model), strict=True):
        _require_depth(depth, grid, model)


def _grids(model: Model) -> tuple[tuple[int, int], ...]:
    """The grid of each depth, which the fusion knows where there are several."""
    fusion = model.fusion
    if fusion is None:
        return (model.grid,)
    sizes = [h * w for h, w in fusion.grids]
    _require(
        1 < len(sizes) < 10 and min(min(grid) for grid in fusion.grids) > 0 and sizes == sorted(sizes)[::-1],
        "bank.safetensors: fusion.grids are not those of depths from fine to coarse",
    )
    _require(
        fusion.grids[0] == model.grid
        and all(h <= model.grid[0] and w <= model.grid[1] for h, w in fusion.grids),
        "bank.safetensors: fusion.grids don't begin with the grid of manifest.json",
    )
    _require(
        bool((fusion.spread > 0).all() and (fusion.slope >= 0).all() and (fusion.baseline_spread >= 0).all()),
        "bank.safetensors: fusion.values are below 0",
    )
    return fusion.grids


def _require_depth(depth: Depth, grid: tuple[int, int], model: Model) -> None:
    bank, whitening = depth.bank, depth.whitening
    _require(
        bank.image_ids.min() >= 0 and bank.image_ids.max() < model.provenance.good_images,
        "bank.safetensors: origins are of more images than the model was learnt from",
    )
    _require(
        bank.cells.min() >= 0 and bank.cells.max() < grid[0] * grid[1],
        "bank.safetensors: cells lie outside of the grid",
    )
    _require(
        bank.local_scale is None or bool(bank.local_scale.min() > 0),
        "bank.safetensors: spacing is not above 0",
    )
    _require(
        bank.basis is None or bank.basis.shape[1] <= bank.basis.shape[0],
        "bank.safetensors: basis is too wide",
    )
    _require(
        whitening is None or whitening.matrix.shape[1] <= whitening.matrix.shape[0],
        "bank.safetensors: whitening.matrix is too wide",
    )
    if bank.tiles is not None:
        _require(
            set(bank.tiles_served.tolist()) <= set(range(model.preprocessor.crops_per_image))
            and bool((np.diff(bank.tiles) >= 0).all()),
            "bank.safetensors: tiles are others than those of tiles.json",
        )
        _require(
            set(model.preprocessor.searched_tiles) <= set(bank.tiles_served.tolist()),
            "bank.safetensors: a tile that is looked at has no entry",
        )


def _require_places(model: Model) -> None:
    """Grid, tiles and zones go with the size of the working image."""
    recipe, preprocessor = model.recipe, model.preprocessor
    _require(
        all(cells <= side for cells, side in zip(model.grid, recipe.image_size, strict=True)),
        "manifest.json: the grid has more cells than the working image has pixels",
    )
    tiling = preprocessor.tiling
    if recipe.tiling:
        _require(len(tiling) <= MOST_TILES, f"tiles.json: more than {MOST_TILES:,} tiles")
        _require(
            tiling.tile == recipe.image_size and tiling.tile_grid == model.grid,
            "tiles.json: tiles are not of the size of the working image",
        )
        for axis, begins in enumerate((tiling.rows, tiling.columns)):
            length, side, cell = tiling.canvas[axis], tiling.tile[axis], tiling.cell[axis]
            _require(
                begins[0] == 0
                and begins[-1] + side == length
                and all(begin % cell == 0 for begin in (*begins, length, side))
                and all(0 < after - before <= side for before, after in itertools.pairwise(begins)),
                "tiles.json: tiles don't cover the canvas",
            )
    roi = preprocessor.roi
    if not roi.everywhere:
        _require(len(set(roi.names)) == len(roi.names), "roi.json: two zones have the same name")
        _require(math.prod(roi.size) <= PIXEL_LIMIT, "roi.json: is drawn on too large a picture")
        for zone in roi.zones:
            ends = [start + length for start, length in zip(zone.runs[::2], zone.runs[1::2], strict=True)]
            _require(
                not ends or max(ends) <= math.prod(roi.size), "roi.json: a mask reaches beyond the picture"
            )
            points = [point for polygon in (*zone.polygons, *zone.holes) for point in polygon]
            _require(
                all(x <= roi.size[1] and y <= roi.size[0] for x, y in points),
                "roi.json: a polygon reaches beyond the picture",
            )
        roi.require_usable(preprocessor.image_recipe, preprocessor.grid)
    for step in preprocessor.steps:
        if isinstance(step, Light):
            _require(bool((step.low <= step.high).all()), "light.json: low is above high")
        if isinstance(step, Alignment):
            _require(
                step.reference.picture.shape[:2] == preprocessor.image_recipe.image_size
                and max(step.reference.shape) <= SIDE,
                "pose.safetensors: the reference is not of the size of a working image",
            )


def _require_scores(model: Model) -> None:
    calibration, roi = model.calibration, model.preprocessor.roi
    zones = roi.names if roi.several else ()
    decision = calibration.decision
    _require(
        tuple(zone.name for zone in decision.zones) == zones,
        "calibration.json: the decision is of other zones than those of roi.json",
    )
    for good in filter(None, (calibration.training_set, calibration.calibration_set)):
        count = len(good.scores)
        _require(
            len(good.names) == count == len(good.maps.peaks)
            and all(len(zone.scores) == count == len(zone.maps.peaks) for zone in good.zones)
            and tuple(zone.zone for zone in good.zones) == zones,
            "calibration.json: scores, names, peaks and zones are not of the same images",
        )
    _require(
        decision.threshold is not None or decision.threshold_rule == "f1",
        "calibration.json: has no threshold",
    )


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)
