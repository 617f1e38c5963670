"""A preprocessing step: one thing that is done to an image before its features are taken.

    pixels ─► framing ─► step ─► step ─► working image, and which of its patches count

To add one, write a subclass of `Step` in a file of its own and name it in `preprocessor.STEPS`. What it does not
override does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.preprocessing.framing import Frame, Pose
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.engines.graph import GraphBuilder

NO_PATCHES = np.zeros((0, 0), dtype=bool)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on its way into the pipeline.

    Attributes:
        frame: how the image lies in the working image, its pose included.
        working: the working image as the steps left it, (height, width, 3) uint8; of a tiled image the whole canvas.
        picture: the working image as framing made it, of the same shape.
        pose: how the part lies against the reference; None where the recipe does not look for it.
        patch_mask: which patches count: they look at the image rather than at padding, and at the region of interest,
            (h, w) bool. Empty until all steps are through.
    """

    frame: Frame
    working: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    pose: Pose | None = None
    patch_mask: NDArray[np.bool_] = field(default_factory=lambda: NO_PATCHES)

    @property
    def digest(self) -> str:
        """A short hash of the working pixels, by which an image that was learnt from is known again."""
        return hashlib.blake2b(np.ascontiguousarray(self.working).tobytes(), digest_size=8).hexdigest()


class Step:
    """A preprocessing step that does nothing.

    Attributes:
        name: what errors call it.
        masks: whether it may leave patches of an image out.
    """

    name: ClassVar[str]
    masks: ClassVar[bool] = False

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Whether a recipe asks for this step."""
        raise NotImplementedError

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe) -> Self:
        """The step, learnt from good images before any of them is prepared.

        Raises:
            ImageError: one of them can't be read.
        """
        return cls()

    def apply(self, image: Prepared) -> Prepared:
        """The image after this step: with other pixels in `working`, or with what was found of it."""
        return image

    def measure(self, image: Prepared) -> NDArray[np.float32] | None:
        """What is kept of each good image that is learnt from, for `settle`; of the same shape for all."""
        return None

    def settle(self, measured: NDArray[np.float32], patch_mask: NDArray[np.bool_] | None) -> Self:
        """The step once all good images were measured, (n, ...); `patch_mask`: of the region of interest, (h, w)."""
        return self

    def widen(self, measured: NDArray[np.float32]) -> Self:
        """The step after more good images were learnt from, (n, ...)."""
        return self

    def add_nodes(self, build: GraphBuilder, pixels: str, image_size: tuple[int, int]) -> str:
        """What the step does within the graph, to pixels (n, height, width, 3) float32, 0 to 255; their new name.

        Good images that are learnt from do not pass through it.
        """
        return pixels

    @property
    def copies(self) -> int:
        """How many copies of each good image are learnt from beside the image itself."""
        return 0

    def copy_mask(self, image: Prepared, number: int) -> NDArray[np.bool_]:
        """Which patches of a copy count, (h, w) bool."""
        raise NotImplementedError

    def copy(self, image: Prepared, number: int) -> NDArray[np.uint8]:
        """A copy of a good image, (height, width, 3) uint8."""
        raise NotImplementedError

    def members(self) -> dict[str, bytes]:
        """What was learnt, as members of the model file by name."""
        return {}

    @classmethod
    def from_members(cls, members: Mapping[str, bytes], recipe: Recipe) -> Self:
        """What `members` wrote; LookupError, TypeError or ValueError if it is something else."""
        return cls()

    def export_refusal(self, recipe: Recipe) -> str:
        """Why a model with this step can't be exported, and what to do; empty if it can."""
        if type(self).apply is Step.apply:
            return ""
        return (
            f"this model has the step {self.name}, which is not part of the graph; fit without it, or run this model "
            "with goodparts"
        )
