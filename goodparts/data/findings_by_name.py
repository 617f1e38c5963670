"""What the names of files say that is wrong with a data set, or with a folder.

No image is decoded; of masks in formats that may be lossy, the header is read.
`check` says it, and so do all commands that learn from a folder, inspect one or measure on one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from goodparts.data.dataset import GOOD_CLASS, good_images, images_to_test, is_good, train_images
from goodparts.data.finding import Finding, Severity, about, some
from goodparts.data.folders import is_image, list_files, list_folders, list_images
from goodparts.data.images import is_lossy
from goodparts.data.masks import Matched, match_masks
from goodparts.errors import DatasetError, ImageError

_PASSED_OVER = ("other-file", "unused")
_TEXT = {
    ".txt",
    ".md",
    ".rst",
    ".json",
    ".xml",
    ".csv",
    ".tsv",
    ".yaml",
    ".yml",
    ".toml",
    ".ini",
    ".log",
    ".html",
}
_OTHERS = {
    ".pdf",
    ".db",
    ".lnk",
    ".url",
    ".zip",
    ".gz",
    ".7z",
    ".py",
    ".sh",
    ".bat",
    ".m",
    ".mat",
    ".xlsx",
    ".docx",
}
_LOSSLESS = {".png", ".bmp", ".gif", ".pgm"}  # nobody looks into these masks
_BESIDE_IMAGES = _TEXT | _OTHERS  # what usually lies there and shows no part


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a data set by what they are for; `test` and `masks` by the name of their folder.

    Attributes:
        root: the data set, or a plain folder of good images.
        train: images to learn from.
        test: images to test on; those of all folders of good parts as `good`.
        masks: ground truth, matched or not.
        matched: which mask belongs to which image.
    """

    root: Path
    train: list[Path]
    test: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    matched: Matched

    def images(self) -> list[Path]:
        """Return the images to learn from, then those to test on."""
        return [*self.train, *(path for paths in self.test.values() for path in paths)]

    def bad(self) -> dict[str, list[Path]]:
        """Return the images to test on that count as bad, by class."""
        return {name: paths for name, paths in self.test.items() if name != GOOD_CLASS}


def findings_by_name(source: str | Path) -> list[Finding]:
    """Return what can be said of a data set or a plain folder of good images by the names of its files.

    A single file says nothing.

    Raises:
        DatasetError: there is no such folder, or nothing in it that could be a data set.
    """
    return [] if Path(source).is_file() else list(find_by_name(list_data(Path(source))))


def passed_over(paths: Sequence[Path]) -> list[Finding]:
    """Return what can be said of the folders among some paths, which are inspected with all that is in them."""
    findings: list[Finding] = []
    for folder in paths:
        if folder.is_dir():
            others = [path for path in list_files(folder, recursive=True) if not is_image(path)]
            findings += _others(folder, others)
    return findings


def strictly(finding: Finding) -> Finding:
    """The finding as `--strict` takes it: files that were passed over are an error."""
    return replace(finding, severity="error") if finding.kind in _PASSED_OVER else finding


def require_nothing_passed_over(findings: Sequence[Finding]) -> None:
    """Raise DatasetError if a finding is of files that were passed over."""
    for finding in findings:
        if finding.kind in _PASSED_OVER:
            raise DatasetError(f"{finding.message}. With --strict every file has to be used; take these out")


def list_data(root: Path) -> Files:
    """List the files of a data set, or of a plain folder of good images; errors as `findings_by_name`."""
    if not ((root / "train").is_dir() or (root / "test").is_dir()):
        return Files(root if root.is_dir() else root.parent, list(good_images(root)), {}, {}, Matched({}, {}))
    test: dict[str, list[Path]] = defaultdict(list)
    images = images_to_test(root)
    for folder, paths in images.items():
        test[GOOD_CLASS if is_good(folder.name) else folder.name] += paths
    truth = root / "ground_truth"
    masks: dict[str, list[Path]] = defaultdict(list)
    for folder in list_folders(truth):
        masks[GOOD_CLASS if is_good(folder.name) else folder.name] += list_images(folder, recursive=True)
    if loose := list_images(truth):
        masks[""] = loose
    bad = {folder: paths for folder, paths in images.items() if not is_good(folder.name)}
    return Files(root, train_images(root), dict(test), dict(masks), match_masks(bad, truth))


def find_by_name(files: Files) -> Iterator[Finding]:
    """Say what the names of these files tell."""
    yield from _folders(files)
    yield from _masks(files)


def _folders(files: Files) -> Iterator[Finding]:
    """Images in places where nobody looks for them, files that are no images, and folders whose name needs a word."""
    root = files.root
    is_data_set = bool(files.test) or (root / "train").is_dir()
    if not is_data_set:
        below = [path for path in list_images(root, recursive=True) if path.parent != root]
        yield from _unused(files, below)
        yield from _others(root, [path for path in list_files(root) if not is_image(path)])
        return
    for part in ("train", "test"):
        for folder in list_folders(root / part):
            if is_good(folder.name) and folder.name != GOOD_CLASS:
                text = f"{part}/{folder.name} is taken for good parts; expected the name `{GOOD_CLASS}`"
                yield Finding("note", "folder-name", text, tuple(list_images(folder, recursive=True)))
    idle = [path for part in ("", "train", "test") for path in list_images(root / part)]
    for folder in list_folders(root / "train"):
        idle += [] if is_good(folder.name) else list_images(folder, recursive=True)
    yield from _unused(files, idle)
    used = [folder for folder in list_folders(root / "train") if is_good(folder.name)]
    used += [*list_folders(root / "test"), root / "ground_truth"]
    yield from _others(
        root,
        [path for folder in used for path in list_files(folder, recursive=True) if not is_image(path)],
    )


def _unused(files: Files, paths: list[Path]) -> Iterator[Finding]:
    text = (
        "not used; expected in train/good, test/<class> or ground_truth/<class>, or right in a plain folder"
    )
    yield from about(files.root, "warning", "unused", "image", paths, text)


def _others(root: Path, paths: list[Path]) -> Iterator[Finding]:
    if not paths:
        return
    foreign = [path for path in paths if path.suffix.lower() not in _BESIDE_IMAGES]
    severity: Severity = "warning" if foreign else "note"
    shown = [*foreign, *(path for path in paths if path not in set(foreign))]
    yield from about(
        root, severity, "other-file", "file", shown, "passed over, being no image that can be read"
    )


def _masks(files: Files) -> Iterator[Finding]:
    """Bad images without a mask, and masks without an image, each with its reason."""
    found = files.matched
    masks = [path for name, paths in files.masks.items() if name != GOOD_CLASS for path in paths]
    bare = [path for paths in files.bad().values() for path in paths if path not in found.masks]
    if bare and not masks:
        text = "no masks in ground_truth, so pixel metrics can't be computed; image metrics can"
        yield Finding("note", "no-masks", text, tuple(bare))
        bare = []
    text = "without a mask, left out of pixel metrics; expected ground_truth/<class>/<stem>_mask.png"
    yield from about(files.root, "warning", "image-without-mask", "bad image", bare, text)
    lossy = [path for path in masks if path.suffix.lower() not in _LOSSLESS and _is_lossy(path)]
    text = "in a lossy format, in which a defect has no sharp edge: read from level 128 of 255 on; save masks as PNG"
    yield from about(files.root, "note", "lossy-mask", "mask", lossy, text)
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for path, reason in found.unmatched.items():
        if not (path.is_relative_to(files.root / "ground_truth") and _of_good(files.root, path)):
            by_reason[reason].append(path)
    if by_reason:
        paths = tuple(path for group in by_reason.values() for path in group)
        reasons = "; ".join(f"{some(files.root, group)}: {why}" for why, group in list(by_reason.items())[:3])
        more = "" if len(by_reason) <= 3 else f"; and {len(by_reason) - 3} more reasons"
        text = (
            f"{len(paths)} mask{'s' * (len(paths) != 1)} without an image; expected test/<class>/<stem> for "
            f"ground_truth/<class>/<stem>_mask. {reasons}{more}"
        )
        yield Finding("warning", "mask-without-image", text, paths)


def _is_lossy(mask: Path) -> bool:
    try:
        return is_lossy(mask)
    except ImageError:  # reported by who reads it
        return False


def _of_good(root: Path, path: Path) -> bool:
    return is_good(path.relative_to(root / "ground_truth").parts[0])
