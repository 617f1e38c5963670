"""Scores of good images, none of which was compared with itself: what calibration rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.scoring import zone_scores
from goodparts.decision.thresholds import upper_quantile
from goodparts.errors import ModelError
from goodparts.preprocessing.preprocessor import Preprocessor

_VALUES_PER_MAP = 4096  # of each held-out map, kept for quantiles over pixels

LEAVE_ONE_OUT = "held_out"
CALIBRATION_SET = "separate"
COPIES = "copies"


@dataclass(frozen=True)
class GoodMaps:
    """What is kept of the anomaly maps of n good images.

    Attributes:
        peaks: the largest value of each map, (n,).
        mean: over all pixels of all maps.
        std: over all pixels of all maps.
        quantile: the recipe's pixel_threshold_quantile over all pixels.
    """

    peaks: tuple[float, ...]
    mean: float
    std: float
    quantile: float


@dataclass(frozen=True)
class GoodScores:
    """Scores of n good images, none of which was compared with itself.

    Attributes:
        scores: anomaly scores, (n,).
        names: of the images, (n,); file names below their folder, or numbers.
        maps: of their anomaly maps.
        source: "held_out" (the bank without an image's own entries), "separate" (images that had no part in the bank)
            or "copies" (turned copies of the only image there is: n scores of one image).
        zone: name of the zone that these are of; empty for the whole picture.
        zones: the same of each zone, where there are several; their `names` are empty.
    """

    scores: tuple[float, ...]
    names: tuple[str, ...]
    maps: GoodMaps
    source: str
    zone: str = ""
    zones: tuple[GoodScores, ...] = ()

    @property
    def certifies(self) -> bool:
        """Whether these images had no part in the bank: only then is a bound on later parts certified."""
        return self.source == CALIBRATION_SET

    @property
    def images(self) -> int:
        """How many good images these scores are of: copies of one count as one."""
        return 1 if self.source == COPIES else len(self.scores)

    def joined(self, more: GoodScores) -> GoodScores:
        """These and more; the quantile over pixels is the mean of both, by images."""
        counts = (len(self.scores), len(more.scores))
        total = sum(counts)
        mean = (counts[0] * self.maps.mean + counts[1] * more.maps.mean) / total
        square = sum(
            count * (maps.std**2 + maps.mean**2)
            for count, maps in zip(counts, (self.maps, more.maps), strict=True)
        )
        return GoodScores(
            scores=self.scores + more.scores,
            names=self.names + more.names,
            maps=GoodMaps(
                peaks=self.maps.peaks + more.maps.peaks,
                mean=mean,
                std=float(np.sqrt(max(0.0, square / total - mean**2))),
                quantile=(counts[0] * self.maps.quantile + counts[1] * more.maps.quantile) / total,
            ),
            source=self.source,
            zone=self.zone,
            zones=tuple(own.joined(other) for own, other in zip(self.zones, more.zones, strict=True)),
        )


class GoodScoresCollector:
    """Gathers `GoodScores` one image at a time; of each zone, too, where there are several."""

    def __init__(self, source: str, zones: Sequence[str] = (), *, zone: str = "") -> None:
        self._source, self._zone = source, zone
        self._zones = [GoodScoresCollector(source, zone=name) for name in zones]
        self._names: list[str] = []
        self._scores: list[float] = []
        self._peaks: list[float] = []
        self._values: list[NDArray[np.float32]] = []
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(
        self,
        name: str,
        score: float,
        anomaly_map: NDArray[np.float32],
        zones: Sequence[tuple[float, NDArray[np.float32]]] = (),
    ) -> None:
        """Take in one good image: its score and anomaly map (H, W) float32, NaN where it did not look.

        `zones` are the same of each zone, where there are several.
        """
        if not math.isfinite(score):
            raise ModelError(
                f"{name}: this good image has the score {score}; expected a finite number. The backbone's features are "
                "too large to be compared: take another backbone, or other layers of it"
            )
        for collector, (zone_score, zone_map) in zip(self._zones, zones, strict=True):
            collector.add(name, zone_score, zone_map)
        hidden = np.isnan(anomaly_map)
        values = anomaly_map[~hidden] if hidden.any() else anomaly_map.ravel()
        exact = values.astype(np.float64)
        self._names.append(name)
        self._scores.append(score)
        self._peaks.append(float(values.max()))
        self._count += values.size
        self._sum += float(exact.sum())
        self._squares += float(np.einsum("v,v->", exact, exact))
        self._values.append(values[:: max(1, values.size // _VALUES_PER_MAP)].copy())

    @classmethod
    def of_all(cls, several: Sequence[Self]) -> Self:
        """What several gathered, in their order."""
        first = several[0]
        found = cls(first._source, zone=first._zone)
        found._zones = [cls.of_all(zones) for zones in zip(*(one._zones for one in several), strict=True)]
        for one in several:
            found._names += one._names
            found._scores += one._scores
            found._peaks += one._peaks
            found._values += one._values
            found._count += one._count
            found._sum += one._sum
            found._squares += one._squares
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps it: `from_tensors` makes the same of them."""
        texts = {"source": self._source, "zone": self._zone, "names": self._names}
        found: dict[str, NDArray[Any]] = {
            "texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
            "scores": np.array(self._scores, dtype=np.float64),
            "peaks": np.array(self._peaks, dtype=np.float64),
            "lengths": np.array([len(values) for values in self._values], dtype=np.int64),
            "values": np.concatenate([*self._values, np.empty(0, dtype=np.float32)]),
            "sums": np.array([self._count, self._sum, self._squares], dtype=np.float64),
        }
        for number, zone in enumerate(self._zones):
            found |= {f"zone{number}.{name}": values for name, values in zone.tensors().items()}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError or ValueError where something of it is missing."""
        texts = json.loads(tensors["texts"].tobytes())
        found = cls(texts["source"], zone=texts["zone"])
        found._names = texts["names"]
        found._scores, found._peaks = tensors["scores"].tolist(), tensors["peaks"].tolist()
        found._values = (
            np.split(tensors["values"], np.cumsum(tensors["lengths"])[:-1]) if found._scores else []
        )
        count, found._sum, found._squares = tensors["sums"].tolist()
        found._count = int(count)
        while f"zone{len(found._zones)}.texts" in tensors:
            prefix = f"zone{len(found._zones)}."
            of_zone = {
                name.removeprefix(prefix): values
                for name, values in tensors.items()
                if name.startswith(prefix)
            }
            found._zones.append(cls.from_tensors(of_zone))
        return found

    def result(self, quantile: float) -> GoodScores:
        """What was gathered; `quantile` is the recipe's pixel_threshold_quantile."""
        mean = self._sum / self._count
        variance = max(0.0, self._squares / self._count - mean**2)
        return GoodScores(
            scores=tuple(self._scores),
            names=() if self._zone else tuple(self._names),
            maps=GoodMaps(
                peaks=tuple(self._peaks),
                mean=mean,
                std=float(np.sqrt(variance)),
                quantile=upper_quantile(np.concatenate(self._values), quantile),
            ),
            source=self._source,
            zone=self._zone,
            zones=tuple(collector.result(quantile) for collector in self._zones),
        )


def zone_parts(
    preprocessor: Preprocessor, distance_grid: NDArray[np.float32], anomaly_map: NDArray[np.float32]
) -> list[tuple[float, NDArray[np.float32]]]:
    """Score, and anomaly map with NaN outside, of each of several zones; nothing where there are not several."""
    roi = preprocessor.roi
    if not roi.several:
        return []
    masks = roi.masks_at((anomaly_map.shape[0], anomaly_map.shape[1]))
    patch_masks = roi.zone_patch_masks(preprocessor.image_recipe, preprocessor.grid)
    return [
        (score, np.where(mask, anomaly_map, np.float32(np.nan)))
        for score, mask in zip(
            zone_scores(distance_grid, patch_masks, preprocessor.image_recipe), masks, strict=True
        )
    ]


def zone_names(preprocessor: Preprocessor) -> tuple[str, ...]:
    """Names of several zones, each of which has a threshold of its own; none where there are not several."""
    return preprocessor.roi.names if preprocessor.roi.several else ()
