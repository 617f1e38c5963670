"""A ZIP that is written while it is sent: of members as they are, in memory that does not grow with their number.

The list at its end goes into a temporary file meanwhile. Every field that may be too small has its large form (ZIP64).
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator

_LOCAL, _CENTRAL, _DESCRIPTOR = 0x04034B50, 0x02014B50, 0x08074B50
_END64, _LOCATOR64, _END = 0x06064B50, 0x07064B50, 0x06054B50
_VERSION, _FLAGS = 45, 0x0808  # sizes come after the data; names are UTF-8
_DATE = (2026 - 1980) << 9 | 1 << 5 | 1
_SMALL = 0xFFFFFFFF
_READ = 1 << 20


def stream_zip(members: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """The bytes of a ZIP.

    Args:
        members: (name, the pieces of its content), one after another; taken only when the one before is sent.
    """
    with tempfile.TemporaryFile() as listed:
        offset = count = 0
        for name, pieces in members:
            text = name.encode("utf-8")
            head = struct.pack(
                "<IHHHHHIIIHH", _LOCAL, _VERSION, _FLAGS, 0, 0, _DATE, 0, _SMALL, _SMALL, len(text), 20
            )
            head += text + struct.pack("<HHQQ", 1, 16, 0, 0)
            yield head
            checksum = size = 0
            for piece in pieces:
                checksum, size = zlib.crc32(piece, checksum), size + len(piece)
                yield piece
            tail = struct.pack("<IIQQ", _DESCRIPTOR, checksum, size, size)
            yield tail
            listed.write(
                struct.pack(
                    "<IHHHHHHIIIHHHHHII",
                    _CENTRAL,
                    3 << 8 | _VERSION,
                    _VERSION,
                    _FLAGS,
                    0,
                    0,
                    _DATE,
                    checksum,
                    _SMALL,
                    _SMALL,
                    len(text),
                    28,
                    0,
                    0,
                    0,
                    0o644 << 16,
                    _SMALL,
                )
                + text
                + struct.pack("<HHQQQ", 1, 24, size, size, offset)
            )
            offset += len(head) + size + len(tail)
            count += 1
        length = listed.tell()
        listed.seek(0)
        while piece := listed.read(_READ):
            yield piece
    end = struct.pack(
        "<IQHHIIQQQQ", _END64, 44, 3 << 8 | _VERSION, _VERSION, 0, 0, count, count, length, offset
    )
    locator = struct.pack("<IIQI", _LOCATOR64, 0, offset + length, 1)
    yield end + locator + struct.pack("<IHHHHIIH", _END, 0, 0, 0xFFFF, 0xFFFF, _SMALL, _SMALL, 0)
