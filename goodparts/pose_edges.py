"""Edges: what of a picture is compared when a pose is looked for, and how it changes when the part moves.

    working image ─► small copy, grey ─► slope ─► edges ─► moved back ─► agreement with others

Edges are, at every pixel of a small copy, a complex number whose length is how strong the edge is for this image (0 to
1) and whose angle is twice its direction, so that it counts the same whichever side is bright. Light from another side
changes them little, and a defect only where it is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from goodparts.framing import Frame, Warp

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


# ---- of a picture


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


# ---- moved and compared


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
