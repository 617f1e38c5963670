"""Fitting many products: one job each, and what is learnt already is not learnt again.

A product is known by the names, sizes and dates of its good images, by their bytes where these differ, and by recipe,
backbone and version: where all are those of its last fit, and the model file is still that one, there is nothing to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodparts.data.dataset import good_images
from goodparts.errors import DatasetError, GoodpartsError, ImageError, ModelError
from goodparts.fleet.attempts import Died, in_words, require_version, run_again
from goodparts.fleet.images import ImageFile, OnceRead, content_of, is_address, list_image_files, stamp_of
from goodparts.fleet.manifest import Manifest, ProductRow
from goodparts.fleet.plan import Product, read_products, recipe_of
from goodparts.fleet.spread import PARTS, Spread, forget, memory_of, require_spreadable, sources
from goodparts.model import file
from goodparts.preprocessing.roi_file import roi_hash
from goodparts.progress import Progress, silent
from goodparts.recipe.recipe import Recipe
from goodparts.scale.executor import Executor, Job, WorkerDiedError
from goodparts.scale.memory import peak_memory
from goodparts.version import __version__

if TYPE_CHECKING:
    from goodparts.inspector import Inspector

MANIFEST = "fleet.sqlite"
WORK = "fitting"
"""The folder, beside the models, of what is known of partitions until their product is fitted."""


@dataclass(frozen=True)
class Fitted:
    """What a product's fit came to.

    Attributes:
        product: its name.
        model: path of its model file.
        identity: of that; empty where it failed.
        good_images: that were learnt from.
        seconds: wall time.
        memory: bytes that its worker took at most, by then; of a fit in partitions, who put it together.
        left_out: images that could not be read, with their errors.
        kept: whether an earlier run had fitted it.
        error: why it failed; empty where it did not.
    """

    product: str
    model: str
    identity: str = ""
    good_images: int = 0
    seconds: float = 0.0
    memory: int = 0
    left_out: tuple[str, ...] = ()
    kept: bool = False
    error: str = ""


@dataclass
class FitRun:
    """What a run of fits came to: the products in their order, and the workers that died."""

    fitted: list[Fitted] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Fitted]:
        """Those without a model."""
        return [one for one in self.fitted if one.error]


@dataclass(frozen=True)
class _Task:
    product: str
    files: tuple[ImageFile, ...]
    recipe: Recipe
    model: str
    offline: bool
    pixel_limit: int | None
    partitions: int


def fit_fleet(
    place: str,
    models: Path,
    recipe: Recipe,
    executor: Executor,
    *,
    partitions: int = 1,
    again: bool = False,
    offline: bool = False,
    pixel_limit: int | None = None,
    progress: Progress | None = None,
) -> FitRun:
    """Fit every product that has no model of these very images, recipe and version yet.

    Args:
        place: a folder with one for each product, or a plan.
        models: the folder that the models go into; `fleet.sqlite` in it is what later runs go on from.
        recipe: of products that name no other.
        executor: who fits; paths have to mean the same to its workers.
        partitions: into how many parts the good images of a product are cut, unless the plan says so for it; a fit of
            several is spread over the workers. 1: one worker fits it.
        again: fit anew what is fitted already.
        offline: never ask the network for a backbone.
        pixel_limit: files of more pixels are refused; None: 100 million.
        progress: called with (stage, done, total), of products, and of the partitions of each.

    Raises:
        PlanError, RecipeError, BackboneError: nothing can be fitted so.
        OutputError: the manifest can't be written.
    """
    progress = progress or silent
    models = models.absolute()  # workers may be in another folder
    products = read_products(place, "good")
    recipes = {product.name: recipe_of(product, recipe) for product in products}
    cuts = {product.name: product.partitions or partitions for product in products}
    keys = _keys(recipes, cuts, offline)
    run = FitRun()
    done: dict[str, Fitted] = {}
    stamps: dict[str, tuple[str, str]] = {}
    jobs: list[Job[str]] = []
    spread: list[_Task] = []
    began = time.perf_counter()
    with Manifest(models / MANIFEST) as manifest:
        known = manifest.products()
        for product in products:
            path = product.model_in(models)
            try:
                files = _good_files(product)
            except (DatasetError, ImageError) as error:
                done[product.name] = Fitted(product.name, str(path), error=str(error))
                continue
            row = known.get(product.name)
            stamp, content = stamp_of(files), ""
            if row is not None and not again and row.key == keys[product.name] and _is_there(path, row):
                content = row.content if row.stamp == stamp else content_of(files)
                if content == row.content:
                    if row.stamp != stamp:
                        manifest.add_product(row._replace(stamp=stamp))
                    done[product.name] = _of_row(row, kept=True)
                    continue
            stamps[product.name] = stamp, keys[product.name]
            task = _Task(
                product.name,
                tuple(files),
                recipes[product.name],
                str(path),
                offline,
                pixel_limit,
                cuts[product.name],
            )
            if task.partitions > 1:
                spread.append(task)
                continue
            call = partial(_fit, task, executor.workers, __version__)
            jobs.append(Job(product.name, call, memory_of(task.recipe), product.name))

        def died(what: str, error: Exception) -> None:
            run.deaths.append(f"{what}: {in_words(error)}")

        def keep(name: str, found: str | Exception) -> None:
            if isinstance(found, str):
                record = json.loads(found)
                stamp, key = stamps[name]
                row = ProductRow(name, stamp, record.pop("content"), key, record)
                manifest.add_product(row)
                done[name] = _of_row(row, kept=False)
            else:
                path = next(product for product in products if product.name == name).model_in(models)
                hint = ", three times; if memory ran out, take fewer workers, or more --memory-per-worker"
                why = f"{in_words(found)}{hint if isinstance(found, WorkerDiedError) else ''}"
                done[name] = Fitted(name, str(path), error=why)

        total = len(jobs) + len(spread)
        progress("fit", 0, total)
        with closing(run_again(executor, jobs, died)) as finished:
            for count, (job, found) in enumerate(finished, 1):
                keep(job.name, found)
                progress("fit", count, total)
        for count, task in enumerate(spread, len(jobs) + 1):
            work = models / WORK / task.product
            fitting = _Spreading(executor, work, keys[task.product], died, progress)
            keep(task.product, fitting.fit(task))
            progress("fit", count, total)
        for name, one in done.items():
            if not one.error:
                forget(models / WORK / name)  # of a fit that was cut otherwise, too
        with suppress(OSError):
            (models / WORK).rmdir()  # if nothing is left to be fitted
    run.fitted = [done[product.name] for product in products]
    run.seconds = time.perf_counter() - began
    return run


@dataclass(frozen=True)
class _Spreading:
    """Fits a product in partitions: here what is known of all images comes together, features stay with the workers.

    Attributes:
        executor: whose workers have the partitions.
        work: the folder of what is known of them.
        key: all that the model depends on besides its images.
        died: called for every worker that died.
        progress: called with (stage, done, total), of partitions.
    """

    executor: Executor
    work: Path
    key: str
    died: Died
    progress: Progress

    def fit(self, task: _Task) -> str | Exception:
        """What `_fit` says, or why it failed. Images that can't be read, tried twice, are left out."""
        began = time.perf_counter()
        files, left_out = list(task.files), list[str]()
        try:
            require_spreadable(task.recipe, len(files), task.partitions)
            try:
                fitted = self._fit(task, files)
            except ImageError:
                files, left_out = self._readable(task)
                if not left_out:
                    raise
                fitted = self._fit(task, files)
            return _told(task, fitted, fitted.save(task.model), left_out, began)
        except Exception as error:  # of this product; others are still to come
            return error

    def _fit(self, task: _Task, files: Sequence[ImageFile]) -> Inspector:
        from goodparts.inspector import Inspector

        spread = Spread(
            self.executor,
            self.work,
            files,
            task.partitions,
            depends_on=self.key,
            offline=task.offline,
            pixel_limit=task.pixel_limit,
            died=lambda what, error: self.died(f"{task.product}: {what}", error),
            progress=self.progress,
        )
        inspector = Inspector(task.recipe, pixel_limit=task.pixel_limit, offline=task.offline)
        return inspector.fit(sources(files), make_parts=spread)

    def _readable(self, task: _Task) -> tuple[list[ImageFile], list[str]]:
        """As `_readable`, by a worker."""
        job = Job(task.product, partial(_which_readable, task, __version__), memory_of(task.recipe))
        with closing(run_again(self.executor, [job], self.died)) as finished:
            ((_, found),) = finished
        if not isinstance(found, str):
            raise GoodpartsError(in_words(found))
        readable, errors = json.loads(found)
        return [ImageFile(*values) for values in readable], errors


def _good_files(product: Product) -> list[ImageFile]:
    """The good images of a product, as `fit` takes them; of a glob or an address what it says."""
    path = Path(product.good)
    if is_address(product.good) or not path.exists():
        files = list_image_files(product.good)
        if not files:
            raise DatasetError(f"{product.good}: no images there; expected good images of {product.name}")
        return files
    root = path if path.is_dir() else path.parent
    return [
        ImageFile(
            image.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode(),
            str(image),
            status.st_size,
            status.st_mtime_ns,
        )
        for image in good_images(path)
        for status in (image.stat(),)
    ]


def _keys(recipes: dict[str, Recipe], cuts: dict[str, int], offline: bool) -> dict[str, str]:
    """Of each product all that its model depends on besides its images: recipe, backbone, zones, cuts, version."""
    from goodparts.backbones.catalogue import load_backbone

    backbones: dict[str, str] = {}
    keys = {}
    for name, recipe in recipes.items():
        if recipe.backbone not in backbones:
            backbones[recipe.backbone] = load_backbone(recipe.backbone, offline=offline).sha256
        what: dict[str, Any] = {
            "version": __version__,
            "recipe": recipe.product,
            "backbone": backbones[recipe.backbone],
        }
        if recipe.roi:
            what["roi"] = roi_hash(recipe.roi)
        if cuts[name] > 1:
            what["partitions"] = cuts[name]
        keys[name] = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return keys


def _is_there(path: Path, row: ProductRow) -> bool:
    """Whether the model file is the one that was fitted."""
    try:
        return bool(file.read_manifest(path)["identity"] == row.result.get("identity"))
    except (ModelError, KeyError):
        return False


def _of_row(row: ProductRow, *, kept: bool) -> Fitted:
    values: dict[str, Any] = dict(row.result)
    return Fitted(**{**values, "left_out": tuple(values["left_out"]), "kept": kept})


# ---- in the worker -------------------------------------------------------------------------------------


def _fit(task: _Task, threads: int | None, version: str) -> str:
    """Fit one product, write its model file whole, and say what it came to, as JSON.

    Images that can't be read, twice, are left out.
    """
    from goodparts.inspector import Inspector

    require_version(version)
    PARTS.close()  # of a fit in partitions that ended early
    began = time.perf_counter()
    inspector = Inspector(task.recipe, workers=threads, pixel_limit=task.pixel_limit, offline=task.offline)
    files = list(task.files)
    left_out: list[str] = []
    try:
        inspector.fit(sources(files))
    except ImageError:
        files, left_out = _readable(task)
        if not left_out:
            raise
        inspector.fit(sources(files))
    return _told(task, inspector, inspector.save(task.model), left_out, began)


def _told(task: _Task, inspector: Inspector, path: Path, left_out: Sequence[str], began: float) -> str:
    """What a fit came to, as JSON."""
    fitted = Fitted(
        task.product,
        str(path),
        identity=inspector.model.identity,
        good_images=inspector.model.provenance.good_images,
        seconds=round(time.perf_counter() - began, 3),
        memory=peak_memory(),
        left_out=tuple(left_out),
    )
    return json.dumps({**dataclasses.asdict(fitted), "content": content_of(list(task.files))})


def _which_readable(task: _Task, version: str) -> str:
    """`_readable`, as JSON."""
    require_version(version)
    return json.dumps(_readable(task))


def _readable(task: _Task) -> tuple[list[ImageFile], list[str]]:
    """The images that can be read, and the errors of the others, which were tried twice by now."""
    from goodparts.data.images import PIXEL_LIMIT, read_image

    files, errors = [], []
    for image in task.files:
        try:
            read_image(OnceRead(image.where), pixel_limit=task.pixel_limit or PIXEL_LIMIT)
            files.append(image)
        except ImageError as error:
            errors.append(str(error))
    return files, errors
