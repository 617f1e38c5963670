"""How long fit and inspection take by each engine on this machine's processor.

    python benchmarks/engines.py ../shared/mvtec_ad/metal_nut [--backbone R] [--good 220] [--precision auto]

`inspect` is from a decoded array to verdict and full-size map, the median of one image after another; images a second
are of files, several at a time. Prints a table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from goodparts import Inspector, Recipe, read_dataset
from goodparts.engines.runtime import ENGINES, installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", default="320")
    parser.add_argument("--good", type=int, default=220)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--precision", default="f32", choices=("auto", "f32", "bf16"))
    asked = parser.parse_args()
    data = read_dataset(asked.data)
    good = list(data.train)[: asked.good]
    images = [sample.path for sample in data.test][: asked.images]
    print(f"{len(good)} good images, {Path(asked.backbone).stem} at {asked.size} px\n")
    print("| computed by | fit, s | of it features | held-out scores | inspect, ms | folder, images/s |")
    print("|---|---|---|---|---|---|")
    for engine in filter(installed, ENGINES):
        recipe = Recipe(backbone=asked.backbone, image_size=asked.size, precision=asked.precision)
        inspector = Inspector(recipe, engine=engine, device="cpu")
        began = time.perf_counter()
        inspector.fit(good)
        fit = time.perf_counter() - began
        stages = inspector.model.fit_record.seconds
        pixels = [inspector.read(path) for path in images]
        inspector.inspect_pixels(pixels[0])
        took = []
        for image in pixels:
            began = time.perf_counter()
            inspector.inspect_pixels(image)
            took.append(time.perf_counter() - began)
        list(inspector.inspect_many(images[:4]))
        began = time.perf_counter()
        list(inspector.inspect_many(images))
        rate = len(images) / (time.perf_counter() - began)
        print(
            f"| {inspector.computed_by} | {fit:.1f} | {stages['features']:.1f} | {stages['calibration']:.1f} | "
            f"{1000 * float(np.median(took)):.0f} | {rate:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
