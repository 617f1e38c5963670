"""How long the stages of a fit take, and how much of that another checkout of this repository takes.

    python benchmarks/fit.py DATA [--backbone resnet50_he.onnx] [--against CHECKOUT] [--recipes "fast; accurate"]

Each fit has a process of its own; recipes and checkouts take turns. Medians of wall-clock seconds and of processor
seconds, which a busy machine disturbs less; with `--against` the ratios of the other checkout to this one, round by
round. `accurate` is fitted where it is asked for.
Features include reading and resizing the images. "of it" are parts of the stage before them.

As a processor with AVX2 and nothing later, which has no bf16:

    ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" python ...
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
RECIPES = ("default", "fast", "accurate", "ResNet-50, 320 px", "classic", "classic, greedy 10 %")
USUAL = tuple(name for name in RECIPES if name != "accurate")  # whose network is a package of its own
STAGES = (
    "load",
    "whitening",
    "features",
    "memory bank",
    "of it coreset",
    "of it search space",
    "calibration",
    "of it replacements",
    "precision check",
    "writing",
    "all",
    "processor",
)
PARTS = {
    "of it coreset": ("goodparts.bank.sampling", "_keep"),
    "of it search space": ("goodparts.bank.sampling", "_searchable"),
    "of it replacements": ("goodparts.decision.replacements", "_in_holes"),
    "precision check": ("goodparts.model.fit", "with_precision_check"),
}

Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", type=Path, help="for the recipes with ResNet-50, left out without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--recipes", help=f"some of: {'; '.join(RECIPES)}; with ; between them".replace("%", "%%")
    )
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # fit this recipe here, and print its seconds
    options = parser.parse_args()
    if options.one:
        print(json.dumps(fit(options)))
        return
    names = [name.strip() for name in options.recipes.split(";")] if options.recipes else list(USUAL)
    if options.backbone is None:
        names = [name for name in names if "ResNet" not in name and "classic" not in name]
    checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    found: dict[tuple[str, Path], list[Seconds]] = {(name, path): [] for name in names for path in checkouts}
    for _ in range(options.rounds):
        for name, path in found:
            found[name, path].append(in_process(name, path, options))
    print(f"{platform.platform()}, {os.cpu_count()} cores; {options.data.name}, {options.rounds} rounds\n")
    print(f"| recipe | | {' | '.join(STAGES)} |")
    print("|---" * (len(STAGES) + 2) + "|")
    for name in names:
        for path in checkouts:
            print_row(name, "s" if path == HERE else "s, the other", medians(found[name, path], "{:.2f}"))
        for path in checkouts[1:]:
            print_row(name, "ratio", medians(ratios(found[name, path], found[name, HERE]), "{:.2f}"))


def medians(rounds: list[Seconds], form: str) -> list[str]:
    """The median of each stage, empty where it has none."""
    columns = ([each[stage] for each in rounds if each.get(stage)] for stage in STAGES)
    return [form.format(statistics.median(values)) if values else "" for values in columns]


def ratios(others: list[Seconds], own: list[Seconds]) -> list[Seconds]:
    """Those of one checkout to those of the other, round by round."""
    return [
        {stage: other[stage] / this[stage] for stage in STAGES if other.get(stage) and this.get(stage)}
        for other, this in zip(others, own, strict=True)
    ]


def print_row(name: str, what: str, cells: list[str]) -> None:
    """A row of the table."""
    print(f"| {name} | {what} | {' | '.join(cells)} |", flush=True)


def in_process(name: str, checkout: Path, options: argparse.Namespace) -> Seconds:
    """A fit by the code of a checkout, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), str(options.data), "--one", name]
    command += ["--precision", options.precision]
    command += ["--backbone", str(options.backbone)] if options.backbone else []
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds: Seconds = json.loads(done.stdout.splitlines()[-1])
    return seconds


def fit(options: argparse.Namespace) -> Seconds:
    """The seconds of each stage of a fit in this process."""
    import goodparts
    from goodparts import Inspector, Recipe

    if Path(goodparts.__file__).parents[1] != Path(os.environ["PYTHONPATH"]):
        raise SystemExit(f"{goodparts.__file__} is used, not {os.environ['PYTHONPATH']}")
    inspector = Inspector(recipe_of(Recipe, options))
    seconds = dict.fromkeys(PARTS, 0.0)
    for stage, (module, function) in PARTS.items():
        time_calls(importlib.import_module(module), function, stage, seconds)
    began, processor = time.perf_counter(), time.process_time()
    inspector.fit(options.data)
    seconds["all"], seconds["processor"] = time.perf_counter() - began, time.process_time() - processor
    seconds.update(inspector.model.fit_record.seconds)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        inspector.save(Path(folder) / "model.goodparts")
        seconds["writing"] = time.perf_counter() - began
    return seconds


def time_calls(module: Any, name: str, stage: str, seconds: Seconds) -> None:
    """Add what a function of a module takes to a stage; another checkout may not have it."""
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        return

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[stage] += time.perf_counter() - began

    setattr(module, name, timed)


def recipe_of(recipes: Any, options: argparse.Namespace) -> Any:
    """The recipe of a name; `recipes` is the class `Recipe` of the checkout."""
    network = {"backbone": str(options.backbone)} if options.backbone else {}
    chosen = {
        "ResNet-50, 320 px": ("default", network),
        "classic": ("classic", network),
        "classic, greedy 10 %": ("classic", {**network, "sampling": "greedy"}),
    }
    preset, changes = chosen.get(options.one, (options.one, {}))
    return recipes.preset(preset).replace({**changes, "precision": options.precision})


if __name__ == "__main__":
    main()
