"""Light: what differs between pictures of parts that do not, measured and taken back before the network.

Learnt from good images: between which limits lie the shares of red, green and blue in their brightness, and the
brightness itself. An image within them is not touched. In one outside, each channel is multiplied by what brings it to
the nearer limit:

    brightness of 8 x 8 cells ──► mean logarithm of each channel ──► how far outside ──► exp: a gain for each channel

So good images are learnt from as they are, and in the usual light a part is judged as if the key did not exist. It is
computed inside the pipeline: nothing is left to whoever prepares images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.preprocessing.step import Prepared, Step
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.engines.graph import GraphBuilder

CELLS = 8  # each way
DARK = 4.0  # added to brightness (0 to 255) before its logarithm: what lies in the dark says little of light
LARGEST = float(np.float32(np.log(3)))  # a channel is multiplied or divided by 3 at the most
FREE = 1e30  # a limit that nothing reaches
TO_COEFFICIENTS = np.hstack([np.full((3, 1), 1 / 3), np.eye(3) - 1 / 3]).astype(np.float32)  # (3, 4)
TO_CHANNELS = np.vstack([np.ones((1, 3)), np.eye(3)]).astype(np.float32)  # (4, 3)
_ROUNDING = 1e-4  # by which limits are wider than what was measured, so that no good image is touched


_MEMBER = "light.json"


@dataclass(frozen=True, eq=False)
class Light(Step):
    """The light of good images, to which an image in other light is brought within the graph.

    An image's coefficients are four: b, red - b, green - b and blue - b, where red, green and blue are the weighted
    mean of ln(cell + DARK) over the cells, less the reference, and b is the mean of these three.

    Attributes:
        weights: of the cells, (64,) float32, row by row; they sum to 1.
        reference: of red, green and blue, (3,) float32.
        low: smallest coefficients of a good image, (4,) float32; -FREE where less is left as it is.
        high: largest coefficients, (4,) float32; FREE where more is left as it is.
    """

    name: ClassVar[str] = "light"
    weights: NDArray[np.float32]
    reference: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Where `light` is anything but as_is."""
        return recipe.light != "as_is"

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe) -> Self:
        """Without limits, until all good images were measured."""
        free = np.full(4, FREE, dtype=np.float32)
        return cls(np.full(CELLS**2, CELLS**-2, dtype=np.float32), np.zeros(3, dtype=np.float32), -free, free)

    def measure(self, image: Prepared) -> NDArray[np.float32]:
        """The mean brightness of its cells, (3, 64)."""
        return measure(image.working)

    def settle(self, measured: NDArray[np.float32], patch_mask: NDArray[np.bool_] | None) -> Light:
        """With the limits of these good images."""
        return learn(measured, patch_mask)

    def coefficients(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of images with these cells: (n, 3, 64) to (n, 4)."""
        channels = (np.log(cells + np.float32(DARK)) * self.weights).sum(axis=2) - self.reference
        return np.asarray(channels @ TO_COEFFICIENTS, dtype=np.float32)

    def gains(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """What red, green and blue of images with these cells are multiplied by: (n, 3, 64) to (n, 3)."""
        found = self.coefficients(cells)
        missing = np.clip(found, self.low, self.high) - found
        return np.asarray(np.exp(np.clip(missing @ TO_CHANNELS, -LARGEST, LARGEST)))

    def widen(self, measured: NDArray[np.float32]) -> Self:
        """With limits that hold these good images, too; cells (n, 3, 64)."""
        found = self.coefficients(measured)
        low, high = found.min(axis=0) - np.float32(_ROUNDING), found.max(axis=0) + np.float32(_ROUNDING)
        return type(self)(
            self.weights, self.reference, np.minimum(self.low, low), np.maximum(self.high, high)
        )

    def add_nodes(self, build: GraphBuilder, pixels: str, image_size: tuple[int, int]) -> str:
        """Pixels times what brings their light within that of good images."""
        channels = build.node("Transpose", pixels, perm=[0, 3, 1, 2])
        height, width = image_size
        across = np.ascontiguousarray(averaging(width).T)
        cells = build.node(
            "MatMul",
            build.constant(averaging(height)),
            build.node("MatMul", channels, build.constant(across)),
        )
        cells = build.node("Reshape", cells, build.ints([-1, 3 * CELLS**2]))
        logarithms = build.node("Log", build.node("Add", cells, build.floats([DARK])))
        centred = build.node("Sub", logarithms, build.constant(self.reference.repeat(CELLS**2)))
        # Sums are matrix products: OpenVINO 2026.4 gets ReduceSum with a Sub after it wrong, of several images at once.
        found = build.node(
            "MatMul", centred, build.constant(np.kron(TO_COEFFICIENTS.T, self.weights).T)
        )  # (n, 4)
        within = build.node(
            "Min", build.node("Max", found, build.constant(self.low)), build.constant(self.high)
        )
        exponents = build.node(
            "MatMul", build.node("Sub", within, found), build.constant(TO_CHANNELS)
        )  # (n, 3)
        exponents = build.node("Max", exponents, build.floats([-LARGEST]))
        exponents = build.node("Min", exponents, build.floats([LARGEST]))
        gains = build.node("Reshape", build.node("Exp", exponents), build.ints([-1, 1, 1, 3]))
        return build.node("Mul", pixels, gains)

    def members(self) -> dict[str, bytes]:
        """The limits and what they are measured with."""
        return {_MEMBER: self.to_json().encode()}

    @classmethod
    def from_members(cls, members: Mapping[str, bytes], recipe: Recipe) -> Self:
        """What `members` wrote."""
        return cls.from_json(members[_MEMBER].decode())

    def to_json(self) -> str:
        """As the model file keeps it."""
        return json.dumps({name: getattr(self, name).tolist() for name in _SHAPES})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote; ValueError or LookupError if it is something else."""
        values: dict[str, Any] = json.loads(text)
        arrays = {name: np.array(values[name], dtype=np.float32) for name in _SHAPES}
        for name, shape in _SHAPES.items():
            if arrays[name].shape != shape:
                raise ValueError(f"light.json: {name} has shape {arrays[name].shape}, not {shape}")
        return cls(**arrays)


_SHAPES = {"weights": (CELLS**2,), "reference": (3,), "low": (4,), "high": (4,)}


def learn(cells: NDArray[np.float32], patch_mask: NDArray[np.bool_] | None = None) -> Light:
    """The light of good images: limits of its colour, and none of brightness.

    A cell's weight is its mean brightness, so that a dark background, which shows little of the light, counts little.

    Args:
        cells: of n good images, as `measure` gives them, (n, 3, 64) float32.
        patch_mask: patches of the region of interest, (h, w) bool; cells less than half inside do not count. None: all.
    """
    weights = cells.mean(axis=(0, 1), dtype=np.float64) + 1e-6
    if patch_mask is not None:
        h, w = patch_mask.shape
        share = (averaging(h) @ patch_mask.astype(np.float32) @ averaging(w).T).ravel()
        weights *= np.where(share >= min(0.5, share.max()), share, 0)
    weights /= weights.sum()
    reference = (np.log(cells.astype(np.float64) + DARK) * weights).sum(axis=2).mean(axis=0)
    low, high = np.full(4, FREE), np.full(4, -FREE)
    low[0], high[0] = -FREE, FREE
    return Light(*(values.astype(np.float32) for values in (weights, reference, low, high))).widen(cells)


def measure(working: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean red, green and blue of the cells of a working image (height, width, 3): (3, 64) float32."""
    height, width = working.shape[:2]
    pixels = working.transpose(2, 0, 1).astype(np.float32)
    cells = averaging(height) @ (pixels @ averaging(width).T)
    return np.asarray(cells.reshape(3, -1), dtype=np.float32)


def averaging(size: int) -> NDArray[np.float32]:
    """What makes means of 8 cells of `size` pixels in a row, (8, size) float32; rows sum to one."""
    edges = np.arange(CELLS + 1) * size / CELLS
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(overlap, 0) * CELLS / size, dtype=np.float32)
