"""What names alone tell, for all commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_bytes import saved
from PIL import Image

from goodparts.data.findings_by_name import findings_by_name, passed_over, require_nothing_passed_over
from goodparts.data.folders import is_image, list_images
from goodparts.errors import DatasetError

PNG = saved(Image.new("RGB", (8, 8)), "PNG")


def touch(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize(
    "name",
    ["a.png", "a.JPG", "a.jfif", "a.jpe", "a.pgm", "a.ppm", "a.jp2", "a.tif", "a.gif", "a.dib", "no_suffix"],
)
def test_all_that_can_be_read_is_listed(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)

    assert list_images(tmp_path) == [tmp_path / name]
    assert passed_over([tmp_path]) == []


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.heic", "c.avif", "notes.txt", "d")
    touch(tmp_path, "LICENSE", content=b"text")

    (finding,) = passed_over([tmp_path, tmp_path / "a.png"])

    assert (finding.severity, finding.kind) == ("warning", "other-file")
    assert finding.message.startswith("4 files passed over, being no image that can be read: c.avif, ")
    assert {path.name for path in finding.paths} == {"b.heic", "c.avif", "notes.txt", "LICENSE"}
    with pytest.raises(DatasetError, match=r"4 files passed over.*--strict"):
        require_nothing_passed_over([finding])


def test_text_beside_images_is_but_a_note(tmp_path: Path) -> None:
    (finding,) = passed_over([touch(tmp_path, "a.png", "a.json", "readme.txt")])

    assert finding.severity == "note"


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir/a.png", "$RECYCLE.BIN/a.png", "System Volume Information/a.png", "lost+found/a.png"),
        *("~$a.png", ".a.png", "Thumbs.db", "__MACOSX/a.png"),
    ],
)
def test_what_belongs_to_the_system_is_no_data(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "b.png", name)

    assert list_images(tmp_path, recursive=True) == [tmp_path / "b.png"]
    assert passed_over([tmp_path]) == []
    assert findings_by_name(tmp_path) == []


def test_a_file_without_suffix_that_is_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "Makefile", content=b"all:\n")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")

    assert not is_image(tmp_path / "Makefile")
    assert not is_image(tmp_path / "gone")


def test_of_a_data_set(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("train/OK/0.png", "train/old/0.png", "test/good/0.png", "test/cut/0.png", "test/cut/1.heic"),
        *("ground_truth/cut/zero_mask.png", "test/cut/1.png", "ground_truth/cut/1_Mask.png"),
    )

    found = {finding.kind: finding for finding in findings_by_name(tmp_path)}

    assert set(found) == {"folder-name", "unused", "other-file", "image-without-mask", "mask-without-image"}
    assert found["folder-name"].message == "train/OK is taken for good parts; expected the name `good`"
    assert "train/old/0.png" in found["unused"].message
    assert found["other-file"].message.endswith(": test/cut/1.heic")
    assert "test/cut/0.png" in found["image-without-mask"].message
    assert "zero_mask.png: no image in test/cut has that name" in found["mask-without-image"].message


def test_of_a_plain_folder_or_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "more/1.png", "2.raw")

    assert {finding.kind for finding in findings_by_name(tmp_path)} == {"unused", "other-file"}
    assert findings_by_name(tmp_path / "0.png") == []


def test_lossy_masks_are_stated(tmp_path: Path) -> None:
    touch(
        tmp_path, "train/good/0.png", "test/good/0.png", "test/cut/0.png", "test/cut/1.png", "test/cut/2.png"
    )
    mask = Image.new("L", (8, 8))
    touch(tmp_path, "ground_truth/cut/0_mask.jpg", content=saved(mask, "JPEG"))
    touch(tmp_path, "ground_truth/cut/1_mask.webp", content=saved(mask, "WEBP", lossless=True))
    touch(tmp_path, "ground_truth/cut/2_mask.webp", content=saved(mask, "WEBP"))

    (finding,) = findings_by_name(tmp_path)

    assert (finding.kind, finding.severity) == ("lossy-mask", "note")
    assert [path.name for path in finding.paths] == ["0_mask.jpg", "2_mask.webp"]
    assert "read from level 128 of 255 on" in finding.message
