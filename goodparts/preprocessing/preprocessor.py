"""From an image to what is searched, and from distances back to the image.

    image ─► framing ─► steps ─► working image, patch mask ─► crops ─►  ...  ─► their distance grids
                                                                                        │
    anomaly map (H, W) ◄── framing, region of interest ◄── one distance grid ◄── merge ─┘

Every option of real parts is here: tiles, a region of interest, and the steps of `STEPS`. Each has a form that does
nothing (one tile, a zone called everywhere, no step), so nobody else asks which of them are in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.data.images import name_of
from goodparts.preprocessing import framing
from goodparts.preprocessing.augment import Augmentation
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.light import Light
from goodparts.preprocessing.pose import Alignment
from goodparts.preprocessing.roi import EVERYWHERE, Roi
from goodparts.preprocessing.step import Prepared, Step
from goodparts.preprocessing.tiling import MAX_PARALLEL_IMAGES, Tiling, plan
from goodparts.recipe.recipe import Recipe

STEPS: list[type[Step]] = [Alignment, Light, Augmentation]
"""All steps there are, in the order in which they are applied."""

_ROI, _TILES = "roi.json", "tiles.json"


@dataclass(frozen=True, eq=False)
class Crop:
    """One piece of a working image, of the size that the pipeline takes.

    Attributes:
        view: where its features are kept: tiles are counted row by row, those of copies come behind.
        tile: which tile it is.
        pixels: (height, width, 3) uint8.
        patch_mask: which of its patches count, (h, w) bool.
    """

    view: int
    tile: int
    pixels: NDArray[np.uint8]
    patch_mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """How images are prepared; learnt in fit, kept in the model.

    Attributes:
        recipe: the settings.
        tiling: how images are cut into tiles; one tile for images that are taken whole.
        roi: the region of interest; `EVERYWHERE` where all is looked at.
        steps: what is done to an image, in this order.
    """

    recipe: Recipe
    tiling: Tiling
    roi: Roi = EVERYWHERE
    steps: tuple[Step, ...] = ()

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe, grid: tuple[int, int], roi: Roi) -> Self:
        """What a recipe asks for, learnt from good images; `grid`: (h, w) of the patches of a working image, or tile.

        Raises:
            ImageError: one of them can't be read.
            RecipeError: tiles or zones don't go with the size of the images or of the patches.
        """
        tiling = plan(good.first_size, recipe, grid)
        roi.require_usable(tiling.image_recipe(recipe), tiling.grid)
        steps = tuple(step.learn(good, recipe) for step in STEPS if step.wanted(recipe))
        return cls(recipe, tiling, roi, steps)

    @cached_property
    def image_recipe(self) -> Recipe:
        """The recipe for the whole image: as if the working image were as large as the canvas, and not tiled."""
        return self.tiling.image_recipe(self.recipe)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches of the whole image."""
        return self.tiling.grid

    @property
    def crop_grid(self) -> tuple[int, int]:
        """(h, w) of the patches of one crop."""
        return self.tiling.tile_grid

    @property
    def crops_per_image(self) -> int:
        """How many crops an image has."""
        return len(self.tiling)

    @property
    def single_crop(self) -> bool:
        """Whether an image is one crop, so that distances and score of the crop are those of the image."""
        return not self.tiling.several

    @property
    def masked(self) -> bool:
        """Whether there are patches that must not count: of padding, beyond the border, or of no interest."""
        return (
            self.recipe.framing == "letterbox"
            or not self.roi.everywhere
            or any(step.masks for step in self.steps)
        )

    @property
    def constant_mask(self) -> NDArray[np.bool_] | None:
        """Which patches count in every image alike, (h, w) bool: those of a region of interest; None: that differs."""
        if self.roi.everywhere or not self.single_crop:
            return None
        return self.roi.patch_mask(self.recipe, self.grid)

    def max_parallel_images(self, workers: int) -> int:
        """Images that are worked on at a time: few where they are tiled, since each takes memory."""
        return workers if self.single_crop else min(workers, MAX_PARALLEL_IMAGES)

    # ---- forth

    def prepare(self, pixels: NDArray[np.uint8], name: object) -> Prepared:
        """An image (H, W, 3) uint8, framed and through all steps; `name` is what to call it in an error.

        Raises:
            ImageError: it does not fit the region of interest, or nothing of it would be left.
        """
        frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), self.image_recipe)
        picture = framing.apply(frame, pixels)
        image = Prepared(frame, picture, picture)
        for step in self.steps:
            image = step.apply(image)
        return replace(
            image, patch_mask=self.roi.patch_mask_of(image.frame, self.image_recipe, self.grid, name)
        )

    def prepare_good(self, good: GoodImages, index: int) -> Prepared:
        """One of some good images, prepared; ImageError as `prepare`, or where it can't be read."""
        return self.prepare(good.pixels(index), name_of(good.images[index]))

    def crops(self, image: Prepared) -> Iterator[Crop]:
        """The pieces of an image in which something is looked at."""
        return self._crops(image.working, image.patch_mask)

    def crop(self, image: Prepared, tile: int) -> Crop:
        """One piece of an image."""
        return self._crop(image.working, image.patch_mask, tile, tile)

    @cached_property
    def searched_tiles(self) -> list[int]:
        """The tiles in which something is looked at, in an image that fills the working image."""
        return self.tiling.searched(self.roi.patch_mask(self.image_recipe, self.grid))

    def training_crops(self, image: Prepared) -> Iterator[Crop]:
        """The pieces of a good image and of the copies of it that steps make."""
        yield from self.crops(image)
        first = len(self.tiling)
        for step in self.steps:
            for number in range(step.copies):
                patch_mask = step.copy_mask(image, number)
                if patch_mask.any():
                    yield from self._crops(step.copy(image, number), patch_mask, first)
                first += len(self.tiling)

    @property
    def views(self) -> int:
        """How many crops a good image has at the most, with those of its copies."""
        return len(self.tiling) * (1 + sum(step.copies for step in self.steps))

    def _crops(
        self, working: NDArray[np.uint8], patch_mask: NDArray[np.bool_], first: int = 0
    ) -> Iterator[Crop]:
        for tile in self.tiling.searched(patch_mask):
            yield self._crop(working, patch_mask, tile, first + tile)

    def _crop(self, working: NDArray[np.uint8], patch_mask: NDArray[np.bool_], tile: int, view: int) -> Crop:
        return Crop(view, tile, self.tiling.pixels(working, tile), self.tiling.crop_mask(patch_mask, tile))

    def quality_gate_pixels(self, image: Prepared) -> NDArray[np.uint8]:
        """What the quality gate looks at: the picture without padding, or around the region of interest."""
        if self.roi.everywhere:
            return framing.without_padding(image.frame, image.picture)
        return image.picture[self.roi.bounding_box(self.image_recipe, self.grid)]

    # ---- back

    def joined_mask(self, crop_masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The patches of the whole image that count in any of its crops, (crops, h, w) bool to (h, w)."""
        return self.tiling.joined_mask(crop_masks)

    def merge(
        self, grids: Mapping[int, NDArray[np.float32]], patch_mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Distance grids of tiles as one of the whole image, (h, w) float32; NaN where the mask says so."""
        return self.tiling.merge(grids, patch_mask)

    def to_image(self, distance_grid: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
        """The anomaly map of an image that lies so, (H, W) float32; NaN where it was not looked at."""
        anomaly_map = framing.anomaly_map(distance_grid, frame, self.recipe.smoothing_sigma)
        self.roi.hide_rest(anomaly_map)
        return anomaly_map

    def rows_above(self, distance_grid: NDArray[np.float32], frame: Frame, value: float) -> slice:
        """Rows of the image outside of which its anomaly map is nowhere above a value."""
        return framing.rows_above(distance_grid, frame, self.recipe.smoothing_sigma, value)

    def seen_share(self, frame: Frame) -> float:
        """Share of an image's pixels that are looked at, 0 to 1."""
        return self.roi.seen_share(frame)

    # ---- learning

    def settled(self, measured: Mapping[str, NDArray[np.float32]]) -> Self:
        """With what the steps learn once all good images were measured: (n, ...) by their names."""
        patch_mask = None if self.roi.everywhere else self.roi.patch_mask(self.image_recipe, self.grid)
        return replace(
            self,
            steps=tuple(
                step.settle(measured[step.name], patch_mask) if step.name in measured else step
                for step in self.steps
            ),
        )

    def widened(self, measured: Mapping[str, NDArray[np.float32]]) -> Self:
        """With what the steps learn from more good images."""
        return replace(
            self,
            steps=tuple(
                step.widen(measured[step.name]) if step.name in measured else step for step in self.steps
            ),
        )

    # ---- the model file

    def members(self) -> dict[str, bytes]:
        """What was learnt, as members of the model file by name."""
        members = {} if self.roi.everywhere else {_ROI: self.roi.to_json().encode()}
        if self.recipe.tiling:
            members[_TILES] = self.tiling.to_json().encode()
        for step in self.steps:
            members |= step.members()
        return members

    @classmethod
    def from_members(cls, members: Mapping[str, bytes], recipe: Recipe, grid: tuple[int, int]) -> Self:
        """What `members` wrote; LookupError, TypeError or ValueError if it is something else."""
        for key, name in (("roi", _ROI), ("tiling", _TILES)):
            if bool(getattr(recipe, key)) != (name in members):
                raise ValueError(
                    f"{key} = {getattr(recipe, key)!r} does not go with the members {', '.join(members)}"
                )
        steps = []
        for step in STEPS:
            if step.wanted(recipe):
                try:
                    steps.append(step.from_members(members, recipe))
                except LookupError:
                    value = getattr(recipe, step.name, "on")
                    raise ValueError(
                        f"{step.name} = {value} does not go with the members {', '.join(members)}"
                    ) from None
        found = cls(
            recipe,
            Tiling.from_json(members[_TILES].decode())
            if recipe.tiling
            else Tiling.one(recipe.image_size, grid),
            Roi.from_json(members[_ROI].decode()) if recipe.roi else EVERYWHERE,
            tuple(steps),
        )
        if unknown := set(members) - set(found.members()):
            raise ValueError(f"{', '.join(sorted(unknown))}: of a preprocessing step that is not here")
        return found
