"""PNG images as Pillow reads them, with their pixels inflated by ISA-L.

Pillow's decoder inflates and undoes the filters in one go, and two fifths of its time go into the first. So it is given
pixels that are inflated already, as stored blocks, which deflate has for what can't be made smaller (RFC 1951, 3.2.4).
All else is done by Pillow.
"""

from __future__ import annotations

from isal import isal_zlib
from PIL.PngImagePlugin import PngImageFile

_HEADER = b"\x78\x01"  # of a zlib stream (RFC 1950)
_READ = 1 << 14  # bytes read at a time,
_INFLATED = 1 << 20  # and what becomes of them: up to a thousand times as many
_BLOCK = 65535  # bytes that a stored block can hold


class PngImage(PngImageFile):
    """A PNG image, opened; `load` decodes it."""

    def load_prepare(self) -> None:
        """Called by Pillow before it decodes."""
        super().load_prepare()
        self._header = _HEADER  # still to be given
        self._inflate = isal_zlib.decompressobj()

    def load_read(self, read_bytes: int) -> bytes:
        """What Pillow's decoder gets next, in stored blocks; b"" after the last.

        Raises:
            OSError: the stream is damaged, or its Adler-32 is wrong, as far as it is read: Pillow asks for no more than
                its rows take.
        """
        pixels = self._next_pixels(read_bytes)
        header, self._header = self._header, b""
        return header + _stored(pixels) if pixels else b""

    def _next_pixels(self, read_bytes: int) -> bytes:
        """Some more of the rows as the filters left them."""
        while not self._inflate.eof:
            deflated = self._inflate.unconsumed_tail or super().load_read(min(read_bytes, _READ))
            try:
                pixels = self._inflate.decompress(deflated, _INFLATED)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stubs take the class for an instance
                raise OSError(f"broken data stream: {error}") from error
            if pixels or not deflated:
                return pixels
        return b""


def _stored(content: bytes) -> bytes:
    """As blocks of a deflate stream, none of them its last."""
    view = memoryview(content)
    pieces: list[bytes | memoryview] = []
    for begin in range(0, len(content), _BLOCK):
        block = view[begin : begin + _BLOCK]
        size = len(block)
        pieces += (b"\0", size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block)
    return b"".join(pieces)
