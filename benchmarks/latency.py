"""How long one image takes, from the decoded array to verdict and map at its original size, beside the backbone alone;
and how many images a second a folder of files goes through, beside one file after the other.

    python benchmarks/latency.py DATA [--resnet50 resnet50_he.onnx] [--resnet18 resnet18_tv.safetensors]

Fits each preset on the data set's good images, then times all of them in turn, round by round, so that a busy machine
slows them alike. The backbone alone runs in the same precision. Prints medians in milliseconds, and ratios; decoding is
apart in the first table and part of the second.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from goodparts import Inspector, Recipe, parallel, read_dataset
from goodparts.data.images import read_image
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph
from goodparts.preprocessing import framing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--resnet50", type=Path)
    parser.add_argument("--resnet18", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--files", type=int, default=40, help="test images in the folder")
    options = parser.parse_args()
    data = read_dataset(options.data)
    recipes = {"default": Recipe(), "fast": Recipe.preset("fast")}
    if options.resnet18:
        recipes["ResNet-18, 320 px"] = Recipe(backbone=str(options.resnet18))
    if options.resnet50:
        backbone = {"backbone": str(options.resnet50)}
        recipes["ResNet-50, 320 px"] = Recipe(**backbone)
        recipes["ResNet-50, 224 px"] = Recipe(**backbone, image_size=224)
        recipes["ResNet-50, 224 px, f32"] = Recipe(**backbone, image_size=224, precision="f32")
        classic = Recipe.preset("classic").replace(backbone)
        recipes["ResNet-50, 224 px, greedy 10 %, f32"] = classic.replace({"sampling": "greedy"})
    path = data.test[0].path
    pixels = read_image(path)
    timed: dict[tuple[str, str], Callable[[], object]] = {("", "decode"): lambda: read_image(path)}
    inspectors = {}
    for name, recipe in recipes.items():
        inspector = Inspector(recipe).fit(data.root)
        timed |= _steps(name, inspector, pixels)
        inspectors[name] = inspector
        print(f"fitted {name}: {inspector.model.fit_record.seconds}", flush=True)
    for run in timed.values():
        run()
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in timed}
    for _ in range(options.rounds):
        for key, run in timed.items():
            began = time.perf_counter()
            run()
            samples[key].append(1000 * (time.perf_counter() - began))
    medians = {key: statistics.median(values) for key, values in samples.items()}
    print(f"\n{platform.machine()}, {os.cpu_count()} cores; {path.name} {pixels.shape[1]}x{pixels.shape[0]}")
    print(f"decode {medians['', 'decode']:.1f} ms\n")
    print("| recipe | precision | bank | backbone | with search | inspect | of backbone |")
    print("|---|---|---|---|---|---|---|")
    for name, inspector in inspectors.items():
        backbone_ms, graph_ms, inspect_ms = (medians[name, step] for step in ("backbone", "graph", "inspect"))
        banks = " + ".join(
            " x ".join(map(str, depth.bank.features.shape)) for depth in inspector.model.depths
        )
        print(
            f"| {name} | {inspector.precision} | {banks} | {backbone_ms:.1f} | {graph_ms:.1f} | "
            f"{inspect_ms:.1f} | {inspect_ms / backbone_ms:.2f} |"
        )
    files = [sample.path for sample in data.test][: options.files]
    print("\n| recipe | one file after the other, images/s | folder, images/s | times |")
    print("|---|---|---|---|")
    for name, inspector in inspectors.items():
        one, folder = _rates(inspector, files)
        print(f"| {name} | {one:.1f} | {folder:.1f} | {folder / one:.2f} |")


def _rates(inspector: Inspector, files: list[Path], rounds: int = 3) -> tuple[float, float]:
    """Images a second: each file when the one before is done, and as `inspect_many` takes a folder."""
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        began = time.perf_counter()
        for path in files:
            inspector.inspect(path)
        middle = time.perf_counter()
        for _ in inspector.inspect_many(files):
            pass
        samples[0].append(middle - began)
        samples[1].append(time.perf_counter() - middle)
    one, folder = (len(files) / statistics.median(times) for times in samples)
    return one, folder


def _steps(
    name: str, inspector: Inspector, pixels: np.ndarray
) -> dict[tuple[str, str], Callable[[], object]]:
    model, recipe = inspector.model, inspector.recipe
    size = recipe.image_size
    working = framing.apply(framing.frame_of(pixels.shape[:2], recipe), pixels)[None]
    precision = inspector.precision
    alone = open_engine(
        Graph(model.backbone.model), {model.backbone.input_name: (1, 3, *size)}, precision=precision
    )
    normalised = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    whole = open_engine(model.pipeline(), {"image": (1, *size, 3)}, precision=precision)

    def inspect() -> object:
        with parallel.small_products():
            return inspector.inspect_pixels(pixels)

    return {
        (name, "backbone"): lambda: alone({model.backbone.input_name: normalised}),
        (name, "graph"): lambda: whole({"image": working}),
        (name, "inspect"): inspect,
    }


if __name__ == "__main__":
    main()
