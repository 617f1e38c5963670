"""The fusion of depths: the graph against a plain computation in numpy, and what it is to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from scipy.ndimage import maximum_filter

from goodparts.bank.fusion import Fusion, baseline_of, fusion_nodes, learn_fusion
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import OPSET, Graph, GraphBuilder, numbered
from goodparts.features.extract import at_grid

GRIDS = ((12, 10), (6, 5), (3, 3))


def some_fusion(seed: int = 0) -> Fusion:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 1.5, (5, len(GRIDS))).astype(np.float32)
    return Fusion(GRIDS, values[0], 0.1 * values[1], values[2], values[3], 0.05 * values[4])


def some_distances(images: int, seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.4, 1.6, (images, *grid)).astype(np.float32) for grid in GRIDS]


def run(fusion: Fusion, distances: list[NDArray[np.float32]], mask: NDArray[np.bool_] | None = None) -> Any:
    build = GraphBuilder("test/", opset=OPSET)
    valid = None
    if mask is not None:
        valid = build.input("valid", TensorProto.FLOAT, [len(mask), *GRIDS[0]])
    given = [
        build.node("Reshape", build.input(numbered("d", depth), 1, list(values.shape)), build.ints([-1]))
        for depth, values in enumerate(distances)
    ]
    fused = fusion_nodes(build, given, fusion, valid)
    build.node("Reshape", fused, build.ints([-1, *GRIDS[0]]), name="fused")
    build.output("fused", ["n", *GRIDS[0]])
    engine = open_engine(Graph(build.finish(), build.constants))
    inputs: dict[str, Any] = {numbered("d", depth): values for depth, values in enumerate(distances)}
    if mask is not None:
        inputs["valid"] = mask.astype(np.float32)
    return engine(inputs)["fused"]


def bilinear(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Half-pixel centres, the border repeated."""
    for axis, length in enumerate(size):
        count = values.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = np.expand_dims(at - low, 1 - axis)
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values


def expected(
    fusion: Fusion, distances: list[NDArray[np.float32]], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Of one image, word for word as `goodparts.bank.fusion` says it."""
    units: list[NDArray[np.float64]] = []
    guide = np.zeros(GRIDS[0])
    for depth, (grid, values) in enumerate(zip(GRIDS, distances, strict=True)):
        there = at_grid(mask, grid)
        beside = baseline_of(values[there]) - fusion.baseline[depth]
        beside = np.clip(beside, -2 * fusion.baseline_spread[depth], 2 * fusion.baseline_spread[depth])
        unit = (values - fusion.mean[depth] - fusion.slope[depth] * beside) / fusion.spread[depth]
        if depth:
            weights = bilinear(there.astype(float), GRIDS[0])
            unit = bilinear(np.where(there, unit, 0).astype(float), GRIDS[0]) / np.maximum(weights, 1e-6)
            reach = [2 * 4 * round(a / b) + 1 for a, b in zip(GRIDS[0], grid, strict=True)]
            guide = guide + unit
            around = maximum_filter(np.where(mask, guide, -1e4), reach, mode="constant", cval=-1e9)
            units.append(unit - 5 * (np.sqrt(1 + 2 * np.maximum(around - guide, 0) / 5) - 1))
        else:
            guide = unit.astype(float)
            units.append(guide)
    soft = 3 * np.log(sum(np.exp(unit / 3) for unit in units))
    return np.asarray(fusion.mean[0] + fusion.spread[0] * soft)


def test_the_graph_is_what_the_words_say() -> None:
    fusion, distances = some_fusion(), some_distances(3, 1)
    found = run(fusion, distances)
    everywhere = np.ones(GRIDS[0], dtype=bool)
    for image in range(3):
        wanted = expected(fusion, [values[image] for values in distances], everywhere)
        np.testing.assert_allclose(found[image], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masks", [1, 3])  # one for all images, as a region of interest has it; or one each
def test_what_does_not_count_has_no_part(masks: int) -> None:
    fusion, distances = some_fusion(), some_distances(3, 2)
    mask = np.random.default_rng(3).random((masks, *GRIDS[0])) < 0.6
    mask[:, :4, :4] = False  # whole cells of both coarser depths
    found = run(fusion, distances, mask)
    for depths in distances:
        for image in range(3):
            own = mask[image % masks]
            depths[image][~at_grid(own, depths.shape[1:])] += 5  # whatever lies there
    again = run(fusion, distances, mask)
    for image in range(3):
        own = mask[image % masks]
        wanted = expected(fusion, [values[image] for values in distances], own)
        np.testing.assert_allclose(found[image][own], wanted[own], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(again[image][own], found[image][own], rtol=1e-4)


def test_it_is_no_less_than_the_finest_depth_in_its_own_units() -> None:
    fusion = replace(some_fusion(), slope=np.zeros(3, dtype=np.float32))
    distances = some_distances(2, 4)
    assert (run(fusion, distances) >= distances[0] - 1e-5).all()


def test_a_coarse_depth_alone_is_enough_and_points_to_where_finer_ones_see_most() -> None:
    crops = [[values[0].ravel() for values in some_distances(1, seed)] for seed in range(40)]
    fusion = learn_fusion(GRIDS, crops)
    distances = some_distances(1, 99)
    before = run(fusion, distances).max()
    distances[0][0, 7, 5] = distances[0].max()  # as far as any good patch
    distances[2][0, 2, 1] = 4.0
    after = run(fusion, distances)[0]
    assert after.max() > before + 3 * fusion.spread[0]
    assert np.unravel_index(after.argmax(), after.shape)[0] >= 6


def test_an_image_that_is_unlike_the_others_as_a_whole_is_forgiven_within_what_good_ones_show() -> None:
    rng = np.random.default_rng(0)

    def crop(raised: float) -> list[NDArray[np.float32]]:
        return [(raised + rng.uniform(0.4, 0.6, grid)).astype(np.float32) for grid in GRIDS]

    raised = rng.normal(0, 0.2, 100)
    fusion = learn_fusion(GRIDS, ([values.ravel() for values in crop(by)] for by in raised))
    assert (fusion.slope > 0.8).all()

    def score(by: float) -> float:
        return float(run(fusion, [values[None] for values in crop(by)]).max())

    plain = np.mean([score(0) for _ in range(5)])
    assert abs(score(0.3) - plain) < 0.1  # of a good image's kind
    assert score(1.5) > plain + 0.8  # far beyond all of them


@pytest.mark.parametrize("images", [1, 2, 5])
def test_few_images_make_no_wild_units(images: int) -> None:
    crops = [[values[0].ravel() for values in some_distances(1, seed)] for seed in range(images)]
    fusion = learn_fusion(GRIDS, crops)
    assert (fusion.slope == 0).all()
    assert (fusion.spread > 0.02 * fusion.mean).all()
    assert (fusion.spread < 0.2 * fusion.mean).all()


def test_it_is_kept_as_it_is() -> None:
    fusion = some_fusion()
    tensors = fusion.tensors()
    again = Fusion.from_tensors(tensors["fusion.grids"], tensors["fusion.values"])  # type: ignore[arg-type]
    assert again.grids == fusion.grids
    for name in ("mean", "spread", "slope", "baseline", "baseline_spread"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fusion, name))
