"""Trade-offs: what another threshold would do to good parts and, where labelled ones are at hand, to bad parts.

    trade_offs(calibration, recipe)                 # of good parts alone: from their held-out scores
    trade_offs(calibration, recipe, parts)          # of labelled parts, too

Every threshold is one that a rule makes of held-out good scores at a round figure. Labelled parts only tell which of
them are worth a line. The one exception is the F1-optimal threshold of these very parts: it is marked as an oracle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.decision.calibration import Calibration, decide
from goodparts.decision.good_scores import COPIES
from goodparts.errors import RecipeError
from goodparts.files import JsonRecord
from goodparts.recipe.recipe import Recipe

_KEYS = {
    "robust_sigma": "threshold_sigma",
    "sigma": "threshold_sigma",
    "quantile": "threshold_quantile",
    "rate": "false_reject_rate",
    "tail": "false_reject_rate",
    "fixed": "threshold_value",
}
_SIGMAS = (3.0, 2.5, 2.0, 1.5)
_RATES = (0.02, 0.05, 0.1)
_LADDER = tuple(step / 4 for step in range(24, -1, -1))  # sigmas: from 6 down to the mean of the good scores
_STILL_MISSED = (9 / 10, 3 / 4, 1 / 2, 1 / 4, 0)  # share of the bad parts missed now


@dataclass(frozen=True, eq=False)
class LabelledParts:
    """Scores of parts that were judged: none of them is RECHECK.

    Attributes:
        labels: (n,) bool, True for a bad part.
        scores: anomaly scores, (n,) float64.
        zones: scores of each zone, (n, zones) float64; they decide where there are several.
        oracle: the threshold that is F1-optimal on labelled parts; NaN where there is none.
    """

    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    zones: NDArray[np.float64]
    oracle: float

    def called_bad(self, calibration: Calibration) -> NDArray[np.bool_]:
        """What each part would be called, (n,) bool; a score that is no number is never GOOD."""
        zones, scores = calibration.decision.zones, self.scores
        if zones and len(scores):
            scores = (self.zones / [zone.threshold for zone in zones]).max(axis=1)
        return np.logical_not(scores <= calibration.threshold)


@dataclass(frozen=True)
class TradeOff:
    """What one threshold does.

    Attributes:
        threshold: a score above it is BAD; 1 for several zones.
        zones: of each of several zones its own threshold.
        setting: recipe keys that `goodparts calibrate` sets it with; none for an oracle.
        in_force: whether it is the model's.
        oracle: whether it was chosen on labelled parts, and promises nothing for others.
        good_scores: how many good images it was held against: held-out, or of a calibration set.
        good_scores_above: how many of these it rejects.
        rate_at_most: the share of good parts that it rejects, not exceeded at the recipe's confidence.
        good: labelled good parts that were judged.
        rejected: of these.
        bad: labelled bad parts that were judged.
        missed: of these.
    """

    threshold: float
    zones: tuple[float, ...] = ()
    setting: Mapping[str, Any] = field(default_factory=dict)
    in_force: bool = False
    oracle: bool = False
    good_scores: int = 0
    good_scores_above: int = 0
    rate_at_most: float = 1.0
    good: int = 0
    rejected: int = 0
    bad: int = 0
    missed: int = 0

    @property
    def levels(self) -> tuple[float, ...]:
        """The thresholds that scores of the network meet: of each zone, or the only one."""
        return self.zones or (self.threshold,)

    @property
    def alternative(self) -> bool:
        """Whether it can be set in place of the one in force."""
        return bool(self.setting) and not self.in_force

    @property
    def flags(self) -> str:
        """What `goodparts calibrate MODEL` sets it with, such as "--threshold-sigma 2.5"; "" without a setting."""
        return " ".join(f"--{key.replace('_', '-')} {_typed(value)}" for key, value in self.setting.items())

    @property
    def command(self) -> str:
        """The whole command; "" without a setting."""
        return f"goodparts calibrate MODEL {self.flags}" if self.setting else ""

    def to_dict(self) -> JsonRecord:
        """As JSON takes it; shares are None where there is no such part."""
        return {
            "threshold": self.threshold,
            "zone_thresholds": list(self.zones),
            "in_force": self.in_force,
            "oracle": self.oracle,
            "command": self.command,
            "good_scores": self.good_scores,
            "good_scores_above": self.good_scores_above,
            "false_reject_rate_at_most": self.rate_at_most,
            "good": self.good,
            "rejected": self.rejected,
            "false_reject_rate": self.rejected / self.good if self.good else None,
            "bad": self.bad,
            "missed": self.missed,
            "miss_rate": self.missed / self.bad if self.bad else None,
        }


def trade_offs(
    calibration: Calibration, recipe: Recipe, parts: LabelledParts | None = None
) -> tuple[TradeOff, ...]:
    """The threshold in force and those that are worth comparing with it, highest first.

    Without bad parts: usual sigmas and rates that are lower, but for what the images don't suffice for. With some: the
    lower ones, in steps of a quarter sigma, at which about 9/10, 3/4, 1/2, 1/4 and none of the bad parts missed now
    still are, and the oracle; nothing but the one in force where none is missed.

    Args:
        calibration: whose threshold is in force.
        recipe: by which it was decided.
        parts: labelled ones that were judged.

    Returns:
        rows; none while there is no threshold.
    """
    if calibration.decision.threshold is None:
        return ()
    sigmas = "robust_sigma" if recipe.threshold_rule == "robust_sigma" else "sigma"
    chosen_on_parts = calibration.decision.threshold_rule == "f1"
    now = replace(
        _row(calibration, recipe, parts), setting=_back(recipe), in_force=True, oracle=chosen_on_parts
    )
    if not now.bad:
        rates = [] if calibration.used.source == COPIES else _RATES
        tried = [*_at(recipe, sigmas, _SIGMAS), *_at(recipe, "rate", rates)]
        found = list(_lower(tried, now, calibration, recipe, parts))
    elif now.missed:
        ladder = list(_lower(_at(recipe, sigmas, _LADDER), now, calibration, recipe, parts))
        found = [*_fewer_misses(now, ladder), *_oracle(now, calibration, recipe, parts)]
    else:
        found = []
    return tuple(sorted((now, *found), key=lambda row: -_height(row, now)))


def _back(recipe: Recipe) -> Mapping[str, Any]:
    """What to set for the threshold in force, once there is another."""
    key = _KEYS.get(recipe.threshold_rule)
    return {"threshold_rule": recipe.threshold_rule, key: getattr(recipe, key)} if key else {}


def _typed(value: str | float) -> str:
    """A value as it is typed, with as many digits as it takes."""
    short = value if isinstance(value, str) else f"{value:g}"
    return short if isinstance(value, str) or float(short) == value else repr(value)


def _at(recipe: Recipe, rule: str, figures: Iterable[float]) -> Iterator[Mapping[str, Any]]:
    """What to set for a rule at each of some figures."""
    named = {} if recipe.threshold_rule == rule else {"threshold_rule": rule}
    for figure in figures:
        yield {**named, _KEYS[rule]: figure}


def _lower(
    settings: Iterable[Mapping[str, Any]],
    now: TradeOff,
    calibration: Calibration,
    recipe: Recipe,
    parts: LabelledParts | None,
) -> Iterator[TradeOff]:
    """What each of these settings does, where it lowers a threshold and raises none."""
    for setting in settings:
        try:
            decision = decide(calibration.used, recipe.replace(setting))
        except RecipeError:  # such as a zone whose threshold would not be above 0
            continue
        row = replace(_row(replace(calibration, decision=decision), recipe, parts), setting=setting)
        pairs = list(zip(row.levels, now.levels, strict=True))
        if decision.kept and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
            yield row


def _oracle(
    now: TradeOff, calibration: Calibration, recipe: Recipe, parts: LabelledParts | None
) -> Iterator[TradeOff]:
    """The F1-optimal threshold; not of several zones, which no single threshold decides."""
    if parts is not None and np.isfinite(parts.oracle) and not now.zones and not now.oracle:
        yield replace(_row(calibration.with_oracle(parts.oracle), recipe, parts), oracle=True)


def _fewer_misses(now: TradeOff, ladder: list[TradeOff]) -> list[TradeOff]:
    """Of rows that fall, for each share of what is missed now the first that misses no more than that."""
    fewest = min((row.missed for row in ladder), default=now.missed)
    found = []
    for most in sorted({max(int(share * now.missed), fewest) for share in _STILL_MISSED}, reverse=True):
        row = next((row for row in ladder if row.missed <= most), None)
        if row is not None and row.missed < now.missed and row not in found:
            found.append(row)
    return found


def _row(calibration: Calibration, recipe: Recipe, parts: LabelledParts | None) -> TradeOff:
    """What the calibration's decision does."""
    bound = calibration.false_reject_bound(recipe.confidence)
    row = TradeOff(
        threshold=calibration.threshold,
        zones=tuple(zone.threshold for zone in calibration.decision.zones),
        good_scores=bound.good,
        good_scores_above=bound.rejected,
        rate_at_most=bound.rate,
    )
    if parts is None:
        return row
    called_bad, labels = parts.called_bad(calibration), parts.labels
    return replace(
        row,
        good=int(np.count_nonzero(~labels)),
        rejected=int(np.count_nonzero(~labels & called_bad)),
        bad=int(np.count_nonzero(labels)),
        missed=int(np.count_nonzero(labels & ~called_bad)),
    )


def _height(row: TradeOff, now: TradeOff) -> float:
    """How high its thresholds lie, on average over zones: that in force is 1 where there are several."""
    if not now.zones:
        return row.threshold
    return float(np.mean(np.divide(row.zones, now.zones)))
