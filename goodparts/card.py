"""The model card: what a model learnt, what its threshold promises, and what nobody tested, in plain sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from goodparts.calibration import FOLDS, SEPARATE, Calibration, Decision, GoodScores
from goodparts.model import Model
from goodparts.recipe import Recipe

LEAST_ALIKE = 5  # good images that are named
WANTED = (0.05, 0.02, 0.01, 0.001)  # false-reject rates of which is said what they need


@dataclass(frozen=True)
class Section:
    """A part of the card: a title and its sentences."""

    title: str
    lines: tuple[str, ...]


def card(model: Model) -> tuple[Section, ...]:
    """The sections of a model's card."""
    calibration = model.calibration
    sections = [
        Section("What was learnt", tuple(_learnt(model))),
        Section("The decision", tuple(_decision(model))),
    ]
    if calibration.decision.threshold is not None:
        sections.append(Section("What it means for good parts", tuple(promise_lines(model))))
    sections += [
        Section("How rare a score is", tuple(_rarity(calibration))),
        Section("Good images that look least like the rest", tuple(_least_alike(calibration))),
        Section("Not tested", tuple(_untested(model))),
    ]
    if calibration.history:
        sections.append(Section("Earlier decisions", tuple(map(_earlier, reversed(calibration.history)))))
    return tuple(sections)


def card_text(model: Model, name: str) -> str:
    """The card as Markdown."""
    lines = [f"# {name}", "", f"Model {model.identity[:12]}, fitted {model.circumstances['fitted']}."]
    for section in card(model):
        lines += ["", f"## {section.title}", "", *(f"- {line}" for line in section.lines)]
    return "\n".join(lines) + "\n"


def card_record(model: Model, name: str) -> dict[str, Any]:
    """The card's facts for machines."""
    calibration = model.calibration
    record: dict[str, Any] = {
        "name": name,
        "identity": model.identity,
        "parent": model.data.get("parent"),
        "good_images": model.data["good_images"],
        "left_out": list(calibration.left_out),
        "threshold": calibration.decision.threshold,
        "threshold_rule": calibration.decision.threshold_rule,
        "pixel_threshold": calibration.pixel_threshold,
        "pixel_threshold_rule": calibration.decision.pixel_threshold_rule,
        "scores_from": calibration.used.source,
        "scores": len(calibration.scores),
        "least_alike": [
            {"name": name, "score": score} for name, score in least_alike(calibration.learnt, LEAST_ALIKE)
        ],
        "decisions_before": len(calibration.history),
    }
    if calibration.decision.threshold is not None:
        promise = calibration.promise(model.recipe.confidence)
        record |= {
            "rejected": promise.rejected,
            "false_reject_rate_at_most": promise.rate,
            "confidence": promise.confidence,
            "certified": promise.certified,
        }
    return record


def rule_in_words(decision: Decision, recipe: Recipe) -> str:
    """How a threshold was found."""
    of = f"the scores of {decision.good} good images"
    promised = f"{_percent(recipe.false_reject_rate)} with {_percent(recipe.confidence)} confidence"
    return {
        "sigma": f"mean + {recipe.threshold_sigma:g} standard deviations of {of}",
        "quantile": f"the {recipe.threshold_quantile:g} quantile of {of}",
        "rate": f"the lowest that keeps false rejects under {promised}, by the order of {of}"
        if decision.kept
        else f"the largest of {of}: too few to keep false rejects under {promised}",
        "tail": f"a generalised Pareto tail fitted to {of}, at a false-reject rate of "
        f"{_percent(recipe.false_reject_rate)}",
        "fixed": "given by the recipe",
        "f1": "chosen for the best F1 on the labelled test images: an oracle that no line has",
    }[decision.threshold_rule]


def promise_lines(model: Model) -> list[str]:
    """What the threshold means: the rate that the good images bound, and what a lower one needs."""
    calibration, recipe = model.calibration, model.recipe
    promise = calibration.promise(recipe.confidence)
    word = "Certified" if promise.certified else "Estimated"
    lines = [
        f"{promise.rejected} of {_parts(promise.good)} lie{'s' * (promise.rejected == 1)} above the threshold. {word}: "
        f"at most {_percent(promise.rate)} of good parts are rejected, at {_percent(promise.confidence)} confidence."
    ]
    if calibration.decision.threshold_rule == "f1":
        lines[0] += " (The threshold itself was chosen on labelled test images.)"
    if not promise.certified:
        lines.append(
            "Estimated, because these images had a part in the memory bank, each held out in its turn. Good images "
            "that had none certify it: goodparts calibrate MODEL FOLDER."
        )
    wanted = [rate for rate in WANTED if rate < promise.rate]
    if wanted:
        needs = ", ".join(f"{promise.needed(rate):,} for {_percent(rate)}" for rate in wanted)
        lines.append(
            f"A lower rate needs more good images, none of them above the threshold: {needs}. These are "
            f"{promise.good:,}."
        )
    lines.append(
        "This holds for independent parts from the line that the images came from. A burst of nearly the same image "
        "counts as one."
    )
    return lines


def least_alike(good: GoodScores, most: int) -> list[tuple[str, float]]:
    """Names and held-out scores of the good images that lie farthest from the rest, farthest first."""
    order = np.argsort(-np.array(good.scores), kind="stable")[:most]
    return [(good.names[index], good.scores[index]) for index in order]


def _learnt(model: Model) -> list[str]:
    backbone, bank, data = model.backbone, model.bank, model.data
    sizes = ", ".join(f"{count} of {size}" for size, count in list(data["image_sizes"].items())[:3])
    lines = [
        f"{data['good_images']} images of good parts ({sizes} pixels), and nothing else: no defect was ever shown.",
        f"Backbone {backbone.name} ({backbone.source}, licence {backbone.licence}), layers "
        f"{', '.join(model.recipe.layers)}, normalisation {backbone.normalisation}.",
        f"Memory bank: {len(bank.features):,} patch features of {bank.features.shape[1]} dimensions.",
    ]
    left_out = model.calibration.left_out
    if left_out:
        lines.append(
            f"{len(left_out)} image(s) looked too unlike the rest and were left out of the bank: {', '.join(left_out)}."
        )
    if data.get("parent"):
        lines.append(f"Learnt on from model {data['parent'][:12]}.")
    return lines


def _decision(model: Model) -> list[str]:
    calibration, recipe = model.calibration, model.recipe
    decision, scores = calibration.decision, np.array(calibration.scores)
    how = {
        SEPARATE: "that had no part in the memory bank",
        FOLDS: "each scored by a refit without it",
    }.get(calibration.used.source, "each scored against the others")
    lines = [
        f"{_parts(len(scores))}, {how}, gave scores of {scores.mean():.4g} ± {scores.std(ddof=1):.2g}, the largest "
        f"{scores.max():.4g}."
    ]
    if decision.threshold is None:
        lines.append("No threshold yet: the oracle (f1) waits for a labelled set.")
    else:
        lines.append(f"A score above {decision.threshold:.4g} is BAD: {rule_in_words(decision, recipe)}.")
    if decision.interval:
        low, high = decision.interval
        lines.append(
            f"The fit leaves that threshold between {low:.4g} and {high:.4g} ({_percent(recipe.confidence)} interval)."
        )
    lines.append(
        f"In a BAD image, pixels above {decision.pixel_threshold:.4g} of the anomaly map are marked "
        f"({pixel_rule_in_words(decision, recipe)}); regions under {recipe.minimum_area} pixels are dropped."
    )
    return lines


def pixel_rule_in_words(decision: Decision, recipe: Recipe) -> str:
    """How a pixel threshold was found."""
    return {
        "peak_sigma": f"mean + {recipe.pixel_threshold_sigma:g} standard deviations of the good maps' peaks",
        "peak_quantile": f"the {recipe.pixel_threshold_quantile:g} quantile of the good maps' peaks",
        "pixel_sigma": f"mean + {recipe.pixel_threshold_sigma:g} standard deviations of all good pixels",
        "pixel_quantile": f"the {recipe.pixel_threshold_quantile:g} quantile of all good pixels",
        "fixed": "given by the recipe",
    }[decision.pixel_threshold_rule]


def _rarity(calibration: Calibration) -> list[str]:
    n = len(calibration.scores)
    return [
        "The p-value of an inspection says how rare such a score is among good parts: 0.02 means that 1 good part in "
        "50 scores as high.",
        f"With {n} good images the rarest that can be said is 1 in {n + 1}.",
    ]


def _least_alike(calibration: Calibration) -> list[str]:
    threshold = calibration.decision.threshold
    lines = [
        f"{name}: {score / threshold:.2f} x the threshold" if threshold else f"{name}: score {score:.4g}"
        for name, score in least_alike(calibration.learnt, LEAST_ALIKE)
    ]
    return [*lines, "Look at these: a defect among the good images stands out here."]


def _untested(model: Model) -> list[str]:
    recipe, calibration = model.recipe, model.calibration
    lines = [
        "Which defects are found: only labelled bad parts can tell (goodparts evaluate MODEL DATA).",
        "Other cameras, lenses, light, positions and variants of the part than those in the images.",
    ]
    if not calibration.used.certifies:
        lines.append("Good parts of another day than those learnt from.")
    unseen = 1 - model.data["seen_share"]
    if unseen > 0:
        lines.append(f"{_percent(unseen)} of every picture, which the recipe's framing cuts off.")
    if not recipe.quality_gate:
        lines.append("Whether an image can be judged at all: the quality gate is off (quality_gate = true).")
    return lines


def _earlier(decision: Decision) -> str:
    threshold = "none" if decision.threshold is None else f"{decision.threshold:.4g}"
    return (
        f"Threshold {threshold} by {decision.threshold_rule}, pixels {decision.pixel_threshold:.4g} by "
        f"{decision.pixel_threshold_rule}, from {decision.good} {decision.source.replace('_', '-')} scores."
    )


def _parts(n: int) -> str:
    return f"{n} good image{'s' * (n != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
