"""What a model says of how it came about: from what it learnt, when, where and with what, and what was measured."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from goodparts.data.good_images import Good, GoodImages
from goodparts.engines.runtime import current
from goodparts.features.facts import Facts
from goodparts.files import JsonRecord
from goodparts.recipe.values import size_text

_LOGGER = logging.getLogger(__name__)
_OTHER_SHAPE, _OTHER_SIZE = 1.1, 1.5  # times, from which on an image is hardly of the same camera
PACKAGES = ("goodparts", "numpy", "openvino", "onnx", "pillow")


@dataclass(frozen=True)
class Provenance:
    """What a model was learnt from. Part of its identity, so no places and no times.

    Attributes:
        good_images: how many.
        image_sizes: how many are of which size, WIDTHxHEIGHT.
        seen_share: mean share of their pixels that are looked at, 0 to 1.
        file_list: hash of the names of their files; of an updated model, of the new ones. None where not all are files.
        not_aligned: of how many the pose was not found, by the reason; None where it is not looked for.
        parent: identity of the model that an updated one came from; None of one that was fitted.
    """

    good_images: int
    image_sizes: Mapping[str, int]
    seen_share: float
    file_list: str | None = None
    not_aligned: Mapping[str, int] | None = None
    parent: str | None = None

    @classmethod
    def of(cls, good: GoodImages, facts: Facts) -> Self:
        """Of these images."""
        frames, preprocessor = facts.frames, facts.preprocessor
        shares = {frame: preprocessor.seen_share(frame) for frame in set(frames)}
        failures = None
        if preprocessor.recipe.pose != "as_is":
            failures = dict(Counter(filter(None, facts.failures)).most_common())
        return cls(
            good_images=len(good),
            image_sizes=dict(Counter(size_text(frame.image_size) for frame in frames).most_common()),
            seen_share=round(sum(shares[frame] * n for frame, n in Counter(frames).items()) / len(frames), 6),
            file_list=good.file_list_hash,
            not_aligned=failures,
        )

    def joined(self, more: Self, parent: str) -> Self:
        """Of these images and more."""
        first, second = self.good_images, more.good_images
        seen = first * self.seen_share + second * more.seen_share
        failures = None
        if self.not_aligned is not None:
            failures = dict(Counter(self.not_aligned) + Counter(more.not_aligned))
        return replace(
            more,
            good_images=first + second,
            image_sizes=dict((Counter(self.image_sizes) + Counter(more.image_sizes)).most_common()),
            seen_share=round(seen / (first + second), 6),
            not_aligned=failures,
            parent=parent,
        )

    @property
    def usual_size(self) -> tuple[int, int]:
        """(height, width) of most good images."""
        width, height = next(iter(self.image_sizes)).split("x")
        return int(height), int(width)

    def unlike(self, height: int, width: int) -> bool:
        """Whether an image has quite another size or shape than all that were learnt from."""
        for size in self.image_sizes:
            learnt_width, learnt_height = map(int, size.split("x"))
            across, down = width / learnt_width, height / learnt_height
            if 1 / _OTHER_SHAPE <= across / down <= _OTHER_SHAPE and 1 / _OTHER_SIZE <= across <= _OTHER_SIZE:
                return False
        return True

    def to_dict(self) -> JsonRecord:
        """As JSON takes it, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FitRecord:
    """When, where, how long and with what a model was learnt. Not part of its identity.

    Attributes:
        fitted: date and time, ISO 8601, UTC.
        fitted_on: the folder of its images, or "images in memory".
        machine: the processor's architecture.
        seconds: of each stage.
        versions: of Python and of packages.
        image_milliseconds: what an image took there in the working size that a budget chose; None: none did.
        computed_by: engine and device, such as "openvino on cpu".
    """

    fitted: str
    fitted_on: str
    machine: str
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    image_milliseconds: float | None = None
    computed_by: str = ""

    @classmethod
    def of(cls, good: Good, clock: Clock, image_milliseconds: float | None = None) -> Self:
        """Of a fit on these images that ends now."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"python": platform.python_version()}
        for package in dict.fromkeys((*PACKAGES, current().engine)):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        return cls(
            fitted=datetime.now(UTC).isoformat(timespec="seconds"),
            fitted_on=str(Path(good).absolute())
            if isinstance(good, str | os.PathLike)
            else "images in memory",
            machine=platform.machine(),
            seconds={stage: round(value, 3) for stage, value in clock.seconds.items()},
            versions=versions,
            image_milliseconds=image_milliseconds,
            computed_by=str(current()),
        )

    def to_dict(self) -> JsonRecord:
        """As JSON takes it, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class EvaluationRecord:
    """What a model reached on the labelled test set that it was measured on last. Not part of its identity.

    Attributes:
        name: of the data set.
        evaluated: date and time, ISO 8601, UTC.
        images: that were inspected.
        image_auroc: None where it is undefined: only good or only bad images.
        pixel_auroc: None where it is undefined: no masks.
        good: good images that were judged.
        rejected: of these that are BAD.
        bad: bad images that were judged.
        missed: of these that are GOOD.
        rechecks: images that could not be judged.
        learnt_from: images that the model learnt from, which flatter it.
        by_class: of each class of defect: defect_class, images, found, rechecks.
    """

    name: str
    evaluated: str
    images: int
    image_auroc: float | None
    pixel_auroc: float | None
    good: int
    rejected: int
    bad: int
    missed: int
    rechecks: int
    learnt_from: int
    by_class: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Self:
        """Of the figures of an evaluation that ends now."""
        return cls(evaluated=datetime.now(UTC).isoformat(timespec="seconds"), **figures)

    def to_dict(self) -> JsonRecord:
        """As JSON takes it."""
        return asdict(self)


@dataclass
class Clock:
    """Seconds of each stage of a fit."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage], self.began = now - self.began, now
        _LOGGER.info("%s took %.2f s", stage, self.seconds[stage])
