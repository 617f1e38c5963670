"""Every finding of `goodparts.data.check`: it comes when it should, and only then."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from goodparts.data import findings
from goodparts.data.check import check_dataset
from goodparts.data.findings import Finding
from goodparts.errors import DatasetError

Pixels = NDArray[Any]


def texture(seed: int, height: int = 64, width: int = 64) -> Pixels:
    """An image like no other."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 230, (height // 4, width // 4, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def save(pixels: Pixels, path: Path, image_format: str | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, image_format, **options)


def mask(height: int = 64, width: int = 64) -> Pixels:
    pixels = np.zeros((height, width), np.uint8)
    pixels[10:20, 10:30] = 255
    return pixels


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in which there is nothing to find: 60 to learn from, 3 good and 3 bad to test on."""
    root = tmp_path_factory.mktemp("sound") / "part"
    for index in range(60):
        save(texture(index), root / "train" / "good" / f"{index}.png")
    for index in range(3):
        save(texture(100 + index), root / "test" / "good" / f"{index}.png")
        save(texture(200 + index), root / "test" / "cut" / f"{index}.png")
        save(mask(), root / "ground_truth" / "cut" / f"{index}_mask.png")
    (root / "readme.txt").write_text("what this is", encoding="utf-8")
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound data set to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "part"))


def test_nothing_to_find(sound: Path) -> None:
    assert check_dataset(sound) == []
    assert check_dataset(sound / "train" / "good") == []


def test_progress_and_workers(sound: Path) -> None:
    calls: list[tuple[int, int]] = []

    check_dataset(sound, workers=3, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(done, 69) for done in range(1, 70)]


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        check_dataset(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no images"):
        check_dataset(tmp_path)


# One row a finding: how to spoil a sound data set, and what has to be said about it.
TRAIN = Path("train/good")
CUT = Path("test/cut")
TRUTH = Path("ground_truth/cut")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def sixteen_bit(path: Path, shift: int) -> None:
    grey = texture(1)[:, :, 0].astype(np.uint16)
    Image.fromarray(grey << shift).save(path)


def all_sixteen_bit(root: Path, shift: int) -> None:
    for index, path in enumerate(sorted([*root.glob("train/*/*.png"), *root.glob("test/*/*.png")])):
        grey = texture(index)[:, :, 0].astype(np.uint16)
        Image.fromarray((grey << shift) | 1).save(path)


def brighter_copy(source: Path, target: Path) -> None:
    pixels = np.asarray(Image.open(source)).astype(int) + 6
    save(np.clip(pixels, 0, 255).astype(np.uint8), target)


def shifted_copy(source: Path, target: Path) -> None:
    pixels = np.pad(np.asarray(Image.open(source)), ((1, 0), (1, 0), (0, 0)), "edge")
    save(pixels[:-1, :-1], target)


SPOILT: dict[str, tuple[Callable[[Path], object], list[tuple[str, str, str, list[str]]]]] = {
    "truncated": (
        lambda root: truncate(root / TRAIN / "7.png"),
        [
            (
                "error",
                "unreadable",
                "train/good/7.png: the PNG image is damaged or truncated",
                ["train/good/7.png"],
            )
        ],
    ),
    "empty": (
        lambda root: (root / CUT / "1.png").write_bytes(b""),
        [("error", "empty-file", "test/cut/1.png: .*the file is empty", ["test/cut/1.png"])],
    ),
    "two empty": (
        lambda root: [(root / TRAIN / f"{index}.png").write_bytes(b"") for index in (2, 3)],
        [
            (
                "error",
                "empty-file",
                "train/good/2.png, train/good/3.png: ",
                ["train/good/2.png", "train/good/3.png"],
            )
        ],
    ),
    "text called png": (
        lambda root: (root / TRAIN / "8.png").write_text("hello"),
        [("error", "unreadable", "train/good/8.png: .*it is a text file", ["train/good/8.png"])],
    ),
    "damaged mask": (
        lambda root: (root / TRUTH / "1_mask.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
        [("error", "unreadable", "ground_truth/cut/1_mask.png: ", ["ground_truth/cut/1_mask.png"])],
    ),
    "jpeg called png": (
        lambda root: save(texture(3), root / TRAIN / "3.png", "JPEG", quality=98),
        [
            ("warning", "wrong-suffix", "1 file named as another format than it has", ["train/good/3.png"]),
            (
                "note",
                "format",
                r"1 image \(1 JPEG\) of another format than the other 65",
                ["train/good/3.png"],
            ),
        ],
    ),
    "tiff": (
        lambda root: [save(texture(70), root / TRAIN / "70.tiff")],
        [("note", "format", r"\(1 TIFF\)", ["train/good/70.tiff"])],
    ),
    "another size": (
        lambda root: save(texture(5, 80, 72), root / TRAIN / "5.png"),
        [("warning", "size", "1 image of another size than the usual 64 x 64", ["train/good/5.png"])],
    ),
    "grey among colours": (
        lambda root: save(texture(5)[:, :, 0], root / TRAIN / "5.png"),
        [("warning", "mode", r"1 image \(1 8-bit grey\) of another mode", ["train/good/5.png"])],
    ),
    "16 bits among 8": (
        lambda root: sixteen_bit(root / TRAIN / "5.png", 8),
        [("warning", "mode", r"\(1 16-bit grey\) of another mode than the other 65", ["train/good/5.png"])],
    ),
    "12 of 16 bits": (
        lambda root: all_sixteen_bit(root, 4),
        [("note", "dark-16-bit", "66 images with no more than 12 of 16 bits in use", [])],
    ),
    "10 of 16 bits": (
        lambda root: all_sixteen_bit(root, 2),
        [("note", "dark-16-bit", r"no more than 10 of 16 bits in use; .*bit_depth", [])],
    ),
    "16 bits in a test image, where 12 are in use": (
        lambda root: [all_sixteen_bit(root, 4), sixteen_bit(root / "test" / "good" / "0.png", 8)],
        [
            ("note", "dark-16-bit", "no more than 12 of 16 bits", []),
            ("error", "unreadable", "levels up to .*--bit-depth 16", ["test/good/0.png"]),
        ],
    ),
    "all 16 bits": (lambda root: all_sixteen_bit(root, 8), []),
    "black in train": (
        lambda root: save(np.zeros((64, 64, 3), np.uint8), root / TRAIN / "9.png"),
        [("error", "constant", "1 image of one single colour", ["train/good/9.png"])],
    ),
    "red in train": (
        lambda root: save(np.full((64, 64, 3), (200, 10, 30), np.uint8), root / TRAIN / "9.png"),
        [("error", "constant", "1 image of one single colour", ["train/good/9.png"])],
    ),
    "white in test": (
        lambda root: save(np.full((64, 64, 3), 255, np.uint8), root / CUT / "0.png"),
        [("warning", "constant", "1 image of one single colour", ["test/cut/0.png"])],
    ),
    "copies of black are no copies": (
        lambda root: [
            save(np.zeros((64, 64, 3), np.uint8), root / TRAIN / f"{index}.png") for index in (9, 10)
        ],
        [("error", "constant", "2 images of one single", ["train/good/9.png", "train/good/10.png"])],
    ),
    "mask without image": (
        lambda root: save(mask(), root / TRUTH / "9_mask.png"),
        [("warning", "mask-without-image", "1 mask without an image", ["ground_truth/cut/9_mask.png"])],
    ),
    "masks of a class that is not tested": (
        lambda root: save(mask(), root / "ground_truth" / "bent" / "0_mask.png"),
        [("warning", "mask-without-image", "ground_truth/bent/0_mask.png", ["ground_truth/bent/0_mask.png"])],
    ),
    "image without mask": (
        lambda root: (root / TRUTH / "2_mask.png").unlink(),
        [("warning", "image-without-mask", "1 bad image without a mask", ["test/cut/2.png"])],
    ),
    "no masks at all": (
        lambda root: shutil.rmtree(root / "ground_truth"),
        [
            (
                "note",
                "no-masks",
                "pixel metrics can't be computed",
                ["test/cut/0.png", "test/cut/1.png", "test/cut/2.png"],
            )
        ],
    ),
    "mask named like its image": (
        lambda root: (root / TRUTH / "2_mask.png").rename(root / TRUTH / "2.png"),
        [],
    ),
    "masks in a folder named like their image": (
        lambda root: (
            (root / TRUTH / "2").mkdir(),
            (root / TRUTH / "2_mask.png").rename(root / TRUTH / "2" / "000.png"),
            save(mask(), root / TRUTH / "2" / "001.png"),
        ),
        [],
    ),
    "one of several masks of another size": (
        lambda root: (
            (root / TRUTH / "2").mkdir(),
            (root / TRUTH / "2_mask.png").rename(root / TRUTH / "2" / "000.png"),
            save(mask(32, 32), root / TRUTH / "2" / "001.png"),
        ),
        [("error", "mask-size", "1 mask of another size than the image", ["ground_truth/cut/2/001.png"])],
    ),
    "mask of another size": (
        lambda root: save(mask(32, 32), root / TRUTH / "0_mask.png"),
        [("error", "mask-size", "1 mask of another size than the image", ["ground_truth/cut/0_mask.png"])],
    ),
    "empty mask": (
        lambda root: save(np.zeros((64, 64), np.uint8), root / TRUTH / "0_mask.png"),
        [("warning", "empty-mask", "1 mask without a defect", ["ground_truth/cut/0_mask.png"])],
    ),
    "full mask": (
        lambda root: save(np.full((64, 64), 1, np.uint8), root / TRUTH / "0_mask.png"),
        [("warning", "full-mask", "that are a defect all over", ["ground_truth/cut/0_mask.png"])],
    ),
    "mask as jpeg": (
        lambda root: [
            (root / TRUTH / "0_mask.png").unlink(),
            save(mask(), root / TRUTH / "0_mask.jpg", quality=70),
        ],
        [("note", "lossy-mask", "read from level 128 of 255 on", ["ground_truth/cut/0_mask.jpg"])],
    ),
    "defects in good parts": (
        lambda root: save(mask(), root / "ground_truth" / "good" / "0_mask.png"),
        [("warning", "good-mask", "1 mask with defects for parts that count as good", [])],
    ),
    "empty masks of good parts": (
        lambda root: save(mask() * 0, root / "ground_truth" / "good" / "0_mask.png"),
        [],
    ),
    "same file in train and test": (
        lambda root: shutil.copy(root / TRAIN / "4.png", root / "test" / "good" / "44.png"),
        [
            (
                "error",
                "train-in-test",
                "1 image in train and in test, .*: train/good/4.png = test/good/44.png",
                ["train/good/4.png", "test/good/44.png"],
            )
        ],
    ),
    "same pixels in another file": (
        lambda root: save(texture(4), root / "test" / "good" / "44.png", compress_level=0),
        [("error", "train-in-test", "train/good/4.png = test/good/44.png", [])],
    ),
    "good and bad at once": (
        lambda root: shutil.copy(root / CUT / "0.png", root / "test" / "good" / "9.png"),
        [
            (
                "error",
                "contradiction",
                "1 image in test as good and as bad: test/cut/0.png = test/good/9.png",
                [],
            )
        ],
    ),
    "twice in train": (
        lambda root: [
            shutil.copy(root / TRAIN / "4.png", root / TRAIN / f"{index}.png") for index in (70, 71)
        ],
        [
            (
                "warning",
                "duplicate",
                "1 image in train more than once, .*: train/good/4.png = train/good/70.png = train/good/71.png",
                ["train/good/4.png", "train/good/70.png", "train/good/71.png"],
            )
        ],
    ),
    "twice in test": (
        lambda root: shutil.copy(root / "test" / "good" / "0.png", root / "test" / "good" / "9.png"),
        [("note", "duplicate-in-test", "test/good/0.png = test/good/9.png", [])],
    ),
    "brightened copy in train": (
        lambda root: brighter_copy(root / TRAIN / "4.png", root / TRAIN / "70.png"),
        [
            (
                "warning",
                "near-duplicate",
                "1 pair in train that differ by no more than .*: train/good/4.png = train/good/70.png",
                ["train/good/4.png", "train/good/70.png"],
            )
        ],
    ),
    "shifted copy in test": (
        lambda root: shifted_copy(root / TRAIN / "4.png", root / "test" / "good" / "9.png"),
        [
            (
                "warning",
                "near-duplicate-in-test",
                "1 pair across train and test .*train/good/4.png = test/good/9.png",
                ["train/good/4.png", "test/good/9.png"],
            )
        ],
    ),
    "shifted copy within test": (
        lambda root: shifted_copy(root / "test" / "good" / "0.png", root / "test" / "good" / "9.png"),
        [],
    ),
    "few": (
        lambda root: [(root / TRAIN / f"{index}.png").unlink() for index in range(10, 60)],
        [("note", "few", "10 good images to learn from; with 50 or more", [])],
    ),
    "too few": (
        lambda root: [(root / TRAIN / f"{index}.png").unlink() for index in range(9, 60)],
        [("warning", "too-few", "9 good images are too few", [])],
    ),
    "none": (
        lambda root: shutil.rmtree(root / TRAIN),
        [("error", "too-few", "no readable image of a good part", [])],
    ),
    "no good test image": (
        lambda root: shutil.rmtree(root / "test" / "good"),
        [("note", "no-good-test", "no good image to test on", [])],
    ),
    "no bad test image": (
        lambda root: [shutil.rmtree(root / CUT), shutil.rmtree(root / TRUTH)],
        [("note", "no-bad-test", "no bad image to test on", [])],
    ),
    "no test folder": (
        lambda root: [shutil.rmtree(root / "test"), shutil.rmtree(root / "ground_truth")],
        [],
    ),
    "Good instead of good": (
        lambda root: (root / "test" / "good").rename(root / "test" / "Good"),
        [
            ("note", "folder-name", "test/Good is taken for good parts", []),
        ],
    ),
    "ok instead of good": (
        lambda root: save(texture(300), root / "test" / "OK" / "0.png"),
        [
            ("note", "folder-name", "test/OK is taken for good parts", ["test/OK/0.png"]),
        ],
    ),
    "another folder in train": (
        lambda root: save(texture(300), root / "train" / "bad" / "0.png"),
        [("warning", "unused", "1 image not used; expected in train/good.*: train/bad/0.png", [])],
    ),
    "image beside the folders": (
        lambda root: [save(texture(300), root / "overview.png"), save(texture(301), root / "test" / "1.png")],
        [
            (
                "warning",
                "unused",
                "2 images not used.*: overview.png, test/1.png",
                ["overview.png", "test/1.png"],
            )
        ],
    ),
    "folders within": (lambda root: save(texture(300), root / TRAIN / "monday" / "1.png"), []),
    "an image that can't be read by its suffix": (
        lambda root: (root / TRAIN / "a.heic").write_text("x"),
        [("warning", "other-file", "1 file passed over", ["train/good/a.heic"])],
    ),
    "other files": (
        lambda root: [
            (root / TRAIN / name).write_text("x") for name in ("a.txt", "b.md", "Thumbs.db", ".DS_Store")
        ],
        [("note", "other-file", "2 files passed over", ["train/good/a.txt", "train/good/b.md"])],
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_findings(name: str, root: Path) -> None:
    spoil, expected = SPOILT[name]
    spoil(root)

    found = {finding.kind: finding for finding in check_dataset(root)}

    assert sorted(found) == sorted(kind for _, kind, _, _ in expected)
    for severity, kind, message, paths in expected:
        finding = found[kind]
        assert finding.severity == severity
        assert_matches(message, finding)
        if paths:
            assert [path.relative_to(root).as_posix() for path in finding.paths] == paths


def assert_matches(pattern: str, finding: Finding) -> None:
    assert re.search(pattern, finding.message), finding.message


def test_errors_come_first(root: Path) -> None:
    (root / TRAIN / "a.txt").write_text("x", encoding="utf-8")
    save(mask(32, 32), root / TRUTH / "0_mask.png")
    save(texture(5, 80, 72), root / TRAIN / "5.png")

    assert [finding.severity for finding in check_dataset(root)] == ["error", "warning", "note"]


def test_sizes_without_a_majority(root: Path) -> None:
    for index in range(40):
        save(texture(index, 64 + index, 64), root / TRAIN / f"{index}.png")

    (finding,) = check_dataset(root)
    assert (finding.severity, finding.kind) == ("note", "size")
    assert "66 images of 40 sizes" in finding.message


def test_pixel_limit(root: Path) -> None:
    save(texture(5, 80, 80), root / TRAIN / "5.png")

    found = check_dataset(root, pixel_limit=64 * 64)

    assert [finding.kind for finding in found] == ["unreadable"]
    assert "--pixel-limit" in found[0].message


def test_many_files_are_named_by_a_few(root: Path) -> None:
    for index in range(40):
        save(texture(index, 32, 32), root / TRAIN / f"x{index}.png")
        (root / TRAIN / f"x{index}.png").write_bytes(b"no image")

    (finding,) = check_dataset(root)
    assert finding.message.startswith("train/good/x0.png, train/good/x1.png, train/good/x2.png and 37 more: ")
    assert len(finding.paths) == 40


def test_plain_folder(tmp_path: Path) -> None:
    for index in range(12):
        save(texture(index), tmp_path / f"{index}.png")
    save(texture(90), tmp_path / "rejects" / "0.png")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "3.png").write_bytes(b"")

    found = {finding.kind: finding for finding in check_dataset(tmp_path)}

    assert sorted(found) == ["empty-file", "few", "other-file", "unused"]
    assert "11 good images" in found["few"].message
    assert found["unused"].paths == (tmp_path / "rejects" / "0.png",)


def test_a_single_file(tmp_path: Path) -> None:
    save(texture(1), tmp_path / "part.png")

    assert [finding.kind for finding in check_dataset(tmp_path / "part.png")] == ["too-few"]


def test_a_relative_path(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sound)

    assert check_dataset(".") == []


def test_near_copies_among_very_many_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "COMPARED", 20)
    brighter_copy(root / TRAIN / "4.png", root / TRAIN / "70.png")

    (finding,) = check_dataset(root)
    assert finding.kind == "not-compared"
    assert "the first 20 of 67 images" in finding.message


def test_images_that_all_look_alike(mini_dataset: Path) -> None:
    assert [finding.kind for finding in check_dataset(mini_dataset)] == ["alike", "few"]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["metal_nut", "grid_256"])
def test_real_datasets_are_sound(shared: Path, name: str) -> None:
    assert check_dataset(shared / "mvtec_ad" / name) == []
