"""A coreset of more patch features than one machine holds: parts of them on disk, each read by the worker that has it.

    parts = ["features-0.npy", "features-1.npy", ...]                  # (n, d) float32 each
    found = choose_coreset(parts, 10_000, place)
    print(found.features.shape, found.radius)

What comes back of a part is no more than what is wanted of all, so memory is bounded: of a worker by its part, here by
the number of parts times what is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.composable import covering_radius, first_round, second_round
from goodparts.errors import DatasetError, GoodpartsError
from goodparts.scale.executor import Executor, Job


@dataclass(frozen=True, eq=False)
class SpreadCoreset:
    """What was chosen, in the order in which it was.

    Attributes:
        features: (count, d) float32.
        parts: of which part each is, (count,) int64.
        rows: which row of that part, (count,) int64.
        radius: distance of the point, of all parts, that is farthest from its nearest choice.
    """

    features: NDArray[np.float32]
    parts: NDArray[np.int64]
    rows: NDArray[np.int64]
    radius: float


def choose_coreset(parts: Sequence[str | os.PathLike[str]], count: int, executor: Executor) -> SpreadCoreset:
    """Choose `count` points of all parts in two rounds; of a single part that is the greedy choice.

    Args:
        parts: `.npy` files of points (n, d) float32, whose paths mean the same to the workers.
        count: how many to choose.
        executor: who chooses of each part.

    Raises:
        DatasetError: a part can't be read, has another dtype or shape, or all have fewer points than that.
        GoodpartsError: a worker died of a part.
    """
    names = [os.fspath(part) for part in parts]
    chosen = _of_all(executor, [partial(_choose, name, count) for name in names], names)
    features = [of_part[1] for of_part in chosen]
    total = sum(map(len, features))
    if not names or not 1 <= count <= total:
        raise DatasetError(
            f"coreset: expected 1 to {total:,} points to choose of these parts, found {count:,}"
        )
    kept = second_round(features, count)
    of_part = np.repeat(np.arange(len(names)), [len(some) for some in features])
    rows = np.concatenate([rows for rows, _ in chosen])
    centres = np.concatenate(features)[kept]
    radii = _of_all(executor, [partial(_radius, name, centres) for name in names], names)
    return SpreadCoreset(centres, of_part[kept], rows[kept], max(radii))


def _of_all(executor: Executor, calls: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """What the workers make of each part, in the order of the parts."""
    found: dict[str, Any] = {}
    jobs = [Job(str(number), call, affinity=names[number]) for number, call in enumerate(calls)]
    with closing(executor.run(jobs)) as finished:
        for job, result in finished:
            if isinstance(result, GoodpartsError):
                raise result
            if isinstance(result, Exception):
                raise GoodpartsError(f"{names[int(job.name)]}: no coreset of it: {result!r}")
            found[job.name] = result
    return [found[job.name] for job in jobs]


# ---- in the worker -------------------------------------------------------------------------------------


def _choose(name: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    points = _points(name)
    rows = first_round(points, count)
    return rows, points[rows]


def _radius(name: str, centres: NDArray[np.float32]) -> float:
    return covering_radius(_points(name), centres)


def _points(name: str) -> NDArray[np.float32]:
    try:
        points = np.load(name, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name}: can't be read ({error}); expected an .npy file of points") from error
    if points.ndim != 2 or points.dtype != np.float32 or not len(points):
        raise DatasetError(
            f"{name}: expected points (n, d) float32, found {points.shape} {points.dtype}; convert it"
        )
    found: NDArray[np.float32] = points
    return found
