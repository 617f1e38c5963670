"""`fleet`: many products at once."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from goodparts.cli.options import (
    Command,
    json_option,
    offline_option,
    pixel_limit_option,
    progress_bars,
)
from goodparts.cli.printing import emit, wrapped
from goodparts.cli.recipe_flags import RecipeCommand, with_recipe
from goodparts.cli.streams import complain
from goodparts.progress import Progress
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.scale.places import Place

_SECONDS = 10.0  # between two lines of progress where nobody looks at a terminal
_GIB = {"m": 2**20, "g": 2**30, "t": 2**40}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def fleet() -> None:
    """Fit, inspect and evaluate many products, on one machine or many; what is done already is not done again.

    Example: goodparts fleet inspect models archive --out results
    """


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([mgt])i?b?", value.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"expected a size such as 2G or 1500M, found {value!r}")
    return int(float(found[1]) * _GIB[found[2].lower()])


def _with_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where the work is done."""
    for option in (
        click.option(
            "--gpu-per-worker",
            is_flag=True,
            help="Each worker of this machine sees one GPU, that of its number.",
        ),
        click.option(
            "--memory-per-worker",
            metavar="SIZE",
            callback=_bytes,
            help="Most memory of a worker of this machine, such as 2G. [default: its share of what is free]",
        ),
        click.option(
            "--on",
            metavar="PLACE",
            default="processes",
            show_default=True,
            help="processes[:N], dask:local[:N] or dask:tcp://HOST:PORT; N workers.",
        ),
    ):
        function = option(function)
    return function


@fleet.command(
    "fit", cls=RecipeCommand, epilog="Example: goodparts fleet fit plant --out models --on processes:4"
)
@click.argument("root", type=str, metavar="ROOT|PLAN.toml")
@click.option(
    "--out",
    "models",
    type=click.Path(path_type=Path),
    default="models",
    show_default=True,
    help="Folder for the models, PRODUCT.goodparts.",
)
@click.option(
    "--partitions",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Cut each product's good images into N and spread its fit over the workers; 1: one worker fits it.",
)
@click.option("--again", is_flag=True, help="Fit anew what is fitted already.")
@_with_place
@with_recipe
@pixel_limit_option
@offline_option
@json_option
def fleet_fit(
    root: str,
    models: Path,
    partitions: int,
    again: bool,
    on: str,
    memory_per_worker: int | None,
    gpu_per_worker: bool,
    recipe: Recipe,
    pixel_limit: int | None,
    offline: bool,
    as_json: bool,
) -> int:
    """Learn a model for every product: a folder for each below ROOT, or what a plan names.

    A product's folder holds good images, or `good`, or `train/good`. A product whose images, recipe and version are
    those of its last fit is passed over. Images that can't be read are left out. Exit code 2 if a product failed.
    """
    from goodparts.fleet.fit import fit_fleet

    try:
        with _open(on, memory_per_worker, gpu_per_worker) as place, _progress(as_json) as progress:
            run = fit_fleet(
                root,
                models,
                recipe,
                place,
                partitions=partitions,
                again=again,
                offline=offline,
                pixel_limit=pixel_limit,
                progress=progress,
            )
    except KeyboardInterrupt:
        complain(f"what is finished is kept in {models}; the same command goes on from there")
        raise
    for one in run.fitted:
        if as_json:
            emit(dataclasses.asdict(one))
        elif one.error:
            complain(wrapped(f"error: {one.product}: {one.error}", indent=2))
        else:
            how = "as before" if one.kept else f"{one.seconds:.1f} s"
            click.echo(f"{one.product}: {one.good_images} good images, {how}, {one.model}")
        for error in one.left_out:
            complain(wrapped(f"warning: {one.product}: left out: {error}", indent=2))
    _say_deaths(run.deaths)
    kept = sum(one.kept for one in run.fitted)
    failed = f", {len(run.failed)} failed" if run.failed else ""
    complain(
        f"{len(run.fitted) - kept - len(run.failed)} fitted, {kept} as before{failed}; took {run.seconds:.1f} s"
    )
    return 2 if run.failed else 0


@fleet.command(
    "inspect", cls=Command, epilog="\nExample: goodparts fleet inspect models archive --out results"
)
@click.argument("models", type=click.Path(path_type=Path))
@click.argument("images", type=str, metavar="IMAGES|PLAN.toml")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="results",
    show_default=True,
    help="Folder for table, report, and what later runs go on from.",
)
@click.option(
    "--table",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Of one row an image; parquet needs PyArrow.",
)
@click.option(
    "--shard",
    metavar="N",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images that a worker takes at a time, and the most that are lost with it.",
)
@click.option("--verify", is_flag=True, help="Read every image, rather than trust name, size and date.")
@click.option("--retry", is_flag=True, help="Try again the images that were set aside.")
@_with_place
@pixel_limit_option
@json_option
def fleet_inspect(
    models: Path,
    images: str,
    out: Path,
    table: str,
    shard: int,
    verify: bool,
    retry: bool,
    on: str,
    memory_per_worker: int | None,
    gpu_per_worker: bool,
    pixel_limit: int | None,
    as_json: bool,
) -> int:
    """Inspect the images of every product: a folder for each below IMAGES, or what a plan names.

    MODELS has a model for each, PRODUCT.goodparts. Only images are inspected that this model and version have not seen;
    starting again goes on where it was. Images that can't be inspected, tried twice, are set aside. Exit codes: 0 all
    were inspected, whatever their verdicts; 2 some were not.
    """
    from goodparts.fleet.inspect import Options, inspect_fleet
    from goodparts.fleet.report import facts_of, summary_record, write_report

    try:
        with _open(on, memory_per_worker, gpu_per_worker) as place, _progress(as_json) as progress:
            options = Options(shard, verify, retry, table, pixel_limit, place.memory_limit)
            run = inspect_fleet(models, images, out, place, options, progress=progress)
    except KeyboardInterrupt:
        complain(f"what is finished is kept in {out}; the same command goes on from there")
        raise
    page = write_report(out, run, pixel_limit)
    if as_json:
        emit(summary_record(run))
    for summary in run.summaries:
        if summary.error:
            complain(wrapped(f"error: {summary.product}: {summary.error}", indent=2))
        if as_json:
            continue
        rate = "-" if summary.reject_rate is None else f"{100 * summary.reject_rate:.1f} % BAD"
        more = {"RECHECK": summary.recheck, "set aside": summary.set_aside}
        rest = "".join(f", {count:,} {what}" for what, count in more.items() if count)
        drift = f"; {summary.drift[0]}" if summary.drift else ""
        click.echo(wrapped(f"{summary.product}: {summary.images:,} images, {rate}{rest}{drift}", indent=2))
    _say_deaths(run.deaths)
    complain(wrapped(f"{'; '.join(facts_of(run)[:-1])}", indent=2))
    if not as_json:
        click.echo(f"Table    {out / f'results.{table}'}\nReport   {page}")
    return 2 if run.failed or run.set_aside else 0


@fleet.command(
    "evaluate", cls=Command, epilog="\nExample: goodparts fleet evaluate models plant --out measured"
)
@click.argument("models", type=click.Path(path_type=Path))
@click.argument("data", type=str, metavar="DATA|PLAN.toml")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="evaluation",
    show_default=True,
    help="Folder for table, report, and what later runs go on from.",
)
@_with_place
@pixel_limit_option
@json_option
def fleet_evaluate(
    models: Path,
    data: str,
    out: Path,
    on: str,
    memory_per_worker: int | None,
    gpu_per_worker: bool,
    pixel_limit: int | None,
    as_json: bool,
) -> int:
    """Measure every product's model on its labelled images: a data set for each below DATA, or what a plan names.

    A product whose model, version and images are those of its last measurement is passed over. Exit code 2 if a
    product failed.
    """
    from goodparts.fleet.evaluate import TABLE, evaluate_fleet
    from goodparts.fleet.report import PAGE

    with _open(on, memory_per_worker, gpu_per_worker) as place, _progress(as_json) as progress:
        run = evaluate_fleet(models, data, out, place, pixel_limit=pixel_limit, progress=progress)
    for one in run.evaluated:
        if as_json:
            emit(dataclasses.asdict(one))
        elif one.error:
            complain(wrapped(f"error: {one.product}: {one.error}", indent=2))
        else:
            area = one.metrics.get("image_auroc")
            shown = "undefined" if area is None else f"{100 * area:.2f}"
            figures = one.metrics
            click.echo(
                f"{one.product}: image AUROC {shown}, {figures['rejected']} of {figures['good']} good rejected, "
                f"{figures['missed']} of {figures['bad']} bad missed{' (as before)' if one.kept else ''}"
            )
    _say_deaths(run.deaths)
    if not as_json:
        click.echo(f"Table    {out / TABLE}\nReport   {out / PAGE}")
    return 2 if run.failed else 0


@contextmanager
def _open(on: str, memory: int | None, gpu_per_worker: bool) -> Iterator[Place]:
    """The workers, for as long as the block lasts; Dask's own page is told."""
    from goodparts.scale.places import open_place

    with open_place(on, memory=memory, gpu_per_worker=gpu_per_worker) as place:
        if place.memory_limit:
            complain(f"Workers  at most {place.memory_limit / 2**30:.1f} GiB of memory each")
        if dashboard := getattr(place, "dashboard", ""):
            complain(f"Dask     {dashboard}")
        yield place


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    """A bar at a terminal; elsewhere a line every few seconds with the time that is left."""
    if as_json or sys.stderr is None or not sys.stderr.isatty():
        yield _Lines()
        return
    with progress_bars(as_json) as bars:
        yield bars


class _Lines:
    """Says every few seconds how far it is, and how long it will still take."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._began: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not done:
            self._began[stage] = self._said = now
        if not total or (done < total and now - self._said < _SECONDS):
            return
        self._said = now
        rate = done / max(now - self._began.setdefault(stage, now), 1e-9)
        left = (total - done) / rate if rate else 0.0
        complain(
            f"{stage:13}{done:,} of {total:,} ({100 * done / total:.0f} %), {rate:.3g}/s, "
            f"{int(left // 3600)}:{int(left // 60) % 60:02d}:{int(left) % 60:02d} left"
        )


def _say_deaths(deaths: list[str]) -> None:
    for death in deaths[:5]:
        complain(wrapped(f"warning: a worker ended early, and its work was tried again: {death}", indent=2))
    if len(deaths) > 5:
        complain(f"warning: and {len(deaths) - 5} more times")
