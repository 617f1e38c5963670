"""The examples for other languages: compiled where a compiler is there, they give the scores of `inspect`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from goodparts import Inspector

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def library() -> Path | None:
    """ONNX Runtime's library, which its Python package holds."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    return next(iter(sorted(folder.glob("libonnxruntime.so.*"))), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, compiled with every warning an error."""
    compiler, found = shutil.which("g++"), library()
    if compiler is None or found is None:
        pytest.skip("g++ or ONNX Runtime's library is not here")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(found)
    built = folder / "inspect_onnx"
    subprocess.run(
        [
            *(
                compiler,
                "-std=c++17",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Wconversion",
                "-Wno-sign-conversion",
                "-Werror",
            ),
            *(EXAMPLES / "inspect_onnx.cpp", "-idirafter", ROOT / "tests" / "onnxruntime_abi"),
            *(folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}", "-o", built),
        ],
        check=True,
    )
    return built


def vector() -> np.ndarray:
    """The image of the test vector in docs/export.md."""
    y, x, c = np.mgrid[:64, :96, :3]
    return ((x * (3 + c) + y * 5 + (x * y % 31) * 4) % 256).astype(np.uint8)


def test_the_program_gives_the_scores_of_inspect(
    program: Path, fitted: Inspector, mini_dataset: Path, tmp_path: Path
) -> None:
    written = fitted.export(tmp_path / "part.onnx")
    images = {"vector": vector()} | {
        name: np.asarray(Image.open(mini_dataset / "test" / name / "000.png")) for name in ("good", "stain")
    }
    paths = [tmp_path / f"{name}.ppm" for name in images]
    for path, pixels in zip(paths, images.values(), strict=True):
        Image.fromarray(pixels).save(path)
    ran = subprocess.run([program, written, *paths], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    for line, pixels in zip(ran.stdout.splitlines(), images.values(), strict=True):
        verdict, score, multiple, _ = line.split()
        expected = fitted.inspect(pixels)
        assert verdict == expected.verdict
        assert float(score) == pytest.approx(expected.score, rel=1e-2 if fitted.precision == "bf16" else 1e-3)
        assert float(multiple) == pytest.approx(float(score) / expected.threshold, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage"),
        (["missing.onnx", "x.ppm"], "missing.onnx: can't be read"),
        (["part.onnx", "x.ppm"], "x.ppm: no binary PPM"),
    ],
)
def test_the_program_says_what_is_wrong(
    arguments: list[str], message: str, program: Path, fitted: Inspector, tmp_path: Path
) -> None:
    fitted.export(tmp_path / "part.onnx")
    (tmp_path / "x.ppm").write_text("P3 1 1 255")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in ran.stderr


def test_both_examples_resize_alike() -> None:
    """The C# one is not compiled here; its arithmetic is that of the C++ one, which is."""
    formulas = [
        r"0\.5 \+ t \* \(1 / sum\) \* \(1 << 22\)",
        r"total >> 22, 0, 255",
        r"1 - .*?[aA]bs\(\(j - centre \+ 0\.5\) / reach\)",
        r"centre \+ reach \+ 0\.5\), length\)",
    ]
    for name in ("inspect_onnx.cpp", "InspectOnnx.cs"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert [formula for formula in formulas if not re.search(formula, text)] == [], name
