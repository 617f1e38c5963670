"""Strips: scores along one line with the threshold in it, as SVG text for a page; a little square is an image.

    drawn = draw_strips(evaluation)
    drawn.threshold_at                  # 52.1, per cent of the width
    drawn.strips[0].svg                 # "<svg ...>"

The drawing holds no letters, so that a page can stretch it to any width and still be read: labels and ticks are the
page's own text, at the places given here. Colours are the page's, too, by the class of a strip.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from goodparts.decision.inspection import BAD, RECHECK
from goodparts.evaluation.evaluation import Evaluation

_COLUMNS = 130  # of squares across the width, about
_WIDTH, _SQUARE, _TALLEST = 1000, 6.0, 84.0  # in the units of the drawing
_MARGIN = 0.02  # of the width, at either side
_LOGARITHMIC = 6  # largest over smallest score from which the axis is logarithmic
_MOST_TICKS = 6


@dataclass(frozen=True)
class Strip:
    """Scores of one kind of images.

    Attributes:
        kind: "learnt", "good" or "bad": a class for the page's style.
        label: what they are.
        found: how many lie on which side.
        svg: the drawing, with the label and what was found as its title.
        height: of the drawing, pixels.
    """

    kind: str
    label: str
    found: str
    svg: str
    height: int


@dataclass(frozen=True)
class Strips:
    """Strips that share one axis.

    Attributes:
        strips: top to bottom.
        threshold_at: where the threshold lies, per cent of the width.
        ticks: (per cent of the width, text) along the axis, in multiples of the threshold.
        logarithmic: whether the axis is.
    """

    strips: tuple[Strip, ...]
    threshold_at: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool


def draw_strips(evaluation: Evaluation) -> Strips | None:
    """Draw the held-out good scores, and those of good and of bad test images that have a verdict.

    Returns:
        None where there is nothing to draw: no score, or a threshold that has no multiples.
    """
    threshold = evaluation.threshold
    judged = [image for image in evaluation.images if image.verdict != RECHECK]
    scores = {
        "learnt": [float(score) for score in evaluation.good_scores],
        "good": [image.score for image in judged if not image.label],
        "bad": [image.score for image in judged if image.label],
    }
    everything = [score for kind in scores.values() for score in kind if math.isfinite(score)]
    if not everything or not (math.isfinite(threshold) and threshold > 0):
        return None
    low, high = min(*everything, threshold), max(*everything, threshold)
    logarithmic = low > 0 and high > _LOGARITHMIC * low
    scale = math.log if logarithmic else float
    start, end = scale(low), scale(high)
    margin = _MARGIN * (end - start) / (1 - 2 * _MARGIN) or abs(end) or 1.0
    start, end = start - margin, end + margin

    def at(score: float) -> float:
        return (scale(score) - start) / (end - start)

    zero = at(threshold)
    called = dict.fromkeys(scores, 0)
    for image in judged:
        called["bad" if image.label else "good"] += image.verdict == BAD
    called["learnt"] = sum(score > threshold for score in scores["learnt"])
    words = {
        "learnt": ("good images, each scored as if never learnt from", "above it"),
        "good": ("good test images", "rejected"),
        "bad": ("bad test images", "found"),
    }
    columns = {
        kind: Counter(_column(at(s) - zero) for s in of if math.isfinite(s)) for kind, of in scores.items()
    }
    square = min(_SQUARE, _TALLEST / max(max(count.values(), default=1) for count in columns.values()))
    strips = tuple(
        _strip(
            kind, words[kind][0], f"{called[kind]} of {len(of)} {words[kind][1]}", columns[kind], zero, square
        )
        for kind, of in scores.items()
        if of
    )
    ticks = tuple(
        (round(100 * at(m * threshold), 2), f"{m:g} ×")
        for m in _multiples(low / threshold, high / threshold, logarithmic)
    )
    return Strips(strips, round(100 * zero, 2), ticks, logarithmic)


def _column(beyond: float) -> int:
    """The column of a score, counted from the threshold: a score that equals it is not above it."""
    return math.ceil(beyond * _COLUMNS) - 1


def _strip(kind: str, label: str, found: str, columns: Counter[int], zero: float, square: float) -> Strip:
    """Draw one line a column, dashed into its images."""
    height = max(14.0, square * max(columns.values(), default=1))
    pitch = _WIDTH / _COLUMNS
    dashes = f' stroke-dasharray="{square - 0.8:.2f} 0.8"' if square > 2 else ""
    lines = "".join(
        f"M{_WIDTH * zero + (column + 0.5) * pitch:.1f} {height:.1f}v-{square * count:.1f}"
        for column, count in sorted(columns.items())
    )
    svg = (
        f'<svg class="{kind}" viewBox="0 0 {_WIDTH} {height:.1f}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(label)}: {escape(found)}</title>"
        f'<path d="{lines}" fill="none" stroke="currentColor" stroke-width="{pitch - 1.2:.1f}"{dashes}/></svg>'
    )
    return Strip(kind, label, found, svg, math.ceil(height))


def _multiples(low: float, high: float, logarithmic: bool) -> Sequence[float]:
    """Round multiples of the threshold between two, 1 among them."""
    if logarithmic:
        every = [d * 10.0**e for e in range(-6, 7) for d in (1, 2, 5)]
        shown = [m for m in every if low <= m <= high]
        return shown if len(shown) <= _MOST_TICKS + 2 else [m for m in shown if math.log10(m) % 1 == 0]
    step = next(
        (s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if high - low <= _MOST_TICKS * s), high - low
    )
    first, last = math.ceil((low - 1) / step), math.floor((high - 1) / step)
    return [round(1 + step * i, 6) for i in range(first, last + 1)]
