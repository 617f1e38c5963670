"""What is kept of held-out scores: gathered in parts, through files, it is what is gathered in one go."""

from __future__ import annotations

import numpy as np
import pytest

from goodparts.decision.collected import Collected
from goodparts.decision.good_scores import LEAVE_ONE_OUT, GoodScoresCollector
from goodparts.preprocessing.statistics import measure


def collected(first: int, last: int, zones: tuple[str, ...]) -> Collected:
    collector = GoodScoresCollector(LEAVE_ONE_OUT, zones)
    statistics = []
    for image in range(first, last):
        rng = np.random.default_rng(image)
        anomaly_map = rng.random((60, 100 + image), dtype=np.float32)
        anomaly_map[:5] = np.nan
        of_zones = [(rng.random(), anomaly_map * (zone + 1)) for zone in range(len(zones))]
        collector.add(f"bild \u00fc\n{image}.png", rng.random(), anomaly_map, of_zones)
        statistics.append(measure(rng.integers(256, size=(40, 40, 3)).astype(np.uint8)))
    return Collected(collector, tuple(statistics))


@pytest.mark.parametrize("zones", [(), ("left", "right")])
def test_parts_are_the_whole(zones: tuple[str, ...]) -> None:
    whole = collected(0, 9, zones)
    through_files = [
        Collected.from_tensors(collected(first, last, zones).tensors())
        for first, last in ((0, 4), (4, 5), (5, 9))
    ]
    joined = Collected.of_all(through_files)
    assert joined.statistics == whole.statistics
    found, expected = joined.scores.result(0.99), whole.scores.result(0.99)
    assert found.names == expected.names
    assert found.scores == expected.scores
    assert found.maps.peaks == expected.maps.peaks
    assert found.maps.quantile == expected.maps.quantile
    assert found.maps.mean == pytest.approx(expected.maps.mean, rel=1e-12)
    assert found.maps.std == pytest.approx(expected.maps.std, rel=1e-9)
    assert [(zone.zone, zone.scores, zone.maps.quantile) for zone in found.zones] == [
        (zone.zone, zone.scores, zone.maps.quantile) for zone in expected.zones
    ]


def test_nothing_is_gathered_of_a_part_that_was_left_out() -> None:
    nothing = Collected.from_tensors(collected(0, 0, ("left",)).tensors())
    some = collected(0, 3, ("left",))
    joined = Collected.of_all([nothing, some])
    assert joined.scores.result(0.5).scores == some.scores.result(0.5).scores
