"""`verify`: the same scores by whatever computes a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import Command, json_option, pixel_limit_option, signature_option
from goodparts.cli.printing import emit, wrapped

if TYPE_CHECKING:
    from goodparts.model.verify import Row


@click.command(
    cls=Command, epilog="\nExample: goodparts verify part.goodparts part.onnx new/0001.png new/0002.png"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument(
    "images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="[EXPORTED] IMAGE|FOLDER..."
)
@click.option(
    "--tolerance",
    metavar="X",
    type=click.FloatRange(0, min_open=True),
    help="How far scores in float32 may differ, as a share; distances ten times as far. [default: 0.001]",
)
@signature_option
@pixel_limit_option
@json_option
def verify(
    model: Path,
    images: tuple[Path, ...],
    tolerance: float | None,
    require_signature: Path | None,
    pixel_limit: int | None,
    as_json: bool,
) -> int:
    """Inspect the same images by every engine, device and precision that is here; compare scores and distances.

    EXPORTED is a file that `goodparts export` wrote, .onnx or .xml: it is run in plain ONNX Runtime and OpenVINO. Exit
    code 1 if one of them is farther from float32 than the tolerance. Of bf16, and of files in f16, that is 1 %.
    """
    from goodparts.cli.inspect import expand
    from goodparts.errors import DatasetError
    from goodparts.inspector import Inspector
    from goodparts.model.verify import TOLERANCE
    from goodparts.model.verify import verify as compare

    exported = images[0] if images[0].suffix.lower() in (".onnx", ".xml") else None
    paths = expand(images[1:] if exported else images)
    if not paths:
        raise DatasetError(f"{exported}: no images to run it on; give some behind it")
    inspector = Inspector.load(model, pixel_limit=pixel_limit, require_signature=require_signature)
    rows = compare(
        inspector.model, paths, inspector.read, exported=exported, tolerance=tolerance or TOLERANCE
    )
    if as_json:
        for row in rows:
            emit({**row.to_dict(), "images": len(paths)})
    else:
        print_rows(rows, len(paths))
    return 0 if all(row.agrees for row in rows) else 1


def print_rows(rows: Sequence[Row], images: int) -> None:
    """A table: what computed the images, and how far it is from the first row."""
    width = max(len(row.computed_by) for row in rows)
    first = rows[0].computed_by
    click.echo(f"{images} image{'s' * (images != 1)}; largest differences from {first}, as shares\n")
    click.echo(f"{'':{width}}  {'scores':>9}  {'distances':>9}  {'allowed':>9}  verdicts")
    for row in rows[1:]:
        if row.failure:
            click.echo(wrapped(f"{row.computed_by:{width}}  does not run: {row.failure}", indent=width + 2))
            continue
        changed = ", ".join(row.changed[:3]) + (" ..." if len(row.changed) > 3 else "")
        verdicts = f"{len(row.changed)} change: {changed}" if row.changed else "the same"
        beyond = "  (not used: it moves scores too far)" if not row.used else "" if row.agrees else "  BEYOND"
        click.echo(
            f"{row.computed_by:{width}}  {row.score_difference:9.2g}  {row.distance_difference:9.2g}  "
            f"{row.tolerance:9.2g}  {verdicts}{beyond}"
        )
    if len(rows) == 1:
        click.echo("nothing else is here: pip install 'goodparts[onnxruntime]', or 'goodparts[torch]'")
