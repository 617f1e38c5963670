"""Which images there are: the layout of MVTec AD, or a plain folder of good images.

The layout (Bergmann et al., "MVTec AD", CVPR 2019):

    root/train/good/*                            good images to learn from
    root/test/good/*, root/test/<class>/*        images to test on, one folder a class of defect
    root/ground_truth/<class>/<stem>_mask.png    where the defect is; `<stem>.png` will do, and so will a
                                                 folder `<stem>` of several masks, which are merged

A folder `ok`, `normal` or the like, in any case, is as good as `good` (`is_good`), and what lies in folders inside
(`test/good/cam1`) belongs to it. Masks of other names are matched where that leaves no doubt (`masks`). Files come in
natural order (`part2` before `part10`), the same on every platform. Hidden files, those of the system and files that
are no images are passed over; `goodparts.data.findings_by_name` reports them.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodparts.data.folders import list_files, list_folders, list_images
from goodparts.data.formats import IMAGE_SUFFIXES
from goodparts.data.masks import MaskGroup, match_folder, match_masks
from goodparts.errors import DatasetError

GOOD_CLASS = "good"
_WORDS_FOR_GOOD = frozenset({GOOD_CLASS, "ok", "okay", "io", "nominal", "normal", "pass", "passed"})


@dataclass(frozen=True)
class TestSample:
    """One labelled image to test on.

    Attributes:
        path: the image file.
        defect_class: name of its folder below `test/` ("good" for good parts).
        label: True for a bad part.
        masks: ground truth of a bad part, whatever any of them marks; none where there is none, or the part is good.
    """

    path: Path
    defect_class: str
    label: bool
    masks: tuple[Path, ...] = ()

    __test__ = False  # not a test case, whatever pytest thinks of the name


@dataclass(frozen=True)
class Dataset:
    """The files of a data set.

    Attributes:
        name: name of the root folder itself.
        root: the root folder, as given.
        train: good images to learn from.
        test: images to test on, class by class; empty where there is no test folder and none was required.
    """

    name: str
    root: Path
    train: tuple[Path, ...]
    test: tuple[TestSample, ...]


def read_dataset(
    root: str | os.PathLike[str], *, require_train: bool = True, require_test: bool = True
) -> Dataset:
    """List the files of a data set in the layout of MVTec AD; no image is opened.

    Args:
        root: the folder that holds `train` and `test`.
        require_train: whether a data set without training images is an error.
        require_test: whether a data set without test images is an error.

    Raises:
        DatasetError: the folder is missing, has another layout, or lacks images.
    """
    root = existing_folder(root)
    train = tuple(train_images(root))
    test = tuple(_test_samples(root))
    if not train and (require_train or not test):
        raise DatasetError(_no_training_images(root))
    if not test and require_test:
        found = folder_contents(root / "test") if (root / "test").is_dir() else "no folder `test`"
        raise DatasetError(
            f"{root}: no images to test on; expected test/good/* and test/<class of defect>/*, found {found}"
        )
    return Dataset(name=_name(root), root=root, train=train, test=test)


def good_images(source: str | os.PathLike[str]) -> tuple[Path, ...]:
    """List the good images to learn from.

    Args:
        source: the root of a data set (its `train/good` is used), a plain folder of good images (without what
            is in its subfolders), or a single file.

    Raises:
        DatasetError: there is no such file or folder, or no image in it.
    """
    path = Path(source)
    if path.is_file():
        return (path,)
    path = existing_folder(path, "file or folder")
    if (path / "train").is_dir():
        images = train_images(path)
        if not images:
            raise DatasetError(_no_training_images(path))
        return tuple(images)
    images = list_images(path)
    if images:
        return tuple(images)
    categories = _categories(path)
    if categories:
        raise DatasetError(f"{path}: holds several data sets; choose one of {enumerate_names(categories)}")
    filled = [folder.name for folder in list_folders(path) if list_images(folder, recursive=True)]
    if filled:
        raise DatasetError(
            f"{path}: no images in the folder itself, only in folders below it; choose the one that "
            f"holds the good images: {enumerate_names(filled)}"
        )
    raise DatasetError(
        f"{path}: no images; expected files ending in {_suffixes()}, or a data set with train/good, "
        f"found {folder_contents(path)}"
    )


def is_good(name: str) -> bool:
    """Whether a folder of this name holds good parts: `good`, `ok`, `normal` and the like, in any case."""
    return name.casefold() in _WORDS_FOR_GOOD


def train_images(root: Path) -> list[Path]:
    """List the images to learn from, in `train/good` or folders of a like name, and in folders inside."""
    folders = [folder for folder in list_folders(root / "train") if is_good(folder.name)]
    return [path for folder in folders for path in list_images(folder, recursive=True)]


def images_to_test(root: Path) -> dict[Path, list[Path]]:
    """List the images to test on by the folder of their class, those in folders inside, too.

    A link to a folder that `test` itself lies in is no class.
    """
    above = {(root / "test").resolve(), *(root / "test").resolve().parents}
    folders = [folder for folder in list_folders(root / "test") if folder.resolve() not in above]
    return {folder: list_images(folder, recursive=True) for folder in folders}


def hash_file_list(paths: Iterable[Path], root: str | os.PathLike[str]) -> str:
    """Return the sha256 over names below `root` and sizes in bytes, whatever the order of the files.

    The same files give the same hash on every platform.

    Raises:
        ValueError: a path is not below `root`.
    """
    entries = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in paths)
    digest = hashlib.sha256()
    for name, size in entries:
        digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogatepass"))  # a name may be no text
    return digest.hexdigest()


def list_samples(folder: Path, defect_class: str, ground_truth: Path | None = None) -> list[TestSample]:
    """List the images to test on in a folder, in natural order.

    Args:
        folder: of images; one that is missing has none.
        defect_class: of all of them; `good` for good parts.
        ground_truth: folder of their masks, which good parts do without.

    Raises:
        DatasetError: a folder can't be read.
    """
    images = list_images(folder)
    masks: Mapping[Path, MaskGroup] = {}
    if defect_class != GOOD_CLASS and ground_truth is not None:
        masks = match_folder(images, folder, ground_truth).masks
    return [_sample(path, defect_class, masks) for path in images]


def _test_samples(root: Path) -> Iterable[TestSample]:
    images = images_to_test(root)
    bad = {folder: paths for folder, paths in images.items() if not is_good(folder.name)}
    masks = match_masks(bad, root / "ground_truth").masks
    for folder, paths in images.items():
        defect_class = GOOD_CLASS if is_good(folder.name) else folder.name
        for path in paths:
            yield _sample(path, defect_class, masks)


def _sample(path: Path, defect_class: str, masks: Mapping[Path, MaskGroup]) -> TestSample:
    return TestSample(path, defect_class, label=defect_class != GOOD_CLASS, masks=masks.get(path, ()))


def existing_folder(root: str | os.PathLike[str], sought: str = "folder") -> Path:
    """Return the folder as a path; DatasetError says what is there instead where there is nothing that was sought."""
    root = Path(root)
    if root.is_dir():
        return root
    if root.exists():
        raise DatasetError(f"{root}: is a file; expected a folder of images or the root of a data set")
    present = next((parent for parent in root.absolute().parents if parent.is_dir()), None)
    message = f"{root}: no such {sought}"
    if present is not None:
        missing = root.absolute().relative_to(present).parts[0]
        names = {folder.name.casefold(): folder.name for folder in list_folders(present)}
        similar = [names[name] for name in difflib.get_close_matches(missing.casefold(), names, n=3)]
        message += f"; {present} exists"
        message += (
            f", and holds {enumerate_names(similar)}: did you mean that?"
            if similar
            else f", but has no {missing}"
        )
    raise DatasetError(message)


def _no_training_images(root: Path) -> str:
    categories = _categories(root)
    if categories:
        return f"{root}: holds several data sets; choose one of {enumerate_names(categories)}"
    if (root / "train" / GOOD_CLASS).is_dir():
        return (
            f"{root / 'train' / GOOD_CLASS}: no images to learn from; expected files ending in "
            f"{_suffixes()}, found {folder_contents(root / 'train' / GOOD_CLASS)}"
        )
    if (root / "train").is_dir():
        return (
            f"{root / 'train'}: has no folder `{GOOD_CLASS}`; expected the images of good parts in "
            f"train/good, found {folder_contents(root / 'train')}. Move or rename what holds the good images"
        )
    around = [parent for parent in root.absolute().parents[:2] if (parent / "train" / GOOD_CLASS).is_dir()]
    above = f". Did you mean {around[0]}?" if around else ""
    return (
        f"{root}: not a data set; expected train/good/*, test/good/* and test/<class of defect>/*, "
        f"found {folder_contents(root)}" + above
    )


def _categories(root: Path) -> list[str]:
    """Return the names of the data sets in a folder."""
    parts = (Path("train", GOOD_CLASS), Path("test", GOOD_CLASS))
    return [folder.name for folder in list_folders(root) if any((folder / part).is_dir() for part in parts)]


def _name(root: Path) -> str:
    return root.resolve().name or "dataset"  # the root of a drive has no name


def folder_contents(folder: Path) -> str:
    """Say in words what a folder holds."""
    folders = [path.name + "/" for path in list_folders(folder)]
    files = list_files(folder)
    if not folders and not files:
        return "nothing"
    counts = (
        [f"{len(files)} files such as {files[0].name}" if len(files) > 1 else files[0].name] if files else []
    )
    return " and ".join([*([enumerate_names(folders)] if folders else []), *counts])


def enumerate_names(names: Sequence[str], limit: int = 20) -> str:
    """Join names by commas, and count those beyond the limit."""
    rest = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *rest])


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
