"""Pose: how a part lies in the picture against a reference, found, checked, and taken back before anything is learnt.

    working image ─► edges ─► coarse: correlation at every angle ─► fine: Gauss-Newton ─► checks ─► straightened

An image is compared by its edges: at every pixel of a small copy a complex number, whose length is how strong the edge
is for this image (0 to 1) and whose angle is twice its direction, so that it counts the same whichever side is bright.
Light from another side changes it little, and a defect only where it is.

The reference is the mean of the edges of good images, each in the pose of the one that lies most in the middle. Coarse:
it is turned in steps of 3 degrees and correlated with the image by FFT. Fine: the best few are refined by inverse
compositional Gauss-Newton (Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56, 2004).

A pose is believed only where the edges then agree about as well as those of good images do, better than before, and
clearly better than in any other pose, and where the reference itself has no other pose in which it looks alike. Else
the image is taken as it is, and `Pose.failure` says why: nothing is straightened on a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from goodparts import feeding, framing
from goodparts.errors import RecipeError
from goodparts.framing import Frame, Warp
from goodparts.recipe import Recipe

SIDE = 160  # pixels of the longer side of the small copy
SAMPLE = 32  # good images that the reference is made of, at the most
FLOOR = 0.35  # agreement below which no two images show the same part
BETTER = 0.02  # by which a pose has to agree better than the image as it came
AMBIGUOUS = 0.1  # by which it has to agree better than any other pose
ALIKE = 0.6  # agreement of the reference with itself, turned or shifted, from which on images can't tell these poses
REACH = 0.25  # of each side: the farthest shift that is looked for
OVERLAP = 0.5  # share of the reference that has to be seen

_POOL = 4  # pixels of the small copy to one of the coarse search
_STEP = 3.0  # degrees between the angles of the coarse search
_PEAKS = 10  # of the coarse search that are refined
_BORDER = 3  # pixels at the image's border whose edges are not known
_MARGIN = 0.15  # by which agreement may always lie below the usual
_PILOTS, _JUDGES = 3, 7  # good images that may be the first reference, and by how many others each is judged
_SLACK = 1.0  # degrees by which a pose may lie beyond pose_angle
_NEAR_ANGLE, _NEAR_SHIFT = math.radians(4), 0.04  # poses nearer than this, in angle and in sides, are one

Field = NDArray[np.complex64]


@dataclass(frozen=True)
class Pose:
    """How a part lies against the reference.

    Attributes:
        angle: degrees by which it is turned, clockwise as the picture is seen.
        shift: (right, down), pixels of the image by which what the reference has in the middle has moved.
        quality: agreement of the edges in this pose, at most 1.
        before: agreement as the image came.
        used: whether the image was straightened: not where it lies as the reference within half a pixel, or not surely.
        failure: why no pose is believed, in words; empty if one is.
    """

    angle: float
    shift: tuple[float, float]
    quality: float
    before: float
    used: bool
    failure: str = ""

    @property
    def in_words(self) -> str:
        """One phrase for people."""
        if self.failure:
            return self.failure
        right, down = self.shift
        return f"turned {self.angle:+.1f}°, moved {right:+.1f}, {down:+.1f} px"


@dataclass(frozen=True, eq=False)
class Placed:
    """An image on its way into the pipeline.

    Attributes:
        frame: how the image lies in the working image, the pose included.
        working: the working image, straightened, (height, width, 3) uint8.
        picture: the same as it came, of the same shape.
        pose: what was found; None where the recipe does not look for it.
    """

    frame: Frame
    working: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    pose: Pose | None


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


class _Found(NamedTuple):
    motion: Motion
    quality: float


class Edges(NamedTuple):
    """Edges (h, w) complex64 of a small copy, and where they are known, (h, w) uint8, 0 or 255."""

    field: Field
    known: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are aligned to; made by `learn`.

    Attributes:
        edges: of the good images, (2, h, w) int8: real and imaginary part in steps of 1/127.
        known: where they are known, (h, w) uint8, 0 or 255.
        picture: the working image of a good part in this pose, (height, width, 3) uint8: shown where nothing is known.
        typical: median agreement of good images with the mean of the others.
        lowest: below this an image is not aligned.
        alike: motions after which the reference looks like itself: a symmetry, or a period.
    """

    edges: NDArray[np.int8]
    known: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    typical: float
    lowest: float
    alike: tuple[Motion, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.edges.ndim != 3
            or self.edges.shape[0] != 2
            or self.edges.dtype != np.int8
            or self.known.shape != self.edges.shape[1:]
            or self.known.dtype != np.uint8
            or self.picture.ndim != 3
            or self.picture.dtype != np.uint8
            or not math.isfinite(self.typical + self.lowest)
        ):
            raise ValueError(
                f"pose: edges of shape {self.edges.shape} and {self.edges.dtype} don't go together"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the small copy."""
        return self.known.shape[0], self.known.shape[1]

    @cached_property
    def template(self) -> Template:
        """The same, ready for the search."""
        field = (self.edges[0] + 1j * self.edges[1].astype(np.float32)) / np.float32(127)
        return Template(Edges(field.astype(np.complex64), self.known))

    def to_bytes(self) -> bytes:
        """As the model file keeps it: safetensors."""
        import safetensors.numpy

        return safetensors.numpy.save(
            {
                "edges": self.edges,
                "known": self.known,
                "picture": self.picture,
                "limits": np.array([self.typical, self.lowest]),
                "alike": np.array(self.alike, dtype=np.float64).reshape(-1, 3),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; ValueError or LookupError if it is something else."""
        import safetensors.numpy

        tensors = safetensors.numpy.load(data)
        typical, lowest = tensors["limits"].tolist()
        alike = tuple(Motion(*motion) for motion in tensors["alike"].tolist())
        return cls(tensors["edges"], tensors["known"], tensors["picture"], typical, lowest, alike)


def place(pixels: NDArray[np.uint8], recipe: Recipe, reference: Reference | None) -> Placed:
    """Frame an image (H, W, 3) uint8 and, where there is a reference, straighten it."""
    frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
    picture = framing.apply(frame, pixels)
    if reference is None:
        return Placed(frame, picture, picture, None)
    pose, warp = find(reference, picture, frame, recipe)
    if warp is None:
        return Placed(frame, picture, picture, pose)
    frame = replace(frame, warp=warp)
    return Placed(frame, framing.straighten(frame, picture, reference.picture), picture, pose)


def find(
    reference: Reference, picture: NDArray[np.uint8], frame: Frame, recipe: Recipe
) -> tuple[Pose, Warp | None]:
    """The pose of a working image (height, width, 3) uint8 as framing made it, and what takes it back.

    Args:
        reference: what it is aligned to.
        picture: the working image.
        frame: how the image lies in it.
        recipe: pose and pose_angle.
    """
    edges = edges_of(picture, frame, reference.shape)
    template = reference.template
    before = template.quality(edges, Motion(0, 0, 0))
    best, second = template.search(edges, recipe)
    motion, quality = best
    per_pixel = [  # pixels of the image to one of the small copy
        frame.working_size[axis] * frame.image_size[axis] / (frame.resized[axis] * reference.shape[axis])
        for axis in (1, 0)
    ]
    failure = _failure(best, second, before, reference.lowest, reference.alike, recipe)
    stays = motion.size(max(reference.shape)) * max(frame.working_size) / SIDE < 0.5
    used = not failure and not stays
    pose = Pose(
        angle=math.degrees(motion.angle),
        shift=(motion.x * per_pixel[0], motion.y * per_pixel[1]),
        quality=quality,
        before=before,
        used=used,
        failure=failure,
    )
    return pose, _warp(motion, reference.shape, frame.working_size) if used else None


def _failure(
    best: _Found,
    second: _Found | None,
    before: float,
    lowest: float,
    alike: Sequence[Motion],
    recipe: Recipe,
) -> str:
    """Why a pose can't be believed, worded as the quality gate's reasons; empty if it can."""
    if best.quality < lowest:
        return (
            f"not aligned: edges agree to {best.quality:.2f} with those of good images, in the best pose (limit "
            f"{lowest:.2f})"
        )
    turn = abs(math.degrees(best.motion.angle))
    if recipe.pose == "rigid" and turn > recipe.pose_angle + _SLACK:
        return f"not aligned: turned by {turn:.0f} degrees (limit {recipe.pose_angle:g}, pose_angle)"
    rival = next((way for way in alike if _looked_for(best.motion.after(way), recipe)), None)
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


def _looked_for(motion: Motion, recipe: Recipe) -> bool:
    """Whether a pose lies within what the search covers."""
    limit = math.radians(recipe.pose_angle) if recipe.pose == "rigid" else 0.0
    reach = REACH * SIDE
    return abs(motion.angle) <= limit + _NEAR_ANGLE and max(abs(motion.x), abs(motion.y)) <= reach


# ---- edges


def small_shape(frame: Frame) -> tuple[int, int]:
    """(h, w) of the small copy of a working image: `SIDE` at the longer side, with the aspect of the part itself."""
    height, width = (
        frame.working_size[axis] * frame.image_size[axis] / frame.resized[axis] for axis in (0, 1)
    )
    longer = max(height, width)
    return tuple(max(8 * _POOL, round(SIDE * side / longer / _POOL) * _POOL) for side in (height, width))  # type: ignore[return-value]


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


# ---- search


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
            edges = _pooled(self.edges, pool)
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
        return int(2 ** math.ceil(math.log2(max(self.edges.field.shape) / _POOL * (1 + REACH))))

    def _spectra(self, limit: float) -> tuple[NDArray[np.float64], NDArray[np.complex64]]:
        """Angles up to `limit` degrees, and the conjugate spectra of the edges turned by each, (angles, side, side)."""
        if limit not in self._by_limit:
            steps = int((limit + 1e-9) // _STEP)
            angles = np.radians(_STEP * np.arange(-steps, steps + (2 * steps * _STEP < 360)))
            turned = (_moved(self.edges, Motion(-float(angle), 0, 0)) for angle in angles)
            size = (self._side, self._side)
            spectra = [np.conj(np.fft.fft2(_pooled(one, _POOL).field, size)) for one in turned]
            self._by_limit[limit] = angles, np.stack(spectra).astype(np.complex64)
        return self._by_limit[limit]

    def quality(self, edges: Edges, motion: Motion) -> float:
        """Agreement of edges in a pose, -1 to 1: their correlation where both are known; 0 where that is too little."""
        return _agreement(self.edges, _moved(edges, motion))

    def search(self, edges: Edges, recipe: Recipe) -> tuple[_Found, _Found | None]:
        """The pose that agrees best, and the best of the others, as far as recipe.pose and pose_angle let it look."""
        turns = recipe.pose == "rigid"
        starts = self._turns(edges, recipe.pose_angle) if turns else self._shifts(edges)
        found = [self._refined(edges, start, 2, turns) for start in (Motion(0, 0, 0), *starts)]
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
        found = (self._refined(self.edges, start, 2, turns) for start in starts)
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
            starts.append(
                Motion(float(angles[peak]), float(_POOL * columns[column]), float(_POOL * rows[row]))
            )
        return starts

    def _shifts(self, edges: Edges) -> list[Motion]:
        """Where to begin without a turn: the shifts at which the correlation is largest near by."""
        within, rows, columns = self._correlation(edges, self._spectra(0.0)[1])
        surface = np.pad(within[0], 1, constant_values=-np.inf)
        h, w = within.shape[1:]
        around = [surface[dy : dy + h, dx : dx + w] for dy in (0, 1, 2) for dx in (0, 1, 2)]
        peaks = np.argwhere(within[0] >= np.max(around, axis=0))
        best = peaks[np.argsort(-within[0][peaks[:, 0], peaks[:, 1]], kind="stable")][:_PEAKS]
        return [Motion(0, float(_POOL * columns[x]), float(_POOL * rows[y])) for y, x in best]

    def _correlation(
        self, edges: Edges, spectra: NDArray[np.complex64]
    ) -> tuple[NDArray[np.floating], NDArray[np.intp], NDArray[np.intp]]:
        """Correlation (angles, rows, columns) of edges with each spectrum, and the shifts down and right it is at."""
        side = self._side
        spectrum = np.fft.fft2(_pooled(edges, _POOL).field, (side, side))
        correlation = np.fft.ifft2(spectrum * spectra, axes=(1, 2)).real
        reach = [int(REACH * size / _POOL) for size in edges.field.shape]
        rows, columns = (np.arange(-far, far + 1) for far in reach)
        return correlation[:, rows[:, None] % side, columns % side], rows, columns

    def _refined(self, edges: Edges, start: Motion, pool: int, turns: bool, rounds: int = 8) -> _Found:
        """The pose near `start` in which edges agree best, by Gauss-Newton on edges pooled by `pool`."""
        template, change = self._levels[pool]
        image = _pooled(edges, pool)
        motion = Motion(start.angle, start.x / pool, start.y / pool)
        wanted = template.field.ravel()
        free = slice(None) if turns else slice(1, None)
        for _ in range(rounds):
            moved = _moved(image, motion)
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
        moved = _moved(image, motion)
        reach = [REACH * size for size in (template.field.shape[1], template.field.shape[0])]
        far = abs(motion.x) > 1.1 * reach[0] or abs(motion.y) > 1.1 * reach[1]
        quality = 0.0 if far else _agreement(template, moved)
        return _Found(Motion(motion.angle, motion.x * pool, motion.y * pool), quality)


def _agreement(one: Edges, other: Edges) -> float:
    both = (one.known & other.known) > 0
    if both.sum() < OVERLAP * (one.known > 0).sum():
        return 0.0
    first, second = one.field[both], other.field[both]
    energy = float(np.vdot(first, first).real) * float(np.vdot(second, second).real)
    return float(np.vdot(first, second).real) / math.sqrt(energy) if energy > 0 else 0.0


def _moved(edges: Edges, motion: Motion) -> Edges:
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


def _pooled(edges: Edges, pool: int) -> Edges:
    """Means of pool x pool pixels, known where all of them are."""
    if pool == 1:
        return edges
    h, w = edges.field.shape
    cells = (h // pool, pool, w // pool, pool)
    known = edges.known.reshape(cells).min(axis=(1, 3))
    return Edges(edges.field.reshape(cells).mean(axis=(1, 3)), known)


def _coefficients(motion: Motion, shape: tuple[int, int]) -> Warp:
    """Pillow's affine coefficients of a motion: where in the image (x, y) of the reference lies."""
    cos, sin = math.cos(motion.angle), math.sin(motion.angle)
    y, x = shape[0] / 2, shape[1] / 2
    return cos, -sin, x + motion.x - cos * x + sin * y, sin, cos, y + motion.y - sin * x - cos * y


def _warp(motion: Motion, shape: tuple[int, int], working: tuple[int, int]) -> Warp:
    """The same in pixels of the working image."""
    down, across = working[0] / shape[0], working[1] / shape[1]
    a, b, c, d, e, f = _coefficients(motion, shape)
    return a, b * across / down, c * across, d * down / across, e, f * down


def _apart(one: Motion, other: Motion) -> bool:
    between = one.after(other.inverse)
    shift = math.hypot(one.x - other.x, one.y - other.y)
    return abs(between.angle) > _NEAR_ANGLE or shift > _NEAR_SHIFT * SIDE


def _turned(angle: float, x: float, y: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


# ---- learning


def learn(
    images: Sequence[Any],
    recipe: Recipe,
    *,
    read: Callable[[Any], NDArray[np.uint8]],
    workers: int,
    tell: Callable[[str, int, int], None],
) -> Reference:
    """The reference of good images: up to `SAMPLE` of them, evenly spread.

    Raises:
        ImageError: one of them can't be read.
    """
    sample = [images[index] for index in np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int))]
    shape: list[tuple[int, int]] = []

    def one(image: Any) -> tuple[Edges, NDArray[np.uint8]]:
        pixels = read(image)
        frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
        if not shape:
            shape.append(small_shape(frame))
        picture = framing.apply(frame, pixels)
        return edges_of(picture, frame, shape[0]), picture

    looked_at = [one(sample[0])]  # its aspect is that of all of them
    for more in feeding.ordered(one, sample[1:], workers=workers):
        looked_at.append(more)
        tell("pose", len(looked_at), 2 * len(sample))
    edges, pictures = [each for each, _ in looked_at], [picture for _, picture in looked_at]
    pilot = _pilot(edges, recipe, workers)
    template = Template(edges[pilot])
    alike = template.alike(recipe)
    motions: list[Motion | None] = []
    for best, second in feeding.ordered(lambda one: template.search(one, recipe), edges, workers=workers):
        motions.append(None if _failure(best, second, -1.0, FLOOR, alike, recipe) else best.motion)
        tell("pose", len(edges) + len(motions), 2 * len(sample))
    found = _mean(edges, motions, pilot, pictures)
    return replace(found, alike=found.template.alike(recipe))


def _pilot(edges: Sequence[Edges], recipe: Recipe, workers: int) -> int:
    """Of a few images that to which the others align best."""
    pilots = np.unique(np.linspace(0, len(edges) - 1, _PILOTS).astype(int))
    judges = np.unique(np.linspace(0, len(edges) - 1, _JUDGES).astype(int))

    def one(pilot: int) -> float:
        template = Template(edges[pilot])
        return float(
            np.median(
                [template.search(edges[judge], recipe)[0].quality for judge in judges if judge != pilot]
            )
        )

    if len(edges) < 3:
        return 0
    return int(pilots[np.argmax(list(feeding.ordered(one, pilots, workers=workers)))])


def _mean(
    edges: Sequence[Edges],
    motions: Sequence[Motion | None],
    pilot: int,
    pictures: Sequence[NDArray[np.uint8]],
) -> Reference:
    """The mean of edges that were aligned to a pilot, in the pose of the image that lies most in the middle."""
    aligned = [(index, motion) for index, motion in enumerate(motions) if motion is not None]
    if len(aligned) < 2:
        return _reference(edges[pilot], [], pictures[pilot])
    far = [sum(other.after(motion.inverse).size(SIDE) for _, other in aligned) for _, motion in aligned]
    middle, pose = aligned[int(np.argmin(far))]
    back = pose.inverse
    moved = [_moved(edges[index], motion.after(back)) for index, motion in aligned]
    seen = np.sum([one.known > 0 for one in moved], axis=0)
    total = np.sum([np.where(one.known > 0, one.field, 0) for one in moved], axis=0)
    known = np.where(2 * seen >= len(moved), np.uint8(255), np.uint8(0))
    qualities = []
    for one in moved:  # each against the mean of the others
        own = one.known > 0
        others = np.where(own, total - one.field, total) / np.maximum(seen - own, 1)
        qualities.append(_agreement(Edges(others.astype(np.complex64), known), one))
    mean = np.where(known > 0, total / np.maximum(seen, 1), 0)
    return _reference(Edges(mean.astype(np.complex64), known), qualities, pictures[middle])


def _reference(edges: Edges, qualities: Sequence[float], picture: NDArray[np.uint8]) -> Reference:
    """With a limit as the quality gate's are: from the median twice as far as 95 % of the good images go, and at least
    `_MARGIN`, wider for few images; never below `FLOOR`."""
    typical, lowest = 1.0, FLOOR
    if qualities:
        typical = float(np.median(qualities))
        low = float(np.quantile(qualities, 0.05, method="higher"))
        few = 1 + 5 / len(qualities)
        lowest = max(FLOOR, typical - few * max(_MARGIN, 2 * (typical - low)))
    parts = np.stack([edges.field.real, edges.field.imag])
    stored = np.rint(127 * np.clip(parts, -1, 1)).astype(np.int8)
    return Reference(stored, edges.known, picture, typical, lowest)


def require_use(failures: Sequence[str], recipe: Recipe) -> None:
    """Raise RecipeError where most good images can't be aligned and would be sent back; `failures` has one for each."""
    failed = [failure for failure in failures if failure]
    if recipe.pose_failure == "recheck" and 2 * len(failed) > len(failures):
        raise RecipeError(
            f"pose_failure: recheck would send back most parts, since {len(failed)} of {len(failures)} good images "
            f"are {failed[0]}; take pose = as_is, pose_failure = plain, or a smaller pose_angle"
        )
