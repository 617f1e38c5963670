"""What is kept of held-out scores, of all images or of a partition of them: `collect` gathers it, `of_all` joins it."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.decision.good_scores import (
    LEAVE_ONE_OUT,
    GoodScoresCollector,
    zone_names,
    zone_parts,
)
from goodparts.decision.leave_one_out import HeldOutScore
from goodparts.features.extract import GoodFeatures
from goodparts.preprocessing.statistics import ImageStatistics, with_distance


class Scores(NamedTuple):
    """Anomaly scores of images, in their order, (n,) float64."""

    values: NDArray[np.float64]

    @classmethod
    def of(cls, scored: Generator[HeldOutScore]) -> Self:
        """Of held-out images, which it closes."""
        with closing(scored):
            return cls(np.array([held_out.score for held_out in scored], dtype=np.float64))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        return {"values": self.values}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where it is missing."""
        return cls(tensors["values"])


class Collected(NamedTuple):
    """Scores and statistics of good images that have a part in the bank."""

    scores: GoodScoresCollector
    statistics: tuple[ImageStatistics, ...]

    @classmethod
    def of_all(cls, several: Sequence[Self]) -> Self:
        """Those of all partitions, in their order."""
        return cls(
            GoodScoresCollector.of_all([one.scores for one in several]),
            tuple(of_image for one in several for of_image in one.statistics),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        statistics = json.dumps([asdict(of_image) for of_image in self.statistics])
        return {
            **self.scores.tensors(),
            "statistics": np.frombuffer(statistics.encode(), dtype=np.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError or ValueError where something of it is missing."""
        statistics = json.loads(tensors["statistics"].tobytes())
        return cls(
            GoodScoresCollector.from_tensors(tensors),
            tuple(ImageStatistics(**of_image) for of_image in statistics),
        )


def collect(scored: Generator[HeldOutScore], features: GoodFeatures, names: Sequence[str]) -> Collected:
    """What is kept of held-out scores, which it closes, of good images of these names; not of those left out."""
    preprocessor = features.preprocessor
    collector = GoodScoresCollector(LEAVE_ONE_OUT, zone_names(preprocessor))
    statistics = []
    with closing(scored):  # no worker may read the features once they are gone
        for held_out in scored:
            index, distance_grid, anomaly_map = held_out.index, held_out.distance_grid, held_out.anomaly_map
            if not features.left_out[index]:
                zones = zone_parts(preprocessor, distance_grid, anomaly_map)
                collector.add(names[index], held_out.score, anomaly_map, zones)
                statistics.append(with_distance(features.statistics[index], distance_grid))
    return Collected(collector, tuple(statistics))
