"""Makes the pictures of the documentation. Nothing in them is drawn by hand, and the same versions give the same bytes.

python docs/make_pictures.py                # all of them, into docs/pictures
python docs/make_pictures.py demo           # demo.png: the default recipe on the demo's rendered parts
python docs/make_pictures.py rate           # rate_rule.png: what two threshold rules promise, and keep
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from goodparts import Inspector, Recipe
from goodparts.data.demo import write_demo
from goodparts.data.images import read_image, read_mask
from goodparts.decision.thresholds import mean_and_sigmas, rate_threshold
from goodparts.report.pictures import (
    BAD_COLOUR,
    GOOD_COLOUR,
    INK,
    QUIET,
    TRUTH,
    heatmap_overlay,
    heatmap_scale,
    segmentation_picture,
)

PICTURES = Path(__file__).parent / "pictures"
SHOWN = ("scratch/003", "contamination/001", "broken/001", "good/000")
VIEWS = ("image", "heatmap", "found", "ground truth")
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, which colour-blind people can tell apart

TILE, GAP, SIDE, HEAD = 194, 6, 100, 28  # pixels of demo.png: 900 wide
MARGIN = 32  # pixels of background that are cut off at every side of a rendered part


def demo(path: Path) -> None:
    """The demo's parts as the default recipe sees them: a row a part, a column a view."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_demo(Path(folder))
        inspector = Inspector(Recipe()).fit(root)
        calibration = inspector.model.calibration
        low, high = heatmap_scale(calibration.pixel_threshold, calibration.typical_pixel)
        size = (SIDE + len(VIEWS) * (TILE + GAP), HEAD + len(SHOWN) * (TILE + GAP))
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        for column, view in enumerate(VIEWS):
            draw.text((_left(column) + TILE / 2, HEAD / 2), view, INK, _font(14), anchor="mm")
        for row, name in enumerate(SHOWN):
            inspection = inspector.inspect(root / "test" / f"{name}.png")
            image = _fitted(read_image(root / "test" / f"{name}.png"))
            truth = root / "ground_truth" / f"{name}_mask.png"
            defect = _fitted_mask(read_mask(truth)) if truth.is_file() else np.zeros((TILE, TILE), dtype=bool)
            views = (
                image,
                heatmap_overlay(image, _fitted(inspection.anomaly_map), low=low, high=high),
                segmentation_picture(image, _fitted_mask(inspection.mask)),
                segmentation_picture(image, defect, TRUTH),
            )
            top = HEAD + row * (TILE + GAP)
            for column, view in enumerate(views):
                picture.paste(Image.fromarray(view), (_left(column), top))
            multiple = f"{inspection.score / inspection.threshold:.2f} × threshold"
            multiple = f"{inspection.score / inspection.threshold:.2f} ×\nthreshold"
            colour = GOOD_COLOUR if inspection.verdict == "GOOD" else BAD_COLOUR
            draw.text((2, top + 62), name.partition("/")[0], INK, _font(13))
            draw.text((2, top + 82), inspection.verdict, colour, _font(17, bold=True))
            draw.text((2, top + 107), multiple, QUIET, _font(13))
    picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.FLOYDSTEINBERG).save(
        path, optimize=True
    )


def rate(path: Path) -> None:
    """What becomes of two rules when many people calibrate on 300 good parts each.

    Scores are lognormal(0, 0.6), so the true false-reject rate of each threshold is known exactly.
    """
    draws, good, sigma, wanted = 1000, 300, 0.6, 0.02
    rng = np.random.default_rng(0)
    scores = np.exp(sigma * rng.standard_normal((draws, good)))
    tail = _normal_tail
    by_rate = tail(np.log([rate_threshold(drawn, wanted, 0.95)[0] for drawn in scores]) / sigma)
    by_sigma = tail(np.log([mean_and_sigmas(drawn, 3) for drawn in scores]) / sigma)
    nominal = float(tail(np.array(3.0)))

    rcParams["font.family"] = "DejaVu Sans"
    figure = Figure((9, 5.2), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"The true false-reject rate of {draws:,} thresholds, each found from {good} good scores",
        fontsize=12.5, weight="bold",
    )  # fmt: skip
    edges = np.geomspace(0.0001, 0.1, 80)
    kept = f"Rule rate: at most {_percent(wanted)}, at 95 % confidence"
    usual = f"Rule sigma: mean + 3 sigma, which would be {_percent(nominal)} if scores were Gaussian"
    rows = (
        (by_rate, BLUE, "", wanted, "wanted: at most", kept),
        (by_sigma, ORANGE, "////", nominal, "nominal", usual),
    )
    for axes, (rates, colour, hatch, line, word, title) in zip(
        figure.subplots(2, 1, sharex=True, sharey=True), rows, strict=True
    ):
        face = "#F2B48A" if hatch else colour
        axes.hist(
            rates, edges, facecolor=face, edgecolor=colour if hatch else "white", hatch=hatch, linewidth=0.4
        )
        axes.axvline(line, color="#1C1E24", linewidth=2)
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        ticks = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
        axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks], fontsize=10.5)
        axes.minorticks_off()
        axes.set_axisbelow(True)
        axes.grid(color="#E4E6EA", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("thresholds", fontsize=11)
        axes.set_title(title, loc="left", fontsize=11.5)
        below = np.mean(rates <= line)
        note = f"{_percent(below)} of the thresholds\nkeep it; the median rate\nis {_percent(float(np.median(rates)))}"
        axes.text(0.01, 0.95, note, transform=axes.transAxes, va="top", fontsize=11)
        axes.annotate(
            f" {word} {_percent(line)}",
            (line, 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=11,
        )
    axes.set_xlabel(
        "true share of good parts that are rejected, logarithmic\n"
        "(simulated: scores lognormal(0, 0.6), which have a long upper tail)",
        fontsize=10.5,
    )
    figure.savefig(path, metadata={"Software": None})


def _normal_tail(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a standard normal distribution above z."""
    from math import erfc, sqrt

    return np.vectorize(lambda value: 0.5 * erfc(value / sqrt(2)))(z)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _left(column: int) -> int:
    return SIDE + column * (TILE + GAP)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    family = "DejaVu Sans:bold" if bold else "DejaVu Sans"
    return ImageFont.truetype(findfont(family), size, layout_engine=ImageFont.Layout.BASIC)


def _fitted(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """A picture (H, W, 3) or map (H, W), its margin cut off, at the size of a tile."""
    inner = values[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.array(Image.fromarray(inner).resize((TILE, TILE), Image.Resampling.HAMMING))


def _fitted_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return _fitted(mask.astype(np.float32)) > 0.3


if __name__ == "__main__":
    makers = {"demo": (demo, "demo.png"), "rate": (rate, "rate_rule.png")}
    wanted = sys.argv[1:] or list(makers)
    if set(wanted) - set(makers):
        sys.exit(f"expected some of {', '.join(makers)}, found {' '.join(wanted)}")
    PICTURES.mkdir(exist_ok=True)
    for name in wanted:
        make, file = makers[name]
        make(PICTURES / file)
        print(PICTURES / file, f"{(PICTURES / file).stat().st_size / 1000:.0f} kB")
