"""Evaluating many products on their labelled data sets: one job each, nothing measured twice."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from goodparts.data.dataset import Dataset
from goodparts.errors import DatasetError, ImageError, ModelError
from goodparts.evaluation.evaluation import read_test_set
from goodparts.evaluation.figures import figures
from goodparts.files import write_text
from goodparts.fleet.attempts import in_words, require_version, run_again
from goodparts.fleet.images import ImageFile, content_of, stamp_of
from goodparts.fleet.manifest import Manifest, ProductRow
from goodparts.fleet.plan import read_products
from goodparts.fleet.report import PAGE, table, write_page
from goodparts.fleet.shard import model_key
from goodparts.model import file
from goodparts.progress import Progress, silent
from goodparts.scale.executor import Executor, Job
from goodparts.version import __version__

MANIFEST = "manifest.sqlite"
TABLE = "evaluation.csv"
_FIGURES = {  # and what the page calls them
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "image_f1": "image F1",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
    "aupro_30": "AUPRO 30",
}
_COUNTS = ("good", "rejected", "bad", "missed", "rechecks")
_PROGRAM = 2**29


@dataclass(frozen=True)
class Evaluated:
    """What a product's evaluation came to.

    Attributes:
        product: its name.
        identity: of its model.
        metrics: as `Evaluation.metrics`, and how many good and bad images there were, rejected and missed.
        kept: whether an earlier run had measured it.
        error: why it failed; empty where it did not.
    """

    product: str
    identity: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    kept: bool = False
    error: str = ""


@dataclass
class EvaluationRun:
    """What a run of evaluations came to: the products in their order, and the workers that died."""

    evaluated: list[Evaluated] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Evaluated]:
        """Those without figures."""
        return [one for one in self.evaluated if one.error]


def evaluate_fleet(
    models: Path,
    place: str,
    out: Path,
    executor: Executor,
    *,
    pixel_limit: int | None = None,
    progress: Progress | None = None,
) -> EvaluationRun:
    """Measure every product's model on its labelled images; `evaluation.csv`, `report.html` and a manifest into `out`.

    Args:
        models: the folder of model files, `PRODUCT.goodparts`.
        place: a folder with a data set in the MVTec AD layout for each product, or a plan.
        out: the folder of results.
        executor: who measures; paths have to mean the same to its workers.
        pixel_limit: files of more pixels are refused; None: 100 million.
        progress: called with (stage, done, total), of products.

    Raises:
        PlanError: no product, or no such place.
        OutputError: results can't be written.
    """
    progress = progress or silent
    run = EvaluationRun()
    done: dict[str, Evaluated] = {}
    known_by: dict[str, tuple[str, str, str]] = {}
    jobs = []
    products = read_products(place, "test")
    with Manifest(out / MANIFEST) as manifest:
        known = manifest.products()
        for product in products:
            path = product.model_in(models)
            try:
                data = read_test_set(product.test, require_train=False)
                if not path.is_file():
                    raise ModelError(
                        f"{path}: no such model; fit it (`goodparts fleet fit`), or name it in the plan"
                    )
                identity = str(file.read_manifest(path)["identity"])
                files = _files(data)
            except (DatasetError, ImageError, ModelError, OSError) as error:
                done[product.name] = Evaluated(product.name, error=str(error))
                continue
            key, stamp = model_key(identity), stamp_of(files)
            row = known.get(product.name)
            if row is not None and row.key == key:
                content = row.content if row.stamp == stamp else content_of(files)
                if content == row.content:
                    done[product.name] = Evaluated(product.name, identity, dict(row.result), kept=True)
                    continue
            known_by[product.name] = stamp, key, identity
            jobs.append(
                Job(
                    product.name,
                    partial(_evaluate, str(path), data, files, pixel_limit, executor.workers, __version__),
                    _PROGRAM,
                    product.name,
                )
            )

        def died(what: str, error: Exception) -> None:
            run.deaths.append(f"{what}: {in_words(error)}")

        progress("evaluate", 0, len(jobs))
        with closing(run_again(executor, jobs, died)) as finished:
            for count, (job, found) in enumerate(finished, 1):
                if isinstance(found, str):
                    record = json.loads(found)
                    stamp, key, identity = known_by[job.name]
                    manifest.add_product(
                        ProductRow(job.name, stamp, record["content"], key, record["metrics"])
                    )
                    done[job.name] = Evaluated(job.name, identity, record["metrics"])
                else:
                    done[job.name] = Evaluated(job.name, error=in_words(found))
                progress("evaluate", count, len(jobs))
    run.evaluated = [done[product.name] for product in products]
    _write(run, out)
    return run


def _files(data: Dataset) -> list[ImageFile]:
    """Images and masks of a data set; OSError where one is gone."""
    found = []
    for sample in data.test:
        for path in (sample.path, *sample.masks):
            status = path.stat()
            name = path.relative_to(data.root) if path.is_relative_to(data.root) else path
            text = name.as_posix().encode("utf-8", "backslashreplace").decode()
            found.append(ImageFile(text, str(path), status.st_size, status.st_mtime_ns))
    return found


def _write(run: EvaluationRun, out: Path) -> None:
    """The table for machines, and the page for people."""
    columns = ("product", "identity", *_COUNTS, *_FIGURES, "error")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for one in run.evaluated:
        values = {"product": one.product, "identity": one.identity, "error": one.error, **one.metrics}
        writer.writerow(["" if values.get(name) is None else values[name] for name in columns])
    write_text(out / TABLE, text.getvalue())
    measured = [one for one in run.evaluated if not one.error]
    shown = [name for name in _FIGURES if any(one.metrics.get(name) is not None for one in measured)]
    write_page(
        out / PAGE,
        title="Evaluation of a fleet of products",
        summary=_in_a_sentence(run, measured),
        facts=[f"goodparts {__version__}"],
        notes=[
            *(f"{one.product}: {one.error}" for one in run.failed),
            *(f"A worker ended early: {death}" for death in run.deaths),
        ],
        table=table(
            "Products",
            ("product", "good", "rejected", "bad", "missed", "RECHECK", *(_FIGURES[name] for name in shown)),
            [
                [
                    one.product,
                    *(one.metrics.get(name, "-") for name in _COUNTS),
                    *(_percent(one, name) for name in shown),
                ]
                for one in sorted(measured, key=_worst_first)
            ],
            note=_explained(shown),
            warn=("missed",),
        ),
    )


def _in_a_sentence(run: EvaluationRun, measured: Sequence[Evaluated]) -> str:
    counts = {name: sum(one.metrics.get(name, 0) for one in measured) for name in _COUNTS}
    areas = [one.metrics["image_auroc"] for one in measured if one.metrics.get("image_auroc") is not None]
    found = [f"{len(measured)} of {len(run.evaluated)} products measured"]
    if measured:
        found.append(f"{counts['rejected']:,} of {counts['good']:,} good images rejected")
        found.append(f"{counts['missed']:,} of {counts['bad']:,} bad ones missed")
    mean = f" Image AUROC {100 * sum(areas) / len(areas):.2f} % on average." if areas else ""
    return f"{', '.join(found)}.{mean}"


def _worst_first(one: Evaluated) -> tuple[bool, float, int]:
    """By image AUROC, and of equal ones by what was missed; those without one last."""
    area = one.metrics.get("image_auroc")
    return area is None, area or 0.0, -one.metrics.get("missed", 0)


def _explained(shown: Sequence[str]) -> str:
    masks = "" if "pixel_auroc" in shown else " No product has masks, so nothing is said of pixels."
    return (
        "The products with the lowest image AUROC come first. Rejected: good images that are BAD; missed: bad ones "
        "that are GOOD; RECHECK: images that could not be judged. AUROC, AP (average precision), F1 and AUPRO in "
        f"percent; a dash where there are no bad images, or no masks.{masks}"
    )


def _percent(one: Evaluated, name: str) -> str:
    value = one.metrics.get(name)
    return "-" if value is None else f"{100 * value:.2f}"


# ---- in the worker -------------------------------------------------------------------------------------


def _evaluate(
    model: str,
    data: Dataset,
    files: list[ImageFile],
    pixel_limit: int | None,
    threads: int | None,
    version: str,
) -> str:
    from goodparts.inspector import Inspector

    require_version(version)
    began = time.perf_counter()
    inspector = Inspector.load(model, workers=threads, pixel_limit=pixel_limit, keep_compiled=False)
    found = inspector.evaluate(data)
    counted = {name: value for name, value in figures(found).items() if name in _COUNTS}
    metrics = {**found.metrics, **counted, "seconds": round(time.perf_counter() - began, 3)}
    return json.dumps({"metrics": metrics, "content": content_of(files)})
