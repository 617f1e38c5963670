"""What a handful of good images is worth: 1 to 16 of them drawn from the training images, several times.

    python benchmarks/few_images.py ../shared/mvtec_ad/metal_nut ../shared/mvtec_ad/grid_256 --variant "" \
        --variant "augment=rotate45"

The protocol is that of AnomalyDINO (Damm et al., "Boosting patch-based few-shot anomaly detection with DINOv2", 2024):
as many good images as there are shots, several draws of them, the whole test set. Prints two Markdown tables for every
data set: mean (standard deviation over the draws) in per cent, with false rejects and misses at the threshold that the
fit found; and false rejects / misses at the thresholds that other rules would have found from the same scores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goodparts import Dataset, Inspector, Recipe, read_dataset
from goodparts.evaluation.evaluation import Evaluation

COLUMNS = ("image AUROC", "pixel AUROC", "AUPRO", "false rejects", "misses", "bank", "fit, s")
RULES: dict[str, dict[str, Any]] = {
    "`sigma`, 3": {"threshold_sigma": 3.0},
    "`sigma`, 2": {"threshold_sigma": 2.0},
    "`sigma`, 1": {"threshold_sigma": 1.0},
    "`rate`, 0.01": {"threshold_rule": "rate", "false_reject_rate": 0.01},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--recipe", default="default")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="KEY=VALUE;...",
        help="recipe keys to change; several variants are compared on the same draws [default: none changed]",
    )
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=5, help="draws for each number of shots")
    options = parser.parse_args()
    for path in options.data:
        data = read_dataset(path)
        print(f"\n### {data.name}\n\n| shots | recipe | {' | '.join(COLUMNS)} |")
        print("|" + "---|" * (2 + len(COLUMNS)), flush=True)
        by_rule = []
        for shots in options.shots:
            for variant in options.variant or [""]:
                recipe = changed(Recipe.load(options.recipe), variant)
                draws = [measure(data, recipe, shots, seed) for seed in range(options.seeds)]
                named = f"| {shots} | {variant or options.recipe} |"
                cells = " | ".join(map(spread, zip(*(figures for figures, _ in draws), strict=True)))
                print(f"{named} {cells} |", flush=True)
                rates = np.mean([of_rules for _, of_rules in draws], axis=0)
                by_rule.append(f"{named} {' | '.join(f'{good:.0f} / {bad:.0f}' for good, bad in rates)} |")
        print(f"\n| shots | recipe | {' | '.join(RULES)} |\n|{'---|' * (2 + len(RULES))}")
        print("\n".join(by_rule), flush=True)


def changed(recipe: Recipe, variant: str) -> Recipe:
    """The recipe with keys changed: "augment=rotate45;sampling_ratio=1"."""
    pairs = (part.split("=", 1) for part in variant.split(";") if part)
    return recipe.replace({key.strip(): value.strip() for key, value in pairs})


def measure(
    data: Dataset, recipe: Recipe, shots: int, seed: int
) -> tuple[tuple[float, ...], list[tuple[float, float]]]:
    """One draw: figures of `COLUMNS`; false rejects and misses of `RULES`. A seed's draws contain each other."""
    drawn = np.random.default_rng(seed).permutation(len(data.train))[:shots]
    began = time.perf_counter()
    inspector = Inspector(recipe).fit([data.train[index] for index in drawn])
    seconds = time.perf_counter() - began
    found = inspector.evaluate(data)
    good, bad = int((~found.labels).sum()), int(found.labels.sum())
    figures = (
        *(100 * float(found.metrics[name] or 0) for name in ("image_auroc", "pixel_auroc", "aupro_30")),
        100 * found.counts["false_bad"] / good,
        100 * found.counts["false_good"] / bad,
        inspector.model.entries,
        seconds,
    )
    return figures, [rates(found, inspector, keys) for keys in RULES.values()]


def rates(found: Evaluation, inspector: Inspector, keys: dict[str, Any]) -> tuple[float, float]:
    """False rejects and misses, per cent, at the threshold of another rule."""
    decision = inspector.model.calibration.decide(inspector.recipe.replace(keys)).decision
    assert decision.threshold is not None
    above = np.asarray(found.scores) > decision.threshold
    return 100 * float(above[~found.labels].mean()), 100 * float((~above[found.labels]).mean())


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in brackets."""
    if max(values) > 100:  # entries of the bank
        return f"{np.mean(values):.0f}"
    return f"{np.mean(values):.1f} ({np.std(values, ddof=1) if len(values) > 1 else 0:.1f})"


if __name__ == "__main__":
    main()
