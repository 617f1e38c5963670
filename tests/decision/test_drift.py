from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from goodparts.decision.drift import LIMIT, Drift, DriftReport
from goodparts.preprocessing.statistics import ImageStatistics

USUAL = ImageStatistics(brightness=90, contrast=30, black=0, white=0, detail=0.5, noise=1.0, distance=12)


def rings_at(drift: Drift, scores: Iterable[float]) -> int | None:
    """Number of the first part that rings."""
    return next((number for number, score in enumerate(scores, start=1) if drift.add(score)), None)


def drift_of(calibration: int, rng: np.random.Generator) -> Drift:
    return Drift(rng.normal(size=calibration).tolist(), seed=int(rng.integers(1 << 32)))


def images(rng: np.random.Generator, count: int) -> list[ImageStatistics]:
    return [replace(USUAL, brightness=rng.normal(90, 2), detail=rng.normal(0.5, 0.02)) for _ in range(count)]


@pytest.mark.parametrize("calibration", [20, 200])
def test_rarely_rings_for_nothing(calibration: int) -> None:
    rng = np.random.default_rng(calibration)
    rung = [rings_at(drift_of(calibration, rng), rng.normal(size=1000)) for _ in range(250)]
    assert sum(number is not None for number in rung) <= 1


@pytest.mark.parametrize(
    ("calibration", "shift", "usually", "nearly_always"),
    [(50, 2, 30, 45), (200, 1, 60, 120), (1000, 1, 50, 90)],
)
def test_rings_soon_for_a_shift(calibration: int, shift: float, usually: int, nearly_always: int) -> None:
    rng = np.random.default_rng(1)
    numbers = []
    for _ in range(100):
        drift = drift_of(calibration, rng)
        assert rings_at(drift, rng.normal(size=200)) is None
        numbers.append(rings_at(drift, rng.normal(shift, size=1000)) or 1000)
    assert np.median(numbers) <= usually
    assert np.quantile(numbers, 0.9) <= nearly_always


def test_rings_for_a_slow_creep() -> None:
    rng = np.random.default_rng(2)
    drift = drift_of(200, rng)
    assert rings_at(drift, rng.normal(size=500)) is None
    number = rings_at(drift, rng.normal(np.arange(2000) / 500))  # one sigma in 500 parts
    assert number is not None
    assert 100 < number < 600


def test_rare_bad_parts_do_not_ring() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        scores = np.where(rng.random(1000) < 0.05, 1e6, rng.normal(size=1000))
        assert rings_at(drift_of(100, rng), scores) is None


def test_bad_parts_in_a_row_ring_as_documented() -> None:
    number = rings_at(drift_of(200, np.random.default_rng(4)), [1e6] * 30)
    assert number == 14


def test_ties_are_broken_at_random() -> None:
    drift = Drift([0.0] * 200)
    assert rings_at(drift, [0.0] * 3000) is None
    assert rings_at(drift, [1.0] * 30) is not None


def test_falling_scores_are_no_drift() -> None:
    rng = np.random.default_rng(5)
    assert rings_at(drift_of(100, rng), rng.normal(-2, size=1000)) is None


@pytest.mark.parametrize(("brightness", "rising"), [(106, True), (74, False)])
def test_a_lamp_that_changes_is_reported(brightness: float, rising: bool) -> None:
    rng = np.random.default_rng(6)
    drift = Drift(rng.normal(size=100).tolist(), images(rng, 100))
    for _ in range(300):
        assert drift.add(rng.normal(), images(rng, 1)[0]) == ()
    reports: tuple[DriftReport, ...] = ()
    while not reports:
        reports = drift.add(rng.normal(), replace(images(rng, 1)[0], brightness=rng.normal(brightness, 2)))
    (report,) = reports
    assert (report.quantity, report.rising) == ("brightness", rising)
    assert 290 <= report.since <= 310 < report.part < 340
    assert report.usual == pytest.approx(90, abs=1)
    assert abs(report.recent - brightness) < 3
    assert f"brightness has {'risen' if rising else 'fallen'} since about part " in str(report)


def test_a_harmless_change_of_the_picture_is_no_drift() -> None:
    rng = np.random.default_rng(11)
    drift = Drift(rng.normal(size=100).tolist(), images(rng, 100))
    for _ in range(1000):
        assert drift.add(rng.normal(), replace(images(rng, 1)[0], brightness=rng.normal(94, 2))) == ()


def test_rings_again_while_the_change_lasts() -> None:
    drift = drift_of(100, np.random.default_rng(7))
    reports = [report for _ in range(200) for report in drift.add(5.0)]
    assert len(reports) > 5
    assert max(drift.levels.values()) <= 1


def test_levels_say_how_near_it_is() -> None:
    drift = drift_of(100, np.random.default_rng(8))
    assert drift.levels == {"score": 0}
    for _ in range(5):
        drift.add(9.0)
    assert drift.levels["score"] == pytest.approx(5 * (1 - 0.375) / LIMIT, rel=0.02)


def test_the_same_seed_gives_the_same_reports() -> None:
    calibration = np.random.default_rng(9).integers(0, 5, 50).tolist()
    stream = np.random.default_rng(10).integers(2, 7, 300).tolist()
    first, second = (
        [drift.add(score) for score in stream]
        for drift in (Drift(calibration, seed=3), Drift(calibration, seed=3))
    )
    assert first == second
    assert any(first)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20 calibration values of score, found 3"):
        Drift([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="expected a finite score, found nan"):
        Drift([*range(30), float("nan")])
    drift = Drift(range(30))
    with pytest.raises(ValueError, match="expected a finite score, found inf"):
        drift.add(float("inf"))
    assert drift.levels == {"score": 0}
