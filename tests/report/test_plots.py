from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodparts.errors import OutputError
from goodparts.evaluation import metrics
from goodparts.evaluation.evaluation import Evaluation, TestImage
from goodparts.report import plots
from goodparts.report.plots import (
    PLOTS,
    plot_confusion,
    plot_histogram,
    plot_precision_recall,
    plot_roc,
    write_plots,
)

ALL = (plot_roc, plot_precision_recall, plot_confusion, plot_histogram)


def evaluation(
    good: list[float], bad: list[float], *, threshold: float = 2.0, rule: str = "sigma", name: str = "washer"
) -> Evaluation:
    images = tuple(
        TestImage(
            path=Path(f"{i}.png"),
            defect_class="bent" if label else "good",
            label=label,
            score=score,
            p_value=0.5,
            verdict="BAD" if score > threshold else "GOOD",
            borderline=False,
        )
        for i, (label, score) in enumerate([*((False, s) for s in good), *((True, s) for s in bad)])
    )
    labels = np.array([image.label for image in images], dtype=bool)
    oracle = (
        metrics.f1_max(labels, np.array([image.score for image in images]))[1] if images else float("nan")
    )
    return Evaluation(name, images, threshold, rule, oracle, np.linspace(1, 2.1, 40), {}, 1.0)


MIXED = evaluation([1.0, 1.1, 1.2, 1.3, 2.2], [1.25, 2.1, 2.5, 3.0, 3.5, 4.0])
PERFECT = evaluation([1.0, 1.1, 1.2, 1.3], [1.9, 2.5, 3.0, 3.5])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would have been saved."""
    kept: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure))
    return kept


def words(figure: Any) -> str:
    """All that a figure says."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def line(figure: Any, label: str) -> Any:
    (found,) = (drawn for drawn in figure.axes[0].lines if str(drawn.get_label()).startswith(label))
    return found


def test_all_plots_are_written_and_large_enough_to_read(tmp_path: Path) -> None:
    paths = write_plots(MIXED, tmp_path / "results")
    assert [path.name for path in paths] == list(PLOTS)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(PLOTS)
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) >= 600
            assert max(image.size) <= 1400


@pytest.mark.parametrize("plot", ALL)
def test_the_same_evaluation_gives_the_same_file(tmp_path: Path, plot: Any) -> None:
    plot(MIXED, tmp_path / "a.png")
    plot(MIXED, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("plot", ALL)
@pytest.mark.parametrize(
    ("good", "bad"),
    [([1.0, 2.5], []), ([], [1.0, 2.5]), ([1.0], []), ([], [])],
    ids=["good", "bad", "one", "none"],
)
def test_test_sets_of_one_class_are_drawn(
    tmp_path: Path, plot: Any, good: list[float], bad: list[float]
) -> None:
    plot(evaluation(good, bad), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.convert("L").getextrema()[0] < 100, "something is written on it"


@pytest.mark.parametrize("plot", [plot_roc, plot_precision_recall, plot_confusion])
@pytest.mark.parametrize(
    ("good", "bad", "reason"), [([1.0], [], "only good"), ([], [1.0], "only bad"), ([], [], "no images")]
)
def test_what_is_undefined_says_so(
    figures: list[Any], plot: Any, good: list[float], bad: list[float], reason: str
) -> None:
    plot(evaluation(good, bad), Path("unused.png"))
    assert "undefined" in words(figures[0])
    assert reason in words(figures[0])


def test_roc_draws_the_curve_and_the_operating_point(figures: list[Any]) -> None:
    plot_roc(MIXED, Path("unused.png"))
    curve = metrics.roc_curve(MIXED.labels, MIXED.scores)
    drawn = line(figures[0], "area")
    assert np.array_equal(drawn.get_xdata(), curve.false_positive_rate)
    assert np.array_equal(drawn.get_ydata(), curve.true_positive_rate)
    point = line(figures[0], "threshold")
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (1 / 5, 5 / 6)
    said = words(figures[0])
    assert "5 of 6 bad parts found" in said
    assert "1 of 5 good parts rejected" in said
    assert f"{100 * metrics.auroc(MIXED.labels, MIXED.scores):.1f} %" in said
    assert figures[0].axes[0].get_xlim()[0] < 0 < 1 < figures[0].axes[0].get_xlim()[1]


@pytest.mark.parametrize(
    ("threshold", "extent"), [(1.5, 0.1), (2.0, 0.3), (3.2, None)], ids=["near", "apart", "far"]
)
def test_a_curve_in_the_corner_is_enlarged_and_shows_the_point(
    figures: list[Any], threshold: float, extent: float | None
) -> None:
    plot_roc(evaluation([1.0, 1.1, 1.2, 1.3], [1.9, 2.5, 3.0, 3.5], threshold=threshold), Path("unused.png"))
    insets = figures[0].axes[0].child_axes
    assert bool(insets) == (extent is not None)
    if extent is not None:
        point = line(figures[0], "threshold")
        assert insets[0].get_xlim()[1] == extent
        assert insets[0].get_ylim()[0] <= point.get_ydata()[0]


def test_precision_recall_draws_the_points_of_both_thresholds(figures: list[Any]) -> None:
    plot_precision_recall(MIXED, Path("unused.png"))
    deployed, oracle = line(figures[0], "threshold"), line(figures[0], "F1-optimal")
    assert (deployed.get_xdata()[0], deployed.get_ydata()[0]) == pytest.approx((5 / 6, 5 / 6))
    assert oracle.get_xdata()[0] == 1
    assert oracle.get_ydata()[0] == pytest.approx(6 / 8)
    assert "oracle: saw the test labels" in oracle.get_label()
    curve = metrics.precision_recall_curve(MIXED.labels, MIXED.scores)
    assert np.array_equal(line(figures[0], "average").get_ydata(orig=True), curve.precision)


def test_precision_is_defined_where_nothing_is_called_bad(figures: list[Any]) -> None:
    plot_precision_recall(evaluation([1.0, 1.5], [1.2, 1.9], threshold=9.0), Path("unused.png"))
    point = line(figures[0], "threshold")
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0, 1)


def test_confusion_matrices_count_and_label_the_oracle(figures: list[Any]) -> None:
    plot_confusion(MIXED, Path("unused.png"))
    left, right = figures[0].axes

    def numbers(axes: Any) -> list[str]:
        return [text.get_text() for text in axes.texts if text.get_text().isdigit()]

    assert numbers(left) == ["4", "1", "1", "5"]
    assert numbers(right) == ["3", "2", "0", "6"]
    assert "2 (sigma)" in left.get_title()
    assert "chosen without any test image" in words(left)
    assert "oracle" not in words(left)
    assert "oracle: saw the test labels" in words(right)


def test_a_deployed_oracle_is_called_one(figures: list[Any]) -> None:
    plot_confusion(evaluation([1.0, 1.5], [1.2, 1.9], rule="f1"), Path("unused.png"))
    assert "oracle: saw the test labels" in words(figures[0].axes[0])
    assert "without any test image" not in words(figures[0])


def test_histogram_shows_every_image_and_both_thresholds(figures: list[Any]) -> None:
    plot_histogram(MIXED, Path("unused.png"))
    upper, lower = figures[0].axes
    good, bad = upper.containers
    assert sum(bar.get_height() for bar in good) == 5
    assert sum(bar.get_height() for bar in bad) == 6
    assert sum(bar.get_height() for bar in lower.containers[0]) == 40
    assert max(bar.get_y() + bar.get_height() for bar in bad) < upper.get_ylim()[1]
    for axes in (upper, lower):
        drawn = {float(drawn.get_xdata()[0]) for drawn in axes.lines}
        assert drawn == {MIXED.threshold, MIXED.oracle_threshold}
    assert "held out (40)" in words(lower)
    assert "oracle" in words(upper)


@pytest.mark.parametrize(("largest", "scale"), [(4.0, "linear"), (400.0, "log")])
def test_scores_over_decades_get_a_logarithmic_axis_that_says_so(
    figures: list[Any], largest: float, scale: str
) -> None:
    plot_histogram(evaluation([1.0, 1.2], [2.0, largest]), Path("unused.png"))
    assert figures[0].axes[0].get_xscale() == scale
    assert ("logarithmic" in words(figures[0])) == (scale == "log")
    assert sum(bar.get_height() for bar in figures[0].axes[0].containers[1]) == 2


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (1, "100.0 %"), (0.99996, "> 99.9 %"), (0.0001, "< 0.1 %"), (0.12345, "12.3 %")],
)
def test_shares_never_round_to_all_or_nothing(share: float, text: str) -> None:
    assert plots._percent(share) == text


@pytest.mark.parametrize("name", ["Prüfling_$x^\\alpha {", "x\ny\udcff"])
@pytest.mark.parametrize("plot", ALL)
def test_any_name_is_drawn(tmp_path: Path, plot: Any, name: str) -> None:
    plot(evaluation([1.0, 1.2], [2.0, 3.0], name=name, rule="$f$"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("plot", ALL)
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, plot: Any) -> None:
    (tmp_path / "plot.png").mkdir()
    (tmp_path / "plot.png" / "in the way").write_text("")
    with pytest.raises(OutputError, match=r"plot\.png"):
        plot(MIXED, tmp_path / "plot.png")


def test_pyplot_and_its_global_state_stay_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import goodparts.report.plots as plots\n"
        "assert 'matplotlib' not in sys.modules, 'imported only when something is drawn'\n"
        "sys.path.insert(0, sys.argv[2]); import test_plots\n"
        "plots.plot_roc(test_plots.PERFECT, Path(sys.argv[1]))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "roc.png"), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
