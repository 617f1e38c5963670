"""What each part of the default recipe is worth: every variation on real images, with its time and memory.

    python benchmarks/recipes.py mvtec_ad/metal_nut mvtec_ad/grid_256 [--seeds 0,1,2] [--only default,plain]
        [--backbone resnet50_he.onnx]

Fits and evaluates each variation in a process of its own, one after the other. Prints a Markdown table: image AUROC
(mean over the seeds and, where there are several, the lowest), pixel AUROC and AUPRO in percent a data set, then of the
last data set the seconds of a fit, the median milliseconds of an inspection from pixels in memory, and the peak memory.
Times of a busy machine compare only roughly; `latency.py` times presets side by side.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.images import read_image
from goodparts.recipe.presets import PRESETS

VARIATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": PRESETS["plain"],
    "no whitening": {"whitening": 0.0},
    "whitening 0.5": {"whitening": 0.5},
    "whitening 1": {"whitening": 1.0},
    "nearest entry alone": {"score_neighbours": 1},
    "5 neighbours": {"score_neighbours": 5},
    "no local scale": {"density_neighbours": 0},
    "local scale of 3": {"density_neighbours": 3},
    "local scale without limit": {"density_limit": 0.0},
    "96 components": {"feature_dimensions": 96},
    "layers 3 and 5": {"layers": "stage3,stage5", "layer_weights": "1,0.7"},
    "layers 2 to 5": {
        "layers": "stage2,stage3,stage4,stage5",
        "layer_weights": "1.5,1,0.5,0.7",
        "grid_layer": "stage3",
    },
    "layers alike": {
        "layers": "stage2,stage3,stage5",
        "layer_weights": "1,1,1",
        "grid_layer": "stage3",
    },
    "patches of 1": {"patch_size": 1},
    "patches of 5": {"patch_size": 5},
    "top 0.5 %": {"image_score": "top_mean", "top_share": 0.005},
    "re-weighted": {"image_score": "reweighted"},
    "random sampling": {"sampling": "random"},
    "2,000 entries": {"sampling_limit": 2000},
    "8,000 entries": {"sampling_limit": 8000},
    "256 px": {"image_size": 256},
    "384 px": {"image_size": 384},
    "fast": {"image_size": 256, "sampling_limit": 2000},
    "light colour": {"light": "colour"},
    "pose rigid": {"pose": "rigid"},
    "window of 24 px": {"position_window": 24},
    "turned copies": {"augment": ["rotate90"]},
    "copies in other light": {"augment": ["brightness:0.8-1.2", "colour:0.1", "noise:8"]},
    "tiles of 480 px": {"tiling": "480x480+80"},
    "tiles with a bank each": {"tiling": "480x480+80", "tile_bank": "position"},
}
OF_THE_BUILT_IN_BACKBONE = ("layers 3 and 5", "layers 2 to 5", "layers alike")
INSPECTIONS = 15


def measure(data: Path, changes: dict[str, Any]) -> dict[str, float]:
    """One fit and evaluation in this process."""
    began = time.perf_counter()
    inspector = Inspector(Recipe().replace(changes)).fit(data)
    seconds = time.perf_counter() - began
    pixels = read_image(read_dataset(data).test[0].path)
    timed = []
    for _ in range(INSPECTIONS):
        start = time.perf_counter()
        inspector.inspect(pixels)
        timed.append(time.perf_counter() - start)
    metrics = inspector.evaluate(data).metrics
    return {
        "image": 100 * metrics["image_auroc"],
        "pixel": 100 * metrics["pixel_auroc"],
        "aupro": 100 * metrics["aupro_30"],
        "seconds": seconds,
        "milliseconds": 1000 * statistics.median(timed),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="names of variations, separated by commas")
    parser.add_argument("--backbone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.data[0], json.loads(options.one))))
        return
    names = options.only.split(",") if options.only else list(VARIATIONS)
    if options.backbone:
        names = [name for name in names if name not in OF_THE_BUILT_IN_BACKBONE]
    print("| | " + " | ".join(data.name for data in options.data) + " | fit, s | inspect, ms | peak, MiB |")
    print("|---|" + "---|" * (len(options.data) + 3))
    for name in names:
        cells = []
        for data in options.data:
            found = []
            for seed in options.seeds.split(","):
                changes = VARIATIONS[name] | {"seed": int(seed)}
                if options.backbone:
                    changes |= {"backbone": options.backbone}
                child = [sys.executable, __file__, str(data), "--one", json.dumps(changes)]
                found.append(json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout))
            mean = {key: statistics.mean(one[key] for one in found) for key in found[0]}
            lowest = f" [{min(one['image'] for one in found):.2f}]" if len(found) > 1 else ""
            cells.append(f"{mean['image']:.2f}{lowest} / {mean['pixel']:.2f} / {mean['aupro']:.1f}")
        cells += [f"{mean['seconds']:.1f}", f"{mean['milliseconds']:.1f}", f"{mean['memory']:.0f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
