"""One row of a benchmark: a category, fitted and evaluated."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from goodparts.data.dataset import Dataset
from goodparts.data.images import image_size
from goodparts.data.layouts import Category
from goodparts.errors import BackboneError, GoodpartsError, ImageError, RecipeError
from goodparts.evaluation import metrics
from goodparts.evaluation.evaluation import Evaluation, check_mask_sizes
from goodparts.inspector import Inspector
from goodparts.progress import Progress
from goodparts.recipe.recipe import Recipe
from goodparts.version import __version__

PROGRAM = 2**29  # bytes: interpreter, engine and backbone


@dataclass(frozen=True)
class Row:
    """What was measured of one category.

    Attributes:
        category: its name.
        layout: name of its layout.
        train, test_good, test_bad: number of images.
        metrics: as `Evaluation.metrics`; empty if it failed.
        class_auroc: image AUROC of each class of defect against all good test images; None without these.
        class_found: of each class of defect, how many images were BAD, and how many there are.
        fit_seconds: wall time of fitting, the backbone's loading included; None if it failed.
        inspect_ms: wall time of the evaluation by image, several at a time; None if it failed.
        jobs: categories that ran side by side at most.
        notes: what is undefined or to be known, and why.
        error: why it failed; None if it did not.
    """

    category: str
    layout: str
    train: int = 0
    test_good: int = 0
    test_bad: int = 0
    metrics: dict[str, float | int | None] = dataclasses.field(default_factory=dict)
    class_auroc: dict[str, float | None] = dataclasses.field(default_factory=dict)
    class_found: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    fit_seconds: float | None = None
    inspect_ms: float | None = None
    jobs: int = 1
    notes: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The row that `to_json` wrote; ValueError or TypeError if it is none."""
        values = json.loads(text)
        return cls(**{**values, "notes": tuple(values["notes"])})

    def to_json(self) -> str:
        """As JSON, every digit kept."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Task:
    """A category whose files are listed: what is to be measured, and the file that keeps it."""

    category: Category
    data: Dataset
    notes: tuple[str, ...]
    kept: Path


@dataclass(frozen=True)
class Settings:
    """How to measure: what `Inspector` takes, and how many categories run side by side at most."""

    recipe: Recipe
    pixel_limit: int | None = None
    offline: bool = False
    device: str | None = None
    engine: str | None = None
    jobs: int = 1
    workers: int | None = None


def memory_needed(task: Task, settings: Settings) -> int:
    """Bytes that a process takes at most, roughly: features, and the pixel metrics' values of all test images."""
    try:
        width, height, _ = image_size(task.data.test[0].path)
    except ImageError:  # told when it is inspected
        width = height = 0
    values = 4 * width * height * len(task.data.test)  # float32, and a sorted copy and its parts meanwhile
    return PROGRAM + int(1.5 * settings.recipe.memory_limit * 2**30) + 3 * values


def measure(task: Task, settings: Settings, progress: Progress | None = None) -> Row:
    """Fit and evaluate one category; what goes wrong with it is told in its row.

    Raises:
        BackboneError, RecipeError: no category could be measured.
    """
    data = task.data
    good = sum(not sample.label for sample in data.test)
    row = Row(
        task.category.name,
        task.category.layout.name,
        train=len(data.train),
        test_good=good,
        test_bad=len(data.test) - good,
        jobs=settings.jobs,
        notes=task.notes,
    )
    try:
        check_mask_sizes(data)
        inspector = Inspector(
            settings.recipe,
            workers=settings.workers,
            pixel_limit=settings.pixel_limit,
            offline=settings.offline,
            device=settings.device,
            engine=settings.engine,
        )
        began = time.perf_counter()
        inspector.fit(data.train, progress=progress)
        fit_seconds = time.perf_counter() - began
        found = inspector.evaluate(data, progress=progress)
    except (BackboneError, RecipeError):
        raise
    except GoodpartsError as error:
        return dataclasses.replace(row, error=str(error))
    except Exception as error:  # a fault of ours in one category must not cost the others a night
        traceback.print_exc()
        return dataclasses.replace(
            row, error=f"a fault of goodparts {__version__}: {error!r}; please report it"
        )
    row = dataclasses.replace(
        row,
        metrics=found.metrics,
        class_auroc=_class_auroc(found),
        class_found={count.defect_class: [count.found, count.images] for count in found.by_class},
        fit_seconds=round(fit_seconds, 3),
        inspect_ms=round(1000 * found.inspect_seconds / len(found.images), 3),
    )
    return dataclasses.replace(row, notes=(*row.notes, *_measured_notes(row)))


def _class_auroc(found: Evaluation) -> dict[str, float | None]:
    """Image AUROC of each class of defect against all good images."""
    classes = np.array([image.defect_class for image in found.images])
    areas: dict[str, float | None] = {}
    for name in sorted({image.defect_class for image in found.images if image.label}):
        these = (classes == name) | ~found.labels
        area = metrics.auroc(found.labels[these], found.scores[these])
        areas[name] = area if np.isfinite(area) else None
    return areas


def _measured_notes(row: Row) -> Iterator[str]:
    """What MVTec LOCO AD is judged by: its two kinds of anomaly apart, and their mean."""
    areas = [row.class_auroc.get(name) for name in ("logical_anomalies", "structural_anomalies")]
    known = [area for area in areas if area is not None]
    if len(known) == 2:
        yield (
            f"image AUROC of logical anomalies {100 * known[0]:.2f}, of structural ones {100 * known[1]:.2f}, "
            f"mean {50 * sum(known):.2f}, which is what is published for MVTec LOCO AD"
        )
