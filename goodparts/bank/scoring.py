"""Scoring: from patch distances to the score of an image."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from goodparts.engines.graph import GraphBuilder
from goodparts.recipe.recipe import Recipe


def patches_that_count(patches: int, recipe: Recipe) -> int:
    """Of how many of the largest patch distances an image score is the mean."""
    if recipe.image_score != "top_mean":
        return 1
    return max(1, math.ceil(recipe.top_share * patches - 1e-9))


def _top_mean(build: GraphBuilder, per_image: str, counted: str | None, patches: int, share: float) -> str:
    """Mean of the largest ceil(share x valid patches) distances."""
    wanted_of = np.maximum(1, np.ceil(share * np.arange(patches + 1) - 1e-9)).astype(np.float32)
    most = int(wanted_of[-1])
    largest = build.top_k(per_image, most, largest=True)[0]
    if counted is None:
        return build.node("ReduceMean", largest, build.ints([1]), keepdims=0)
    valid = build.node("ReduceSum", counted, build.ints([1]), keepdims=1)
    count = build.node("Cast", build.node("Round", valid), to=TensorProto.INT64)
    wanted = build.node("Gather", build.constant(wanted_of), count)
    taken = build.node("Less", build.constant(np.arange(most, dtype=np.float32)[None]), wanted)
    kept = build.node("Where", taken, largest, build.floats([0]))
    total = build.node("ReduceSum", kept, build.ints([1]), keepdims=1)
    return build.node("Squeeze", build.node("Div", total, wanted), build.ints([1]))
