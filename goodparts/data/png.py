"""PNG images as Pillow reads them, but that their pixels are inflated by ISA-L.

Pillow's decoder inflates and undoes the filters in one go, and two fifths of its time are the first. So it gets its
pixels inflated: as stored blocks, which deflate has for what can't be made smaller (RFC 1951, 3.2.4). All else is
Pillow's own, and so are the pixels.
"""

from __future__ import annotations

from isal import isal_zlib
from PIL.PngImagePlugin import PngImageFile

_HEADER = b"\x78\x01"  # of a zlib stream (RFC 1950)
_PIECE = 1 << 14  # bytes inflated at a time, to at most a thousand times as many
_BLOCK = 65535  # bytes that a stored block can hold


class PngImage(PngImageFile):
    """A PNG image, opened; `load` decodes it."""

    def load_prepare(self) -> None:
        """Called by Pillow before it decodes."""
        super().load_prepare()
        self._begin = _HEADER
        self._inflate = isal_zlib.decompressobj()

    def load_read(self, read_bytes: int) -> bytes:
        """What Pillow's decoder gets next, in stored blocks; b"" after the last.

        Raises:
            isal_zlib.error: the pixels can't be inflated, or aren't those whose Adler-32 stands behind them.
        """
        pixels = b""
        while not pixels and not self._inflate.eof:
            deflated = super().load_read(min(read_bytes, _PIECE))
            if not deflated:
                break
            pixels = self._inflate.decompress(deflated)
        begin, self._begin = self._begin, b""
        return begin + _stored(pixels) if pixels else b""


def _stored(content: bytes) -> bytes:
    """As blocks of a deflate stream, none of them its last."""
    view = memoryview(content)
    pieces: list[bytes | memoryview] = []
    for begin in range(0, len(content), _BLOCK):
        block = view[begin : begin + _BLOCK]
        size = len(block)
        pieces += (b"\0", size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block)
    return b"".join(pieces)
