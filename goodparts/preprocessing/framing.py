"""Framing: from an image of any size to the working image, and from a distance grid back to the image.

Resizing is Pillow's `BILINEAR`, a triangle filter that widens when it reduces, as the authors of PatchCore resize;
`docs/export.md` says how to the byte.
The way back is one linear operator per axis: bilinear from grid to working image, Gaussian, bilinear to the image. Both
axes' operators are small matrices made once for a size, so that smoothing and upsampling are two matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.errors import ImageError
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.values import size_text

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Scalar = TypeVar("Scalar", np.uint8, np.float32)
Warp = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): what lies at (x, y) lay at (a x + b y + c, d x + e y + f) before; whole numbers lie between
pixels."""

_Bands = tuple[tuple[slice, slice, NDArray[np.float32]], ...]
"""An operator in parts: some pixels, the cells they depend on, and what they are of them, (pixels, cells) float32."""

PADDING = (124, 116, 104)  # ImageNet's mean colour: what a letterboxed image is padded with

_SMALL = 2**19  # bytes of an image up to which one core resizes it: to wake a thread takes as long
_WORTH_A_CORE = 2**18  # bytes of it for which one more core is woken
_BAND = 3 * 2**20  # bytes of an image that are resized at once
_ROWS = 32  # of a part: it needs some of the image beyond its own
_FRACTIONS = 2**9  # of a row: with 15 bits for the rows themselves, 24 of single precision
_LONGEST = 2**15  # rows
_BAND_OF_MAP = 64  # pixels of an anomaly map that are made at once, each from the few cells around it
_BLOCK = 256  # pixels that are smoothed at once
_ROUNDING = 1e-5  # of a value: by less a weighted mean is above all that it is of


@dataclass(frozen=True)
class Frame:
    """How an image lies in the working image.

    Attributes:
        image_size: (H, W) of the image.
        resized: (h, w) to which the whole image is resized ...
        offset: ... and (top, left) in working pixels where it then lies: negative where it is cropped.
        working_size: (height, width) of the working image.
        warp: where in the working image that framing makes each point of the straightened one lies (`pose`); None: it
            is taken as it is.
    """

    image_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    working_size: tuple[int, int]
    warp: Warp | None = None


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


def frame_of(image_size: tuple[int, int], recipe: Recipe) -> Frame:
    """Where an image of (height, width) comes to lie.

    Raises:
        ImageError: if the image is so narrow that letterboxing would leave nothing of it.
    """
    height, width = image_size
    working = recipe.image_size
    if recipe.framing == "stretch":
        return Frame(image_size, working, (0, 0), working)
    if recipe.framing == "letterbox":
        scale = min(working[0] / height, working[1] / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        if min(resized) < 8:
            raise ImageError(
                f"an image of {size_text(image_size)} pixels would be {size_text(resized)} in the working size "
                f"{size_text(working)}; take framing = stretch, or cut the image"
            )
        return Frame(image_size, resized, _centre(working, resized), working)
    short = min(image_size)
    resized = (recipe.resize_size * height // short, recipe.resize_size * width // short)
    return Frame(image_size, resized, _centre(working, resized), working)


def _centre(working: tuple[int, int], resized: tuple[int, int]) -> tuple[int, int]:
    return -round((resized[0] - working[0]) / 2), -round((resized[1] - working[1]) / 2)


def apply(frame: Frame, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The working image, (height, width, 3) uint8, of an image (H, W, 3) uint8; not straightened."""
    from PIL import Image

    resized = _resized(image, frame.resized)
    if frame.resized == frame.working_size and frame.offset == (0, 0):
        return resized
    canvas = Image.new("RGB", (frame.working_size[1], frame.working_size[0]), PADDING)
    canvas.paste(_picture(resized), (frame.offset[1], frame.offset[0]))
    return np.asarray(canvas)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8 in another size (h, w): the width first, then the height.

    All but small ones are resized by all cores, some rows at a time: Pillow copies what it resizes, and to make room
    for all of a large one takes longer than to resize it. The bytes are those of the whole at once.
    """
    parts = _parts(image)
    if parts == 1:
        return np.asarray(_at_height(_at_width(_picture(image), size[1]), size[0]))
    if size[0] < parts * _ROWS or size[0] > len(image) or not _begins_exactly(len(image), size[0]):
        return np.asarray(_at_height(_at_width_by_all_cores(image, size[1], parts), size[0]))
    resized = np.empty((*size, 3), dtype=np.uint8)
    scale = len(image) / size[0]

    def resize(rows: slice) -> None:
        first = max(0, math.floor(rows.start * scale - max(scale, 1)))
        last = math.ceil(rows.stop * scale + max(scale, 1))
        whole = _at_width(_picture(image[first:last]), size[1])
        begin, end = rows.start * scale - first, rows.stop * scale - first
        resized[rows] = np.asarray(_at_height(whole, rows.stop - rows.start, (begin, end)))

    parallel.on_all_cores(resize, _slices(size[0], parts))
    return resized


def _parts(image: NDArray[np.uint8]) -> int:
    """How many parts it is resized in: as many for one core as for another."""
    helpers = parallel.other_cores()
    if image.size <= (_SMALL if helpers else _BAND):
        return 1
    cores = min(1 + helpers, max(1, image.size // _WORTH_A_CORE))
    return int(cores * -(-image.size // (cores * _BAND)))


def _slices(length: int, count: int) -> list[slice]:
    step = -(-length // count)
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _begins_exactly(length: int, resized: int) -> bool:
    """Whether binary fractions hold where each row of a resized image begins in the image.

    Then Pillow, which takes that place in single precision, weights the rows of a part as it does those of the whole.
    """
    return length < _LONGEST and length * _FRACTIONS % resized == 0


def _picture(image: NDArray[np.uint8]) -> PILImage:
    """As `Image.fromarray`, which first blackens what it then fills."""
    from PIL import Image

    picture = Image.new("RGB", (image.shape[1], image.shape[0]), None)
    picture.frombytes(np.ascontiguousarray(image))
    return picture


def _at_width(picture: PILImage, width: int) -> PILImage:
    """The two halves of a resize are asked for one by one: left to itself, Pillow 13 swaps them at times, and rounding
    differs."""
    from PIL import Image

    if width == picture.width:
        return picture
    return picture.resize((width, picture.height), Image.Resampling.BILINEAR)


def _at_height(picture: PILImage, height: int, rows: tuple[float, float] | None = None) -> PILImage:
    """All its rows, or those from one place to another, in another height."""
    from PIL import Image

    first, last = rows or (0, picture.height)
    if (first, last) == (0, height) == (0, picture.height):
        return picture
    box = (0, first, picture.width, last)
    return picture.resize((picture.width, height), Image.Resampling.BILINEAR, box)


def _at_width_by_all_cores(image: NDArray[np.uint8], width: int, parts: int) -> PILImage:
    """An image (H, W, 3) uint8 in another width: no row depends on another."""
    from PIL import Image

    narrow = Image.new("RGB", (width, len(image)), None)

    def resize(rows: slice) -> None:
        narrow.paste(_at_width(_picture(image[rows]), width), (0, rows.start))

    parallel.on_all_cores(resize, _slices(len(image), parts))
    return narrow


def straighten(frame: Frame, working: NDArray[np.uint8], beyond: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A working image (height, width, 3), as `apply` makes it, with the frame's warp taken back; bicubic.

    `beyond`, of the same shape, is what is shown where nothing is known: beyond its border.
    """
    from PIL import Image

    assert frame.warp is not None
    height, width = frame.working_size
    known = np.zeros((height, width), dtype=np.uint8)
    rows, columns = (
        slice(
            max(0, frame.offset[axis]),
            min(frame.working_size[axis], frame.offset[axis] + frame.resized[axis]),
        )
        for axis in (0, 1)
    )
    known[rows, columns] = 255

    def moved(values: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
        picture = Image.fromarray(values)
        return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, frame.warp, how))

    seen = moved(known, Image.Resampling.NEAREST)[..., None] > 0
    return np.where(seen, moved(working, Image.Resampling.BICUBIC), beyond)


def without_padding(frame: Frame, working: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of a working image (height, width, 3) that shows the image."""
    top, left = (max(0, offset) for offset in frame.offset)
    return working[top : frame.offset[0] + frame.resized[0], left : frame.offset[1] + frame.resized[1]]


def patch_mask(frame: Frame, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches look at the image rather than at padding (by their centres), (h, w) bool.

    In a straightened image also by the centres of their neighbours: what is shown beyond its border is another image's.
    """
    return _patch_mask(frame, grid) if frame.warp is None else _straightened_patch_mask(frame, grid)


@lru_cache(maxsize=64)
def _patch_mask(frame: Frame, grid: tuple[int, int]) -> NDArray[np.bool_]:
    inside = []
    for axis in (0, 1):
        centres = (np.arange(grid[axis]) + 0.5) * frame.working_size[axis] / grid[axis]
        first = frame.offset[axis]
        looking = (centres >= first) & (centres <= first + frame.resized[axis])
        if not looking.any():  # a sliver between two centres: the nearest cell has to look
            looking[np.abs(centres - first - frame.resized[axis] / 2).argmin()] = True
        inside.append(looking)
    mask: NDArray[np.bool_] = np.logical_and.outer(inside[0], inside[1])
    mask.flags.writeable = False
    return mask


def _straightened_patch_mask(frame: Frame, grid: tuple[int, int]) -> NDArray[np.bool_]:
    assert frame.warp is not None
    a, b, c, d, e, f = frame.warp
    rows, columns = ((np.arange(grid[axis]) + 0.5) * frame.working_size[axis] / grid[axis] for axis in (0, 1))
    inside = np.ones((grid[0] + 2, grid[1] + 2), dtype=bool)
    for axis, at in (
        (0, d * columns + e * rows[:, None] + f),
        (1, a * columns + b * rows[:, None] + c),
    ):
        first, last = frame.offset[axis], frame.offset[axis] + frame.resized[axis]
        inside[1:-1, 1:-1] &= (at >= max(0, first)) & (at <= min(frame.working_size[axis], last))
    across = inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]
    return across[:-2] & across[1:-1] & across[2:]


def cell_shares(frame: Frame, axis: int, cells: int) -> NDArray[np.float64]:
    """What share of each cell of the grid each row (axis 0) or column (1) of the image fills, (cells, H or W).

    Rows sum to one where a cell looks at nothing but the image.
    """
    size, resized, offset, working = _axis(frame, axis)
    edges = (np.arange(cells + 1) * working / cells - offset) * size / resized  # in pixels of the image
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(overlap, 0) / np.diff(edges)[:, None])


def pixel_mask(frame: Frame) -> NDArray[np.bool_]:
    """Which pixels of the image lie in the working image, (H, W) bool."""
    if frame.warp is not None:
        everything = np.full(frame.working_size, 255, dtype=np.uint8)
        return _from_straight(frame, everything, interpolate=False) > 0
    inside = []
    for axis in (0, 1):
        along = np.zeros(frame.image_size[axis], dtype=bool)
        along[slice(*_seen_rows(frame, axis))] = True
        inside.append(along)
    return np.logical_and.outer(inside[0], inside[1])


def seen_share(frame: Frame) -> float:
    """Share of the image's pixels that lie in the working image, 0 to 1."""
    if frame.warp is not None:
        return float(pixel_mask(frame).mean())
    share = 1.0
    for axis in (0, 1):
        first, last = _seen_rows(frame, axis)
        share *= (last - first) / frame.image_size[axis]
    return share


def anomaly_map(distance_grid: NDArray[np.float32], frame: Frame, sigma: float) -> NDArray[np.float32]:
    """Distances smoothed and brought to the size of the image.

    Args:
        distance_grid: (h, w) float32; cells that did not look are NaN and take no part.
        frame: how the image lay in the working image.
        sigma: standard deviation of the Gaussian in pixels of the working image; 0: none.

    Returns:
        (H, W) float32; NaN where the image was cropped away.
    """
    values: NDArray[np.float32]
    if frame.warp is not None:
        return _map_of_straight(distance_grid, frame, sigma)
    rows, columns = (_bands(*_axis(frame, axis), distance_grid.shape[axis], sigma) for axis in (0, 1))
    hidden = np.isnan(distance_grid)
    if hidden.any():
        weights = _applied(rows, (~hidden).astype(np.float32), columns)
        values = _applied(rows, np.where(hidden, np.float32(0), distance_grid), columns)
        values /= np.maximum(weights, np.float32(1e-12), out=weights)
    else:
        values = _applied(rows, distance_grid, columns)
    top, bottom = _seen_rows(frame, 0)
    left, right = _seen_rows(frame, 1)
    if (top, bottom, left, right) != (0, frame.image_size[0], 0, frame.image_size[1]):
        full = np.full(frame.image_size, np.nan, dtype=np.float32)
        full[top:bottom, left:right] = values
        values = full
    return values


def rows_above(distance_grid: NDArray[np.float32], frame: Frame, sigma: float, value: float) -> slice:
    """Rows of the image outside of which its anomaly map is nowhere above a value.

    Weighted means of distances, none of which is above it, are not either. Arguments as of `anomaly_map`.
    """
    if frame.warp is not None:
        return slice(0, frame.image_size[0])
    above = np.flatnonzero(np.any(distance_grid > value - _ROUNDING * abs(value), axis=1))
    if not len(above):
        return slice(0, 0)
    first, last = int(above[0]), int(above[-1])
    bands = _bands(*_axis(frame, 0), len(distance_grid), sigma)
    near = [pixels for pixels, cells, _ in bands if cells.start <= last and first < cells.stop]
    top, _ = _seen_rows(frame, 0)
    return slice(top + near[0].start, top + near[-1].stop) if near else slice(0, 0)


def _map_of_straight(distance_grid: NDArray[np.float32], frame: Frame, sigma: float) -> NDArray[np.float32]:
    """The map of the straightened working image, turned and moved back to where the image has it."""
    size = frame.working_size
    values = anomaly_map(distance_grid, Frame(size, size, (0, 0), size), sigma)
    moved = _from_straight(frame, values, interpolate=True)
    looked = np.where(np.isnan(distance_grid), np.uint8(0), np.uint8(255))
    moved[_from_straight(frame, looked, interpolate=False) == 0] = np.nan
    return moved


def _from_straight(frame: Frame, values: NDArray[Scalar], *, interpolate: bool) -> NDArray[Scalar]:
    """Values (h, w) all over the straightened working image, at the pixels of the image (H, W); 0 outside."""
    from PIL import Image

    assert frame.warp is not None
    a, b, c, d, e, f = frame.warp
    # pixel of the image -> working image -> straightened -> cell of the values
    scale = [frame.resized[axis] / frame.image_size[axis] for axis in (1, 0)]
    cells = [values.shape[axis] / frame.working_size[axis] for axis in (1, 0)]
    back = np.linalg.inv([[a, b], [d, e]])
    onto = np.diag(cells) @ back
    (u, v), (r, s) = (onto @ np.diag(scale)).tolist()
    w, t = (onto @ (np.array([frame.offset[1], frame.offset[0]]) - (c, f))).tolist()
    coefficients = (u, v, w, r, s, t)
    how = Image.Resampling.BILINEAR if interpolate else Image.Resampling.NEAREST
    height, width = frame.image_size
    moved = Image.fromarray(values).transform((width, height), Image.Transform.AFFINE, coefficients, how)
    return np.array(moved)


def operators(
    frame: Frame, grid: tuple[int, int], sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What makes an anomaly map of a distance grid: `rows @ distance_grid @ columns.T`.

    Args:
        frame: how the image lies in the working image.
        grid: (h, w).
        sigma: standard deviation of the Gaussian in pixels of the working image; 0: none.

    Returns:
        (seen rows of the image, h) and (seen columns, w) float32, whose rows sum to one.
    """
    return _operator(*_axis(frame, 0), grid[0], sigma), _operator(*_axis(frame, 1), grid[1], sigma)


def _applied(rows: _Bands, grid: NDArray[np.float32], columns: _Bands) -> NDArray[np.float32]:
    """What operators in bands make of a grid: `rows @ grid @ columns.T`."""
    height, width = (bands[-1][0].stop if bands else 0 for bands in (rows, columns))
    across = np.empty((len(grid), width), dtype=np.float32)
    for pixels, cells, part in columns:
        across[:, pixels] = grid[:, cells] @ part.T
    values = np.empty((height, width), dtype=np.float32)
    for pixels, cells, part in rows:
        np.matmul(part, across[cells], out=values[pixels])
    return values


def _axis(frame: Frame, axis: int) -> tuple[int, int, int, int]:
    return frame.image_size[axis], frame.resized[axis], frame.offset[axis], frame.working_size[axis]


def _seen_rows(frame: Frame, axis: int) -> tuple[int, int]:
    """First and last (exclusive) row of the image whose centre lies in the working image."""
    return _seen(*_axis(frame, axis))


def _seen(size: int, resized: int, offset: int, working: int) -> tuple[int, int]:
    # pixel i is seen where 0 <= (i + 1/2) resized / size + offset < working, in whole numbers
    first = -((2 * offset * size + resized) // (2 * resized)) if offset < 0 else 0
    last = (
        -((resized - 2 * (working - offset) * size) // (2 * resized)) if offset + resized > working else size
    )
    return max(0, first), min(size, last)


@lru_cache(maxsize=64)
def _bands(size: int, resized: int, offset: int, working: int, cells: int, sigma: float) -> _Bands:
    """An operator without most of its zeros."""
    matrix = _operator(size, resized, offset, working, cells, sigma)
    found = []
    for first in range(0, len(matrix), _BAND_OF_MAP):
        pixels = slice(first, min(first + _BAND_OF_MAP, len(matrix)))
        near = np.flatnonzero(matrix[pixels].any(axis=0))
        around = slice(int(near[0]), int(near[-1]) + 1)
        found.append((pixels, around, matrix[pixels, around].copy()))
    return tuple(found)


def _operator(
    size: int, resized: int, offset: int, working: int, cells: int, sigma: float
) -> NDArray[np.float32]:
    """One axis of `anomaly_map`: (seen rows of the image, cells) float32, rows summing to one."""
    pixels = np.arange(working, dtype=np.float64)
    operator = _between((pixels + 0.5) * cells / working - 0.5, np.eye(cells))
    if sigma > 0:
        operator = _smoothed(operator, sigma)
    first, last = _seen(size, resized, offset, working)
    seen = np.arange(first, last, dtype=np.float64)
    at = (seen + 0.5) * resized / size + offset - 0.5
    inside = np.clip(at, max(0, offset), min(working, offset + resized) - 1)
    return _between(inside, operator).astype(np.float32)


def _between(at: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (n, k) at these positions among their rows, linear between two, the outermost held: (len(at), k)."""
    last = len(values) - 1
    at = np.clip(at, 0, last)
    low = np.minimum(np.floor(at).astype(int), last)
    high = np.minimum(low + 1, last)
    share = (at - low)[:, None]
    return np.asarray((1 - share) * values[low] + share * values[high])


def _smoothed(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian along the rows of values (n, k): cut at 4 sigma, mirrored at the ends."""
    size, radius = len(values), int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    at = np.arange(-radius, size + radius) % (2 * size)
    padded = values[np.where(at >= size, 2 * size - 1 - at, at)]
    filters = np.zeros((_BLOCK, _BLOCK + 2 * radius))
    np.add.at(filters, (np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[:, None] + offsets + radius), weights)
    smoothed = np.zeros_like(values)
    for first in range(0, size, _BLOCK):
        count = min(_BLOCK, size - first)
        part = padded[first : first + count + 2 * radius]
        columns = np.flatnonzero(part.any(axis=0))
        near = slice(int(columns[0]), int(columns[-1]) + 1)
        smoothed[first : first + count, near] = filters[:count, : count + 2 * radius] @ part[:, near]
    return smoothed
