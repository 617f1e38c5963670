"""Calibration: from held-out scores of good images to thresholds, p-values and a bound on false rejects.

Held out means that no image is compared with itself (`goodparts.decision.leave_one_out`), or that it had no part in the
memory bank at all. No test image takes part, unless the user asks for the oracle (`threshold_rule = "f1"`).

Where a region of interest has several zones, each has its own scores and thresholds, by the same rules. The score of a
part is then the largest multiple of its zone's threshold, and 1 is the threshold; a pixel counts likewise.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from goodparts.decision.binomial import images_needed, upper_rate
from goodparts.decision.good_scores import COPIES, LEAVE_ONE_OUT, GoodMaps, GoodScores
from goodparts.decision.quality_gate import MINIMUM_IMAGES, Limits, learn_limits
from goodparts.decision.thresholds import (
    TAIL_NEEDS,
    mean_and_sigmas,
    rate_threshold,
    robust_sigmas,
    tail_threshold,
    upper_quantile,
)
from goodparts.errors import ModelError, RecipeError
from goodparts.preprocessing.statistics import ImageStatistics
from goodparts.recipe.recipe import Recipe

_MEMBERS = {"training_set": "learnt", "calibration_set": "separate"}
"""What the model file calls some attributes; these names are part of a model's identity."""

_USED_BY = {
    "threshold_sigma": ("robust_sigma", "sigma"),
    "threshold_quantile": ("quantile",),
    "threshold_value": ("fixed",),
    "false_reject_rate": ("rate", "tail"),
    "pixel_threshold_sigma": ("peak_sigma", "pixel_sigma"),
    "pixel_threshold_quantile": ("peak_quantile", "pixel_quantile"),
    "pixel_threshold_value": ("fixed",),
}
"""Keys of the decision that only some rules use. `confidence` is not among them: promises are printed with it."""


@dataclass(frozen=True)
class FalseRejectBound:
    """What the threshold means for good parts: a bound on the share of them that is rejected.

    Attributes:
        good: images it rests on.
        rejected: how many of them lie above the threshold.
        confidence: one-sided.
        rate: not exceeded by the false-reject rate at that confidence.
        certified: True if the images had no part in the bank; else the rate is an estimate.
    """

    good: int
    rejected: int
    confidence: float
    rate: float
    certified: bool

    def needed(self, rate: float) -> int:
        """Good images, none of them rejected, that bound the rate by `rate` at the same confidence."""
        return images_needed(rate, self.confidence)


@dataclass(frozen=True)
class ZoneDecision:
    """Thresholds of one of several zones: of its score, and of the anomaly map's values in it."""

    name: str
    threshold: float
    pixel_threshold: float

    def __post_init__(self) -> None:
        _require_numbers(self.threshold, self.pixel_threshold)


@dataclass(frozen=True)
class Decision:
    """Thresholds and how they were found.

    Attributes:
        threshold: a score above it is BAD; None while the oracle has seen no labelled set. 1 for several zones.
        threshold_rule: a rule of the recipe.
        pixel_threshold: a value of the anomaly map above it is bad.
        pixel_threshold_rule: a pixel rule of the recipe.
        interval: of the threshold at the recipe's confidence where the rule gives one (`tail`), else ().
        kept: whether the rule could do what it was asked for (`rate`: enough images for the bound).
        source: of the good scores it rests on.
        good: how many there are; 0 for a threshold that rests on none (`fixed`, `f1`).
        zones: of each zone, where there are several; a score is then a multiple of these.
    """

    threshold: float | None
    threshold_rule: str
    pixel_threshold: float
    pixel_threshold_rule: str
    interval: tuple[float, ...] = ()
    kept: bool = True
    source: str = LEAVE_ONE_OUT
    good: int = 0
    zones: tuple[ZoneDecision, ...] = ()

    def __post_init__(self) -> None:
        _require_numbers(self.threshold, self.pixel_threshold)


@dataclass(frozen=True)
class Calibration:
    """Scores of good images and the decision that follows from them.

    Attributes:
        training_set: held-out scores of the n good images that were learnt from.
        calibration_set: scores of good images that had no part in the bank; None if there are none.
        decision: in force.
        history: earlier decisions, oldest first.
        digests: of the working images that were learnt from, so that they are not taken for a calibration set.
        left_out: names of good images that were left out of the bank as too unlike the rest (`robust`).
        statistics: of the good images that were learnt from, with held-out distances; the quality gate's limits and
            `Drift` start from them.
    """

    training_set: GoodScores
    calibration_set: GoodScores | None
    decision: Decision
    history: tuple[Decision, ...] = ()
    digests: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    statistics: tuple[ImageStatistics, ...] = ()

    @cached_property
    def limits(self) -> Limits | None:
        """Of the quality gate; None where there are too few good images to learn any."""
        return learn_limits(self.statistics) if len(self.statistics) >= MINIMUM_IMAGES else None

    @property
    def used(self) -> GoodScores:
        """The scores that the decision and p-values rest on: of the calibration set if there is one."""
        return self.calibration_set if self.calibration_set is not None else self.training_set

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """Of `used`, (n,), as an inspection gives them."""
        return self.as_inspected(self.used)

    def as_inspected(self, good: GoodScores) -> tuple[float, ...]:
        """Scores (n,) as an inspection gives them: of several zones the largest multiple of a zone's threshold."""
        if not good.zones:
            return good.scores
        thresholds = [zone.threshold for zone in self.decision.zones]
        multiples = np.array([zone.scores for zone in good.zones]) / np.array(thresholds)[:, None]
        return tuple(multiples.max(axis=0).tolist())

    @property
    def typical_pixel(self) -> float:
        """The mean of good anomaly maps, as an inspection gives them."""
        if not self.used.zones:
            return self.used.maps.mean
        zones = zip(self.used.zones, self.decision.zones, strict=True)
        return float(np.mean([good.maps.mean / zone.pixel_threshold for good, zone in zones]))

    @property
    def threshold(self) -> float:
        """The threshold; ModelError while there is none."""
        if self.decision.threshold is None:
            raise ModelError(
                "threshold_rule = f1 is an oracle and has not seen a labelled set yet: fit with `goodparts run`, which "
                "shows it one and keeps the threshold, or take a rule that needs good images only, by `goodparts "
                "calibrate MODEL --threshold-rule sigma`"
            )
        return self.decision.threshold

    @property
    def pixel_threshold(self) -> float:
        """A value of the anomaly map above it is bad."""
        return self.decision.pixel_threshold

    def p_value(self, score: float) -> float:
        """How rare such a score is among good parts: (1 + good scores >= score) / (n + 1).

        A conformal p-value (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005): for a good
        part from the same line it is at most p with a chance of at most p, whatever the distribution of scores. Of
        copies of a single image it is their share, between the 1/2 and 1 that one image can give.
        """
        if self.used.source == COPIES:
            return (1 + float(np.mean(np.array(self.scores) >= score))) / 2
        return (1 + int(np.count_nonzero(np.array(self.scores) >= score))) / (len(self.scores) + 1)

    def rarity(self, score: float) -> str:
        """How many good scores are as high, in words: "none of 761 good parts scored as high"."""
        total = len(self.scores)
        as_high = int(np.count_nonzero(np.array(self.scores) >= score))
        of = "copies of the one good part" if self.used.source == COPIES else f"good part{'s' * (total != 1)}"
        return f"{as_high or 'none'} of {total} {of} scored as high"

    def false_reject_bound(self, confidence: float = 0.95) -> FalseRejectBound:
        """What the threshold means: the false-reject rate that the good images bound at this confidence."""
        scores = np.array(self.scores)
        images = self.used.images
        rejected = min(images, int(np.count_nonzero(scores > self.threshold)))
        return FalseRejectBound(
            good=images,
            rejected=rejected,
            confidence=confidence,
            rate=upper_rate(rejected, images, confidence),
            certified=self.used.certifies,
        )

    def decide(self, recipe: Recipe, *, calibration_set: GoodScores | None = None) -> Self:
        """The same with a new decision by the rules of a recipe, and the old one in the history.

        Args:
            recipe: threshold_*, false_reject_rate, confidence and pixel_threshold_*.
            calibration_set: scores of good images that had no part in the bank, from now on in place of earlier ones.
        """
        decided = replace(
            self, calibration_set=calibration_set if calibration_set is not None else self.calibration_set
        )
        decision = decide(decided.used, recipe)
        if decision.threshold_rule == self.decision.threshold_rule == "f1":  # what the oracle saw, it saw
            decision = replace(decision, threshold=self.decision.threshold)
        return replace(decided, decision=decision, history=(*self.history, self.decision))

    def with_oracle(self, threshold: float) -> Self:
        """The same with the F1-optimal threshold of a labelled set, labelled as an oracle."""
        return replace(
            self, decision=replace(self.decision, threshold=threshold, threshold_rule="f1", good=0)
        )

    def to_json(self) -> str:
        """As JSON."""
        values = {_MEMBERS.get(name, name): value for name, value in asdict(self).items()}
        return json.dumps(_without_empty_zones(values), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            training_set=_good_scores(values["learnt"]),
            calibration_set=_good_scores(values["separate"]) if values["separate"] else None,
            decision=_decision(values["decision"]),
            history=tuple(_decision(earlier) for earlier in values["history"]),
            digests=tuple(values["digests"]),
            left_out=tuple(values["left_out"]),
            statistics=tuple(ImageStatistics(**of) for of in values["statistics"]),
        )


def _without_empty_zones(value: Any) -> Any:
    """Without what only several zones need, so that a model without them reads as it always did."""
    if isinstance(value, dict):
        return {
            key: _without_empty_zones(inner)
            for key, inner in value.items()
            if key not in ("zone", "zones") or inner
        }
    return [_without_empty_zones(inner) for inner in value] if isinstance(value, list | tuple) else value


def _good_scores(values: dict[str, Any]) -> GoodScores:
    maps = values["maps"]
    return GoodScores(
        scores=tuple(values["scores"]),
        names=tuple(values["names"]),
        maps=GoodMaps(**{**maps, "peaks": tuple(maps["peaks"])}),
        source=values["source"],
        zone=values.get("zone", ""),
        zones=tuple(map(_good_scores, values.get("zones", ()))),
    )


def _decision(values: dict[str, Any]) -> Decision:
    zones = tuple(ZoneDecision(**zone) for zone in values.get("zones", ()))
    return Decision(**{**values, "interval": tuple(values["interval"]), "zones": zones})


def _require_numbers(*thresholds: float | None) -> None:
    """Raise ModelError for a threshold that is no number, or endless: nothing is above it, so all would be GOOD."""
    for threshold in thresholds:
        if threshold is not None and not math.isfinite(threshold):
            raise ModelError(
                f"a threshold is {threshold}; expected a finite number. The scores of good images that it rests on are "
                "damaged: fit anew, and if that does not help, take another backbone"
            )


def require_enough(recipe: Recipe, images: int) -> None:
    """Raise RecipeError if the recipe's rule needs more good images than there are."""
    if recipe.threshold_rule == "tail" and images < TAIL_NEEDS:
        raise RecipeError(
            f"threshold_rule: tail needs at least {TAIL_NEEDS} good images, found {images}; take sigma, or add images"
        )


def decide(good: GoodScores, recipe: Recipe) -> Decision:
    """Thresholds by the rules of a recipe; where there are several zones, of each of them.

    Raises:
        RecipeError: too few good images for the rule, or a rule that does not go with several zones.
    """
    if good.zones:
        return _decide_zones(good, recipe)
    require_enough(recipe, good.images)
    scores = np.asarray(good.scores, dtype=np.float64)
    threshold: float | None
    interval: tuple[float, ...] = ()
    kept = True
    match recipe.threshold_rule:
        case "robust_sigma":
            threshold = robust_sigmas(scores, recipe.threshold_sigma)
        case "sigma":
            threshold = mean_and_sigmas(scores, recipe.threshold_sigma)
        case "quantile":
            threshold = upper_quantile(scores, recipe.threshold_quantile)
        case "rate":
            threshold, kept = rate_threshold(scores, recipe.false_reject_rate, recipe.confidence)
            if good.source == COPIES:
                threshold, kept = float(scores.max()), False
        case "tail":
            threshold, interval = tail_threshold(
                scores, recipe.false_reject_rate, recipe.confidence, seed=recipe.seed
            )
        case "fixed":
            threshold = recipe.threshold_value
        case _:
            threshold = None
    return Decision(
        threshold=threshold,
        threshold_rule=recipe.threshold_rule,
        pixel_threshold=_pixel_threshold(good.maps, recipe),
        pixel_threshold_rule=recipe.pixel_threshold_rule,
        interval=interval,
        kept=kept,
        source=good.source,
        good=0 if recipe.threshold_rule in ("fixed", "f1") else len(scores),
    )


def require_zones(recipe: Recipe) -> None:
    """Raise RecipeError if the recipe's rules don't go with several zones."""
    if recipe.threshold_rule == "f1":
        raise RecipeError(
            "threshold_rule: f1 chooses one threshold by labelled images, which don't say what belongs to which zone "
            "of the roi; take sigma, quantile, rate, tail or fixed, or one zone"
        )


def require_effect(before: Recipe, after: Recipe) -> None:
    """Raise RecipeError if a key of the decision changed that the rule in force does not use."""
    for key, rules in _USED_BY.items():
        rule = "pixel_threshold_rule" if key.startswith("pixel_") else "threshold_rule"
        in_force = getattr(after, rule)
        if in_force not in rules and getattr(after, key) != getattr(before, key):
            raise RecipeError(
                f"{key}: {rule} = {in_force} does not use it; leave it out, or take {rule} = {' or '.join(rules)}"
            )


def zone_recipe(recipe: Recipe, zones: int) -> Recipe:
    """The recipe by which each of several zones is decided: with its share of the false rejects, and of the doubt."""
    if recipe.threshold_rule not in ("rate", "tail"):
        return recipe
    return recipe.replace(
        {
            "false_reject_rate": recipe.false_reject_rate / zones,
            "confidence": 1 - (1 - recipe.confidence) / zones,
        }
    )


def _decide_zones(good: GoodScores, recipe: Recipe) -> Decision:
    """Every zone by the recipe's rules; each gets its share of the false rejects that `rate` and `tail` allow.

    By the union bound the part as a whole then keeps the rate, at the confidence asked for.
    """
    require_zones(recipe)
    decisions = [decide(zone, zone_recipe(recipe, len(good.zones))) for zone in good.zones]
    zones = []
    for zone, decision in zip(good.zones, decisions, strict=True):
        threshold = decision.threshold
        if threshold is None or threshold <= 0 or decision.pixel_threshold <= 0:
            raise RecipeError(
                f"roi: the rules put the thresholds of zone {zone.zone!r} at {threshold:.4g} and, for pixels, "
                f"{decision.pixel_threshold:.4g}; expected more than 0, since a score is a multiple of its zone's "
                "threshold. Raise threshold_sigma or pixel_threshold_sigma, or take another rule"
            )
        zones.append(ZoneDecision(zone.zone, threshold, decision.pixel_threshold))
    return replace(
        decisions[0],
        threshold=1.0,
        pixel_threshold=1.0,
        interval=(),
        kept=all(decision.kept for decision in decisions),
        zones=tuple(zones),
    )


def _pixel_threshold(maps: GoodMaps, recipe: Recipe) -> float:
    match recipe.pixel_threshold_rule:
        case "peak_sigma":
            return mean_and_sigmas(maps.peaks, recipe.pixel_threshold_sigma)
        case "peak_quantile":
            return upper_quantile(maps.peaks, recipe.pixel_threshold_quantile)
        case "pixel_sigma":
            return maps.mean + recipe.pixel_threshold_sigma * maps.std
        case "pixel_quantile":
            return maps.quantile
        case _:
            return recipe.pixel_threshold_value
