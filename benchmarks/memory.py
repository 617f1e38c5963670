"""How much memory runs and fits take: the peak of resident memory, each in a process of its own.

    python benchmarks/memory.py DATA [--backbone resnet50_he.onnx] [--images 5000] [--only WORD]

`goodparts run` on the data set with each recipe; then a fit of `--images` images at 224 px: the data set's own, turned
and in another light each time, and made when they are asked for.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.images import read_image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--backbone", type=Path, help="for the runs with ResNet-50, which are left out without it"
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--only", default="", help="only the runs with this word in their name")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit is not None:
        fit_many(options.data, options.images, options.fit)
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB\n")
    print("| what | wall time | peak memory |")
    print("|---|---|---|")
    for name, command in commands(options.data, options.backbone, options.images):
        if options.only in name:
            seconds, peak = measure(command)
            print(f"| {name} | {seconds:.0f} s | {peak / 2**30:.2f} GiB |", flush=True)


def commands(data: Path, backbone: Path | None, images: int) -> Iterator[tuple[str, list[str]]]:
    run = ["-m", "goodparts", "run", str(data)]
    fit = [__file__, str(data), "--images", str(images), "--fit"]
    yield "run, default", run
    if backbone:
        chosen = ["--backbone", str(backbone)]
        yield (
            "run, classic, greedy 10 %, ResNet-50, 224 px",
            [
                *run,
                *("--recipe", "classic", "--sampling", "greedy"),
                *chosen,
            ],
        )
        yield "run, default, ResNet-50, 320 px", [*run, *chosen]
    yield f"fit {images:,} images, 224 px, built-in backbone", [*fit, "efficientnet_lite0"]
    if backbone:
        yield f"fit {images:,} images, 224 px, ResNet-50", [*fit, str(backbone)]


def measure(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of Python with these arguments."""
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", folder] if "goodparts" in command else []
        began = time.perf_counter()
        process = psutil.Popen([sys.executable, *command, *out], stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, _peak(process))
            except psutil.Error:  # it has just ended
                break
            time.sleep(0.05)
        if process.wait() != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        return time.perf_counter() - began, peak


def _peak(process: psutil.Process) -> int:
    """The highest resident memory so far, where the system tells; else the present one."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    memory = process.memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


class ManyImages(Sequence[NDArray[np.uint8]]):
    """A data set's good images again and again, each time turned and lit otherwise; made when asked for."""

    def __init__(self, paths: Sequence[Path], count: int) -> None:
        self._paths = paths
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        pixels = read_image(self._paths[index % len(self._paths)])[
            ::2, ::2
        ]  # enough for 224 pixels, and sooner made
        rng = np.random.default_rng(index)
        turned = np.rot90(pixels, int(rng.integers(4)))
        lit = turned * np.float32(rng.uniform(0.8, 1.1)) + rng.uniform(-8, 8)
        return np.ascontiguousarray(np.clip(lit, 0, 255).astype(np.uint8))


def fit_many(data: Path, count: int, backbone: str) -> None:
    paths = list(read_dataset(data).train)
    inspector = Inspector(Recipe(backbone=backbone, image_size=224)).fit(ManyImages(paths, count))
    print(inspector.model.fit_record.seconds)


if __name__ == "__main__":
    main()
