"""The layout of MVTec AD, plain folders, and every way to get them wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from goodparts.data.dataset import Dataset, TestSample, good_images, hash_file_list, read_dataset
from goodparts.data.folders import list_files, list_images, natural_key
from goodparts.data.masks import find_masks
from goodparts.errors import DatasetError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


# ---- listing -----------------------------------------------------------------------------------------


def test_natural_order() -> None:
    ordered = [
        "1.png",
        "2.png",
        "10.png",
        "010.jpg",
        "a/part2.png",
        "a/part10.png",
        "A/part11.png",
        "a-b/part1.png",
        "part1_2.png",
        "part1_10.png",
        "part2.png",
        "Part3.png",
        "part20.png",
        "part.png",
        "ä1.png",
    ]
    ordered.sort(key=lambda name: natural_key(Path(name)))
    shuffled = random.Random(3).sample(ordered, len(ordered))

    assert sorted(shuffled, key=lambda name: natural_key(Path(name))) == ordered
    for earlier, later in [
        ("2.png", "10.png"),
        ("part2.png", "Part3.png"),
        ("Part3.png", "part20.png"),
        ("a/part2.png", "a/part10.png"),
        ("a/part10.png", "A/part11.png"),
        ("part1_2.png", "part1_10.png"),
        ("a/part2.png", "a-b/part1.png"),
        ("x/9/1.png", "x/10/0.png"),
    ]:
        assert natural_key(Path(earlier)) < natural_key(Path(later)), (earlier, later)


def test_list_images_passes_over_what_is_none(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("10.png", "9.PNG", "8.jpeg", "7.TIF", "6.webp", "5.bmp", "4.tiff", "3.JPG"),
        *("notes.txt", "no_suffix", ".hidden.png", "._9.png", "Thumbs.db", ".DS_Store", "desktop.ini"),
        *("deeper/1.png", ".cache/2.png", "__MACOSX/3.png"),
    )

    assert names(list_images(tmp_path), tmp_path) == [
        *("3.JPG", "4.tiff", "5.bmp", "6.webp", "7.TIF", "8.jpeg", "9.PNG", "10.png")
    ]
    assert names(list_images(tmp_path, recursive=True), tmp_path)[-1] == "deeper/1.png"
    assert len(list_images(tmp_path, recursive=True)) == 9
    assert {"notes.txt", "no_suffix"} < set(names(list_files(tmp_path), tmp_path))
    assert not {"Thumbs.db", ".DS_Store", "desktop.ini"} & set(names(list_files(tmp_path), tmp_path))


def test_a_folder_called_like_an_image_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "folder.png/1.png", "2.png")

    assert names(list_images(tmp_path), tmp_path) == ["2.png"]


def test_a_missing_folder_has_no_images(tmp_path: Path) -> None:
    assert list_images(tmp_path / "missing") == []


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "elsewhere/2.png")
    try:
        (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "a" / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("links are not permitted here")

    found = list_images(tmp_path / "a", recursive=True)

    assert sorted(path.name for path in found) == ["1.png", "2.png"]


# ---- the layout --------------------------------------------------------------------------------------


def test_read_dataset(mini_dataset: Path) -> None:
    dataset = read_dataset(mini_dataset)

    assert dataset.name == "mini"
    assert dataset.root == mini_dataset
    assert [path.name for path in dataset.train] == [f"{index:03d}.png" for index in range(16)]
    assert [(sample.defect_class, sample.label) for sample in dataset.test] == (
        [("good", False)] * 6 + [("scratch", True)] * 3 + [("stain", True)] * 3
    )
    for sample in dataset.test:
        if sample.label:
            expected = mini_dataset / "ground_truth" / sample.defect_class / f"{sample.path.stem}_mask.png"
            assert sample.masks == (expected,)
        else:
            assert sample.masks == ()


def test_masks_are_found_by_either_name(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("train/good/0.png", "test/cut/0.png", "test/cut/1.jpg", "test/cut/2.png", "test/cut/3.png"),
        *("test/good/0.png", "ground_truth/good/0_mask.png"),
        *("ground_truth/cut/0_mask.png", "ground_truth/cut/1.bmp", "ground_truth/cut/2.png"),
        *("ground_truth/cut/2_mask.png", "test/cut/4.png", "test/cut/5.png"),
        *("ground_truth/cut/4/001.png", "ground_truth/cut/4/000.png", "ground_truth/cut/5/note.txt"),
    )

    masks = {
        (sample.defect_class, sample.path.name): " ".join(mask.name for mask in sample.masks)
        for sample in read_dataset(tmp_path).test
    }

    assert masks == {
        ("cut", "0.png"): "0_mask.png",
        ("cut", "1.jpg"): "1.bmp",
        ("cut", "2.png"): "2_mask.png",
        ("cut", "3.png"): "",  # bad without a mask
        ("cut", "4.png"): "000.png 001.png",  # several, in a folder
        ("cut", "5.png"): "",
        ("good", "0.png"): "",  # good has none even where a file lies
    }
    assert find_masks(tmp_path / "nowhere") == {}


def test_the_name_is_the_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "nut", "train/good/0.png", "test/good/0.png")
    monkeypatch.chdir(tmp_path / "nut" / "train")

    assert read_dataset("..").name == "nut"
    assert read_dataset("../../nut/").name == "nut"
    monkeypatch.chdir(tmp_path / "nut")
    assert read_dataset(".") == Dataset(
        name="nut",
        root=Path(),
        train=(Path("train/good/0.png"),),
        test=(TestSample(Path("test/good/0.png"), "good", False),),
    )


def test_hidden_and_empty_classes_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png", "test/good/0.png", "test/.trash/1.png", "test/new/readme.txt")

    assert {sample.defect_class for sample in read_dataset(tmp_path).test} == {"good"}


def test_fit_needs_no_test_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png")

    assert read_dataset(tmp_path, require_test=False).test == ()
    with pytest.raises(DatasetError, match=r"no images to test on.*no folder `test`"):
        read_dataset(tmp_path)


def test_evaluation_needs_no_train_folder(tmp_path: Path) -> None:
    touch(tmp_path / "nut", "test/good/0.png", "test/cut/0.png")

    dataset = read_dataset(tmp_path / "nut", require_train=False)

    assert dataset.train == ()
    assert [sample.label for sample in dataset.test] == [True, False]
    with pytest.raises(DatasetError, match="not a data set"):
        read_dataset(tmp_path / "nut")
    with pytest.raises(DatasetError, match="holds several data sets; choose one of nut"):
        read_dataset(tmp_path, require_train=False)


WRONG: dict[str, tuple[tuple[str, ...], str, str]] = {
    "missing": ((), "nut", "nut: no such folder.*exists, but has no nut"),
    "similar": (
        ("metal_nut/train/good/0.png",),
        "metalnut",
        "no such folder.*holds metal_nut: did you mean that",
    ),
    "other case": (("Metal_Nut/a.png",), "metal_nuts", "holds Metal_Nut: did you mean that"),
    "deep": (("data/x.txt",), "data/nut/red", r"data exists, but has no nut$"),
    "a file": (("nut.zip",), "nut.zip", "is a file; expected a folder"),
    "empty folder": (("nut/.keep",), "nut", "not a data set; expected train/good.*found nothing"),
    "other layout": (
        ("nut/OK/0.png", "nut/NOK/0.png", "nut/readme.txt"),
        "nut",
        "not a data set; .*found NOK/, OK/ and readme.txt",
    ),
    "parent of data sets": (
        ("all/nut/train/good/0.png", "all/screw/train/good/0.png", "all/notes/a.txt"),
        "all",
        "holds several data sets; choose one of nut, screw$",
    ),
    "train without good": (("nut/train/bad/0.png",), "nut", "no folder `good`.*found bad/"),
    "train with the images": (
        ("nut/train/0.png", "nut/train/1.png"),
        "nut",
        "no folder `good`.*found 2 files such as 0.png",
    ),
    "one folder too deep": (
        ("nut/train/good/0.png",),
        "nut/train",
        r"not a data set; .*found good/\. Did you mean .*nut\?$",
    ),
    "nothing to learn from": (
        ("nut/train/good/0.heic", "nut/test/good/0.png"),
        "nut",
        r"train/good: no images to learn from; expected files ending in \.apng, \.bmp.*found 0\.heic",
    ),
    "nothing to test on": (
        ("nut/train/good/0.png", "nut/test/0.png"),
        "nut",
        "no images to test on; .*found 0.png",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_dataset(case: str, tmp_path: Path) -> None:
    files, root, message = WRONG[case]
    touch(tmp_path, *files)

    with pytest.raises(DatasetError, match=message.replace("train/good:", r"train.good:")) as caught:
        read_dataset(tmp_path / root)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["good", "Good", "OK", "ok", "normal", "iO"])
def test_other_words_for_good_mean_good(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"train/{name}/0.png", f"test/{name}/0.png", "test/NG/0.png")

    data = read_dataset(tmp_path)

    assert [path.parent.name for path in data.train] == [name]
    assert [
        (sample.defect_class, sample.label) for sample in data.test if sample.path.parent.name == name
    ] == [("good", False)]
    assert good_images(tmp_path) == data.train


def test_a_link_to_where_the_data_lies_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png", "test/good/0.png", "test/cut/1.png")
    try:
        (tmp_path / "test" / "loop").symlink_to(tmp_path)
        (tmp_path / "test" / "good" / "loop").symlink_to(tmp_path)
    except OSError:
        pytest.skip("no links here")

    assert [sample.defect_class for sample in read_dataset(tmp_path).test] == ["cut", "good"]


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("train/good/cam1/0.png", "train/good/cam2/0.png", "test/good/cam1/0.png", "test/cut/0.png"),
        *("test/cut/cam1/0.png", "ground_truth/cut/cam1/0_mask.png", "test/good/@eaDir/0.png/thumb.jpg"),
    )

    data = read_dataset(tmp_path)

    assert len(data.train) == 2
    assert {sample.path.relative_to(tmp_path).as_posix(): bool(sample.masks) for sample in data.test} == {
        "test/cut/0.png": False,
        "test/cut/cam1/0.png": True,
        "test/good/cam1/0.png": False,
    }


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(
    mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object = ".") -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)

    with pytest.raises(DatasetError, match=r"good: the folder can't be read \(Permission denied\)"):
        read_dataset(mini_dataset)


# ---- good images -------------------------------------------------------------------------------------


def test_good_images_of_a_dataset_a_folder_and_a_file(mini_dataset: Path, tmp_path: Path) -> None:
    touch(tmp_path / "plain", "2.png", "10.png", "rejects/1.png", "notes.txt")

    assert good_images(mini_dataset) == read_dataset(mini_dataset).train
    assert good_images(mini_dataset / "train" / "good") == good_images(mini_dataset)
    assert names(list(good_images(tmp_path / "plain")), tmp_path / "plain") == ["2.png", "10.png"]
    assert good_images(str(tmp_path / "plain" / "2.png")) == (tmp_path / "plain" / "2.png",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("rejects/0.png", "good/0.png"), "only in folders below it; choose .*: good, rejects"),
        (("readme.txt",), "no images; expected files ending in .*found readme.txt"),
        (("nut/train/good/0.png",), "holds several data sets; choose one of nut"),
        (("train/bad/0.png",), "no folder `good`"),
    ],
)
def test_good_images_that_are_not_there(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        good_images(touch(tmp_path, *files))


def test_good_images_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        good_images(tmp_path / "missing")


# ---- hash --------------------------------------------------------------------------------------------


def test_hash_file_list(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a/1.png", "b.png")
    touch(tmp_path / "two", "a/1.png", "b.png")

    def of(folder: str) -> str:
        return hash_file_list(list_images(tmp_path / folder, recursive=True), tmp_path / folder)

    before = of("one")
    # printf 'a/1.png\\0007\\nb.png\\0005\\n' | sha256sum
    assert before == "14ab18f95d1c6d370fc7614c8fb1c424164fd0711e3c889cb0ee06df7ced3866"
    assert before == of("two")
    files = list_images(tmp_path / "one", recursive=True)
    assert hash_file_list(files[::-1], tmp_path / "one") == before
    (tmp_path / "two" / "b.png").write_bytes(b"longer than before")
    assert of("two") != before
    (tmp_path / "one" / "b.png").rename(tmp_path / "one" / "c.png")
    assert of("one") != before
    with pytest.raises(ValueError, match="one"):
        hash_file_list(files, tmp_path / "two")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "train", "good", "bad"), [("metal_nut", 220, 22, 93), ("grid_256", 264, 21, 57)]
)
def test_real_datasets(shared: Path, name: str, train: int, good: int, bad: int) -> None:
    dataset = read_dataset(shared / "mvtec_ad" / name)

    assert len(dataset.train) == train
    assert sum(not sample.label for sample in dataset.test) == good
    assert sum(len(sample.masks) for sample in dataset.test) == bad
