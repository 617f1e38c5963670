"""`inspect`, `evaluate`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import (
    Command,
    device_option,
    engine_option,
    json_option,
    pixel_limit_option,
    progress_bars,
    signature_option,
    strict_option,
    workers_option,
)
from goodparts.cli.printing import (
    emit,
    inspection_line,
    inspection_record,
    made_by,
    print_evaluation,
    print_findings,
    print_unwritten,
    wrapped,
)
from goodparts.cli.streams import complain
from goodparts.cli.tally import Tally
from goodparts.errors import DatasetError, ImageError, ModelError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from goodparts.decision.inspection import Inspection
    from goodparts.inspector import Inspector
    from goodparts.model.predictor import Then


@click.command(
    cls=Command, epilog="\nExample: goodparts inspect part.goodparts new/*.png --out inspected --json"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE|FOLDER...")
@click.option("--out", type=click.Path(path_type=Path), help="Write panels, maps and masks into this folder.")
@strict_option
@signature_option
@workers_option
@pixel_limit_option
@device_option
@engine_option
@click.option(
    "--exit-zero",
    is_flag=True,
    help="Exit code 0 whatever the lines say, of images that can't be read too: for scripts that read them.",
)
@json_option
def inspect(
    model: Path,
    images: tuple[Path, ...],
    out: Path | None,
    strict: bool,
    require_signature: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    exit_zero: bool,
    as_json: bool,
) -> int:
    """Inspect images with a model: a line for each, and how many of them are BAD on standard error.

    What is compiled of a model is kept in your cache folder, or in that of GOODPARTS_CACHE (off: nowhere), so that the
    next command starts sooner.

    Exit codes: 0 all GOOD; 1 at least one BAD; 4 none BAD, at least one RECHECK. Where an image can't be read the
    others are still inspected: then 5 at least one BAD; 6 none BAD, at least one RECHECK; 2 the others are GOOD. With
    --exit-zero too: 2 if nothing can be inspected or pictures can't be written, 3 for a fault of the program, 130 if
    interrupted.
    """
    # Products are small here, and NumPy's threads for large ones spin while the rest starts.
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from goodparts.data.bit_depth import in_words
    from goodparts.data.findings_by_name import passed_over
    from goodparts.inspector import Inspector

    paths = expand(images)
    print_findings(passed_over(images), strict)
    inspector = Inspector.load(
        model,
        workers=workers,
        pixel_limit=pixel_limit,
        require_signature=require_signature,
        device=device,
        engine=engine,
    )
    inspector.model.calibration.threshold  # noqa: B018  (an error now rather than at the first image)
    if (bits := in_words(inspector.recipe.bit_depth)) is not None:
        complain(wrapped(f"Bits     {bits}", indent=9))
    learnt_from = inspector.model.provenance
    unlike = cache(learnt_from.unlike)
    others: list[str] = []
    unwritten: list[OutputError] = []
    tally, about = Tally(), made_by(model, inspector.model.identity)
    for path, found in zip(paths, _inspections(inspector, paths, out, unwritten), strict=True):
        if isinstance(found, ImageError):
            tally.add(None)
            if as_json:
                emit({"path": str(path), "error": str(found), **about()})
            else:
                complain(f"error: {found}")
            continue
        tally.add(found)
        height, width = found.mask.shape
        if unlike(height, width):
            others.append(f"{path}, {width}x{height}")
        if as_json:
            emit({**inspection_record(found), **about()})
        else:
            click.echo(inspection_line(found, inspector.model.calibration))
    if others:
        sizes = ", ".join(list(learnt_from.image_sizes)[:3])
        text = (
            f"warning: {len(others)} of {len(paths)} images have quite another size or shape than those learnt from "
            f"({sizes}), so verdicts on them mean little; the first: {others[0]}"
        )
        complain(wrapped(text, indent=2))
    tally.without_pictures = len(unwritten)
    failed = print_unwritten(unwritten, len(paths))
    complain(f"{tally.in_words}; computed by {inspector.computed_by}")
    return failed if exit_zero else tally.exit_code


def _inspections(
    inspector: Inspector, paths: list[Path], out: Path | None, unwritten: list[OutputError]
) -> Iterator[Inspection | ImageError]:
    """Inspections in order; an image that can't be read gives its error and does not stop the others.

    Neither do pictures that can't be written: `unwritten` gets the error of each image.
    """
    from goodparts.data.images import read_image

    with_pictures = _as_it_is if out is None else _with_pictures(inspector, paths, out, unwritten)

    if len(paths) > 1:
        return inspector.inspect_many(paths, with_pictures, on_error="return")
    (path,) = paths
    if path.is_file():
        inspector.open_ahead()
    try:
        pixels = read_image(path, pixel_limit=inspector.pixel_limit, bit_depth=inspector.recipe.bit_depth)
        found = inspector.inspect_pixels(pixels, path)  # sooner than one of many
    except ImageError as error:
        return iter([error])
    return iter([with_pictures(0, pixels, found)])


def _as_it_is(index: int, pixels: NDArray[np.uint8], found: Inspection) -> Inspection:
    return found


def _with_pictures(
    inspector: Inspector, paths: list[Path], out: Path, unwritten: list[OutputError]
) -> Then[Inspection]:
    """What writes the pictures of each inspection."""
    from goodparts.report.picture_files import names_beside
    from goodparts.report.results_folder import write_pictures

    names = names_beside(paths, out)

    def with_pictures(index: int, pixels: NDArray[np.uint8], found: Inspection) -> Inspection:
        try:
            write_pictures(inspector, out, names[index], pixels, found)
        except OutputError as error:
            unwritten.append(error)
        return found

    return with_pictures


@click.command(
    cls=Command, epilog="\nExample: goodparts evaluate part.goodparts mvtec_ad/metal_nut --out results"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write metrics, pictures and a report into this folder."
)
@click.option("--zip-all", is_flag=True, help="Put the maps into results.zip, too.")
@click.option("--keep", is_flag=True, help="Keep the figures in MODEL, for `goodparts card`.")
@strict_option
@signature_option
@workers_option
@pixel_limit_option
@device_option
@engine_option
@json_option
def evaluate(
    model: Path,
    data: Path,
    out: Path | None,
    zip_all: bool,
    keep: bool,
    strict: bool,
    require_signature: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    as_json: bool,
) -> int:
    """Measure a model on DATA/test, a labelled test set in the MVTec AD layout."""
    from goodparts.data.findings_by_name import findings_by_name
    from goodparts.evaluation.evaluation import read_test_set
    from goodparts.inspector import Inspector
    from goodparts.report.results_folder import write_results

    began = time.perf_counter()
    labelled = read_test_set(data, require_train=False)
    findings = findings_by_name(data)
    print_findings(findings, strict)
    inspector = Inspector.load(
        model,
        workers=workers,
        pixel_limit=pixel_limit,
        require_signature=require_signature,
        device=device,
        engine=engine,
    )
    if keep and inspector.recipe.threshold_rule == "f1":
        raise ModelError(
            f"{model}: decides by f1, which is chosen anew on each labelled set, so these figures would not be those "
            "of the model as it is; leave out --keep"
        )
    identity = inspector.model.identity  # an oracle decides anew, and the file stays as it is
    unwritten: list[OutputError] = []
    with progress_bars(as_json) as progress:
        if out is None:
            found = inspector.evaluate(labelled, progress=progress)
        else:
            found = write_results(
                inspector,
                labelled,
                out,
                zip_all=zip_all,
                unwritten=unwritten.append,
                notes=[finding.message for finding in findings],
                progress=progress,
            )
    if keep:
        inspector.save(model)
    print_evaluation(
        inspector,
        found,
        as_json,
        out=out,
        model_path=model,
        identity=identity,
        began=began,
        findings=findings,
    )
    return print_unwritten(unwritten, len(found.images))


def expand(images: tuple[Path, ...]) -> list[Path]:
    """Images as they are given, and those in folders."""
    from goodparts.data.folders import list_images

    paths: list[Path] = []
    for image in images:
        if image.is_dir():
            inside = [
                path for path in list_images(image, recursive=True) if not _is_earlier_result(path, image)
            ]
            if not inside:
                raise DatasetError(
                    f"{image}: no images in this folder; expected .png, .jpg, .bmp, .tif or .webp files"
                )
            paths += inside
        else:
            paths.append(image)
    return paths


def _is_earlier_result(path: Path, folder: Path) -> bool:
    """Whether an image below a folder is a picture that an earlier run put there: nobody wants that inspected."""
    from goodparts.report.picture_files import PICTURE_FOLDERS, is_result
    from goodparts.report.plots import PLOTS

    inside = path.relative_to(folder).parts
    return (path.name in PLOTS or not PICTURE_FOLDERS.keys().isdisjoint(inside)) and is_result(path)
