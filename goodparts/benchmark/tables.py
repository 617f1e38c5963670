"""What a benchmark looks like: Markdown to read, CSV to compute with, JSON with everything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from goodparts.benchmark.benchmark import Benchmark
from goodparts.benchmark.published import METRICS, MVTEC_AD, PAPER, SOURCE, Published, published
from goodparts.benchmark.row import Row
from goodparts.files import JsonRecord, write_text

COLUMNS = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro_30": "AUPRO 0.3",
    "aupro_05": "AUPRO 0.05",
}
"""Metrics in the table, shares of 1 that are printed in percent."""

_COUNTS = ("train", "test_good", "test_bad")


def write_tables(out: Path, found: Benchmark) -> None:
    """Write `benchmark.md`, `benchmark.csv` and `benchmark.json`, each whole or not at all.

    Raises:
        OutputError: one can't be written.
    """
    write_text(out / "benchmark.md", markdown(found))
    write_text(out / "benchmark.csv", csv_text(found))
    write_text(out / "benchmark.json", json.dumps(record(found), indent=2, ensure_ascii=False) + "\n")


def means(rows: Iterable[Row]) -> dict[str, float | None]:
    """Mean of each metric over the categories where it is defined; None where it is nowhere."""
    rows = list(rows)
    values = {name: [v for row in rows if (v := row.metrics.get(name)) is not None] for name in COLUMNS}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def markdown(found: Benchmark, *, recipe: bool = True) -> str:
    """The benchmark as a page: a table, what was published, notes, and (unless it is left out) the recipe."""
    notes = _Notes()
    header = ["category", *COLUMNS.values(), "false rejects", "misses", "fit s", "ms per image"]
    lines = [_cells(row, notes) for row in found.rows]
    done = [row for row in found.rows if row.error is None]
    if len(done) > 1:
        lines.append(_mean_cells(done, notes))
    parts = [
        f"# Benchmark of {found.name}",
        f"Layout: {found.layouts}.",
        *([f"**{len(found.rows)} of {found.categories} categories so far.**"] if _unfinished(found) else []),
        _table(header, lines),
        "Metrics in percent, threshold-free but for false rejects and misses, which are counted at the deployed "
        f"threshold ({found.recipe.threshold_rule}"
        + (": an oracle, chosen on these test images)." if found.recipe.threshold_rule == "f1" else ").")
        + " Pixel metrics at the size of the images as they are.",
        *_class_part(done),
        *_published_part(done),
    ]
    general = [*found.notes, *_time_notes(done)]
    if notes.texts or general:
        parts.append("## Notes")
        parts.append("\n".join([*notes.lines(), *(f"- {_sentence(text)}" for text in general)]))
    if recipe:
        parts.append(f"## Recipe\n\n```toml\n{found.recipe.to_toml(comments=False)}```")
    return "\n\n".join(parts) + "\n"


def csv_text(found: Benchmark) -> str:
    """One line a category: shares of 1 with every digit, empty where undefined; no line for the mean."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        (
            *(
                "category",
                "layout",
                *_COUNTS,
                *COLUMNS,
                "false_rejects",
                "misses",
                "fit_seconds",
                "inspect_ms",
            ),
            *(f"published_{name}" for name in METRICS),
            "found_by_class",
            "error",
        )
    )
    for row in found.rows:
        known = _published(row)
        writer.writerow(
            (
                *(row.category, row.layout, *(getattr(row, name) for name in _COUNTS)),
                *(row.metrics.get(name) for name in COLUMNS),
                *(
                    row.metrics.get("false_bad"),
                    row.metrics.get("false_good"),
                    row.fit_seconds,
                    row.inspect_ms,
                ),
                *(getattr(known, name) if known else None for name in METRICS),
                "; ".join(f"{name} {found}/{images}" for name, (found, images) in row.class_found.items()),
                row.error,
            )
        )
    return table.getvalue()


def record(found: Benchmark) -> JsonRecord:
    """The whole benchmark, ready for JSON."""
    known = {row.category: figures for row in found.rows if (figures := _published(row))}
    return {
        "name": found.name,
        "layouts": found.layouts,
        "finished": not _unfinished(found),
        "recipe": found.recipe.to_dict(),
        "categories": [dataclasses.asdict(row) for row in found.rows],
        "mean": means(row for row in found.rows if row.error is None),
        "published": {
            name: {metric: getattr(figures, metric) for metric in METRICS} for name, figures in known.items()
        },
        "published_source": SOURCE if known else None,
        "notes": list(found.notes),
    }


def _unfinished(found: Benchmark) -> bool:
    return len(found.rows) < found.categories


class _Notes:
    """Numbers footnotes as they come up; the same text keeps its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def marks(self, texts: Sequence[str]) -> str:
        """` [1] [2]`, or nothing."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        return "".join(f" [{self.texts.index(text) + 1}]" for text in texts)

    def lines(self) -> list[str]:
        return [f"- [{number}] {_sentence(text)}" for number, text in enumerate(self.texts, 1)]


def _cells(row: Row, notes: _Notes) -> list[str]:
    if row.error is not None:
        blank = ["-"] * (len(COLUMNS) + 4)
        return [f"{row.category}{notes.marks([f'{row.category} failed: {row.error}'])}", *blank]
    texts = list(row.notes)
    if not texts and any(row.metrics.get(name) is None for name in COLUMNS):
        texts.append("`-`: undefined on these test images")
    return [
        f"{row.category}{notes.marks(texts)}",
        *(_percent(row.metrics.get(name)) for name in COLUMNS),
        _count_of(row.metrics.get("false_bad"), row.test_good),
        _count_of(row.metrics.get("false_good"), row.test_bad),
        f"{row.fit_seconds:.1f}" if row.fit_seconds is not None else "-",
        f"{row.inspect_ms:.1f}" if row.inspect_ms is not None else "-",
    ]


def _mean_cells(rows: list[Row], notes: _Notes) -> list[str]:
    average = means(rows)
    counts = {name: sum(row.metrics.get(name) is not None for row in rows) for name in COLUMNS}
    partial = [f"{COLUMNS[name]} of {count}" for name, count in counts.items() if 0 < count < len(rows)]
    text = f"means are of those categories where a metric is defined: {', '.join(partial)}; all others of {len(rows)}"
    totals = {
        name: sum(int(row.metrics.get(name) or 0) for row in rows) for name in ("false_bad", "false_good")
    }
    return [
        f"**mean of {len(rows)}**{notes.marks([text] if partial else [])}",
        *(_percent(average[name]) for name in COLUMNS),
        _count_of(totals["false_bad"], sum(row.test_good for row in rows)),
        _count_of(totals["false_good"], sum(row.test_bad for row in rows)),
        f"{np.mean([row.fit_seconds for row in rows]):.1f}",
        f"{np.mean([row.inspect_ms for row in rows]):.1f}",
    ]


def _class_part(rows: list[Row]) -> list[str]:
    """A table of how many images of each class of defect were found at the deployed threshold."""
    lines = [
        [row.category, name, str(found), str(images)]
        for row in rows
        for name, (found, images) in row.class_found.items()
    ]
    if not lines:
        return []
    return ["## Found, by class of defect", _table(["category", "class", "found", "of"], lines)]


def _published(row: Row) -> Published | None:
    return (
        published(row.category, row.train, row.test_good + row.test_bad) if row.layout == "mvtec_ad" else None
    )


def _published_part(rows: list[Row]) -> list[str]:
    """A table of our figures beside published ones, and where those come from; nothing where there are none."""
    known = [(row, figures) for row in rows if (figures := _published(row))]
    if not known:
        return []
    header = ["category", *(f"{COLUMNS[name]}{whose}" for name in METRICS for whose in ("", ", published"))]
    pairs = [
        (row.category, [(row.metrics.get(name), float(getattr(figures, name))) for name in METRICS])
        for row, figures in known
    ]
    if len(known) > 1:
        ours = means(row for row, _ in known)
        theirs = {name: float(np.mean([getattr(figures, name) for _, figures in known])) for name in METRICS}
        pairs.append((f"**mean of {len(known)}**", [(ours[name], theirs[name]) for name in METRICS]))
    lines = [[name, *(_percent(value) for pair in values for value in pair)] for name, values in pairs]
    part = "" if len(known) == len(MVTEC_AD) else "; no mean of fewer categories compares with that"
    return ["## Beside published figures", _table(header, lines), f"Published: {SOURCE}. {PAPER}{part}."]


def _time_notes(rows: list[Row]) -> list[str]:
    jobs = max((row.jobs for row in rows), default=1)
    if jobs == 1:
        return []
    return [
        f"up to {jobs} categories ran side by side and shared the cores, so each took longer than it would alone"
    ]


def _table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table whose source is aligned, too."""
    rows = [header, *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    text = [
        " | ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (header, rule, *rows[1:])
    ]
    return "\n".join(f"| {line} |" for line in text)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _count_of(count: float | None, total: int) -> str:
    return f"{int(count)} of {total}" if count is not None and total else "-"


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".") + "."
