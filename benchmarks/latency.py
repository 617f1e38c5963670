"""How long one image takes, from the decoded array to verdict and map at its original size, beside the backbone alone.

    python benchmarks/latency.py DATA [--resnet50 resnet50_he.onnx] [--resnet18 resnet18_tv.safetensors]

Fits each preset on the data set's good images, then times all of them in turn, round by round, so that a busy machine
slows them alike. Prints medians in milliseconds, and ratios; decoding is a column of its own.
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

from goodparts import Inspector, Recipe, feeding, framing, read_dataset
from goodparts.engines.openvino import Engine
from goodparts.graph import Graph
from goodparts.images import read_image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--resnet50", type=Path)
    parser.add_argument("--resnet18", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    data = read_dataset(options.data)
    recipes = {"default": Recipe(), "fast": Recipe.preset("fast")}
    if options.resnet18:
        recipes["ResNet-18, 320 px"] = Recipe(backbone=str(options.resnet18))
    if options.resnet50:
        backbone = {"backbone": str(options.resnet50)}
        recipes["ResNet-50, 320 px"] = Recipe(**backbone)
        recipes["ResNet-50, 224 px"] = Recipe(**backbone, image_size=224)
        classic = Recipe.preset("classic").replace(backbone)
        recipes["ResNet-50, 224 px, greedy 10 %"] = classic.replace({"sampling": "greedy"})
    path = data.test[0].path
    pixels = read_image(path)
    timed: dict[tuple[str, str], Callable[[], object]] = {("", "decode"): lambda: read_image(path)}
    banks = {}
    for name, recipe in recipes.items():
        inspector = Inspector(recipe).fit(data.root)
        timed |= _steps(name, inspector, pixels)
        banks[name] = inspector.model.bank.features.shape
        print(f"fitted {name}: {inspector.model.circumstances['seconds']}", flush=True)
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
    print("| recipe | bank | backbone | with search | inspect | of backbone |")
    print("|---|---|---|---|---|---|")
    for name in recipes:
        backbone_ms, graph_ms, inspect_ms = (medians[name, step] for step in ("backbone", "graph", "inspect"))
        entries, dimensions = banks[name]
        print(
            f"| {name} | {entries} x {dimensions} | {backbone_ms:.1f} | {graph_ms:.1f} | {inspect_ms:.1f} | "
            f"{inspect_ms / backbone_ms:.2f} |"
        )


def _steps(
    name: str, inspector: Inspector, pixels: np.ndarray
) -> dict[tuple[str, str], Callable[[], object]]:
    model, recipe = inspector.model, inspector.recipe
    size = recipe.image_size
    working = framing.apply(framing.frame_of(pixels.shape[:2], recipe), pixels)[None]
    alone = Engine(Graph(model.backbone.model), {model.backbone.input_name: (1, 3, *size)})
    normalised = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    whole = Engine(model.pipeline(), {"image": (1, *size, 3)})

    def inspect() -> object:
        with feeding.small_products():
            return inspector.inspect_pixels(pixels)

    return {
        (name, "backbone"): lambda: alone({model.backbone.input_name: normalised}),
        (name, "graph"): lambda: whole({"image": working}),
        (name, "inspect"): inspect,
    }


if __name__ == "__main__":
    main()
