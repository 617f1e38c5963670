"""Does a recipe hold on parts it was not tuned on? Eight generated categories, textures and objects, each its own kind.

    python benchmarks/categories.py                                  # the default recipe beside plain PatchCore
    python benchmarks/categories.py --variant "" --variant "whitening=0" --seeds 0,1
    python benchmarks/categories.py --write FOLDER                   # just write them, as data sets

Leather, wood, carpet, capsule, board, screw, cable and bottle: what their namesakes in MVTec AD ask for, drawn with a
few lines each, nothing of it taken from there. Defects are small and some are faint, so that a recipe has something to
lose. Prints a Markdown table: image AUROC / pixel AUROC / AUPRO in percent, the mean over the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from few_images import changed
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tiles import save

from goodparts import Inspector, Recipe
from goodparts.recipe.presets import PRESETS

SIZE = 360  # pixels
STRENGTH = 0.5  # of what defects are painted with
TRAIN, TEST = 50, 30  # good parts to learn from; good, and bad, parts to test with

Field = NDArray[np.float64]  # (SIZE, SIZE), or with colours behind
Rng = np.random.Generator
Y, X = np.mgrid[:SIZE, :SIZE].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", action="append", metavar="KEY=VALUE;...", help="recipe keys to change")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--seeds", default="0", help="of the recipe")
    parser.add_argument("--only", default=",".join(CATEGORIES), help="categories")
    parser.add_argument("--write", type=Path, help="write the data sets there, and do no more")
    options = parser.parse_args()
    names = options.only.split(",")
    if options.write:
        for name in names:
            write(name, options.write / name)
        return
    start = Recipe.load(options.recipe)
    variants = {text or options.recipe: changed(start, text) for text in options.variant or [""]}
    if not options.variant:
        variants["plain"] = start.replace(PRESETS["plain"])
    with tempfile.TemporaryDirectory() as folder:
        print(f"| | {' | '.join(variants)} |\n|{'---|' * (1 + len(variants))}", flush=True)
        rows = []
        for name in names:
            write(name, Path(folder) / name)
            row = []
            for recipe in variants.values():
                found = [
                    measure(Path(folder) / name, recipe.replace({"seed": int(seed)}))
                    for seed in options.seeds.split(",")
                ]
                row.append(np.mean(found, axis=0))
            rows.append(row)
            print(f"| {name} | {' | '.join(map(spelt, row))} |", flush=True)
        print(f"| mean | {' | '.join(map(spelt, np.mean(rows, axis=0)))} |")


def measure(data: Path, recipe: Recipe) -> tuple[float, ...]:
    """Image AUROC, pixel AUROC and AUPRO."""
    metrics = Inspector(recipe).fit(data).evaluate(data).metrics
    return tuple(100 * float(metrics[name] or 0) for name in ("image_auroc", "pixel_auroc", "aupro_30"))


def spelt(found: NDArray[np.float64]) -> str:
    return f"{found[0]:.2f} / {found[1]:.2f} / {found[2]:.1f}"


def write(name: str, root: Path) -> None:
    """A category as a data set in the layout of MVTec AD."""
    for split, first, count in (("train", 0, TRAIN), ("test", 1000, TEST)):
        for index in range(count):
            save(part(name, first + index)[0], root / split / "good" / f"{index:03}.png")
    for index in range(TEST):
        pixels, mask = part(name, 2000 + index, index + 1)
        save(pixels, root / "test" / "bad" / f"{index:03}.png")
        save(mask.astype(np.uint8) * 255, root / "ground_truth" / "bad" / f"{index:03}_mask.png")


def part(name: str, seed: int, defect: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A part, (SIZE, SIZE, 3) uint8, and where it is bad; `defect`: of which kind, counted round from 1; 0: good."""
    rng = np.random.default_rng((sum(name.encode()), seed))
    colour, mask = CATEGORIES[name](rng, defect)
    colour = colour * rng.uniform(0.97, 1.03) + rng.normal(0, 1.5, colour.shape)
    return np.clip(colour, 0, 255).astype(np.uint8), mask


# ---- what they are drawn with


def grain(rng: Rng, down: float, across: float) -> Field:
    """Noise of unit deviation, blurred by so many pixels down and across; it goes on beyond the border as it ends."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)
    low = np.exp(-2 * np.pi**2 * ((fy * down) ** 2 + (fx * across) ** 2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * low, s=(SIZE, SIZE))
    return np.asarray(field / field.std())


def painted(field: Field, colour: tuple[float, float, float], where: Field) -> Field:
    """The field with a colour laid over it, as far as `where` says, 0 to 1."""
    return np.asarray(field + where[..., None] * (np.array(colour) - field))


def marred(field: Field, colour: tuple[float, float, float], where: Field) -> Field:
    """As `painted`, but faint: a defect."""
    return painted(field, colour, STRENGTH * where)


def inside(distance: Field) -> Field:
    """1 where a signed distance is below zero, 0 above, over a pixel."""
    return np.clip(0.5 - distance, 0, 1)


def disc(cy: float, cx: float, radius: float) -> Field:
    """Signed distance to a circle."""
    return np.asarray(np.hypot(Y - cy, X - cx) - radius)


def box(cy: float, cx: float, half: tuple[float, float], turn: float = 0.0) -> Field:
    """Signed distance, about, to a rectangle of (half height, half width), turned by radians."""
    v, u = Y - cy, X - cx
    along, down = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    return np.maximum(np.abs(down) - half[0], np.abs(along) - half[1])


def blob(rng: Rng, cy: float, cx: float, radius: float) -> Field:
    """A spot of no regular shape, 0 to 1."""
    angle = np.arctan2(Y - cy, X - cx)
    rim = sum(rng.normal(0, 0.12) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6))
    return inside(np.hypot(Y - cy, X - cx) - radius * (1 + rim))


def scratch(rng: Rng, cy: float, cx: float, length: float, width: float, turn: float | None = None) -> Field:
    """A thin bent line, 0 to 1."""
    turn = rng.uniform(0, np.pi) if turn is None else turn
    v, u = Y - cy, X - cx
    along, off = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    off = off - rng.uniform(-0.004, 0.004) * along**2
    return inside(np.maximum(np.abs(off) - width / 2, np.abs(along) - length / 2))


def anywhere(rng: Rng, margin: float = 50) -> tuple[float, float]:
    return float(rng.uniform(margin, SIZE - margin)), float(rng.uniform(margin, SIZE - margin))


def none() -> Field:
    return np.zeros((SIZE, SIZE))


# ---- textures


def leather(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Pebbled; a cut, a stain, a hole or a smear of glue."""
    pebbles = grain(rng, 3, 3) - 0.6 * grain(rng, 7, 7)
    shade = 1 + 0.13 * np.tanh(1.5 * pebbles) + 0.03 * grain(rng, 60, 60)
    field = shade[..., None] * np.array([132.0, 88, 58])
    where, at = none(), anywhere(rng)
    if defect:
        where = [
            lambda: scratch(rng, *at, rng.uniform(25, 60), 2.5),
            lambda: 0.4 * blob(rng, *at, rng.uniform(9, 16)),
            lambda: inside(disc(*at, rng.uniform(2.5, 4.5))),
            lambda: 0.22 * blob(rng, *at, rng.uniform(14, 24)),
        ][defect % 4]()
        field = marred(field, [(50, 30, 20), (95, 95, 80), (40, 25, 15), (225, 215, 200)][defect % 4], where)
    return field, where > 0.1


def wood(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Grain from top to bottom; a scratch across it, a hole, damp, or another colour."""
    warped = X / rng.uniform(11, 15) + 1.3 * grain(rng, 90, 25) + rng.uniform(0, 6.3)
    rings = 0.5 + 0.5 * np.sin(warped)
    fibres = grain(rng, 14, 0.7)
    field = (1 - 0.16 * rings**2 + 0.05 * fibres)[..., None] * np.array([190.0, 142, 92])
    where, at = none(), anywhere(rng)
    if defect:
        where = [
            lambda: 0.5 * scratch(rng, *at, rng.uniform(25, 60), 2, rng.uniform(-0.4, 0.4)),
            lambda: inside(disc(*at, rng.uniform(3, 5))),
            lambda: 0.2 * blob(rng, *at, rng.uniform(14, 26)),
            lambda: 0.3 * blob(rng, *at, rng.uniform(9, 15)),
        ][defect % 4]()
        field = marred(field, [(245, 225, 190), (60, 35, 20), (70, 45, 25), (150, 70, 60)][defect % 4], where)
    return field, where > 0.1


def carpet(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Woven; a loose thread, a hole, a worn spot, or a thread that is missing."""
    bend = 0.35 * grain(rng, 40, 40)
    down, across = Y / 2.6 + bend + rng.uniform(0, 6.3), X / 2.6 + bend + rng.uniform(0, 6.3)
    weave = np.sin(down) * np.sin(across) + 0.5 * np.cos(2 * across)
    threads = np.repeat(rng.normal(0, 0.02, -(-SIZE // 8)), 8)[:SIZE]
    where, at = none(), anywhere(rng)
    if defect % 4 == 2:
        where = blob(rng, *at, rng.uniform(9, 15))
        weave = weave * (1 - 0.75 * where)
    field = (1 + 0.2 * weave + threads + 0.04 * grain(rng, 1, 1))[..., None] * np.array([112.0, 116, 124])
    if defect and defect % 4 != 2:
        where = [
            lambda: 0.7 * scratch(rng, *at, rng.uniform(30, 60), 2.5),
            lambda: 0.8 * blob(rng, *at, rng.uniform(4, 7)),
            lambda: none(),
            lambda: 0.5 * inside(box(*at, (1.6, rng.uniform(20, 45)))),
        ][defect % 4]()
        field = marred(field, [(190, 180, 170), (40, 40, 45), (0, 0, 0), (60, 62, 66)][defect % 4], where)
    return field, where > 0.1


# ---- objects


def capsule(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Two halves with a print; a scratch, a dent, a wrong print or a crack. Lies level to within 3 degrees."""
    turn = rng.normal(0, 0.03)
    cy, cx = SIZE / 2 + rng.normal(0, 3, 2)
    v, u = Y - cy, X - cx
    along, down = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    body = np.hypot(np.maximum(np.abs(along) - 70, 0), down) - 52
    field = np.full((SIZE, SIZE, 3), 228.0) - 6 * grain(rng, 50, 50)[..., None]
    field = painted(field, (165, 165, 170), 0.5 * inside((body - 6) / 8))
    light = np.exp(-(((down + 20) / 10) ** 2)) * inside((np.abs(along) - 80) / 6)
    for colour, side in (((205, 92, 30), inside(along)), ((52, 48, 50), inside(-along))):
        field = painted(field, colour, inside(body) * side)
    shade = 1 - 0.35 * np.clip(np.abs(down) / 52, 0, 1) ** 3
    field = np.where(inside(body)[..., None] > 0, field * shade[..., None], field)
    where = none()
    letters = Image.new("L", (SIZE, SIZE))
    text = "580" if defect and defect % 4 == 2 else "500"
    ImageDraw.Draw(letters).text((-45 + SIZE / 2, 4 + SIZE / 2), text, 255, ImageFont.load_default(26), "mm")
    printed = np.asarray(
        letters.rotate(-np.degrees(turn), translate=(round(cx - SIZE / 2), round(cy - SIZE / 2)))
    )
    field = painted(field, (245, 240, 235), 0.85 * printed / 255.0)
    field = painted(field, (255, 255, 255), 0.55 * light * inside(body))
    if defect:
        at = cy + rng.uniform(-25, 30), cx + rng.uniform(-85, 85)
        if defect % 4 == 2:
            where = inside(box(cy + 4, cx - 45, (12, 8)))
        else:
            where = (
                inside(body)
                * [
                    lambda: 0.5 * scratch(rng, *at, rng.uniform(20, 45), 1.8),
                    lambda: 0.35 * blob(rng, *at, rng.uniform(6, 10)),
                    lambda: none(),
                    lambda: scratch(rng, *at, rng.uniform(18, 35), 1.5),
                ][defect % 4]()
            )
            field = marred(field, [(200, 195, 190), (20, 15, 15), (0, 0, 0), (15, 10, 10)][defect % 4], where)
    return field, where > 0.1


_LAYOUT = np.random.default_rng(7)
_PARTS = [
    (
        y + _LAYOUT.uniform(-6, 6),
        x + _LAYOUT.uniform(-6, 6),
        int(_LAYOUT.integers(4)),
        bool(_LAYOUT.integers(2)),
    )
    for y in range(50, SIZE - 20, 65)
    for x in range(50, SIZE - 20, 65)
]  # of every board: row, column, kind, standing


def board(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Parts on a printed circuit board, always the same; one missing, one turned, a bridge of solder, or a scratch."""
    field = np.zeros((SIZE, SIZE, 3)) + np.array([28.0, 92, 58]) + 3 * grain(rng, 2, 2)[..., None]
    dy, dx = rng.normal(0, 1.5, 2)
    for y in range(20, SIZE, 65):
        field = painted(field, (40, 118, 74), inside(box(y + dy, SIZE / 2, (1.5, SIZE))))
    where = none()
    odd = int(rng.integers(len(_PARTS)))
    for index, (y, x, kind, standing) in enumerate(_PARTS):
        cy, cx = y + dy + rng.normal(0, 0.7), x + dx + rng.normal(0, 0.7)
        half = [(6.0, 11.0), (9.0, 14.0), (5.0, 8.0), (11.0, 11.0)][kind]
        turn = rng.normal(0, 0.02) + (np.pi / 2 if standing else 0)
        wrong = defect and index == odd
        pads = inside(box(cy, cx, (half[0] * 0.8, half[1] + 4), turn))
        field = painted(field, (188, 190, 192), pads)
        if wrong and defect % 4 == 0:
            where = pads
            continue
        if wrong and defect % 4 == 1:
            turn += rng.choice([-1, 1]) * rng.uniform(0.25, 0.5)
            where = inside(box(cy, cx, (half[0] + 2, half[1] + 2), turn))
        colour = [(40, 38, 38), (176, 142, 96), (58, 52, 50), (30, 30, 34)][kind]
        shade = rng.uniform(0.93, 1.07)
        field = painted(field, tuple(shade * value for value in colour), inside(box(cy, cx, half, turn)))
        if wrong and defect % 4 == 2:
            where = blob(rng, cy + half[0], cx + half[1] + 5, rng.uniform(4, 7))
            field = marred(field, (205, 206, 208), where)
    if defect and defect % 4 == 3:
        where = 0.6 * scratch(rng, *anywhere(rng), rng.uniform(30, 60), 1.8)
        field = marred(field, (150, 190, 160), where)
    return field, where > 0.1


def screw(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """At any angle; worn threads, a scratch on the head, a bent tip or a spot on the shaft."""
    turn = rng.uniform(0, 2 * np.pi)
    v, u = Y - SIZE / 2 - rng.normal(0, 4), X - SIZE / 2 - rng.normal(0, 4)
    along, off = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    field = (
        np.full((SIZE, SIZE, 3), 205.0) + 3 * grain(rng, 1, 1)[..., None] - 5 * grain(rng, 70, 70)[..., None]
    )
    teeth = 2.6 * (2 * np.abs((along / 9 + rng.uniform()) % 1 - 0.5))
    where, spot = none(), rng.uniform(-25, 75)
    if defect and defect % 4 == 0:
        worn = inside((np.abs(along - spot) - rng.uniform(7, 12)) / 2) * (off > 0)
        teeth = teeth * (1 - worn)
        where = worn * inside(np.abs(off - 13) - 5)
    taper = np.clip((118 - along) / 24, 0, 1)
    if defect and defect % 4 == 2:
        off = off - 0.16 * np.maximum(along - 88, 0) * rng.choice([-1, 1])
        where = inside(np.abs(along - 106) - 14) * inside(np.abs(off) - 12)
    shaft = np.maximum(np.abs(off) - (9 + teeth) * taper, np.maximum(-60 - along, along - 118))
    head = np.maximum(np.abs(off) - 27 + 0.012 * (along + 78) ** 2, np.maximum(-94 - along, along + 60))
    metal = 128 + 62 * np.cos(off / 13) + 16 * np.cos(along * 2 * np.pi / 9)
    for shape, shine in ((shaft, metal), (head, 118 + 55 * np.cos(off / 24))):
        field = field + inside(shape)[..., None] * (shine[..., None] * np.array([1, 0.99, 0.96]) - field)
    if defect and defect % 4 in (1, 3):
        at = (-78.0, rng.uniform(-14, 14)) if defect % 4 == 1 else (spot, rng.uniform(-5, 5))
        cy = SIZE / 2 + at[0] * np.sin(turn) + at[1] * np.cos(turn)
        cx = SIZE / 2 + at[0] * np.cos(turn) - at[1] * np.sin(turn)
        where = (
            scratch(rng, cy, cx, rng.uniform(14, 24), 2) if defect % 4 == 1 else 0.6 * blob(rng, cy, cx, 5)
        )
        field = marred(field, [(0, 0, 0), (60, 60, 62), (0, 0, 0), (120, 70, 40)][defect % 4], where)
    return field, where > 0.1


def cable(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Cut through; a wire of the wrong colour, strands that are missing, a cut in the sheath, or a nick in a wire."""
    cy, cx = SIZE / 2 + rng.normal(0, 2, 2)
    field = np.full((SIZE, SIZE, 3), 62.0) + 4 * grain(rng, 1.5, 1.5)[..., None]
    sheath = np.maximum(disc(cy, cx, 158), -disc(cy, cx, 140))
    field = painted(field, (150, 150, 152), inside(disc(cy, cx, 158)))
    field = painted(field, (92, 92, 95), inside(disc(cy, cx, 140)))
    field = field + inside(sheath)[..., None] * 5 * grain(rng, 2, 2)[..., None]
    lean, where = rng.normal(0, 0.06), none()
    colours = [(96, 130, 60), (66, 92, 150), (128, 92, 66)]
    odd = int(rng.integers(3))
    for index, colour in enumerate(colours):
        angle = lean - np.pi / 2 + index * 2 * np.pi / 3
        wy, wx = cy + 72 * np.sin(angle), cx + 72 * np.cos(angle)
        wrong = defect and index == odd
        if wrong and defect % 4 == 0:
            colour = colours[(index + 1) % 3]
            where = inside(disc(wy, wx, 60)) * inside(-disc(wy, wx, 38))
        field = painted(field, colour, inside(disc(wy, wx, 60)))
        field = painted(field, (74, 54, 40), inside(disc(wy, wx, 38)))
        turn, gone = rng.uniform(0, 1.05), rng.integers(1, 4)
        for ring, count in ((0, 1), (13, 6), (26, 12)):
            for k in range(count):
                a = turn + 2 * np.pi * k / count
                sy, sx = (
                    wy + ring * np.sin(a) + rng.normal(0, 0.6),
                    wx + ring * np.cos(a) + rng.normal(0, 0.6),
                )
                strand = inside(disc(sy, sx, 6.2))
                if wrong and defect % 4 == 1 and ring == 26 and k <= gone:
                    where = np.maximum(where, strand)
                    continue
                field = painted(field, (205, 150 + rng.normal(0, 6), 105), strand)
        if wrong and defect % 4 == 3:
            a = rng.uniform(0, 6.3)
            where = blob(rng, wy + 52 * np.sin(a), wx + 52 * np.cos(a), rng.uniform(6, 9))
            field = marred(field, (88, 88, 90), where)
    if defect and defect % 4 == 2:
        a = rng.uniform(0, 6.3)
        where = inside(sheath) * scratch(rng, cy + 149 * np.sin(a), cx + 149 * np.cos(a), 30, 5, a)
        field = marred(field, (70, 70, 72), where)
    return field, where > 0.1


def bottle(rng: Rng, defect: int) -> tuple[Field, NDArray[np.bool_]]:
    """Its mouth from above; a chip of two sizes, dirt inside, or a crack."""
    cy, cx = SIZE / 2 + rng.normal(0, 2, 2)
    away, angle = np.hypot(Y - cy, X - cx), np.arctan2(Y - cy, X - cx)
    field = np.full((SIZE, SIZE, 3), 238.0) - 4 * grain(rng, 60, 60)[..., None]
    turn = rng.uniform(0, 6.3)
    rim = 0.5 + 0.5 * np.cos(angle - turn) * np.cos(2 * angle + turn)
    field = painted(field, (58, 40, 24), inside(away - 150))
    for radius, width, shine in ((128, 7, 150), (104, 4, 110), (146, 3, 90)):
        field += (np.exp(-(((away - radius) / width) ** 2)) * shine * rim)[..., None] * np.array(
            [1, 0.85, 0.6]
        )
    field = painted(field, (22, 16, 12), inside(away - 88))
    field += (inside(away - 88) * 12 * (1 + grain(rng, 12, 12)))[..., None]
    where, a = none(), rng.uniform(0, 6.3)
    if defect:
        r = rng.uniform(10, 70)
        where = [
            lambda: (
                inside(away - 150) * blob(rng, cy + 146 * np.sin(a), cx + 146 * np.cos(a), rng.uniform(8, 14))
            ),
            lambda: (
                inside(away - 150)
                * blob(rng, cy + 128 * np.sin(a), cx + 128 * np.cos(a), rng.uniform(14, 24))
            ),
            lambda: 0.5 * blob(rng, cy + r * np.sin(a), cx + r * np.cos(a), rng.uniform(5, 9)),
            lambda: 0.7 * scratch(rng, cy + 118 * np.sin(a), cx + 118 * np.cos(a), rng.uniform(20, 40), 2),
        ][defect % 4]()
        field = marred(
            field, [(225, 222, 215), (150, 125, 90), (120, 90, 60), (210, 190, 150)][defect % 4], where
        )
    return field, where > 0.1


Draw = Callable[[Rng, int], tuple[Field, NDArray[np.bool_]]]

CATEGORIES: dict[str, Draw] = {
    drawn.__name__: drawn for drawn in (leather, wood, carpet, capsule, board, screw, cable, bottle)
}

if __name__ == "__main__":
    main()
