"""How well poses are found, and what aligning does to verdicts (see docs/pose.md).

    python benchmarks/pose.py truth                      # rendered parts whose pose is known
    python benchmarks/pose.py verdicts                   # rendered parts: AUROC and false rejects, aligned or not
    python benchmarks/pose.py data mvtec_ad/metal_nut    # a data set as it is

Rendered parts are those of `goodparts demo`, laid elsewhere; the light stays where it is while they turn. Half
parts are cut off straight, so that no turn but one brings them back. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodparts import Inspector, Recipe, parallel, read_dataset
from goodparts.data import demo_defects, demo_part
from goodparts.data.demo_part import Flaw, Scene
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Pose
from goodparts.preprocessing.pose import Alignment
from goodparts.preprocessing.step import Prepared

SIZE = 400  # pixels of the rendered pictures
TRAIN, TEST = 30, 20  # parts to learn from; good, and bad, parts to test with
WRONG_ANGLE, WRONG_SHIFT = 2.0, 0.02  # degrees; share of the picture: beyond these a pose is no inaccuracy
LIGHT = demo_part.VARIATION[3:]

# Degrees and share of the picture, either way
SPREADS = {"straight": (1, 0.01), "10 %": (0, 0.1), "15°, 10 %": (15, 0.1), "any angle, 10 %": (180, 0.1)}


# Half parts or whole ones, how they lie in training, in tests, and pose_angle
VERDICTS = (
    (False, "straight", "straight", 30),
    (False, "straight", "15°, 10 %", 30),
    (False, "15°, 10 %", "15°, 10 %", 30),
    (True, "straight", "any angle, 10 %", 180),
)


@dataclass(frozen=True)
class Part:
    """A rendered part: pixels (SIZE, SIZE, 3), where it lies (degrees, pixels right and down), its defect's mask."""

    pixels: NDArray[np.uint8]
    angle: float
    x: float
    y: float
    kind: str
    mask: NDArray[np.uint8] | None


def halved(flaw: Flaw, scene: Scene, n: int) -> Flaw:
    """The flaw on a part that is cut off straight, with three of its five lobes."""
    x, y = demo_part.offsets_from((scene.x, scene.y), n)
    along = (x * math.cos(scene.angle) + y * math.sin(scene.angle)).astype(np.float32)
    return replace(flaw, cut=np.maximum(along - 0.05, flaw.cut))


def render(spread: str, number: int, *, bad: bool, half: bool, seed: int) -> Part:
    angle, shift = SPREADS[spread]
    demo_part.VARIATION = (
        math.radians(angle),
        2 * demo_part.VIEW * shift,
        2 * demo_part.VIEW * shift,
        *LIGHT,
    )
    seeds = (seed, int(bad), number)
    rng = np.random.default_rng(seeds)  # as demo_part.render draws the scene
    turned, x, y = (limit * rng.uniform(-1, 1) for limit in demo_part.VARIATION[:3])

    def flawed(scene: Scene, n: int, attempt: int | None) -> Flaw:
        flaw = Flaw()
        if attempt is not None:
            strength = min(1.0, number * 0.618 % 1 + 0.1 * attempt)
            flaw = demo_defects.DEFECTS[kind](scene, n, np.random.default_rng((*seeds, 2, attempt)), strength)
        return halved(flaw, scene, n) if half else flaw

    kind = list(demo_defects.DEFECTS)[number % len(demo_defects.DEFECTS)] if bad else "good"
    grey, mask = demo_part.render(seeds, SIZE, lambda scene, n: flawed(scene, n, None)), None
    if bad:
        clean = grey
        for attempt in range(20):
            grey = demo_part.render(seeds, SIZE, lambda scene, n, attempt=attempt: flawed(scene, n, attempt))
            mask = demo_defects.visible_mask(grey - clean)
            if (mask > 0).mean() > demo_defects.SMALLEST:
                break
    pixel = SIZE / (2 * demo_part.VIEW)
    pixels = demo_part.photograph(grey, (*seeds, 1))
    return Part(pixels, math.degrees(turned), pixel * x, pixel * y, kind, mask)


def parts(spread: str, count: int, *, bad: bool = False, half: bool = False, seed: int = 0) -> list[Part]:
    return [render(spread, number, bad=bad, half=half, seed=seed) for number in range(count)]


# ---- truth


def truth() -> None:
    print("| part, learnt from | parts | angle | tried | believed | wrong | angle off | shift off |")
    print("|---|---|---|---|---|---|---|---|")
    for half, learnt, tested, kind, limit in (
        (False, "straight", "10 %", "shift", 30),
        (False, "straight", "15°, 10 %", "rigid", 30),
        (False, "15°, 10 %", "15°, 10 %", "rigid", 30),
        (False, "straight", "any angle, 10 %", "rigid", 180),
        (True, "straight", "any angle, 10 %", "rigid", 180),
        (True, "any angle, 10 %", "any angle, 10 %", "rigid", 180),
        (False, "straight", "any angle, 10 %", "rigid", 30),
    ):
        recipe = Recipe(pose=kind, pose_angle=limit)
        good = parts(learnt, TRAIN, half=half, seed=1)
        images = GoodImages.of([part.pixels for part in good], read=read_image, workers=2)
        alignment = Alignment.learn(images, recipe)
        zero = where_it_lies(alignment, good)
        for bad in (False, True):
            tried = parts(tested, TEST, bad=bad, half=half, seed=2)
            angles, shifts, wrong, failed = [], [], 0, 0
            for part in tried:
                found = pose_of(part, alignment)
                if found.failure:
                    failed += 1
                    continue
                angle, shift = off(part, found, zero)
                if angle > WRONG_ANGLE or shift > WRONG_SHIFT * SIZE:
                    wrong += 1
                    continue
                angles.append(angle)
                shifts.append(shift)
            print(
                f"| {'half, ' if half else ''}{learnt} | {'bad' if bad else 'good'}, {tested} | {kind}, {limit}° "
                f"| {len(tried)} | {len(tried) - failed} | {wrong} | {spread_of(angles)} | {spread_of(shifts)} |",
                flush=True,
            )


def pose_of(part: Part, alignment: Alignment) -> Pose:
    """What is found of a part, believed or not."""
    frame = framing.frame_of(part.pixels.shape[:2], alignment.recipe)
    picture = framing.apply(frame, part.pixels)
    found = alignment.apply(Prepared(frame, picture, picture)).pose
    assert found is not None
    return found


def where_it_lies(alignment: Alignment, good: list[Part]) -> tuple[float, float, float]:
    """Angle and place of the reference itself, medians of what the good parts say."""
    said = []
    for part in good:
        found = pose_of(part, alignment)
        if not found.failure:
            x, y = turned(-found.angle, part.x - found.shift[0], part.y - found.shift[1])
            said.append(((part.angle - found.angle + 180) % 360 - 180, x, y))
    angle, x, y = np.median(said, axis=0).tolist() if said else (0.0, 0.0, 0.0)
    return angle, x, y


def off(part: Part, found: Pose, zero: tuple[float, float, float]) -> tuple[float, float]:
    """Degrees and pixels by which a pose is off."""
    x, y = turned(found.angle, zero[1], zero[2])
    angle = abs((part.angle - zero[0] - found.angle + 180) % 360 - 180)
    return angle, math.hypot(x + found.shift[0] - part.x, y + found.shift[1] - part.y)


def turned(angle: float, x: float, y: float) -> tuple[float, float]:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return cos * x - sin * y, sin * x + cos * y


def spread_of(values: list[float]) -> str:
    return f"{np.median(values):.2f}, at most {max(values):.2f}" if values else "-"


# ---- verdicts


def verdicts() -> None:
    head()
    for half, learnt, tested, limit in VERDICTS:
        with tempfile.TemporaryDirectory(prefix="goodparts-pose-") as folder:
            root = Path(folder)
            for part, path in placed(root, learnt, tested, half):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(part.pixels).save(path, compress_level=1)
                if part.mask is not None:
                    mask = root / "ground_truth" / part.kind / f"{path.stem}_mask.png"
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(part.mask).save(mask)
            for kind in ("as_is", "shift", "rigid"):
                if kind == "shift" and tested not in ("straight", "10 %"):
                    continue
                name = f"{'half, ' if half else ''}{learnt} → {tested}"
                row(name, root, Recipe(pose=kind, pose_angle=limit))


def placed(root: Path, learnt: str, tested: str, half: bool) -> Iterator[tuple[Part, Path]]:
    for number, part in enumerate(parts(learnt, TRAIN, half=half, seed=1)):
        yield part, root / "train" / "good" / f"{number:03}.png"
    for bad in (False, True):
        for number, part in enumerate(parts(tested, TEST, bad=bad, half=half, seed=2)):
            yield part, root / "test" / part.kind / f"{number:03}.png"


def head() -> None:
    print(
        "| data | pose | not aligned (learnt, test) | image / pixel AUROC | rejected | missed | not seen | ms |"
    )
    print("|---|---|---|---|---|---|---|---|")


def row(name: str, root: Path, recipe: Recipe) -> None:
    inspector = Inspector(recipe).fit(root)
    data = read_dataset(root, require_train=False)
    found = inspector.evaluate(data)
    provenance = inspector.model.provenance
    learnt = sum((provenance.not_aligned or {}).values())
    tested = sum(image.pose is not None and bool(image.pose.failure) for image in found.images)
    counts, values = found.counts, found.metrics
    print(
        f"| {name} | {recipe.pose}{f', {recipe.pose_angle:g}°' if recipe.pose == 'rigid' else ''} "
        f"| {learnt} of {provenance.good_images}, {tested} of {len(found.images)} "
        f"| {100 * (values['image_auroc'] or 0):.2f} / {100 * (values['pixel_auroc'] or 0):.2f} "
        f"| {counts['false_bad']} of {counts['false_bad'] + counts['true_good']} "
        f"| {counts['false_good']} of {counts['false_good'] + counts['true_bad']} "
        f"| {100 * (values['not_looked_share'] or 0):.1f} % | {milliseconds(inspector, data.test[0].path):.0f} |",
        flush=True,
    )


def milliseconds(inspector: Inspector, path: Path) -> float:
    """CPU time of finding a pose and straightening, one image after the other."""
    pixels, preprocessor = read_image(path), inspector.model.preprocessor
    with parallel.small_products():
        began = time.process_time()
        for _ in range(10):
            preprocessor.prepare(pixels, path)
        return 100 * (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("truth", "verdicts", "data"))
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument(
        "--pose", default="as_is,shift,rigid:30,rigid:180", help="of data: poses, pose_angle behind"
    )
    arguments = parser.parse_args()
    if arguments.what == "truth":
        truth()
    elif arguments.what == "verdicts":
        verdicts()
    else:
        head()
        for root in arguments.data:
            for kind in arguments.pose.split(","):
                name, _, limit = kind.partition(":")
                row(root.name, root, Recipe(pose=name, pose_angle=float(limit or 30)))


if __name__ == "__main__":
    main()
