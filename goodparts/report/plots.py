"""The four plots of an evaluation: ROC, precision and recall, confusion matrices, histogram of the scores.

    plot_roc(evaluation, out / "roc.png")
    write_plots(evaluation, out)                    # all four, under their usual names

Drawn through matplotlib's objects alone, without pyplot: no global state, no window, any thread. Each raises
`OutputError` if its file can't be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodparts.evaluation.evaluation import Evaluation
from goodparts.evaluation.metrics import (
    auroc,
    average_precision,
    confusion,
    precision_recall_curve,
    roc_curve,
)
from goodparts.files import replacing
from goodparts.report.picture_files import SOFTWARE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTS = ("roc.png", "precision_recall.png", "confusion_matrix.png", "score_histogram.png")

# Okabe and Ito's colours, which colour-blind people can tell apart; shapes and hatching say the same again.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#80858F", "#1C1E24"

_TEXT = 11  # points; at 120 pixels an inch, a plot is readable at its own size
_ORACLE = "oracle: saw the test labels"
_CURVE: dict[str, Any] = {"color": BLUE, "linewidth": 2.4}
_CHANCE: dict[str, Any] = {"color": GREY, "linewidth": 1.2, "linestyle": "--"}
_POINT: dict[str, Any] = {
    "marker": "o",
    "markersize": 10,
    "color": ORANGE,
    "markeredgecolor": "white",
    "linestyle": "none",
    "clip_on": False,
    "zorder": 5,
}


def write_plots(evaluation: Evaluation, out: Path) -> tuple[Path, ...]:
    """Draw all four plots into a folder; return their paths, in the order of `PLOTS`."""
    paths = tuple(out / name for name in PLOTS)
    for plot, path in zip(
        (plot_roc, plot_precision_recall, plot_confusion, plot_histogram), paths, strict=True
    ):
        plot(evaluation, path)
    return paths


def plot_roc(evaluation: Evaluation, path: Path) -> None:
    """Draw the receiver operating characteristic with its area and the operating point, as PNG.

    Where the curve hugs the corner, that corner is shown enlarged as well.
    """
    figure, axes = _rates(evaluation, "ROC curve", "share of good parts rejected", "share of bad parts found")
    if _has_both_classes(evaluation):
        labels, scores = evaluation.labels, evaluation.scores
        curve, area, count = roc_curve(labels, scores), auroc(labels, scores), _deployed(evaluation)
        good, bad = np.count_nonzero(~labels), np.count_nonzero(labels)
        point = (count["false_bad"] / good, count["true_bad"] / bad)
        note = (
            f"threshold {_threshold(evaluation)}\n{count['true_bad']} of {bad} bad parts found\n"
            f"{count['false_bad']} of {good} good parts rejected"
        )

        def draw(axes: Axes) -> None:
            name = f"area under the curve {_percent(area)}"
            axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=name, **_CURVE)
            axes.plot(*point, label=note, **_POINT)

        draw(axes)
        axes.plot([0, 1], [0, 1], label="chance", **_CHANCE)
        axes.legend(loc="lower right", **_legend())
        off_corner = max(point[0], 1 - point[1])
        if area > 0.97 and off_corner < 0.28:
            _enlarge_corner(axes, draw, 0.1 if off_corner < 0.09 else 0.3)
    _save(figure, path)


def plot_precision_recall(evaluation: Evaluation, path: Path) -> None:
    """Draw precision against recall with the average precision and the operating point, as PNG."""
    x, y = "recall: share of bad parts found", "precision: share of rejected parts that are bad"
    figure, axes = _rates(evaluation, "precision and recall", x, y)
    if _has_both_classes(evaluation):
        labels, scores = evaluation.labels, evaluation.scores
        curve, share = precision_recall_curve(labels, scores), float(np.mean(labels))
        name = f"average precision {_percent(average_precision(labels, scores))}"
        axes.plot(curve.recall, curve.precision, drawstyle="steps-pre", label=name, **_CURVE)
        axes.axhline(share, label=f"chance: {_percent(share)} are bad", **_CHANCE)
        deployed = _recall_and_precision(_deployed(evaluation))
        axes.plot(*deployed, label=f"threshold {_threshold(evaluation)}", **_POINT)
        axes.plot(
            *_recall_and_precision(confusion(labels, scores > evaluation.oracle_threshold)),
            label=f"F1-optimal {evaluation.oracle_threshold:.4g}\n({_ORACLE})",
            **_POINT | {"marker": "D", "markersize": 14, "color": "none", "markeredgecolor": INK},
        )
        axes.legend(loc="lower left", **_legend())
    _save(figure, path)


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrices at the deployed and at the F1-optimal threshold, side by side, as PNG."""
    figure = _figure(9.2, 5.4, f"{evaluation.name}: what was called what")
    left, right = figure.subplots(1, 2)
    _draw_confusion(left, _deployed(evaluation))
    chosen = (
        (_ORACLE, ORANGE) if evaluation.threshold_rule == "f1" else ("chosen without any test image", INK)
    )
    _head(left, f"deployed threshold\n{_threshold(evaluation)}", *chosen)
    if math.isfinite(evaluation.oracle_threshold):
        _draw_confusion(right, confusion(evaluation.labels, evaluation.scores > evaluation.oracle_threshold))
        _head(right, f"F1-optimal threshold\n{evaluation.oracle_threshold:.4g}", _ORACLE, ORANGE)
    else:
        _say_undefined(right, evaluation)
        right.spines[:].set_visible(False)
        _head(right, "F1-optimal threshold", _ORACLE, ORANGE)
    _save(figure, path)


def plot_histogram(evaluation: Evaluation, path: Path) -> None:
    """Draw the scores of good and bad test images and of the held-out good training images, as PNG."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.2, 5.4, f"{evaluation.name}: anomaly scores")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    labels, scores, held_out = evaluation.labels, evaluation.scores, evaluation.good_scores
    everything = np.concatenate([scores, held_out])
    logarithmic = bool(len(everything) and everything.min() > 0 and everything.max() > 30 * everything.min())
    edges = np.histogram_bin_edges(np.log(everything) if logarithmic else everything, bins=48)
    if logarithmic:
        edges = np.exp(edges)
        edges[[0, -1]] = everything.min(), everything.max()  # which the rounding of exp may miss
    good, bad, training = (np.histogram(s, edges)[0] for s in (scores[~labels], scores[labels], held_out))

    bars: dict[str, Any] = {"x": edges[:-1], "width": np.diff(edges), "align": "edge"}
    upper.bar(height=good, color=BLUE, label=f"good test images ({good.sum()})", **bars)
    orange = {"facecolor": "#F2B48A", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0}
    upper.bar(height=bad, bottom=good, label=f"bad test images ({bad.sum()})", **bars, **orange)
    lower.bar(height=training, color=GREY, **bars)
    for axes, count in ((upper, good + bad), (lower, training)):
        _style(axes)
        name = f"threshold {_threshold(evaluation)}"
        axes.axvline(evaluation.threshold, color=INK, linewidth=2, label=name)
        if math.isfinite(evaluation.oracle_threshold):
            name = f"F1-optimal {evaluation.oracle_threshold:.4g} ({_ORACLE})"
            axes.axvline(evaluation.oracle_threshold, color=INK, linewidth=1.6, linestyle=":", label=name)
        axes.set_ylim(0, 1.06 * count.max(initial=1))
        axes.set_ylabel("images", fontsize=_TEXT)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
        if logarithmic:
            axes.set_xscale("log")
    upper.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=2, **_legend())
    title = f"good training images, held out ({len(held_out)})"
    lower.set_title(title, loc="left", fontsize=_TEXT - 0.5, color=INK)
    lower.set_xlabel("anomaly score, logarithmic" if logarithmic else "anomaly score", fontsize=_TEXT)
    _save(figure, path)


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.13)  # inches
    figure = Figure((width, height), dpi=120, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title), fontsize=_TEXT + 2, color=INK, weight="bold")
    return figure


def _rates(evaluation: Evaluation, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure of two rates from 0 to 1, which says so where the test set leaves them undefined."""
    figure = _figure(6.6, 6.2, f"{evaluation.name}: {title}")
    axes = figure.subplots()
    _style(axes)
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015))
    axes.set_xlabel(x, fontsize=_TEXT)
    axes.set_ylabel(y, fontsize=_TEXT)
    if not _has_both_classes(evaluation):
        _say_undefined(axes, evaluation)
    return figure, axes


def _enlarge_corner(axes: Axes, draw: Callable[[Axes], None], extent: float) -> None:
    """Draw the upper left corner once more, larger."""
    inset = axes.inset_axes((0.40, 0.43, 0.5, 0.48))
    _style(inset)
    inset.set(xlim=(-0.03 * extent, extent), ylim=(1 - extent, 1 + 0.03 * extent))
    inset.set_title("the corner, enlarged", fontsize=_TEXT - 1, color=INK)
    for tick in (*inset.get_xticklabels(), *inset.get_yticklabels()):
        tick.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    draw(inset)
    frame = axes.indicate_inset_zoom(inset, edgecolor=GREY, alpha=0.9)
    for connector in frame.connectors or ():
        connector.set_visible(False)


def _has_both_classes(evaluation: Evaluation) -> bool:
    return len(set(evaluation.labels.tolist())) == 2


def _deployed(evaluation: Evaluation) -> dict[str, int]:
    """Count what was called what at the deployed threshold: the verdicts themselves."""
    return evaluation.counts


def _recall_and_precision(count: dict[str, int]) -> tuple[float, float]:
    """Return recall and precision; precision is 1 where nothing is called bad, as in the curve."""
    called_bad = count["true_bad"] + count["false_bad"]
    recall = count["true_bad"] / (count["true_bad"] + count["false_good"])
    return recall, count["true_bad"] / called_bad if called_bad else 1.0


def _draw_confusion(axes: Axes, count: dict[str, int]) -> None:
    """Draw a 2 × 2 table: a row for what parts are, a column for what they were called."""
    from matplotlib.colors import to_rgb

    rows = (
        (("true_good", "passed", BLUE), ("false_bad", "false reject", ORANGE)),
        (("false_good", "missed", ORANGE), ("true_bad", "found", BLUE)),
    )
    for y, row in enumerate(rows):
        total = sum(count[key] for key, _, _ in row)
        for x, (key, name, colour) in enumerate(row):
            share = count[key] / total if total else 0.0
            tint = 0.1 + 0.9 * share if count[key] else 0.0
            face = tuple(1 - tint * (1 - channel) for channel in to_rgb(colour)) if tint else "#F3F4F6"
            axes.fill(
                [x, x + 1, x + 1, x], [y, y, y + 1, y + 1], facecolor=face, edgecolor="white", linewidth=4
            )
            text: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if tint > 0.6 else INK}
            axes.text(x + 0.5, y + 0.43, f"{count[key]}", fontsize=_TEXT + 11, weight="bold", **text)
            percent = f"{_percent(share)} {name}" if total else name
            axes.text(x + 0.5, y + 0.72, percent, fontsize=_TEXT - 0.5, **text)
    axes.set(xlim=(0, 2), ylim=(2, 0))
    axes.set_xticks([0.5, 1.5], ["called GOOD", "called BAD"], fontsize=_TEXT)
    axes.set_yticks([0.5, 1.5], ["is good", "is bad"], fontsize=_TEXT, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _head(axes: Axes, title: str, note: str, colour: str) -> None:
    axes.set_title(title, fontsize=_TEXT + 0.5, color=INK, pad=26)
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "bottom"}
    axes.text(0.5, 1.02, note, fontsize=_TEXT - 0.5, color=colour, **place)


def _say_undefined(axes: Axes, evaluation: Evaluation) -> None:
    """Write across empty axes why there is nothing to show."""
    kind = ("only bad" if evaluation.labels.any() else "only good") if evaluation.images else "no"
    text = f"undefined:\nthe test set holds {kind} images"
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=_TEXT + 2, color=INK
    )


def _style(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color="#E4E6EA", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_TEXT - 1, colors=INK)


def _legend() -> dict[str, Any]:
    return {"fontsize": _TEXT - 0.5, "framealpha": 0.95, "edgecolor": "none", "labelspacing": 0.7}


def _threshold(evaluation: Evaluation) -> str:
    return f"{evaluation.threshold:.4g} ({_plain(evaluation.threshold_rule)})"


def _percent(share: float) -> str:
    """Return a percentage with one decimal that never rounds to 0 or 100 % what is neither."""
    percent = 100 * share
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= percent < 100 else f"{percent:.1f} %"


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics, and out what can't be drawn."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as stream:
        figure.savefig(stream, format="png", metadata={"Software": SOFTWARE})
