"""What is looked at in an image file before a decoder sees it, so that no file costs more than its pixels are worth.

Decoders take some things on trust: that a PNG's pixels are those whose checksum stands beside them, that a JPEG has a
dozen scans and not thousands, that a TIFF's directory is small. Each of these is cheap to look at. `StructureError`
says what was found; whoever reads the image adds its name.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

PIXELS_AT_ONCE = 100_000_000  # in all threads together; decoding takes 10 to 14 bytes for each
LARGE = 32_000_000  # pixels: above, an image counts until it is inspected, too
_PIECES = 1_000  # chunks or segments that any file may have ...
_PIECE = 256  # ... and more of them, if they hold so many bytes on average
_SCANS = 100  # of a JPEG; cameras and programs write at most a dozen
_SCANNED_PIXELS = 2_000_000_000  # over all scans: 20 of an image of 100 megapixels
_STRIPS = 100_000  # of a TIFF, or tiles: a line-scan camera may give each line its own
_TAGS = 1_000  # of a TIFF's directory
_PLAIN_PIXELS = 4_000_000  # of PGM and PPM written as text, which is slow to read
_READ = 1 << 20  # bytes at a time

_STRIP_TAGS = {273, 279, 324, 325}
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8}
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class StructureError(Exception):
    """What is wrong with a file, in words."""


def look_at_header(stream: BinaryIO, image_format: str) -> None:
    """Refuse a file whose header alone would take long to read; the position in the stream is of no account."""
    look = {
        "PNG": _look_at_png_header,
        "JPEG": _look_at_jpeg_header,
        "TIFF": _look_at_tiff_directory,
        "GIF": _look_at_gif,
    }.get(image_format)
    if look is not None:
        look(stream)


def look_at_pixels(stream: BinaryIO, image_format: str, pixels: int) -> None:
    """Refuse a file whose pixels are damaged, which its decoder would not notice, or would take long to decode.

    Args:
        stream: the file; the position in it is kept.
        image_format: as `formats` names it.
        pixels: how many the header says it has.
    """
    position = stream.tell()
    if image_format == "PNG":
        _verify_png(stream)
    elif image_format == "JPEG":
        _count_scans(stream, pixels)
    elif image_format == "PNM":
        stream.seek(0)
        if stream.read(2) in (b"P1", b"P2", b"P3") and pixels > _PLAIN_PIXELS:
            raise StructureError(
                f"{pixels:,} pixels written as text; expected at most {_PLAIN_PIXELS:,}, or the binary kind"
            )
    stream.seek(position)


@contextmanager
def turn_to_decode(pixels: int) -> Iterator[None]:
    """Wait until an image of so many pixels may be decoded beside those that other threads are decoding."""
    held = getattr(_IN_HAND, "pixels", None)
    _DECODING.begin(pixels, wait=not held)  # who holds an image already would wait for himself
    try:
        if held is not None and pixels > LARGE:
            _IN_HAND.pixels, pixels = held + pixels, 0
        yield
    finally:
        _DECODING.end(pixels)


@contextmanager
def in_hand() -> Iterator[None]:
    """Within, large images count until the end of it: what is made of them is as large as they are.

    Smaller ones count while they are decoded, so that all cores may work on them.
    """
    _IN_HAND.pixels = 0
    try:
        yield
    finally:
        _DECODING.end(_IN_HAND.pixels)
        del _IN_HAND.pixels


class _Decoding:
    """Counts the pixels that are being decoded. One image is always let in, however large."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew: in a forked process none of the other threads lives on."""
        self._changed = threading.Condition()
        self._pixels = 0

    def begin(self, pixels: int, *, wait: bool) -> None:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= PIXELS_AT_ONCE)
            self._pixels += pixels

    def end(self, pixels: int) -> None:
        with self._changed:
            self._pixels -= pixels
            self._changed.notify_all()


_DECODING = _Decoding()
_IN_HAND = threading.local()  # pixels of large images that this thread holds
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DECODING.forget)


# ---- PNG ---------------------------------------------------------------------------------------------


def _look_at_png_header(stream: BinaryIO) -> None:
    stream.seek(8)
    count = size = 0
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return
        count, size = count + 1, size + length
        _require_large_pieces(count, size, "chunks")
        stream.seek(length + 4, os.SEEK_CUR)


def _verify_png(stream: BinaryIO) -> None:
    """Compare the checksum of each chunk of pixels; what is cut off the decoder finds by itself."""
    stream.seek(8)
    count = size = 0
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        count, size = count + 1, size + length
        _require_large_pieces(count, size, "chunks")
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        checksum = zlib.crc32(kind)
        while length and (piece := stream.read(min(length, _READ))):
            checksum = zlib.crc32(piece, checksum)
            length -= len(piece)
        stored = stream.read(4)
        if length or len(stored) < 4:
            return
        if stored != checksum.to_bytes(4, "big"):
            raise StructureError("the checksum of its pixels is wrong")


def _require_large_pieces(count: int, size: int, name: str) -> None:
    if count > _PIECES and size < count * _PIECE:
        raise StructureError(f"it is made of very many tiny {name}, as no camera or program writes them")


# ---- JPEG --------------------------------------------------------------------------------------------


def _look_at_jpeg_header(stream: BinaryIO) -> None:
    _walk_jpeg(stream)


def _walk_jpeg(stream: BinaryIO) -> bool:
    """Go to where the first scan begins; returns whether there may be several."""
    stream.seek(2)
    count = size = components = 0
    while len(head := stream.read(2)) == 2 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF:  # fill bytes
            stream.seek(-1, os.SEEK_CUR)
            count += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            count += 1
        else:
            length = int.from_bytes(stream.read(2), "big")
            count, size = count + 1, size + length
            body = stream.read(max(0, length - 2))
            if marker in _FRAME_MARKERS and len(body) > 5:
                components = body[5]
                if marker in (0xC2, 0xC6, 0xCA, 0xCE):  # progressive
                    components = 256
            if marker == 0xDA:
                return not body or body[0] < components
            if marker == 0xD9:
                return False
        _require_large_pieces(count, size, "segments")
    return True


def _count_scans(stream: BinaryIO, pixels: int) -> None:
    """Every scan of a progressive JPEG goes over all its pixels."""
    if not _walk_jpeg(stream):
        return
    # Within the pixels of a scan, 0xFF is followed by 0 or by the number of a restart.
    scans = 1 + stream.read().count(b"\xff\xda")
    if scans > _SCANS or scans * pixels > max(_SCANNED_PIXELS, pixels * 4):
        raise StructureError(f"its pixels come in {scans} scans; expected about a dozen")


# ---- TIFF --------------------------------------------------------------------------------------------


def _look_at_tiff_directory(stream: BinaryIO) -> None:
    """Read the number of entries and values of the first directory, and none of the values."""
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = 43 in (start[2], start[3])
    at = struct.unpack_from(order + ("Q" if big else "I"), start.ljust(16, b"\0"), 8 if big else 4)[0]
    try:
        stream.seek(at)
    except (OverflowError, ValueError, OSError):
        return  # beyond any file; the decoder says so
    counted = stream.read(8 if big else 2)
    if len(counted) < (8 if big else 2):
        return
    entries = struct.unpack(order + ("Q" if big else "H"), counted)[0]
    if entries > _TAGS:
        raise StructureError(f"its directory has {entries:,} entries; expected at most {_TAGS:,}")
    for tag, kind, count in struct.iter_unpack(
        order + ("HHQ8x" if big else "HHI4x"), _whole(stream.read(entries * (20 if big else 12)), big)
    ):
        if tag in _STRIP_TAGS and count > _STRIPS:
            raise StructureError(
                f"its pixels come in {count:,} strips or tiles; expected at most {_STRIPS:,}"
            )
        if tag not in _STRIP_TAGS and tag < 32768 and count * _TAG_BYTES.get(kind, 1) > 64 * _READ:
            raise StructureError(f"tag {tag} has {count:,} values, which no image needs")


def _whole(entries: bytes, big: bool) -> bytes:
    return entries[: len(entries) // (20 if big else 12) * (20 if big else 12)]


# ---- GIF ---------------------------------------------------------------------------------------------


def _look_at_gif(stream: BinaryIO) -> None:
    """Go over what stands before the first image."""
    stream.seek(10)
    flags = stream.read(3)
    if len(flags) == 3 and flags[0] & 0x80:
        stream.seek(3 << ((flags[0] & 7) + 1), os.SEEK_CUR)
    count = size = 0
    while stream.read(1) == b"!":
        stream.read(1)
        while length := int.from_bytes(stream.read(1), "big"):
            stream.seek(length, os.SEEK_CUR)
            count, size = count + 1, size + length
            if count > _PIECES * 10:
                raise StructureError("it is made of very many blocks, as no camera or program writes them")
        count += 1
        if count > _PIECES * 10:
            raise StructureError("it is made of very many blocks, as no camera or program writes them")
