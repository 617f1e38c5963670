"""The command line. Exit codes: 0 all good, 1 a bad part was found, 2 the user's error, 3 ours, 130 interrupted."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from goodparts import __version__
from goodparts.errors import DatasetError, GoodpartsError, ImageError
from goodparts.recipe import PRESETS, Recipe, describe

if TYPE_CHECKING:
    from goodparts.evaluation import Evaluation
    from goodparts.inspection import Inspection
    from goodparts.inspector import Inspector

_WIDTH = 100
_KEYS = [item.name for item in dataclasses.fields(Recipe)]
_FLAGS = textwrap.wrap(
    " ".join(f"--{name.replace('_', '-')}" for name in _KEYS), _WIDTH - 4, break_on_hyphens=False
)
_RECIPE_HELP = "\n".join(
    [
        "\b",
        "Every key of the recipe is a flag (`goodparts recipe` explains them):",
        *("  " + line for line in _FLAGS),
    ]
)


class _Command(click.Command):
    """A command whose help ends in an example and, with a recipe, the list of its flags."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            for line in self.epilog.splitlines():
                formatter.write(f"{line}\n" if line != "\b" else "")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH})
@click.version_option(__version__, prog_name="goodparts")
def cli() -> None:
    """Visual inspection that learns what good parts look like from images of good parts only.

    \b
    Start with:   goodparts demo
    Your parts:   goodparts run DATA --out results      (DATA/train/good, DATA/test/...)
    On the line:  goodparts inspect results/DATA.goodparts new_part.png
    """


cli.command_class = _Command


def with_recipe(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --recipe and a flag for every key; the command gets `recipe: Recipe`."""

    @functools.wraps(function)
    def command(*args: Any, recipe: str | None, **options: Any) -> Any:
        flags = {name: options.pop(name) for name in _KEYS}
        start = Recipe.load(recipe) if recipe else Recipe()
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            made = start.replace(given)
        except GoodpartsError as error:
            name = str(error).split(":", 1)[0]
            flag = f"--{name.replace('_', '-')}" if name in given else "recipe"
            raise type(error)(f"{flag}: {error}") from None
        return function(*args, recipe=made, **options)

    for item in reversed(dataclasses.fields(Recipe)):
        command = click.option(
            f"--{item.name.replace('_', '-')}", item.name, hidden=True, help=describe(item)
        )(command)
    return click.option(
        "--recipe",
        metavar="NAME|FILE",
        help=f"A preset ({', '.join(PRESETS)}) or a TOML file of recipe keys.",
    )(command)


_workers = click.option("--workers", type=click.IntRange(1), help="Threads. [default: cores + 1]")
_pixel_limit = click.option(
    "--pixel-limit",
    type=click.IntRange(1),
    help="Refuse images of more pixels before they are decoded. [default: 100 million]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable lines on standard output.")
_offline = click.option("--offline", is_flag=True, help="Never ask the network for a backbone.")


@cli.command(
    epilog=f"{_RECIPE_HELP}\n\nExample: goodparts run mvtec_ad/metal_nut --backbone resnet50.onnx --out results"
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default="results", show_default=True, help="Folder for results."
)
@click.option("--model", type=click.Path(path_type=Path), help="Model file. [default: OUT/NAME.goodparts]")
@click.option("--zip-all", is_flag=True, help="Put maps and model into results.zip, too.")
@with_recipe
@_workers
@_pixel_limit
@_offline
@_json
def run(
    data: Path,
    out: Path,
    model: Path | None,
    zip_all: bool,
    recipe: Recipe,
    workers: int | None,
    pixel_limit: int | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Fit on DATA/train/good, evaluate on DATA/test, write model, metrics, pictures and a report."""
    _run(data, out, model, zip_all, recipe, workers, pixel_limit, offline, as_json)


def _run(
    data: Path,
    out: Path,
    model: Path | None,
    zip_all: bool,
    recipe: Recipe,
    workers: int | None,
    pixel_limit: int | None,
    offline: bool,
    as_json: bool,
) -> None:
    from goodparts.dataset import read_dataset
    from goodparts.evaluation import check_mask_sizes
    from goodparts.inspector import Inspector
    from goodparts.results import write_results

    began = time.perf_counter()
    labelled = read_dataset(data)
    check_mask_sizes(labelled)
    inspector = Inspector(recipe, workers=workers, pixel_limit=pixel_limit, offline=offline)
    with _progress(as_json) as progress:
        inspector.fit(labelled.root, progress=progress)
        model_path = inspector.save(model or out / f"{labelled.name}.goodparts")
        evaluation = write_results(inspector, labelled, out, zip_all=zip_all, progress=progress)
        if recipe.threshold_rule == "f1":  # the oracle's threshold is known only now
            model_path = inspector.save(model_path)
    _print_evaluation(inspector, evaluation, as_json, out=out, model_path=model_path, began=began)


@cli.command(
    epilog=f"{_RECIPE_HELP}\n\nExample: goodparts fit parts/good --model part.goodparts --sampling-ratio 0.01"
)
@click.argument("good", type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model file to write. [default: NAME.goodparts]"
)
@with_recipe
@_workers
@_pixel_limit
@_offline
@_json
def fit(
    good: Path,
    model: Path | None,
    recipe: Recipe,
    workers: int | None,
    pixel_limit: int | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Learn from GOOD, a folder of good images or a data set with train/good; write a model."""
    from goodparts.inspector import Inspector
    from goodparts.results import calibration_lines

    began = time.perf_counter()
    inspector = Inspector(recipe, workers=workers, pixel_limit=pixel_limit, offline=offline)
    with _progress(as_json) as progress:
        inspector.fit(good, progress=progress)
    path = inspector.save(model or Path(f"{good.resolve().name}.goodparts"))
    learnt = inspector.model
    if as_json:
        _emit(
            {
                "model": str(path),
                "identity": learnt.identity,
                "threshold": learnt.calibration.threshold,
                "good_images": learnt.data["good_images"],
                "bank_entries": len(learnt.bank.features),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        return
    _say_learnt(inspector)
    for line in calibration_lines(learnt):
        click.echo(line)
    click.echo(f"\nModel {path} ({path.stat().st_size / 1e6:.0f} MB), identity {learnt.identity[:12]}")
    click.echo(_cost(began))


@cli.command(epilog="\nExample: goodparts inspect part.goodparts new/*.png --out inspected --json")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE|FOLDER...")
@click.option("--out", type=click.Path(path_type=Path), help="Write panels, maps and masks into this folder.")
@_workers
@_pixel_limit
@_json
def inspect(
    model: Path,
    images: tuple[Path, ...],
    out: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    as_json: bool,
) -> int:
    """Inspect images with a model. Exit code 1 if a part is BAD, 2 if an image could not be read."""
    from goodparts.inspector import Inspector

    paths = _expand(images)
    inspector = Inspector.load(model, workers=workers, pixel_limit=pixel_limit)
    inspector.model.calibration.decided  # noqa: B018  (an error now rather than at the first image)
    worst = 0
    for path, found in zip(paths, _each(inspector, paths, out), strict=True):
        if isinstance(found, ImageError):
            worst = 2
            _emit({"path": str(path), "error": str(found)}) if as_json else click.echo(
                f"error: {found}", err=True
            )
            continue
        worst = max(worst, int(found.bad))
        _emit(_as_record(found)) if as_json else click.echo(_as_line(found))
    return worst


def _each(inspector: Inspector, paths: list[Path], out: Path | None) -> Iterator[Inspection | ImageError]:
    """Inspections in order; an image that can't be read gives its error and does not stop the others."""
    from goodparts import feeding
    from goodparts.images import read_image
    from goodparts.results import write_pictures

    names = _unique_names(paths)

    def one(index: int) -> Inspection | ImageError:
        try:
            pixels = read_image(paths[index], pixel_limit=inspector.pixel_limit)
            found = inspector.inspect_pixels(pixels, paths[index], alone=len(paths) == 1)
        except ImageError as error:
            return error
        if out is not None:
            write_pictures(inspector, out, names[index], pixels, found)
        return found

    return feeding.ordered(one, range(len(paths)), workers=min(inspector.workers, len(paths)))


@cli.command(epilog="\nExample: goodparts evaluate part.goodparts mvtec_ad/metal_nut --out results")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write metrics, pictures and a report into this folder."
)
@click.option("--zip-all", is_flag=True, help="Put the maps into results.zip, too.")
@_workers
@_pixel_limit
@_json
def evaluate(
    model: Path,
    data: Path,
    out: Path | None,
    zip_all: bool,
    workers: int | None,
    pixel_limit: int | None,
    as_json: bool,
) -> None:
    """Measure a model on DATA/test, a labelled test set in the MVTec AD layout."""
    from goodparts import evaluation as evaluation_module
    from goodparts.dataset import read_dataset
    from goodparts.inspector import Inspector
    from goodparts.results import write_results

    began = time.perf_counter()
    labelled = read_dataset(data, require_train=False)
    inspector = Inspector.load(model, workers=workers, pixel_limit=pixel_limit)
    with _progress(as_json) as progress:
        if out is None:
            found = evaluation_module.evaluate(inspector, labelled, progress=progress)
        else:
            found = write_results(inspector, labelled, out, zip_all=zip_all, progress=progress)
    _print_evaluation(inspector, found, as_json, out=out, model_path=model, began=began)


@cli.command(epilog="\nExample: goodparts check mvtec_ad/metal_nut")
@click.argument("data", type=click.Path(path_type=Path))
@_workers
@_pixel_limit
@_json
def check(data: Path, workers: int | None, pixel_limit: int | None, as_json: bool) -> int:
    """Say what is wrong with a data set before an hour is lost. Exit code 2 if something must be mended."""
    from goodparts.check import check_dataset

    with _progress(as_json) as progress:
        findings = check_dataset(
            data,
            **({"pixel_limit": pixel_limit} if pixel_limit else {}),
            workers=workers,
            progress=lambda done, total: progress("images", done, total),
        )
    for finding in findings:
        if as_json:
            record = dataclasses.asdict(finding)
            _emit({**record, "paths": [str(path) for path in finding.paths]})
        else:
            click.echo(_wrapped(f"{finding.severity:8} {finding.message}", indent=9))
    errors = sum(finding.severity == "error" for finding in findings)
    if not as_json:
        warnings = sum(finding.severity == "warning" for finding in findings)
        verdict = f"{errors} to mend, {warnings} to look at." if errors or warnings else "Ready."
        click.echo(f"{data}: {verdict}")
    return 2 if errors else 0


@cli.command(epilog=f"{_RECIPE_HELP}\n\nExample: goodparts demo --out demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Folder for all of it."
)
@with_recipe
@_workers
@_offline
@_json
def demo(out: Path, recipe: Recipe, workers: int | None, offline: bool, as_json: bool) -> None:
    """Make a small data set of rendered metal parts, then do the whole job on it.

    60 good parts to learn from, 20 good and 20 bad ones in 4 defect classes to test with.
    """
    from goodparts.demo import write_demo

    with _progress(as_json) as progress:
        data = write_demo(
            out / "flange", seed=recipe.seed, progress=lambda done, total: progress("rendering", done, total)
        )
    _run(data, out / "results", None, False, recipe, workers, None, offline, as_json)


@cli.command(epilog="\nExample: goodparts doctor")
@_json
def doctor(as_json: bool) -> int:
    """Say what this machine offers and what to do about each problem. Exit code 2 if something must be mended."""
    from goodparts.doctor import examine

    rows = examine()
    for row in rows:
        if as_json:
            _emit(dataclasses.asdict(row))
            continue
        mark = {"ok": "  ", "note": "i ", "warning": "! ", "error": "X "}[row.status]
        click.echo(f"{mark}{row.name:22} {row.value}")
        if row.advice:
            click.echo(_wrapped(f"{'':25}-> {row.advice}", indent=28))
    return 2 if any(row.status == "error" for row in rows) else 0


@cli.command(name="recipe", epilog="\nExample: goodparts recipe patchcore > mine.toml")
@click.argument("name", default="default", metavar="[NAME|FILE]")
def recipe_command(name: str) -> None:
    """Print a preset or a recipe file in full, each key explained, to start one's own from."""
    click.echo(Recipe.load(name).to_toml(), nl=False)


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left for each stage; none where standard error is not a terminal."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = tqdm(
                total=total,
                desc=f"{stage:12}",
                unit="",
                leave=False,
                disable=as_json or not sys.stderr.isatty(),
            )
        bars[stage].update(done - bars[stage].n)

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()


def _print_evaluation(
    inspector: Inspector,
    evaluation: Evaluation,
    as_json: bool,
    *,
    out: Path | None,
    model_path: Path,
    began: float,
) -> None:
    from goodparts.report import in_words

    if as_json:
        _emit(
            {
                "name": evaluation.name,
                "model": str(model_path),
                "identity": inspector.model.identity,
                "out": str(out) if out else None,
                "threshold_rule": evaluation.threshold_rule,
                **evaluation.metrics,
                "seconds": round(time.perf_counter() - began, 3),
                "peak_memory_mib": round(_peak_memory() / 2**20),
            }
        )
        return
    _say_learnt(inspector)
    oracle = " (an oracle: chosen on these test images)" if evaluation.threshold_rule == "f1" else ""
    click.echo(
        f"\n{in_words(evaluation)} Threshold {evaluation.threshold:.4g}, {evaluation.threshold_rule}{oracle}.\n"
    )
    for first, second in (
        ("image_auroc", "pixel_auroc"),
        ("image_average_precision", "pixel_average_precision"),
        ("image_f1_max", "pixel_f1_max"),
        ("image_f1", "pixel_f1"),
        ("image_recall_at_zero_false_rejects", "aupro_30"),
    ):
        click.echo(
            f"  {first:36}{_figure(evaluation, first):>8}    {second:26}{_figure(evaluation, second):>8}"
        )
    click.echo()
    if out is not None:
        click.echo(f"Report   {out / 'report.html'}")
    click.echo(f"Model    {model_path}, identity {inspector.model.identity[:12]}")
    click.echo(_cost(began))


def _say_learnt(inspector: Inspector) -> None:
    model = inspector.model
    backbone = model.backbone
    entries, dimensions = model.bank.features.shape
    click.echo(
        f"Backbone {backbone.name} ({backbone.source}), layers {', '.join(model.recipe.layers)}\n"
        f"Learnt   from {model.data['good_images']} good images: a bank of {entries} patch features of {dimensions} "
        "dimensions"
    )


def _figure(evaluation: Evaluation, name: str) -> str:
    value = evaluation.metrics.get(name)
    return "-" if value is None else f"{value:.4f}"


def _cost(began: float) -> str:
    return f"Took     {time.perf_counter() - began:.1f} s, peak memory {_peak_memory() / 2**30:.2f} GiB"


def _peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _expand(images: tuple[Path, ...]) -> list[Path]:
    from goodparts.dataset import list_images

    paths: list[Path] = []
    for image in images:
        if image.is_dir():
            inside = list_images(image, recursive=True)
            if not inside:
                raise DatasetError(
                    f"{image}: no images in this folder; expected .png, .jpg, .bmp, .tif or .webp files"
                )
            paths += inside
        else:
            paths.append(image)
    return paths


def _unique_names(paths: list[Path]) -> list[str]:
    """A name for the pictures of each image: its own, with the folder before it where two would be alike."""
    folders = len({path.parent for path in paths}) > 1
    names = [
        f"{path.parent.name}/{path.stem}" if folders and path.parent.name else path.stem for path in paths
    ]
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
        if seen[name.lower()] > 1:
            names[i] = f"{name}_{seen[name.lower()]}"
    return names


def _as_line(found: Inspection) -> str:
    borderline = "  borderline" if found.borderline else ""
    where = f"  {len(found.regions)} region{'s' * (len(found.regions) != 1)}" if found.bad else ""
    return (
        f"{found.verdict:4}  {found.score / found.threshold:6.3f} x threshold  p {found.p_value:.4f}"
        f"  {found.path}{where}{borderline}"
    )


def _as_record(found: Inspection) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "verdict": found.verdict,
        "score": found.score,
        "threshold": found.threshold,
        "p_value": found.p_value,
        "borderline": found.borderline,
        "regions": [dataclasses.asdict(region) for region in found.regions],
    }


def _emit(record: dict[str, Any]) -> None:
    click.echo(json.dumps(record))


def _wrapped(text: str, *, indent: int) -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("interrupted; nothing is half-written", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing is half-written", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except GoodpartsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:
        traceback.print_exc()
        click.echo(
            f"\nThis is a fault of goodparts {__version__}, not yours. Please report it with the lines above.",
            err=True,
        )
        sys.exit(3)
