"""What is wrong with a data set, found before it costs an afternoon.

Every image is decoded once, in threads; what is kept of each is a few numbers and a thumbnail.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data import deep
from goodparts.data.duplicates import thumbnail, thumbnail_side
from goodparts.data.finding import Finding
from goodparts.data.findings import Look, Looks, find_everything
from goodparts.data.findings_by_name import list_data
from goodparts.data.images import (
    PIXEL_LIMIT,
    greatest_level,
    is_deep,
    read_header,
    read_image,
    read_mask,
)
from goodparts.errors import ImageError

__all__ = ["check_dataset"]


def check_dataset(
    root: str | os.PathLike[str],
    *,
    pixel_limit: int = PIXEL_LIMIT,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Look for everything in a data set that would spoil a fit or an evaluation.

    Args:
        root: a data set in the layout of MVTec AD, or a plain folder of good images.
        pixel_limit: images of more pixels count as unreadable and are not decoded.
        workers: threads that decode; by default two more than there are processor cores.
        progress: called with (files done, files in all) after each file.

    Returns:
        Findings, errors first; no finding is a clean bill of health.

    Raises:
        DatasetError: there is no such folder, or nothing in it that could be a data set.
    """
    files = list_data(Path(root))
    workers = workers or parallel.default_workers()
    bit_depth = _bit_depth(files.train, pixel_limit, workers)
    side = thumbnail_side(_shorter_sides(files.images()))
    masks = dict.fromkeys(path for paths in files.masks.values() for path in paths)

    def examine(path: Path) -> Look | ImageError:
        try:
            if path in masks:
                return _look_at_mask(path, pixel_limit)
            return _look_at(path, pixel_limit, side, bit_depth)
        except ImageError as error:
            return error

    paths = [*files.images(), *masks]
    looks: Looks = {}
    failures: dict[Path, str] = {}
    found = parallel.parallel_map(examine, paths, workers=workers)
    for done, (path, look) in enumerate(zip(paths, found, strict=True), 1):
        if isinstance(look, ImageError):
            failures[path] = str(look).removeprefix(f"{path}: ")
        else:
            looks[path] = look
        if progress is not None:
            progress(done, len(paths))
    return find_everything(files, looks, failures, bit_depth)


def _bit_depth(paths: Sequence[Path], pixel_limit: int, workers: int) -> int:
    """How many bits of 16-bit images are in use, as a fit would learn it of these; 0 where there are none."""

    def level(path: Path) -> int:
        try:
            return greatest_level(path, pixel_limit=pixel_limit) if is_deep(path) else -1
        except ImageError:  # reported when the file is decoded
            return -1

    greatest = max(parallel.parallel_map(level, paths, workers=workers), default=-1)
    return 0 if greatest < 0 else deep.depth_of(greatest)


def _shorter_sides(paths: Sequence[Path], sample: int = 25) -> NDArray[np.int64]:
    sides = []
    for path in paths[:: max(1, len(paths) // sample)]:
        try:
            header = read_header(path)
        except ImageError:  # reported when the file is decoded
            continue
        sides.append(min(header.width, header.height))
    return np.array(sides or [1])


def _look_at(path: Path, pixel_limit: int, side: int, bit_depth: int) -> Look:
    image = read_image(path, pixel_limit=pixel_limit, bit_depth=bit_depth)
    height, width = image.shape[:2]
    return Look(
        header=read_header(path),
        size=(width, height),
        least=int(image.min()),
        greatest=int(image.max()),
        constant=bool((image == image[0, 0]).all()),
        digest=hashlib.sha256(f"{width} x {height}".encode() + image.tobytes()).digest(),
        thumbnail=thumbnail(image, side),
    )


def _look_at_mask(path: Path, pixel_limit: int) -> Look:
    mask = read_mask(path, pixel_limit=pixel_limit)
    height, width = mask.shape
    least, greatest = int(mask.min()), int(mask.max())
    return Look(read_header(path), (width, height), least, greatest, constant=least == greatest)
