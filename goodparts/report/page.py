"""`report.html`: one page to look at.

    write_report(out, evaluation, model=facts, panels=out / "panels")

The page is one file that needs no network: pictures, style and script are inside. It is written whole or not at all,
and holds nothing but what is given here, so the same input gives the same bytes.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from goodparts import parallel
from goodparts.data.dataset import TestSample
from goodparts.decision.binomial import clopper_pearson, rarity
from goodparts.decision.inspection import BAD, RECHECK, ZoneScore, telling_zones
from goodparts.errors import ImageError
from goodparts.evaluation.evaluation import Evaluation, TestImage
from goodparts.files import write_text
from goodparts.progress import Progress
from goodparts.report.card import DECISION
from goodparts.report.panel import multiple_text
from goodparts.report.picture_files import unique_names
from goodparts.report.plots import PLOTS
from goodparts.report.strips import draw_strips
from goodparts.report.tables import class_sections, writable

SIZE_LIMIT = 30_000_000
"""Bytes of a report that can still be mailed and opened."""

# Scale and WebP quality of the embedded panels, best first; the first at which all of them fit is taken. At
# half its size a panel still tells what is wrong; if not even that fits, the most telling ones are shown.
_STEPS = ((1.0, 85), (1.0, 75), (0.8, 75), (0.64, 70), (0.5, 60))
_SAMPLE = 12  # panels that are encoded to judge a step
_TAG = 400  # bytes of markup around an embedded picture


def summary(evaluation: Evaluation) -> str:
    """Say what went wrong: "2 of 22 good parts were rejected, 1 of 93 bad parts was missed."."""
    rejected, good = _errors(evaluation, label=False)
    missed, bad = _errors(evaluation, label=True)
    parts = []
    if good:
        parts.append(_part_in_words(rejected, good, "good", "rejected"))
    if bad:
        parts.append(_part_in_words(missed, bad, "bad", "missed"))
    if evaluation.rechecks:
        parts.append(f"{evaluation.rechecks} could not be judged (RECHECK)")
    sentence = f"{', '.join(parts) or 'no images were tested'}."
    if known := evaluation.metrics.get("learnt_from"):
        sentence += (
            f" But the model learnt from {known} of these {len(evaluation.images)} images, which flatters it."
        )
    return sentence[0].upper() + sentence[1:]


def result_names(images: Sequence[TestImage | TestSample]) -> tuple[str, ...]:
    """Return the name of each image's pictures, "<class>/<stem>", with a number where two would be alike."""
    return unique_names((image.defect_class, image.path.stem) for image in images)


def write_report(
    out: Path,
    evaluation: Evaluation,
    *,
    model: Mapping[str, object],
    panels: Mapping[int, Path] | Path,
    notes: Sequence[str] = (),
    size_limit: int = SIZE_LIMIT,
    progress: Progress | None = None,
) -> Path:
    """Write `report.html` into the results folder.

    The plots are taken from that folder as far as they are there. Panels are scaled down until all of them
    fit; if they can't, those with a wrong verdict, those nearest the threshold and the worst are shown, and
    the page says that others are not.

    Args:
        out: the results folder.
        evaluation: what to report.
        model: facts about the model, all of them optional: name, identity, version, backbone,
            backbone_sha256, backbone_licence, backbone_source, training_images, banks,
            fit_seconds, inspect_ms, share_not_looked_at (0 to 1), recipe (TOML), card (sections with
            a title and lines of text, see `goodparts.report.card`). Anything else is shown under its own name.
        panels: the panel of the image with this index in `evaluation.images`; or the folder that holds them
            as `<result name>.png`, see `result_names`.
        notes: what is to be known of the data set, such as masks that belong to no image.
        size_limit: the page has at most this many bytes.
        progress: called with ("report", done, total) for every panel taken in.

    Returns:
        the path of the page.

    Raises:
        OutputError: the page can't be written.
        ImageError: a panel or plot is there, but can't be read.
    """
    if isinstance(panels, Path):
        panels = {i: panels / f"{name}.png" for i, name in enumerate(result_names(evaluation.images))}
    there = {i: path for i, path in panels.items() if path.is_file()}
    facts = _facts(out, evaluation, model, notes)
    bare = _render(facts, _image_cards(out, evaluation, there, {}))
    telling = [i for i in _most_telling_first(evaluation) if i in there]
    pictures = _embed(telling, there, size_limit - len(bare.encode()), progress)
    path = out / "report.html"
    write_text(path, _render(facts, _image_cards(out, evaluation, there, pictures)) if pictures else bare)
    return path


class _Picture(NamedTuple):
    """A picture inside the page: a data URI and its size in pixels."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class _ImageCard:
    """What the page shows of one image."""

    name: str
    defect_class: str
    bad: bool
    verdict: str
    wrong: str  # "MISSED", "FALSE REJECT" or nothing
    borderline: bool
    score: float
    distance: float  # from the threshold
    score_text: str
    multiple: str
    rarity: str
    p_value: str
    reasons: str  # why it could not be judged
    zones: str  # of several, those that are BAD, or the worst
    pose: str  # by what it was straightened, or why not
    file: str  # of the panel, relative to the page, as a URL; empty if it lies elsewhere
    picture: _Picture | None


def _image_cards(
    out: Path, evaluation: Evaluation, panels: Mapping[int, Path], pictures: Mapping[int, _Picture]
) -> list[_ImageCard]:
    """Return a card for every image, the highest score first."""
    cards = []
    for i in sorted(range(len(evaluation.images)), key=lambda i: -evaluation.images[i].score):
        image, panel = evaluation.images[i], panels.get(i)
        inside = panel is not None and panel.is_relative_to(out)
        cards.append(
            _ImageCard(
                name=f"{image.defect_class}/{image.path.name}",
                defect_class=image.defect_class,
                bad=image.label,
                verdict=image.verdict,
                wrong=("MISSED" if image.label else "FALSE REJECT") if _is_wrong(image) else "",
                borderline=image.borderline,
                score=float(image.score),
                distance=abs(float(image.score) - evaluation.threshold),
                score_text=f"{image.score:.4g}",
                multiple=multiple_text(image.score, evaluation.threshold),
                rarity=rarity(image.p_value),
                p_value=f"{image.p_value:.2g}",
                reasons="; ".join(image.reasons),
                zones=_zones_in_words(image.zones),
                pose=image.pose.in_words if image.pose and (image.pose.used or image.pose.failure) else "",
                file=quote(panel.relative_to(out).as_posix(), errors="surrogateescape")
                if panel and inside
                else "",
                picture=pictures.get(i),
            )
        )
    return cards


def _zones_in_words(zones: tuple[ZoneScore, ...]) -> str:
    """Of several zones: "in bore 1.32 x, rim 1.04 x", or the worst where none is BAD."""
    telling = telling_zones(zones)
    words = ", ".join(f"{zone.name} {zone.score / zone.threshold:.2f} ×" for zone in telling)
    return (f"in {words}" if telling[0].bad else f"highest in {words}") if telling else ""


def _facts(
    out: Path, evaluation: Evaluation, model: Mapping[str, object], notes: Sequence[str]
) -> dict[str, object]:
    """Return all that the page shows besides the cards; its words are in the template."""
    unseen = model.get("share_not_looked_at")
    return {
        "evaluation": evaluation,
        "model": model,
        "summary": summary(evaluation),
        "kinds": [_kind(evaluation, label) for label in (False, True) if _errors(evaluation, label)[1]],
        "classes": sorted({image.defect_class for image in evaluation.images}),
        "rechecks": evaluation.rechecks,
        "by_class": class_sections(evaluation),
        "notes": notes,
        "drawn": draw_strips(evaluation),
        "decision": DECISION,
        "borderline": sum(image.borderline for image in evaluation.images),
        "not_looked_at": _percent(unseen) if isinstance(unseen, float) and unseen else "",
        "plots": {name: _plot_picture(out / name) for name in PLOTS if (out / name).is_file()},
    }


def _render(facts: Mapping[str, object], cards: Sequence[_ImageCard]) -> str:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "code": _code, "number": _number, "fact": _fact}
    template = files("goodparts.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        facts,
        cards=cards,
        pictures=sum(card.picture is not None for card in cards),
        misses=sum(card.wrong == "MISSED" for card in cards),
        false_rejects=sum(card.wrong == "FALSE REJECT" for card in cards),
    )
    return writable(page)


def _most_telling_first(evaluation: Evaluation) -> list[int]:
    """Return the indices of all images: wrong verdicts, RECHECK, borderline, then nearest and worst in turn."""
    images = evaluation.images
    nearest = sorted(range(len(images)), key=lambda i: abs(images[i].score - evaluation.threshold))
    worst = sorted(range(len(images)), key=lambda i: -images[i].score)
    wrong = [i for i in worst if _is_wrong(images[i])]
    rechecks = [i for i in worst if images[i].verdict == RECHECK]
    unclear = rechecks + [i for i in nearest if images[i].borderline]
    return list(dict.fromkeys([*wrong, *unclear, *chain.from_iterable(zip(nearest, worst, strict=True))]))


def _embed(
    order: Sequence[int],
    panels: Mapping[int, Path],
    budget: int,
    progress: Progress | None,
) -> dict[int, _Picture]:
    """Encode panels at the best step at which all fit the budget of bytes, or as many as fit at the last."""
    sample = order[:: max(1, len(order) // _SAMPLE)]
    for step in _STEPS:
        expected = sum(_cost(picture) for _, picture in _encode(sample, panels, step)) / max(1, len(sample))
        if step != _STEPS[-1] and expected * len(order) > budget:
            continue
        left = budget
        pictures = {}
        for i, picture in _encode(order, panels, step):
            left -= _cost(picture)
            if left < 0:
                break
            pictures[i] = picture
            if progress is not None:
                progress("report", len(pictures), len(order))
        if left >= 0 or step == _STEPS[-1]:
            return pictures
    return {}


def _cost(picture: _Picture) -> int:
    return len(picture.source) + _TAG


def _encode(
    order: Sequence[int], panels: Mapping[int, Path], step: tuple[float, int]
) -> Iterator[tuple[int, _Picture]]:
    encoded = parallel.parallel_map(lambda i: _web_picture(panels[i], *step), order, workers=parallel.cores())
    yield from zip(order, encoded, strict=False)


def _web_picture(path: Path, scale: float, quality: int) -> _Picture:
    """Scale a picture and encode it as WebP, half the size of JPEG and shown by every browser since 2020."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise ImageError(
            f"{path}: expected a picture for the report, but it can't be read ({error})"
        ) from error
    if scale < 1:
        size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
        image = image.resize(size, Image.Resampling.HAMMING)
    encoded = io.BytesIO()
    image.save(encoded, format="WEBP", quality=quality, method=2)
    return _Picture(_data_uri("webp", encoded.getvalue()), *image.size)


def _plot_picture(path: Path) -> _Picture:
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return _Picture(_data_uri("png", data), *image.size)
    except OSError as error:
        raise ImageError(f"{path}: expected a plot for the report, but it can't be read ({error})") from error


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _is_wrong(image: TestImage) -> bool:
    return image.verdict != RECHECK and image.label != (image.verdict == BAD)


def _errors(evaluation: Evaluation, label: bool) -> tuple[int, int]:
    """Return how many of the good (bad) images have the wrong verdict, and how many have one."""
    images = [image for image in evaluation.images if image.label == label and image.verdict != RECHECK]
    return sum(map(_is_wrong, images)), len(images)


def _kind(evaluation: Evaluation, label: bool) -> dict[str, object]:
    """Return the counts of good or of bad parts, and how far the share of errors can be trusted."""
    wrong, total = _errors(evaluation, label)
    low, high = clopper_pearson(wrong, total)
    return {
        "bad": label,
        "wrong": wrong,
        "right": total - wrong,
        "total": total,
        "share": _percent(wrong / total),
        "low": _percent(low),
        "high": _percent(high),
    }


def _part_in_words(wrong: int, total: int, kind: str, done: str) -> str:
    count = "none" if not wrong else "all" if wrong == total > 1 else str(wrong)
    return f"{count} of {total} {kind} parts {'was' if wrong <= 1 else 'were'} {done}"


def _percent(share: float) -> str:
    """Return a percentage with one decimal that never rounds to 0 or 100 % what is neither."""
    percent = 100 * share
    text = "< 0.1" if 0 < percent < 0.05 else "> 99.9" if 99.95 <= percent < 100 else f"{percent:.1f}"
    return f"{text} %".replace(" ", "\N{NO-BREAK SPACE}")


def _code(text: str) -> str:
    """Return a sentence as HTML, its commands in `backticks` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _number(value: float | int | None) -> str:
    return "undefined" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def _fact(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
