"""Images of good parts to learn from: which they are, what to call them, and how all steps of a fit read them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data import dataset
from goodparts.data.images import ImageLike
from goodparts.errors import DatasetError
from goodparts.progress import Progress, ProgressLike, shown, silent

_LOGGER = logging.getLogger(__name__)

Good = str | os.PathLike[str] | Iterable[ImageLike]
"""A folder of good images (a data set's `train/good` is found in it), or the images themselves."""

Read = Callable[[ImageLike], NDArray[np.uint8]]
"""From an image as users give it to pixels (H, W, 3) uint8."""

Result = TypeVar("Result")

_AHEAD = 64 << 20  # bytes of pixels that are read before they are asked for


@dataclass(frozen=True)
class GoodImages:
    """Images of good parts, and how they are read.

    Attributes:
        source: what to call them in a message: their folder, or "good".
        images: as users give them. They may be made when asked for, and too many to have all at once.
        read: from an image to pixels.
        workers: threads.
        progress: called with (stage, done, total).
    """

    source: str
    images: Sequence[ImageLike]
    read: Read
    workers: int
    progress: Progress = silent
    _ahead: dict[int, Future[NDArray[np.uint8] | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls, good: Good, *, read: Read, workers: int, progress: ProgressLike = None, least: int = 1
    ) -> Self:
        """The images of a folder, or those given.

        Raises:
            DatasetError: fewer than `least`, or a single image rather than several.
        """
        source = str(good) if isinstance(good, str | os.PathLike) else "good"
        images = dataset.good_images(good) if isinstance(good, str | os.PathLike) else _in_order(good)
        if len(images) < least:
            raise DatasetError(
                f"{source}: {len(images)} good image(s); at least {least} needed; 20 are a start, 200 are good"
            )
        _LOGGER.info("%d good images from %s", len(images), source)
        return cls(source, images, read, workers, shown(progress))

    def __len__(self) -> int:
        return len(self.images)

    def only(self, images: Sequence[ImageLike]) -> Self:
        """The same with these images alone."""
        return replace(self, images=images)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """One of them, (H, W, 3) uint8; ImageError if it can't be read."""
        pixels = self._given_ahead(index)
        return self.read(self.images[index]) if pixels is None else pixels

    def _given_ahead(self, index: int) -> NDArray[np.uint8] | None:
        """What was read ahead of it, if it was; the error that this met."""
        ahead = self._ahead.pop(index, None)
        if ahead is None or ahead.cancel():
            return None
        try:
            return ahead.result()
        finally:
            del ahead  # an error holds this frame: the frame must not hold the error

    @contextmanager
    def reading_ahead(self, indices: Iterable[int]) -> Iterator[None]:
        """Within, a thread reads these images in this order until 64 MiB are full; `pixels` then gives them at once.

        For a while in which the caller keeps one core busy. Where there is one core or one worker nothing is read. That
        an image can't be read is told by `pixels`, as ever.
        """
        if self.workers <= 1 or not parallel.other_cores():
            yield
            return
        held = 0

        def read(index: int) -> NDArray[np.uint8] | None:
            nonlocal held
            if held >= _AHEAD:
                return None
            pixels = self.read(self.images[index])
            held += pixels.nbytes
            return pixels

        with parallel.beside(read, indices) as begun:
            self._ahead.update(begun)
            del begun  # what was given is held no longer
            try:
                yield
            finally:
                self._ahead.clear()

    def first_size(self) -> tuple[int, int]:
        """(H, W) of the first of them; ImageError if it can't be read."""
        height, width = self.pixels(0).shape[:2]
        return height, width

    def map(
        self,
        function: Callable[[int], Result],
        indices: Sequence[int],
        *,
        workers: int | None = None,
        while_waiting: Callable[[], object] | None = None,
    ) -> Generator[Result]:
        """What a function makes of indices of images, several at a time, in order."""
        return parallel.parallel_map(
            function,
            indices,
            workers=self.workers if workers is None else workers,
            while_waiting=while_waiting,
        )

    @property
    def paths(self) -> list[Path] | None:
        """Their paths; None where not all are files."""
        paths = []
        for image in self.images:
            if not isinstance(image, str | os.PathLike):
                return None
            paths.append(Path(image))
        return paths

    @property
    def names(self) -> list[str]:
        """File names below the folder they share; numbers where not all are files."""
        paths = self.paths
        if paths is None:
            return [f"image {index}" for index in range(len(self.images))]
        common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        return [path.absolute().relative_to(common).as_posix() for path in paths]

    @property
    def file_list_hash(self) -> str | None:
        """Of the names of their files; None where not all are files."""
        paths = self.paths
        if paths is None:
            return None
        common = os.path.commonpath([path.absolute().parent for path in paths])
        return dataset.hash_file_list([path.absolute() for path in paths], common)


def require_several(images: object) -> None:
    """Raise DatasetError, in words, where a folder or one image is given in the place of several."""
    if isinstance(images, str | os.PathLike):
        raise DatasetError(
            f"images: expected images one after another (a list, a generator, an array (n, H, W, 3)), found one path, "
            f"{os.fspath(images)!r}; of a single image, give [image]; of a folder, "
            "goodparts.data.folders.list_images(folder)"
        )
    if _is_single(images):
        raise DatasetError(_found_one("images: expected", images))


def _in_order(good: Iterable[ImageLike]) -> Sequence[ImageLike]:
    """Images that are given one after another; a sequence as it is, since it may make them when asked for."""
    if _is_single(good):
        raise DatasetError(_found_one("good: expected a folder, or", good))
    return good if isinstance(good, Sequence) else list(good)


def _is_single(images: object) -> bool:
    return (
        isinstance(images, bytes | bytearray | memoryview)
        or hasattr(images, "read")  # an open file, which would give its lines
        or not isinstance(images, Iterable)
        or (
            isinstance(images, np.ndarray)
            and (images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (3, 4)))
        )
    )


def _found_one(expected: str, images: object) -> str:
    return (
        f"{expected} images one after another (a list, a generator, an array (n, H, W, 3)), found one "
        f"{type(images).__name__}; of a single image, give [image]"
    )
