"""`run`, `fit`, `demo`."""

from __future__ import annotations

import time
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
    strict_option,
    workers_option,
)
from goodparts.cli.printing import (
    cost,
    emit,
    finding_records,
    print_evaluation,
    print_findings,
    print_model,
    print_sections,
    print_unwritten,
)
from goodparts.cli.recipe_flags import RecipeCommand, with_recipe
from goodparts.errors import OutputError
from goodparts.recipe.recipe import Recipe

if TYPE_CHECKING:
    from goodparts.inspector import Inspector


def default_model(folder: Path, name: str) -> Path:
    """The model file of a data set of this name, which may be no text, or as long as names can be."""
    from goodparts.report.picture_files import clean_name

    return folder / f"{clean_name(name or 'model', 240)}.goodparts"


calibrate_on_option = click.option(
    "--calibrate-on",
    type=click.Path(path_type=Path),
    help="More good images, which are not learnt from: the threshold rests on them.",
)

budget_option = click.option(
    "--budget-ms",
    metavar="MS",
    type=click.FloatRange(0, min_open=True),
    help="Take the finest working size in which an image takes no longer than this here.",
)


@click.command(
    cls=RecipeCommand,
    epilog="Example: goodparts run mvtec_ad/metal_nut --backbone resnet50.onnx --out results",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default="results", show_default=True, help="Folder for results."
)
@click.option("--model", type=click.Path(path_type=Path), help="Model file. [default: OUT/NAME.goodparts]")
@click.option("--zip-all", is_flag=True, help="Put maps and model into results.zip, too.")
@calibrate_on_option
@budget_option
@strict_option
@with_recipe
@workers_option
@pixel_limit_option
@device_option
@engine_option
@offline_option
@json_option
def run(
    data: Path,
    out: Path,
    model: Path | None,
    zip_all: bool,
    strict: bool,
    calibrate_on: Path | None,
    budget_ms: float | None,
    recipe: Recipe,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    offline: bool,
    as_json: bool,
) -> int:
    """Fit on DATA/train/good, evaluate on DATA/test, write model, metrics, pictures and a report."""
    from goodparts.inspector import Inspector

    inspector = Inspector(
        recipe, workers=workers, pixel_limit=pixel_limit, offline=offline, device=device, engine=engine
    )
    return _run(
        data,
        out,
        inspector,
        as_json,
        model=model,
        zip_all=zip_all,
        calibrate_on=calibrate_on,
        budget_ms=budget_ms,
        strict=strict,
    )


def _run(
    data: Path,
    out: Path,
    inspector: Inspector,
    as_json: bool,
    *,
    model: Path | None = None,
    zip_all: bool = False,
    calibrate_on: Path | None = None,
    budget_ms: float | None = None,
    strict: bool = False,
) -> int:
    """Fit, evaluate and write it all; the exit code."""
    from goodparts.data.findings_by_name import findings_by_name
    from goodparts.evaluation.evaluation import read_test_set
    from goodparts.report.results_folder import check_place, place_of_model, write_results

    began = time.perf_counter()
    labelled = read_test_set(data)
    findings = findings_by_name(data)
    print_findings(findings, strict)
    check_place(out, labelled)
    model_path = model or default_model(out, labelled.name)
    model_path = model_path if model_path.suffix else model_path.with_suffix(".goodparts")
    unwritten: list[OutputError] = []
    with progress_bars(as_json) as progress:
        inspector.fit(labelled.root, calibrate_on=calibrate_on, budget_ms=budget_ms, progress=progress)
        saved = inspector.save(place_of_model(model_path, out))
        try:
            evaluation = write_results(
                inspector,
                labelled,
                out,
                model_path=model_path,
                saved=saved,
                zip_all=zip_all,
                unwritten=unwritten.append,
                notes=[finding.message for finding in findings],
                progress=progress,
            )
        except BaseException:
            if saved != model_path and saved.exists():  # else it is in place, with its results
                click.echo(f"{out}: as an earlier run left it; the model just learnt is {saved}", err=True)
            raise
    identity = inspector.model.identity
    print_evaluation(
        inspector,
        evaluation,
        as_json,
        out=out,
        model_path=model_path,
        identity=identity,
        began=began,
        findings=findings,
    )
    return print_unwritten(unwritten, len(evaluation.images))


@click.command(
    cls=RecipeCommand,
    epilog="Example: goodparts fit parts/good --model part.goodparts --image-size 384",
)
@click.argument("good", type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model file to write. [default: NAME.goodparts]"
)
@calibrate_on_option
@budget_option
@strict_option
@with_recipe
@workers_option
@pixel_limit_option
@device_option
@engine_option
@offline_option
@json_option
def fit(
    good: Path,
    model: Path | None,
    calibrate_on: Path | None,
    budget_ms: float | None,
    strict: bool,
    recipe: Recipe,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Learn from GOOD, a folder of good images or a data set with train/good; write a model."""
    from goodparts.data.findings_by_name import findings_by_name
    from goodparts.inspector import Inspector
    from goodparts.report.card import DECISION, FEW_IMAGES, MEANING, card, warnings

    began = time.perf_counter()
    inspector = Inspector(
        recipe, workers=workers, pixel_limit=pixel_limit, offline=offline, device=device, engine=engine
    )
    findings = findings_by_name(good)
    print_findings(findings, strict)
    with progress_bars(as_json) as progress:
        inspector.fit(good, calibrate_on=calibrate_on, budget_ms=budget_ms, progress=progress)
    path = inspector.save(model or default_model(Path(), good.resolve().name))
    learnt = inspector.model
    if as_json:
        emit(
            {
                "model": str(path),
                "identity": learnt.identity,
                "threshold": learnt.calibration.decision.threshold,
                "good_images": learnt.provenance.good_images,
                "bank_entries": learnt.entries,
                "computed_by": inspector.computed_by,
                "warnings": warnings(learnt),
                "findings": finding_records(findings),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        return
    print_model(inspector)
    print_sections(section for section in card(learnt) if section.title in (FEW_IMAGES, DECISION, MEANING))
    click.echo(f"\nModel {path} ({path.stat().st_size / 1e6:.0f} MB), identity {learnt.identity[:12]}")
    click.echo(cost(began))


@click.command(cls=RecipeCommand, epilog="Example: goodparts demo --out demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Folder for all of it."
)
@with_recipe
@workers_option
@device_option
@engine_option
@offline_option
@json_option
def demo(
    out: Path,
    recipe: Recipe,
    workers: int | None,
    device: str | None,
    engine: str | None,
    offline: bool,
    as_json: bool,
) -> int:
    """Make a small data set of rendered metal parts, then do the whole job on it.

    60 good parts to learn from, 20 good and 20 bad ones in 4 defect classes to test with.
    """
    from goodparts.data.demo import write_demo
    from goodparts.inspector import Inspector

    inspector = Inspector(recipe, workers=workers, offline=offline, device=device, engine=engine)
    with progress_bars(as_json) as progress:
        data = write_demo(
            out / "flange", seed=recipe.seed, progress=lambda done, total: progress("rendering", done, total)
        )
    return _run(data, out / "results", inspector, as_json)
