"""What light and noise that good images did not show do to verdicts (see docs/light.md).

    python benchmarks/robustness.py mvtec_ad/metal_nut
    python benchmarks/robustness.py mvtec_ad/metal_nut --light as_is,colour --figure robustness.png
    python benchmarks/robustness.py mvtec_ad/metal_nut --variant "" --variant "whitening=0"

Fits once on the good images as they are, then changes the test images alone, at their own size and in 8 bits, and
judges them by the threshold that the good images gave. Prints a Markdown table: image AUROC, how many good parts were
rejected, and how many bad ones missed. `--light` compares values of the recipe key, `--variant` any other keys, each
with a fit of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from few_images import changed
from numpy.typing import NDArray

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.images import read_image
from goodparts.evaluation.metrics import auroc
from goodparts.report.plots import BLUE, GREY, INK, ORANGE

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, int], Pixels]
"""From pixels (H, W, 3) and the number of the image to changed pixels."""

Found = Mapping[str, tuple[float, int, int]]
"""By name of a change: image AUROC, good parts rejected, bad parts missed."""


def gained(factor: float) -> Change:
    """Brighter or darker, as a longer or shorter exposure."""
    return tabulated(lambda level: level * factor)


def tabulated(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    table = in_8_bits(curve(np.arange(256.0)))
    return lambda pixels, _: table[pixels]


def cast(red: float, blue: float) -> Change:
    """Light of another colour: warmer or colder."""
    return lambda pixels, _: in_8_bits(pixels * np.array([red, 1, blue]))


def shaded(field: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    """Uneven light: a factor from x (across) and y (down), both from -1 to 1."""

    def change(pixels: Pixels, _: int) -> Pixels:
        y, x = (np.linspace(-1, 1, size) for size in pixels.shape[:2])
        return in_8_bits(pixels * field(x, y[:, None])[..., None])

    return change


def noisy(sigma: float) -> Change:
    """Noise of a sensor, Gaussian, alike in light and dark; of a grey camera one for all channels."""

    def change(pixels: Pixels, number: int) -> Pixels:
        grey = (pixels == pixels[..., :1]).all()
        shape = (*pixels.shape[:2], 1 if grey else 3)
        noise = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
        return in_8_bits(pixels + sigma * noise)

    return change


def in_8_bits(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "untouched": lambda pixels, _: pixels,
    "brightness × 0.6": gained(0.6),
    "brightness × 0.8": gained(0.8),
    "brightness × 1.2": gained(1.2),
    "brightness × 1.4": gained(1.4),
    "gamma 0.7": tabulated(lambda level: 255 * (level / 255) ** 0.7),
    "gamma 1.4": tabulated(lambda level: 255 * (level / 255) ** 1.4),
    "warm (R × 1.15, B × 0.85)": cast(1.15, 0.85),
    "cold (R × 0.85, B × 1.15)": cast(0.85, 1.15),
    "30 % brighter on the right": shaded(lambda x, y: 1 + 0.15 * x + 0 * y),
    "30 % brighter below": shaded(lambda x, y: 1 + 0.15 * y + 0 * x),
    "corners 30 % darker": shaded(lambda x, y: 1 - 0.15 * (x**2 + y**2)),
    "noise, sigma 5": noisy(5),
    "noise, sigma 10": noisy(10),
}


def measure(
    inspector: Inspector, images: list[Pixels], labels: NDArray[np.bool_]
) -> dict[str, tuple[float, int, int]]:
    """What becomes of the verdicts under each change."""
    found = {}
    for name, change in CHANGES.items():
        seen = (change(pixels, number) for number, pixels in enumerate(images))
        scores = np.array(list(inspector.score_many(seen)))
        bad = scores > inspector.model.calibration.threshold
        found[name] = (auroc(labels, scores), int(np.sum(bad & ~labels)), int(np.sum(~bad & labels)))
    return found


def table(by_recipe: Mapping[str, Found], good: int, bad: int) -> str:
    """Markdown: a row a change, three columns a recipe."""
    heads = [f"{name}: AUROC | rejected of {good} | missed of {bad}" for name in by_recipe]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + 3 * len(by_recipe)) + "|"]
    for name in CHANGES:
        cells = [
            f"{100 * found[name][0]:.2f} | {found[name][1]} | {found[name][2]}"
            for found in by_recipe.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(by_recipe: Mapping[str, Found], good: int, bad: int, title: str, path: Path) -> None:
    """Shares of good parts rejected and of bad parts missed, a row a change, a bar a recipe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    looks = [(ORANGE, ""), (BLUE, ""), (GREY, "///"), ("white", "...")]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    rows, thick = np.arange(len(CHANGES)), 0.8 / len(by_recipe)
    for side, (ax, total, what) in enumerate(
        zip(
            axes,
            (good, bad),
            (f"good parts rejected, % of {good}", f"bad parts missed, % of {bad}"),
            strict=True,
        )
    ):
        for number, (name, found) in enumerate(by_recipe.items()):
            colour, hatch = looks[number % len(looks)]
            shares = [100 * found[change][1 + side] / total for change in CHANGES]
            at = rows + (number - (len(by_recipe) - 1) / 2) * thick
            bars = ax.barh(at, shares, 0.9 * thick, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.4)
            bars.set_label(name)
        ax.set_xlim(0, 100)
        ax.set_xlabel(what)
        ax.grid(axis="x", color="#DDDDDD")
        ax.set_axisbelow(True)
    axes[0].set_yticks(rows, list(CHANGES))
    axes[0].invert_yaxis()
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="train/good, test/good, test/<class of defect>")
    parser.add_argument("--recipe", default="default", help="a preset or a TOML file")
    parser.add_argument(
        "--light", default="", help="values of the recipe key, with commas between; the recipe's own"
    )
    parser.add_argument("--variant", action="append", metavar="KEY=VALUE;...", help="recipe keys to change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="draw the verdicts, too, into this .png")
    arguments = parser.parse_args()
    if arguments.variant and arguments.light:
        parser.error("--light: give it as a --variant, light=colour, beside others")
    recipe = Recipe.load(arguments.recipe).replace({"seed": arguments.seed})
    data = read_dataset(arguments.data)
    images = [read_image(sample.path) for sample in data.test]
    labels = np.array([bool(sample.label) for sample in data.test])
    variants = arguments.variant or [
        f"light={light}" for light in (arguments.light or recipe.light).split(",")
    ]
    by_recipe = {}
    for variant in variants:
        inspector = Inspector(changed(recipe, variant)).fit(arguments.data)
        by_recipe[variant or arguments.recipe] = measure(inspector, images, labels)
    bad = int(labels.sum())
    good = len(labels) - bad
    print(table(by_recipe, good, bad))
    if arguments.figure:
        draw(by_recipe, good, bad, f"{data.name}: other light on the test images alone", arguments.figure)


if __name__ == "__main__":
    main()
