"""TIFF that Pillow reads wrongly: decoded rightly, or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import tiff
from numpy.typing import NDArray

from goodparts.data.images import read_image, read_mask
from goodparts.errors import ImageError

Array = NDArray[Any]

RGB = np.stack([np.mgrid[:20, :30][0] * 8, np.mgrid[:20, :30][1] * 7, np.mgrid[:20, :30].sum(0)], 2).astype(
    np.uint8
)
DEEP = (RGB.astype(np.uint16) << 8) | 0x33
GREY = np.repeat(RGB[:, :, :1], 3, axis=2)


def planes(values: Array, order: str = "<", photometric: int = 2, deflate: bool = False) -> bytes:
    """A TIFF whose channels lie one after the other."""
    height, width, channels = values.shape
    stored = [
        np.ascontiguousarray(values[..., i]).astype(values.dtype.newbyteorder(order)) for i in range(channels)
    ]
    parts = [zlib.compress(part.tobytes()) if deflate else part.tobytes() for part in stored]
    bits = values.dtype.itemsize * 8
    tail = 8 + 11 * 12 + 2 + 4
    arrays = [struct.pack(f"{order}{channels}H", *[bits] * channels)]
    lists_at = tail + len(arrays[0])
    data_at = lists_at + 8 * channels
    offsets = [data_at + sum(map(len, parts[:i])) for i in range(channels)]
    arrays += [struct.pack(f"{order}{channels}I", *offsets)]
    arrays += [struct.pack(f"{order}{channels}I", *map(len, parts))]
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, tail),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, photometric),
        (273, 4, channels, lists_at),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, channels, lists_at + 4 * channels),
        (284, 3, 1, 2),
        (338, 3, 1, 2),
    ][: 11 if channels == 4 and photometric == 2 else 10]
    directory = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        packed = struct.pack(order + "HH", value, 0) if short else struct.pack(order + "I", value)
        directory += struct.pack(order + "HHI", tag, kind, count) + packed
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    head = (start + directory + bytes(4)).ljust(tail, b"\0")
    return head + b"".join(arrays) + b"".join(parts)


@pytest.mark.parametrize("order", "<>")
def test_16_bit_planes_are_read_as_such(order: str) -> None:
    np.testing.assert_array_equal(read_image(planes(DEEP, order)), RGB)
    np.testing.assert_array_equal(read_image(planes(np.dstack([DEEP, DEEP[:, :, :1]]), order)), RGB)
    np.testing.assert_array_equal(read_image(planes(RGB, order)), RGB)


def test_16_bit_planes_with_a_bit_depth() -> None:
    np.testing.assert_array_equal(read_image(planes(DEEP >> 4), bit_depth=12), RGB)


def test_compressed_16_bit_planes_are_refused() -> None:
    np.testing.assert_array_equal(read_image(planes(RGB, deflate=True)), RGB)
    with pytest.raises(ImageError, match="compressed 16-bit planes"):
        read_image(planes(DEEP, deflate=True))


def test_grey_that_counts_from_white() -> None:
    np.testing.assert_array_equal(read_image(tiff(65535 - DEEP[:, :, 0], photometric=0)), GREY)
    np.testing.assert_array_equal(read_image(tiff(255 - RGB[:, :, 0], bits=8, photometric=0)), GREY)
    np.testing.assert_array_equal(
        read_image(tiff(4095 - (DEEP[:, :, 0] >> 4), photometric=0), bit_depth=12), GREY
    )


def test_a_mask_that_counts_from_white(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    defect = RGB[:, :, 0] > 90
    path.write_bytes(tiff(np.where(defect, 0, 65535).astype(np.uint16), photometric=0))

    np.testing.assert_array_equal(read_mask(path), defect)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (tiff(RGB[:, :, 0].astype(np.int8), bits=8, sample_format=2), "8-bit signed pixels"),
        (tiff(np.dstack([RGB, RGB[:, :, :2]]), bits=8, photometric=2), "5 channels|can't be read"),
        (planes(np.dstack([DEEP, DEEP[:, :, :1]]), photometric=5), "16-bit planes of other colours"),
    ],
    ids=["signed", "five bands", "cmyk planes"],
)
def test_what_has_no_right_pixels_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        read_image(data)
