"""Which images there are: the layout of MVTec AD, or a plain folder of good images.

The layout (Bergmann et al., "MVTec AD", CVPR 2019):

    root/train/good/*                            good images to learn from
    root/test/good/*, root/test/<class>/*        images to test on, one folder a class of defect
    root/ground_truth/<class>/<stem>_mask.png    where the defect is; `<stem>.png` will do, and so will a
                                                 folder `<stem>` of several masks, which are merged

Files come in natural order (`part2` before `part10`), the same on every platform. Hidden files, `Thumbs.db`
and files that are no images by their suffix are passed over; `goodparts.data.check` reports them.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from goodparts.data.formats import IMAGE_SUFFIXES
from goodparts.errors import DatasetError

GOOD_CLASS = "good"


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
    train = tuple(list_images(root / "train" / GOOD_CLASS))
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
        images = list_images(path / "train" / GOOD_CLASS)
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


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the image files in a folder in natural order of their path below it.

    Files count by suffix; hidden ones are passed over. A folder that is missing has none.

    Raises:
        DatasetError: a folder can't be read.
    """
    return [path for path in list_files(folder, recursive=recursive) if is_image_name(path)]


def list_files(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the files in a folder, except hidden ones and those of the system, in natural order.

    Links to folders are followed, but no folder is entered twice. A folder that is missing has none.

    Raises:
        DatasetError: a folder can't be read.
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    files: list[Path] = []
    entered: set[Path] = set()
    for parent, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = Path(parent).resolve()
        if real in entered or not recursive:
            folders.clear()
        if real in entered:
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        files += [Path(parent, name) for name in names if not _hidden(name)]
    return sorted(files, key=lambda path: natural_key(path.relative_to(root)))


def list_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """List the folders in a folder, except hidden ones, in natural order; a folder that is missing has none.

    Raises:
        DatasetError: the folder can't be read.
    """
    if not Path(folder).is_dir():
        return []
    try:
        found = [path for path in Path(folder).iterdir() if path.is_dir() and not _hidden(path.name)]
    except OSError as error:
        _refuse(error)
    return sorted(found, key=lambda path: natural_key(Path(path.name)))


def is_image_name(path: Path) -> bool:
    """Whether a file is an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sorting key that orders folder by folder, numbers by value, and letters without their case."""
    parts = tuple(
        tuple(int(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces))
        for pieces in (re.split("([0-9]+)", part) for part in path.parts)
    )
    return parts, path.as_posix()


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


def find_masks(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the masks in a folder by the stem of their image.

    `000_mask.png` and `000.png` serve `000`, and so do all masks in a folder `000`.
    """
    masks = list_images(folder)
    by_folder = {inner.name: tuple(list_images(inner)) for inner in list_folders(folder)}
    by_stem = {mask.stem: (mask,) for mask in masks}
    marked = {mask.stem.removesuffix("_mask"): (mask,) for mask in masks if mask.stem.endswith("_mask")}
    return {stem: found for stem, found in (by_folder | by_stem | marked).items() if found}


def list_samples(folder: Path, defect_class: str, ground_truth: Path | None = None) -> list[TestSample]:
    """List the images to test on in a folder, in natural order.

    Args:
        folder: of images; one that is missing has none.
        defect_class: of all of them; `good` for good parts.
        ground_truth: folder of their masks, which good parts do without.

    Raises:
        DatasetError: a folder can't be read.
    """
    bad = defect_class != GOOD_CLASS
    masks = find_masks(ground_truth) if bad and ground_truth is not None else {}
    return [
        TestSample(path, defect_class, label=bad, masks=masks.get(path.stem, ()))
        for path in list_images(folder)
    ]


def _test_samples(root: Path) -> Iterable[TestSample]:
    for folder in list_folders(root / "test"):
        defect_class = folder.name
        if defect_class != GOOD_CLASS and defect_class.casefold() == GOOD_CLASS:
            raise DatasetError(
                f"{folder}: would count as a class of defect; rename the folder to `{GOOD_CLASS}`"
            )
        yield from list_samples(folder, defect_class, root / "ground_truth" / defect_class)


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


def _refuse(error: OSError) -> NoReturn:
    reason = error.strerror or error
    raise DatasetError(
        f"{error.filename}: the folder can't be read ({reason}); check your permissions"
    ) from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in {"thumbs.db", "desktop.ini", "__macosx"}


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
