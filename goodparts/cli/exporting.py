"""`export`: a model as a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from goodparts.cli.options import Command, json_option
from goodparts.cli.printing import emit, wrapped


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
@json_option
def export(model: Path, file_format: str, out: Path | None, precision: str, as_json: bool) -> None:
    """Write what `inspect` runs, from pixels to score and map, as a file for ONNX Runtime, OpenVINO, C++ or C#.

    docs/export.md describes its inputs, outputs and metadata, and how an image is prepared.
    """
    from goodparts import model as model_file
    from goodparts.export import SUFFIXES, metadata
    from goodparts.export import export as write

    loaded = model_file.load(model)
    path = out if out is not None else model.with_suffix(SUFFIXES[file_format])
    write(loaded, path, format=file_format, precision=precision)
    files = [path, path.with_suffix(".bin")] if file_format == "openvino" else [path]
    described = metadata(loaded, precision)
    if as_json:
        sizes = {str(file): file.stat().st_size for file in files}
        emit({"files": sizes, **described, "threshold": loaded.calibration.threshold})
        return
    height, width = loaded.recipe.image_size
    h, w = loaded.grid
    for file in files:
        click.echo(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    click.echo(f"in   image          uint8   (n, {height}, {width}, 3) RGB, framing {described['framing']}")
    if loaded.asks_valid:
        click.echo(
            f"     valid          float32 (n, {h}, {w}), 1 where a cell looks at the image, 0 at padding"
        )
    if loaded.asks_tile:
        click.echo("     tile           int64   (1,): which tile all n images are, counted row by row")
    click.echo(
        f"out  score          float32 (n,), BAD above {loaded.calibration.threshold:.6g}{_oracle(described)}"
    )
    click.echo(f"     anomaly_map    float32 (n, {height}, {width})")
    click.echo(f"     distance_grid  float32 (n, {h}, {w})")
    roi = loaded.roi
    if roi is not None and roi.several:
        click.echo(f"     zone_scores    float32 (n, {len(roi.zones)}): {', '.join(roi.names)}")
    if loaded.tiling is not None:
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


def _oracle(described: dict[str, str]) -> str:
    return " (an oracle: chosen on test images)" if described["threshold_rule"] == "f1" else ""
