"""Masks under other names: matched where that leaves no doubt, else left alone with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_bytes import saved

from goodparts.data.images import read_mask
from goodparts.data.masks import match_masks


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def matched(root: Path, images: list[str], masks: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The masks of each image, and why others were not matched; images below test, masks below ground_truth."""
    touch(root / "test", *images)
    touch(root / "ground_truth", *masks)
    by_class: dict[Path, list[Path]] = {}
    for name in images:
        by_class.setdefault(root / "test" / name.split("/")[0], []).append(root / "test" / name)
    found = match_masks(by_class, root / "ground_truth")
    test, truth = root / "test", root / "ground_truth"
    return (
        {
            image.relative_to(test).as_posix(): [mask.relative_to(truth).as_posix() for mask in masks]
            for image, masks in found.masks.items()
        },
        {mask.relative_to(truth).as_posix(): why for mask, why in found.unmatched.items()},
    )


@pytest.mark.parametrize(
    "mask",
    [
        "cut/007_mask.png",
        "cut/007.png",
        "cut/007/a.png",
        "cut/007_Mask.png",
        "cut/mask_007.png",
        "cut/7_mask.png",
        "cut/7.png",
        "cut/0007-GT.bmp",
        "cut/007.png_mask.png",
        "cut/007_mask.gif",
        "cut/007_label.tif",
        "Cut/007_mask.png",
        "007_mask.png",
        "cut_007_mask.png",
        "7.gif",
    ],
)
def test_names_that_can_mean_one_image_only(mask: str, tmp_path: Path) -> None:
    found, unmatched = matched(tmp_path, ["cut/007.png", "cut/008.png"], [mask])

    assert found == {"cut/007.png": [mask]}
    assert unmatched == {}


def test_case_of_the_image(tmp_path: Path) -> None:
    assert matched(tmp_path, ["cut/Part_A.PNG"], ["cut/part_a_mask.png"])[0] == {
        "cut/Part_A.PNG": ["cut/part_a_mask.png"]
    }


@pytest.mark.parametrize(
    ("images", "masks", "why"),
    [
        (["cut/1.png"], ["cut/2_mask.png"], "no image in test/cut has that name"),
        (["cut/01.png", "cut/1.png"], ["cut/001_mask.png"], r"it could be of cut/01.png and cut/1.png"),
        (["cut/1.png", "dent/1.png"], ["1_mask.png"], "it could be of cut/1.png and dent/1.png"),
        (["cut/1.png"], ["dent/1_mask.png"], "there is no folder test/dent of bad parts"),
    ],
)
def test_what_leaves_doubt_is_named(images: list[str], masks: list[str], why: str, tmp_path: Path) -> None:
    assert matched(tmp_path, images, masks) == ({}, dict.fromkeys(masks, why))


def test_two_masks_that_both_could_be_it(tmp_path: Path) -> None:
    found, unmatched = matched(tmp_path, ["cut/1.png"], ["cut/001_mask.png", "cut/mask_1.png"])

    assert found == {}
    assert set(unmatched.values()) == {"2 masks could be of 1.png"}


def test_the_name_of_mvtec_ad_goes_before_others(tmp_path: Path) -> None:
    found, unmatched = matched(tmp_path, ["cut/1.png"], ["cut/1_mask.png", "cut/mask_01.png"])

    assert found == {"cut/1.png": ["cut/1_mask.png"]}
    assert unmatched == {"cut/mask_01.png": "its image has another mask"}


DEFECT = np.zeros((40, 60), bool)
DEFECT[10:25, 20:50] = True
LEVELS = DEFECT * np.uint8(255)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (saved(LEVELS, "JPEG", quality=60), 0.01),
        (saved(LEVELS, "WEBP", quality=40), 0.01),
        (saved(LEVELS, "TIFF", compression="jpeg"), 0.01),
        (saved(LEVELS, "GIF"), 0),
        (saved(DEFECT * np.uint8(1), "WEBP", lossless=True), 0),
        (saved(DEFECT * np.uint8(1), "JPEG2000"), 0),
        (saved(np.dstack([LEVELS * 0, LEVELS * 0, LEVELS * 0, LEVELS]), "PNG"), 0),
        (saved(np.dstack([LEVELS * 0, LEVELS // 2]), "PNG"), 0),
    ],
    ids=[
        "jpeg",
        "webp",
        "tiff with jpeg",
        "gif",
        "lossless webp",
        "jpeg 2000",
        "black on nothing",
        "half see-through",
    ],
)
def test_masks_of_other_formats(data: bytes, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(data)

    assert (read_mask(path) != DEFECT).mean() <= tolerance
