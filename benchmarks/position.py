"""What a position window does to accuracy, time and memory, beside the search everywhere.

    python benchmarks/position.py DATA... [--rendered FOLDER] [--windows 16,24,48] [--large 16000]

For each data set: fits the default recipe without a window, with each window, and with a bank of `--large` entries
without a window and with the middle one; then times all of them in turn, round by round, so that a busy machine slows
them alike. Medians and their ratios to the first row, of time that passed and of time on all cores together, which
says more where others use them, too.

`--rendered` makes parts like those of `goodparts demo` there, but in a fixture: turned by 2 degrees and moved by 1 % of
the picture at the most. And good parts that lie wrong: moved by 8 % of the picture, and turned by 20 degrees. The last
columns say how well scores tell them from good test images (AUROC), and how many are called BAD. `held-out` is how much
higher the held-out scores that the threshold rests on are, on average, than those of good test images.
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from goodparts import Inspector, Recipe, parallel, read_dataset
from goodparts.bank.search_graph import search_graph
from goodparts.data import demo, demo_part
from goodparts.data.images import read_image
from goodparts.decision.inspection import BAD
from goodparts.engines.engine import Engine, open_engine
from goodparts.evaluation.evaluation import Evaluation
from goodparts.evaluation.metrics import auroc


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--rendered", type=Path)
    parser.add_argument("--windows", default="16,24,48")
    parser.add_argument("--large", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    windows = [float(text) for text in options.windows.split(",")]
    middle = windows[len(windows) // 2]
    recipes = [_recipe(0), *map(_recipe, windows), _recipe(0, options.large), _recipe(middle, options.large)]
    print(platform.processor() or platform.machine())
    for root in options.data:
        _measure(root, [], recipes, options.rounds)
    if options.rendered:
        fixture, moved, turned = (options.rendered / name for name in ("fixture", "moved", "turned"))
        _render(fixture, train=60, good=20, bad=40)
        _render(moved, move=0.16, train=1, good=20, bad=0)  # of half the picture's width
        _render(turned, turn=20, train=1, good=20, bad=0)
        _measure(fixture, [moved, turned], recipes, options.rounds)


def _recipe(window: float, limit: int = 4000) -> Recipe:
    return Recipe(
        banks="joined", position_window=window, sampling_limit=limit, precision="f32"
    )  # or some would be in bf16


def _render(root: Path, *, turn: float = 0, move: float = 0, **counts: int) -> None:
    """Parts as `goodparts demo` renders them, but in a fixture; all turned by so many degrees and moved aside."""
    scene, variation = demo_part.Scene, demo_part.VARIATION
    demo_part.VARIATION = (math.radians(2), 0.02, 0.02, *variation[3:])
    demo_part.Scene = lambda angle, x, *rest: scene(angle + math.radians(turn), x + move, *rest)  # type: ignore[misc,assignment]
    try:
        demo.write_demo(root, **counts)
    finally:
        demo_part.Scene, demo_part.VARIATION = scene, variation  # type: ignore[misc]


def _measure(root: Path, lie_wrong: list[Path], recipes: list[Recipe], rounds: int) -> None:
    data = read_dataset(root)
    good = [sample.path for sample in data.test if not sample.label]
    wrong = [[sample.path for sample in read_dataset(folder).test] for folder in lie_wrong]
    print(f"\n## {root.name}: {len(data.test)} test images, {len(good)} of them good\n")
    names = "".join(f" {folder.name}: AUROC, BAD |" for folder in lie_wrong)
    print(
        f"| window | bank | image / pixel AUROC | AUPRO 0.3 | rejected, missed | held-out | fit, s |{names}"
    )
    print("|---" * (7 + len(wrong)) + "|")
    inspectors = []
    for recipe in recipes:
        inspector = Inspector(recipe).fit(root)
        told = "".join(f" {_told(inspector, good, images)} |" for images in wrong)
        found = inspector.evaluate(data)
        seconds = sum(inspector.model.fit_record.seconds.values())
        entries = len(inspector.model.bank.features)
        print(f"| {_called(recipe)} | {entries} | {_accuracy(found)} | {seconds:.0f} |{told}", flush=True)
        inspectors.append(inspector)
    _time(inspectors, read_image(good[0]), rounds)


def _accuracy(found: Evaluation) -> str:
    figures = [100 * (found.metrics[name] or math.nan) for name in ("image_auroc", "pixel_auroc", "aupro_30")]
    labels = np.array([row.label for row in found.images])
    bad = np.array([row.verdict == BAD for row in found.images])
    good = np.array([row.score for row in found.images])[~labels]
    higher = 100 * (found.good_scores.mean() / good.mean() - 1)
    return (
        f"{figures[0]:.2f} / {figures[1]:.2f} | {figures[2]:.1f} | {(bad & ~labels).sum()}, "
        f"{(~bad & labels).sum()} | {higher:+.1f} %"
    )


def _told(inspector: Inspector, good: list[Path], wrong: list[Path]) -> str:
    """How well scores tell images of parts that lie wrong from good ones, and how many of them are called BAD."""
    scores = np.array(list(inspector.score_many([*good, *wrong])))
    called = np.count_nonzero(scores[len(good) :] > inspector.model.calibration.threshold)
    return f"{100 * auroc(np.arange(len(scores)) >= len(good), scores):.1f}, {called} of {len(wrong)}"


def _time(inspectors: list[Inspector], pixels: np.ndarray, rounds: int) -> None:
    steps: list[tuple[Callable[[], object], Callable[[], object]]] = []
    sizes = []
    for inspector in inspectors:
        model = inspector.model
        search = search_graph(model.bank, model.grid, inspector.recipe)
        shape = (1, *model.grid, model.bank.features.shape[1])
        engine = open_engine(search, {"patch_features": shape}, precision=inspector.precision)
        some = np.resize(model.bank.features, (math.prod(model.grid), shape[3])).reshape(shape)

        def alone(engine: Engine = engine, some: Any = some) -> object:
            return engine({"patch_features": some})

        def inspect(inspector: Inspector = inspector) -> object:
            with parallel.small_products():
                return inspector.inspect_pixels(pixels)

        steps.append((alone, inspect))
        with tempfile.TemporaryDirectory() as folder:
            on_disk = inspector.save(Path(folder) / "model").stat().st_size
        sizes.append((on_disk, sum(value.nbytes for value in search.constants.values())))
    walls: list[tuple[list[float], list[float]]] = [([], []) for _ in inspectors]
    processors: list[tuple[list[float], list[float]]] = [([], []) for _ in inspectors]
    for _ in range(rounds):
        for index, pair in enumerate(steps):
            for step, run in enumerate(pair):
                wall, processor = time.perf_counter(), time.process_time()
                run()
                walls[index][step].append(1e3 * (time.perf_counter() - wall))
                processors[index][step].append(1e3 * (time.process_time() - processor))
    print(
        "\n| window | bank | search, ms | x | of all cores, ms | x | inspect, ms | x | of all cores, ms | x "
        "| model file, MB | search's constants, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    medians = np.median([walls, processors], axis=-1)  # (wall or processor, recipes, steps)
    ratios = medians / medians[:, :1]
    for index, (inspector, (on_disk, constants)) in enumerate(zip(inspectors, sizes, strict=True)):
        figures = [
            f"{medians[clock, index, step]:.1f} | {ratios[clock, index, step]:.2f}"
            for step in (0, 1)
            for clock in (0, 1)
        ]
        print(
            f"| {_called(inspector.recipe)} | {len(inspector.model.bank.features)} | {' | '.join(figures)} | "
            f"{on_disk / 1e6:.1f} | {constants / 1e6:.1f} |",
            flush=True,
        )


def _called(recipe: Recipe) -> str:
    return f"{recipe.position_window:g} px" if recipe.position_window else "off"


if __name__ == "__main__":
    main()
