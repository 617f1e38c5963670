from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import png, png_chunk, saved
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from goodparts.data.images import read_header, read_image
from goodparts.data.png import PngImage
from goodparts.errors import ImageError

Array = NDArray[Any]
COLOR_TYPES = {1: 0, 3: 2}
RNG = np.random.default_rng(0)
PHOTO = np.clip(np.cumsum(RNG.normal(0, 4, (90, 70, 3)), axis=1) + 128, 0, 255).astype(np.uint8)


def as_pillow_reads(data: bytes) -> Array:
    with PngImageFile(io.BytesIO(data)) as image:
        return np.array(image)


def as_we_read(data: bytes) -> Array:
    with PngImage(io.BytesIO(data)) as image:
        return np.array(image)


def filtered(pixels: Array, kinds: Iterator[int]) -> bytes:
    """The rows of a PNG, each by one of the five filters (PNG, section 9)."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels).astype(int)
    above, out = np.zeros(width * channels, int), []
    for row, kind in zip(rows, kinds, strict=False):
        left = np.concatenate([np.zeros(channels, int), row[:-channels]])
        corner = np.concatenate([np.zeros(channels, int), above[:-channels]])
        estimate = left + above - corner
        distances = np.abs([estimate - left, estimate - above, estimate - corner])
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        told = [0, left, above, (left + above) // 2, paeth][kind]
        out.append(bytes([kind]) + ((row - told) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(out)


def of_chunks(pixels: Array, stream: bytes, size: int) -> bytes:
    """A PNG of a zlib stream, so many bytes of it in each chunk."""
    whole = png(pixels.shape[1], pixels.shape[0], 8, COLOR_TYPES[pixels.shape[2]], b"")
    start, end = whole[: whole.index(b"IDAT") - 4], png_chunk(b"IEND", b"")
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    return start + b"".join(png_chunk(b"IDAT", piece) for piece in pieces) + end


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, None], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_filter(kind: int | None, channels: int) -> None:
    pixels = PHOTO[:, :, :channels]
    rows = filtered(pixels, itertools.cycle(range(5) if kind is None else [kind]))
    data = png(pixels.shape[1], pixels.shape[0], 8, COLOR_TYPES[channels], rows)
    expected = pixels if channels == 3 else np.repeat(pixels, 3, axis=2)
    np.testing.assert_array_equal(read_image(data), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_as_pillow_reads_it(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (90, 70)).astype(np.uint16))
    else:
        image = Image.fromarray(PHOTO).convert(mode)
    for options in ({}, {"compress_level": 0}, {"compress_level": 9}, {"optimize": True}):
        data = saved(image, "PNG", **options)
        np.testing.assert_array_equal(as_we_read(data), as_pillow_reads(data))


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("window", [9, 12, 15])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED])
def test_every_way_to_deflate(level: int, window: int, strategy: int) -> None:
    compress = zlib.compressobj(level, zlib.DEFLATED, window, 8, strategy)
    stream = compress.compress(filtered(PHOTO, itertools.repeat(4))) + compress.flush()
    np.testing.assert_array_equal(as_we_read(of_chunks(PHOTO, stream, 1 << 20)), PHOTO)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 8192])
def test_chunks_of_any_size(size: int) -> None:
    stream = zlib.compress(filtered(PHOTO, itertools.repeat(1)))
    np.testing.assert_array_equal(as_we_read(of_chunks(PHOTO, stream, size)), PHOTO)


def test_empty_chunks() -> None:
    stream = zlib.compress(filtered(PHOTO, itertools.repeat(1)))
    data = of_chunks(PHOTO, stream, 5000)
    at = data.index(b"IDAT") - 4
    np.testing.assert_array_equal(as_we_read(data[:at] + png_chunk(b"IDAT", b"") + data[at:]), PHOTO)


def test_interlaced() -> None:
    """Adam7 of an image of 8 x 8 pixels, by hand: seven passes, each an image of its own."""
    pixels = PHOTO[:8, :8, 0]
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = b"".join(
        b"\0" + row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right]
    )
    header = (8).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 1])
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, content)
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    np.testing.assert_array_equal(as_we_read(data), pixels)


def test_a_flat_image_which_is_a_thousandth_of_its_size() -> None:
    data = saved(np.full((3000, 4000), 7, np.uint8), "PNG")
    assert len(data) < 40_000
    assert (read_image(data) == 7).all()


def test_a_small_file_that_inflates_to_much_is_inflated_piece_by_piece() -> None:
    stream = zlib.compress(bytes(64 << 20), 9)
    image = PngImage(io.BytesIO(of_chunks(PHOTO, stream, len(stream))))
    image.load_prepare()
    pieces = [len(image.load_read(65536)) for _ in range(70)]
    assert max(pieces) < 1_050_000
    assert sum(pieces) > 64 << 20
    assert image.load_read(65536) == b""


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (50, 200)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (read_image(data) == 50).all()


def test_what_stands_behind_the_pixels_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(PHOTO, "PNG")
    behind = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    at = whole.rindex(b"IEND") - 4
    np.testing.assert_array_equal(read_image(whole[:at] + behind + whole[at:]), np.rot90(PHOTO, -1))


def test_a_header_is_read_though_the_pixels_are_damaged(tmp_path: Path) -> None:
    """XMP makes Pillow decode in search of an orientation."""
    stream = zlib.compress(filtered(PHOTO, itertools.repeat(1)))[:-4] + b"\0\0\0\0"
    data = of_chunks(PHOTO, stream, 5000)
    xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    at = data.index(b"IDAT") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:at] + xmp + data[at:])
    assert read_header(path).width == PHOTO.shape[1]
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(path)


def test_a_wrong_sum_of_the_stream_is_refused_though_all_chunks_have_their_own() -> None:
    stream = zlib.compress(filtered(PHOTO, itertools.repeat(1)))[:-4] + b"\0\0\0\0"
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(of_chunks(PHOTO, stream, 5000))


def test_what_follows_the_last_row_is_of_no_account() -> None:
    stream = zlib.compress(filtered(PHOTO, itertools.repeat(1)) + bytes(100_000)) + bytes(50)
    np.testing.assert_array_equal(read_image(of_chunks(PHOTO, stream, 5000)), PHOTO)


@pytest.mark.parametrize("rows", [0, 1, 45, 89])
def test_too_few_rows_are_not_black_ones(rows: int) -> None:
    stream = zlib.compress(filtered(PHOTO[:rows], itertools.repeat(1)))
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(of_chunks(PHOTO, stream, 5000))


def test_damaged_pixels_whose_checksums_are_right() -> None:
    """Whatever the damage is: what is read is what Pillow reads, or it is refused, as Pillow refuses it."""
    stream = bytearray(zlib.compress(filtered(PHOTO, itertools.cycle(range(5)))))
    refused = 0
    for at in range(0, len(stream) - 4, 11):
        damaged = bytes(stream[:at]) + bytes([stream[at] ^ 0x55]) + bytes(stream[at + 1 :])
        data = of_chunks(PHOTO, damaged, 3000)
        try:
            expected: Array | None = as_pillow_reads(data)
        except (OSError, SyntaxError):
            expected = None
        try:
            found: Array | None = as_we_read(data)
        except OSError:
            found = None
        refused += found is None
        assert (found is None) or (expected is not None and np.array_equal(found, expected)), at
    assert refused > 100


@pytest.mark.real
def test_real_images(shared: Path) -> None:
    for path in sorted((shared / "mvtec_ad" / "metal_nut" / "test").glob("*/*.png"))[::10]:
        np.testing.assert_array_equal(as_we_read(path.read_bytes()), as_pillow_reads(path.read_bytes()))
