"""Fits in partitions, spread over workers, against one in one process: covering radius, AUROC, time, memory, files.

python benchmarks/composable.py shared/mvtec_ad/metal_nut shared/mvtec_ad/grid_256 [--partitions 4] [--recipe default]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from goodparts.scale.executor import Job
from goodparts.scale.places import Place, open_place


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


class Timed:
    """An executor that notes how long it was before all was done that it was given."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.workers, self.seconds = place.workers, 0.0

    def run(self, jobs: Sequence[Job[Any]]) -> Generator[tuple[Job[Any], Any], None, None]:
        began = time.perf_counter()
        yield from self._place.run(jobs)
        self.seconds += time.perf_counter() - began


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


class Fit(NamedTuple):
    """What was learnt; seconds, and those in which workers were not asked; memory of a worker and size of answers."""

    inspector: Inspector
    seconds: float
    alone: float
    memory: int = 0
    answers: int = 0


def fitted(recipe: Recipe, files: Sequence[ImageFile], partitions: int, on: str) -> Fit:
    began = time.perf_counter()
    if partitions == 1:
        inspector = Inspector(recipe).fit(sources(files))
        seconds = time.perf_counter() - began
        return Fit(inspector, seconds, seconds)
    memory = Memory()
    with tempfile.TemporaryDirectory(prefix="composable-") as folder, open_place(on) as place:
        memory.start()
        timed = Timed(place)
        spread = Spread(timed, Path(folder), files, partitions)
        inspector = Inspector(recipe).fit(sources(files), make_parts=spread)
        seconds = time.perf_counter() - began
        memory.over.set()
        answers = sum(path.stat().st_size for path in Path(folder).glob("*/*-*.safetensors"))
    return Fit(inspector, seconds, seconds - timed.seconds, memory.largest, answers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--partitions", type=int, nargs="*", default=[4])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--on", default="processes:2")
    parser.add_argument("--seed", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    print(
        "| | partitions | covering radii against one | image AUROC | pixel AUROC | threshold | fit, s "
        "| of these without workers | worker, GiB | answers, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for data in given.data:
        for seed in given.seed:
            measure(data, Recipe.load(given.recipe).replace({"seed": seed}), given)


def measure(data: Path, recipe: Recipe, given: argparse.Namespace) -> None:
    """A line for one process, and one for each number of partitions."""
    files = list_image_files(str(good_images(data)[0].parent))
    counts = [1, *given.partitions]
    fits = [fitted(recipe, files, count, given.on) for count in counts]
    radii = radii_of([fit.inspector.model for fit in fits], files)
    for count, of_fit, fit in zip(counts, radii, fits, strict=True):
        found = fit.inspector.evaluate(data).metrics
        ratio = ", ".join(f"{radius / one:.2f}" for radius, one in zip(of_fit, radii[0], strict=True))
        print(
            f"| {data.name}, seed {recipe.seed} | {count} | {ratio} | {100 * (found['image_auroc'] or 0):.2f} "
            f"| {100 * (found['pixel_auroc'] or 0):.2f} | {fit.inspector.model.calibration.threshold:.3f} "
            f"| {fit.seconds:.1f} | {fit.alone:.1f} | {fit.memory / 2**30:.2f} | {fit.answers / 1e6:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
