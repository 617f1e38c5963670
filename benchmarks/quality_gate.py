"""How many images the quality gate sends back: good, bad and spoilt ones.

    python benchmarks/quality_gate.py ../shared/mvtec_ad/metal_nut ../shared/mvtec_ad/grid_256

Four fifths of the good training images are learnt from; the limits come from the other fifth, whose distance grids are
therefore held out. Then every test image is inspected as it is and spoilt. Sigmas of blur are given for images of 700
pixels across and scaled to the width at hand. Prints a Markdown table.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from goodparts import Inspection, Inspector, Recipe, read_dataset
from goodparts.data.images import read_image
from goodparts.decision.quality_gate import Limits, learn_limits, reasons
from goodparts.preprocessing import framing
from goodparts.preprocessing.statistics import ImageStatistics, measure

Pixels = NDArray[np.uint8]
RECIPE = Recipe(
    backbone="efficientnet_lite0", layers=("stage3", "stage5"), image_size=320, sampling_ratio=0.01
)


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    def spoil(pixels: Pixels) -> Pixels:
        blur = ImageFilter.GaussianBlur(sigma * pixels.shape[1] / 700)
        return np.asarray(Image.fromarray(pixels).filter(blur))

    return spoil


def exposed(factor: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(pixels * float(factor), 0, 255).astype(np.uint8)


def noisy(deviation: float) -> Callable[[Pixels], Pixels]:
    rng = np.random.default_rng(0)
    return lambda pixels: np.clip(pixels + rng.normal(0, deviation, pixels.shape), 0, 255).astype(np.uint8)


SPOILT: dict[str, Callable[[Pixels], Pixels]] = {
    "blur, sigma 1 px": blurred(1),
    "blur, sigma 2 px": blurred(2),
    "blur, sigma 4 px": blurred(4),
    "exposure x 0.3": exposed(0.3),
    "exposure x 0.6": exposed(0.6),
    "exposure x 1.5, clipped": exposed(1.5),
    "exposure x 3, clipped": exposed(3),
    "noise, sigma 10 of 255": noisy(10),
    "noise, sigma 25 of 255": noisy(25),
    "black frame": np.zeros_like,
    "white frame": lambda pixels: np.full_like(pixels, 255),
    "grey frame, as bright": lambda pixels: np.full_like(pixels, round(pixels.mean())),
    "turned by 90 degrees": lambda pixels: np.ascontiguousarray(np.rot90(pixels)),
}


def statistics(inspector: Inspector, images: Iterable[Pixels]) -> list[ImageStatistics]:
    def measured(_: int, pixels: Pixels, inspection: Inspection) -> ImageStatistics:
        working = framing.apply(framing.frame_of(pixels.shape[:2], inspector.recipe), pixels)
        return measure(working, inspection.distance_grid)

    return list(inspector.inspect_many(images, then=measured))


def caught(measured: list[ImageStatistics], limits: Limits) -> str:
    """Share of the images that are sent back, and the first reasons for it."""
    first = Counter(
        found[0].split(":")[0].split(",")[0] for one in measured if (found := reasons(one, limits))
    )
    words = ", ".join(f"{word} {count}" for word, count in first.most_common())
    return f"{first.total()} of {len(measured)}" + (f" ({words})" if words else "")


def column(root: Path, others: list[Path]) -> dict[str, str]:
    data = read_dataset(root)
    learnt = [path for number, path in enumerate(data.train) if number % 5]
    inspector = Inspector(RECIPE, workers=2).fit(learnt)
    limits = learn_limits(statistics(inspector, map(read_image, data.train[::5])))
    images = [(sample.defect_class, read_image(sample.path)) for sample in data.test]
    measured = statistics(inspector, [pixels for _, pixels in images])
    cells = {}
    for name, bad in (("good test images", False), ("bad test images", True)):
        chosen = [one for (kind, _), one in zip(images, measured, strict=True) if (kind != "good") == bad]
        cells[name] = caught(chosen, limits)
    for name, spoil in SPOILT.items():
        cells[name] = caught(statistics(inspector, (spoil(pixels) for _, pixels in images)), limits)
    if others:
        foreign = [read_image(sample.path) for other in others for sample in read_dataset(other).test]
        cells["images of another part"] = caught(statistics(inspector, foreign), limits)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="data sets in the layout of MVTec AD")
    roots = parser.parse_args().data
    columns = {root.name: column(root, [other for other in roots if other != root]) for root in roots}
    print("| sent back for a new picture | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(cells[name] for cells in columns.values()) + " |")


if __name__ == "__main__":
    main()
