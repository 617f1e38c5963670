"""Small defects on images of 12 megapixels, whole and in tiles: what is found, time, memory (see docs/tiles.md).

    python benchmarks/tiles.py                       # the table
    python benchmarks/tiles.py --across 2,3,4,6,8    # how many working pixels a defect has to be across to be found
    python benchmarks/tiles.py --places              # one bank for all tiles against one for each place
    python benchmarks/tiles.py --data plates --only -          # just write the images, as a data set

Plates of ground metal with drilled holes are generated, 4,000 x 3,000 pixels, no two alike in position, light and
grain. Each of the bad ones has one defect of `--defect` pixels: a pit, a bright speck or a short scratch. With
`--places` plates are half as wide and high, with rivets anywhere on their left half, and what is bad is a rivet on the
right. Every setting is run in a process of its own, whose peak memory is measured. Seconds are those of all processor
cores together: a fit or an inspection that has two cores to itself takes a little more than half of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from memory import _peak as peak
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.images import read_image, read_mask
from goodparts.evaluation.metrics import auroc
from goodparts.evaluation.pixel_metrics import PixelMetrics

Maker = Callable[..., tuple[NDArray[np.uint8], NDArray[np.bool_]]]

SIZE = (3000, 4000)
SPACING = 700  # pixels between holes, about
RIVET = 16  # pixels from the middle of a rivet to its border
SETTINGS: dict[str, dict[str, Any]] = {
    "whole, 320 px": {},
    "whole, 1024x768": {"image_size": "1024x768"},
    "tiles of 1280 px, reduced by 4": {"tiling": "1280x1280+256"},
    "tiles of 640 px, reduced by 2": {"tiling": "640x640+128"},
    "the same, a bank for each place": {"tiling": "640x640+128", "tile_bank": "position"},
    "tiles of 320 px, as they are": {"tiling": "320x320+64"},
}


def plate(
    seed: int, defect: float = 0.0, size: tuple[int, int] = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A plate (H, W, 3) uint8 and where it is damaged (H, W) bool; `defect`: pixels across, 0: a good one."""
    rng = np.random.default_rng(seed)
    height, width = size
    grain = _softened(rng.standard_normal(size, dtype=np.float32), 1.2) * 3
    lines = _softened(rng.standard_normal((height, 1), dtype=np.float32), 0) * 5
    coarse = Image.fromarray(rng.standard_normal((12, 16), dtype=np.float32))
    slow = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 4
    grey = 135 + 11 * grain + lines + slow
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    dy, dx = rng.uniform(-12, 12, 2)
    down, across = max(1, round(height / SPACING)), max(1, round(width / SPACING))
    holes = []
    for index in range(down * across):
        cy = (index // across + 0.5) * height / down + dy
        cx = (index % across + 0.5) * width / across + dx
        holes.append((cy, cx))
        top, left = int(cy) - 130, int(cx) - 130
        near = slice(top, top + 260), slice(left, left + 260)
        away = np.hypot(y[near[0]] - cy, x[:, near[1]] - cx)
        inside = np.clip(90 - away, 0, 1)
        rim = np.exp(-(((away - 96) / 5) ** 2))
        grey[near] = grey[near] * (1 - inside) + 28 * inside + 60 * rim
    mask = np.zeros(size, dtype=bool)
    if defect:
        while True:
            cy, cx = rng.uniform(60, height - 60), rng.uniform(60, width - 60)
            if min(np.hypot(cy - hy, cx - hx) for hy, hx in holes) > 130 + defect:
                break
        reach = int(2 * defect + 8)
        near = slice(int(cy) - reach, int(cy) + reach), slice(int(cx) - reach, int(cx) + reach)
        v, u = y[near[0]] - cy, x[:, near[1]] - cx
        kind, turn = int(rng.integers(3)), rng.uniform(0, np.pi)
        along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        narrow = 0.28 if kind == 2 else rng.uniform(0.7, 1.0)
        away = np.hypot(along, across / narrow) - defect / 2
        grey[near] += np.clip(0.5 - away / 1.5, 0, 1) * (-75, 85, 80)[kind]
        mask[near] = away < 0
    grey *= rng.uniform(0.97, 1.03)
    colour = grey[..., None] * np.array([1.0, 0.985, 0.96], dtype=np.float32)
    return np.clip(colour, 0, 255).astype(np.uint8), mask


def riveted(
    seed: int, defect: float = 0.0, size: tuple[int, int] = (SIZE[0] // 2, SIZE[1] // 2)
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """As `plate`, with rivets anywhere on its left half; bad: a rivet of the same kind near its right border."""
    rng = np.random.default_rng(seed)
    height, width = size
    grey = 135 + 33 * _softened(rng.standard_normal(size, dtype=np.float32), 1.2)
    grey += 5 * rng.standard_normal((height, 1), dtype=np.float32)
    places = [rng.uniform(40, side - 40, 40) for side in (height, width // 2)]
    mask = np.zeros(size, dtype=bool)
    y, x = np.arange(height)[:, None], np.arange(width)
    if defect:
        wrong = rng.uniform(40, height - 40), rng.uniform(0.85 * width, width - 40)
        places = [np.append(along, at) for along, at in zip(places, wrong, strict=True)]
        mask = np.hypot(y - wrong[0], x - wrong[1]) < RIVET
    for cy, cx in zip(*places, strict=True):
        top, left = int(cy) - 40, int(cx) - 40
        near = slice(top, top + 80), slice(left, left + 80)
        away = np.hypot(y[near[0]] - cy, x[near[1]] - cx)
        head = np.clip(RIVET - away, 0, 1)
        shine = 60 + 90 * np.exp(-(((x[near[1]] - cx + 5) ** 2 + (y[near[0]] - cy + 5) ** 2) / 60))
        grey[near] = grey[near] * (1 - head) + shine * head
    return np.clip(np.repeat(grey[..., None], 3, axis=2), 0, 255).astype(np.uint8), mask


def _softened(field: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Blurred along the rows more than across them, as grinding leaves it."""
    if not radius:
        return field
    picture = Image.fromarray(np.clip(128 + 40 * field, 0, 255).astype(np.uint8))
    blurred = picture.filter(ImageFilter.GaussianBlur(radius))
    blurred = blurred.filter(ImageFilter.BoxBlur((4, 0)))
    return (np.asarray(blurred, dtype=np.float32) - 128) / 40


def write_plates(root: Path, train: int, test: int, defect: float, made: Maker = plate) -> None:
    """A data set in the layout of MVTec AD: `train` good plates, `test` good and `test` bad ones."""
    for index in range(train):
        save(made(index)[0], root / "train" / "good" / f"{index:03}.png")
    for index in range(test):
        save(made(1000 + index)[0], root / "test" / "good" / f"{index:03}.png")
        pixels, mask = made(2000 + index, defect)
        save(pixels, root / "test" / "damaged" / f"{index:03}.png")
        save(mask.astype(np.uint8) * 255, root / "ground_truth" / "damaged" / f"{index:03}_mask.png")


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a picture quickly, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def run_one(data: Path, keys: Mapping[str, Any]) -> dict[str, float]:
    """Fit, inspect every test image, and measure."""
    labelled = read_dataset(data)
    process = psutil.Process()
    began = time.process_time()
    inspector = Inspector(Recipe().replace(keys)).fit(data)
    found: dict[str, float] = {"fit": time.process_time() - began, "fit_peak": peak(process) / 2**30}
    inspector.save(data / "model.goodparts")
    labels, scores, seconds, hits = [], [], 0.0, 0
    pixels = PixelMetrics()
    for sample in labelled.test:
        image = read_image(sample.path)
        if not labels:
            inspector.inspect_pixels(image)  # compiles the engine
        began = time.process_time()
        inspection = inspector.inspect_pixels(image)
        seconds += time.process_time() - began
        labels.append(sample.label)
        scores.append(inspection.score)
        mask = read_mask(sample.masks[0]) if sample.masks else np.zeros(image.shape[:2], dtype=bool)
        pixels.add(inspection.anomaly_map[::2, ::2], mask[::2, ::2])
        hits += sample.label and hit(inspection.anomaly_map, mask)
    bad = np.array(labels)
    verdicts = np.array(scores) > inspector.model.calibration.threshold
    return found | {
        "image_auroc": auroc(bad, np.array(scores)),
        "pixel_auroc": pixels.result()["pixel_auroc"],
        "hits": hits,
        "bad": int(bad.sum()),
        "missed": int((bad & ~verdicts).sum()),
        "good": int((~bad).sum()),
        "rejected": int((~bad & verdicts).sum()),
        "seconds": seconds / len(labels),
    }


def hit(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    """Whether the map's peak lies on the defect, give or take 16 pixels."""
    row, column = divmod(int(np.nanargmax(anomaly_map)), mask.shape[1])
    return bool(mask[max(0, row - 16) : row + 17, max(0, column - 16) : column + 17].any())


def inspect_one(data: Path) -> dict[str, float]:
    """Load the model that `run_one` left, inspect one image from its file, and measure memory."""
    inspector = Inspector.load(data / "model.goodparts")
    inspector.inspect(read_dataset(data).test[0].path)
    return {"inspect_peak": peak(psutil.Process()) / 2**30}


def print_across(sizes: list[float], train: int, test: int) -> None:
    """A table of what is found, by working pixels across: tiles as they are, on smaller plates."""
    size = (960, 1280)
    inspector = Inspector(Recipe(tiling="320x320+64", precision="f32"))
    inspector.fit([plate(index, size=size)[0] for index in range(train)])
    threshold = inspector.model.calibration.threshold
    good = np.array(list(inspector.score_many(plate(1000 + index, size=size)[0] for index in range(test))))
    print(f"{(good > threshold).sum()} of {test} good plates rejected\n")
    print("| pixels across | image AUROC | peak on the defect | missed |\n|---|---|---|---|")
    for across in sizes:
        scores, hits = [], 0
        for index in range(test):
            pixels, mask = plate(2000 + index, across, size)
            inspection = inspector.inspect_pixels(pixels)
            scores.append(inspection.score)
            hits += hit(inspection.anomaly_map, mask)
        bad = np.repeat([False, True], test)
        found = 100 * auroc(bad, np.concatenate([good, scores]))
        print(
            f"| {across:g} | {found:.1f} | {hits} of {test} | {(np.array(scores) <= threshold).sum()} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="where the images are, or shall be written; else a temporary folder"
    )
    parser.add_argument("--train", type=int, default=6)
    parser.add_argument("--test", type=int, default=8, help="good images, and as many bad ones")
    parser.add_argument("--defect", type=float, default=12, help="pixels across")
    parser.add_argument(
        "--places", action="store_true", help="plates on whose right half is bad what is good on their left"
    )
    parser.add_argument("--across", help="sizes of defects in working pixels, for the other table")
    parser.add_argument(
        "--only", default="", help="only the settings with this word in their name; '-': none"
    )
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--inspect", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.across:
        print_across([float(size) for size in options.across.split(",")], options.train, options.test)
    elif options.one is not None:
        print(json.dumps(run_one(options.data, options.one)))
    elif options.inspect:
        print(json.dumps(inspect_one(options.data)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            data = options.data or Path(folder) / "plates"
            if not data.exists():
                made = riveted if options.places else plate
                write_plates(data, options.train, options.test, options.defect, made)
            print_table(data, options.only)


def print_table(data: Path, word: str) -> None:
    head = (
        "image AUROC",
        "pixel AUROC",
        "peak on the defect",
        "missed",
        "rejected",
        "fit",
        "an image",
        "GiB, fit",
        "inspect",
    )
    print(f"| | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
    for name, keys in SETTINGS.items():
        if word in name:
            found = _in_a_process(data, "--one", json.dumps(keys)) | _in_a_process(data, "--inspect")
            cells = (
                f"{100 * found['image_auroc']:.1f}",
                f"{100 * found['pixel_auroc']:.2f}",
                f"{found['hits']} of {found['bad']}",
                f"{found['missed']} of {found['bad']}",
                f"{found['rejected']} of {found['good']}",
                f"{found['fit']:.0f} s",
                f"{found['seconds']:.2f} s",
                f"{found['fit_peak']:.2f}",
                f"{found['inspect_peak']:.2f}",
            )
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _in_a_process(data: Path, *options: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, __file__, "--data", str(data), *options], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


if __name__ == "__main__":
    main()
