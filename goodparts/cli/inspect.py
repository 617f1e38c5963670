"""`inspect`, `evaluate`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import Command, json_option, pixel_limit_option, progress_bars, workers_option
from goodparts.cli.printing import emit, inspection_line, inspection_record, print_evaluation
from goodparts.errors import DatasetError, ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from goodparts.decision.inspection import Inspection
    from goodparts.inspector import Inspector


@click.command(
    cls=Command, epilog="\nExample: goodparts inspect part.goodparts new/*.png --out inspected --json"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE|FOLDER...")
@click.option("--out", type=click.Path(path_type=Path), help="Write panels, maps and masks into this folder.")
@workers_option
@pixel_limit_option
@json_option
def inspect(
    model: Path,
    images: tuple[Path, ...],
    out: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    as_json: bool,
) -> int:
    """Inspect images with a model. Exit code 1 if a part is BAD or needs a RECHECK, 2 if an image can't be read."""
    from goodparts.decision.inspection import GOOD
    from goodparts.inspector import Inspector

    paths = expand(images)
    inspector = Inspector.load(model, workers=workers, pixel_limit=pixel_limit)
    inspector.model.calibration.threshold  # noqa: B018  (an error now rather than at the first image)
    worst = 0
    for path, found in zip(paths, _each(inspector, paths, out), strict=True):
        if isinstance(found, ImageError):
            worst = 2
            emit({"path": str(path), "error": str(found)}) if as_json else click.echo(
                f"error: {found}", err=True
            )
            continue
        worst = max(worst, int(found.verdict != GOOD))
        emit(inspection_record(found)) if as_json else click.echo(inspection_line(found))
    return worst


def _each(inspector: Inspector, paths: list[Path], out: Path | None) -> Iterator[Inspection | ImageError]:
    """Inspections in order; an image that can't be read gives its error and does not stop the others."""
    from goodparts.data.images import read_image
    from goodparts.report.results_folder import write_pictures

    names = _unique_names(paths)

    def shown(index: int, pixels: NDArray[np.uint8], found: Inspection) -> Inspection:
        if out is not None:
            write_pictures(inspector, out, names[index], pixels, found)
        return found

    if len(paths) > 1:
        return inspector.inspect_many(paths, shown, on_error="return")
    (path,) = paths
    try:
        pixels = read_image(path, pixel_limit=inspector.pixel_limit, bit_depth=inspector.recipe.bit_depth)
        found = inspector.inspect_pixels(pixels, path)  # sooner than one of many
    except ImageError as error:
        return iter([error])
    return iter([shown(0, pixels, found)])


@click.command(
    cls=Command, epilog="\nExample: goodparts evaluate part.goodparts mvtec_ad/metal_nut --out results"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write metrics, pictures and a report into this folder."
)
@click.option("--zip-all", is_flag=True, help="Put the maps into results.zip, too.")
@workers_option
@pixel_limit_option
@json_option
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
    from goodparts.evaluation.evaluation import read_test_set
    from goodparts.inspector import Inspector
    from goodparts.report.results_folder import write_results

    began = time.perf_counter()
    labelled = read_test_set(data, require_train=False)
    inspector = Inspector.load(model, workers=workers, pixel_limit=pixel_limit)
    identity = inspector.model.identity  # an oracle decides anew, and the file stays as it is
    with progress_bars(as_json) as progress:
        if out is None:
            found = inspector.evaluate(labelled, progress=progress)
        else:
            found = write_results(inspector, labelled, out, zip_all=zip_all, progress=progress)
    print_evaluation(inspector, found, as_json, out=out, model_path=model, identity=identity, began=began)


def expand(images: tuple[Path, ...]) -> list[Path]:
    """Images as they are given, and those in folders."""
    from goodparts.data.dataset import list_images

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
