"""The search for a pose: the motion in which an image's edges agree best with a template's, and whether to believe it.

    working image ─► small copy, grey ─► slope ─► edges ─► moved back ─► agreement with others
    edges ─► coarse: correlation at every angle ─► fine: Gauss-Newton ─► the best motion, the best other one ─► checks

Edges are, at every pixel of a small copy, a complex number whose length is how strong the edge is for this image (0 to
1) and whose angle is twice its direction, so that it counts the same whichever side is bright. Light from another side
changes them little, and a defect only where it is.

Coarse: the template is turned in steps of 3 degrees and correlated with the image by FFT. Fine: the best few are
refined by inverse compositional Gauss-Newton (Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56, 2004).

A pose is believed only where the edges then agree about as well as those of good images do, better than before, and
clearly better than in any other pose, and where the template itself has no other pose in which it looks alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from goodparts.preprocessing.framing import Frame, Warp
from goodparts.recipe.recipe import Recipe

SIDE = 160  # pixels of the longer side of the small copy
POOL = 4  # pixels of the small copy, whose sides are multiples of it, to one of the coarse search
OVERLAP = 0.5  # share of the reference that has to be seen

_BORDER = 3  # pixels at the image's border whose edges are not known


class Motion(NamedTuple):
    """From the reference to the image: q = R(angle) (p - centre) + centre + (x, y), in pixels of the small copy."""

    angle: float
    x: float
    y: float

    def after(self, first: Motion) -> Motion:
        """The motion that makes `first` and then this one; exact, as the centre is that of all of them."""
        x, y = _turned(self.angle, first.x, first.y)
        return Motion(_wrapped(self.angle + first.angle), x + self.x, y + self.y)

    @property
    def inverse(self) -> Motion:
        """From the image to the reference."""
        x, y = _turned(-self.angle, self.x, self.y)
        return Motion(_wrapped(-self.angle), -x, -y)

    def size(self, side: float) -> float:
        """About how far the farthest pixel of a picture of this longer side moves, pixels."""
        return math.hypot(self.x, self.y) + abs(self.angle) * side / math.sqrt(2)


def _turned(angle: float, x: float, y: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


class Edges(NamedTuple):
    """Edges (h, w) complex64 of a small copy, and where they are known, (h, w) uint8, 0 or 255."""

    field: NDArray[np.complex64]
    known: NDArray[np.uint8]


def small_shape(frame: Frame) -> tuple[int, int]:
    """(h, w) of the small copy of a working image: `SIDE` at the longer side, with the aspect of the part itself."""
    height, width = (
        frame.working_size[axis] * frame.image_size[axis] / frame.resized[axis] for axis in (0, 1)
    )
    longer = max(height, width)
    return tuple(max(8 * POOL, round(SIDE * side / longer / POOL) * POOL) for side in (height, width))  # type: ignore[return-value]


def edges_of(picture: NDArray[np.uint8], frame: Frame, shape: tuple[int, int]) -> Edges:
    """Edges of a working image (height, width, 3) uint8 at the size (h, w)."""
    from PIL import Image

    h, w = shape
    grey = Image.fromarray(picture).convert("L").resize((w, h), Image.Resampling.BILINEAR)
    down, across = np.gradient(_smoothed(np.asarray(grey, dtype=np.float32)))
    slope = np.hypot(across, down)
    known = np.zeros(shape, dtype=np.uint8)
    rows, columns = (_inside(frame, axis, shape[axis]) for axis in (0, 1))
    known[rows, columns] = 255
    usual = 2 * float(slope[rows, columns].mean()) + 1e-3
    direction = (across + 1j * down).astype(np.complex64)
    field = direction * direction / (slope * (slope + usual) + np.float32(1e-6))
    field[known == 0] = 0
    return Edges(_smoothed(field), known)


def _inside(frame: Frame, axis: int, size: int) -> slice:
    """Rows or columns of the small copy that show the image, without its border."""
    scale = size / frame.working_size[axis]
    first = max(0.0, frame.offset[axis] * scale)
    last = min(float(size), (frame.offset[axis] + frame.resized[axis]) * scale)
    return slice(math.ceil(first) + _BORDER, math.floor(last) - _BORDER)


def _smoothed(values: NDArray[Any]) -> NDArray[Any]:
    """Binomial filter of five each way."""
    for axis in (0, 1):
        padded = np.pad(values, [(2, 2) if axis == side else (0, 0) for side in (0, 1)], mode="edge")
        one, two, three, four, five = (
            np.take(padded, np.arange(i, i + values.shape[axis]), axis=axis) for i in range(5)
        )
        values = (one + five + 4 * (two + four) + 6 * three) * np.float32(1 / 16)
    return values


def moved_back(edges: Edges, motion: Motion) -> Edges:
    """Edges as they would be had the image first been moved back: at p what the image has at q."""
    from PIL import Image

    h, w = edges.field.shape
    coefficients = _coefficients(motion, (h, w))

    def moved(values: NDArray[Any], how: Image.Resampling) -> NDArray[Any]:
        picture = Image.fromarray(np.ascontiguousarray(values))
        return np.asarray(picture.transform((w, h), Image.Transform.AFFINE, coefficients, how))

    field = np.empty((h, w), dtype=np.complex64)
    field.real = moved(edges.field.real, Image.Resampling.BILINEAR)
    field.imag = moved(edges.field.imag, Image.Resampling.BILINEAR)
    field *= np.complex64(np.exp(-2j * motion.angle))
    return Edges(field, moved(edges.known, Image.Resampling.NEAREST))


def pooled(edges: Edges, pool: int) -> Edges:
    """Means of pool x pool pixels, known where all of them are."""
    if pool == 1:
        return edges
    h, w = edges.field.shape
    cells = (h // pool, pool, w // pool, pool)
    known = edges.known.reshape(cells).min(axis=(1, 3))
    return Edges(edges.field.reshape(cells).mean(axis=(1, 3)), known)


def agreement(one: Edges, other: Edges) -> float:
    """Correlation of edges where both are known, -1 to 1; 0 where that is less than `OVERLAP` of `one`."""
    both = (one.known & other.known) > 0
    if both.sum() < OVERLAP * (one.known > 0).sum():
        return 0.0
    first, second = one.field[both], other.field[both]
    energy = float(np.vdot(first, first).real) * float(np.vdot(second, second).real)
    return float(np.vdot(first, second).real) / math.sqrt(energy) if energy > 0 else 0.0


def _coefficients(motion: Motion, shape: tuple[int, int]) -> Warp:
    """Pillow's affine coefficients of a motion: where in the image (x, y) of the reference lies."""
    cos, sin = math.cos(motion.angle), math.sin(motion.angle)
    y, x = shape[0] / 2, shape[1] / 2
    return cos, -sin, x + motion.x - cos * x + sin * y, sin, cos, y + motion.y - sin * x - cos * y


def warp_of(motion: Motion, shape: tuple[int, int], working: tuple[int, int]) -> Warp:
    """What a motion makes of points of the working image, (height, width), where (h, w) is the small copy's shape."""
    down, across = working[0] / shape[0], working[1] / shape[1]
    a, b, c, d, e, f = _coefficients(motion, shape)
    return a, b * across / down, c * across, d * down / across, e, f * down


REACH = 0.25  # of each side: the farthest shift that is looked for
BETTER = 0.02  # by which a pose has to agree better than the image as it came
AMBIGUOUS = 0.1  # by which it has to agree better than any other pose
ALIKE = 0.6  # agreement of a template with itself, turned or shifted, from which on images can't tell the two

_STEP = 3.0  # degrees between the angles of the coarse search
_PEAKS = 10  # of the coarse search that are refined
_SLACK = 1.0  # degrees by which a pose may lie beyond pose_angle
_NEAR_ANGLE, _NEAR_SHIFT = math.radians(4), 0.04  # poses nearer than this, in angle and in sides, are one


class Found(NamedTuple):
    """A motion from the template to the image, and the agreement of their edges in it, at most 1."""

    motion: Motion
    quality: float


class Template:
    """Edges that others are aligned to, with what the search needs of them."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self._by_limit: dict[float, tuple[NDArray[np.float64], NDArray[np.complex64]]] = {}

    @cached_property
    def _levels(self) -> dict[int, tuple[Edges, NDArray[np.complex64]]]:
        """By pixels that are pooled: edges, and how they change with angle, x and y, (h w, 3)."""
        levels = {}
        for pool in (2, 1):
            edges = pooled(self.edges, pool)
            field = edges.field
            down, across = np.gradient(field)
            y, x = (np.arange(size, dtype=np.float32) + 0.5 - size / 2 for size in field.shape)
            turned = -2j * field - across * y[:, None] + down * x
            change = np.stack([turned, across, down], axis=-1).reshape(-1, 3).astype(np.complex64)
            levels[pool] = edges, change
        return levels

    @cached_property
    def _side(self) -> int:
        """Side of the FFT: so large that no shift within reach comes round."""
        return int(2 ** math.ceil(math.log2(max(self.edges.field.shape) / POOL * (1 + REACH))))

    def _spectra(self, limit: float) -> tuple[NDArray[np.float64], NDArray[np.complex64]]:
        """Angles up to `limit` degrees, and the conjugate spectra of the edges turned by each, (angles, side, side)."""
        if limit not in self._by_limit:
            steps = int((limit + 1e-9) // _STEP)
            angles = np.radians(_STEP * np.arange(-steps, steps + (2 * steps * _STEP < 360)))
            turned = (moved_back(self.edges, Motion(-float(angle), 0, 0)) for angle in angles)
            size = (self._side, self._side)
            spectra = [np.conj(np.fft.fft2(pooled(one, POOL).field, size)) for one in turned]
            self._by_limit[limit] = angles, np.stack(spectra).astype(np.complex64)
        return self._by_limit[limit]

    def quality(self, edges: Edges, motion: Motion) -> float:
        """Agreement of edges in a pose, -1 to 1: their correlation where both are known; 0 where that is too little."""
        return agreement(self.edges, moved_back(edges, motion))

    def search(self, edges: Edges, recipe: Recipe) -> tuple[Found, Found | None]:
        """The pose that agrees best, and the best of the others, as far as recipe.pose and pose_angle let it look."""
        turns = recipe.pose == "rigid"
        starts = self._turns(edges, recipe.pose_angle) if turns else self._shifts(edges)
        halved = pooled(edges, 2)
        found = [self._refined(halved, start, 2, turns) for start in (Motion(0, 0, 0), *starts)]
        found.sort(key=lambda one: -one.quality)
        best = self._refined(edges, found[0].motion, 1, turns)
        others = [one for one in found[1:] if _apart(one.motion, best.motion)]
        return best, others[0] if others else None

    def alike(self, recipe: Recipe) -> tuple[Motion, ...]:
        """The motions between two poses that could be looked for, after which these edges look like themselves."""
        turns = recipe.pose == "rigid"
        starts = self._shifts(self.edges)
        if turns:
            starts += self._turns(self.edges, min(180.0, 2 * recipe.pose_angle))
        halved, _ = self._levels[2]
        found = (self._refined(halved, start, 2, turns) for start in starts)
        none = Motion(0, 0, 0)
        return tuple(one.motion for one in found if one.quality >= ALIKE and _apart(one.motion, none))

    def _turns(self, edges: Edges, limit: float) -> list[Motion]:
        """Where to begin: the angles up to `limit` degrees, with their best shift, that correlate best near by."""
        angles, spectra = self._spectra(limit)
        within, rows, columns = self._correlation(edges, spectra)
        heights = within.reshape(len(angles), -1)
        at, largest = heights.argmax(axis=1), heights.max(axis=1)
        before, after = np.roll(largest, 1), np.roll(largest, -1)
        if len(angles) * _STEP < 360:
            before[0] = after[-1] = -np.inf
        peaks = np.flatnonzero((largest >= before) & (largest >= after))
        starts = []
        for peak in peaks[np.argsort(-largest[peaks], kind="stable")][:_PEAKS]:
            row, column = divmod(int(at[peak]), len(columns))
            starts.append(Motion(float(angles[peak]), float(POOL * columns[column]), float(POOL * rows[row])))
        return starts

    def _shifts(self, edges: Edges) -> list[Motion]:
        """Where to begin without a turn: the shifts at which the correlation is largest near by."""
        within, rows, columns = self._correlation(edges, self._spectra(0.0)[1])
        surface = np.pad(within[0], 1, constant_values=-np.inf)
        h, w = within.shape[1:]
        around = [surface[dy : dy + h, dx : dx + w] for dy in (0, 1, 2) for dx in (0, 1, 2)]
        peaks = np.argwhere(within[0] >= np.max(around, axis=0))
        best = peaks[np.argsort(-within[0][peaks[:, 0], peaks[:, 1]], kind="stable")][:_PEAKS]
        return [Motion(0, float(POOL * columns[x]), float(POOL * rows[y])) for y, x in best]

    def _correlation(
        self, edges: Edges, spectra: NDArray[np.complex64]
    ) -> tuple[NDArray[np.floating], NDArray[np.intp], NDArray[np.intp]]:
        """Correlation (angles, rows, columns) of edges with each spectrum, and the shifts down and right it is at."""
        side = self._side
        spectrum = np.fft.fft2(pooled(edges, POOL).field, (side, side))
        correlation = np.fft.ifft2(spectrum * spectra, axes=(1, 2)).real
        reach = [int(REACH * size / POOL) for size in edges.field.shape]
        rows, columns = (np.arange(-far, far + 1) for far in reach)
        return correlation[:, rows[:, None] % side, columns % side], rows, columns

    def _refined(self, image: Edges, start: Motion, pool: int, turns: bool, rounds: int = 8) -> Found:
        """The pose near `start` in which edges that were pooled by `pool` agree best, by Gauss-Newton."""
        template, change = self._levels[pool]
        motion = Motion(start.angle, start.x / pool, start.y / pool)
        wanted = template.field.ravel()
        free = slice(None) if turns else slice(1, None)
        for _ in range(rounds):
            moved = moved_back(image, motion)
            both = (moved.known & template.known).ravel() > 0
            if both.mean() < OVERLAP:
                break
            seen, target, slopes = moved.field.ravel()[both], wanted[both], change[both, free]
            gain = np.vdot(seen, target).real / max(float(np.vdot(seen, seen).real), 1e-6)
            transposed = slopes.conj().T
            curvature = (transposed @ slopes).real.astype(np.float64)
            curvature[np.diag_indices_from(curvature)] += 1e-6 * np.trace(curvature) + 1e-9
            step = np.linalg.solve(curvature, (transposed @ (gain * seen - target)).real)
            angle, x, y = step if turns else (0.0, *step)
            motion = motion.after(Motion(float(angle), float(x), float(y)).inverse)
            if Motion(float(angle), float(x), float(y)).size(max(template.field.shape)) < 0.05:
                break
        moved = moved_back(image, motion)
        reach = [REACH * size for size in (template.field.shape[1], template.field.shape[0])]
        far = abs(motion.x) > 1.1 * reach[0] or abs(motion.y) > 1.1 * reach[1]
        quality = 0.0 if far else agreement(template, moved)
        return Found(Motion(motion.angle, motion.x * pool, motion.y * pool), quality)


def _apart(one: Motion, other: Motion) -> bool:
    between = one.after(other.inverse)
    shift = math.hypot(one.x - other.x, one.y - other.y)
    return abs(between.angle) > _NEAR_ANGLE or shift > _NEAR_SHIFT * SIDE


# ---- what is believed


def failure_of(
    best: Found,
    second: Found | None,
    *,
    before: float,
    lowest: float,
    alike: Sequence[Motion],
    recipe: Recipe,
) -> str:
    """Why a pose can't be believed, worded as the quality gate's reasons; empty if it can.

    Args:
        best: the pose that agrees best, as `Template.search` gives it ...
        second: ... and the best of the others.
        before: agreement as the image came.
        lowest: below this no pose is believed.
        alike: motions after which the template looks like itself.
        recipe: pose and pose_angle.
    """
    if best.quality < lowest:
        return (
            f"not aligned: edges agree to {best.quality:.2f} with those of good images, in the best pose (limit "
            f"{lowest:.2f})"
        )
    turn = abs(math.degrees(best.motion.angle))
    if recipe.pose == "rigid" and turn > recipe.pose_angle + _SLACK:
        return f"not aligned: turned by {turn:.0f} degrees (limit {recipe.pose_angle:g}, pose_angle)"
    rival = next((way for way in alike if _within_search(best.motion.after(way), recipe)), None)
    if rival is None and second is not None and second.quality > best.quality - AMBIGUOUS:
        rival = best.motion.inverse.after(second.motion)
    if rival is not None:
        turned = f"turned by {abs(math.degrees(rival.angle)):.0f} degrees"
        shifted = f"shifted by {100 * math.hypot(rival.x, rival.y) / SIDE:.0f} % of the picture"
        return f"not aligned: the part looks alike {turned if abs(rival.angle) > _NEAR_ANGLE else shifted}"
    if best.quality < before + BETTER and best.motion.size(SIDE) > 2:
        return (
            f"not aligned: edges agree to {before:.2f} as the image is, and no better in any pose near by "
            f"({best.quality:.2f})"
        )
    return ""


def _within_search(motion: Motion, recipe: Recipe) -> bool:
    """Whether a pose lies within what the search covers."""
    limit = math.radians(recipe.pose_angle) if recipe.pose == "rigid" else 0.0
    reach = REACH * SIDE
    return abs(motion.angle) <= limit + _NEAR_ANGLE and max(abs(motion.x), abs(motion.y)) <= reach
