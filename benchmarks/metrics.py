"""How long all metrics together take on a test set the size of MVTec AD's metal_nut, on made-up maps.

    python benchmarks/metrics.py

115 maps of 700 x 700 pixels, 93 of them with a defect: adding them one by one, then all results.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from goodparts.evaluation.pixel_metrics import PixelMetrics

IMAGES, BAD, SIDE = 115, 93, 700


def main() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    masks, maps = [], []
    for index in range(IMAGES):
        across, down, radius = rng.uniform(100, 600), rng.uniform(100, 600), rng.uniform(15, 90)
        mask = (np.hypot(x - across, y - down) < radius) & (index < BAD)
        maps.append((rng.gamma(9, 1, (SIDE, SIDE)) + 6 * mask).astype(np.float32))
        masks.append(mask)
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        metrics = PixelMetrics()
        for anomaly_map, mask in zip(maps, masks, strict=True):
            metrics.add(anomaly_map, mask, anomaly_map > 18)
        added = time.perf_counter()
        found = metrics.result()
        rounds.append((added - began, time.perf_counter() - added))
    for name, value in found.items():
        print(f"{name:25} {value:.4f}")
    adding, results = (statistics.median(part) for part in zip(*rounds, strict=True))
    print(f"\nmedians: adding {adding:.1f} s, results {results:.1f} s, together {adding + results:.1f} s")


if __name__ == "__main__":
    main()
