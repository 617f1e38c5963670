"""The predictor: engines compiled once, whoever asks first, and never carried elsewhere."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodparts import Inspector
from goodparts.model import predictor


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each engine that was opened is for several images at a time."""
    found: list[bool] = []
    really = predictor.Predictor._opened

    def opened(self: predictor.Predictor, *, throughput: bool) -> Any:
        found.append(throughput)
        return really(self, throughput=throughput)

    monkeypatch.setattr(predictor.Predictor, "_opened", opened)
    return found


@pytest.fixture
def images(mini_dataset: Path) -> list[Path]:
    return sorted((mini_dataset / "test").rglob("*.png"))


def test_eight_threads_from_the_first_moment_compile_once(
    fitted_file: Path, images: list[Path], opened: list[bool]
) -> None:
    inspector, alone = Inspector.load(fitted_file), Inspector.load(fitted_file)
    expected = [alone.inspect(image) for image in images]
    opened.clear()
    ready = threading.Barrier(8)

    def inspect(thread: int) -> list[Any]:
        ready.wait()
        order = [*images[thread:], *images[:thread]]
        found = {image: inspector.inspect(image) for image in order}
        return [found[image] for image in images]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(inspect, range(8)):
            assert [one.score for one in found] == [one.score for one in expected]
            assert [one.verdict for one in found] == [one.verdict for one in expected]
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    assert opened == [False]


def test_each_engine_is_opened_when_it_is_needed(
    fitted_file: Path, images: list[Path], opened: list[bool]
) -> None:
    inspector = Inspector.load(fitted_file)
    assert opened == []
    list(inspector.inspect_many(images[:3]))
    list(inspector.score_many(images[:3]))
    assert opened == [True]
    inspector.inspect(images[0])
    assert opened == [True, False]


def test_another_decision_keeps_the_engines(
    fitted_file: Path, images: list[Path], opened: list[bool]
) -> None:
    inspector = Inspector.load(fitted_file)
    before = inspector.inspect(images[0])
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": before.score * 2})
    after = inspector.inspect(images[0])
    assert opened == [False]
    assert (after.score, after.threshold) == (before.score, pytest.approx(before.score * 2))


@pytest.mark.parametrize(
    "carried", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copied", "pickled"]
)
def test_an_inspector_travels_without_its_engines(
    carried: Any, fitted_file: Path, images: list[Path], opened: list[bool]
) -> None:
    inspector = Inspector.load(fitted_file)
    expected = inspector.inspect(images[0])
    other = carried(inspector)
    assert opened == [False]
    assert other.inspect(images[0]).score == expected.score
    assert other.model.identity == inspector.model.identity
    assert opened == [False, False]


def test_closed_it_opens_again(fitted_file: Path, images: list[Path], opened: list[bool]) -> None:
    inspector = Inspector.load(fitted_file)
    ready = inspector._ready
    first = ready.score(predictor_pixels(images[0]), images[0])
    ready.close()
    assert ready.score(predictor_pixels(images[0]), images[0]) == first
    assert opened == [True, True]


def predictor_pixels(path: Path) -> Any:
    from goodparts.data.images import read_image

    return read_image(path)
