"""Which mask belongs to which image: by the name that MVTec AD gives it, else by one that can mean no other image.

`000_mask.png`, `000.png` and all masks in a folder `000` belong to `000`. Where there is none, names are compared
without case, without zeros before numbers and without words such as `mask` or `gt` before or behind them
(`MASK_1.png`, `000_Mask.gif`), first in the folder of the class, then right in `ground_truth`. A mask that could be of
two images, or an image that could have two of these, is left alone and named with the reason.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodparts.data.folders import list_folders, list_images
from goodparts.data.formats import IMAGE_SUFFIXES

_WORD = r"(?:mask|masks|gt|label|labels|seg|segmentation|annotation|ground[ _-]?truth)"
_BEHIND = re.compile(rf"(?:[ _.-]+{_WORD}|mask)$")
_BEFORE = re.compile(rf"^{_WORD}[ _.-]+")

MaskGroup = tuple[Path, ...]
"""The masks of one image: a file, or those of a folder."""


@dataclass(frozen=True)
class Matched:
    """What was found.

    Attributes:
        masks: of each image that has any.
        unmatched: masks that belong to no image, with the reason.
    """

    masks: dict[Path, MaskGroup]
    unmatched: dict[Path, str]


def find_masks(folder: Path) -> dict[str, MaskGroup]:
    """Return the masks in a folder by the stem of their image.

    `000_mask.png` and `000.png` serve `000`, and so do all masks in a folder `000`.
    """
    masks = list_images(folder)
    by_folder = {inner.name: tuple(list_images(inner)) for inner in list_folders(folder)}
    by_stem = {mask.stem: (mask,) for mask in masks}
    marked = {mask.stem.removesuffix("_mask"): (mask,) for mask in masks if mask.stem.endswith("_mask")}
    return {stem: found for stem, found in (by_folder | by_stem | marked).items() if found}


def match_masks(images: Mapping[Path, Sequence[Path]], truth: Path) -> Matched:
    """Match the masks of a whole test set.

    Args:
        images: of bad parts, by the folder of their class.
        truth: the folder with a folder of masks for each class, or with the masks themselves.

    Raises:
        DatasetError: a folder can't be read.
    """
    folders = list_folders(truth)
    matched: dict[Path, MaskGroup] = {}
    unmatched: dict[Path, str] = {}
    taken: set[Path] = set()
    for folder, paths in images.items():
        own = _folder_of(folder.name, folders)
        if own is not None:
            taken.add(own)
            found = match_folder(paths, folder, own)
            matched |= found.masks
            unmatched |= found.unmatched
    loose: dict[MaskGroup, str] = {(mask,): mask.stem for mask in list_images(truth)}
    bare = [path for paths in images.values() for path in paths if path not in matched]
    names = [(path, name) for path in bare for name in (path.stem, f"{_class_of(path, images)}_{path.stem}")]
    found = _by_likeness(names, loose, "test")
    matched |= found.masks
    unmatched |= found.unmatched
    for folder in folders:
        # LOCO and others have masks of single images here; folders of good parts have nothing to match
        if folder not in taken:
            masks = list_images(folder, recursive=True)
            unmatched |= dict.fromkeys(masks, f"there is no folder test/{folder.name} of bad parts")
    return Matched(matched, unmatched)


def match_folder(images: Sequence[Path], folder: Path, truth: Path) -> Matched:
    """Match the masks of one class: the images in a folder, the masks in another."""
    known: dict[Path, dict[str, MaskGroup]] = {}
    matched: dict[Path, MaskGroup] = {}
    for path in images:
        beside = truth / path.parent.relative_to(folder)
        if beside not in known:
            known[beside] = find_masks(beside)
        if path.stem in known[beside]:
            matched[path] = known[beside][path.stem]
    used = {mask for masks in matched.values() for mask in masks}
    groups: dict[MaskGroup, str] = {}
    inner: dict[Path, list[Path]] = defaultdict(list)
    for mask in list_images(truth, recursive=True):
        if mask not in used:
            inner[mask.parent].append(mask)
    stems = {path.stem for path in images}
    for parent, masks in inner.items():
        nested = {path.parent.relative_to(folder) for path in images}
        if parent == truth or parent.relative_to(truth) in nested:
            groups |= {(mask,): mask.stem for mask in masks}
        else:
            groups[tuple(masks)] = parent.name
    bare = [(path, path.stem) for path in images if path not in matched]
    found = _by_likeness(bare, groups, f"test/{folder.name}", taken=stems)
    return Matched(matched | found.masks, found.unmatched)


def _by_likeness(
    images: Sequence[tuple[Path, str]],
    groups: Mapping[MaskGroup, str],
    where: str,
    taken: set[str] | None = None,
) -> Matched:
    """Match what names alike, but not in full, leave without doubt."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path, name in images:
        if path not in by_name[_plain(name)]:
            by_name[_plain(name)].append(path)
    known = {_plain(name) for name in taken or ()}
    wanted: dict[Path, list[MaskGroup]] = defaultdict(list)
    unmatched: dict[Path, str] = {}
    for masks, name in groups.items():
        readings = [_plain(reading) for reading in _readings(name)]
        fitting = next((by_name[reading] for reading in readings if by_name.get(reading)), [])
        if len(fitting) == 1:
            wanted[fitting[0]].append(masks)
            continue
        if fitting:
            several = " and ".join(f"{path.parent.name}/{path.name}" for path in fitting[:3])
            why = f"it could be of {several}"
        elif known.intersection(readings):
            why = "its image has another mask"
        else:
            why = f"no image in {where} has that name"
        unmatched |= dict.fromkeys(masks, why)
    matched: dict[Path, MaskGroup] = {}
    for path, candidates in wanted.items():
        if len(candidates) == 1:
            matched[path] = candidates[0]
            continue
        for masks in candidates:
            unmatched |= dict.fromkeys(masks, f"{len(candidates)} masks could be of {path.name}")
    return Matched(matched, unmatched)


def _readings(name: str) -> list[str]:
    """The names that the image of a mask may have."""
    name = name.casefold()
    while Path(name).suffix in IMAGE_SUFFIXES:
        name = name[: -len(Path(name).suffix)]
    behind, before = _BEHIND.sub("", name), _BEFORE.sub("", name)
    while Path(behind).suffix in IMAGE_SUFFIXES:
        behind = behind[: -len(Path(behind).suffix)]
    return [reading for reading in dict.fromkeys((name, behind, before)) if reading]


def _plain(name: str) -> str:
    """A name without case, and without zeros before its numbers."""
    return re.sub(r"[0-9]+", lambda digits: digits[0].lstrip("0") or "0", name.casefold())


def _folder_of(name: str, folders: Sequence[Path]) -> Path | None:
    """The folder of that name, or the only one of that name but for its case."""
    exact = [folder for folder in folders if folder.name == name]
    alike = exact or [folder for folder in folders if folder.name.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _class_of(path: Path, images: Mapping[Path, Sequence[Path]]) -> str:
    return next(folder.name for folder in images if path.is_relative_to(folder))
