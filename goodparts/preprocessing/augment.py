"""Copies of good images: turned, mirrored, in other light, noisy, so that the bank knows what nobody photographed.

    copies(["rotate90", "brightness:0.8-1.2"])    # 90, 180 and 270 degrees; 0.8 and 1.2 times as bright

A copy shows what the camera would see had the part lain otherwise: it is turned about the middle of the picture, in the
picture's own proportions, whatever those of the working image. What would come from outside the picture is filled with
the picture's mirror image, and the cells that look at it are left out.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.step import Prepared, Step
from goodparts.recipe.copies import Copy, copies
from goodparts.recipe.recipe import Recipe

_BAND = 128  # rows that are worked on at once

Kind = TypeVar("Kind", bound=np.generic)

_OVERSIZED = 4  # times the size it is resized to is as large as noise is drawn, however large the image


@dataclass(frozen=True)
class Augmentation(Step):
    """Copies of good images that the memory bank learns from, too; nothing of it is kept but the recipe.

    Attributes:
        made: how each copy differs from its image.
    """

    name: ClassVar[str] = "augment"
    made: tuple[Copy, ...]

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Where `augment` names any copies."""
        return bool(recipe.augment)

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe) -> Self:
        """What the recipe says."""
        return cls(copies(recipe.augment))

    @property
    def copies(self) -> int:
        """How many there are of each image."""
        return len(self.made)

    def copy_mask(self, image: Prepared, number: int) -> NDArray[np.bool_]:
        """Which patches of a copy show what was looked at in its image, (h, w) bool."""
        return copied_mask(self.made[number], image.patch_mask, image.frame)

    def copy(self, image: Prepared, number: int) -> NDArray[np.uint8]:
        """A copy of a working image, (height, width, 3) uint8."""
        return apply(self.made[number], image.working, image.frame)

    @classmethod
    def from_members(cls, members: object, recipe: Recipe) -> Self:
        """What the recipe says."""
        return cls(copies(recipe.augment))


def apply(copy: Copy, working: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """The copy of a working image.

    Args:
        copy: what is to differ.
        working: (height, width, 3) uint8 RGB.
        frame: how the picture lies in it.

    Returns:
        (height, width, 3) uint8.
    """
    if copy.in_place:
        return _lit(copy, working, frame)
    if copy.flip or _by_quarters(copy, frame):
        return np.ascontiguousarray(_moved(copy, working))
    from PIL import Image

    height, width = frame.working_size
    margins = (height // 2, width // 2)  # no cell that is left in looks farther out
    filled = np.pad(working, ((margins[0],) * 2, (margins[1],) * 2, (0, 0)), mode="symmetric")
    matrix, shift = _source(copy, frame)
    shift = shift + margins
    coefficients = (matrix[1, 1], matrix[1, 0], shift[1], matrix[0, 1], matrix[0, 0], shift[0])
    turned = Image.fromarray(filled).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def copied_mask(copy: Copy, mask: NDArray[np.bool_], frame: Frame) -> NDArray[np.bool_]:
    """Which patches, or pixels, of a copy show what counts in its image, by their centres.

    Args:
        copy: how it differs.
        mask: which of the image count, (h, w) bool.
        frame: how the picture lies in the working image.

    Returns:
        (h, w) bool.
    """
    return np.asarray(copied_values(copy, mask, frame, False))


def copied_values(copy: Copy, values: NDArray[Kind], frame: Frame, outside: float) -> NDArray[Kind]:
    """What a copy has in each cell, of values (h, w) that its image has: the nearest, or `outside` where there is none.

    `frame` says how the picture lies in the working image.
    """
    if copy.in_place:
        return values.copy()
    h, w = values.shape
    if copy.flip or (_by_quarters(copy, frame) and (h == w or copy.degrees == 180)):
        return np.ascontiguousarray(_moved(copy, values))
    size = np.array(frame.working_size) / (h, w)  # of a cell, in pixels
    matrix, shift = _source(copy, frame)
    found = np.full_like(values, outside)
    for first in range(
        0, h, _BAND
    ):  # rather than coordinates of all cells, which may be the pixels of an image
        down, across = np.arange(first, min(first + _BAND, h)) + 0.5, np.arange(w) + 0.5
        centres = np.stack(np.meshgrid(down, across, indexing="ij"), axis=-1) * size
        source = np.floor((centres @ matrix.T + shift) / size).astype(int)
        inside = np.asarray(((source >= 0) & (source < (h, w))).all(axis=-1))
        rows, columns = source[inside].T
        found[first : first + _BAND][inside] = values[rows, columns]
    return found


def _lit(copy: Copy, working: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """The working image in other light, and with noise."""
    top, left = frame.offset
    height, width = frame.resized
    inside = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]  # padding stays as it is
    picture = working[inside]
    gains = np.array([1 + copy.warmth, 1, 1 - copy.warmth], dtype=np.float32) * np.float32(copy.brightness)
    values = picture * gains
    if copy.noise:
        noise = _noise(copy, picture, frame)
        values += noise[max(-top, 0) :, max(-left, 0) :][: picture.shape[0], : picture.shape[1]]
    lit = working.copy()
    lit[inside] = np.clip(np.rint(values), 0, 255)
    return lit


def _noise(copy: Copy, picture: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
    """A sensor's noise after the image was resized, (height, width, 3) float32; of a grey camera (height, width, 1).

    The same picture has the same noise again. Where images are reduced it averages out; where they are enlarged, its
    grains are, too.
    """
    from PIL import Image

    resized = np.array(frame.resized)
    size = np.minimum(frame.image_size, _OVERSIZED * resized)
    left = copy.noise * math.sqrt(float(np.prod(size / np.array(frame.image_size))))
    rng = np.random.default_rng([zlib.crc32(picture.tobytes()), round(1000 * copy.noise)])
    grey = bool((picture == picture[..., :1]).all())
    channels = [
        rng.standard_normal(size, dtype=np.float32) * np.float32(left) for _ in range(1 if grey else 3)
    ]
    target = (frame.resized[1], frame.resized[0])
    return np.stack(
        [np.asarray(Image.fromarray(each).resize(target, Image.Resampling.BILINEAR)) for each in channels],
        axis=2,
    )


def _by_quarters(copy: Copy, frame: Frame) -> bool:
    """Whether a copy needs no more than moving whole pixels."""
    if copy.degrees % 180 == 0:
        return True
    scale = np.array(frame.resized) / frame.image_size
    height, width = frame.working_size
    alike = abs(scale[0] / scale[1] - 1) * max(height, width) < 1  # within a pixel
    return copy.degrees % 90 == 0 and height == width and bool(alike)


def _moved(copy: Copy, array: NDArray[Kind]) -> NDArray[Kind]:
    """Rows and columns of an array (h, w, ...) mirrored, or turned by quarters."""
    if copy.flip:
        return array[:, ::-1] if copy.flip == "left_right" else array[::-1]
    return np.rot90(array, round(copy.degrees / 90))


def _source(copy: Copy, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a pixel at `at` (row, column) of a turned copy comes from: `matrix @ at + shift`, in working pixels."""
    scale = np.array(frame.resized) / frame.image_size
    centre = np.array(frame.offset) + np.array(frame.resized) / 2
    cos, sin = math.cos(math.radians(copy.degrees)), math.sin(math.radians(copy.degrees))
    turn = np.array([[cos, sin], [-sin, cos]])
    matrix = turn * scale[:, None] / scale
    return matrix, centre - matrix @ centre
