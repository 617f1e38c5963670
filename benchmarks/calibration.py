"""Can decisions be trusted? Bias of held-out scores, what each rule does on test images, and bad images among the good.

    python benchmarks/calibration.py ../shared/mvtec_ad/metal_nut ../shared/mvtec_ad/grid_256

Prints Markdown tables: (1) held-out scores of one half of the good images against those of the other half, which had no
part in the bank; (2) false rejects and misses of every threshold rule beside the oracle; segmentation F1 of every pixel
rule beside the best possible; (3) how well bad images smuggled among the good ones stand out, what they cost, and what
`robust` saves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts import Dataset, Inspector, Recipe, read_dataset
from goodparts.backbones.backbone import cut_down, with_layers
from goodparts.backbones.catalogue import load_backbone
from goodparts.bank import sampling
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.decision import leave_one_out
from goodparts.evaluation import metrics
from goodparts.features import extract as features
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE
from goodparts.progress import silent

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--only", choices=("bias", "rules", "smuggled"))
    options = parser.parse_args()
    recipe = Recipe.load(options.recipe)
    sets = [read_dataset(path) for path in options.data]
    for name, table in (("bias", bias), ("rules", rules), ("smuggled", smuggled)):
        if options.only in (None, name):
            for data in sets:
                print(f"\n### {data.name}: {name}\n")
                for line in table(data, recipe):
                    print(line, flush=True)


def bias(data: Dataset, recipe: Recipe) -> Iterator[str]:
    """Held-out scores of a half against scores of the other half: both are good parts that the bank has not seen."""
    backbone = load_backbone(recipe.backbone)
    recipe = with_layers(recipe.replace({"banks": "joined"}), backbone)  # of one bank, which is compared here
    backbone = cut_down(backbone, recipe)
    plain = features.Extractor(backbone, recipe)
    good = GoodImages.of(data.train, read=read_image, workers=WORKERS)
    preprocessor = Preprocessor.learn(good, recipe, plain.grid, EVERYWHERE)
    ways = ("own entries left out", "the same with replacements", "five refits")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    images = good.images
    for seed in range(4):
        half = np.zeros(len(images), dtype=bool)
        half[np.random.default_rng(seed).permutation(len(images))[: len(images) // 2]] = True
        some = [image for image, of_half in zip(images, half, strict=True) if of_half]
        whitening = features.learn_whitening(good.only(some), plain, preprocessor)
        extractor = features.Extractor(backbone, recipe, whitening)
        with features.extract(good, extractor, preprocessor) as everything:
            learnt, new = everything.without(~half), np.flatnonzero(~half)
            bank = sampling.choose(learnt.features, learnt.eligible, recipe)
            nobody = np.full(len(bank.features), -1, dtype=np.int32)
            members = np.flatnonzero(half).tolist()
            fresh = _scores(
                leave_one_out.score_against(learnt, bank, nobody, new.tolist(), recipe, WORKERS, silent)
            )
            alone = _scores(
                leave_one_out.score_against(learnt, bank, nobody, members, recipe, WORKERS, silent)
            )
            filled = _scores(leave_one_out.score(learnt, bank, recipe, workers=WORKERS, progress=silent))[
                half
            ]
            folds = leave_one_out.score_by_folds(learnt, recipe, 5, workers=WORKERS, progress=silent)
            refits = _scores(sorted(folds, key=lambda one: one.index))[half]
            for way, scores in zip(ways, (alone, filled, refits), strict=True):
                found[way].append(
                    (scores.mean() / fresh.mean() - 1, threshold(scores) / threshold(fresh) - 1)
                )
    yield "| held-out scores | mean, against new images | mean + 3 sigma |"
    yield "|---|---|---|"
    for way, pairs in found.items():
        means = [
            f"{100 * np.mean(values):+.1f} % ({100 * np.std(values):.1f})"
            for values in zip(*pairs, strict=True)
        ]
        yield f"| {way} | {' | '.join(means)} |"


def threshold(scores: NDArray[np.float64]) -> float:
    return float(scores.mean() + 3 * scores.std(ddof=1))


def _scores(
    scored: Iterator[leave_one_out.HeldOutScore] | Sequence[leave_one_out.HeldOutScore],
) -> NDArray[np.float64]:
    return np.array([one.score for one in scored])


def rules(data: Dataset, recipe: Recipe) -> Iterator[str]:
    """What every rule does on the test images, none of which it has seen; and the oracle, which has."""
    inspector = Inspector(recipe).fit(data.root)
    labels = np.array([sample.label for sample in data.test])
    scores = np.array(list(inspector.score_many([sample.path for sample in data.test])))
    best, oracle = metrics.f1_max(labels, scores)
    yield f"Of {np.sum(~labels)} good and {np.sum(labels)} bad test images; best possible F1 {best:.3f}.\n"
    yield "| rule | threshold | false rejects | misses | F1 | says of false rejects |"
    yield "|---|---|---|---|---|---|"
    for changes in (
        {"threshold_rule": "sigma", "threshold_sigma": 2},
        {"threshold_rule": "sigma", "threshold_sigma": 3},
        {"threshold_rule": "sigma", "threshold_sigma": 4},
        {"threshold_rule": "quantile", "threshold_quantile": 0.99},
        {"threshold_rule": "rate", "false_reject_rate": 0.05},
        {"threshold_rule": "rate", "false_reject_rate": 0.02},
        {"threshold_rule": "tail", "false_reject_rate": 0.01},
        {"threshold_rule": "tail", "false_reject_rate": 0.001},
    ):
        decision = inspector.calibrate(changes=changes).model.calibration
        bound = decision.false_reject_bound()
        rule = " ".join(str(value) for value in changes.values())
        yield _row(rule, decision.threshold, labels, scores, f"≤ {100 * bound.rate:.1f} %")
    yield _row("f1 (oracle)", oracle, labels, scores, "-")
    yield "\n| pixel rule | threshold | segmentation F1 | best possible |"
    yield "|---|---|---|---|"
    for changes in (
        {"pixel_threshold_rule": "pixel_sigma", "pixel_threshold_sigma": 3},
        {"pixel_threshold_rule": "pixel_quantile", "pixel_threshold_quantile": 0.995},
        {"pixel_threshold_rule": "peak_quantile", "pixel_threshold_quantile": 0.995},
        {"pixel_threshold_rule": "peak_sigma", "pixel_threshold_sigma": 2},
        {"pixel_threshold_rule": "peak_sigma", "pixel_threshold_sigma": 3},
        {"pixel_threshold_rule": "peak_sigma", "pixel_threshold_sigma": 4},
    ):
        inspector.calibrate(changes={"threshold_rule": "sigma", "threshold_sigma": 3, **changes})
        found = inspector.evaluate(data).metrics
        rule = " ".join(str(value) for value in changes.values())
        yield f"| {rule} | {found['pixel_threshold']:.3f} | {found['pixel_f1']:.3f} | {found['pixel_f1_max']:.3f} |"


def _row(rule: str, cut: float, labels: NDArray[np.bool_], scores: NDArray[np.float64], says: str) -> str:
    count = metrics.confusion(labels, scores > cut)
    f1 = 2 * count["true_bad"] / (2 * count["true_bad"] + count["false_bad"] + count["false_good"])
    return f"| {rule} | {cut:.3f} | {count['false_bad']} | {count['false_good']} | {f1:.3f} | {says} |"


def smuggled(data: Dataset, recipe: Recipe) -> Iterator[str]:
    """Bad test images among the good training images; what is left of the test set is measured."""
    yield "| smuggled in | among the farthest | AUROC | misses | robust leaves out (bad) | AUROC | misses |"
    yield "|---|---|---|---|---|---|---|"
    bad = [sample for sample in data.test if sample.label]
    order = np.random.default_rng(0).permutation(len(bad))
    for count in (0, 1, 5, 10):
        hidden = {bad[index].path for index in order[:count]}
        rest = [sample for sample in data.test if sample.path not in hidden]
        labels = np.array([sample.label for sample in rest])
        cells = []
        for robust in (False, True):
            fitted = Inspector(recipe.replace({"robust": robust})).fit([*data.train, *sorted(hidden)])
            calibration = fitted.model.calibration
            scores = np.array(list(fitted.score_many([sample.path for sample in rest])))
            names = [name for name in calibration.left_out if "test/" in name]
            if robust:
                cells.append(f"{len(calibration.left_out)} ({len(names)})")
            else:
                farthest = np.argsort(calibration.training_set.scores)[::-1][: max(count, 1)]
                cells.append(str(sum("test/" in calibration.training_set.names[index] for index in farthest)))
            cells += [
                f"{100 * metrics.auroc(labels, scores):.2f}",
                str(int(np.sum(labels & (scores <= calibration.threshold)))),
            ]
        yield f"| {count} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
