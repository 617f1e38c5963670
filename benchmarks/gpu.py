"""What a GPU makes of it: latency, images a second, coreset, fit, beside what its memory and its arithmetic allow.

    python benchmarks/gpu.py                     # on the first CUDA device; small, and on the CPU, where there is none
    python benchmarks/gpu.py --device cuda:1 --fit ../shared/mvtec_ad/metal_nut --bytes 4.8e12 --operations 1e15

Networks are of their architecture with random weights, memory banks of random numbers, images of noise: what is
measured depends on none of them. `bound by bytes` is the time in which weights, bank and the maps that convolutions
read and write can pass through memory once; `by operations` that of the products of network and search. Both are of the
peaks given by --bytes and --operations (an H100's by default); on a CPU they are left out.

A machine may lack OpenVINO, click, platformdirs or psutil: OpenVINO is not needed, the others come as wheels.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from goodparts import Recipe
from goodparts.backbones.backbone import Backbone
from goodparts.backbones.catalogue import load_backbone
from goodparts.backbones.resnet import build_resnet
from goodparts.bank import coreset
from goodparts.engines import torch_coreset
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph, pipeline_graph
from goodparts.engines.runtime import Engine, Runtime
from goodparts.model.trial import trial_halves

H100_BYTES, H100_OPERATIONS = 3.35e12, 9.9e14  # a second; the latter in bfloat16
BATCHES = (1, 16, 64, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fit", type=Path, help="a data set, on whose good images a fit is timed")
    parser.add_argument("--precision", default="bf16", choices=("f32", "bf16"))
    parser.add_argument("--bytes", type=float, default=H100_BYTES, help="of memory a second")
    parser.add_argument("--operations", type=float, default=H100_OPERATIONS, help="a second")
    parser.add_argument("--seconds", type=float, default=1.0, help="each figure is the median of")
    asked = parser.parse_args()
    runtime = Runtime.of("torch", asked.device)
    cuda = runtime.device.startswith("cuda")
    print(f"{runtime.in_words}, {asked.precision if cuda else 'f32'}\n")
    peaks = (asked.bytes, asked.operations) if cuda else None
    inspections(runtime, asked.precision if cuda else "f32", asked.seconds if cuda else 0.2, peaks)
    coresets(runtime, peaks)
    if asked.fit:
        fits(runtime, asked.fit)


# ---- inspections


def cases(small: bool) -> Iterator[tuple[str, Recipe, Backbone | None, int]]:
    """What is inspected with: title, recipe, network, entries of the bank (0: the recipe's)."""
    yield "default", Recipe(), None, 0
    yield "fast", Recipe.preset("fast"), None, 0
    networks = {"ResNet-50": resnet((3, 4, 6, 3), 64)}
    if not small:
        networks["WideResNet-50-2"] = resnet((3, 4, 6, 3), 128)
    for name, network in networks.items():
        plain = Recipe(image_size=224, banks="joined", layers=("layer2", "layer3"))
        yield f"{name}, 224 px, 4,000", plain, network, 4000
        if not small:
            classic = plain.replace({"whitening": 0, "feature_dimensions": 0, "search_dimensions": 0})
            yield f"{name}, 224 px, 10 %", classic, network, 17_248


def inspections(runtime: Runtime, precision: str, seconds: float, peaks: tuple[float, float] | None) -> None:
    batches = BATCHES if peaks else BATCHES[:2]
    print(
        "| recipe, memory bank | batch | ms a call | images/s | bound by bytes, ms | by operations, ms | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for title, recipe, network, entries in cases(small=peaks is None):
        features, search = trial_halves(recipe, entries=(entries,) if entries else (), backbone=network)
        for part, graph in ((title, pipeline_graph(features, search)), (f"{title}: search alone", search)):
            engine = open_engine(graph, precision=precision, on=runtime)
            for count in batches:
                measure(part, graph, engine, count, seconds, peaks)


def measure(
    title: str, graph: Graph, engine: Engine, count: int, seconds: float, peaks: tuple[float, float] | None
) -> None:
    """A row of the table."""
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {}
    for name, shape in graph.inputs.items():
        if name == "image":
            given[name] = rng.integers(0, 256, (count, *shape[1:]), dtype=np.uint8)
        else:
            given[name] = rng.normal(size=(count, *shape[1:])).astype(np.float32)
    if peaks:
        torch.cuda.reset_peak_memory_stats()
    engine(given)
    took: list[float] = []
    while sum(took) < seconds or len(took) < 3:
        began = time.perf_counter()
        engine(given)
        took.append(time.perf_counter() - began)
    median = float(np.median(took))
    bounds, peak = ("", ""), ""
    if peaks:
        moved, computed = costs(graph, count)
        bounds = (f"{1000 * moved / peaks[0]:.2f}", f"{1000 * computed / peaks[1]:.2f}")
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
    figures = (f"{1000 * median:.2f}", f"{count / median:.0f}", *bounds, peak)
    print(f"| {title} | {count} | {' | '.join(figures)} |", flush=True)


def costs(graph: Graph, images: int) -> tuple[float, float]:
    """(bytes that have to be read or written, operations) of a call: weights and banks once, products of all."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for item in (*model.graph.input, *model.graph.output):
        for size in item.type.tensor_type.shape.dim:
            if size.dim_param == "n":
                size.dim_value = images
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        item.name: [size.dim_value for size in item.type.tensor_type.shape.dim]
        for item in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    shapes |= {item.name: list(item.dims) for item in model.graph.initializer}
    constants = sum(value.nbytes for value in graph.constants.values())
    moved = float(constants + sum(len(item.raw_data) for item in model.graph.initializer))
    moved += sum(
        4 * float(np.prod(shapes[item.name])) for item in model.graph.input if item.name in graph.inputs
    )
    operations = 0.0
    for node in model.graph.node:
        made = float(np.prod(shapes.get(node.output[0], [0])))
        if node.op_type == "Conv":
            operations += 2 * made * float(np.prod(shapes[node.input[1]][1:]))
            moved += 2 * 4 * made
        elif node.op_type in ("MatMul", "Gemm"):
            inner = (shapes.get(node.input[0]) or [0])[-1]
            operations += 2 * made * inner
    return moved, operations


def resnet(depths: tuple[int, ...], width: int) -> Backbone:
    """A ResNet with random weights; 128 wide is WideResNet-50-2."""
    rng = np.random.default_rng(0)
    state: dict[str, Any] = {}

    def convolution(name: str, norm: str, given: int, made: int, size: int) -> None:
        scale = np.sqrt(2 / (given * size * size))
        state[f"{name}.weight"] = rng.normal(0, scale, (made, given, size, size)).astype(np.float32)
        for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{norm}.{key}"] = np.full(made, value, np.float32)

    convolution("conv1", "bn1", 3, 64, 7)
    given = 64
    for stage, blocks in enumerate(depths):
        inner, made = width * 2**stage, 256 * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            convolution(f"{name}.conv1", f"{name}.bn1", given, inner, 1)
            convolution(f"{name}.conv2", f"{name}.bn2", inner, inner, 3)
            convolution(f"{name}.conv3", f"{name}.bn3", inner, made, 1)
            if not block:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", given, made, 1)
            given = made
    like = load_backbone("efficientnet_lite0")
    model = build_resnet(state)
    return dataclasses.replace(like, name="resnet", model=model, input_name=model.graph.input[0].name)


# ---- learning


def coresets(runtime: Runtime, peaks: tuple[float, float] | None) -> None:
    total = 1_000_000 if peaks else 20_000
    points = np.random.default_rng(1).normal(size=(total, 128)).astype(np.float32)
    count = total // 100
    began = time.perf_counter()
    picks = torch_coreset.greedy(points.__getitem__, total, count, np.array([0]), device=runtime.device)
    took = time.perf_counter() - began
    bound = ""
    if peaks:
        bound = f"; by operations in float32 not less than {2 * total * 128 * count / 6.7e13:.2f} s"
    print(f"\ncoreset of {total:,} x 128 at 1 %: {took:.2f} s, {count / took:.0f} picks/s{bound}")
    if not peaks:
        began = time.perf_counter()
        same = coreset.greedy(points, count)
        print(
            f"the same in NumPy: {time.perf_counter() - began:.2f} s; "
            f"{np.mean(picks == same):.1%} of the picks in the same place"
        )


def fits(runtime: Runtime, data: Path) -> None:
    from goodparts import Inspector

    for title, recipe in (("default", Recipe()), ("fast", Recipe.preset("fast"))):
        inspector = Inspector(recipe, engine=runtime.engine, device=runtime.device)
        began = time.perf_counter()
        inspector.fit(data)
        took = time.perf_counter() - began
        stages = ", ".join(
            f"{name} {value:.1f}" for name, value in inspector.model.fit_record.seconds.items()
        )
        images = inspector.model.provenance.good_images
        print(f"fit of {images} images, {title}: {took:.1f} s ({stages})", flush=True)


if __name__ == "__main__":
    main()
