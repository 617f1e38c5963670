"""Files that would cost more than their pixels are worth, and pixels that are not those that were saved."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from image_bytes import png_chunk, saved, tiff

from goodparts.data import structure
from goodparts.data.images import read_image
from goodparts.errors import ImageError

RGB = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def tiny_chunks(count: int, kind: bytes, *, before: bool) -> bytes:
    whole = saved(RGB, "PNG")
    at = whole.index(b"IDAT") - 4 if before else whole.index(b"IEND") - 4
    return whole[:at] + png_chunk(kind, b"") * count + whole[at:]


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan comes again and again."""
    whole = saved(RGB, "JPEG", progressive=True, quality=90)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


def strips(count: int) -> bytes:
    """A TIFF that says that it has so many strips, and has their offsets."""
    whole = tiff(RGB[:, :, 0], bits=8)
    entry = whole.index(struct.pack("<HHI", 273, 4, 1))
    return whole[: entry + 4] + struct.pack("<II", count, len(whole)) + whole[entry + 12 :] + bytes(4 * count)


def tags(count: int) -> bytes:
    whole = tiff(RGB[:, :, 0], bits=8)
    at = struct.unpack_from("<I", whole, 4)[0]
    return whole[:at] + struct.pack("<H", count) + bytes(12 * count)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png, a million chunks before its pixels": (
        lambda: tiny_chunks(1_000_000, b"teXt", before=True),
        "very many tiny chunks",
    ),
    "png, a million chunks of pixels": (lambda: tiny_chunks(1_000_000, b"IDAT", before=False), "tiny chunks"),
    "jpeg, 2,000 scans": (lambda: progressive(2_000), "comes? in 20.. scans"),
    "jpeg, a million segments": (
        lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + saved(RGB, "JPEG")[2:],
        "very many tiny segments",
    ),
    "tiff, three million strips": (lambda: strips(3_000_000), "3,000,000 strips"),
    "tiff, 60,000 tags": (lambda: tags(60_000), "60,000 entries"),
    "gif, a million blocks": (
        lambda: saved(RGB[:, :, 0], "GIF")[:13] + bytes(768) + b"!\xfe\1x\0" * 1_000_000,
        "very many blocks",
    ),
    "ppm as text": (lambda: b"P3 4000 4000 255\n" + b"1 2 3 " * 99, "written as text"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str) -> None:
    build, message = BOMBS[name]
    data = build()
    began = time.perf_counter()

    with pytest.raises(ImageError, match=message):
        read_image(data)

    assert time.perf_counter() - began < 1


def test_what_programs_write_is_read() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (700, 700, 3)).astype(np.uint8)

    np.testing.assert_array_equal(read_image(saved(noise, "PNG")), noise)  # many chunks of pixels
    assert read_image(saved(noise, "JPEG", progressive=True)).shape == noise.shape
    np.testing.assert_array_equal(read_image(saved(noise, "TIFF", compression="packbits")), noise)


def test_a_png_whose_checksum_is_wrong_is_refused() -> None:
    whole = saved(RGB, "PNG")
    start = whole.index(b"IDAT") + 4
    for position in range(start, len(whole) - 16, 97):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ImageError, match=r"checksum of its pixels is wrong|damaged"):
            read_image(bytes(damaged))


def test_threads_together_decode_no_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.PngImagePlugin import PngImageFile

    load, lock = PngImageFile.load, threading.Lock()
    running = most = 0

    def slow(picture: PngImageFile) -> object:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return load(picture)

    monkeypatch.setattr(PngImageFile, "load", slow)
    monkeypatch.setattr(structure, "PIXELS_AT_ONCE", 2 * RGB.shape[0] * RGB.shape[1])
    data = saved(RGB, "PNG")
    threads = [threading.Thread(target=read_image, args=(data,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 2


def test_an_image_larger_than_the_bound_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "PIXELS_AT_ONCE", 10)

    np.testing.assert_array_equal(read_image(io.BytesIO(saved(RGB, "PNG"))), RGB)


def test_a_large_image_counts_until_it_is_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "PIXELS_AT_ONCE", RGB.shape[0] * RGB.shape[1])
    monkeypatch.setattr(structure, "LARGE", 100)
    data = saved(RGB, "PNG")
    lock = threading.Lock()
    running = most = 0

    def inspect() -> None:
        nonlocal running, most
        with structure.in_hand():
            read_image(data)
            read_image(data)  # a mask, say: who holds an image does not wait for himself
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1

    threads = [threading.Thread(target=inspect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert most == 1
    np.testing.assert_array_equal(read_image(data), RGB)
