"""Hints: what else may find more than another threshold does, each only where it applies to the product."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from goodparts.backbones.packages import BUILT_IN
from goodparts.decision.trade_offs import TradeOff
from goodparts.errors import RecipeError
from goodparts.model.model import Model
from goodparts.preprocessing import framing, tiling
from goodparts.preprocessing.tiling import reduction_in_words
from goodparts.recipe.values import size_text

_REDUCED = 1.5  # times, above which small defects get lost
_SQUEEZED = 1.25  # times that one side is reduced more than the other, above which shapes suffer
_PIXELS = 640 * 480  # of a working size that is suggested, unless there are more already
_STEP = 32  # pixels; working sizes are multiples of it
_OTHER = "efficientnet_lite2"


def hints(model: Model, rows: Sequence[TradeOff]) -> tuple[str, ...]:
    """One line each, in the order to try them; nothing where no bad part is missed, or no threshold is in force.

    Args:
        model: what they are about.
        rows: its trade-offs, of labelled parts where there are some.
    """
    now = next((row for row in rows if row.in_force), None)
    if now is None:
        return ()
    known = model.evaluation
    if (now.bad and not now.missed) or (not now.bad and known is not None and known.bad and not known.missed):
        return ()
    by_threshold = [row for row in rows if row.alternative and not row.missed and not _dearer(row, now)]
    unfound = bool(now.missed) and not by_threshold
    lines = [*_size(model), *(_backbone(model) if unfound else ()), *_tiles(model)]
    return (*lines, *(_zones(model) if unfound else ()))


def _dearer(row: TradeOff, now: TradeOff) -> bool:
    """Whether a threshold rejects more good parts than that in force."""
    return row.rejected > now.rejected or row.good_scores_above > now.good_scores_above


def _size(model: Model) -> Iterator[str]:
    """A working size of the image's own shape, where images are squeezed, or reduced a good deal."""
    size = larger_size(model)
    if size is None:
        return
    image = model.provenance.usual_size
    squeezed = _squeeze(_scale(model)) > _SQUEEZED
    times = math.prod(size) / math.prod(model.recipe.image_size)
    framed = "--framing stretch " if model.recipe.framing == "crop" else ""
    shows = "keeps their shape" if squeezed else "shows more"
    yield (
        f"Images are {size_text(image)} px, {reduction_in_words(_scale(model))}: `{framed}--image-size "
        f"{size_text(size)}` {shows}, in {times:.2g} × the time."
    )


def larger_size(model: Model) -> tuple[int, int] | None:
    """The working size (height, width) that suits the images better; None where theirs does.

    It has about their shape, and about as many pixels as they have, as VGA has, or as now.
    """
    scale, recipe = _scale(model), model.recipe
    squeezed = recipe.framing == "stretch" and _squeeze(scale) > _SQUEEZED
    if model.preprocessor.tiling.several or (max(scale) <= _REDUCED and not squeezed):
        return None
    image = model.provenance.usual_size
    pixels = min(math.prod(image), max(_PIXELS, math.prod(recipe.image_size)))
    sides = (_steps(side * math.sqrt(pixels / math.prod(image))) for side in image)
    height, width = min(
        product(*sides),
        key=lambda size: (_squeeze((image[0] / size[0], image[1] / size[1])), abs(math.prod(size) - pixels)),
    )
    better = max(image[0] / height, image[1] / width) < 0.9 * max(scale) or squeezed
    changes = {
        "image_size": (height, width),
        "framing": "stretch" if recipe.framing == "crop" else recipe.framing,
    }
    if not better or (height, width) == recipe.image_size or _fixed(model) or not _allowed(model, changes):
        return None
    return height, width


def _backbone(model: Model) -> Iterator[str]:
    if model.backbone.name == BUILT_IN and _allowed(model, {"backbone": _OTHER}):
        yield (
            f"A larger network sees more, and is slower: `--backbone {_OTHER}`, after `pip install "
            "'goodparts[lite2]'`."
        )


def _tiles(model: Model) -> Iterator[str]:
    """Tiles, where images stay reduced a good deal even at the larger working size."""
    image, scale = model.provenance.usual_size, max(_scale(model))
    height, width = larger_size(model) or model.recipe.image_size
    if model.preprocessor.tiling.several or max(image[0] / height, image[1] / width) <= _REDUCED:
        return
    now, half = (round(tiling.NEEDED * max(1.0, part * scale)) for part in (1.0, 0.5))
    changes = {"tiling": "auto", "smallest_defect": half}
    if _allowed(model, changes) and not _fixed_cells(model):
        yield (
            f"Defects smaller than about {now} px, on images so large: `--tiling auto --smallest-defect {half}`, "
            "slower."
        )


def _zones(model: Model) -> Iterator[str]:
    if model.preprocessor.roi.everywhere and _allowed(model, {"roi": "zones.json"}):
        yield "Places that don't matter, or need a threshold of their own: `--roi FILE`, with zones drawn in it."


def _scale(model: Model) -> tuple[float, float]:
    """By how much images of the usual size are reduced, (down, across)."""
    image = model.provenance.usual_size
    resized = framing.frame_of(image, model.preprocessor.image_recipe).resized
    return image[0] / resized[0], image[1] / resized[1]


def _steps(side: float) -> tuple[int, int]:
    """The next smaller and larger side of a working size."""
    return max(_STEP, math.floor(side / _STEP) * _STEP), math.ceil(side / _STEP) * _STEP


def _squeeze(scale: tuple[float, float]) -> float:
    return max(scale) / min(scale)


def _fixed(model: Model) -> bool:
    """Whether the backbone takes images of one size only, or cells that don't fit multiples of 32 pixels."""
    return model.backbone.fixed_size or _fixed_cells(model)


def _fixed_cells(model: Model) -> bool:
    """Whether a working image is not so many whole cells of a size that goes into 32 pixels."""
    pairs = zip(model.recipe.image_size, model.grid, strict=True)
    return any(side % cells or _STEP % (side // cells) for side, cells in pairs)


def _allowed(model: Model, changes: Mapping[str, Any]) -> bool:
    """Whether the recipe's other keys go together with these."""
    try:
        model.recipe.replace(changes)
    except RecipeError:
        return False
    return True
