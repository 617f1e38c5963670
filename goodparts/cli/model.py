"""The commands about a fitted model: calibrate, update, card, export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from goodparts.cli.options import (
    Command,
    device_option,
    engine_option,
    json_option,
    pixel_limit_option,
    progress_bars,
    signature_option,
    workers_option,
)
from goodparts.cli.printing import cost, emit, print_sections, wrapped
from goodparts.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from goodparts.data.images import ImageLike
    from goodparts.evaluation.evaluation import Evaluation
    from goodparts.model.model import Model
    from goodparts.model.verify import Row

_COMPARED = (
    "image_auroc",
    "image_f1",
    "pixel_auroc",
    "pixel_f1",
    "aupro_30",
    "false_bad",
    "false_good",
)


@click.command(
    cls=Command,
    epilog="\nExample: goodparts calibrate part.goodparts more_good/ --false-reject-rate 0.01 --confidence 0.95",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path), nargs=-1, metavar="[IMAGE|FOLDER]...")
@click.option("--out", type=click.Path(path_type=Path), help="Model to write. [default: MODEL itself]")
@click.option("--false-reject-rate", help="Share of good parts that may be rejected; takes the rule `rate`.")
@click.option("--confidence", help="That it is kept. [default: the model's]")
@click.option(
    "--threshold-rule", help="robust_sigma, sigma, quantile, rate, tail or fixed. [default: the model's]"
)
@click.option("--threshold-sigma", help="For the rules robust_sigma and sigma.")
@click.option("--threshold-quantile", help="For the rule quantile.")
@click.option("--threshold-value", help="For the rule fixed.")
@click.option("--pixel-threshold-rule", help="The same for pixels: see `goodparts recipe`.")
@click.option("--pixel-threshold-sigma", help="For the pixel rules peak_sigma and pixel_sigma.")
@click.option(
    "--pixel-threshold-quantile", help="For peak_quantile and pixel_quantile; needs images to count anew."
)
@click.option("--pixel-threshold-value", help="For the pixel rule fixed.")
@click.option("--minimum-area", help="Regions of fewer pixels are dropped.")
@click.option(
    "--quality-gate/--no-quality-gate", default=None, help="RECHECK for images that can't be judged."
)
@signature_option
@workers_option
@pixel_limit_option
@device_option
@engine_option
@json_option
def calibrate(
    model: Path,
    good: tuple[Path, ...],
    out: Path | None,
    require_signature: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    as_json: bool,
    **changes: str | bool | None,
) -> None:
    """Decide anew, from good images that were not learnt from; without any, from the scores that are there.

    Nothing is learnt anew; the model keeps its earlier decisions. Of a folder its own images are taken, of a data set
    its train/good.
    """
    from goodparts.inspector import Inspector
    from goodparts.report.card import DECISION, EARLIER, FEW_IMAGES, FEWER, MEANING, card, card_record
    from goodparts.report.misses import FEWER_MISSES

    began = time.perf_counter()
    images = _good_images(good) if good else None
    inspector = Inspector.load(
        model,
        workers=workers,
        pixel_limit=pixel_limit,
        require_signature=require_signature,
        device=device,
        engine=engine,
    )
    wanted: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if (
        "false_reject_rate" in wanted
        and "threshold_rule" not in wanted
        and inspector.recipe.threshold_rule != "tail"
    ):
        wanted["threshold_rule"] = "rate"
    with progress_bars(as_json) as progress:
        inspector.calibrate(images, changes=wanted, progress=progress)
    path = inspector.save(out or model)
    if as_json:
        emit({"model": str(path), **card_record(inspector.model, path.stem)})
        return
    titles = (FEW_IMAGES, DECISION, MEANING, FEWER, FEWER_MISSES, EARLIER)
    print_sections(section for section in card(inspector.model) if section.title in titles)
    click.echo(f"\nModel    {path}, identity {inspector.model.identity[:12]}")
    click.echo(f"Engine   {inspector.runtime.in_words}")
    click.echo(cost(began))


@click.command(
    cls=Command, epilog="\nExample: goodparts update part.goodparts new_good/ --test mvtec_ad/metal_nut"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE|FOLDER...")
@click.option("--out", type=click.Path(path_type=Path), help="Model to write. [default: MODEL itself]")
@click.option(
    "--test", "data", type=click.Path(path_type=Path), help="Labelled test set: measured before and after."
)
@signature_option
@workers_option
@pixel_limit_option
@device_option
@engine_option
@json_option
def update(
    model: Path,
    good: tuple[Path, ...],
    out: Path | None,
    data: Path | None,
    require_signature: Path | None,
    workers: int | None,
    pixel_limit: int | None,
    device: str | None,
    engine: str | None,
    as_json: bool,
) -> None:
    """Learn on from more good images; the new model names the one that it came from.

    Of a folder its own images are taken, of a data set its train/good.
    """
    from goodparts.evaluation.evaluation import read_test_set
    from goodparts.inspector import Inspector
    from goodparts.report.card import DECISION, FEW_IMAGES, LEARNT, MEANING, card, card_record

    began = time.perf_counter()
    images = _good_images(good)
    labelled = read_test_set(data, require_train=False) if data is not None else None
    inspector = Inspector.load(
        model,
        workers=workers,
        pixel_limit=pixel_limit,
        require_signature=require_signature,
        device=device,
        engine=engine,
    )
    with progress_bars(as_json) as progress:

        def evaluated(when: str) -> Evaluation | None:
            if labelled is None:
                return None
            return inspector.evaluate(
                labelled, progress=lambda stage, done, total: progress(f"{stage} {when}", done, total)
            )

        before = evaluated("before")
        inspector.update(images, progress=progress)
        after = evaluated("after")
    path = inspector.save(out or model)
    if as_json:
        compared = {"before": before.metrics, "after": after.metrics} if before and after else {}
        emit({"model": str(path), **card_record(inspector.model, path.stem), **compared})
        return
    titles = (FEW_IMAGES, DECISION, MEANING, LEARNT)
    print_sections(section for section in card(inspector.model) if section.title in titles)
    if before is not None and after is not None:
        _compare(before, after)
    click.echo(f"\nModel    {path}, identity {inspector.model.identity[:12]}")
    click.echo(f"Engine   {inspector.runtime.in_words}")
    click.echo(cost(began))


@click.command(name="card", cls=Command, epilog="\nExample: goodparts card part.goodparts > part.md")
@click.argument("model", type=click.Path(path_type=Path))
@signature_option
@json_option
def card_command(model: Path, require_signature: Path | None, as_json: bool) -> None:
    """Say what a model learnt, what its threshold promises, and what nobody tested."""
    from goodparts.model import file as model_file
    from goodparts.report.card import card_record, card_text

    loaded = model_file.load(model, require_signature)
    if as_json:
        emit(card_record(loaded, model.stem))
    else:
        click.echo(card_text(loaded, model.stem), nl=False)


def _good_images(given: tuple[Path, ...]) -> list[Path]:
    """Images as they are given, and the good ones of folders and data sets, as `fit` finds them."""
    from goodparts.data.dataset import good_images

    return [image for path in given for image in good_images(path)]


def _compare(before: Evaluation, after: Evaluation) -> None:
    click.echo(f"\nOn {before.name}: {'':24} {'before':>9} {'after':>9}")
    for name in _COMPARED:
        values = [found.metrics.get(name) for found in (before, after)]
        shown = [
            f"{'-' if value is None else format(value, '.4f' if isinstance(value, float) else 'd'):>9}"
            for value in values
        ]
        click.echo(f"  {name:36} {' '.join(shown)}")
    if known := after.metrics.get("learnt_from"):
        click.echo(
            f"The new model learnt from {known} of these {len(after.images)} images, which flatters it."
        )


@click.command(cls=Command, epilog="\nExample: goodparts export part.goodparts --format onnx --out part.onnx")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(("onnx", "openvino")),
    default="onnx",
    show_default=True,
    help="onnx: one file. openvino: an .xml, and beside it the .bin with the weights; it takes both.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write. [default: MODEL with .onnx or .xml]"
)
@click.option(
    "--precision",
    type=click.Choice(("f32", "f16")),
    default="f32",
    show_default=True,
    help="How weights and memory bank are stored; f16 halves the file and moves scores by about 0.1 %.",
)
@click.option(
    "--verify-on",
    metavar="IMAGE|FOLDER",
    type=click.Path(path_type=Path),
    help="Images on which the file is tried. [default: a few it was learnt from, if still there]",
)
@signature_option
@json_option
def export(
    model: Path,
    file_format: str,
    out: Path | None,
    precision: str,
    verify_on: Path | None,
    require_signature: Path | None,
    as_json: bool,
) -> int:
    """Write what `inspect` runs, from pixels to score and map, as a file for ONNX Runtime, OpenVINO, C++ or C#.

    docs/export.md describes its inputs, outputs and metadata, and how an image is prepared. The file is then run on a
    few images, and its scores compared as `goodparts verify` does: exit code 1 if they differ.
    """
    from goodparts.model import file as model_file
    from goodparts.model.export import SUFFIXES, metadata
    from goodparts.model.export import export as write

    loaded = model_file.load(model, require_signature)
    path = out if out is not None else model.with_suffix(SUFFIXES[file_format])
    write(loaded, path, format=file_format, precision=precision)
    files = [path, path.with_suffix(".bin")] if file_format == "openvino" else [path]
    described = metadata(loaded, precision)
    rows, why_not = _verified(loaded, path, verify_on)
    code = 0 if all(row.agrees for row in rows) else 1
    if as_json:
        sizes = {str(file): file.stat().st_size for file in files}
        about = {"verified": [row.to_dict() for row in rows], "not_verified": why_not}
        emit({"files": sizes, **described, "threshold": loaded.calibration.threshold, **about})
        return code
    height, width = loaded.recipe.image_size
    h, w = loaded.grid
    given = loaded.pipeline().inputs
    for file in files:
        click.echo(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    click.echo(f"in   image          uint8   (n, {height}, {width}, 3) RGB, framing {described['framing']}")
    if "valid" in given:
        click.echo(
            f"     valid          float32 (n, {h}, {w}), 1 where a cell looks at the image, 0 at padding"
        )
    if "tile" in given:
        click.echo("     tile           int64   (1,): which tile all n images are, counted row by row")
    click.echo(
        f"out  score          float32 (n,), BAD above {loaded.calibration.threshold:.6g}{_oracle(described)}"
    )
    click.echo(f"     anomaly_map    float32 (n, {height}, {width})")
    click.echo(f"     distance_grid  float32 (n, {h}, {w})")
    roi = loaded.preprocessor.roi
    if roi.several:
        click.echo(f"     zone_scores    float32 (n, {len(roi.zones)}): {', '.join(roi.names)}")
    if not loaded.preprocessor.single_crop:
        click.echo(
            wrapped(
                "This is the pipeline of one tile: the metadata `tiles` says how tiles lie, docs/export.md how their "
                "distance grids are merged into that of the image, whose score decides.",
                indent=0,
            )
        )
    if loaded.recipe.quality_gate:
        click.echo(
            wrapped(
                "The quality gate (RECHECK) is not in the file: it looks at more than the graph.", indent=0
            )
        )
    for row in rows[1:]:
        if row.failure:
            click.echo(wrapped(f"verify {row.computed_by} does not run: {row.failure}", indent=7))
            continue
        verdicts = f"{len(row.changed)} verdicts change" if row.changed else "verdicts the same"
        click.echo(
            wrapped(
                f"verify {row.computed_by}: scores within {row.score_difference:.1g} of `inspect`, {verdicts}"
                f"{'' if row.agrees else '; BEYOND what is allowed'}",
                indent=7,
            )
        )
    if why_not:
        click.echo(wrapped(f"verify {why_not}", indent=7))
    return code


def _verified(model: Model, path: Path, given: Path | None) -> tuple[list[Row], str]:
    """How far an exported file is from `inspect` on some images; or why that is not known."""
    from goodparts.cli.inspect import expand
    from goodparts.data.images import read_image
    from goodparts.model.verify import own_images, verify

    images = own_images(model) if given is None else expand((given,))
    if not images:
        return (
            [],
            f"not tried: what it was learnt from is not there; goodparts verify MODEL {path} IMAGES does it",
        )

    def read(image: ImageLike) -> NDArray[np.uint8]:
        return read_image(image, bit_depth=model.recipe.bit_depth)

    try:
        return verify(model, images, read, exported=path, engines=False), ""
    except ImageError as error:
        if given is not None:
            raise
        return [], f"not tried: {error}"


def _oracle(described: dict[str, str]) -> str:
    return " (an oracle: chosen on test images)" if described["threshold_rule"] == "f1" else ""
