"""The verdict: GOOD is said of nothing that can't be measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from goodparts import Inspector
from goodparts.decision.calibration import Decision, ZoneDecision
from goodparts.decision.good_scores import LEAVE_ONE_OUT, GoodScoresCollector
from goodparts.decision.inspection import GOOD, ZoneScore
from goodparts.decision.verdict import Measured, judge, segment
from goodparts.engines.runtime import Products
from goodparts.errors import ImageError, ModelError
from goodparts.model.model import Model

NOT_NUMBERS = [math.nan, math.inf, -math.inf]


def with_model(model: Model) -> Inspector:
    inspector = Inspector(model.recipe)
    inspector._set_model(model)
    return inspector


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_bank_that_is_not_all_numbers_never_says_good(
    fitted: Inspector, mini_dataset: Path, value: float
) -> None:
    features = fitted.model.bank.features.copy()
    features[3, 5] = value
    inspector = with_model(replace(fitted.model, bank=replace(fitted.model.bank, features=features)))
    with pytest.raises(ModelError, match="its memory bank holds NaN or infinite values"):
        inspector.inspect(mini_dataset / "test" / "good" / "000.png")


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_backbone_that_is_not_all_numbers_never_says_good(
    fitted: Inspector, mini_dataset: Path, value: float
) -> None:
    network = type(fitted.model.backbone.model)()
    network.CopyFrom(fitted.model.backbone.model)
    weights = network.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(np.full(list(weights.dims), value, np.float32), weights.name))
    inspector = with_model(replace(fitted.model, backbone=replace(fitted.model.backbone, model=network)))
    image = mini_dataset / "test" / "good" / "000.png"
    (found,) = inspector.inspect_many([image], on_error="return")
    assert isinstance(found, ImageError) or found.verdict != GOOD  # some engines make zeros of NaN on the way


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_distance_that_is_no_number_is_enough(
    fitted: Inspector, mini_dataset: Path, value: float
) -> None:
    measured = fitted._ready.measure(np.full((96, 96, 3), 90, np.uint8), "plain")
    assert measured.finite
    grid = measured.distance_grid.copy()
    grid[0, 0] = value
    assert not Measured(measured.image, grid, measured.score).finite
    hidden = measured.image.patch_mask.copy()
    hidden[0, 0] = False
    assert Measured(replace(measured.image, patch_mask=hidden), grid, measured.score).finite
    assert not Measured(measured.image, measured.distance_grid, value).finite


def test_a_score_that_is_no_number_is_not_good(fitted: Inspector) -> None:
    measured = fitted._ready.measure(np.full((96, 96, 3), 90, np.uint8), "plain")
    model = fitted.model
    found = judge(replace(measured, score=math.nan), model.calibration, model.preprocessor, margin=0.0)
    assert found.verdict != GOOD
    assert ZoneScore("rim", math.nan, 1.0).bad
    assert ZoneScore("rim", 1.0, math.nan).bad
    assert not ZoneScore("rim", 1.0, 1.0).bad


def test_the_p_value_of_no_number_is_the_least(fitted: Inspector) -> None:
    calibration = fitted.model.calibration
    assert calibration.p_value(math.nan) == 1 / (len(calibration.scores) + 1)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_threshold_is_a_finite_number(value: float) -> None:
    with pytest.raises(ModelError, match=r"a threshold is -?(nan|inf)"):
        Decision(value, "sigma", 1.0, "peak_sigma")
    with pytest.raises(ModelError, match="a threshold is"):
        Decision(1.0, "sigma", value, "peak_sigma")
    with pytest.raises(ModelError, match="a threshold is"):
        ZoneDecision("rim", value, 1.0)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_good_score_is_a_finite_number(value: float) -> None:
    collector = GoodScoresCollector(LEAVE_ONE_OUT)
    with pytest.raises(ModelError, match=r"7\.png: this good image has the score"):
        collector.add("7.png", value, np.ones((4, 4), np.float32))


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_drift_takes_numbers_only(value: float) -> None:
    from goodparts.decision.drift import Drift

    drift = Drift(np.arange(20.0).tolist())
    with pytest.raises(ValueError, match="finite score"):
        drift.add(value)


def test_what_reaches_nine_tenths_of_the_peak_is_bad_where_nothing_is_above_the_threshold() -> None:
    anomaly_map = np.zeros((9, 12), np.float32)
    anomaly_map[2:5, 3:6] = 0.95
    anomaly_map[3, 4] = 1.0
    anomaly_map[7, 9] = 0.99  # as high, and elsewhere
    anomaly_map[0, 0] = np.nan
    found = segment(anomaly_map, 2.0, 0)
    expected = np.zeros((9, 12), bool)
    expected[2:5, 3:6] = True
    np.testing.assert_array_equal(found.mask, expected)
    (region,) = found.describe(anomaly_map)
    assert (region.area, region.peak, region.box) == (9, 1.0, (3, 2, 6, 5))
    np.testing.assert_array_equal(segment(anomaly_map, 0.97, 2).mask, expected)  # all above it are too small


def test_bad_pixels_are_sought_where_some_can_be() -> None:
    anomaly_map = np.zeros((9, 12), np.float32)
    anomaly_map[4:6, 3:6] = 3
    everywhere = segment(anomaly_map, 2.0, 0)
    within = segment(anomaly_map, 2.0, 0, slice(3, 7))
    np.testing.assert_array_equal(within.mask, everywhere.mask)
    assert within.describe(anomaly_map) == everywhere.describe(anomaly_map)
    assert segment(anomaly_map, 5.0, 0, slice(0, 0)).describe(anomaly_map) == everywhere.describe(anomaly_map)


def test_int8_and_float32_ranks_give_the_same_scores(
    fitted: Inspector, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((mini_dataset / "test").glob("*/*.png"))
    found = []
    monkeypatch.setattr("goodparts.bank.ranking._FEW", 0)
    for products in (Products(int8=True, exact=True), Products(int8=False, exact=True)):
        monkeypatch.setattr("goodparts.engines.openvino.products", lambda *_, of=products: of)
        inspector = with_model(replace(fitted.model, bank=replace(fitted.model.bank, int8=True)))
        nodes = inspector.model.pipeline(inspector.runtime.products()).model.graph.node
        assert ("QuantizeLinear" in {node.op_type for node in nodes}) == products.int8
        found.append([inspection.score for inspection in inspector.inspect_many(images)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
