"""Every layout as it lies on disk, in miniature."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodparts.data.dataset import Dataset
from goodparts.data.layouts import LAYOUTS, find_categories, layout_summary, not_recognised, read_category
from goodparts.errors import DatasetError
from goodparts.evaluation.evaluation import read_truth


def picture(path: Path, *marks: tuple[int, int], value: int = 255) -> None:
    """An 8 x 8 grey picture, black but for some pixels (row, column)."""
    pixels = np.zeros((8, 8), np.uint8)
    for mark in marks:
        pixels[mark] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tree(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


def read(root: Path, layout: str = "auto") -> tuple[Dataset, tuple[str, ...], str]:
    (category,) = find_categories(root, layout)
    return *read_category(category), category.layout.name


def files(data: Dataset) -> tuple[list[str], dict[str, str]]:
    """Images to learn from; and for each image to test on its class, then its masks. Posix, below the root."""
    root = data.root
    train = [path.relative_to(root).as_posix() for path in data.train]
    test = {}
    for sample in data.test:
        assert sample.label == (sample.defect_class != "good")
        masks = [mask.relative_to(root).as_posix() for mask in sample.masks]
        test[sample.path.relative_to(root).as_posix()] = " ".join([sample.defect_class, *masks])
    return train, test


def mvtec(root: Path) -> Path:
    return tree(
        root,
        *("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/cut/000.png"),
        "ground_truth/cut/000_mask.png",
    )


def test_mvtec_ad(tmp_path: Path) -> None:
    data, notes, layout = read(mvtec(tmp_path / "nut"))

    assert (layout, notes, data.name) == ("mvtec_ad", (), "nut")
    assert files(data) == (
        ["train/good/000.png", "train/good/001.png"],
        {"test/cut/000.png": "cut ground_truth/cut/000_mask.png", "test/good/000.png": "good"},
    )


def test_mpdd_is_known_by_the_names_of_its_categories(tmp_path: Path) -> None:
    mvtec(tmp_path / "bracket_black")
    mvtec(tmp_path / "mine")

    found = find_categories(tmp_path)

    assert [category.layout.name for category in found] == ["mpdd", "mvtec_ad"]
    assert layout_summary(found) == "MPDD (bracket_black); MVTec AD (mine)"
    assert [category.layout.name for category in find_categories(tmp_path, "mvtec_ad")] == ["mvtec_ad"] * 2


def test_mvtec_ad_2_is_measured_on_its_public_images(tmp_path: Path) -> None:
    tree(
        tmp_path / "can",
        *("train/good/000_regular.png", "validation/good/000_regular.png"),
        *("test_public/good/000_regular.png", "test_public/bad/000_overexposed.png"),
        "test_public/ground_truth/bad/000_overexposed_mask.png",
        *("test_private/000_regular.png", "test_private_mixed/000_mixed.png"),
    )

    data, notes, layout = read(tmp_path)

    assert layout == "mvtec_ad_2"
    assert files(data) == (
        ["train/good/000_regular.png"],
        {
            "test_public/bad/000_overexposed.png": (
                "bad test_public/ground_truth/bad/000_overexposed_mask.png"
            ),
            "test_public/good/000_regular.png": "good",
        },
    )
    assert any("test_private" in note for note in notes)
    assert any("validation/good" in note for note in notes)


def test_mvtec_loco_merges_the_masks_of_an_image(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "pushpins",
        *("train/good/000.png", "validation/good/000.png", "test/good/000.png"),
        *("test/logical_anomalies/000.png", "test/structural_anomalies/000.png"),
    )
    masks = root / "ground_truth" / "logical_anomalies" / "000"
    picture(masks / "000.png", (0, 0), value=205)
    picture(masks / "001.png", (0, 0), (3, 4), value=251)
    picture(root / "ground_truth" / "structural_anomalies" / "000" / "000.png", (7, 7), value=255)

    data, notes, layout = read(root)

    assert layout == "mvtec_loco"
    assert files(data)[0] == ["train/good/000.png"]
    assert files(data)[1] == {
        "test/good/000.png": "good",
        "test/logical_anomalies/000.png": (
            "logical_anomalies ground_truth/logical_anomalies/000/000.png "
            "ground_truth/logical_anomalies/000/001.png"
        ),
        "test/structural_anomalies/000.png": (
            "structural_anomalies ground_truth/structural_anomalies/000/000.png"
        ),
    }
    truths = {sample.defect_class: read_truth(sample) for sample in data.test}
    assert truths["good"] is None
    merged = truths["logical_anomalies"]
    assert merged is not None
    assert np.argwhere(merged).tolist() == [[0, 0], [3, 4]]
    assert any("sPRO" in note for note in notes)


def test_btad(tmp_path: Path) -> None:
    tree(
        tmp_path / "01",
        *("train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "ground_truth/ko/0000.png"),
    )
    tree(
        tmp_path / "03",
        *("train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "ground_truth/ko/0000.bmp"),
    )

    first, third = (read_category(category)[0] for category in find_categories(tmp_path, "auto"))

    assert files(first) == (
        ["train/ok/0000.bmp"],
        {"test/ko/0000.bmp": "ko ground_truth/ko/0000.png", "test/ok/0000.bmp": "good"},
    )
    assert files(third)[1]["test/ko/0000.bmp"] == "ko ground_truth/ko/0000.bmp"
    assert find_categories(tmp_path)[0].layout.name == "btad"


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


def visa(root: Path, split: str = VISA) -> Path:
    tree(
        root / "candle" / "Data",
        *("Images/Normal/0000.JPG", "Images/Normal/0001.JPG", "Images/Anomaly/000.JPG"),
        "Masks/Anomaly/000.png",
    )
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text(split)
    return root


@pytest.mark.parametrize("start", ["", "candle"])
def test_visa_follows_its_split(tmp_path: Path, start: str) -> None:
    data, notes, layout = read(visa(tmp_path) / start)

    assert (layout, notes, data.name) == ("visa", (), "candle")
    assert files(data) == (
        ["Data/Images/Normal/0000.JPG"],
        {
            "Data/Images/Normal/0001.JPG": "good",
            "Data/Images/Anomaly/000.JPG": "anomaly Data/Masks/Anomaly/000.png",
        },
    )
    assert not_recognised(tmp_path, find_categories(tmp_path)) == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (VISA.replace("test,normal", "test,odd"), r"1cls.csv, line 3: expected .* found .*odd"),
        (VISA.replace("Normal/0001", "Normal/0009"), r"line 3: .*0009.JPG is not there"),
        (VISA.replace("object,", "thing,"), r"no column object"),
        ("", r"no column object"),
        (VISA.replace("image,mask", "image"), r"no column mask"),
        (VISA.replace("candle,", "other,"), r"candle: no images of good parts to learn from"),
    ],
)
def test_a_bad_split_of_visa(tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(visa(tmp_path, split))


def test_visa_without_its_split(tmp_path: Path) -> None:
    shutil.rmtree(visa(tmp_path) / "split_csv")

    with pytest.raises(DatasetError, match=r"split_csv.*1cls.csv: no such file"):
        read(tmp_path)


def kolektor(root: Path) -> Path:
    for item in range(1, 7):
        for part in range(2):
            picture(root / f"kos{item:02}" / f"Part{part}.jpg")
            bad = [(2, 3)] if (item, part) == (3, 1) else []
            picture(root / f"kos{item:02}" / f"Part{part}_label.bmp", *bad)
    return root


@pytest.mark.parametrize("start", ["", "KolektorSDD"])
def test_kolektor_sdd_is_split_by_item(tmp_path: Path, start: str) -> None:
    kolektor(tmp_path / "KolektorSDD")

    data, notes, layout = read(tmp_path / start)

    assert (layout, data.name) == ("kolektor_sdd", "KolektorSDD")
    assert files(data) == (
        [
            *("kos01/Part0.jpg", "kos01/Part1.jpg", "kos02/Part0.jpg", "kos02/Part1.jpg", "kos03/Part0.jpg"),
            *("kos04/Part0.jpg", "kos04/Part1.jpg", "kos06/Part0.jpg", "kos06/Part1.jpg"),
        ],
        {
            "kos03/Part1.jpg": "defect kos03/Part1_label.bmp",
            "kos05/Part0.jpg": "good",
            "kos05/Part1.jpg": "good",
        },
    )
    assert "every 5th item" in notes[0]


def test_kolektor_sdd_needs_every_mask(tmp_path: Path) -> None:
    (kolektor(tmp_path) / "kos02" / "Part1_label.bmp").unlink()

    with pytest.raises(DatasetError, match=r"Part1_label.bmp: no such file.*Part1.jpg"):
        read(tmp_path)


def test_kolektor_sdd2_takes_its_labels_from_the_masks(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{part}/{number}.png" for part in ("train", "test") for number in (10, 9)))
    tree(tmp_path, "train/9_GT.png", "test/9_GT.png", "train/9_GT (copy).png")
    for part in ("train", "test"):
        picture(tmp_path / part / "10_GT.png", (1, 1))

    data, notes, layout = read(tmp_path)

    assert layout == "kolektor_sdd2"
    assert files(data) == (["train/9.png"], {"test/9.png": "good", "test/10.png": "defect test/10_GT.png"})
    assert "bad ones are not used" in notes[0]


def test_good_and_bad(tmp_path: Path) -> None:
    tree(tmp_path, *(f"good/{number}.png" for number in range(1, 12)))
    tree(tmp_path, "bad/1.png", "bad/cut/1.png", "ground_truth/cut/1_mask.png")

    data, notes, layout = read(tmp_path)

    assert layout == "good_bad"
    assert files(data) == (
        [f"good/{number}.png" for number in (1, 2, 3, 4, 6, 7, 8, 9, 11)],
        {
            "good/5.png": "good",
            "good/10.png": "good",
            "bad/1.png": "bad",
            "bad/cut/1.png": "cut ground_truth/cut/1_mask.png",
        },
    )
    assert notes[1] == "1 of 2 bad parts have no mask and are left out of pixel metrics"


def test_too_few_good_images_for_a_split(tmp_path: Path) -> None:
    tree(tmp_path, *(f"good/{number}.png" for number in range(4)), "bad/1.png")

    with pytest.raises(DatasetError, match=r"good: 4 images; expected 5 or more"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("gone", "note"),
    [
        ("ground_truth", "no masks: pixel metrics are undefined"),
        ("test/good", "no good parts to test on: image metrics are undefined, but for misses"),
        ("test/cut", "no bad parts to test on: only false rejects are defined"),
    ],
)
def test_what_is_undefined_is_said(tmp_path: Path, gone: str, note: str) -> None:
    shutil.rmtree(mvtec(tmp_path) / gone)

    assert read(tmp_path)[1] == (note,)


# ---- recognising -------------------------------------------------------------------------------------


def test_an_unknown_layout_is_told_with_all_that_are_known(tmp_path: Path) -> None:
    tree(tmp_path, "pictures/1.png", "2.png")

    with pytest.raises(DatasetError) as error:
        find_categories(tmp_path)

    assert all(layout.name in str(error.value) for layout in LAYOUTS)
    assert "found pictures/ and 2.png" in str(error.value)


def test_a_layout_that_was_asked_for_but_is_not_there(tmp_path: Path) -> None:
    mvtec(tmp_path)

    with pytest.raises(DatasetError, match=r"expected for each category\n  visa "):
        find_categories(tmp_path, "visa")
    with pytest.raises(DatasetError, match=r"--layout: expected auto or one of .*found 'coco'"):
        find_categories(tmp_path, "coco")
    with pytest.raises(DatasetError, match="no such folder"):
        find_categories(tmp_path / "nowhere")


def test_the_test_folder_of_a_category_is_no_category(tmp_path: Path) -> None:
    tree(tmp_path, "test/good/1.png", "test/bad/1.png")

    with pytest.raises(DatasetError, match="neither a category nor"):
        find_categories(tmp_path)


def test_a_damaged_category_is_found_all_the_same(tmp_path: Path) -> None:
    shutil.rmtree(mvtec(tmp_path / "a") / "train")
    mvtec(tmp_path / "b")
    tree(tmp_path, "notes/1.png")

    found = find_categories(tmp_path)

    assert [category.name for category in found] == ["a", "b"]
    assert not_recognised(tmp_path, found) == ["notes"]
    with pytest.raises(DatasetError, match="expected train/good"):
        read_category(found[0])


def test_a_root_given_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvtec(tmp_path / "nut")
    monkeypatch.chdir(tmp_path / "nut" / "train")

    assert find_categories("..")[0].name == "nut"
    monkeypatch.chdir(tmp_path / "nut")
    assert find_categories(".")[0].name == "nut"
    assert [category.name for category in find_categories("..")] == ["nut"]


def test_layouts_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(LAYOUTS)) == LAYOUTS
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
