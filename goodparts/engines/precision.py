"""Precision: what inspections are computed in, and how far that moves scores.

A model is learnt in float32, so it is the same on every machine. Where the processor computes in bfloat16 (8 bits of
mantissa), the network takes about half the time; patch distances are float32 all the same. How far scores move is
measured on good images when a model is learnt, stored with it, and verdicts closer to the threshold are borderline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from goodparts.files import JsonRecord
from goodparts.recipe.recipe import Recipe

LIMIT = 0.01
"""Scores may move by this share of themselves for `auto` to take a lower precision."""

SAMPLE = 16
"""Good images on which it is measured."""

FLOAT32 = 1e-4
"""Scores may differ by this share of themselves between machines in float32."""


@dataclass(frozen=True)
class PrecisionCheck:
    """How far bfloat16 moves the scores of good images.

    Attributes:
        largest_difference: largest |score in bf16 / score in f32 - 1|; None where the processor has no bf16.
        images: on how many good images it was measured.
    """

    largest_difference: float | None
    images: int

    @classmethod
    def compare(cls, exact: Sequence[float], fast: Sequence[float]) -> Self:
        """Of the scores of the same images in f32 and in bf16."""
        moved = [abs(b - a) / max(abs(a), 1e-30) for a, b in zip(exact, fast, strict=True)]
        return cls(largest_difference=max(moved), images=len(moved))

    def to_dict(self) -> JsonRecord:
        """As JSON takes it."""
        return asdict(self)


UNCHECKED = PrecisionCheck(None, 0)


def has_bf16() -> bool:
    """Whether what is computed on (`runtime.current`) computes in bfloat16 faster than in float32."""
    from goodparts.engines.engine import capabilities

    return "BF16" in capabilities()


def in_use(recipe: Recipe, check: PrecisionCheck) -> str:
    """ "f32" or "bf16": what inspections are computed in on this machine.

    A recipe that asks for bf16 gets f32 on a processor without it: the same scores, more exactly and slower.
    """
    if recipe.precision == "f32" or not has_bf16():
        return "f32"
    if recipe.precision == "bf16":
        return "bf16"
    moved = check.largest_difference
    return "bf16" if moved is not None and moved <= LIMIT else "f32"


def margin(precision: str, check: PrecisionCheck) -> float:
    """Scores closer to the threshold than this share of it are borderline."""
    if precision == "f32":
        return FLOAT32
    return max(FLOAT32, check.largest_difference if check.largest_difference is not None else LIMIT)


def describe(recipe: Recipe, check: PrecisionCheck) -> str:
    """In words, for the model's card and the command line."""
    precision = in_use(recipe, check)
    if check.largest_difference is None:
        why = "" if recipe.precision == "f32" or has_bf16() else "; this processor has no bf16"
        return f"computed in {precision}{why}"
    images = f"{check.images} good image{'s' * (check.images != 1)}"
    moved = f"scores of {images} moved by up to {100 * check.largest_difference:.2f} %"
    if precision == "bf16":
        return f"computed in bf16: {moved} against f32, and so near the threshold verdicts are borderline"
    return f"computed in f32; in bf16 {moved}"
