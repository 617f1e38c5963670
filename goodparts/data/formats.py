"""Which image formats are read, and how a file's first bytes tell what it is."""

from __future__ import annotations

SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "PNM": (".pgm", ".ppm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
}
"""The formats that are read, each with the suffixes that its files usually have."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
IN_WORDS = "PNG, JPEG, JPEG 2000, BMP, GIF, TIFF, WebP or PGM/PPM"
START = 256  # bytes of a file that tell what it is

PLUGINS = {
    "PNG": ("goodparts.data.png", "PngImage"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "PNM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
"""Module and class that reads each format: a plugin of Pillow, or ours that is made from one."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xffO\xffQ", "JPEG2000"),
)

_FOREIGN_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the image itself was never fetched (`git lfs pull`)"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"MZ", "a Windows program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"RIFF", "an audio or video file"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"<svg", "an SVG drawing"),
)


def format_of(start: bytes) -> str | None:
    """Name the image format by a file's first bytes, or None for anything that isn't read."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\r\n#" and len(start) > 2:
        return "PNM"
    return next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)


def in_words(start: bytes) -> str:
    """Say what a file is that isn't an image, by its first bytes."""
    if not start:
        return "the file is empty (0 bytes)"
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("ascii", "replace").strip()
        return "it is an HEIC or AVIF image" if brand[:3] in {"hei", "hev", "mif", "avi"} else "it is a video"
    if start[128:132] == b"DICM":
        return "it is a DICOM image"
    for signature, words in _FOREIGN_SIGNATURES:
        if start.lstrip().lower().startswith(signature.lower()):
            return f"it is {words}"
    if not start.strip(b"\0"):
        return "it holds nothing but zeros"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode("utf-8") if error.start > len(start) - 4 else "\0"
    if all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return "it is a text file"
    return f"its content is unknown (it starts with {start[:8].hex(' ')})"
