"""The page that a person reads in the morning: every product, what was rejected, what drifts, what went wrong."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from goodparts.errors import ImageError
from goodparts.files import write_text
from goodparts.fleet.images import ImageFile, read_bytes
from goodparts.fleet.inspect import FleetRun
from goodparts.fleet.summary import Summary
from goodparts.version import __version__

PAGE = "report.html"
SUMMARY = "summary.json"
_PICTURES = 150  # in all
_SIDE = 216  # pixels of a picture
_DEATHS = 20  # that are told one by one


def write_report(out: Path, run: FleetRun, pixel_limit: int | None = None) -> Path:
    """Write `report.html`, which needs no network, and `summary.json`; OutputError where that fails."""
    left = _PICTURES
    products = []
    for summary in run.summaries:
        cards = _worst(summary, left, pixel_limit)
        left -= sum(bool(card["picture"]) for card in cards)
        products.append(_product(summary, cards))
    write_text(out / SUMMARY, _json(summary_record(run)))
    return write_page(
        out / PAGE,
        title="Inspection of a fleet of products",
        summary=_in_a_sentence(run),
        facts=facts_of(run),
        notes=_notes(run),
        products=products,
    )


def write_page(path: Path, **values: Any) -> Path:
    """Write a page from the template; values it does not get are left out."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = files("goodparts.fleet").joinpath("page.html.jinja").read_text(encoding="utf-8")
    write_text(path, environment.from_string(template).render(values))
    return path


def facts_of(run: FleetRun) -> list[str]:
    """What is to be known of a run, in short sentences without their stops."""
    now = run.images - run.before
    facts = [f"{run.before:,} images were inspected earlier, {now:,} now"]
    if run.read_again:
        facts.append(f"{run.read_again:,} of these were only touched, and are the same as before")
    if now and run.seconds:
        facts.append(f"{now / run.seconds:.1f} images/s for {_duration(run.seconds)}")
    if run.memory:
        facts.append(f"a worker took {run.memory / 2**30:.2f} GiB at most")
    return [*facts, f"goodparts {__version__}"]


def summary_record(run: FleetRun) -> dict[str, Any]:
    """The same for machines."""
    return {
        "version": __version__,
        "images": run.images,
        "before": run.before,
        "set_aside": run.set_aside,
        "deaths": run.deaths,
        "seconds": round(run.seconds, 3),
        "memory": run.memory,
        "products": [
            {
                "product": summary.product,
                "model": summary.model,
                "identity": summary.identity,
                "images": summary.images,
                "bad": summary.bad,
                "recheck": summary.recheck,
                "borderline": summary.borderline,
                "set_aside": summary.set_aside,
                "reject_rate": summary.reject_rate,
                "drift": [asdict(report) for report in summary.drift],
                "alarms": summary.alarms,
                "worst": [{"name": row.name, "multiple": multiple} for multiple, row, _ in summary.worst],
                "error": summary.error or None,
            }
            for summary in run.summaries
        ],
    }


def _in_a_sentence(run: FleetRun) -> str:
    bad = sum(summary.bad for summary in run.summaries)
    recheck = sum(summary.recheck for summary in run.summaries)
    drifting = sum(bool(summary.alarms) for summary in run.summaries)
    inspected = sum(summary.images for summary in run.summaries)
    counted = {"BAD": bad, "RECHECK": recheck, "set aside": run.set_aside}
    rest = [f"{count:,} {what}" for what, count in counted.items() if count] or ["all GOOD"]
    drift = f" Scores of {drifting} drift." if drifting else ""
    return f"{inspected:,} images of {len(run.summaries):,} products: {', '.join(rest)}.{drift}"


def _notes(run: FleetRun) -> list[str]:
    notes = [f"{summary.product}: {summary.error}" for summary in run.failed]
    if run.set_aside:
        some = "1 image" if run.set_aside == 1 else f"{run.set_aside:,} images"
        notes.append(f"{some} could not be inspected, tried twice; once that is mended, --retry tries again")
    told = [f"A worker ended early: {death}" for death in run.deaths[:_DEATHS]]
    if len(run.deaths) > _DEATHS:
        told.append(f"and {len(run.deaths) - _DEATHS} more times")
    return notes + told


def _product(summary: Summary, cards: list[dict[str, str]]) -> dict[str, Any]:
    rate = summary.reject_rate
    low, high = summary.reject_interval
    if summary.drift:
        drift = str(summary.drift[0])
    else:
        drift = "none" if summary.watched else "not watched: fewer than 20 good images"
    return {
        "name": summary.product,
        "model": Path(summary.model).name,
        "identity": summary.identity[:12],
        "images": f"{summary.images:,}",
        "good": f"{summary.judged - summary.bad:,}",
        "bad": f"{summary.bad:,}",
        "recheck": f"{summary.recheck:,}",
        "borderline": f"{summary.borderline:,}",
        "aside": f"{summary.set_aside:,}",
        "rate": "-" if rate is None else f"{100 * rate:.1f} %",
        "width": 0 if rate is None else round(100 * rate, 1),
        "interval": "-" if rate is None else f"{100 * low:.1f} to {100 * high:.1f} %",
        "drift": drift if summary.images else "-",
        "alarms": summary.alarms,
        "errors": [*([summary.error] if summary.error else []), *(str(row.error) for row in summary.aside)],
        "worst": cards,
    }


def _worst(summary: Summary, left: int, pixel_limit: int | None) -> list[dict[str, str]]:
    cards: list[dict[str, str]] = []
    for multiple, row, file in summary.worst:
        picture = _picture(file, pixel_limit) if len(cards) < left else ""
        cards.append(
            {
                "name": row.name,
                "verdict": str(row.verdict),
                "multiple": f"{multiple:.2f}",
                "picture": picture,
            }
        )
    return cards


def _picture(file: ImageFile, pixel_limit: int | None) -> str:
    """A small picture of an image as a data URI; empty where it can't be read any more."""
    from PIL import Image

    from goodparts.data.images import PIXEL_LIMIT, read_image

    try:
        pixels = read_image(read_bytes(file.where), pixel_limit=pixel_limit or PIXEL_LIMIT)
    except ImageError:
        return ""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"
    )


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    note: str = "",
    warn: Sequence[str] = (),
) -> dict[str, Any]:
    """A table of a page; a number that is not 0 stands out in the columns `warn`. `note` says what columns mean."""
    cells = [
        [
            {"text": str(cell), "warn": column in warn and str(cell) not in ("0", "-")}
            for column, cell in zip(head, row, strict=True)
        ]
        for row in rows
    ]
    return {"title": title, "head": head, "rows": cells, "note": note}
