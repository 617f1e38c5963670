"""`benchmark`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import (
    device_option,
    engine_option,
    json_option,
    offline_option,
    pixel_limit_option,
    progress_bars,
)
from goodparts.cli.printing import emit
from goodparts.cli.recipe_flags import RecipeCommand, with_recipe

if TYPE_CHECKING:
    from goodparts.benchmark.benchmark import Benchmark
    from goodparts.benchmark.row import Row
    from goodparts.recipe.recipe import Recipe


@click.command(
    cls=RecipeCommand,
    epilog="Example: goodparts benchmark mvtec_ad --recipe patchcore --out patchcore",
)
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    default="auto",
    show_default=True,
    help="mvtec_ad, mvtec_ad_2, mvtec_loco, visa, btad, mpdd, kolektor_sdd, kolektor_sdd2, good_bad, or auto.",
)
@click.option("--categories", metavar="A,B,...", default="", help="Only these. [default: all]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="benchmark",
    show_default=True,
    help="Folder for tables and what is kept.",
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1),
    help="Categories side by side at most, as memory allows. [default: one for every 4 cores]",
)
@click.option("--again", is_flag=True, help="Measure anew what an earlier run has finished.")
@with_recipe
@pixel_limit_option
@device_option
@engine_option
@offline_option
@json_option
def benchmark(
    root: Path,
    layout: str,
    categories: str,
    out: Path,
    jobs: int | None,
    again: bool,
    recipe: Recipe,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    offline: bool,
    as_json: bool,
) -> int:
    """Fit and evaluate every category of a data set; tables of metrics as Markdown, CSV and JSON.

    ROOT holds the categories, or is one. Knows MVTec AD, MVTec AD 2, MVTec LOCO AD, VisA, BTAD, MPDD, KolektorSDD,
    KolektorSDD2, and folders `good` and `bad`. Goes on where it was interrupted. Exit code 2 if a category failed.
    """
    from tqdm import tqdm

    from goodparts.benchmark.benchmark import choose, run_benchmark
    from goodparts.benchmark.tables import markdown, means, write_tables
    from goodparts.data.layouts import find_categories, layout_summary

    names = [name.strip() for name in categories.split(",") if name.strip()]
    if not as_json:
        click.echo(f"Layout   {layout_summary(choose(find_categories(root, layout), names, root))}")
    finished = 0

    def observe(row: Row, kept: bool, found: Benchmark) -> None:
        nonlocal finished
        finished += row.error is None
        write_tables(out, found)
        if as_json:
            emit({**dataclasses.asdict(row), "kept": kept})
        else:
            tqdm.write(_line(row, kept))

    try:
        with progress_bars(as_json) as progress:
            found = run_benchmark(
                root,
                recipe,
                layout=layout,
                categories=names,
                out=out,
                jobs=jobs,
                again=again,
                pixel_limit=pixel_limit,
                offline=offline,
                device=device,
                engine=engine,
                observe=observe,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(f"\n{finished} finished and kept in {out}; the same command goes on from there", err=True)
        raise
    if as_json:
        emit({"mean": means(row for row in found.rows if row.error is None), "failed": len(found.failed)})
    else:
        click.echo(f"\n{markdown(found, recipe=False)}\nTables   {out / 'benchmark.md'}, .csv and .json")
    return 2 if found.failed else 0


def _line(row: Row, kept: bool) -> str:
    """What a category came to, in one line."""
    if row.error is not None:
        return f"{row.category}: failed: {row.error}"
    figures = {"image AUROC": "image_auroc", "pixel AUROC": "pixel_auroc", "AUPRO": "aupro_30"}
    values = {title: row.metrics.get(name) for title, name in figures.items()}
    known = [f"{title} {100 * value:.2f}" for title, value in values.items() if value is not None]
    earlier = " (finished earlier, not run again; --again does)" if kept else ""
    return f"{row.category}: {', '.join(known) or 'no metric is defined'}{earlier}"
