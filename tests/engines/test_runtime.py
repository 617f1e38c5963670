"""Which engine and device is used, and what is said where one is not there."""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import Run

from goodparts import Inspector
from goodparts.engines import runtime
from goodparts.engines.runtime import Runtime, current
from goodparts.errors import EngineError

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(runtime.DEVICE_VARIABLE, raising=False)
    monkeypatch.delenv(runtime.ENGINE_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        (None, None, "openvino on cpu"),
        ("auto", "auto", "openvino on cpu"),
        ("torch", None, "torch on cpu"),
        ("ONNXRuntime", "CPU", "onnxruntime on cpu"),
    ],
)
@pytest.mark.skipif(runtime._driver(), reason="there is an NVIDIA GPU here, which auto takes")
def test_what_is_asked_for_is_used(engine: str | None, device: str | None, expected: str) -> None:
    assert str(Runtime.of(engine, device)) == expected


@pytest.mark.parametrize(
    ("engine", "device", "message"),
    [
        (
            "tensorflow",
            None,
            "engine: expected one of auto, openvino, onnxruntime, torch, found 'tensorflow'",
        ),
        (None, "tpu", "device: expected one of auto, cpu, cuda, .* or cuda:N, found 'tpu'"),
        (None, "cpu:1", "found 'cpu:1'"),
        ("openvino", "cuda", "engine openvino does not compute on it; take engine torch or onnxruntime"),
        ("torch", "mps", "PyTorch .* has no MPS here"),
        ("onnxruntime", "tensorrt", "has no TensorrtExecutionProvider: pip install onnxruntime-gpu"),
        ("openvino", "npu", "OpenVINO .* offers CPU here, not NPU: install its driver"),
        (None, "gpu", "offers CPU here, not GPU.*; engine onnxruntime .* has no DmlExecutionProvider"),
    ],
)
def test_what_is_not_there_is_refused_in_words(engine: str | None, device: str | None, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Runtime.of(engine, device)


@pytest.mark.skipif(runtime._driver(), reason="there is an NVIDIA GPU here")
def test_cuda_is_never_replaced_by_another_device() -> None:
    with pytest.raises(
        EngineError,
        match=r"device cuda:0: PyTorch .* (without CUDA|sees no NVIDIA GPU).*; engine onnxruntime",
    ):
        Inspector(device="cuda")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_an_engine_that_is_not_installed(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(EngineError, match=rf"engine {engine} is not installed: pip install "):
        Runtime.of(engine)
    assert Runtime.of().engine != engine, "nobody asked for it"


def test_the_environment_says_it_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOODPARTS_ENGINE", "torch")
    monkeypatch.setenv("GOODPARTS_DEVICE", "cpu")
    assert current() == Runtime("torch", "cpu")
    assert Runtime.of("onnxruntime").engine == "onnxruntime"
    with Runtime("openvino", "cpu").chosen():
        assert current().engine == "openvino"
    monkeypatch.setenv("GOODPARTS_DEVICE", "nonsense")
    with pytest.raises(EngineError, match="found 'nonsense'"):
        Inspector()


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_results_say_what_computed_them(
    engine: str, fitted_file: Path, mini_dataset: Path, goodparts: Run
) -> None:
    inspector = Inspector.load(fitted_file, engine=engine, device="cpu")
    image = mini_dataset / "test" / "good" / "000.png"
    assert inspector.inspect(image).computed_by == f"{engine} on cpu in {inspector.precision}"

    ran = goodparts("inspect", fitted_file, image, "--engine", engine, "--json", "--exit-zero")
    assert ran.records[0]["computed_by"] == inspector.computed_by
    assert f"computed by {engine} on cpu in " in ran.err


def test_a_fit_says_what_computed_it(
    fitted_file: Path, mini_dataset: Path, tmp_path: Path, goodparts: Run
) -> None:
    ran = goodparts(
        "fit", mini_dataset, "--engine", "torch", "--image-size", 64, "--model", tmp_path / "part.goodparts"
    )
    assert ran.code == 0, ran.err
    assert "Engine   torch " in ran.out
    record = Inspector.load(tmp_path / "part.goodparts").model.fit_record
    assert record.computed_by == "torch on cpu"
    assert record.versions["torch"]


def test_an_unknown_device_on_the_command_line(fitted_file: Path, goodparts: Run) -> None:
    ran = goodparts("inspect", fitted_file, "x.png", "--device", "cuda:x")
    assert ran.code == 2
    assert "device: expected one of auto" in ran.err


def test_an_inspector_takes_its_engine_along(fitted_file: Path) -> None:
    import pickle

    inspector = Inspector.load(fitted_file, engine="onnxruntime")
    image = np.zeros((96, 96, 3), np.uint8)
    copied = pickle.loads(pickle.dumps(inspector))
    assert copied.inspect(image).computed_by == inspector.inspect(image).computed_by


def test_inspecting_by_openvino_imports_no_other_engine(fitted_file: Path, mini_dataset: Path) -> None:
    script = """
import sys
from goodparts import Inspector
inspector = Inspector.load(sys.argv[1], engine="openvino", device="cpu")
inspector.inspect(sys.argv[2])
print([name for name in ("torch", "onnxruntime") if name in sys.modules])
"""
    image = mini_dataset / "test" / "good" / "000.png"
    ran = subprocess.run(
        [sys.executable, "-c", script, fitted_file, image], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize("package", ["torch", "onnxruntime"])
def test_each_engine_is_named_in_its_own_files(package: str) -> None:
    root = CHECKOUT / "goodparts"
    naming = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.Import) and any(name.name.split(".")[0] == package for name in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == package
        )
    }
    assert all(name == "torch.py" or name.startswith(f"engines/{package}") for name in naming), naming


# ---- products of matrices ------------------------------------------------------------------------------

PRODUCTS = """
from goodparts.engines.runtime import Runtime
print(Runtime.of("openvino", "cpu").products().int8)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="AVX2 is of x86-64")
def test_a_processor_without_int8_dot_products_has_slow_ones() -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    ran = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what a processor has")
def test_a_processor_with_int8_dot_products_has_fast_ones() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has_them = bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
    assert Runtime.of("openvino", "cpu").products().int8 == has_them


@pytest.mark.parametrize("engine", runtime.ENGINES)
def test_products_are_exact_in_float32_on_a_processor(engine: str) -> None:
    found = Runtime.of(engine, "cpu")
    assert found.products("f32").exact
    assert found.products("bf16").exact == (engine == "onnxruntime")  # which computes in float32 all the same
