"""Budget: the finest working size in which this machine inspects an image in so many milliseconds.

    sizes in the images' proportions ─► one in the middle ─► time it, with random banks as large as they may be ─┐
                 ▲                                                                                               │
                 └──────────────────────── finer within the budget, else coarser ◄──────────────────────────────┘

Finer is not better on every product (docs/presets.md): it is for defects that are small in the image. Nothing finer
than the images themselves is taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from goodparts.backbones.backbone import Backbone, cut_down, with_layers
from goodparts.bank import depths
from goodparts.bank.fusion import Fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.sampling import entries_of
from goodparts.bank.search_graph import search_graph
from goodparts.data.good_images import GoodImages
from goodparts.engines.engine import Engine, open_engine
from goodparts.engines.graph import pipeline_graph
from goodparts.engines.runtime import current
from goodparts.errors import RecipeError
from goodparts.features.extract import backbone_graph, dimensions_of, grids_of
from goodparts.features.whitening import Whitening, wanted
from goodparts.preprocessing import framing
from goodparts.preprocessing.proportions import at_proportion, sizes_of
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text

_STEP = 32  # pixels: between the sides of the squares that are tried
_SIDES = (128, 1024)
_ROUNDS = 7
_WARM = 2


@dataclass(frozen=True)
class WorkingSize:
    """A working size and what it takes.

    Attributes:
        recipe: with this size.
        milliseconds: from decoded pixels to scores and map, one image after the other; the median of a few.
    """

    recipe: Recipe
    milliseconds: float


def finest_within(recipe: Recipe, good: GoodImages, backbone: Backbone, milliseconds: float) -> WorkingSize:
    """The finest working size of a recipe for which an inspection takes no longer than this, here and now.

    Raises:
        RecipeError: even the coarsest takes longer, or the recipe does not leave the size open.
        ImageError: one of the images can't be read.
    """
    if recipe.tiling or recipe.framing == "crop" or backbone.fixed_size:
        what = (
            "tiling" if recipe.tiling else "framing = crop" if recipe.framing == "crop" else "this backbone"
        )
        raise RecipeError(
            f"a budget chooses the working size, and {what} leaves no choice of it; take one without the other"
        )
    recipe = depths.settled(recipe, len(good))
    sizes = sizes_of(good)
    candidates = _candidates(recipe, sizes)
    pixels = good.pixels(0)
    tried: dict[int, WorkingSize] = {}
    most = len(candidates).bit_length()

    def measure(index: int) -> WorkingSize:
        if index not in tried:
            candidate = with_layers(candidates[index], backbone)
            took = _milliseconds(candidate, backbone, pixels, len(good))
            tried[index] = WorkingSize(candidates[index], took)
            good.progress("working size", len(tried), most)
        return tried[index]

    low, high = -1, len(candidates) - 1  # the finest that is fast enough lies in (low, high], or is low
    while low < high:
        middle = -(-(low + high) // 2)
        if measure(middle).milliseconds <= milliseconds:
            low = middle
        else:
            high = middle - 1
    if low < 0:
        coarsest = measure(0)
        raise RecipeError(
            f"budget_ms: expected at least {coarsest.milliseconds:.1f}, found {milliseconds:g}: so long takes even the "
            f"working size {size_text(coarsest.recipe.image_size)} on this machine; give it more, or take a smaller "
            "backbone or sampling_limit"
        )
    good.progress("working size", most, most)
    return tried[low]


def _candidates(recipe: Recipe, sizes: Sequence[tuple[int, int]]) -> list[Recipe]:
    """The recipe in each working size, from coarse to fine; the last has at most as many pixels as usual images."""
    least, most = _SIDES
    usual = statistics.median(height * width for height, width in sizes)
    sides = [side for side in range(least, most + 1, _STEP) if side == least or side * side <= usual]
    found = {}
    for side in sides:
        sized = at_proportion(recipe.replace({"image_size": (side, side)}), sizes)
        found[sized.image_size] = sized
    return sorted(found.values(), key=lambda sized: sized.image_size[0] * sized.image_size[1])


def _milliseconds(recipe: Recipe, backbone: Backbone, pixels: NDArray[np.uint8], images: int) -> float:
    """What one (H, W, 3) takes from pixels to score and map, learnt from so many images."""
    engine, grid = _open(recipe, backbone, images)
    frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
    taken = []
    for _ in range(_WARM + _ROUNDS):
        began = time.perf_counter()
        working = framing.apply(frame, pixels)
        engine({"image": working[None]})
        framing.anomaly_map(np.zeros(grid, dtype=np.float32), frame, recipe.smoothing_sigma)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[_WARM:])


def _open(recipe: Recipe, backbone: Backbone, images: int) -> tuple[Engine, tuple[int, int]]:
    """The pipeline with random banks, compiled, and the grid of its finest patches."""
    backbone = cut_down(backbone, recipe)
    widths = dimensions_of(backbone_graph(backbone, recipe))
    whitening = [Whitening.plain(width, recipe) if wanted(recipe, width) else None for width in widths]
    to_features = backbone_graph(backbone, recipe, whitening)
    grids = grids_of(to_features)
    rng = np.random.default_rng(recipe.seed)
    banks = [
        _random_bank(entries_of(images * h * w, depths.recipe_at(recipe, depth)), width, rng)
        for depth, ((h, w), width) in enumerate(zip(grids, dimensions_of(to_features), strict=True))
    ]
    one = np.ones(len(banks), dtype=np.float32)
    fusion = Fusion(tuple(grids), 0 * one, one, 0 * one, 0 * one, 0 * one)
    found = search_graph(
        banks[0],
        grids[0],
        recipe,
        coarser=list(zip(banks[1:], grids[1:], strict=True)),
        fusion=fusion if len(banks) > 1 else None,
        products=current().products(),
        opset=to_features.model.opset_import[0].version,
    )
    graph = pipeline_graph(to_features, found)
    shapes = {"image": (1, *recipe.image_size, 3)}
    return open_engine(graph, shapes), grids[0]


def _random_bank(entries: int, dimensions: int, rng: np.random.Generator) -> MemoryBank:
    nothing = np.zeros(entries, dtype=np.int32)
    features = rng.standard_normal((entries, dimensions), dtype=np.float32)
    mean = np.zeros(dimensions, dtype=np.float32)
    scale = np.ones(entries, dtype=np.float32)
    return MemoryBank(features, nothing, mean, basis=None, cells=nothing, local_scale=scale)
