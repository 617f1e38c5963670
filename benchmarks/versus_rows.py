"""The rows of `versus.py`: who is measured, what is not like for like, and the tables that are printed."""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from goodparts import Dataset, Inspector, parallel
from goodparts.evaluation.evaluation import evaluate, read_truth
from goodparts.evaluation.metrics import auroc
from goodparts.evaluation.pixel_metrics import PixelMetrics

ENGINES = {"torch": "", "float32": "f32", "its precision": None}  # by what a table calls them
PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}  # ours


@dataclass(frozen=True)
class Peer:
    """A contender in the other environment.

    Attributes:
        name: in the tables.
        kind: its class in `versus_process.py`.
        network: option that names its network's file; empty: it has one of its own.
        layers: of the network.
        input: what it looks at, in pixels; {size} is that of the option.
        unlike: what is not like for like.
        looks_at: share of each side of the image that it looks at.
        exports: whether anomalib exports it.
    """

    name: str
    kind: str
    network: str
    layers: tuple[str, ...]
    input: str
    unlike: str
    looks_at: float = 1.0
    exports: bool = True


PATCHCORE = Peer(
    "anomalib PatchCore",
    "Patchcore",
    "backbone",
    ("layer2", "layer3"),
    "{size}",
    "given the bank of `plain`; {extrapolated} s of its fit are its coreset, extrapolated from a part of its picks. "
    "Its own network is a WideResNet-50-2, at 256 px",
)
AUTHORS = Peer(
    "PatchCore's authors",
    "Authors",
    "backbone",
    ("layer2", "layer3"),
    "{size}",
    "given the bank of `plain`, searched by faiss; no fit is timed, and there is no map. Their own network is a "
    "WideResNet-50-2, at 256 px, of which the middle 224",
    exports=False,
)
MH_PATCHCORE = Peer(
    "anomalib MH-PatchCore",
    "MHPatchcore",
    "backbone",
    ("layer2", "layer3"),
    "256, the middle 224",
    "its own network is a WideResNet-50-2. It looks at 77 % of the image, and its pixel figures are of these alone. "
    "Its bank is at most 1,000; of {batches} batches its merging left {entries}",
    looks_at=224 / 256,
)
PADIM = Peer(
    "anomalib PaDiM",
    "Padim",
    "resnet18",
    ("layer1", "layer2", "layer3"),
    "256",
    "with the ResNet-18 of the command line; anomalib by itself takes timm's weights",
)
EFFICIENT_AD = Peer(
    "anomalib EfficientAD-S",
    "EfficientAd",
    "",
    (),
    "256",
    "trained for {minutes:g} minutes, {steps:,} steps of its {of:,}",
)
UNTAUGHT = (
    "no accuracy, for its pretrained teacher and images of other things are not given (--efficient-ad-teacher, "
    "--imagenette). Its times don't depend on what a teacher knows; its fit is {of:,} steps of {step:.2f} s, "
    "extrapolated from {steps}"
)
PEERS = {
    "patchcore": PATCHCORE,
    "authors": AUTHORS,
    "mh_patchcore": MH_PATCHCORE,
    "padim": PADIM,
    "efficient_ad": EFFICIENT_AD,
}


@dataclass
class Row:
    """What is known of a contender; cells are text where they need words."""

    network: str
    input: str
    bank: str = "none"
    fit: str = ""
    image: dict[str, float] = field(default_factory=dict)  # ms by engine
    image_auroc: float | None = None
    pixel: tuple[float, float] | None = None  # AUROC, AUPRO
    unlike: str = ""


def row_of(peer: Peer, options: argparse.Namespace) -> Row:
    network = getattr(options, peer.network).stem if peer.network else "its own"
    return Row(network, peer.input.format(size=options.size))


def row_of_ours(inspector: Inspector, fit: float) -> Row:
    model = inspector.model
    bank = " + ".join(f"{len(depth.bank.features):,}" for depth in model.depths)
    pixels = " x ".join(map(str, model.recipe.image_size))
    unlike = f"in {PRECISIONS[inspector.precision]}; held-out calibration is in its fit"
    return Row(model.backbone.name, pixels, bank, f"{fit:,.0f}", unlike=unlike)


# ---- accuracy


def of_ours(row: Row, inspector: Inspector, data: Dataset) -> list[float]:
    """Put our accuracy into the row, and return the scores."""
    found = evaluate(inspector, data)
    row.image_auroc = found.metrics["image_auroc"]
    row.pixel = _pixel(found.metrics)
    return [float(score) for score in found.scores]


def of_theirs(row: Row, peer: Peer, data: Dataset, scores: list[float], maps: np.ndarray | None) -> None:
    """Put the accuracy of scores and maps (n, h, w) into the row."""
    row.image_auroc = auroc(np.array([sample.label for sample in data.test]), np.array(scores))
    if maps is None:
        return
    pixels = PixelMetrics()
    for sample, anomaly_map in zip(data.test, maps, strict=True):
        truth = read_truth(sample)
        if truth is None and sample.label:
            continue
        with Image.open(sample.path) as image:
            width, height = image.size
        pixels.add(at_original(anomaly_map, (height, width), peer.looks_at), truth)
    row.pixel = _pixel(pixels.result())


def at_original(anomaly_map: np.ndarray, shape: tuple[int, int], looks_at: float) -> np.ndarray:
    """The map bilinearly at the image's own size (H, W) float32; NaN around the middle that was looked at."""
    height, width = (round(side * looks_at) for side in shape)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    whole = np.full(shape, np.nan, dtype=np.float32)
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    whole[top : top + height, left : left + width] = np.asarray(resized)
    return whole


def _pixel(metrics: Any) -> tuple[float, float] | None:
    found = metrics.get("pixel_auroc"), metrics.get("aupro_30")
    return None if any(value is None or np.isnan(value) for value in found) else found


# ---- what is printed


def print_rows(rows: dict[str, Row]) -> None:
    print(
        "| | network | input, px | bank | fit, s | one image, ms | exported to OpenVINO, float32 / its precision, ms "
        "| image AUROC | pixel AUROC / AUPRO |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        exported = [_number(row.image[engine]) for engine in list(ENGINES)[1:] if engine in row.image]
        pixel = " / ".join(f"{100 * value:.2f}" for value in row.pixel or ())
        accuracy = "" if row.image_auroc is None else f"{100 * row.image_auroc:.2f}"
        cells = (name, row.network, row.input, row.bank, row.fit, _number(row.image["torch"]))
        print("| " + " | ".join((*cells, " / ".join(exported), accuracy, pixel)) + " |")
    print(
        "\nNot like for like: ours is timed from the decoded array to verdict, regions and map at the original size;"
        "\ntheirs from a tensor that is resized and normalised to score and map at the working size.\n"
    )
    for name, row in rows.items():
        print(f"- {name}: {row.unlike}.")
    print()


def table(title: str, unit: str, values: dict[str, float]) -> None:
    """A table of figures, each beside its ratio to the first."""
    first = next(iter(values.values()))
    print(f"| {title} | {unit} | times ours |\n|---|---|---|")
    for name, value in values.items():
        ratio = f"{value / first:,.{0 if value >= 20 * first else 2}f}"
        print(f"| {name} | {_number(value)} | {ratio} |")
    print()


def table_of_scores(scores: dict[str, list[float]], data: Dataset) -> None:
    """How alike the scores are of those who search the same bank, ours first."""
    labels = np.array([sample.label for sample in data.test])
    ours = np.array(next(iter(scores.values())))
    print("| The same bank | image AUROC | correlation with ours | median ratio to ours |\n|---|---|---|---|")
    for name, values in scores.items():
        area = 100 * auroc(labels, np.array(values))
        alike = np.corrcoef(ours, values)[0, 1]
        print(f"| {name} | {area:.2f} | {alike:.4f} | {median(np.array(values) / ours):.4f} |")
    print()


def machine() -> str:
    """Processor, cores and versions."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return f"{processor}, {parallel.cores()} cores, {platform.system()}, Python {platform.python_version()}"


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1}f}"
