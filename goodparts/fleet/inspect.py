"""Inspecting the images of many products: what is missing is cut into shards, and whoever has room inspects them.

    with open_place("processes:4") as place:
        found = inspect_fleet(Path("models"), "archive", Path("results"), place)
    print([(summary.product, summary.reject_rate) for summary in found.summaries])

Starting again does what is missing and no more: an image is known by its name, size, date and model, and where the date
alone is another, by its bytes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goodparts.data.dataset import enumerate_names
from goodparts.errors import DatasetError, GoodpartsError, ModelError
from goodparts.files import write_text
from goodparts.fleet.attempts import in_words, inspect_shards
from goodparts.fleet.images import ImageFile, list_image_files
from goodparts.fleet.manifest import Known, Manifest, Row
from goodparts.fleet.plan import SUFFIX, Product, read_products
from goodparts.fleet.shard import Shard, cut, model_key, read_shard, row_of, shard_path
from goodparts.fleet.summary import Summary
from goodparts.fleet.tables import table_writer
from goodparts.model import file
from goodparts.progress import Progress, silent
from goodparts.scale.executor import Executor

MANIFEST = "manifest.sqlite"
SHARD = 64
"""Images of a shard, unless somebody says otherwise."""


@dataclass(frozen=True)
class Options:
    """How to inspect.

    Attributes:
        shard: images of a shard.
        verify: read every image, rather than trust name, size and date.
        retry: try again what was set aside.
        table: csv or parquet.
        pixel_limit: files of more pixels are refused; None: 100 million.
        memory: bytes that a worker should take at most; 0: as many as it likes.
    """

    shard: int = SHARD
    verify: bool = False
    retry: bool = False
    table: str = "csv"
    pixel_limit: int | None = None
    memory: int = 0


@dataclass
class FleetRun:
    """What a run came to.

    Attributes:
        summaries: one a product, in their order; of all its images, whenever they were inspected.
        images: of all products.
        before: of these that earlier runs had inspected.
        read_again: that were read, and found to be the same bytes as before.
        deaths: workers that died, and what they were about.
        seconds: wall time of inspecting.
        memory: bytes that a worker took at most.
    """

    summaries: list[Summary] = field(default_factory=list)
    images: int = 0
    before: int = 0
    read_again: int = 0
    deaths: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0

    @property
    def set_aside(self) -> int:
        """Images that could not be inspected."""
        return sum(summary.set_aside for summary in self.summaries)

    @property
    def failed(self) -> list[Summary]:
        """Products of which images are missing."""
        return [summary for summary in self.summaries if summary.error]


@dataclass(frozen=True)
class _Work:
    """A product, its model, the images that it has now, and those that are missing: each with its `known`."""

    summary: Summary
    model: Path
    files: Sequence[ImageFile]
    missing: Sequence[tuple[ImageFile, str]]


def inspect_fleet(
    models: Path,
    images: str,
    out: Path,
    executor: Executor,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> FleetRun:
    """Inspect what is missing, and write table, summaries and what was found of each image.

    Args:
        models: the folder of model files, `PRODUCT.goodparts`.
        images: a folder with one for each product, or a plan.
        out: the folder of results; `manifest.sqlite` and `shards` in it are what later runs go on from.
        executor: who inspects; the images' paths have to mean the same to its workers.
        options: how.
        progress: called with (stage, done, total), of images.

    Raises:
        PlanError: no product, or no such place.
        OutputError: results can't be written.
    """
    options, progress = options or Options(), progress or silent
    run = FleetRun()
    with Manifest(out / MANIFEST) as manifest:
        _adopt(manifest, out)
        work = []
        for product in _with_models(read_products(images, "images"), models):
            found = _look(product, models, manifest, options)
            work.append(found)
            run.summaries.append(found.summary)
            run.images += len(found.files)
            run.before += len(found.files) - len(found.missing)
        name = uuid.uuid4().hex
        shards = [shard for one in work for shard in _shards(one, options, name)]
        began = time.perf_counter()
        _inspect(executor, shards, manifest, out, run, progress)
        run.seconds = time.perf_counter() - began
        run.memory = max((shard.memory for shard in manifest.shard_rows()), default=0)
        with table_writer(out, options.table) as add:
            for one in work:
                rows = manifest.of_product(one.summary.product)
                for _, row in one.summary.read(_rows(one, rows), _calibration(one)):
                    add(row)
                missing = len(one.files) - one.summary.images
                if missing and not one.summary.error:
                    one.summary.error = f"{missing} images were not inspected; start the same command again"
    return run


def _with_models(products: list[Product], models: Path) -> list[Product]:
    """The products; ModelError where none of them has a model."""
    if models.is_file():
        raise ModelError(
            f"{models}: is one model; expected the folder of models, named PRODUCT{SUFFIX}. For one product, "
            "`goodparts inspect`"
        )
    if not models.is_dir() and not any(product.model for product in products):
        raise ModelError(
            f"{models}: no such folder; expected models in it, as `goodparts fleet fit` writes them"
        )
    if not any(product.model_in(models).is_file() for product in products):
        names = enumerate_names([product.model_in(models).name for product in products], 5)
        raise ModelError(f"{models}: none of the models is there: {names}; the products' folders name them")
    return products


def _look(product: Product, models: Path, manifest: Manifest, options: Options) -> _Work:
    """What there is of a product, and what is missing."""
    path = product.model_in(models)
    summary = Summary(product.name, str(path))
    try:
        files = list_image_files(product.images)
        if not files:  # no part was made
            return _Work(summary, path, [], [])
        if not path.is_file():
            raise ModelError(f"{path}: no such model; fit it (`goodparts fleet fit`), or name it in the plan")
        summary.identity = str(file.read_manifest(path)["identity"])
    except (DatasetError, ModelError) as error:
        summary.error = str(error)
        return _Work(summary, path, [], [])
    known = manifest.known(product.name)
    key = model_key(summary.identity)
    return _Work(summary, path, files, list(missing_of(files, known, key, options)))


def missing_of(
    files: Sequence[ImageFile], known: Mapping[str, Known], key: str, options: Options
) -> Iterator[tuple[ImageFile, str]]:
    """Images that are to be inspected, each with the sha256 of what the same model has judged under its name."""
    for image in files:
        row = known.get(image.name)
        if row is None or row.model != key:
            yield image, ""
        elif row.verdict is None:
            if options.retry or (row.size, row.changed) != (image.size, image.changed):
                yield image, ""
        elif options.verify or (row.size, row.changed) != (image.size, image.changed):
            yield image, row.content


def _shards(work: _Work, options: Options, run: str) -> Iterator[Shard]:
    return cut(
        work.missing,
        options.shard,
        product=work.summary.product,
        model=work.model,
        identity=work.summary.identity,
        pixel_limit=options.pixel_limit,
        memory=options.memory,
        run=run,
    )


def _inspect(
    executor: Executor,
    shards: Sequence[Shard],
    manifest: Manifest,
    out: Path,
    run: FleetRun,
    progress: Progress,
) -> None:
    """Have shards inspected, and keep what each came to before the next one is taken."""
    total = sum(len(shard.images) for shard in shards)
    done = 0
    failed: dict[str, str] = {}

    def died(what: str, error: Exception) -> None:
        run.deaths.append(f"{what}: {in_words(error)}")

    progress("inspect", 0, total)
    with closing(inspect_shards(executor, shards, died)) as finished:
        for shard, found in finished:
            if isinstance(found, GoodpartsError):
                failed.setdefault(shard.product, str(found))
            else:
                write_text(shard_path(out, shard.product, shard.name), found)
                run.read_again += keep(manifest, found)
            done += len(shard.images)
            progress("inspect", done, total)
    for summary in run.summaries:
        summary.error = summary.error or failed.get(summary.product, "")


def keep(manifest: Manifest, text: str) -> int:
    """Add what a shard's file says; how many of its images were the same as before."""
    shard, records = read_shard(text)
    before = manifest.of_product(shard.product) if any("same" in record for record in records) else {}
    rows = []
    for record in records:
        row = row_of(record, shard)
        if "same" in record:
            earlier = before.get(row.name)
            if earlier is None or earlier.content != row.content:
                continue  # of a manifest that was lost; it is inspected anew
            row = earlier._replace(size=row.size, changed=row.changed, shard=row.shard)
        rows.append(row)
    manifest.add(shard, rows)
    return sum("same" in record for record in records)


def _adopt(manifest: Manifest, out: Path) -> None:
    """Take in shards that were written, and that a run which was killed did not come to note."""
    known = manifest.shards()
    left = [path for path in (out / "shards").glob("*/*.jsonl") if path.stem not in known]
    for path in sorted(left, key=lambda path: path.stat().st_mtime_ns):
        try:
            keep(manifest, path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError):
            continue  # no shard of this program; its images are inspected anew


def _rows(work: _Work, rows: Mapping[str, Row]) -> Iterator[tuple[ImageFile, Row]]:
    """The images of a product that have a row of its model, in their order."""
    key = model_key(work.summary.identity)
    for image in work.files:
        row = rows.get(image.name)
        if row is not None and (row.model, row.size, row.changed) == (key, image.size, image.changed):
            yield image, row


def _calibration(work: _Work) -> Any:
    """What a product's images are held against; None where it has none."""
    if not work.files:
        return None
    try:
        return file.load(work.model).calibration
    except ModelError:
        return None
