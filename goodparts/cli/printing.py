"""What the commands print."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from goodparts.cli.options import WIDTH
from goodparts.cli.streams import complain
from goodparts.errors import OutputError
from goodparts.files import JsonRecord
from goodparts.recipe.values import size_text
from goodparts.scale.memory import peak_memory

if TYPE_CHECKING:
    from goodparts.data.finding import Finding
    from goodparts.decision.calibration import Calibration
    from goodparts.decision.inspection import Inspection
    from goodparts.evaluation.evaluation import Evaluation
    from goodparts.inspector import Inspector
    from goodparts.report.sections import Section


def print_evaluation(
    inspector: Inspector,
    evaluation: Evaluation,
    as_json: bool,
    *,
    out: Path | None,
    model_path: Path,
    identity: str,
    began: float,
    findings: Sequence[Finding] = (),
) -> None:
    """What an evaluation found, in words and figures, or as one JSON line."""
    from goodparts.report.card import false_reject_sections, warnings
    from goodparts.report.hints import hints
    from goodparts.report.misses import miss_sections
    from goodparts.report.page import summary
    from goodparts.report.tables import class_sections

    if as_json:
        emit(
            {
                "name": evaluation.name,
                "model": str(model_path),
                "identity": identity,
                "out": str(out) if out else None,
                "computed_by": inspector.computed_by,
                "threshold_rule": evaluation.threshold_rule,
                **evaluation.metrics,
                "by_class": [dataclasses.asdict(count) for count in evaluation.by_class],
                "warnings": warnings(inspector.model),
                "trade_offs": [row.to_dict() for row in evaluation.trade_offs],
                "hints": list(hints(inspector.model, evaluation.trade_offs)),
                "findings": finding_records(findings),
                "seconds": round(time.perf_counter() - began, 3),
                "peak_memory_mib": round(peak_memory() / 2**20),
            }
        )
        return
    print_model(inspector)
    oracle = " (an oracle: chosen on these test images)" if evaluation.threshold_rule == "f1" else ""
    click.echo(
        f"\n{summary(evaluation)} Threshold {evaluation.threshold:.4g}, {evaluation.threshold_rule}{oracle}.\n"
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
    print_sections(class_sections(evaluation))
    print_sections(false_reject_sections(inspector.model))
    print_sections(miss_sections(inspector.model, evaluation))
    click.echo()
    if out is not None:
        click.echo(f"Report   {out / 'report.html'}")
    click.echo(f"Model    {model_path}, identity {identity[:12]}")
    click.echo(cost(began))


def print_findings(findings: Sequence[Finding], strict: bool) -> None:
    """Say what the names of files tell, on standard error; DatasetError if some are passed over and none may be."""
    from goodparts.data.findings_by_name import require_nothing_passed_over

    if strict:
        require_nothing_passed_over(findings)
    for finding in findings:
        complain(wrapped(f"{finding.severity:8} {finding.message}", indent=9))


def finding_records(findings: Sequence[Finding]) -> list[JsonRecord]:
    """The same for machines."""
    return [
        {"severity": finding.severity, "kind": finding.kind, "message": finding.message}
        for finding in findings
    ]


def print_unwritten(errors: Sequence[OutputError], images: int) -> int:
    """Say of how many images the pictures could not be written; the exit code."""
    if not errors:
        return 0
    pictures = (
        f"the pictures of {len(errors)} of {images} image{'s' * (images != 1)} are not there, the rest is"
    )
    complain(wrapped(f"error: {pictures}: {errors[0]}", indent=2))
    return 2


def print_model(inspector: Inspector) -> None:
    """What was learnt, and with which backbone."""
    from goodparts.data.bit_depth import in_words
    from goodparts.engines.precision import describe
    from goodparts.report.card import describe_banks, describe_detail, describe_tiles

    model = inspector.model
    backbone = model.backbone
    count = model.provenance.good_images
    click.echo(
        f"Backbone {backbone.name} ({backbone.source}), layers {', '.join(model.recipe.layers)}\n"
        + wrapped(
            f"Learnt   from {count} good image{'s' * (count != 1)}: memory bank{'s' * bool(model.coarser)} of "
            f"{describe_banks(model)}",
            indent=9,
        )
    )
    with inspector.runtime.chosen():
        scores = describe(model.recipe, model.precision)
    click.echo(wrapped(f"Scores   {scores}", indent=9))
    click.echo(wrapped(f"Engine   {inspector.runtime.in_words}", indent=9))
    if (bits := in_words(model.recipe.bit_depth)) is not None:
        click.echo(wrapped(f"Bits     {bits}", indent=9))
    if (tiled := describe_tiles(model)) is not None:
        click.echo(wrapped(f"Tiles    {tiled}", indent=9))
    click.echo(wrapped(f"Detail   {describe_detail(model)}", indent=9))
    if (milliseconds := model.fit_record.image_milliseconds) is not None:
        size = size_text(model.recipe.image_size)
        click.echo(f"Budget   {size} px is the finest working size within it: {milliseconds:.1f} ms here")
    roi, failures = model.preprocessor.roi, model.provenance.not_aligned
    if not roi.everywhere:
        zones = f", {len(roi.zones)} zones: {', '.join(roi.names)}" if roi.several else ""
        click.echo(f"Looks at {100 * model.provenance.seen_share:.3g} % of the picture{zones}")
    if failures is not None:
        good, failed = model.provenance.good_images, sum(failures.values())
        why = f"; the others: {next(iter(failures))}" if failures else ""
        click.echo(wrapped(f"Aligned  {good - failed} of {good} good images{why}", indent=9))


def _figure(evaluation: Evaluation, name: str) -> str:
    value = evaluation.metrics.get(name)
    return "-" if value is None else f"{value:.4f}"


def print_sections(sections: Iterable[Section]) -> None:
    """Sections of a model's card."""
    for section in sections:
        click.echo(f"\n{section.heading}")
        for line in section.lines:
            click.echo(wrapped(f"  {line}", indent=2))
        if section.table:
            rows = (section.table.head, *section.table.rows)
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                click.echo(f"    {'   '.join(cells)}".rstrip())


def cost(began: float) -> str:
    """Time since `began` (of `time.perf_counter`) and the largest memory so far."""
    return f"Took     {time.perf_counter() - began:.1f} s, peak memory {peak_memory() / 2**30:.2f} GiB"


def inspection_line(found: Inspection, calibration: Calibration) -> str:
    """One line for people; `calibration` has the good scores that the p-value counts."""
    borderline = "  borderline" if found.borderline else ""
    where = f"  {len(found.regions)} region{'s' * (len(found.regions) != 1)}" if found.bad else ""
    if found.bad and len(found.zones) > 1:
        where += f"  in {', '.join(zone.name for zone in found.zones if zone.bad)}"
    if found.reasons:
        return f"{found.verdict}  {_on_one_line(found.path)}  {'; '.join(found.reasons)}"
    multiple = (
        f"{found.score / found.threshold:6.3f} x threshold" if found.threshold else f"score {found.score:.4g}"
    )
    if found.pose is not None and (found.pose.used or found.pose.failure):
        where += f"  {found.pose.in_words}"
    return (
        f"{found.verdict:4}  {multiple}  p {found.p_value:.4f} ({calibration.rarity(found.score)})"
        f"  {_on_one_line(found.path)}{where}{borderline}"
    )


def _on_one_line(path: object) -> str:
    """A path without what moves a terminal's cursor: a name with a line break could look like another verdict."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], str(path))


def inspection_record(found: Inspection) -> JsonRecord:
    """The same for machines."""
    return {
        "path": str(found.path),
        "verdict": found.verdict,
        "score": found.score,
        "threshold": found.threshold,
        "p_value": found.p_value,
        "borderline": found.borderline,
        "reasons": list(found.reasons),
        "regions": [dataclasses.asdict(region) for region in found.regions],
        "zones": [{**dataclasses.asdict(zone), "bad": zone.bad} for zone in found.zones],
        "pose": None if found.pose is None else dataclasses.asdict(found.pose),
        "computed_by": found.computed_by,
    }


def made_by(model_path: Path, identity: str) -> Callable[[], JsonRecord]:
    """What makes of a JSON line a record that stands by itself: the model, the program, and the time now."""

    def about() -> JsonRecord:
        from goodparts.version import __version__

        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"model": str(model_path), "identity": identity, "version": __version__, "time": now}

    return about


def emit(record: Mapping[str, object]) -> None:
    """One JSON line."""
    click.echo(json.dumps(record))


def wrapped(text: str, *, indent: int) -> str:
    """Text in lines of the usual width, those after the first indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
