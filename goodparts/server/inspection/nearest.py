"""Compared with what? For a place on an image the nearest good patch: on which good image, and where on it.

The memory bank says from which image its nearest entry came; where on that image it lies is found by computing the
image's patches again. Good images are no part of a model, so they are looked for where it learnt them, and known again
by the digest that the model keeps.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.window import Window, window_of
from goodparts.data.images import read_image
from goodparts.errors import GoodpartsError
from goodparts.features.extract import Extractor
from goodparts.model.model import Model
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.step import Prepared
from goodparts.server.faults import Conflict, Gone, Invalid

_PATCHES = 7  # of the finest grid, each way, that are shown around a place
_MOST_MODELS = 2  # of which the first half of the pipeline stays compiled
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Nearest:
    """What a place was compared with.

    Attributes:
        name: of the good image.
        box: around the place that was asked for: left, top, right, bottom in pixels of the image.
        good_box: around the nearest good patch, in pixels of the good image; None where it is not here any more.
        path: of the good image; None likewise.
    """

    name: str
    box: Box
    good_box: Box | None
    path: Path | None


def good_images_of(folder: Path, model: str) -> Path:
    """Where the good images of a model are kept that is learnt in a page; `folder` is that of the history."""
    return folder / "learning" / model / "good"


class NearestGood:
    """Finds nearest good patches, with a few models ready for it."""

    def __init__(self, pixel_limit: int) -> None:
        self._pixel_limit = pixel_limit
        self._lock = threading.Lock()
        self._extractors: OrderedDict[str, Extractor] = OrderedDict()

    def find(
        self, model: Model, pixels: NDArray[np.uint8], place: tuple[float, float], folders: list[Path]
    ) -> Nearest:
        """The good patch that is nearest to what lies at (x, y) of an image (H, W, 3) uint8.

        Args:
            model: whose memory bank is asked.
            folders: where its good images may lie.

        Raises:
            Conflict: the model cuts images into tiles; there nothing is said.
            Invalid: the place is not looked at.
        """
        preprocessor = model.preprocessor
        if not preprocessor.single_crop:
            raise Conflict(
                "this model cuts images into tiles; the nearest good patch is not looked for there"
            )
        with self._lock:
            extractor = self._extractor(model)
            image = preprocessor.prepare(pixels, "image")
            cell = _cell_at(image, place, extractor.grid)
            if not image.patch_mask.all() and not image.patch_mask[cell]:
                raise Invalid("this place is not looked at")
            features = extractor(image.working)[0].reshape(*extractor.grid, -1)
            entry = _nearest_entry(model, features[cell], cell, extractor.grid)
            number = int(model.bank.image_ids[entry])
            name = name_of_good(model, number)
            box = _box_around(image.frame, cell, extractor.grid)
            for path, good in self._copies(model, number, folders):
                found = extractor(good.working)[0]
                distances = np.linalg.norm(found - model.bank.features[entry], axis=1)
                distances[~good.patch_mask.ravel()] = np.inf
                row, column = divmod(int(distances.argmin()), extractor.grid[1])
                return Nearest(name, box, _box_around(good.frame, (row, column), extractor.grid), path)
            return Nearest(name, box, None, None)

    def good_pixels(self, model: Model, name: str, folders: list[Path]) -> NDArray[np.uint8]:
        """A good image by its name, (H, W, 3) uint8; Gone where it is not here any more."""
        names = model.calibration.training_set.names
        for number in (index for index, one in enumerate(names) if one == name):
            for path, _ in self._copies(model, number, folders):
                return self._read(model, path)
        raise Gone("this good image is not kept on this machine")

    def _extractor(self, model: Model) -> Extractor:
        key = model.identity
        if key not in self._extractors:
            whitening = [depth.whitening for depth in model.depths]
            self._extractors[key] = Extractor(model.backbone, model.recipe, whitening)
        self._extractors.move_to_end(key)
        while len(self._extractors) > _MOST_MODELS:
            self._extractors.popitem(last=False)
        return self._extractors[key]

    def _copies(self, model: Model, number: int, folders: list[Path]) -> Iterator[tuple[Path, Prepared]]:
        """Files that hold the good image of that number, and not another of the same name."""
        name = name_of_good(model, number)
        digests = model.calibration.digests
        for folder in folders:
            path = (folder / name).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                continue
            try:
                good = model.preprocessor.prepare(self._read(model, path), name)
            except GoodpartsError:
                continue
            if number < len(digests) and good.digest == digests[number]:
                yield path, good

    def _read(self, model: Model, path: Path) -> NDArray[np.uint8]:
        return read_image(path, pixel_limit=self._pixel_limit, bit_depth=model.recipe.bit_depth)


def name_of_good(model: Model, number: int) -> str:
    """The name of a good image, as the model learnt it."""
    names = model.calibration.training_set.names
    if len(names) == len(model.calibration.digests) and number < len(names):
        return names[number]
    return f"image {number}"


def _nearest_entry(
    model: Model, features: NDArray[np.float32], cell: tuple[int, int], grid: tuple[int, int]
) -> int:
    bank = model.bank
    distances = np.linalg.norm(bank.features - features, axis=1)
    if bank.local_scale is not None:
        distances = distances / bank.local_scale
    if model.recipe.position_window:
        seen = window_of(model.recipe, grid)
        if isinstance(seen, Window):
            here = np.array([cell[0] * grid[1] + cell[1]], dtype=np.int32)
            distances = np.where(seen.sees(here, bank.cells)[0], distances, np.inf)
    return int(distances.argmin())


def _cell_at(image: Prepared, place: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """The patch (row, column) that lies at (x, y) of an image; Invalid where none does."""
    frame = image.frame
    point = np.array(
        [
            place[0] * frame.resized[1] / frame.image_size[1] + frame.offset[1],
            place[1] * frame.resized[0] / frame.image_size[0] + frame.offset[0],
        ]
    )
    if frame.warp is not None:
        a, b, c, d, e, f = frame.warp
        point = np.linalg.solve(np.array([[a, b], [d, e]]), point - (c, f))
    height, width = frame.working_size
    row, column = int(point[1] * grid[0] // height), int(point[0] * grid[1] // width)
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise Invalid("this place is not looked at")
    return row, column


def _box_around(frame: Frame, cell: tuple[int, int], grid: tuple[int, int]) -> Box:
    """A square of some patches around one, within its image."""
    height, width = frame.working_size
    centre = np.array([(cell[1] + 0.5) * width / grid[1], (cell[0] + 0.5) * height / grid[0]])
    if frame.warp is not None:
        a, b, c, d, e, f = frame.warp
        centre = np.array([[a, b], [d, e]]) @ centre + (c, f)
    sides = (frame.image_size[1], frame.image_size[0])
    box: list[int] = []
    for axis in (0, 1):
        scale = sides[axis] / frame.resized[1 - axis]
        middle = (centre[axis] - frame.offset[1 - axis]) * scale
        cells, working = (grid[1], width) if axis == 0 else (grid[0], height)
        side = min(sides[axis], round(_PATCHES * working / cells * scale))
        first = min(max(0, round(middle - side / 2)), sides[axis] - side)
        box += [first, first + side]
    return box[0], box[2], box[1], box[3]
