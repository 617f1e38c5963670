"""ONNX Runtime and PyTorch give the scores of OpenVINO: every kind of pipeline, one image at a time and many."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_golden import RECIPES, SHOWN, recipe_of, with_a_mark, write_roi_files

from goodparts import Inspector
from goodparts.data.images import read_image
from goodparts.engines import engine, precision
from goodparts.engines.batches import Batches, batched
from goodparts.engines.engine import open_engine
from goodparts.engines.runtime import Runtime
from goodparts.engines.torch import TorchEngine
from goodparts.engines.torch_search import best_of_blocks, rankings
from goodparts.errors import EngineError

OTHERS = ("onnxruntime", "torch")
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_roi_files(tmp_path_factory.mktemp("roi"))


PASSED_OVER = ("fast", "classic", "roi", "depths", "depths, tiles", "depths, zones")  # what others have, too


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in PASSED_OVER])
def test_scores_and_verdicts_are_the_same(
    name: str, mini_backbone: Path, mini_dataset: Path, files: Path, tmp_path: Path
) -> None:
    data = with_a_mark(mini_dataset, tmp_path / "data") if name == "pose" else mini_dataset
    fitted = Inspector(recipe_of(name, mini_backbone, files), engine="openvino", device="cpu").fit(data)
    saved = fitted.save(tmp_path / "part.goodparts")
    images = [data / "test" / f"{shown}.png" for shown in SHOWN]
    expected = [fitted.inspect(image) for image in images]
    for other in OTHERS:
        found = list(Inspector.load(saved, engine=other, device="cpu").inspect_many(images))
        assert [item.verdict for item in found] == [item.verdict for item in expected]
        np.testing.assert_allclose(
            [item.score for item in found], [item.score for item in expected], rtol=1e-3, err_msg=other
        )
        for one, same in zip(found, expected, strict=True):
            largest = np.nanmax(same.distance_grid)
            np.testing.assert_allclose(one.distance_grid, same.distance_grid, rtol=0, atol=1e-3 * largest)


@pytest.mark.parametrize("other", OTHERS)
def test_what_another_engine_learns_inspects_alike(
    other: str, recipe: Any, fitted: Inspector, mini_dataset: Path
) -> None:
    learnt = Inspector(recipe.replace({"precision": "f32"}), engine=other, device="cpu").fit(mini_dataset)
    same = Inspector(recipe.replace({"precision": "f32"}), engine="openvino", device="cpu").fit(mini_dataset)
    assert learnt.model.calibration.threshold == pytest.approx(same.model.calibration.threshold, rel=1e-3)
    for name in SHOWN:
        image = mini_dataset / "test" / f"{name}.png"
        assert learnt.inspect(image).score == pytest.approx(same.inspect(image).score, rel=1e-3)


@pytest.fixture(scope="module")
def crops(fitted: Inspector, mini_dataset: Path) -> NDArray[np.uint8]:
    """Eleven working images of `fitted`, (11, 96, 96, 3)."""
    prepare = fitted.model.preprocessor
    images = [read_image(path) for path in sorted(mini_dataset.glob("test/*/*.png"))[:11]]
    return np.concatenate(
        [crop.pixels[None] for image in images for crop in prepare.crops(prepare.prepare(image, "image"))]
    )


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("size", [1, 3, 11])
def test_images_in_batches_are_as_one_by_one(
    other: str, size: int, fitted: Inspector, crops: NDArray[np.uint8]
) -> None:
    graph = fitted.model.pipeline()
    alone = open_engine(graph, on=Runtime("openvino", "cpu"))
    expected = [alone({"image": crop[None]})["score"][0] for crop in crops]
    together = open_engine(graph, on=Runtime(other, "cpu"))
    found = [
        together({"image": crops[first : first + size]})["score"] for first in range(0, len(crops), size)
    ]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-3)


def test_bfloat16_moves_scores_no_further_than_its_limit(fitted: Inspector, crops: NDArray[np.uint8]) -> None:
    graph = fitted.model.pipeline()
    scores = [
        open_engine(graph, precision=name, on=Runtime("torch", "cpu"))({"image": crops})["score"]
        for name in ("f32", "bf16")
    ]
    assert np.abs(scores[1] / scores[0] - 1).max() < precision.LIMIT
    assert not np.array_equal(*scores)


# ---- batches and memory ---------------------------------------------------------------------------------


def test_calls_of_threads_are_run_together(fitted: Inspector, crops: NDArray[np.uint8]) -> None:
    graph = fitted.model.pipeline()
    assert batched(graph)
    inner = open_engine(graph, on=Runtime("torch", "cpu"))
    expected = [inner({"image": crop[None]})["score"][0] for crop in crops]
    sizes = []
    first = threading.Event()

    class Slow:
        inputs, usable = inner.inputs, True

        def __call__(self, inputs: Any) -> Any:
            sizes.append(len(inputs["image"]))
            first.wait(5)  # so that the others come meanwhile
            return inner(inputs)

    together = Batches(Slow())
    with ThreadPoolExecutor(len(crops)) as pool:
        found = [pool.submit(together, {"image": crop[None]}) for crop in crops]
        while len(together._waiting) < len(crops) - sizes[0] if sizes else True:
            pass
        first.set()
        scores = [call.result()["score"][0] for call in found]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert len(sizes) == 2, sizes


def test_a_graphics_processor_gets_images_of_threads_together(
    fitted_file: Path, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(mini_dataset.glob("test/*/*.png"))
    expected = list(Inspector.load(fitted_file, engine="torch").inspect_many(images))
    monkeypatch.setattr(Runtime, "several_at_once", property(lambda _: True))
    inspector = Inspector.load(fitted_file, engine="torch")
    assert inspector.workers >= 32
    found = list(inspector.inspect_many(images))
    assert isinstance(inspector._ready.open(), Batches)
    np.testing.assert_allclose([one.score for one in found], [one.score for one in expected], rtol=1e-2)
    assert [one.verdict for one in found] == [one.verdict for one in expected]


def test_an_error_reaches_everyone_who_waits() -> None:
    class Broken:
        inputs, usable = frozenset({"x"}), True

        def __call__(self, inputs: Any) -> Any:
            raise RuntimeError("broken")

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(Batches(Broken()), {"x": np.zeros((1, 2))}) for _ in range(4)]
        for call in calls:
            with pytest.raises(RuntimeError, match="broken"):
                call.result()


def test_out_of_memory_halves_the_batch(
    fitted: Inspector,
    crops: NDArray[np.uint8],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = open_engine(fitted.model.pipeline(), on=Runtime("torch", "cpu"))
    assert isinstance(opened, TorchEngine)
    expected = opened({"image": crops})
    really = TorchEngine._run

    def run(self: TorchEngine, inputs: Any) -> Any:
        if len(inputs["image"]) > 4:
            raise torch.OutOfMemoryError("there are 4 at the most")
        return really(self, inputs)

    monkeypatch.setattr(TorchEngine, "_run", run)
    found = opened({"image": crops})
    assert opened.most == 4
    assert "out of memory; 8 images at a time" in caplog.text
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)

    monkeypatch.setattr(TorchEngine, "_run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(EngineError, match="out of memory with a single image"):
        opened({"image": crops})


# ---- the search of PyTorch ----------------------------------------------------------------------------


def test_a_search_of_many_entries_is_found_in_the_graph() -> None:
    from goodparts import Recipe
    from goodparts.model.trial import trial_pipeline

    graph = trial_pipeline(Recipe(image_size=64), entries=(900, 300, 300))
    found = rankings(graph.model.graph)
    assert [(item.block, item.count, item.integers is not None) for item in found] == [(16, 10, True)] * 3


@pytest.mark.parametrize("whole", [False, True])
def test_the_nearest_entries_are_those_of_brute_force(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from goodparts.engines import torch_search

    monkeypatch.setitem(torch_search._TILE, "cpu", 5000)  # several tiles
    rng = np.random.default_rng(3)
    block, count, rows = 16, 6, 37
    patches = torch.tensor(rng.integers(-127, 128, (rows, 24)), dtype=torch.int8)
    entries = torch.tensor(rng.integers(-127, 128, (24, 640)), dtype=torch.float32)
    offset = torch.tensor(rng.normal(size=640), dtype=torch.float32)
    ranks = offset - patches.float() @ entries * 0.01
    arguments = (patches, entries.bfloat16()) if whole else (patches.float() * 0.01, entries)
    best, values, within = best_of_blocks(
        *arguments, offset, block=block, count=count, scale=0.01 if whole else 0.0
    )
    expected, at = torch.topk(ranks, count, 1, largest=False)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(torch.gather(best, 1, within // block) * block + within % block, at)


# ---- without OpenVINO ---------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["openvino"] = None
from goodparts import Inspector, Recipe
recipe = Recipe(backbone={backbone!r}, image_size=96, layers=("layer2", "layer3"), sampling_ratio=0.2, banks="by_depth")
inspector = Inspector(recipe, engine={engine!r}).fit({data!r})
print(inspector.computed_by, inspector.model.calibration.threshold)
loaded = Inspector.load({model!r})
print(loaded.computed_by, loaded.inspect({image!r}).score)
"""


@pytest.mark.parametrize("other", OTHERS)
def test_everything_works_without_openvino(
    other: str, mini_backbone: Path, mini_dataset: Path, fitted: Inspector, fitted_file: Path
) -> None:
    image = mini_dataset / "test" / "stain" / "000.png"
    script = WITHOUT.format(
        backbone=str(mini_backbone),
        engine=other,
        data=str(mini_dataset),
        model=str(fitted_file),
        image=str(image),
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOODPARTS_")}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**environment, "GOODPARTS_DEVICE": "cpu"},
    )
    assert ran.returncode == 0, ran.stderr
    learnt, loaded = (line.split() for line in ran.stdout.splitlines())
    assert learnt[0] == other
    assert loaded[0] == "onnxruntime", "the first that is there"
    assert float(learnt[-1]) == pytest.approx(fitted.model.calibration.threshold, rel=1e-2)
    assert float(loaded[-1]) == pytest.approx(fitted.inspect(image).score, rel=1e-2)


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine.runtime, "installed", lambda name: name != "openvino")
    return


@pytest.mark.usefixtures("no_openvino")
def test_sizes_are_tried_out_without_openvino(mini_backbone: Path) -> None:
    import onnx

    from goodparts.engines.engine import layer_shapes, works_at_other_sizes

    model = onnx.load(mini_backbone)
    assert layer_shapes(model, (96, 64))[1] == (1, 16, 12, 8)
    assert works_at_other_sizes(model, "input", (0, 2, 3))
    flat = onnx.helper.make_node("Reshape", ["layer4", "fixed"], ["flat"])
    model.graph.node.append(flat)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 64, 49]), "fixed"))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, None))
    assert layer_shapes(model, (224, 224)) == [(1, 64, 49)]
    assert not works_at_other_sizes(model, "input", (2, 3))
