"""A pipeline to be timed: a recipe's own graph, with memory banks of random numbers in place of learnt ones.

graph = trial_pipeline(Recipe())                       # what `inspect` runs, up to what the numbers are
latency(Runtime.of("torch", "cpu"), graph)             # seconds an image
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np

from goodparts.backbones.backbone import Backbone, cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank.depths import recipe_at, settled
from goodparts.bank.fusion import Fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.search_graph import search_graph
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph, pipeline_graph
from goodparts.engines.runtime import Runtime
from goodparts.features.extract import backbone_graph, grids_of
from goodparts.features.whitening import Whitening
from goodparts.recipe.recipe import Recipe

_MANY_IMAGES = 200


def trial_pipeline(
    recipe: Recipe, *, entries: Sequence[int] = (), backbone: Backbone | None = None, seed: int = 0
) -> Graph:
    """The graph from pixels to score that a recipe makes: both of `trial_halves`."""
    return pipeline_graph(*trial_halves(recipe, entries=entries, backbone=backbone, seed=seed))


def trial_halves(
    recipe: Recipe, *, entries: Sequence[int] = (), backbone: Backbone | None = None, seed: int = 0
) -> tuple[Graph, Graph]:
    """The graphs from pixels to patch features and on to score, as if learnt from 200 good images.

    Args:
        recipe: the settings.
        entries: of the bank of each depth; empty: as many as the recipe keeps.
        backbone: which; None: the recipe's.
        seed: of the numbers.

    Raises:
        BackboneError: the backbone is not on this machine.
    """
    rng = np.random.default_rng(seed)
    backbone = backbone if backbone is not None else load_backbone(recipe.backbone, offline=True)
    recipe = with_layers(settled(recipe, _MANY_IMAGES), backbone)
    backbone = cut_down(backbone, recipe)
    plain = backbone_graph(backbone, recipe)
    widths = [item.type.tensor_type.shape.dim[3].dim_value for item in plain.model.graph.output]
    whitening = [_whitening(width, recipe, rng) for width in widths]
    features = backbone_graph(backbone, recipe, whitening)
    grids = grids_of(features)
    banks = []
    for depth, item in enumerate(features.model.graph.output):
        grid, width = grids[depth], item.type.tensor_type.shape.dim[3].dim_value
        wanted = round(recipe.sampling_ratio * _MANY_IMAGES * grid[0] * grid[1])
        limit = recipe_at(recipe, depth).sampling_limit
        count = entries[depth] if entries else min(wanted, limit or wanted)
        banks.append(_bank(count, width, recipe, rng))
    searched = search_graph(
        banks[0],
        grids[0],
        recipe,
        coarser=list(zip(banks[1:], grids[1:], strict=True)),
        fusion=_fusion(grids, rng) if len(grids) > 1 else None,
        opset=features.model.opset_import[0].version,
    )
    return features, searched


def latency(
    runtime: Runtime, graph: Graph, *, images: int = 1, seconds: float = 0.5, precision: str = "f32"
) -> float:
    """Median seconds of a call with so many images, one call after another.

    Raises:
        EngineError, BackboneError: that runtime can't run the graph.
    """
    shapes = {name: (images, *shape[1:]) for name, shape in graph.inputs.items()}
    engine = open_engine(graph, shapes, precision=precision, on=runtime)
    rng = np.random.default_rng(0)
    given = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()}
    engine(given)
    took: list[float] = []
    while sum(took) < seconds or len(took) < 3:
        began = time.perf_counter()
        engine(given)
        took.append(time.perf_counter() - began)
    return median(took)


def _whitening(width: int, recipe: Recipe, rng: np.random.Generator) -> Whitening | None:
    if not recipe.whitening and not 0 < recipe.feature_dimensions < width:
        return None
    kept = min(width, recipe.feature_dimensions or width)
    matrix = np.linalg.qr(rng.normal(size=(width, width)))[0][:, :kept]
    return Whitening(np.zeros(width, np.float32), np.ascontiguousarray(matrix, dtype=np.float32))


def _bank(count: int, width: int, recipe: Recipe, rng: np.random.Generator) -> MemoryBank:
    features = rng.normal(size=(count, width)).astype(np.float32)
    basis = None
    if 0 < 2 * recipe.search_dimensions <= width:
        basis = np.linalg.qr(rng.normal(size=(width, width)))[0][:, : recipe.search_dimensions]
        basis = np.ascontiguousarray(basis, dtype=np.float32)
    return MemoryBank(
        features=features,
        image_ids=np.arange(count, dtype=np.int32),
        mean=features.mean(axis=0),
        basis=basis,
        cells=np.zeros(count, dtype=np.int32),
        int8=True,
        local_scale=np.ones(count, dtype=np.float32) if recipe.density_neighbours else None,
    )


def _fusion(grids: Sequence[tuple[int, int]], rng: np.random.Generator) -> Fusion:
    largest = rng.uniform(2, 3, (20, len(grids))).astype(np.float32)
    return Fusion.learn(grids, largest, (largest / 2).astype(np.float32))
