"""Does it help to leave out the background, found from good images alone? (No: see docs/roi.md.)

python benchmarks/foreground.py mvtec_ad/metal_nut mvtec_ad/grid --seeds 0,1,2

Writes the mask beside the table, as NAME_foreground.png, in the form that `--roi` takes.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspection, Inspector, Recipe, TestSample, read_dataset
from goodparts.data.dataset import good_images
from goodparts.data.images import read_image
from goodparts.evaluation.evaluation import evaluate
from goodparts.evaluation.pixel_metrics import PixelMetrics

SIDE, CELLS = 320, 40
LIVELY, QUANTILE = 0.25, 0.98


def foreground(root: Path) -> NDArray[np.bool_]:
    """Which cells of the picture show the part in some good image, with a margin of one cell, (40, 40) bool."""
    energy, level = [], []
    for path in good_images(root):
        picture = Image.fromarray(read_image(path)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        grey = np.asarray(picture, dtype=np.float32).mean(axis=2)
        down, across = np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:])
        energy.append(by_cell(np.hypot(down, across)))
        level.append(by_cell(grey))
    texture, brightness = np.quantile(energy, QUANTILE, axis=0), np.std(level, axis=0)
    lively = np.zeros((CELLS + 2, CELLS + 2), dtype=bool)
    for values in (texture, brightness):
        lively[1:-1, 1:-1] |= values > LIVELY * np.quantile(values, 0.9)
    shifts = [lively[i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3)]
    return np.any(shifts, axis=0)


def by_cell(values: NDArray[np.float32]) -> NDArray[np.float32]:
    size = SIDE // CELLS
    return values.reshape(CELLS, size, CELLS, size).mean(axis=(1, 3))


def measure(root: Path, recipe: Recipe, seen: NDArray[np.bool_]) -> str:
    """One line of the table; pixels are those of `seen` (cells, 40 x 40), whatever the recipe looks at."""
    inspector = Inspector(recipe).fit(root)
    pixels, lock = PixelMetrics(), threading.Lock()

    def observe(
        sample: TestSample, image: NDArray[np.uint8], found: Inspection, truth: NDArray[np.bool_] | None
    ) -> None:
        height, width = found.anomaly_map.shape
        inside = seen[(np.arange(height) * CELLS // height)[:, None], np.arange(width) * CELLS // width]
        if truth is not None or not sample.label:
            with lock:
                pixels.add(np.where(inside, found.anomaly_map, np.float32(np.nan)), truth, found.mask)

    found = evaluate(inspector, read_dataset(root), observe=observe)
    of_pixels = pixels.result()
    figures = (
        found.metrics["image_auroc"],
        of_pixels["pixel_auroc"],
        of_pixels["aupro_30"],
        of_pixels["pixel_f1"],
    )
    shown = " | ".join(f"{100 * (figure or 0):.2f}" for figure in figures)
    return f"{shown} | {found.metrics['false_bad']} | {found.metrics['false_good']}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    print(
        "| data | looked at | seed | image AUROC | pixel AUROC | AUPRO 0.3 | pixel F1 | rejected | missed |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for root in arguments.data:
        seen = foreground(root)
        with Image.open(good_images(root)[0]) as first:
            size = first.size
        mask = Path(f"{root.name}_foreground.png")
        Image.fromarray(seen.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST).save(mask)
        for seed in map(int, arguments.seeds.split(",")):
            for share, roi in ((1.0, ""), (seen.mean(), str(mask))):
                line = measure(root, Recipe(seed=seed, roi=roi), seen)
                print(f"| {root.name} | {100 * share:.0f} % | {seed} | {line} |", flush=True)


if __name__ == "__main__":
    main()
