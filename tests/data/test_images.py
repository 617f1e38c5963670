"""Every format, every kind of pixel, every error of `goodparts.data.images`."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import png, png16, png_chunk, saved, tiff
from numpy.typing import NDArray
from PIL import Image, ImageOps

from goodparts.data.images import MINIMUM_SIDE, image_size, read_header, read_image, read_mask
from goodparts.errors import ImageError

Array = NDArray[Any]
CHECKOUT = Path(__file__).parents[2]


def picture(height: int = 20, width: int = 30) -> Array:
    """A smooth RGB picture without symmetry, `(h, w, 3) uint8`."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, (x + 2 * y) * 3], axis=2).astype(np.uint8)


RGB = picture()
GREY = RGB[:, :, 2]
GREY_RGB = np.repeat(GREY[:, :, None], 3, axis=2)
ALPHA = np.where(np.arange(30) < 15, 0, 200).astype(np.uint8) * np.ones((20, 1), np.uint8)
DEEP = (RGB.astype(np.uint16) << 8) | 0x00FF  # the low byte must not round the high one up
DEEP_GREY = DEEP[:, :, 2]
BINARY = np.random.default_rng(0).integers(0, 2, (20, 30)).astype(bool)
PALETTE = Image.fromarray(RGB).quantize(16)


def palette_with_transparency() -> bytes:
    return saved(PALETTE, "PNG", transparency=bytes([0, 128] + [255] * 14))


LOSSLESS: dict[str, tuple[Callable[[], bytes], Array]] = {
    "png rgb": (lambda: saved(RGB, "PNG"), RGB),
    "png grey": (lambda: saved(GREY, "PNG"), GREY_RGB),
    "png grey + alpha": (lambda: saved(np.dstack([GREY, ALPHA]), "PNG"), GREY_RGB),
    "png rgba keeps its colours": (lambda: saved(np.dstack([RGB, ALPHA]), "PNG"), RGB),
    "png rgb with a colour key": (lambda: saved(RGB, "PNG", transparency=(0, 0, 0)), RGB),
    "png grey with a colour key": (lambda: saved(GREY, "PNG", transparency=0), GREY_RGB),
    "png 1 bit": (
        lambda: saved(Image.fromarray(BINARY), "PNG"),
        np.repeat(BINARY[:, :, None] * np.uint8(255), 3, axis=2),
    ),
    "png 4-bit grey": (
        lambda: png(30, 20, 4, 0, b"".join(b"\0" + bytes([0x0F] * 15) for _ in range(20))),
        np.tile(np.array([0, 255], np.uint8), (20, 15))[:, :, None].repeat(3, axis=2),
    ),
    "png palette": (lambda: saved(PALETTE, "PNG"), np.array(PALETTE.convert("RGB"))),
    "png palette + transparency": (palette_with_transparency, np.array(PALETTE.convert("RGB"))),
    "png 16-bit grey": (lambda: png16(DEEP_GREY), GREY_RGB),
    "png 16-bit grey + alpha": (lambda: png16(np.dstack([DEEP_GREY, DEEP_GREY])), GREY_RGB),
    "png 16-bit rgb": (lambda: png16(DEEP), RGB),
    "png 16-bit rgba": (lambda: png16(np.dstack([DEEP, DEEP_GREY])), RGB),
    "png animated": (
        lambda: saved(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
    "gif": (lambda: saved(GREY, "GIF"), GREY_RGB),
    "gif animated": (
        lambda: saved(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        GREY_RGB,
    ),
    "ppm": (lambda: saved(RGB, "PPM"), RGB),
    "pgm": (lambda: saved(GREY, "PPM"), GREY_RGB),
    "jpeg 2000, lossless": (lambda: saved(RGB, "JPEG2000"), RGB),
    "jpeg 2000, a bare code stream": (lambda: saved(RGB, "JPEG2000", no_jp2=True), RGB),
    "bmp rgb": (lambda: saved(RGB, "BMP"), RGB),
    "bmp grey": (lambda: saved(GREY, "BMP"), GREY_RGB),
    "bmp palette": (lambda: saved(PALETTE, "BMP"), np.array(PALETTE.convert("RGB"))),
    "bmp 1 bit": (
        lambda: saved(Image.fromarray(BINARY), "BMP"),
        np.repeat(BINARY[:, :, None] * np.uint8(255), 3, axis=2),
    ),
    "tiff rgb": (lambda: saved(RGB, "TIFF"), RGB),
    "tiff rgba": (lambda: saved(np.dstack([RGB, ALPHA]), "TIFF"), RGB),
    "tiff grey": (lambda: saved(GREY, "TIFF"), GREY_RGB),
    "tiff lzw": (lambda: saved(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "tiff deflate": (lambda: saved(GREY, "TIFF", compression="tiff_deflate"), GREY_RGB),
    "tiff palette": (lambda: saved(PALETTE, "TIFF"), np.array(PALETTE.convert("RGB"))),
    "tiff 1 bit, group 4": (
        lambda: saved(Image.fromarray(BINARY), "TIFF", compression="group4"),
        np.repeat(BINARY[:, :, None] * np.uint8(255), 3, axis=2),
    ),
    "tiff two pages": (
        lambda: saved(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
    "tiff 16-bit grey, little-endian": (lambda: tiff(DEEP_GREY, "<"), GREY_RGB),
    "tiff 16-bit grey, big-endian": (lambda: tiff(DEEP_GREY, ">"), GREY_RGB),
    "tiff 16-bit grey, lzw": (
        lambda: saved(DEEP_GREY, "TIFF", compression="tiff_lzw"),
        GREY_RGB,
    ),
    "tiff 16-bit rgb, little-endian": (lambda: tiff(DEEP, "<", photometric=2), RGB),
    "tiff 16-bit rgb, big-endian": (lambda: tiff(DEEP, ">", photometric=2), RGB),
    "tiff 12-bit grey": (lambda: tiff(DEEP_GREY >> 4, "<", bits=12), GREY_RGB),
    "tiff cmyk": (
        lambda: saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
        np.array(Image.fromarray(RGB).convert("CMYK").convert("RGB")),
    ),
    "webp lossless": (lambda: saved(RGB, "WEBP", lossless=True), RGB),
    "webp lossless + alpha": (
        lambda: saved(np.dstack([RGB, np.maximum(ALPHA, 1)]), "WEBP", lossless=True, exact=True),
        RGB,
    ),
    "webp animated": (
        lambda: saved(RGB, "WEBP", save_all=True, lossless=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_come_back_exactly(name: str, tmp_path: Path) -> None:
    build, expected = LOSSLESS[name]
    path = tmp_path / "part.bin"  # the name says nothing: the content decides
    path.write_bytes(build())

    from_path = read_image(path)

    np.testing.assert_array_equal(from_path, expected)
    np.testing.assert_array_equal(read_image(path.read_bytes()), expected)
    assert from_path.dtype == np.uint8
    assert from_path.flags.c_contiguous
    assert from_path.flags.writeable
    assert image_size(path)[:2] == (30, 20)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("jpeg", lambda: saved(RGB, "JPEG", quality=95, subsampling=0)),
        ("jpeg progressive", lambda: saved(RGB, "JPEG", quality=95, progressive=True, subsampling=0)),
        ("jpeg cmyk", lambda: saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98)),
        ("tiff with jpeg", lambda: saved(RGB, "TIFF", compression="jpeg", quality=95)),
        ("webp", lambda: saved(RGB, "WEBP", quality=98)),
    ],
)
def test_lossy_formats_come_back_nearly(name: str, build: Callable[[], bytes]) -> None:
    error = read_image(build()).astype(int) - RGB

    assert error.shape == RGB.shape
    assert np.abs(error).mean() < 6
    assert abs(error.mean()) < 2


def test_jpeg_grey_has_three_equal_channels() -> None:
    pixels = read_image(saved(GREY, "JPEG", quality=95))

    assert (pixels == pixels[:, :, :1]).all()
    assert np.abs(pixels[:, :, 0].astype(int) - GREY).mean() < 3


def test_16_bit_is_never_clamped() -> None:
    ramp = np.linspace(0, 65535, 32 * 16).astype(np.uint16).reshape(16, 32)

    for data in (png16(ramp), tiff(ramp, "<"), tiff(ramp, ">"), png16(np.dstack([ramp] * 3))):
        np.testing.assert_array_equal(read_image(data)[:, :, 1], ramp >> 8)


def test_16_bit_png_that_pillow_calls_mode_i(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import PngImagePlugin

    # Older releases of Pillow read 16-bit grey into 32-bit integers.
    monkeypatch.setitem(PngImagePlugin._MODES, (16, 0), ("I", "I;16B"))

    assert image_size_of_bytes(png16(DEEP_GREY)) == "I"
    np.testing.assert_array_equal(read_image(png16(DEEP_GREY)), GREY_RGB)


def image_size_of_bytes(data: bytes) -> str:
    from PIL.PngImagePlugin import PngImageFile

    return PngImageFile(io.BytesIO(data)).mode


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, image_format: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(image_format, {})
    path = tmp_path / "part"
    path.write_bytes(saved(RGB, image_format, exif=exif.tobytes(), **lossless))

    found = read_image(path)

    reference = Image.fromarray(RGB)
    reference.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(reference))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (3 if image_format == "JPEG" else 0)
    assert image_size(path)[:2] == (found.shape[1], found.shape[0])


def test_exif_orientation_of_a_mask_and_of_16_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "mask.png"
    path.write_bytes(saved(BINARY.astype(np.uint8) * 255, "PNG", exif=exif.tobytes()))
    deep = saved(Image.fromarray(DEEP_GREY), "PNG", exif=exif.tobytes())

    np.testing.assert_array_equal(read_mask(path), np.rot90(BINARY, -1))
    np.testing.assert_array_equal(read_image(deep)[:, :, 0], np.rot90(GREY, -1))


def test_damaged_exif_does_not_cost_the_pixels() -> None:
    exif = b"Exif\0\0MM\0*\0\0"
    data = saved(RGB, "PNG")
    chunk = png_chunk(b"eXIf", exif[6:])

    np.testing.assert_array_equal(read_image(data[:33] + chunk + data[33:]), RGB)


# ---- arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (np.dstack([RGB, ALPHA]), RGB),
        (GREY, GREY_RGB),
        (GREY[:, :, None], GREY_RGB),
        (RGB[::-1, ::-1], RGB[::-1, ::-1]),
        (np.asfortranarray(RGB), RGB),
    ],
    ids=["rgb", "rgba", "grey", "grey with a channel", "reversed view", "column order"],
)
def test_arrays(array: Array, expected: Array) -> None:
    found = read_image(array)

    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


def test_contiguous_rgb_array_is_not_copied() -> None:
    assert read_image(RGB) is RGB or np.shares_memory(read_image(RGB), RGB)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (RGB.astype(np.float32), r"float32 of shape \(20, 30, 3\)"),
        (DEEP.astype(np.uint32), r"uint32 of shape \(20, 30, 3\)"),
        (BINARY, r"bool of shape \(20, 30\)"),
        (RGB.transpose(2, 0, 1), r"uint8 of shape \(3, 20, 30\)"),
        (RGB[None], r"uint8 of shape \(1, 20, 30, 3\)"),
        (RGB[:, :, :2], r"uint8 of shape \(20, 30, 2\)"),
        (RGB.ravel(), r"uint8 of shape \(1800,\)"),
        (RGB[:7], f"30 x 7 pixels; expected at least {MINIMUM_SIDE}"),
        (RGB[:0], f"30 x 0 pixels; expected at least {MINIMUM_SIDE}"),
    ],
)
def test_other_arrays_are_refused(array: Array, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        read_image(array)


# ---- errors ------------------------------------------------------------------------------------------

LAB = Image.merge("LAB", Image.fromarray(RGB).split())
NOT_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is not an image\n", "it is a text file"),
    "long text": ("Maße in µm, ".encode() * 99, "it is a text file"),
    "zeros": (bytes(500), "nothing but zeros"),
    "noise": (b"\x8a\x01\xfe" * 50, "content is unknown"),
    "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    "pdf": (b"%PDF-1.7\n", "a PDF document"),
    "zip": (b"PK\x03\x04" + bytes(60), "a ZIP archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "html": (b"\n<!doctype html><html>", "an HTML page"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC or AVIF"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
    "wav": (b"RIFF\0\0\0\0WAVEfmt ", "an audio or video file"),
    "dicom": (bytes(128) + b"DICM" + bytes(9), "a DICOM image"),
    "png header only": (b"\x89PNG\r\n\x1a\n", "PNG image that is damaged"),
    "jpeg header only": (b"\xff\xd8\xff\xe0", "JPEG image that is damaged"),
    "tiff header only": (b"II*\0\x08\0\0\0", "TIFF image that is damaged"),
    "webp header only": (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP image that is damaged"),
    "bmp header only": (b"BM", "BMP image that is damaged"),
    "float tiff": (saved(GREY.astype(np.float32), "TIFF"), "floating point pixels"),
    "32-bit integer tiff": (saved(GREY.astype(np.int32), "TIFF"), "32-bit integer pixels"),
    "signed 16-bit tiff": (tiff(GREY.astype(np.int16), sample_format=2), "signed"),
    "lab tiff": (saved(LAB, "TIFF"), "Lab pixels"),
    "1 x 1": (saved(RGB[:1, :1], "PNG"), "is 1 x 1 pixels; expected at least 8"),
    "100 x 7": (saved(picture(7, 100), "BMP"), "is 100 x 7 pixels"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_says_what_it_is(name: str, tmp_path: Path) -> None:
    data, message = NOT_IMAGES[name]
    path = tmp_path / "part.png"
    path.write_bytes(data)

    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ImageError, match=r"^image bytes: "):
        read_image(data)


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a_bitmap.png"
    path.write_bytes(saved(RGB, "BMP"))

    np.testing.assert_array_equal(read_image(str(path)), RGB)
    assert read_header(path).format == "BMP"


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"part\.png: no such file"):
        image_size(tmp_path / "nowhere" / "part.png")
    with pytest.raises(ImageError, match="can't be opened"):
        read_image("a\0b.png")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files(image_format: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = saved(noise, image_format)
    path = tmp_path / "part.png"
    path.write_bytes(data[: int(len(data) * share)])

    with pytest.raises(ImageError, match=r"part\.png: .*(damaged|truncated)"):
        read_image(path)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore")  # metadata that was damaged on purpose
def test_damaged_files_give_pixels_or_an_image_error(image_format: str) -> None:
    rng = np.random.default_rng(5)
    options = {"TIFF": {"compression": "tiff_lzw"}}.get(image_format, {})
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x010F] = "camera"
    if image_format != "BMP":
        options = {**options, "exif": exif.tobytes()}
    whole = saved(picture(40, 40), image_format, **options)
    refused = 0
    for trial in range(150):
        data = bytearray(whole[: rng.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for position in rng.integers(0, min(len(data), 300 if trial % 2 else len(data)), 4):
            data[position] = rng.integers(0, 256)
        try:
            pixels = read_image(bytes(data), pixel_limit=10_000)
        except ImageError:
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
    assert refused > 10


# ---- the pixel limit ---------------------------------------------------------------------------------


def huge_png() -> bytes:
    """20,000 x 20,000 pixels in a header, and not one of them in the file."""
    return png(20_000, 20_000, 8, 2, b"")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_too_many_pixels_are_refused_before_decoding(
    read: Callable[[Path], Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL.ImageFile import ImageFile

    def load(image: ImageFile) -> None:
        raise AssertionError("was decoded")

    monkeypatch.setattr(ImageFile, "load", load)
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png())

    with pytest.raises(
        ImageError, match=r"20000 x 20000 = 400,000,000 .*100,000,000.*--pixel-limit"
    ) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_pixel_limit_of_each_format(image_format: str) -> None:
    data = saved(RGB, image_format)

    assert read_image(data, pixel_limit=600).shape == RGB.shape
    with pytest.raises(ImageError, match="has 30 x 20 = 600 pixels, more than the limit of 599"):
        read_image(data, pixel_limit=599)


def test_the_header_of_a_huge_image_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png())

    assert image_size(path) == (20_000, 20_000, "RGB")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_pillows_own_limit_stays_out_of_the_way(image_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it would warn above 100 and refuse above 200
    data = saved(RGB, image_format)

    assert read_image(data).shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_bomb_costs_no_memory() -> None:
    pytest.importorskip("resource", reason="measured with the resource module of POSIX")
    script = (
        "import resource, sys, pathlib\n"
        "from goodparts.data.images import read_image\n"
        "from goodparts.errors import ImageError\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    read_image(data)\n"
        "except ImageError:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    rows = zlib.compress(bytes(20_000 * 2501))  # 1-bit: 50 MB of pixels in 50 kB
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        input=bomb,
        capture_output=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert int(result.stdout) < 40_000  # kB


# ---- masks -------------------------------------------------------------------------------------------

LEVELS = np.zeros((20, 30), np.uint8)
LEVELS[3:9, 4:20] = 1
LEVELS[12:15, 4:20] = 255
DEFECT = LEVELS > 0


def indexed_mask() -> Image.Image:
    """A palette whose index 0 is white and 1 is black, as image editors write it."""
    image = Image.fromarray(np.where(DEFECT, 0, 1).astype(np.uint8), "L").convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.frombytes(np.where(DEFECT, 0, 1).astype(np.uint8).tobytes())
    return image


MASKS: dict[str, Callable[[], bytes]] = {
    "grey, 1 counts": lambda: saved(LEVELS, "PNG"),
    "1 bit": lambda: saved(Image.fromarray(DEFECT), "PNG"),
    "rgb": lambda: saved(np.dstack([LEVELS, LEVELS * 0, LEVELS * 0]), "PNG"),
    "rgba": lambda: saved(np.dstack([LEVELS, LEVELS, LEVELS, LEVELS * 0 + 255]), "PNG"),
    "defect painted on nothing": lambda: saved(
        np.dstack([LEVELS | 200, LEVELS | 200, LEVELS | 200, DEFECT * np.uint8(255)]), "PNG"
    ),
    "grey + alpha": lambda: saved(np.dstack([LEVELS, LEVELS * 0 + 255]), "PNG"),
    "palette": lambda: saved(indexed_mask(), "PNG"),
    "16 bits, value 1": lambda: png16(DEFECT.astype(np.uint16)),
    "16-bit tiff": lambda: tiff(LEVELS.astype(np.uint16), ">"),
    "float tiff": lambda: saved(LEVELS.astype(np.float32) / 255, "TIFF"),
    "32-bit tiff": lambda: saved(LEVELS.astype(np.int32), "TIFF"),
    "bmp": lambda: saved(LEVELS, "BMP"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(MASKS[name]())

    found = read_mask(path)

    assert found.dtype == bool
    np.testing.assert_array_equal(found, DEFECT)


def test_a_mask_may_be_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(saved(np.full((1, 1), 255, np.uint8), "PNG"))

    assert read_mask(path).tolist() == [[True]]


# ---- the rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "mode", "bits"),
    [
        (saved(RGB, "PNG"), "RGB", 8),
        (saved(Image.fromarray(BINARY), "PNG"), "1", 1),
        (png16(DEEP), "RGB", 16),
        (png16(DEEP_GREY), "I;16", 16),
        (tiff(DEEP_GREY, ">"), "I;16B", 16),
        (tiff(DEEP_GREY >> 4, bits=12), "I;16", 12),
        (tiff(DEEP, photometric=2), "RGB", 16),
        (saved(GREY, "JPEG"), "L", 8),
    ],
)
def test_header(data: bytes, mode: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(data)

    header = read_header(path)

    assert (header.width, header.height, header.mode, header.bits) == (30, 20, mode, bits)


def test_many_threads_read_what_one_reads(tmp_path: Path) -> None:
    paths = []
    for name, (build, _) in LOSSLESS.items():
        path = tmp_path / name.replace(" ", "_").replace(",", "").replace("+", "and")
        path.write_bytes(build())
        paths.append(path)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_image, paths * 5))

    for pixels, (_, expected) in zip(found, [*LOSSLESS.values()] * 5, strict=True):
        np.testing.assert_array_equal(pixels, expected)


def test_importing_the_module_does_not_import_pillow() -> None:
    script = "import sys, goodparts.data.images, goodparts.data.dataset; print('PIL' in sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )

    assert result.stdout.strip() == "False"


@pytest.mark.real
def test_real_images(shared: Path) -> None:
    from goodparts.data.dataset import read_dataset

    nut = read_dataset(shared / "mvtec_ad" / "metal_nut")
    bad = next(sample for sample in nut.test if sample.masks)

    assert read_image(nut.train[0]).shape == (700, 700, 3)
    mask = read_mask(bad.masks[0])
    assert mask.shape == (700, 700)
    assert 0 < mask.mean() < 0.5
    grid = read_image(read_dataset(shared / "mvtec_ad" / "grid_256").train[0])
    assert (grid == grid[:, :, :1]).all()
