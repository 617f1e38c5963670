"""Export: a range of the history as a ZIP, member by member, while it is sent.

    mvtec     MODEL/test/good/ID.png, MODEL/test/CLASS/ID.png, MODEL/ground_truth/CLASS/ID_mask.png,
              found/MODEL/ID_mask.png, inspections.csv
    report    report.html, inspections.csv, panels/ID.png of every part that is not GOOD, or was reviewed

In the layout of MVTec AD a part lies where its last review says, else where its verdict does; CLASS is the class of
defect that the reviewer named, else `bad`. What a reviewer drew is ground truth; a mask that the model found is none,
so those lie apart. What is not kept any more, and what nobody can call good or bad (RECHECK, UNSURE), stands in
left_out.csv.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from goodparts.data.formats import SUFFIXES
from goodparts.data.images import read_image
from goodparts.server.history import audit, findings, schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import Database
from goodparts.server.history.pages import Filter, every
from goodparts.server.history.records import reviews_of
from goodparts.server.history.zip_stream import stream_zip

Layout = Literal["mvtec", "report"]
LAYOUTS: tuple[Layout, ...] = ("mvtec", "report")
COLUMNS = (
    "id", "time", "model", "model_version", "part", "line", "camera", "verdict", "score", "threshold", "p_value",
    "borderline", "review", "width", "height", "image_sha256", "kept", "zones", "regions", "reasons", "details",
    "account", "request",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run
Row = Mapping[str, Any]


def export(
    database: Database, blobs: BlobStore, wanted: Filter, layout: Layout, *, pixel_limit: int
) -> Iterator[bytes]:
    """The bytes of the ZIP. What is recorded from now on is not part of it."""
    until = audit.now() if wanted.until is None else min(wanted.until, audit.now())
    wanted = replace(wanted, until=until)
    if layout == "mvtec":
        yield from stream_zip(_mvtec(database, blobs, wanted))
    else:
        yield from stream_zip(_report(database, blobs, wanted, pixel_limit))


def _mvtec(database: Database, blobs: BlobStore, wanted: Filter) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield "inspections.csv", _table(every(database, wanted))
    with tempfile.TemporaryFile() as left_out:
        yield from _parts(database, blobs, wanted, left_out)
        left_out.seek(0)
        yield "left_out.csv", itertools.chain((b"id,reason\n",), iter(lambda: left_out.read(1 << 20), b""))


def _parts(
    database: Database, blobs: BlobStore, wanted: Filter, left_out: IO[bytes]
) -> Iterator[tuple[str, Iterable[bytes]]]:
    for row in every(database, wanted):
        label = row["verdict"] if row["review"] == schema.NONE else row["review"]
        image = blobs.read(row["image_sha256"]) if row["kept"] else None
        if label not in ("GOOD", "BAD") or image is None:
            reason = "not kept" if label in ("GOOD", "BAD") else _UNDECIDED.get(label, "not reviewed")
            left_out.write(f"{row['id']},{reason}\n".encode())
            continue
        name, drawn = ("good", []) if label == "GOOD" else _said(database, row)
        yield f"{row['model']}/test/{name}/{row['id']}{suffix_of(row)}", (image,)
        if drawn:
            mask = findings.mask_png(_mask_of(drawn, row))
            yield f"{row['model']}/ground_truth/{name}/{row['id']}_mask.png", (mask,)
        if row["verdict"] == "BAD" and (found := blobs.read(row["findings_sha256"])) is not None:
            yield (
                f"found/{row['model']}/{row['id']}_mask.png",
                (findings.mask_png(findings.unpack(found)[1]),),
            )


_UNDECIDED = {"RECHECK": "can't be judged, and not reviewed", "UNSURE": "the reviewer was unsure"}


def _said(database: Database, row: Row) -> tuple[str, list[list[int]]]:
    """The class and boxes of a bad part's last review."""
    if row["review"] == schema.NONE:
        return "bad", []
    with database.read() as connection:
        last = reviews_of(connection, row["id"])[-1]
    name = (last["defect_class"] or "").strip(". ").lower()
    return name if name not in ("", "good") else "bad", json.loads(last["regions"] or "[]")


def _mask_of(boxes: list[list[int]], row: Row) -> NDArray[np.bool_]:
    mask = np.zeros((row["height"], row["width"]), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _report(
    database: Database, blobs: BlobStore, wanted: Filter, pixel_limit: int
) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield "inspections.csv", _table(every(database, wanted))
    counts: Counter[tuple[str, str, str]] = Counter()
    shown: list[str] = []
    for row in every(database, wanted):
        day = datetime.fromtimestamp(row["time"] / 1e6, UTC).strftime("%Y-%m-%d")
        counts[day, row["model"], row["verdict"]] += 1
        if row["verdict"] == "GOOD" and row["review"] == schema.NONE:
            continue
        if (panel := panel_of(blobs, row, pixel_limit)) is not None:
            yield f"panels/{row['id']}.png", (panel,)
            if len(shown) < _SHOWN:
                shown.append(row["id"])
    yield "report.html", (_page(counts, shown).encode(),)


_SHOWN = 500  # panels that the page itself has; the rest lie beside it


def panel_of(blobs: BlobStore, row: Row, pixel_limit: int) -> bytes | None:
    """The panel of an inspection as a PNG; None where its files are not kept."""
    if not row["kept"]:
        return None
    image, found = blobs.read(row["image_sha256"]), blobs.read(row["findings_sha256"])
    if image is None or found is None:
        return None
    title = row["part"] or row["id"]
    inspection = findings.inspection_of(row, found)
    pixels = read_image(image, pixel_limit=pixel_limit, bit_depth=row["bit_depth"])
    return findings.panel_png(pixels, inspection, row["typical_pixel"], title)


def suffix_of(row: Row) -> str:
    """Of the file that came in."""
    return SUFFIXES.get(row["image_type"], ("",))[0]


def time_text(microseconds: int) -> str:
    """UTC, in the words of ISO 8601."""
    return (
        datetime.fromtimestamp(microseconds / 1e6, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _table(rows: Iterable[Row]) -> Iterator[bytes]:
    yield (",".join(COLUMNS) + "\n").encode()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows, start=1):
        values = {**row, "time": time_text(row["time"])}
        writer.writerow([_cell(values[name]) for name in COLUMNS])
        if number % 500 == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _page(counts: Mapping[tuple[str, str, str], int], shown: list[str]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(day)}<td>{html.escape(model)}<td>{html.escape(verdict)}<td>{count}"
        for (day, model, verdict), count in sorted(counts.items())
    )
    panels = "".join(f'<p><img src="panels/{name}.png" alt="{name}">' for name in shown)
    return (
        '<!doctype html><meta charset="utf-8"><title>Inspections</title>'
        "<style>body{font:15px system-ui;margin:2em}td,th{padding:.2em 1em;text-align:left}img{max-width:100%}</style>"
        f"<h1>Inspections</h1><table><tr><th>day<th>model<th>verdict<th>parts{rows}</table>{panels}\n"
    )
