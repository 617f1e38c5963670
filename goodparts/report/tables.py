"""What was measured, to calculate with: a row an image as CSV, the metrics as JSON.

write_csv(out / "scores.csv", evaluation, root=dataset.root)
write_metrics(out / "metrics.json", evaluation)
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np

from goodparts.evaluation.evaluation import Evaluation
from goodparts.files import JsonRecord, write_text
from goodparts.report.sections import Section, Table

BY_CLASS = "Found, by class of defect"


def write_csv(path: Path, evaluation: Evaluation, *, root: Path | None = None) -> None:
    """Write one row an image: image, defect_class, label, score, p_value, verdict, borderline, and scores of zones.

    Scores have all their digits, so the table holds exactly what was measured. Image paths are relative to
    `root`, or to the folder that all images share if None, and have forward slashes on every platform.

    Raises:
        OutputError: the file can't be written.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    zones = [f"zone {zone.name}" for zone in evaluation.images[0].zones] if evaluation.images else []
    writer.writerow(("image", "defect_class", "label", "score", "p_value", "verdict", "borderline", *zones))
    for name, image in zip(_relative_names(evaluation, root), evaluation.images, strict=True):
        label, borderline = "bad" if image.label else "good", "true" if image.borderline else "false"
        score, p_value = repr(float(image.score)), repr(float(image.p_value))
        of_zones = [repr(float(zone.score)) for zone in image.zones]
        writer.writerow(
            (name, image.defect_class, label, score, p_value, image.verdict, borderline, *of_zones)
        )
    write_text(path, writable(table.getvalue()))


def class_sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """A section with the classes of defect, and how many of each were found; none where no image is bad."""
    counts = evaluation.by_class
    if not counts:
        return ()
    unjudged = any(count.rechecks for count in counts)
    head = ("class", "found", "missed", *(["could not be judged"] if unjudged else []))
    rows = tuple(
        (
            count.defect_class,
            f"{count.found} of {count.images}",
            str(count.images - count.found - count.rechecks),
            *([str(count.rechecks)] if unjudged else []),
        )
        for count in counts
    )
    return (Section(BY_CLASS, (), Table(head, rows)),)


def write_metrics(path: Path, evaluation: Evaluation, computed_by: str = "") -> None:
    """Write the metrics as JSON, flat but for the list of trade-offs, null where one is undefined.

    `computed_by`: engine, device and precision.

    Raises:
        OutputError: the file can't be written.
    """
    values: JsonRecord = {
        "name": evaluation.name,
        "images": len(evaluation.images),
        "threshold": evaluation.threshold,
        "threshold_rule": evaluation.threshold_rule,
        "oracle_threshold": evaluation.oracle_threshold,
        "computed_by": computed_by,
        **evaluation.metrics,
        "trade_offs": [row.to_dict() for row in evaluation.trade_offs],
    }
    defined = {key: _json_value(value) for key, value in values.items()}
    write_text(path, writable(json.dumps(defined, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def _relative_names(evaluation: Evaluation, root: Path | None) -> list[str]:
    paths = [image.path for image in evaluation.images]
    if root is None:
        try:
            root = Path(os.path.commonpath([path.parent for path in paths]))
        except ValueError:  # several drives, absolute and relative paths, or no image at all
            root = None
    return [
        (path.relative_to(root) if root is not None and path.is_relative_to(root) else path).as_posix()
        for path in paths
    ]


def writable(text: str) -> str:
    """Replace what UTF-8 can't hold: the traces of file names that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_value(value: object) -> object:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
