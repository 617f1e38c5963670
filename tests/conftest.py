"""Fixtures that more than one test file uses."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from plates import half_bright
from running import Ran, Run

from goodparts.engines.telemetry import silence_openvino

if TYPE_CHECKING:
    from goodparts import Inspector, Recipe

silence_openvino()  # before any test imports openvino itself
os.environ["GOODPARTS_CACHE"] = "off"  # neither from nor into the user's own; tests of it take a folder
os.environ.setdefault("GOODPARTS_DEVICE", "cpu")  # figures are those of a processor, whatever else is here

SIDE = 96  # pixels, of the images in `mini_dataset`


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights: `$GOODPARTS_SHARED`, or `shared` beside the checkout."""
    folder = Path(os.environ.get("GOODPARTS_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        reason = f"{folder}: the real images and weights are not there (set GOODPARTS_SHARED)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def mini_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set in the layout of MVTec AD: a textured disc, 96 x 96 RGB, and two kinds of defect.

    16 good images to train on; 6 good, 3 `stain` and 3 `scratch` to test; a mask for each bad one. Read only.
    """
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "mini"
    rng = np.random.default_rng(7)

    def save(pixels: NDArray[np.uint8], *parts: str) -> None:
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for index in range(16):
        save(_disc(rng), "train", "good", f"{index:03d}.png")
    for index in range(6):
        save(_disc(rng), "test", "good", f"{index:03d}.png")
    defects: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.bool_]]]
    defects = {"stain": _stain, "scratch": _scratch}
    for defect_class, damage in defects.items():
        for index in range(3):
            pixels = _disc(rng)
            mask = damage(pixels, rng)
            save(pixels, "test", defect_class, f"{index:03d}.png")
            save(mask.astype(np.uint8) * 255, "ground_truth", defect_class, f"{index:03d}_mask.png")
    return root


def _disc(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey disc with a ring texture on a dark ground; position, brightness and noise vary a little."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    center_y, center_x = SIDE / 2 + rng.uniform(-1, 1, 2)
    radius = np.hypot(y - center_y, x - center_x)
    rings = 140 + 20 * np.cos(radius * 0.7)
    edge = np.clip(36 - radius, 0, 1)
    grey = (25 + edge * (rings - 25)) * rng.uniform(0.95, 1.05)
    colour = grey[:, :, None] * np.array([1.0, 0.92, 0.8]) + rng.normal(0, 3, (SIDE, SIDE, 1))
    return np.clip(colour, 0, 255).astype(np.uint8)


def _stain(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Put a red stain on the disc, in place; return where it is."""
    y, x = np.mgrid[:SIDE, :SIDE]
    center_y, center_x = SIDE / 2 + rng.uniform(-14, 14, 2)
    mask = np.hypot(y - center_y, x - center_x) < rng.uniform(6, 9)
    pixels[mask] = (230, 30, 20)
    return np.asarray(mask)


def _scratch(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a bright straight scratch across the disc, in place; return where it is."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle) - rng.uniform(-8, 8)
    mask = (np.abs(across) < 2.5) & (np.abs(along) < 24)
    pixels[mask] = (250, 250, 255)
    return np.asarray(mask)


@pytest.fixture(scope="session")
def good_png(mini_dataset: Path) -> bytes:
    return (mini_dataset / "test" / "good" / "000.png").read_bytes()


@pytest.fixture(scope="session")
def bad_png(mini_dataset: Path) -> bytes:
    return (mini_dataset / "test" / "stain" / "000.png").read_bytes()


@pytest.fixture(scope="session")
def mini_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX backbone with random weights, the same at every run. Read only.

    Input "input" (n, 3, h, w) float32, already normalised; outputs layer1 (8 channels, stride 4), layer2 (16,
    stride 8), layer3 (32, stride 16) and layer4 (64, stride 32), each (n, channels, ceil(h / stride),
    ceil(w / stride)) float32 and not negative. He-scaled, so features keep their size from layer to layer.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(11)
    nodes = []
    weights = []

    def convolution(source: str, target: str, inputs: int, outputs: int, size: int, stride: int) -> None:
        scale = np.sqrt(2 / (inputs * size * size))
        kernel = rng.normal(0, scale, (outputs, inputs, size, size)).astype(np.float32)
        bias = rng.normal(0, 0.1, outputs).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{target}.weight"))
        weights.append(numpy_helper.from_array(bias, f"{target}.bias"))
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{target}.weight", f"{target}.bias"],
                [f"{target}.convolution"],
                name=f"{target}.convolution",
                kernel_shape=[size, size],
                strides=[stride, stride],
                pads=[size // 2] * 4,
            )
        )
        nodes.append(helper.make_node("Relu", [f"{target}.convolution"], [target], name=target))

    convolution("input", "layer1", 3, 8, 5, 4)
    convolution("layer1", "layer2", 8, 16, 3, 2)
    convolution("layer2", "layer3", 16, 32, 3, 2)
    convolution("layer3", "layer4", 32, 64, 3, 2)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"{name}_h", f"{name}_w"])
        for name, channels in (("layer1", 8), ("layer2", 16), ("layer3", 32), ("layer4", 64))
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "mini", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(
        model,
        {
            "architecture": "mini",
            "source": "random weights, for tests",
            "mean": "0.485,0.456,0.406",
            "std": "0.229,0.224,0.225",
            "color": "RGB",
            "range": "0..1",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("backbone") / "mini.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def recipe(mini_backbone: Path) -> Recipe:
    """A recipe that is quick."""
    from goodparts import Recipe

    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        banks="by_depth",
        image_size=96,
        sampling_ratio=0.2,
        quality_gate=False,
    )


@pytest.fixture(scope="session")
def fitted(recipe: Recipe, mini_dataset: Path) -> Inspector:
    """An inspector that has learnt from `mini_dataset`. Read only: to change it, load `fitted_file`."""
    from goodparts import Inspector

    return Inspector(recipe).fit(mini_dataset)


@pytest.fixture(scope="session")
def fitted_file(fitted: Inspector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model file. Read only."""
    return fitted.save(tmp_path_factory.mktemp("fitted") / "disc.goodparts")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for backbones of the test's own, where there is nothing yet, and no network."""
    monkeypatch.setenv("GOODPARTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "home" / "backbones"


@pytest.fixture
def many(mini_dataset: Path, tmp_path: Path) -> Path:
    """A data set that takes a while: 400 images to learn from, 240 to test on."""
    root = tmp_path / "many"
    for folder, count in (("train/good", 400), ("test/good", 240)):
        files = sorted((mini_dataset / folder).iterdir())
        (root / folder).mkdir(parents=True)
        for index in range(count):
            shutil.copy(files[index % len(files)], root / folder / f"{index:04d}.png")
    shutil.copytree(mini_dataset / "test" / "stain", root / "test" / "stain")
    return root


# ---- what the command line's tests share -----------------------------------------------------------


@pytest.fixture
def loggers_as_before() -> Iterator[None]:
    """What a command has logged, and where to, is over with the test."""
    loggers = [logging.getLogger(name) for name in ("goodparts", "uvicorn.error", "alembic")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture
def goodparts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    loggers_as_before: None,
) -> Run:
    """Run a command in this process, in a folder of its own."""
    from goodparts.cli import main
    from goodparts.cli.options import WIDTH

    monkeypatch.setenv("COLUMNS", str(WIDTH))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["goodparts", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        assert "Traceback" not in printed.err, printed.err
        return Ran(caught.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def recipe_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick recipe. Read only."""
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    return path


@pytest.fixture
def model(fitted_file: Path, tmp_path: Path) -> Path:
    """A model file to change."""
    return Path(shutil.copy(fitted_file, tmp_path / "disc.goodparts"))


@pytest.fixture
def good(mini_dataset: Path, tmp_path: Path) -> Path:
    """A folder of good images, to spoil."""
    return shutil.copytree(mini_dataset / "train" / "good", tmp_path / "good")


@pytest.fixture
def data(mini_dataset: Path, tmp_path: Path) -> Path:
    """A data set, to spoil."""
    return shutil.copytree(mini_dataset, tmp_path / "mini")


# ---- what the tests of tiles share ------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiled_recipe(mini_backbone: Path) -> Recipe:
    from goodparts import Recipe

    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        banks="by_depth",
        image_size=64,
        tiling="64x64+24",
        sampling_limit=300,
        precision="f32",
    )


@pytest.fixture(scope="session")
def tiled_by_place(tiled_recipe: Recipe) -> Inspector:
    """An inspector with a bank for each place, which has learnt from eight half-bright plates. Read only."""
    from goodparts import Inspector

    return Inspector(tiled_recipe.replace({"tile_bank": "position"})).fit(
        [half_bright(seed) for seed in range(8)]
    )
