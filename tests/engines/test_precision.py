"""What inspections are computed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts import Inspector, Recipe
from goodparts.engines import precision
from goodparts.engines.engine import open_engine
from goodparts.engines.precision import UNCHECKED, PrecisionCheck
from goodparts.errors import RecipeError


def parts(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Grey pictures with a bright bar and some noise."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = rng.integers(90, 110, (96, 96, 3))
        image[30 + rng.integers(4) : 60, 20:80] += 90
        images.append(image.astype(np.uint8))
    return images


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("asked", "moved", "expected"),
    [
        ("f32", 0.001, "f32"),
        ("bf16", 0.001, "bf16"),
        ("bf16", 0.5, "bf16"),  # asked for, and said on the card
        ("bf16", None, "bf16"),
        ("auto", 0.001, "bf16"),
        ("auto", 0.01, "bf16"),
        ("auto", 0.011, "f32"),
        ("auto", None, "f32"),  # learnt where there was no bf16: nobody knows how far scores would move
    ],
)
def test_the_precision_in_use(
    monkeypatch: pytest.MonkeyPatch, asked: str, moved: float | None, expected: str, bf16: bool
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: bf16)
    check = PrecisionCheck(moved, 16)
    found = precision.in_use(Recipe(precision=asked), check)
    assert found == (expected if bf16 else "f32")
    words = precision.describe(Recipe(precision=asked), check)
    assert found in words
    if moved is not None:
        assert f"{100 * moved:.2f} %" in words


def test_what_is_compared_is_relative_and_the_largest() -> None:
    check = PrecisionCheck.compare([2.0, 4.0, 5.0], [2.002, 3.98, 5.0])
    assert check == PrecisionCheck(pytest.approx(0.005), 3)


@pytest.mark.parametrize(
    ("in_use", "moved", "expected"),
    [("f32", 0.02, 1e-4), ("bf16", 0.004, 0.004), ("bf16", 0.0, 1e-4), ("bf16", None, precision.LIMIT)],
)
def test_the_margin_of_borderline_verdicts(in_use: str, moved: float | None, expected: float) -> None:
    assert precision.margin(in_use, PrecisionCheck(moved, 16)) == expected


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(RecipeError, match="precision: expected one of auto, f32, bf16, found 'int8'"):
        Recipe(precision="int8")


@pytest.mark.parametrize("asked", ["auto", "f32", "bf16"])
def test_learning_measures_how_far_bf16_moves_scores(tmp_path: Path, asked: str) -> None:
    recipe = Recipe(precision=asked, image_size=96, sampling_ratio=0.2)
    fitted = Inspector(recipe).fit(parts(20))
    check = fitted.model.precision
    if asked == "f32" or not precision.has_bf16():
        assert check == UNCHECKED
        assert fitted.precision == "f32"
    else:
        assert check.images == 10  # every other one of 20, since 16 are the most
        assert check.largest_difference is not None
        assert 0 < check.largest_difference < 0.1
    loaded = Inspector.load(fitted.save(tmp_path / "part.goodparts"))
    assert loaded.model.precision == check
    assert loaded.model.identity == fitted.model.identity
    image = parts(1, seed=1)[0]
    exact = Inspector(recipe)
    exact._set_model(replace(fitted.model, recipe=fitted.recipe.replace({"precision": "f32"})))
    score, reference = loaded.inspect(image).score, exact.inspect(image).score
    if fitted.precision == "f32":
        assert score == reference
    else:
        assert score == pytest.approx(reference, rel=0.1)
        assert score != reference


def test_verdicts_within_the_measured_movement_are_borderline(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = Inspector(Recipe(precision="auto", image_size=96)).fit(parts(6))
    image = parts(1, seed=1)[0]
    score = fitted.inspect(image).score
    engine = fitted._ready.open(latency=True)  # the same score, whatever this processor has
    monkeypatch.setattr("goodparts.model.predictor.open_engine", lambda *_, **__: engine)
    for share, bf16, expected in ((1.004, True, True), (1.02, True, False), (1.004, False, False)):
        monkeypatch.setattr("goodparts.engines.precision.has_bf16", lambda bf16=bf16: bf16)
        model = replace(fitted.model, precision=PrecisionCheck(0.008, 16))
        decision = replace(model.calibration.decision, threshold=score * share)
        fitted._set_model(model.with_calibration(replace(model.calibration, decision=decision)))
        found = fitted.inspect(image)
        assert found.score == score
        assert found.borderline is expected


def test_the_identity_does_not_depend_on_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    identities = set()
    for bf16 in (False, True):
        monkeypatch.setattr("goodparts.model.predictor.has_bf16", lambda bf16=bf16: bf16)
        identities.add(Inspector(Recipe(image_size=96)).fit(parts(4)).model.identity)
    assert len(identities) == 1


class MadeWhenAsked(Sequence[NDArray[np.uint8]]):
    """Images that are only there one by one."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
        if not 0 <= index < 20:
            raise IndexError(index)
        return parts(1, seed=index)[0]


def test_images_may_be_made_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodparts.model.predictor.has_bf16", lambda: True)
    assert Inspector(Recipe(image_size=96)).fit(MadeWhenAsked()).model.precision.images == 10


def test_an_engine_computes_in_f32_where_there_is_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = Inspector(Recipe(precision="f32", image_size=96)).fit(parts(4))
    monkeypatch.setattr("goodparts.engines.openvino.capabilities", lambda: ("FP32",))
    shapes = {"image": (1, 96, 96, 3)}
    image = {"image": parts(1, seed=1)[0][None]}
    exact, asked = (
        open_engine(inspector.model.pipeline(), shapes, precision=name)(image)["score"]
        for name in ("f32", "bf16")
    )
    assert asked == exact
