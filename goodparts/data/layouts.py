"""The layouts in which public data sets come, and plain folders of good and bad parts.

    for category in find_categories("mvtec_loco"):
        data, notes = read_category(category)

A root is a category itself or holds some, each with its own images to learn from and to test on. Readers open no
image, but for KolektorSDD and KolektorSDD2, which say only in their masks which parts are bad.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from goodparts.data.dataset import (
    GOOD_CLASS,
    Dataset,
    TestSample,
    enumerate_names,
    existing_folder,
    folder_contents,
    list_samples,
    read_dataset,
)
from goodparts.data.folders import list_folders, list_images
from goodparts.data.images import read_mask
from goodparts.errors import DatasetError

AUTO = "auto"
TEST_SHARE = 5  # where no split is published, every fifth good part is tested on

_MPDD = {"bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"}
_LOGICAL_STRUCTURAL = ("logical_anomalies", "structural_anomalies")
_NO_CATEGORY = {"train", "validation", "test", "test_public", "ground_truth"}  # parts of one
_VISA_SPLIT = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_NO_VALIDATION = "validation/good is not used"


@dataclass(frozen=True)
class Layout:
    """How the files of one category lie.

    Attributes:
        name: as `--layout` takes it.
        title: name of the data set that introduced it.
        expected: what a category holds, in words.
        recognises: whether a folder is a category.
        read: lists its files; DatasetError where they are not as expected.
        remarks: what is to be known about figures measured on it.
    """

    name: str
    title: str
    expected: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Category:
    """One category that was found: its own name, its folder and its layout."""

    name: str
    folder: Path
    layout: Layout


def find_categories(root: str | os.PathLike[str], layout: str = AUTO) -> list[Category]:
    """Find the categories of a data set, in natural order; no file list is read yet.

    Args:
        root: the folder that holds the categories, or is one.
        layout: name of a layout, or `auto` to recognise that of each category.

    Raises:
        DatasetError: no such folder or layout, or no category in it.
    """
    root = _located(root)
    names = [known.name for known in LAYOUTS]
    if layout not in (AUTO, *names):
        raise DatasetError(f"--layout: expected {AUTO} or one of {', '.join(names)}, found {layout!r}")
    candidates = [known for known in LAYOUTS if layout in (AUTO, known.name)]
    inside = [folder for folder in list_folders(root) if folder.name not in _NO_CATEGORY]
    for folders in ([root], inside):
        found = [
            Category(folder.name or "dataset", folder, known)
            for folder in folders
            if (known := next((each for each in candidates if each.recognises(folder)), None)) is not None
        ]
        if found:
            return found
    expected = "\n".join(f"  {known.name:14} {known.expected}" for known in candidates)
    raise DatasetError(
        f"{root}: neither a category nor a folder of categories; expected for each category\n{expected}\n"
        f"found {folder_contents(root)}. Choose the folder that holds the categories, or one of them"
    )


def layout_summary(categories: list[Category]) -> str:
    """Say which layouts were recognised, and where: `MVTec AD (grid, metal_nut)`."""
    names: dict[str, list[str]] = {}
    for category in categories:
        names.setdefault(category.layout.title, []).append(category.name)
    return "; ".join(f"{title} ({enumerate_names(found)})" for title, found in names.items())


def not_recognised(root: str | os.PathLike[str], categories: list[Category]) -> list[str]:
    """Return the names of the folders in a root that are no category although others are."""
    known = {category.folder for category in categories}
    root = _located(root)
    inside = [] if root in known else list_folders(root)
    return [path.name for path in inside if path not in known and path.name != _VISA_SPLIT.parts[0]]


def read_category(category: Category) -> tuple[Dataset, tuple[str, ...]]:
    """List the files of a category.

    Returns:
        the data set, and notes: the remarks of its layout, then which metrics are undefined or partial, and why.

    Raises:
        DatasetError: files are missing or not as the layout has them.
        ImageError: a mask that says whether a part is bad can't be read.
    """
    data = category.layout.read(category.folder)
    if not data.train or not data.test:
        what = "to test on" if data.train else "of good parts to learn from"
        raise DatasetError(
            f"{category.folder}: no images {what}; expected {category.layout.expected}, "
            f"found {folder_contents(category.folder)}"
        )
    return data, (*category.layout.remarks, *_undefined(data))


def _located(root: str | os.PathLike[str]) -> Path:
    """An existing folder with a name of its own and a parent, links kept where possible."""
    root = existing_folder(root)
    return root.resolve() if root.name in ("", "..") else root.absolute()


def _undefined(data: Dataset) -> Iterator[str]:
    bad = sum(sample.label for sample in data.test)
    masked = sum(bool(sample.masks) for sample in data.test)
    if not bad:
        yield "no bad parts to test on: only false rejects are defined"
        return
    if bad == len(data.test):
        yield "no good parts to test on: image metrics are undefined, but for misses"
    if not masked:
        yield "no masks: pixel metrics are undefined"
    elif masked < bad:
        yield f"{bad - masked} of {bad} bad parts have no mask and are left out of pixel metrics"


# ---- MVTec AD and its relatives ----------------------------------------------------------------------


def _is_mvtec_ad(folder: Path) -> bool:
    parts = ("test", "ground_truth")
    return (folder / "train" / GOOD_CLASS).is_dir() or all((folder / part).is_dir() for part in parts)


def _is_mpdd(folder: Path) -> bool:
    return folder.name in _MPDD and _is_mvtec_ad(folder)


def _is_loco(folder: Path) -> bool:
    return any((folder / "test" / name).is_dir() for name in _LOGICAL_STRUCTURAL)


def _is_mvtec_ad_2(folder: Path) -> bool:
    return (folder / "test_public").is_dir()


def _read_mvtec_ad_2(folder: Path) -> Dataset:
    public = folder / "test_public"
    return _read_parts(folder, public, public / "ground_truth", GOOD_CLASS)


def _is_btad(folder: Path) -> bool:
    return any((folder / part / "ok").is_dir() for part in ("train", "test"))


def _read_btad(folder: Path) -> Dataset:
    return _read_parts(folder, folder / "test", folder / "ground_truth", "ok")


def _read_parts(folder: Path, test: Path, truth: Path, good: str) -> Dataset:
    """List a category with a folder for each class in `test`; `good` is what it calls good parts."""
    samples = [
        sample
        for inner in list_folders(test)
        if inner != truth
        for sample in list_samples(
            inner, GOOD_CLASS if inner.name == good else inner.name, truth / inner.name
        )
    ]
    return _dataset(folder, list_images(folder / "train" / good), samples)


# ---- VisA --------------------------------------------------------------------------------------------


def _is_visa(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


def _read_visa(folder: Path) -> Dataset:
    """List what the one-class split of the whole data set says of this object."""
    root = folder.parent
    split = root / _VISA_SPLIT
    train, test = [], []
    for number, row in enumerate(_visa_rows(split), 2):
        if row["object"] != folder.name:
            continue
        paths = [root / row["image"], *([root / row["mask"]] if row["mask"] else [])]
        for path in paths:
            if not path.is_file():
                raise DatasetError(
                    f"{split}, line {number}: {path} is not there; the data set is not complete"
                )
        match row["split"], row["label"]:
            case "train", "normal":
                train += paths
            case "test", "normal":
                test.append(TestSample(paths[0], GOOD_CLASS, label=False))
            case "test", "anomaly":
                test.append(TestSample(paths[0], "anomaly", label=True, masks=tuple(paths[1:])))
            case kind:
                raise DatasetError(
                    f"{split}, line {number}: expected train normal, test normal or test anomaly, found {kind}"
                )
    return _dataset(folder, train, test)


def _visa_rows(split: Path) -> list[dict[str, str]]:
    try:
        with split.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream, restval="")
            missing = [column for column in _VISA_COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise DatasetError(f"{split}: no column {', '.join(missing)}; found {table.fieldnames}")
            return list(table)
    except FileNotFoundError:
        raise DatasetError(f"{split}: no such file; it comes with VisA and says what to learn from") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{split}: can't be read as a table: {error}") from None


# ---- KolektorSDD -------------------------------------------------------------------------------------


def _is_kolektor(folder: Path) -> bool:
    return bool(_kolektor_items(folder))


def _kolektor_items(folder: Path) -> list[Path]:
    return [item for item in list_folders(folder) if re.fullmatch(r"kos\d+", item.name, re.IGNORECASE)]


def _read_kolektor(folder: Path) -> Dataset:
    items = _kolektor_items(folder)
    tested = items[TEST_SHARE - 1 :: TEST_SHARE] or items[-1:]
    train, test = [], []
    for item in items:
        for image in list_images(item):
            if image.stem.endswith("_label"):
                continue
            sample = _judged_by_mask(image, image.with_name(f"{image.stem}_label.bmp"))
            if sample.label or item in tested:
                test.append(sample)
            else:
                train.append(image)
    return _dataset(folder, train, test)


def _is_kolektor_2(folder: Path) -> bool:
    return any(image.stem.endswith("_GT") for image in list_images(folder / "test"))


def _read_kolektor_2(folder: Path) -> Dataset:
    train, test = (
        [
            _judged_by_mask(image, image.with_name(f"{image.stem}_GT.png"))
            for image in list_images(folder / part)
            if "_GT" not in image.stem
        ]
        for part in ("train", "test")
    )
    return _dataset(folder, [sample.path for sample in train if not sample.label], test)


def _judged_by_mask(image: Path, mask: Path) -> TestSample:
    """The image is of a bad part if its mask marks anything."""
    if not mask.is_file():
        raise DatasetError(f"{mask}: no such file; expected one for {image.name}, black if the part is good")
    if read_mask(mask).any():
        return TestSample(image, "defect", label=True, masks=(mask,))
    return TestSample(image, GOOD_CLASS, label=False)


# ---- plain folders -----------------------------------------------------------------------------------


def _is_good_bad(folder: Path) -> bool:
    return (folder / GOOD_CLASS).is_dir() and (folder / "bad").is_dir()


def _read_good_bad(folder: Path) -> Dataset:
    good = list_samples(folder / GOOD_CLASS, GOOD_CLASS)
    if len(good) < TEST_SHARE:
        raise DatasetError(
            f"{folder / GOOD_CLASS}: {len(good)} images; expected {TEST_SHARE} or more, since every {TEST_SHARE}th is "
            "tested on and the others are learnt from"
        )
    truth = folder / "ground_truth"
    bad = list_samples(folder / "bad", "bad", truth / "bad")
    for inner in list_folders(folder / "bad"):
        bad += list_samples(inner, inner.name, truth / inner.name)
    train = [sample.path for number, sample in enumerate(good, 1) if number % TEST_SHARE]
    return _dataset(folder, train, [*good[TEST_SHARE - 1 :: TEST_SHARE], *bad])


def _dataset(folder: Path, train: list[Path], test: list[TestSample]) -> Dataset:
    return Dataset(folder.name or "dataset", folder, tuple(train), tuple(test))


LAYOUTS = (
    Layout(
        "mvtec_ad_2",
        "MVTec AD 2",
        "train/good, test_public/good, test_public/bad, test_public/ground_truth/bad/*_mask.png",
        _is_mvtec_ad_2,
        _read_mvtec_ad_2,
        ("test_public only: published figures are of test_private, whose labels are secret", _NO_VALIDATION),
    ),
    Layout(
        "mvtec_loco",
        "MVTec LOCO AD",
        "train/good, test/good, test/{logical,structural}_anomalies, ground_truth/<class>/<image>/000.png",
        _is_loco,
        read_dataset,
        (
            "pixel metrics are our own, with all masks of an image merged and without the saturation of regions, so "
            "they are not the sPRO that is published for MVTec LOCO AD",
            _NO_VALIDATION,
        ),
    ),
    Layout("btad", "BTAD", "train/ok, test/ok, test/ko, ground_truth/ko", _is_btad, _read_btad),
    Layout(
        "mpdd", "MPDD", f"the layout of mvtec_ad, named {', '.join(sorted(_MPDD))}", _is_mpdd, read_dataset
    ),
    Layout(
        "mvtec_ad",
        "MVTec AD",
        "train/good, test/good, test/<class of defect>, ground_truth/<class of defect>/*_mask.png",
        _is_mvtec_ad,
        read_dataset,
    ),
    Layout(
        "visa",
        "VisA",
        f"Data/Images/Normal, Data/Images/Anomaly, Data/Masks, and beside it {_VISA_SPLIT.as_posix()}",
        _is_visa,
        _read_visa,
    ),
    Layout(
        "kolektor_sdd2",
        "KolektorSDD2",
        "train/*.png and test/*.png, each with its *_GT.png",
        _is_kolektor_2,
        _read_kolektor_2,
        ("learnt from the good images of train alone; its bad ones are not used",),
    ),
    Layout(
        "kolektor_sdd",
        "KolektorSDD",
        "kos01/Part0.jpg with kos01/Part0_label.bmp, and so on",
        _is_kolektor,
        _read_kolektor,
        (f"tested on all bad images and the good ones of every {TEST_SHARE}th item: a split of our own",),
    ),
    Layout(
        "good_bad",
        "folders good and bad",
        "good/*, bad/* or bad/<class>/*, and ground_truth/<bad or class>/*_mask.png if there are masks",
        _is_good_bad,
        _read_good_bad,
        (f"every {TEST_SHARE}th good image, in natural order, is tested on, the others are learnt from",),
    ),
)
"""All layouts; the first that recognises a folder is taken."""
