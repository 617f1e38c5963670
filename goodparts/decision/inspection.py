"""`Inspection`, the result for one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.decision.regions import Region
from goodparts.preprocessing.framing import Pose
from goodparts.preprocessing.statistics import ImageStatistics

GOOD = "GOOD"
BAD = "BAD"
RECHECK = "RECHECK"


@dataclass(frozen=True)
class ZoneScore:
    """What was found in one zone of the region of interest.

    Attributes:
        name: of the zone.
        score: anomaly score of the zone: a distance in feature space.
        threshold: the zone's own; above it the zone, and with it the part, is BAD.
    """

    name: str
    score: float
    threshold: float

    @property
    def bad(self) -> bool:
        """Whether the score is above the threshold, or no number."""
        return not self.score <= self.threshold


def telling_zones(zones: tuple[ZoneScore, ...]) -> tuple[ZoneScore, ...]:
    """Of several zones those that are BAD, the worst first, or the worst where none is; nothing of a single zone."""
    if len(zones) < 2:
        return ()
    worst = sorted(zones, key=lambda zone: -zone.score / zone.threshold)
    return tuple(zone for zone in worst if zone.bad) or (worst[0],)


class LaterMap:
    """An anomaly map, made when somebody looks at it; most are of GOOD parts, and nobody does.

    A pickle or a copy of it holds the map itself.
    """

    def __init__(self, make: Callable[[], NDArray[np.float32]]) -> None:
        self._make = make
        self._made: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, anomaly_map: NDArray[np.float32]) -> LaterMap:
        """One that is made already, (H, W) float32."""
        found = cls(lambda: anomaly_map)
        found._made = anomaly_map
        return found

    @property
    def made(self) -> NDArray[np.float32]:
        """The map, (H, W) float32: from several threads at once it may be made twice, and is the same."""
        made = self._made
        if made is None:
            made = self._made = self._make()
        return made

    def __reduce__(self) -> tuple[Callable[[NDArray[np.float32]], LaterMap], tuple[NDArray[np.float32]]]:
        return type(self).of, (self.made,)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found on one image of height H and width W.

    Attributes:
        path: the file, or None for bytes and arrays.
        score: anomaly score: a distance in feature space, never clamped or normalised. With several zones the largest
            multiple of a zone's threshold, and then values of the anomaly map are multiples likewise.
        threshold: the score above which an image is BAD.
        p_value: conformal: (1 + held-out good scores >= score) / (1 + held-out good scores), in (0, 1].
        verdict: "GOOD" or "BAD"; "RECHECK" for an image that can't be judged: with the quality gate on, or with
            pose_failure = recheck.
        borderline: whether the score lies closer to the threshold than the engine's precision can tell.
        distance_grid: patch distances, (h, w) float32; NaN where the recipe did not look.
        later_map: what gives the anomaly map.
        pixel_threshold: the value of the anomaly map above which a pixel is bad.
        mask: bad pixels, (H, W) bool; never empty for BAD, else empty.
        regions: the connected parts of the mask, largest peak first.
        reasons: why the image can't be judged, in words; empty unless the verdict is RECHECK.
        statistics: what the image looks like, for the quality gate and `Drift`; None with the gate off.
        zones: score and threshold of each zone of the region of interest; empty if there is none.
        pose: how the part lies against the reference; None where the recipe does not look for it.
        learnt_from: whether the model learnt from this very image, where that was looked up.
        computed_by: engine, device and precision, such as "openvino on cpu in f32".
    """

    path: Path | None
    score: float
    threshold: float
    p_value: float
    verdict: str
    borderline: bool
    distance_grid: NDArray[np.float32]
    later_map: LaterMap
    pixel_threshold: float
    mask: NDArray[np.bool_]
    regions: tuple[Region, ...]
    reasons: tuple[str, ...] = ()
    statistics: ImageStatistics | None = None
    zones: tuple[ZoneScore, ...] = ()
    pose: Pose | None = None
    learnt_from: bool = False
    computed_by: str = ""

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """Smoothed distances at the size of the image, (H, W) float32; NaN where it did not look.

        Of a BAD image it is there; of others it is made when it is first asked for.
        """
        return self.later_map.made

    @property
    def bad(self) -> bool:
        """Whether the verdict is BAD."""
        return self.verdict == BAD
