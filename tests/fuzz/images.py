"""Image files: PNG, JPEG, BMP, TIFF and WebP in many kinds, and what is left of them after damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from fuzz.mutations import changed_bytes, png_with_right_sums
from goodparts.data.images import read_header, read_image, read_mask

_LIMIT = 4_000_000  # pixels: larger ones are refused, as they would be beyond any limit
_KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGB", "png", {}),
    ("RGBA", "png", {}),
    ("L", "png", {}),
    ("LA", "png", {}),
    ("P", "png", {}),
    ("1", "png", {}),
    ("I;16", "png", {}),
    ("RGB", "jpg", {}),
    ("RGB", "jpg", {"progressive": True}),
    ("L", "jpg", {}),
    ("CMYK", "jpg", {}),
    ("RGB", "bmp", {}),
    ("P", "bmp", {}),
    ("1", "bmp", {}),
    ("RGB", "tif", {}),
    ("RGB", "tif", {"compression": "tiff_lzw"}),
    ("RGB", "tif", {"compression": "jpeg"}),
    ("L", "tif", {"compression": "tiff_adobe_deflate"}),
    ("1", "tif", {"compression": "group4"}),
    ("I;16", "tif", {}),
    ("F", "tif", {}),
    ("RGB", "webp", {}),
    ("RGBA", "webp", {"lossless": True}),
)


class Images:
    """See `fuzz.target.Target`."""

    suffix = ".png"  # what counts is the content

    def write_seeds(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (20, 28, 3), dtype=np.uint8) // np.array([1, 2, 8], dtype=np.uint8)
        for number, (mode, suffix, options) in enumerate(_KINDS):
            if mode == "I;16":
                picture = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
            else:
                picture = Image.fromarray(pixels).convert(mode)
            exif = Image.Exif()
            exif[274] = 1 + number % 8  # orientation
            if suffix in ("jpg", "png", "webp"):
                options = {**options, "exif": exif}
            picture.save(folder / f"{number:02d}.{suffix}", **options)

    def read_seeds(self, folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    def make(self, seeds: list[bytes], rng: Generator) -> bytes:
        data = seeds[int(rng.integers(len(seeds)))]
        if rng.random() < 0.01:
            return _with_many_parts(data, int(rng.choice([100, 3_000, 100_000])))
        data = changed_bytes(data, seeds, rng)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = png_with_right_sums(data)
        return data

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        yield partial(read_header, path)
        yield partial(_pixels, path)
        yield partial(_pixels, path.read_bytes())
        yield partial(_mask, path)


def _with_many_parts(data: bytes, count: int) -> bytes:
    """A PNG with that many more chunks of text, a JPEG with that many more scans; others stay as they are."""
    if data.startswith(b"\x89PNG"):
        body = b"tEXta\0b"
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:33] + count * chunk + data[33:]
    if data.startswith(b"\xff\xd8"):
        scan = data[data.rindex(b"\xff\xda") : -2]
        return data[:-2] + min(count, 3_000_000 // len(scan)) * scan + data[-2:]
    return data


def _pixels(image: Path | bytes) -> None:
    pixels = read_image(image, pixel_limit=_LIMIT)
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    assert pixels.shape[2] == 3, pixels.shape
    assert pixels.flags.c_contiguous


def _mask(path: Path) -> None:
    mask = read_mask(path, pixel_limit=_LIMIT)
    assert mask.dtype == np.bool_, mask.dtype
    assert mask.ndim == 2, mask.shape


TARGET = Images()
