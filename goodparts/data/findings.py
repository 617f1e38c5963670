"""What can be said of a data set once every image in it was looked at.

Findings are of three severities: an error makes fitting or evaluating fail, or its result wrong; a warning is
probably not what was meant; a note is good to know.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts.data.dataset import GOOD_CLASS
from goodparts.data.deep import FULL
from goodparts.data.duplicates import SAME_PHOTOGRAPH, find_near_duplicates
from goodparts.data.finding import Finding, Severity, about, about_groups, some
from goodparts.data.findings_by_name import Files, find_by_name
from goodparts.data.formats import SUFFIXES
from goodparts.data.images import ImageHeader

Key = TypeVar("Key", bound=Hashable)

TOO_FEW, FEW = 10, 50  # good images to learn from
COMPARED = 5_000  # images among which copies are looked for; their thumbnails take up to 160 MB

_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of an image or mask that was decoded.

    Attributes:
        header: what the file says about itself.
        size: width and height.
        least, greatest: level among all pixels and channels, 0 to 255 (masks: 0 or 1).
        constant: whether all pixels are the same.
        digest: of shape and pixels; empty for masks.
        thumbnail: `(side, side)` grey; None for masks.
    """

    header: ImageHeader
    size: tuple[int, int]
    least: int
    greatest: int
    constant: bool
    digest: bytes = b""
    thumbnail: NDArray[np.float16] | None = None


Looks = dict[Path, Look]


def find_everything(files: Files, looks: Looks, failures: dict[Path, str], bit_depth: int) -> list[Finding]:
    """Return all findings, errors first.

    Args:
        files: what the data set consists of.
        looks: one for each image and mask that could be read.
        failures: why each of the others could not.
        bit_depth: how many bits of 16-bit images are in use; 0 where there are none.
    """
    findings = [
        *find_by_name(files),
        *_failures(files, failures),
        *_formats(files, looks),
        *_sizes(files, looks),
        *_levels(files, looks, bit_depth),
        *_masks(files, looks),
        *_copies(files, looks),
        *_near_duplicates(files, looks),
        *_counts(files, looks),
    ]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def _failures(files: Files, failures: dict[Path, str]) -> Iterator[Finding]:
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for path, reason in failures.items():
        by_reason[reason].append(path)
    for reason, paths in by_reason.items():
        kind = "empty-file" if "the file is empty" in reason else "unreadable"
        yield Finding("error", kind, f"{some(files.root, paths)}: {reason}", tuple(paths))


def _formats(files: Files, looks: Looks) -> Iterator[Finding]:
    wrong = [
        path
        for path, look in looks.items()
        if path.suffix and path.suffix.lower() not in SUFFIXES[look.header.format]
    ]
    text = "named as another format than it has, at which other programs may stumble"
    yield from about(files.root, "warning", "wrong-suffix", "file", wrong, text)
    cases: tuple[tuple[Severity, str, Callable[[Look], str]], ...] = (
        ("note", "format", lambda look: look.header.format),
        ("warning", "mode", _kind_of_pixel),
    )
    for severity, kind, describe in cases:
        (_, usual), *others = _groups(files, looks, describe) or [("", [])]
        rarer = [path for _, paths in others for path in paths]
        counts = " and ".join(f"{len(paths)} {value}" for value, paths in others)
        text = (
            f"({counts}) of another {kind} than the other {len(usual)}, which a model may take for a defect; "
            "save all of them alike"
        )
        yield from about(files.root, severity, kind, "image", rarer, text)


def _kind_of_pixel(look: Look) -> str:
    grey = look.header.mode.startswith("I") or look.header.mode in ("1", "L", "LA", "La")
    return f"{look.header.bits}-bit {'grey' if grey else 'colour'}"


def _sizes(files: Files, looks: Looks) -> Iterator[Finding]:
    groups = _groups(files, looks, lambda look: look.size)
    if len(groups) < 2:
        return
    (width, height), usual = groups[0]
    odd = [path for _, paths in groups[1:] for path in paths]
    if len(usual) > len(odd):
        text = f"of another size than the usual {width} x {height}, so that parts look larger or smaller"
        yield from about(files.root, "warning", "size", "image", odd, text)
    else:
        text = f"of {len(groups)} sizes; a model expects parts of one size in the image"
        yield from about(files.root, "note", "size", "image", [*usual, *odd], text)


def _levels(files: Files, looks: Looks, bit_depth: int) -> Iterator[Finding]:
    flat = [path for path in files.images() if path in looks and looks[path].constant]
    text = "of one single colour, which show no part; take them out"
    train = set(files.train)
    learnt = [path for path in flat if path in train]
    yield from about(files.root, "error", "constant", "image", learnt, text)
    yield from about(
        files.root, "warning", "constant", "image", [path for path in flat if path not in train], text
    )
    deep = [path for path in files.images() if path in looks and looks[path].header.bits == 16]
    if 0 < bit_depth < FULL:
        text = (
            f"with no more than {bit_depth} of 16 bits in use; a model learns it from the good ones "
            "(recipe key bit_depth), other programs may show them nearly black"
        )
        yield from about(files.root, "note", "dark-16-bit", "image", deep, text)


def _masks(files: Files, looks: Looks) -> Iterator[Finding]:
    masks = [path for name, paths in files.masks.items() if name != GOOD_CLASS for path in paths]
    seen = [path for path in masks if path in looks]
    pairs = [
        (image, mask)
        for image, found in files.matched.masks.items()
        for mask in found
        if image in looks and mask in looks
    ]
    good = [path for path in files.masks.get(GOOD_CLASS, []) if path in looks and looks[path].greatest]
    cases: tuple[tuple[Severity, str, list[Path], str], ...] = (
        (
            "error",
            "mask-size",
            [mask for image, mask in pairs if looks[image].size != looks[mask].size],
            "of another size than the image; draw masks on the image as it is",
        ),
        (
            "warning",
            "empty-mask",
            [path for path in seen if looks[path].greatest == 0],
            "without a defect, though the image counts as bad",
        ),
        (
            "warning",
            "full-mask",
            [path for path in seen if looks[path].least > 0],
            "that are a defect all over; every value above 0 is one, so the background must be 0",
        ),
        ("warning", "good-mask", good, "with defects for parts that count as good, which is ignored"),
    )
    for severity, kind, paths, text in cases:
        yield from about(files.root, severity, kind, "mask", paths, text)


def _copies(files: Files, looks: Looks) -> Iterator[Finding]:
    """Images with the very same pixels, whatever their file format or name."""
    place = dict.fromkeys(files.train, "train") | dict.fromkeys(files.images()[len(files.train) :], "bad")
    place |= dict.fromkeys(files.test.get(GOOD_CLASS, []), "good")
    by_pixels: dict[bytes, list[Path]] = defaultdict(list)
    for path in files.images():
        if path in looks and not looks[path].constant:
            by_pixels[looks[path].digest].append(path)
    groups: dict[str, list[list[Path]]] = defaultdict(list)
    for paths in by_pixels.values():
        places = Counter(place[path] for path in paths)
        if places["train"] and len(places) > 1:
            groups["train-in-test"].append(paths)
        if places["good"] and places["bad"]:
            groups["contradiction"].append([path for path in paths if place[path] != "train"])
        if places["train"] > 1:
            groups["duplicate"].append([path for path in paths if place[path] == "train"])
        if max(places["good"], places["bad"]) > 1:
            groups["duplicate-in-test"].append([path for path in paths if place[path] != "train"])
    cases: tuple[tuple[Severity, str, str], ...] = (
        ("error", "train-in-test", "in train and in test, which flatters the evaluation"),
        ("error", "contradiction", "in test as good and as bad"),
        ("warning", "duplicate", "in train more than once, which gives them more weight"),
        ("note", "duplicate-in-test", "in test more than once, which gives them more weight"),
    )
    for severity, kind, text in cases:
        yield from about_groups(files.root, severity, kind, "image", groups[kind], text)


def _near_duplicates(files: Files, looks: Looks) -> Iterator[Finding]:
    """Images that are copies of one photograph, but not exact ones."""
    first = {looks[path].digest: path for path in reversed(files.images()) if path in looks}
    paths = [path for path in files.images() if path in looks and first[looks[path].digest] == path]
    paths = [path for path in paths if not looks[path].constant]
    if len(paths) > COMPARED:
        text = f"near copies were looked for among the first {COMPARED:,} of {len(paths):,} images only"
        yield Finding("note", "not-compared", text)
        paths = paths[:COMPARED]
    if not paths:
        return
    thumbnails = [look for path in paths if (look := looks[path].thumbnail) is not None]
    result = find_near_duplicates(np.stack(thumbnails))
    train = set(files.train)
    pairs = [[paths[i], paths[j]] for i, j, _ in result.pairs]
    text = "that differ by no more than compression, brightness or a shift of a few pixels"
    inside = [pair for pair in pairs if train.issuperset(pair)]
    yield from about_groups(files.root, "warning", "near-duplicate", "pair", inside, f"in train {text}")
    across = [pair for pair in pairs if len(train.intersection(pair)) == 1]
    yield from about_groups(
        files.root, "warning", "near-duplicate-in-test", "pair", across, f"across train and test {text}"
    )
    if result.typical >= SAME_PHOTOGRAPH:
        text = (
            "the images look so much alike that near copies can't be told from photographs of other parts; "
            "make sure that each shows another part"
        )
        yield Finding("note", "alike", text)


def _counts(files: Files, looks: Looks) -> Iterator[Finding]:
    count = sum(path in looks for path in files.train)
    if count == 0:
        yield Finding("error", "too-few", "no readable image of a good part to learn from in train/good")
    elif count < TOO_FEW:
        text = (
            f"{count} good images are too few to learn how good parts differ, and every difference will look "
            f"like a defect; take {FEW} or more, under all conditions that occur"
        )
        yield Finding("warning", "too-few", text)
    elif count < FEW:
        text = f"{count} good images to learn from; with {FEW} or more, thresholds are steadier"
        yield Finding("note", "few", text)
    if files.test:
        bad = [path for paths in files.bad().values() for path in paths]
        for kind, paths in (("good", files.test.get(GOOD_CLASS, [])), ("bad", bad)):
            if not any(path in looks for path in paths):
                text = f"no {kind} image to test on; most metrics need good and bad ones"
                yield Finding("note", f"no-{kind}-test", text)


def _groups(files: Files, looks: Looks, key: Callable[[Look], Key]) -> list[tuple[Key, list[Path]]]:
    """Group the images that could be read, the largest group first."""
    groups: dict[Key, list[Path]] = defaultdict(list)
    for path in files.images():
        if path in looks:
            groups[key(looks[path])].append(path)
    return sorted(groups.items(), key=lambda item: -len(item[1]))
