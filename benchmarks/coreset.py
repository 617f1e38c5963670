"""How fast a greedy coreset is chosen, beside the loop that makes one pick at a time.

    python benchmarks/coreset.py [DATA --backbone FILE] [--rounds N]

On made-up points that lie as patch features do (clusters of all sizes, few dimensions that matter), or on those of a
data set: its good images, projected to 128 dimensions. The loop has cached norms, one matrix-vector product and one
minimum a pick; it is timed over some hundred picks, whose time does not depend on which they are. Loop and coreset take
turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.backbones.backbone import cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import coreset
from goodparts.bank.projected_points import ProjectedPoints
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.features.extract import Extractor, extract
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE
from goodparts.recipe.recipe import Recipe

POINTS, DIMENSIONS, LOOP_PICKS = 172_480, 128, 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", default="224")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.data:
        recipe = Recipe.preset("classic").replace(
            {
                "backbone": options.backbone,
                "image_size": options.image_size,
                "layers": (),
                "sampling": "greedy",
            }
        )
        points = real_points(options.data, recipe)
    else:
        points = made_points(POINTS)
    blas = ", ".join(
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')} x {info['num_threads']}"
        for info in threadpoolctl.threadpool_info()
        if info["user_api"] == "blas"
    )
    print(f"{platform.platform()}, {os.cpu_count()} cores, BLAS: {blas}\n")
    n, d = points.shape
    rows = [(n, n // 10), (n, n // 20), (n, n // 50), (n, n // 100), (n // 2, n // 20), (n // 4, n // 40)]
    print("| points | picks | loop, extrapolated | coreset | times faster | largest shortfall |")
    print("|---|---|---|---|---|---|")
    shuffled = points[np.random.default_rng(0).permutation(n)]
    for many, count in rows:
        some = np.ascontiguousarray(shuffled[:many])
        loops, coresets = [], []
        for _ in range(options.rounds):
            loops.append(seconds_of_loop(some, min(count, LOOP_PICKS)) * count / min(count, LOOP_PICKS))
            began = time.perf_counter()
            picks = coreset.greedy(some, count)
            coresets.append(time.perf_counter() - began)
        loop, fast = statistics.median(loops), statistics.median(coresets)
        print(
            f"| {many:,} x {d} | {count:,} | {loop:.2f} s | {fast:.2f} s | {loop / fast:.1f} | "
            f"{shortfall(some, picks):.1e} |",
            flush=True,
        )


def made_points(n: int) -> NDArray[np.float32]:
    """Points (n, DIMENSIONS) float32: clusters of very unequal size, variance falling from dimension to dimension."""
    rng = np.random.default_rng(0)
    spread = 0.96 ** np.arange(DIMENSIONS)
    shares = rng.pareto(1, size=400) + 0.1
    centres = rng.standard_normal((400, DIMENSIONS))
    owner = rng.choice(400, size=n, p=shares / shares.sum())
    around = rng.standard_normal((n, DIMENSIONS)) * rng.uniform(0.2, 1, size=(n, 1))
    points = (centres[owner] + around) * spread
    return (points - points.mean(axis=0)).astype(np.float32)


def real_points(data: Path, recipe: Recipe) -> NDArray[np.float32]:
    """Projected patch features of a data set's good images."""
    backbone = load_backbone(recipe.backbone)
    recipe = with_layers(recipe, backbone)
    extractor = Extractor(cut_down(backbone, recipe), recipe)
    good = GoodImages.of(data, read=read_image, workers=parallel.default_workers())
    preprocessor = Preprocessor.learn(good, recipe, extractor.grid, EVERYWHERE)
    with extract(good, extractor, preprocessor) as found:
        rows = np.flatnonzero(found.eligible)
        return ProjectedPoints.of(found.features, rows)[np.arange(len(rows))]


def seconds_of_loop(points: NDArray[np.float32], count: int) -> float:
    """Seconds for `count` picks, one at a time."""
    norms = np.einsum("nd,nd->n", points, points)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    distances = np.empty_like(nearest)
    pick = 0
    began = time.perf_counter()
    for _ in range(count):
        np.matmul(points, -2 * points[pick], out=distances)
        distances += norms
        distances += norms[pick]
        np.minimum(nearest, distances, out=nearest)
        pick = int(nearest.argmax())
    return time.perf_counter() - began


def shortfall(points: NDArray[np.float32], picks: NDArray[np.int64], most: int = 300) -> float:
    """By how much the first picks are nearer to those before than the farthest point was, relatively, at the worst."""
    nearest = np.full(len(points), np.inf)
    worst = 0.0
    for pick, following in itertools.pairwise(picks[:most]):
        difference = points - points[pick]
        nearest = np.minimum(nearest, np.einsum("nd,nd->n", difference, difference))
        worst = max(worst, 1 - float(np.sqrt(nearest[following] / nearest.max())))
    return worst


if __name__ == "__main__":
    main()
