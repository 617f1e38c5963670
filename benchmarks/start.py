"""How long a command takes from the shell: `goodparts inspect MODEL IMAGE`, a process of its own each time.

    python benchmarks/start.py MODEL IMAGE [--rounds 15] [--against OTHER/checkout]

Prints the median wall and processor time of whole processes, three ways in turn so that a busy machine slows them
alike: cold (nothing is kept of the model: it is compiled, and kept), without a cache (GOODPARTS_CACHE=off), and warm
(found compiled); with --against also the package of another checkout, with this environment's dependencies. Then where
the time of one cold and one warm process goes, by wall clock. Files are read once before, and Python has its bytecode.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

_COMMAND = "from goodparts.cli import main; main()"
_PHASES = ("python and imports", "read the model", "open the engine", "read the image", "inspect", "close")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--phases", type=float, help=argparse.SUPPRESS)  # of the child that tells its own
    options = parser.parse_args()
    if options.phases is not None:
        tell_phases(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        here = environment(Path(temporary), Path(__file__).parents[1])
        ways = {
            "cold": (here, True),
            "without a cache": (here | {"GOODPARTS_CACHE": "off"}, False),
            "warm": (here, False),
        }
        if options.against:
            ways["the other checkout"] = (environment(Path(temporary), options.against), False)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for round_ in range(-1, options.rounds):  # the first writes bytecode
            for name, (variables, forget) in ways.items():
                if forget:
                    shutil.rmtree(here["GOODPARTS_CACHE"], ignore_errors=True)
                found = process(options, variables)
                if round_ >= 0:
                    samples[name].append(found)
        print("| start | wall, s | least | processor, s |\n|---|---|---|---|")
        for name, found_ in samples.items():
            wall, used = zip(*found_, strict=True)
            print(
                f"| {name} | {statistics.median(wall):.3f} | {min(wall):.3f} | {statistics.median(used):.3f} |"
            )
        print(f"\n| | {' | '.join(_PHASES)} |\n|{'---|' * (1 + len(_PHASES))}", flush=True)
        for name, (variables, forget) in list(ways.items())[:3]:
            print(f"| {name}, ms | ", end="", flush=True)
            if forget:
                shutil.rmtree(here["GOODPARTS_CACHE"], ignore_errors=True)
            arguments = [sys.executable, __file__, str(options.model), str(options.image)]
            subprocess.run([*arguments, "--phases", repr(time.time())], env=variables, check=True)


def environment(folder: Path, checkout: Path) -> dict[str, str]:
    """What a process gets: that package, bytecode and compiled graphs in folders that go with the benchmark."""
    found = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return found | {
        "PYTHONPATH": str(checkout.resolve()),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "GOODPARTS_CACHE": str(folder / "compiled"),
    }


def process(options: argparse.Namespace, variables: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of one command, from its start until it is gone."""
    arguments = ["inspect", str(options.model), str(options.image), "--exit-zero"]
    before = psutil.Process().cpu_times()
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-c", _COMMAND, *arguments], env=variables, check=True, capture_output=True
    )
    wall = time.perf_counter() - began
    after = psutil.Process().cpu_times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def tell_phases(options: argparse.Namespace) -> None:
    """Do what the command does, and say when which part of it was done."""
    began = options.phases
    marks = [began]

    def timed(step: Callable[[], Any]) -> Any:
        found = step()
        marks.append(time.time())
        return found

    def imports() -> Any:
        import goodparts.cli.inspect
        from goodparts.engines.telemetry import without_converter

        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        without_converter()
        import goodparts.inspector

        return goodparts.inspector.Inspector

    inspector = timed(imports)
    loaded = timed(lambda: inspector.load(options.model))
    timed(lambda: loaded._ready.open(latency=True))
    pixels = timed(lambda: loaded.read(options.image))
    timed(lambda: loaded.inspect_pixels(pixels))
    timed(loaded._ready.close)
    steps = [1000 * (after - before) for before, after in itertools.pairwise(marks)]
    print(" | ".join(f"{step:.0f}" for step in steps), "|", flush=True)


if __name__ == "__main__":
    main()
