"""Every set at once: what a choice does to each of them, and what is deployed. Choose by this, never by two sets.

    python benchmarks/everything.py ../shared/mvtec_ad/* ../shared/parts/*
    python benchmarks/everything.py ../shared/mvtec_ad/* ../shared/parts/* --generated --variant "" \
        --variant "banks=joined;threshold_sigma=3" --seeds 0,1,2 --keep everything.jsonl
    python benchmarks/everything.py ... --rule "threshold_sigma=2" --rule "threshold_rule=rate;false_reject_rate=0.02"

Fits and evaluates each variant of the recipe on each set with each seed. `--generated` adds the eight categories of
`categories.py`. Prints three Markdown tables: image AUROC of every set, mean and, where seeds differ, their standard
deviation; good parts rejected / bad parts missed by the deployed rule; and of each variant the means over all sets:
image AUROC and average precision, the worst set, pixel figures of the sets with masks, rejects and misses, and by how
much the F1 of the deployed rule falls short of the best. `--rule` decides anew by other rules, from the same scores.

`--keep` is a file of what was measured, a line a fit: what it has is not measured again, so a further variant costs
only its own fits, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import categories
import numpy as np
from few_images import changed

from goodparts import Dataset, Inspector, Recipe, read_dataset
from goodparts.decision.calibration import decide
from goodparts.decision.good_scores import LEAVE_ONE_OUT, GoodMaps, GoodScores
from goodparts.version import __version__

FIGURES = ("image_auroc", "image_average_precision", "pixel_auroc", "aupro_30", "pixel_f1")
Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", type=Path, help="data sets; what is none is passed over")
    parser.add_argument("--generated", action="store_true", help="the categories of categories.py, too")
    parser.add_argument("--recipe", default="default")
    parser.add_argument(
        "--variant",
        action="append",
        metavar="KEY=VALUE;...",
        help="recipe keys to change [default: none changed]",
    )
    parser.add_argument("--rule", action="append", metavar="KEY=VALUE;...", help="of the decision")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--keep", type=Path, help="what was measured, and will be")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    start = Recipe.load(options.recipe)
    rules = ["", *(options.rule or [])]
    with ExitStack() as stack:
        roots = [path for path in options.data if (path / "test").is_dir()]
        if options.generated:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in categories.CATEGORIES:
                categories.write(name, folder / f"generated_{name}")
            roots += sorted(folder.iterdir())
        if not roots:
            parser.error("no data set: expected folders with train/good and test, or --generated")
        sets = [read_dataset(root) for root in roots]
        kept = _read(options.keep)
        by_variant = {}
        for variant in options.variant or [""]:
            recipe = changed(start, variant)
            found = [
                [_measured(data, recipe.replace({"seed": seed}), kept, options.keep) for seed in seeds]
                for data in sets
            ]
            for rule in rules:
                decided = changed(recipe, rule)
                by_variant[" and ".join(filter(None, (variant or options.recipe, rule)))] = [
                    [fit | deployed(fit, decided) for fit in of_set] for of_set in found
                ]
    _print([data.name for data in sets], by_variant)


def _read(path: Path | None) -> dict[str, Found]:
    if path is None or not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return {line["key"]: line for line in lines}


def _measured(data: Dataset, recipe: Recipe, kept: dict[str, Found], path: Path | None) -> Found:
    """The figures of one fit, measured now unless they were before."""
    key = json.dumps([__version__, data.name, recipe.product])
    if key not in kept:
        kept[key] = {"key": key, **measure(data, recipe)}
        if path is not None:
            with path.open("a") as stream:
                stream.write(json.dumps(kept[key]) + "\n")
    return kept[key]


def measure(data: Dataset, recipe: Recipe) -> Found:
    """One fit: its seconds, figures in percent, and the scores from which `deployed` decides."""
    began = time.perf_counter()
    inspector = Inspector(recipe).fit(list(data.train))
    seconds = time.perf_counter() - began
    evaluation = inspector.evaluate(data)
    return {
        "seconds": seconds,
        **{name: _percent(evaluation.metrics.get(name)) for name in FIGURES},
        "best_f1": _percent(evaluation.metrics["image_f1_max"]),
        "good_scores": list(inspector.model.calibration.scores),
        "scores": [image.score for image in evaluation.images],
        "labels": evaluation.labels.tolist(),
    }


def deployed(fit: Found, recipe: Recipe) -> Found:
    """What a rule rejects and misses, in percent."""
    good = tuple(fit["good_scores"])
    maps = GoodMaps(peaks=good, mean=0.0, std=0.0, quantile=0.0)  # of no account here
    learnt = GoodScores(scores=good, names=("",) * len(good), maps=maps, source=LEAVE_ONE_OUT)
    labels = np.array(fit["labels"])
    called_bad = np.array(fit["scores"]) > decide(learnt, recipe).threshold
    right = int((called_bad & labels).sum())
    f1 = 2 * right / max(1, int(called_bad.sum()) + int(labels.sum()))
    return {
        "rejected": 100 * float(called_bad[~labels].mean()),
        "missed": 100 * float((~called_bad)[labels].mean()),
        "short_of_f1": fit["best_f1"] - 100 * f1,
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _print(names: Sequence[str], by_variant: dict[str, list[list[Found]]]) -> None:
    head = f"| | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}"
    print(f"\nImage AUROC, percent\n\n{head}")
    for variant, sets in by_variant.items():
        print(f"| {variant} | {' | '.join(_spread(fit['image_auroc'] for fit in fits) for fits in sets)} |")
    print(f"\nGood parts rejected / bad parts missed, percent\n\n{head}")
    for variant, sets in by_variant.items():
        cells = [f"{_mean(fits, 'rejected'):.1f} / {_mean(fits, 'missed'):.1f}" for fits in sets]
        print(f"| {variant} | {' | '.join(cells)} |")
    columns = ("image AUROC", "worst set", "AP", "pixel AUROC", "AUPRO", "pixel F1", "rejected", "missed")
    print("\nMeans over all sets, percent; pixel figures of those with masks\n")
    print(f"| | {' | '.join((*columns, 'F1 short of the best', 'fit, s'))} |\n|{'---|' * (3 + len(columns))}")
    for variant, sets in by_variant.items():
        aurocs = [_mean(fits, "image_auroc") for fits in sets]
        cells = [
            statistics.mean(aurocs),
            min(aurocs),
            *(_over(sets, name) for name in (*FIGURES[1:], "rejected", "missed", "short_of_f1", "seconds")),
        ]
        print(f"| {variant} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")


def _over(sets: Sequence[Sequence[Found]], name: str) -> float:
    """Mean over the sets that have this figure."""
    return statistics.mean(_mean(fits, name) for fits in sets if fits[0][name] is not None)


def _mean(fits: Sequence[Found], name: str) -> float:
    return statistics.mean(fit[name] for fit in fits)


def _spread(values: Iterable[float]) -> str:
    found = list(values)
    apart = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{statistics.mean(found):.2f}" + (f" ± {apart:.2f}" if apart >= 0.005 else "")


if __name__ == "__main__":
    main()
