"""TIFF as Pillow does not read it, or reads it wrongly: known by its tags, mended where that can be done."""

from __future__ import annotations

from typing import Any

WIDTH, LENGTH, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, SAMPLE_FORMAT = (
    256,
    257,
    258,
    262,
    274,
    277,
    284,
    339,
)
_SIGNED = 2  # sample format
_MOST_CHANNELS = {0: 2, 1: 2, 2: 4, 3: 2, 5: 4, 6: 3}  # by photometric interpretation, alpha counted
_SEPARATE = 2  # planar configuration


def bits(picture: Any) -> int:
    """Bits of one channel."""
    return int(max(picture.tag_v2.get(BITS, (1,))))


def white_is_zero(picture: Any) -> bool:
    """Whether 16-bit grey levels count from white, which Pillow leaves to others."""
    return bits(picture) == 16 and picture.tag_v2.get(PHOTOMETRIC) == 0


def unreadable(picture: Any) -> str | None:
    """What keeps the pixels from being read rightly, in words; None if nothing does."""
    tags = picture.tag_v2
    if _SIGNED in tags.get(SAMPLE_FORMAT, ()):
        return f"{bits(picture)}-bit signed pixels, whose range can't be known; expected 8- or 16-bit unsigned ones"
    channels = tags.get(SAMPLES, 1)
    if channels > _MOST_CHANNELS.get(tags.get(PHOTOMETRIC, 0), 4):
        return f"{channels} channels; expected grey or three colours, with alpha or without"
    if _deep_planes(picture) and not all(tile.args[0][:1] in "RGBA" for tile in _raw(picture)):
        return "16-bit planes of other colours than red, green and blue"
    if _deep_planes(picture) and not _raw(picture):
        return "compressed 16-bit planes, one for each colour; expected the colours of a pixel side by side"
    return None


def unreadable_by_pillow(picture: Any) -> str | None:
    """The same for pixels that Pillow has decoded by itself."""
    if not hasattr(picture, "tag_v2"):
        return None
    if _deep_planes(picture) or white_is_zero(picture):
        return "16-bit pixels in planes, or counted from white"
    return unreadable(picture)


def mend(picture: Any) -> None:
    """Have 16-bit planes read as such: Pillow would take them for 8-bit ones."""
    if not _deep_planes(picture) or not _raw(picture):
        return
    order = "L" if picture.tag_v2.prefix == b"II" else "B"
    picture.tile = [
        tile._replace(args=(tile.args[0][:1] + f";16{order}", *tile.args[1:])) for tile in _raw(picture)
    ]


def _deep_planes(picture: Any) -> bool:
    tags = picture.tag_v2
    return tags.get(PLANAR, 1) == _SEPARATE and tags.get(SAMPLES, 1) > 1 and bits(picture) == 16


def _raw(picture: Any) -> list[Any]:
    return [tile for tile in picture.tile if tile.codec_name == "raw"]
