"""A demo data set: rendered pictures of a machined flange, good and bad, in the layout of MVTec AD.

What the part looks like is in `demo_part`, what can be wrong with it in `demo_defects`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import count
from pathlib import Path

from numpy.random import default_rng
from PIL import Image

from goodparts.data.demo_defects import DEFECTS, SMALLEST, visible_mask
from goodparts.data.demo_part import Array, photograph, render
from goodparts.errors import DatasetError
from goodparts.files import output_error

VERSION = 1  # of the pictures: raised whenever the same seed gives other pixels


def write_demo(
    root: Path,
    *,
    train: int = 60,
    good: int = 20,
    bad: int = 20,
    seed: int = 0,
    size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the demo data set: train/good, test/good, test/<defect class>, ground_truth/<defect class>.

    Images are (size, size, 3) uint8 RGB. Masks are (size, size) uint8, 255 where the picture differs visibly
    from the same picture without the defect. An image depends on the seed and its own number only.

    Args:
        root: a folder that is new, empty, or holds the very same set already, which is then left as it is.
        train: good images to learn from.
        good: good images to test with.
        bad: bad images to test with, spread evenly over the four defect classes.
        seed: the same seed gives the same bytes (with the same versions of numpy and Pillow).
        size: height and width in pixels, 64 to 1024.
        progress: called with the number of images done and of all images.

    Returns:
        The root.

    Raises:
        DatasetError: the root holds something else, or an argument is out of range.
        OutputError: the files can't be written.
    """
    arguments = {"train": train, "good": good, "bad": bad, "seed": seed, "size": size}
    for name, (lowest, highest) in {"train": (1, 10**5), "seed": (0, 2**63), "size": (64, 1024)}.items():
        if not lowest <= arguments[name] <= highest:
            raise DatasetError(f"demo: {name} must be from {lowest} to {highest}, found {arguments[name]}")
    if min(good, bad) < 0:
        raise DatasetError(f"demo: good and bad must be 0 or more, found {good} and {bad}")
    staging, record = root / ".unfinished", root / "demo.json"
    try:
        if root.is_dir() and set(root.iterdir()) - {staging}:
            if record.is_file() and record.read_bytes() == _record(root, arguments):
                return root
            raise DatasetError(
                f"{root}: expected a new or empty folder, or this very demo set; found other files, or a set "
                "made with other arguments or changed since; choose another folder or empty this one"
            )
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
        staging.mkdir(parents=True)
        try:
            _write_images(staging, train, good, bad, seed, size, progress)
            (staging / record.name).write_bytes(_record(staging, arguments))
            for name in ("ground_truth", "test", "train", record.name):
                if (staging / name).exists():
                    (staging / name).rename(root / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise output_error(root, error) from error
    return root


def _record(root: Path, arguments: dict[str, int]) -> bytes:
    """The text of demo.json: how the images were made, and a hash of their names and bytes."""
    total = hashlib.sha256()
    for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png")):
        total.update(name.encode() + hashlib.sha256((root / name).read_bytes()).digest())
    return json.dumps({"version": VERSION, **arguments, "sha256": total.hexdigest()}, indent=2).encode()


def _write_images(
    root: Path,
    train: int,
    good: int,
    bad: int,
    seed: int,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    kinds = len(DEFECTS)
    images = [("train/good", number, (seed, 0, number)) for number in range(train)]
    images += [("test/good", number, (seed, 1, number)) for number in range(good)]
    images += [(f"test/{list(DEFECTS)[i % kinds]}", i // kinds, (seed, 2, i)) for i in range(bad)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy and Pillow release the lock
        futures = [pool.submit(_write_image, root / image[0], *image[1:], size) for image in images]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress:
                    progress(done, len(images))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_image(folder: Path, number: int, seeds: tuple[int, ...], size: int) -> None:
    grey = render(seeds, size)
    if folder.name in DEFECTS:
        clean, strength = grey, number * 0.618 % 1
        for attempt in count():  # until it shows
            flaw = partial(
                DEFECTS[folder.name],
                rng=default_rng((*seeds, 2, attempt)),
                strength=min(1, strength + 0.1 * attempt),
            )
            grey = render(seeds, size, flaw)
            mask = visible_mask(grey - clean)
            if (mask > 0).mean() > SMALLEST:
                break
        _save(mask, folder.parents[1] / "ground_truth" / folder.name / f"{number:03}_mask.png")
    _save(photograph(grey, (*seeds, 1)), folder / f"{number:03}.png")


def _save(image: Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)
