"""Fits in partitions, spread over workers, against one in one process: covering radius, AUROC, time, memory, files.

python benchmarks/composable.py shared/mvtec_ad/metal_nut shared/mvtec_ad/grid_256 [--partitions 4] [--recipe default]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from goodparts import Inspector
from goodparts.bank.composable import covering_radius
from goodparts.data.dataset import good_images
from goodparts.data.good_images import GoodImages
from goodparts.features.extract import Extractor, extract
from goodparts.fleet.images import ImageFile, list_image_files
from goodparts.fleet.spread import Spread, sources
from goodparts.model.model import Model
from goodparts.recipe.recipe import Recipe
from goodparts.scale.places import open_place


class Memory(threading.Thread):
    """The largest resident memory of any worker, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            for child in psutil.Process().children(recursive=True):
                try:
                    self.largest = max(self.largest, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def radii_of(models: Sequence[Model], files: Sequence[ImageFile]) -> list[list[float]]:
    """Of each model the covering radius of each of its banks; their features are the same."""
    first = models[0]
    inspector = Inspector(first.recipe)
    good = GoodImages.of(sources(files), read=inspector.read, workers=inspector.workers)
    extractor = Extractor(first.backbone, first.recipe, [depth.whitening for depth in first.depths])
    found: list[list[float]] = [[] for _ in models]
    with extract(good, extractor, first.preprocessor) as features:
        for number, of in enumerate(features.depths):
            rows = np.flatnonzero(of.eligible)
            for model, radii in zip(models, found, strict=True):
                parts = np.array_split(rows, 1 + len(rows) // 50_000)
                bank = model.depths[number].bank.features
                radii.append(max(covering_radius(of.features.rows(part), bank) for part in parts))
    return found


def fitted(
    recipe: Recipe, files: Sequence[ImageFile], partitions: int, on: str
) -> tuple[Inspector, float, int, int]:
    """What was learnt; seconds; the largest memory of a worker; bytes of answers, by which partitions speak."""
    began = time.perf_counter()
    if partitions == 1:
        return Inspector(recipe).fit(sources(files)), time.perf_counter() - began, 0, 0
    memory = Memory()
    with tempfile.TemporaryDirectory(prefix="composable-") as folder, open_place(on) as place:
        memory.start()
        spread = Spread(place, Path(folder), files, partitions)
        inspector = Inspector(recipe).fit(sources(files), make_parts=spread)
        seconds = time.perf_counter() - began
        memory.over.set()
        answers = sum(path.stat().st_size for path in Path(folder).glob("*/*-*.safetensors"))
    return inspector, seconds, memory.largest, answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--partitions", type=int, nargs="*", default=[4])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--on", default="processes:2")
    given = parser.parse_args()
    print(
        "| | partitions | covering radii against one | image AUROC | pixel AUROC | threshold | fit, s "
        "| worker, GiB | answers, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for data in given.data:
        files = list_image_files(str(good_images(data)[0].parent))
        recipe = Recipe.load(given.recipe)
        counts = [1, *given.partitions]
        fits = [fitted(recipe, files, count, given.on) for count in counts]
        radii = radii_of([inspector.model for inspector, *_ in fits], files)
        for count, of_fit, (inspector, seconds, memory, answers) in zip(counts, radii, fits, strict=True):
            found = inspector.evaluate(data).metrics
            ratio = ", ".join(f"{radius / one:.2f}" for radius, one in zip(of_fit, radii[0], strict=True))
            print(
                f"| {data.name} | {count} | {ratio} | {100 * (found['image_auroc'] or 0):.2f} "
                f"| {100 * (found['pixel_auroc'] or 0):.2f} | {inspector.model.calibration.threshold:.3f} "
                f"| {seconds:.1f} | {memory / 2**30:.2f} | {answers / 1e6:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
