"""Image files of all kinds, as bytes: by Pillow, and by hand where it writes no such thing."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def saved(pixels: Array | Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, color_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand: Pillow writes no 16-bit RGB, and nothing of which only the header is there."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values: Array) -> bytes:
    """`(h, w)`, `(h, w, 2)`, `(h, w, 3)` or `(h, w, 4)` uint16 as PNG."""
    channels = values.shape[2] if values.ndim == 3 else 1
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


def tiff(
    values: Array, order: str = "<", bits: int = 16, photometric: int = 1, sample_format: int = 1
) -> bytes:
    """An uncompressed TIFF by hand, of any dtype and byte order; 12 bits are packed by the caller."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes() if bits != 12 else pack12(values)
    bits_at = 8 + len(data)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits if channels == 1 else bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (339, 3, 1, sample_format),
    ]
    body = data + (struct.pack(order + "H", bits) * channels if channels > 1 else b"")
    directory = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        packed = (
            struct.pack(order + "HH", value, 0)
            if kind == 3 and count == 1
            else struct.pack(order + "I", value)
        )
        directory += struct.pack(order + "HHI", tag, kind, count) + packed
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return start + body + directory + b"\0\0\0\0"


def pack12(values: Array) -> bytes:
    a, b = values[:, ::2].astype(np.uint16), values[:, 1::2].astype(np.uint16)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=2).astype(np.uint8).tobytes()
