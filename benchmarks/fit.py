"""How long the stages of a fit take: loading, features, memory bank, calibration.

    python benchmarks/fit.py DATA [--backbone resnet50_he.onnx] [--rounds 3]

Recipes take turns; medians in seconds. Features include reading and resizing the images.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from pathlib import Path

from goodparts import Inspector, Recipe, read_dataset


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", type=Path, help="for the recipes with ResNet-50, left out without it")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = read_dataset(options.data)
    recipes = {"default": Recipe(), "fast": Recipe.preset("fast")}
    if options.backbone:
        chosen = {"backbone": str(options.backbone)}
        classic = Recipe.preset("classic").replace(chosen)
        recipes["ResNet-50, 320 px"] = Recipe().replace(chosen)
        recipes["classic"] = classic
        recipes["classic, greedy 10 %"] = classic.replace({"sampling": "greedy"})
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    for _ in range(options.rounds):
        for name, recipe in recipes.items():
            fitted = Inspector(recipe).fit(data.root).model
            seconds[name].append(fitted.fit_record.seconds)  # type: ignore[arg-type]
    stages = list(seconds["default"][0])
    print(f"{platform.platform()}, {os.cpu_count()} cores; {data.root.name}, {len(data.train)} good images\n")
    print(f"| recipe | {' | '.join(stages)} | all |")
    print("|---" * (len(stages) + 2) + "|")
    for name, rounds in seconds.items():
        medians = [statistics.median(each[stage] for each in rounds) for stage in stages]
        whole = statistics.median(sum(each.values()) for each in rounds)
        print(f"| {name} | {' | '.join(f'{value:.1f} s' for value in medians)} | {whole:.1f} s |")


if __name__ == "__main__":
    main()
