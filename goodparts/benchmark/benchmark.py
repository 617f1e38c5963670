"""Benchmarks: fit and evaluate every category of a data set, and go on where an earlier run was interrupted.

    found = run_benchmark("mvtec_ad", Recipe(image_size=320), out="benchmark")
    found.rows[0].metrics["image_auroc"]            # 0.998

What was measured of a category is kept as `OUT/categories/NAME-KEY.json`. The key is a hash over the recipe, the
backbone, the list of its files (names and sizes) and the version of this program, so that whatever is changed is
measured anew and the rest is not. Categories run one after the other in this process, or side by side in processes of
their own, each on its share of the cores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from goodparts.benchmark.row import Row, Settings, Task, measure, memory_needed
from goodparts.data.dataset import Dataset, enumerate_names, hash_file_list
from goodparts.data.layouts import (
    AUTO,
    Category,
    find_categories,
    layout_summary,
    not_recognised,
    read_category,
)
from goodparts.engines.runtime import Runtime
from goodparts.errors import DatasetError, ImageError
from goodparts.files import write_text
from goodparts.parallel import cores
from goodparts.preprocessing.roi_file import roi_hash
from goodparts.progress import Progress
from goodparts.recipe.recipe import Recipe
from goodparts.scale.executor import Executor, Job, WorkerDiedError
from goodparts.version import __version__

CORES_PER_JOB = 4  # by default; one category alone keeps about as many busy


@dataclass(frozen=True)
class Benchmark:
    """Rows in the order of the categories, as far as they are finished, and what they were measured with.

    Attributes:
        name: of the root folder.
        layouts: what was recognised, in words.
        recipe: of all rows.
        rows: one a category.
        categories: number of categories, finished or not.
        notes: what concerns all of them.
    """

    name: str
    layouts: str
    recipe: Recipe
    rows: tuple[Row, ...]
    categories: int
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows of categories that could not be measured."""
        return tuple(row for row in self.rows if row.error is not None)


def run_benchmark(
    root: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    layout: str = AUTO,
    categories: Sequence[str] = (),
    out: str | os.PathLike[str] = "benchmark",
    jobs: int | None = None,
    again: bool = False,
    pixel_limit: int | None = None,
    offline: bool = False,
    device: str | None = None,
    engine: str | None = None,
    observe: Callable[[Row, bool, Benchmark], None] | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Fit and evaluate every category of a data set.

    Args:
        root: the data set, or one category of it.
        recipe: the settings; the default preset if none.
        layout: name of a layout, or `auto`.
        categories: names of those to run; all if none.
        out: folder of what is kept.
        jobs: categories side by side at most, as memory allows; None: one for every 4 cores.
        again: measure anew what is kept already.
        pixel_limit, offline, device, engine: as `Inspector` takes them.
        observe: called after every category with (row, whether it was kept, all rows so far).
        progress: called with (stage, done, total).

    Raises:
        DatasetError: no category there, or none of a name that was asked for.
        BackboneError, RecipeError: the recipe can't be used at all.
        OutputError: a row can't be written.
        EngineError: that engine or device is not there.
    """
    from goodparts.backbones.catalogue import load_backbone

    Runtime.of(engine, device)
    settings = Settings(recipe if recipe is not None else Recipe(), pixel_limit, offline, device, engine)
    chosen = choose(find_categories(root, layout), categories, Path(root))
    backbone = load_backbone(settings.recipe.backbone, offline=offline).sha256
    left_out = [] if categories else not_recognised(root, chosen)
    found = Benchmark(
        name=Path(root).resolve().name or "dataset",
        layouts=layout_summary(chosen),
        recipe=settings.recipe,
        rows=(),
        categories=len(chosen),
        notes=(f"not recognised as categories: {enumerate_names(left_out)}",) if left_out else (),
    )
    order = {category.name: index for index, category in enumerate(chosen)}

    def add(row: Row, kept: bool) -> None:
        nonlocal found
        rows = sorted((*found.rows, row), key=lambda each: order[each.category])
        found = dataclasses.replace(found, rows=tuple(rows))
        if observe is not None:
            observe(row, kept, found)

    tasks = []
    for category in chosen:
        try:
            data, notes = read_category(category)
            key = task_key(data, settings.recipe, backbone)
        except (DatasetError, ImageError) as error:
            add(Row(category.name, category.layout.name, error=str(error)), False)
            continue
        task = Task(category, data, notes, Path(out) / "categories" / f"{category.name}-{key[:12]}.json")
        row = None if again else _kept(task)
        if row is None:
            tasks.append(task)
        else:
            add(row, True)

    wanted = jobs if jobs is not None else cores() // CORES_PER_JOB
    settings = dataclasses.replace(settings, jobs=max(1, min(wanted, len(tasks))))
    with closing(_measure_all(tasks, settings, progress or (lambda stage, done, total: None))) as finished:
        for task, row in finished:
            if row.error is None:
                write_text(task.kept, row.to_json())
            add(row, False)
    return found


def choose(found: Sequence[Category], names: Sequence[str], root: Path) -> list[Category]:
    """The categories of these names, in the order they were found; DatasetError names one that is not there."""
    there = [category.name for category in found]
    for name in names:
        if name not in there:
            raise DatasetError(f"--categories: no {name!r} in {root}; there are {enumerate_names(there)}")
    return [category for category in found if not names or category.name in names]


def task_key(data: Dataset, recipe: Recipe, backbone: str) -> str:
    """Hash of all that a row depends on: recipe, backbone, list of files and program. sha256, in hex.

    Raises:
        DatasetError: a file that was listed is not there.
    """
    groups = {
        "train": data.train,
        **{f"test {name}": [s.path for s in data.test if s.defect_class == name] for name in _classes(data)},
        "masks": [mask for sample in data.test for mask in sample.masks],
    }
    try:
        files = {
            name: hash_file_list([path.absolute() for path in paths], data.root.absolute())
            for name, paths in groups.items()
        }
    except (OSError, ValueError) as error:
        raise DatasetError(f"{data.root}: the files can't be listed: {error}") from error
    what = {"version": __version__, "recipe": recipe.to_dict(), "backbone": backbone, "files": files}
    if recipe.roi:
        what["roi"] = roi_hash(recipe.roi)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _classes(data: Dataset) -> list[str]:
    return sorted({sample.defect_class for sample in data.test})


def _kept(task: Task) -> Row | None:
    """What an earlier run measured; None if nothing, or nothing that can be read."""
    try:
        return Row.from_json(task.kept.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _measure_all(
    tasks: list[Task], settings: Settings, progress: Progress
) -> Generator[tuple[Task, Row], None, None]:
    if settings.jobs > 1:
        from goodparts.scale.processes import Processes

        yield from _measure_side_by_side(tasks, settings, Processes(settings.jobs), progress)
        return
    for task in tasks:
        name = task.category.name
        yield (
            task,
            measure(task, settings, lambda *state, name=name: progress(f"{name} {state[0]}", *state[1:])),
        )


def _measure_side_by_side(
    tasks: list[Task], settings: Settings, executor: Executor, progress: Progress
) -> Generator[tuple[Task, Row], None, None]:
    """Yield every task with its row, in the order they are finished; a worker that dies gives a row with its error.

    Raises:
        BackboneError, RecipeError: no category could be measured.
    """
    settings = dataclasses.replace(settings, workers=executor.workers)
    by_name = {task.category.name: task for task in tasks}
    jobs = [
        Job(name, partial(measure, task, settings), memory_needed(task, settings))
        for name, task in by_name.items()
    ]
    progress("categories", 0, len(tasks))
    with closing(executor.run(jobs)) as finished:
        for done, (job, found) in enumerate(finished, 1):
            task = by_name[job.name]
            if isinstance(found, WorkerDiedError):
                error = f"{found}; if memory ran out, take fewer --jobs"
                found = Row(task.category.name, task.category.layout.name, error=error)
            elif isinstance(found, Exception):
                raise found
            progress("categories", done, len(tasks))
            yield task, found
