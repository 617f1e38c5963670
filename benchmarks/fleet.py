"""A fleet of products: what handing out work costs, and whether kills change anything.

python benchmarks/fleet.py                # 8 products, 40 images each to learn from, 60 to inspect
python benchmarks/fleet.py --products 40 --good 60 --images 500 --side 256 --recipe fast --image-size 0 --kill-every 20
python benchmarks/fleet.py --on --kill-on --no-kill-client --scaling 3    # and the same after `taskset -c 0`

Products are rendered discs, each with a ring pattern of its own; every tenth image has a red stain. One process that
inspects product after product is what the others are held against. Tables are compared row by row. With `--folder` the
images, the models and what one process found stay there, and the next call goes on from them: so long runs come in
pieces.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from goodparts import Inspector
from goodparts.fleet.fit import fit_fleet
from goodparts.fleet.inspect import FleetRun, Options, inspect_fleet
from goodparts.fleet.manifest import Manifest
from goodparts.parallel import cores
from goodparts.recipe.recipe import Recipe
from goodparts.scale.places import open_place

GIB = 2**30


def disc(rng: np.random.Generator, product: int, side: int, bad: bool) -> Image.Image:
    y, x = np.mgrid[:side, :side].astype(float)
    center_y, center_x = side / 2 + rng.uniform(-1, 1, 2)
    radius = np.hypot(y - center_y, x - center_x) * 96 / side
    grey = 25 + np.clip(36 - radius, 0, 1) * (115 + 20 * np.cos(radius * (0.3 + 0.01 * product)))
    pixels = grey[..., None] * rng.uniform(0.95, 1.05) * (1, 0.92, 0.8) + rng.normal(0, 3, (side, side, 1))
    if bad:
        at = side / 2 + rng.uniform(-0.15, 0.15, 2) * side
        pixels[np.hypot(y - at[0], x - at[1]) < side / 14] = (230, 30, 20)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render(root: Path, products: int, good: int, images: int, side: int) -> None:
    for product in range(products):
        rng = np.random.default_rng(product)
        if (root / "archive" / f"product{product:03d}" / f"{images - 1:05d}.png").exists():
            continue
        for folder, count in (("plant", good), ("archive", images)):
            place = root / folder / f"product{product:03d}"
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                bad = folder == "archive" and index % 10 == 3
                disc(rng, product, side, bad).save(place / f"{index:05d}.png", compress_level=1)


def alone(models: Path, archive: Path) -> tuple[float, dict[tuple[str, str], tuple[str, float]]]:
    """One process, product after product: seconds, and verdict and score of each image."""
    kept = models.parent / "alone.json"
    if kept.exists():
        seconds, rows = json.loads(kept.read_text())
        return seconds, {(product, name): (verdict, score) for product, name, verdict, score in rows}
    began = time.perf_counter()
    found = {}
    for model in sorted(models.glob("*.goodparts")):
        paths = sorted((archive / model.stem).iterdir())
        inspector = Inspector.load(model)
        for path, inspection in zip(paths, inspector.inspect_many(paths), strict=True):
            found[model.stem, path.name] = inspection.verdict, inspection.score
    seconds = time.perf_counter() - began
    kept.write_text(json.dumps([seconds, [[*key, *value] for key, value in found.items()]]))
    return seconds, found


def table(out: Path) -> dict[tuple[str, str], tuple[str, float]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["product"], row["name"]): (row["verdict"], float(row["score"])) for row in rows}
    assert len(found) == len(rows), "an image is there twice"
    return found


def workers() -> list[psutil.Process]:
    """The processes that inspect: of a cluster not those that watch over them."""
    below = psutil.Process().children(recursive=True)
    return [child for child in below if "spawn_main" in " ".join(child.cmdline()) and not child.children()]


class Killer(threading.Thread):
    """Kills one worker every so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.seconds, self.killed, self.over = seconds, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.seconds):
            if found := workers():
                os.kill(found[self.killed % len(found)].pid, signal.SIGKILL)
                self.killed += 1


def fleet(
    on: str, root: Path, name: str, shard: int, kill_every: float = 0
) -> tuple[float, float, FleetRun, int]:
    """Seconds to open the workers, seconds of the rest, what it came to, and how many workers were killed."""
    began = time.perf_counter()
    with open_place(on, memory=GIB) as place:
        opened = time.perf_counter()
        killer = Killer(kill_every)
        if kill_every:
            killer.start()
        options = Options(shard=shard, memory=place.memory_limit)
        run = inspect_fleet(root / "models", str(root / "archive"), root / name, place, options)
        killer.over.set()
        ended = time.perf_counter()
    return opened - began, ended - opened, run, killer.killed


def killed_client(root: Path, shard: int, after: float) -> tuple[int, FleetRun]:
    """Images that were finished when the client was killed, and what the second run came to."""
    out = root / "again"
    command = [
        sys.executable,
        "-m",
        "goodparts",
        "fleet",
        "inspect",
        str(root / "models"),
        str(root / "archive"),
    ]
    command += ["--out", str(out), "--shard", str(shard), "--on", "processes:2", "--memory-per-worker", "1G"]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    client.kill()
    client.wait()
    finished = sum(len(path.read_text().splitlines()) - 1 for path in out.glob("shards/*/*.jsonl"))
    return finished, fleet("processes:2", root, "again", shard)[2]


def one_process(root: Path, names: list[str]) -> None:
    """Inspect the images of some products in this process."""
    for name in names:
        inspector = Inspector.load(root / "models" / f"{name}.goodparts")
        for _ in inspector.inspect_many(sorted((root / "archive" / name).iterdir())):
            pass


def processor_seconds(processes: list[psutil.Process]) -> float:
    """Of all these together, so far."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def scaling(root: Path, products: int, shard: int, rounds: int) -> None:
    """One process and workers with a core each, in turn, on the cores that there are; after `taskset -c 0` that is one.

    Processor time is what other programs on the machine disturb least.
    """
    names = [path.stem for path in sorted((root / "models").glob("*.goodparts"))][:products]
    count = sum(len(list((root / "archive" / name).iterdir())) for name in names)
    plan = root / "some.toml"
    plan.write_text("".join(f'[products.{name}]\nimages = "archive/{name}"\n' for name in names))
    here = [psutil.Process()]
    print(
        f"\n{count} images of {len(names)} products, shards of {shard}\n\n| | cores | images/s "
        "| processor, ms an image | handing out, ms of processor a shard |"
    )
    print("|---|---|---|---|---|", flush=True)
    for number in range(rounds):
        began, before = time.perf_counter(), processor_seconds(here)
        one_process(root, names)
        took, used = time.perf_counter() - began, processor_seconds(here) - before
        print(f"| one process | {cores()} | {count / took:.1f} | {1000 * used / count:.2f} | |", flush=True)
        for on in (f"processes:{cores()}", f"dask:local:{cores()}"):
            out = Path(tempfile.mkdtemp(prefix=f"scaling{number}-", dir=root))
            with open_place(on, memory=2 * GIB) as place:
                before = processor_seconds(here)
                run = inspect_fleet(root / "models", str(plan), out, place, Options(shard=shard))
                handing_out = processor_seconds(here) - before
                used = processor_seconds(workers())
            with Manifest(out / "manifest.sqlite") as manifest:
                shards = len(list(manifest.shard_rows()))
            print(
                f"| {on} | {cores()} | {count / run.seconds:.1f} | {1000 * used / count:.2f} "
                f"| {1000 * handing_out / shards:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=8)
    parser.add_argument("--good", type=int, default=40)
    parser.add_argument("--images", type=int, default=60, help="to inspect, of each product")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--image-size", type=int, default=160, help="0: the recipe's")
    parser.add_argument("--shard", type=int, default=30)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--on", nargs="*", default=["processes:1", "processes:2", "dask:local:2"])
    parser.add_argument("--kill-on", nargs="*", default=["processes:2", "dask:local:2"])
    parser.add_argument("--partitions", type=int, default=1, help="of each product's good images, to fit")
    parser.add_argument("--fit-again", metavar="PLACE", help="fit once more there, with workers killed")
    parser.add_argument("--folder", type=Path, help="keep images, models and figures of one process here")
    parser.add_argument("--kill-client", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--scaling", type=int, default=0, metavar="ROUNDS", help="one process and workers, in turn"
    )
    parser.add_argument("--scaling-products", type=int, default=8)
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        measure(root, given)
    finally:
        if given.folder is None:
            shutil.rmtree(root, ignore_errors=True)


def measure(root: Path, given: argparse.Namespace) -> None:
    """All that was asked for, a table each."""
    render(root, given.products, given.good, given.images, given.side)
    recipe = Recipe.load(given.recipe)
    if given.image_size:
        recipe = recipe.replace({"image_size": given.image_size})
    with open_place("processes:2", memory=int(1.5 * GIB)) as place:
        fits = fit_fleet(str(root / "plant"), root / "models", recipe, place, partitions=given.partitions)
    assert not fits.failed, fits.failed
    count = given.products * given.images
    print(
        f"{given.products} products x {given.good} good images fitted in {fits.seconds:.1f} s (processes:2), "
        f"{sum(one.kept for one in fits.fitted)} of them before"
    )
    if given.fit_again:
        fit_again(root, recipe, given, {one.product: one.identity for one in fits.fitted})
    runs = [(on, 0.0) for on in given.on] + [(on, given.kill_every) for on in given.kill_on]
    if runs or given.kill_client:
        against_one_process(root, given, runs, count)
    if given.scaling:
        scaling(root, given.scaling_products, given.shard, given.scaling)


def fit_again(root: Path, recipe: Recipe, given: argparse.Namespace, expected: dict[str, str]) -> None:
    """All products once more, one worker killed every so many seconds: which models come out as another."""
    models = Path(tempfile.mkdtemp(prefix="models-", dir=root))
    killer = Killer(given.kill_every)
    with open_place(given.fit_again, memory=int(1.5 * GIB)) as place:
        killer.start()
        run = fit_fleet(str(root / "plant"), models, recipe, place, partitions=given.partitions)
        killer.over.set()
    differ = sum(one.identity != expected[one.product] for one in run.fitted)
    print(
        f"fitted again in {run.seconds:.1f} s ({given.fit_again}, one killed every {given.kill_every:g} s: "
        f"{killer.killed}, {len(run.deaths)} fits tried again): {differ} of {len(run.fitted)} models differ"
    )


def against_one_process(
    root: Path, given: argparse.Namespace, runs: list[tuple[str, float]], count: int
) -> None:
    """Runs, their workers killed or not, and one whose client is killed, against one process."""
    seconds, expected = alone(root / "models", root / "archive")
    print(
        f"\n{count} images\n\n| | start, s | inspect, s | images/s | against one process | differ | killed |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    print(f"| one process, all cores | | {seconds:.1f} | {count / seconds:.1f} | | | |", flush=True)
    memory = 0
    for on, kill in runs:
        out = Path(tempfile.mkdtemp(prefix="out-", dir=root))
        start, took, run, killed = fleet(on, root, out.name, given.shard, kill)
        memory = max(memory, run.memory)
        found = table(out)
        differ = sum(found.get(key) != value for key, value in expected.items()) + len(found) - len(expected)
        what = f"{on}, one killed every {kill:g} s" if kill else on
        print(
            f"| {what} | {start:.1f} | {took:.1f} | {count / took:.1f} | {100 * (took / seconds - 1):+.0f} % "
            f"| {differ} | {killed} ({len(run.deaths)} shards tried again) |",
            flush=True,
        )
    if given.kill_client:
        shutil.rmtree(root / "again", ignore_errors=True)
        finished, run = killed_client(root, given.shard, 3 + seconds / 2)
        memory = max(memory, run.memory)
        found = table(root / "again")
        differ = sum(found.get(key) != value for key, value in expected.items()) + len(found) - len(expected)
        print(
            f"\nThe client killed with {finished} of {count} images finished: the second run took {run.before} of them "
            f"as they are and inspected {run.images - run.before}; {differ} rows differ"
        )
    print(f"largest memory of a worker {memory / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
