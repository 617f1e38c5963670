"""What the members of a model file have to be: types, ranges, and sizes that go together.

A file may come from anybody, and a hash only says that it was not damaged on its way. So all of it is held against what
is written here before any of it is used; `agreement` then looks at what goes with what.

    calibration = json_member("calibration.json", data)      # ValueError, in words, where it is something else
    tensors = tensor_member("bank.safetensors", data)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.data.images import PIXEL_LIMIT
from goodparts.decision.good_scores import CALIBRATION_SET, COPIES, LEAVE_ONE_OUT
from goodparts.errors import quoted, shortened
from goodparts.model.model import FORMAT
from goodparts.preprocessing.light import CELLS
from goodparts.preprocessing.tiling import LARGEST

Check = Callable[[Any, str], None]
"""Raises ValueError where a value is not what it has to be; called with the value and where it stands."""

_LONGEST_TEXT = 10_000
_MANY = 10_000_000


# ---- what values can be


def whole(low: int = 0, high: int = 1 << 53) -> Check:
    """A whole number within limits."""

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _misfit(where, f"a whole number from {low} to {high}", value)

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number within limits."""

    def check(value: Any, where: str) -> None:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            limits = (
                ""
                if low == -math.inf
                else f", {low:.3g} or more"
                if high == math.inf
                else f", {low:g} to {high:g}"
            )
            raise _misfit(where, f"a finite number{limits}", value)

    return check


def text(pattern: str = "") -> Check:
    """A text, of a pattern."""

    def check(value: Any, where: str) -> None:
        if (
            not isinstance(value, str)
            or len(value) > _LONGEST_TEXT
            or not re.fullmatch(pattern or "(?s:.*)", value)
        ):
            raise _misfit(where, "a text" + (f" such as {pattern}" if pattern else ""), value)

    return check


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _misfit(where, "true or false", value)


def each(of: Check, least: int = 0, most: int = _MANY) -> Check:
    """A list, of so many."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            count = least if least == most else f"{least} or more" if most == _MANY else f"{least} to {most}"
            raise _misfit(where, f"a list of {count}", value)
        for index, item in enumerate(value):
            of(item, f"{where}[{index}]")

    return check


def entries(of: Check) -> Check:
    """An object with any keys."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _misfit(where, "an object", value)
        for key, item in value.items():
            of(item, f"{where}.{shortened(key)}")

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _misfit(where, "an object", value)
        if missing := required.keys() - value.keys():
            raise ValueError(f"{where}: lacks {', '.join(sorted(missing))}")
        for key, item in value.items():
            if key not in known:
                raise ValueError(f"{where}: has an unknown key {quoted(key)}")
            known[key](item, f"{where}.{key}")

    return check


def maybe(of: Check) -> Check:
    """Null, or something."""
    return lambda value, where: None if value is None else of(value, where)


# ---- the members

_DIGEST = text("[0-9a-f]{64}")
_THREE = each(number(), 3, 3)

_EVALUATION = fields(
    {
        **dict.fromkeys(("name", "evaluated"), text()),
        **dict.fromkeys(("images", "good", "rejected", "bad", "missed", "rechecks", "learnt_from"), whole()),
        **dict.fromkeys(("image_auroc", "pixel_auroc"), maybe(number(0, 1))),
        "by_class": each(
            fields({"defect_class": text(), **dict.fromkeys(("images", "found", "rechecks"), whole())})
        ),
    }
)

_BANK = fields({"entries": whole(1), "dimensions": whole(1)})
_MANIFEST = fields(
    {
        "format": whole(1, FORMAT),
        "identity": _DIGEST,
        "sha256": entries(_DIGEST),
        "backbone": fields(
            {
                **dict.fromkeys(("name", "source", "licence", "sha256", "input", "normalisation"), text()),
                "mean": _THREE,
                "std": each(number(1e-30), 3, 3),
            }
        ),
        "bank": _BANK,
        "grid": each(whole(1, LARGEST), 2, 2),
        "data": fields(
            {"good_images": whole(1), "image_sizes": entries(whole(1)), "seen_share": number(0, 1)},
            {"file_list": text(), "not_aligned": entries(whole(1)), "parent": _DIGEST},
        ),
        "circumstances": fields(
            {
                **dict.fromkeys(("fitted", "fitted_on", "machine"), text()),
                "seconds": entries(number()),
                "versions": entries(text()),
            },
            {"image_milliseconds": number(0), "computed_by": text()},
        ),
        "precision": fields({"largest_difference": maybe(number(0)), "images": whole()}),
    },
    {
        "coarser_banks": each(_BANK, 1, 8),
        "evaluation": _EVALUATION,
        "signature": text("[0-9a-f]{128}"),
        "signed_by": _DIGEST,
    },
)

_MAPS = fields({"peaks": each(number(), 1), "mean": number(), "std": number(0), "quantile": number()})
_SCORES = {
    "scores": each(number(), 1),
    "names": each(text()),
    "maps": _MAPS,
    "source": text("|".join((LEAVE_ONE_OUT, CALIBRATION_SET, COPIES))),
}
_GOOD = fields(_SCORES, {"zones": each(fields(_SCORES, {"zone": text()}))})
_ABOVE_ZERO = number(np.finfo(np.float64).tiny)
_DECISION = fields(
    {
        "threshold": maybe(number()),
        "threshold_rule": text(),
        "pixel_threshold": number(),
        "pixel_threshold_rule": text(),
        "interval": each(number(), 0, 2),
        "kept": flag,
        "source": text(),
        "good": whole(),
    },
    {"zones": each(fields({"name": text(), "threshold": _ABOVE_ZERO, "pixel_threshold": _ABOVE_ZERO}))},
)
_LOOKS = ("brightness", "contrast", "black", "white", "detail", "noise", "distance")
_CALIBRATION = fields(
    {
        "learnt": _GOOD,
        "separate": maybe(_GOOD),
        "decision": _DECISION,
        "history": each(_DECISION),
        "digests": each(text()),
        "left_out": each(text()),
        "statistics": each(fields(dict.fromkeys(_LOOKS, number()))),
    }
)

_POLYGONS = each(each(each(number(0, PIXEL_LIMIT), 2, 2), 3))
_ROI = fields(
    {
        "size": each(whole(1, PIXEL_LIMIT), 2, 2),
        "zones": each(
            fields(
                {"name": text()},
                {"polygons": _POLYGONS, "holes": _POLYGONS, "runs": each(whole(0, PIXEL_LIMIT))},
            ),
            1,
            1000,
        ),
    }
)
_SIZE = each(whole(1, LARGEST), 2, 2)
_BEGINS = each(whole(0, LARGEST), 1, LARGEST)
_TILES = fields({"canvas": _SIZE, "tile": _SIZE, "cell": _SIZE, "rows": _BEGINS, "columns": _BEGINS})
_LIGHT = fields(
    {
        "weights": each(number(0, 1), CELLS**2, CELLS**2),
        "reference": _THREE,
        "low": each(number(), 4, 4),
        "high": each(number(), 4, 4),
    }
)

_JSON: dict[str, Check] = {
    "manifest.json": _MANIFEST,
    "calibration.json": _CALIBRATION,
    "roi.json": _ROI,
    "tiles.json": _TILES,
    "light.json": _LIGHT,
}
_TENSORS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # type and shape; sizes of one letter are the same everywhere
    "bank.safetensors": {
        "features": ("float32", "m", "d"),
        "origins": ("int32", "m"),
        "mean": ("float32", "d"),
        "basis": ("float32", "d", "q"),
        "cells": ("int32", "m"),
        "tiles": ("int32", "m"),
        "int8": ("uint8", "1"),
        "spacing": ("float32", "m"),
        "whitening.mean": ("float32", "channels"),
        "whitening.matrix": ("float32", "channels", "d"),
        "fusion.grids": ("int32", "depths", "2"),
        "fusion.values": ("float32", "depths", "5"),
    },
    "pose.safetensors": {
        "edges": ("int8", "2", "h", "w"),
        "known": ("uint8", "h", "w"),
        "picture": ("uint8", "height", "width", "3"),
        "limits": ("float64", "2"),
        "alike": ("float64", "motions", "3"),
    },
}
_NEEDED = {
    "bank.safetensors": ("features", "origins", "mean"),
    "pose.safetensors": tuple(_TENSORS["pose.safetensors"]),
}
_MAY_BE_EMPTY = ("motions",)


def json_member(name: str, data: bytes) -> Any:
    """The values in a JSON member; ValueError unless they are what it has to hold, where that is known."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: is not JSON ({shortened(error)})") from None
    if name in _JSON:
        _JSON[name](values, name)
    return values


def tensor_member(name: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors in a safetensors member; ValueError unless they are what it has to hold."""
    import safetensors
    import safetensors.numpy

    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{name}: is not in the safetensors format ({shortened(error)})") from None
    if ("fusion.grids" in tensors) != ("fusion.values" in tensors):
        raise ValueError(f"{name}: has half of a fusion")
    sizes_at: dict[str, dict[str, int]] = {"": {}}  # coarser depths have sizes of their own
    for key, tensor in tensors.items():
        depth, plain = _of_depth(key)
        if plain not in _TENSORS[name] or (depth and plain.startswith("fusion")):
            raise ValueError(f"{name}: has an unknown tensor {quoted(key)}")
        kind, *shape = _TENSORS[name][plain]
        sizes = sizes_at.setdefault(depth, {})
        expected = [int(size) if size.isdigit() else sizes.get(size, size) for size in shape]
        fits = len(shape) == tensor.ndim and all(
            found == size if isinstance(size, int) else found > 0 or size in _MAY_BE_EMPTY
            for found, size in zip(tensor.shape, expected, strict=True)
        )
        if tensor.dtype != kind or not fits:
            raise ValueError(
                f"{name}: {key} is {tensor.dtype} {tensor.shape}; expected {kind} ({', '.join(map(str, expected))})"
            )
        sizes.update(zip(shape, tensor.shape, strict=True))
        if tensor.size and not (math.isfinite(tensor.min()) and math.isfinite(tensor.max())):
            raise ValueError(f"{name}: {key} holds NaN or infinite values")
    for depth in sizes_at:
        if missing := {depth + needed for needed in _NEEDED[name]} - tensors.keys():
            raise ValueError(f"{name}: lacks {', '.join(sorted(missing))}")
        if (f"{depth}whitening.mean" in tensors) != (f"{depth}whitening.matrix" in tensors):
            raise ValueError(f"{name}: has half of a whitening")
    return tensors


def _of_depth(key: str) -> tuple[str, str]:
    """What a tensor's name begins with for a coarser depth, such as "2.", and the rest."""
    found = re.fullmatch(r"(?s)([2-9]\.)?(.*)", key)
    assert found is not None
    return found[1] or "", found[2]


def _misfit(where: str, expected: str, found: object) -> ValueError:
    return ValueError(f"{where}: expected {expected}, found {shortened(json.dumps(found))}")
