"""Light: what is measured of it, what is corrected and what is not, and that every way to run a model does the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.images import read_image
from goodparts.engines.engine import open_engine
from goodparts.engines.graph import OPSET, Graph, GraphBuilder
from goodparts.errors import ModelError, RecipeError
from goodparts.model import file as model_file
from goodparts.preprocessing import framing, light
from goodparts.preprocessing.light import CELLS, DARK, FREE, Light

WARM = np.array([1.25, 1.0, 0.75])


def pictures(count: int, size: tuple[int, int] = (48, 80), seed: int = 0) -> NDArray[np.uint8]:
    """Grey noise between 60 and 140, a little brighter or darker each, (count, h, w, 3)."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(60, 140, (count, *size, 1)) * rng.uniform(0.95, 1.05, (count, 1, 1, 1))
    return np.asarray(grey + rng.normal(0, 2, (count, *size, 3)), dtype=np.uint8)


def cells_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.stack([light.measure(image) for image in images])


def in_light(images: NDArray[np.uint8], factors: NDArray[np.float64] | float) -> NDArray[np.uint8]:
    return np.clip(np.rint(images * factors), 0, 255).astype(np.uint8)


# ---- measuring -----------------------------------------------------------------------------------


def test_cells_are_means_of_their_pixels() -> None:
    image = pictures(1)[0]
    expected = image.reshape(CELLS, 6, CELLS, 10, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(3, -1)
    np.testing.assert_allclose(light.measure(image), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [5, 8, 17, 320])
def test_cells_that_cut_through_pixels_share_them(size: int) -> None:
    matrix = light.averaging(size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=0), CELLS / size, rtol=1e-4)


def test_a_dark_background_counts_little() -> None:
    images = pictures(4)
    images[:, :, :40] //= 16
    weights = light.learn(cells_of(images)).weights.reshape(CELLS, CELLS)
    assert weights[:, :4].sum() < 0.1
    assert weights.sum() == pytest.approx(1)


def test_what_lies_outside_the_region_of_interest_does_not_count() -> None:
    images = pictures(4)
    looked_at = np.zeros((6, 10), dtype=bool)
    looked_at[:, 5:] = True
    learnt = light.learn(cells_of(images), looked_at)
    changed = images.copy()
    changed[:, :, :40] = (255, 0, 0)
    np.testing.assert_array_equal(learnt.gains(cells_of(changed)), np.ones((4, 3)))


# ---- what is corrected ---------------------------------------------------------------------------


def test_good_images_are_left_as_they_are() -> None:
    cells = cells_of(pictures(8))
    np.testing.assert_array_equal(light.learn(cells).gains(cells), np.ones((8, 3)))


def test_a_cast_is_taken_back() -> None:
    images = pictures(8)
    gains = light.learn(cells_of(images)).gains(cells_of(in_light(images, WARM)))
    restored = gains * WARM
    np.testing.assert_allclose(restored / restored.mean(axis=1, keepdims=True), 1, atol=0.03)


def test_brightness_is_left_as_it_is() -> None:
    images = pictures(8)
    cells, brighter, darker = (cells_of(in_light(images, factor)) for factor in (1, 1.5, 0.6))
    learnt = light.learn(cells)
    np.testing.assert_allclose(learnt.gains(brighter), 1, atol=0.02)
    np.testing.assert_allclose(learnt.gains(darker), 1, atol=0.02)


def test_no_channel_is_multiplied_by_more_than_three() -> None:
    images = pictures(8)
    without_blue = in_light(images, np.array([1.0, 1.0, 0.0]))
    gains = light.learn(cells_of(images)).gains(cells_of(without_blue))
    np.testing.assert_allclose(gains[:, 2], 3, rtol=1e-5)


def test_limits_widen_with_more_good_images() -> None:
    cells, warm = cells_of(pictures(8)), cells_of(in_light(pictures(8), WARM))
    learnt = light.learn(cells)
    assert np.abs(learnt.gains(warm) - 1).max() > 0.1
    widened = learnt.widen(warm)
    np.testing.assert_array_equal(widened.gains(np.concatenate([cells, warm])), np.ones((16, 3)))
    assert widened.high[0] == np.float32(FREE)


# ---- in the pipeline -----------------------------------------------------------------------------


def test_the_graph_multiplies_by_these_gains() -> None:
    images = pictures(6)
    learnt = light.learn(cells_of(images[:3]))
    changed = np.concatenate([images[:2], in_light(images[3:], WARM * 1.4), np.zeros_like(images[:1])])
    build = GraphBuilder("test/", opset=OPSET)
    pixels = build.input("pixels", TensorProto.FLOAT, ["n", 48, 80, 3])
    build.node("Identity", learnt.add_nodes(build, pixels, (48, 80)), name="found")
    build.output("found", ["n", 48, 80, 3])
    given = changed.astype(np.float32)
    found = open_engine(Graph(build.finish()), {"pixels": given.shape})({"pixels": given})["found"]
    gains = learnt.gains(cells_of(changed))
    assert np.ptp(gains) > 0.3
    np.testing.assert_allclose(found, given * gains[:, None, None], rtol=1e-4)


def light_of(inspector: Inspector) -> Light:
    (step,) = inspector.model.preprocessor.steps
    assert isinstance(step, Light)
    return step


def fit_with(mini_backbone: Path, mini_dataset: Path, **keys: object) -> Inspector:
    recipe = Recipe(backbone=str(mini_backbone), layers=("layer2",), image_size=64, sampling_ratio=0.1)
    return Inspector(recipe.replace({"precision": "f32", **keys})).fit(mini_dataset)


@pytest.fixture(scope="module")
def coloured(mini_backbone: Path, mini_dataset: Path) -> Inspector:
    """Read only."""
    return fit_with(mini_backbone, mini_dataset, light="colour")


def test_the_key_changes_nothing_that_is_learnt_from_good_images(
    coloured: Inspector, mini_backbone: Path, mini_dataset: Path
) -> None:
    as_is = fit_with(mini_backbone, mini_dataset)
    assert as_is.model.preprocessor.steps == ()
    np.testing.assert_array_equal(as_is.model.bank.features, coloured.model.bank.features)
    assert as_is.model.calibration.threshold == coloured.model.calibration.threshold
    assert as_is.model.identity != coloured.model.identity
    for path in read_dataset(mini_dataset).train[:4]:
        assert coloured.inspect(path).score == pytest.approx(as_is.inspect(path).score, rel=1e-5)


def test_good_parts_in_warm_light_are_good_and_bad_ones_bad(
    coloured: Inspector, mini_backbone: Path, mini_dataset: Path
) -> None:
    as_is = fit_with(mini_backbone, mini_dataset)
    samples = read_dataset(mini_dataset).test
    warm = {sample.path: in_light(read_image(sample.path), WARM) for sample in samples}
    good = [warm[sample.path] for sample in samples if not sample.label]
    bad = [warm[sample.path] for sample in samples if sample.label]
    assert sum(as_is.inspect(image).verdict == "BAD" for image in good) > len(good) / 2
    assert [coloured.inspect(image).verdict for image in good].count("BAD") <= 1
    assert [coloured.inspect(image).verdict for image in bad].count("BAD") >= len(bad) - 1


def test_an_export_has_it_inside(coloured: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    import onnxruntime

    written = coloured.export(tmp_path / "part.onnx")
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["image"]
    for sample in read_dataset(mini_dataset).test[:4]:
        pixels = in_light(read_image(sample.path), WARM)
        working = framing.apply(framing.frame_of(pixels.shape[:2], coloured.recipe), pixels)
        (score,) = session.run(["score"], {"image": working[None]})
        np.testing.assert_allclose(score, coloured.inspect(pixels).score, rtol=1e-3)


def test_learning_on_widens_the_limits(mini_backbone: Path, mini_dataset: Path) -> None:
    inspector = fit_with(mini_backbone, mini_dataset, light="colour")
    before = light_of(inspector)
    warm = [in_light(read_image(path), WARM) for path in read_dataset(mini_dataset).train]
    inspector.update(warm)
    after = light_of(inspector)
    assert after.high[1] > before.high[1] + 0.1
    assert after.low[1] == before.low[1]


def test_of_a_region_of_interest_only_its_light_is_learnt(
    mini_backbone: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    zone = {"name": "right", "polygons": [[[48, 0], [96, 0], [96, 96], [48, 96]]]}
    (tmp_path / "zones.json").write_text(json.dumps({"zones": [zone]}), encoding="utf-8")
    inspector = fit_with(mini_backbone, mini_dataset, light="colour", roi=str(tmp_path / "zones.json"))
    learnt = light_of(inspector)
    weights = learnt.weights.reshape(CELLS, CELLS)
    assert weights[:, :4].sum() == 0
    assert (weights[:, 4:] > 0).all()


# ---- in the model file ---------------------------------------------------------------------------


def test_a_model_keeps_it(coloured: Inspector, tmp_path: Path) -> None:
    loaded = model_file.load(coloured.save(tmp_path / "part.goodparts"))
    assert loaded.identity == coloured.model.identity
    assert loaded.preprocessor.members() == coloured.model.preprocessor.members() != {}


def test_it_is_part_of_the_identity(coloured: Inspector) -> None:
    learnt = light_of(coloured)
    wider = replace(learnt, high=learnt.high + np.float32(0.01))
    other = replace(coloured.model, preprocessor=replace(coloured.model.preprocessor, steps=(wider,)))
    assert other.identity != coloured.model.identity


@pytest.mark.parametrize("broken", ["{}", '{"weights": [1]}', "wrong shapes"])
def test_what_is_no_light_is_refused(coloured: Inspector, broken: str) -> None:
    learnt = light_of(coloured)
    text = json.dumps({**json.loads(learnt.to_json()), "low": [0, 0]}) if broken == "wrong shapes" else broken
    with pytest.raises((LookupError, ValueError)):
        Light.from_json(text)


def test_a_model_that_lost_it_is_damaged(coloured: Inspector, tmp_path: Path) -> None:
    path = model_file.save(
        replace(coloured.model, preprocessor=replace(coloured.model.preprocessor, steps=())),
        tmp_path / "part.goodparts",
    )
    with pytest.raises(ModelError, match="light"):
        model_file.load(path)


def test_letterboxing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"light: colour.*letterbox.*as_is"):
        Recipe(light="colour", framing="letterbox")


def test_the_dark_says_little() -> None:
    black = np.zeros((1, 3, CELLS**2), dtype=np.float32)
    learnt = light.learn(cells_of(pictures(4)))
    assert np.isfinite(learnt.coefficients(black)).all()
    assert learnt.coefficients(black)[0, 0] == pytest.approx(np.log(DARK) - learnt.reference.mean(), rel=1e-3)
