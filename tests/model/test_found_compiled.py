"""A model from a file is compiled once on a machine; the next process finds it so, and says the same to the bit."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodparts import Inspection, Inspector, Recipe
from goodparts.engines import kept
from goodparts.engines.openvino import OpenVinoEngine
from goodparts.errors import ModelError
from goodparts.model.model import Model

RECIPES: dict[str, dict[str, Any]] = {
    "depths": {},
    "joined": {"banks": "joined", "image_score": "top_mean"},
    "letterbox": {
        "framing": "letterbox",
        "image_size": "80x64",
        "banks": "joined",
        "image_score": "reweighted",
    },
    "tiles": {"tiling": "64x64+32", "image_size": 64},
    "window": {"position_window": 20.0},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(mini_dataset: Path) -> list[Path]:
    return sorted((mini_dataset / "test").rglob("*.png"))


@pytest.fixture
def no_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called: from now on nothing is compiled."""

    def refuse(self: Model) -> Any:
        raise AssertionError("a graph was made, though it was to be found compiled")

    return lambda: monkeypatch.setattr(Model, "pipeline", refuse)


def facts(found: Inspection) -> tuple[Any, ...]:
    return (
        *(found.score, found.verdict, found.p_value, found.regions),
        *(found.distance_grid.tobytes(), found.anomaly_map.tobytes(), found.mask.tobytes()),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_to_the_bit(
    name: str,
    recipe: Recipe,
    mini_dataset: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pipeline: Callable[[], None],
) -> None:
    path = Inspector(recipe.replace(RECIPES[name])).fit(mini_dataset).save(tmp_path / "m.goodparts")
    expected = Inspector.load(path)
    alone = [facts(expected.inspect(image)) for image in images]
    together = [facts(found) for found in expected.inspect_many(images)]

    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    first = Inspector.load(path)  # compiles, and keeps
    assert [facts(first.inspect(image)) for image in images] == alone
    assert [facts(found) for found in first.inspect_many(images)] == together
    assert len(list((tmp_path / "cache").iterdir())) >= 1

    no_pipeline()
    second = Inspector.load(path)
    second.open_ahead()
    assert [facts(second.inspect(image)) for image in images] == alone
    assert [facts(found) for found in second.inspect_many(images)] == together


def test_what_was_learnt_in_this_process_is_not_kept(
    recipe: Recipe, mini_dataset: Path, images: list[Path], cache: Path
) -> None:
    Inspector(recipe).fit(mini_dataset).inspect(images[0])
    assert not cache.exists()


def test_another_decision_or_precision_has_a_name_of_its_own(
    fitted_file: Path, images: list[Path], cache: Path, tmp_path: Path
) -> None:
    inspector = Inspector.load(fitted_file)
    inspector.inspect(images[0])
    before = set(cache.iterdir())
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": 1.0})
    inspector.save(tmp_path / "other.goodparts")
    Inspector.load(tmp_path / "other.goodparts").inspect(images[0])
    list(Inspector.load(fitted_file).inspect_many(images[:2]))
    assert before < set(cache.iterdir())
    assert len(set(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x02\0\0\0{}", b"\x24\0\0\0" + b"{" * 200, b"\x02\0\0\0[]"]
)
def test_what_is_no_engine_is_compiled_anew(
    content: bytes, fitted_file: Path, images: list[Path], cache: Path, fitted: Inspector
) -> None:
    Inspector.load(fitted_file).inspect(images[0])
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    kept.write(path.name, content)  # with the sum that goes with it

    found = Inspector.load(fitted_file).inspect(images[0])
    assert facts(found) == facts(fitted.inspect(images[0]))
    assert path.stat().st_size == len(whole), "and what is right is kept in its place"


def test_what_is_too_large_or_cannot_be_written_out_is_not_kept(
    fitted_file: Path, images: list[Path], cache: Path, fitted: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = facts(fitted.inspect(images[0]))
    with monkeypatch.context() as patched:
        patched.setattr(kept, "LARGEST", 100)
        assert facts(Inspector.load(fitted_file).inspect(images[0])) == expected
    assert not cache.exists()

    def refuse(self: OpenVinoEngine) -> bytes:
        raise RuntimeError("an operator that can't be written out")

    monkeypatch.setattr(OpenVinoEngine, "export", refuse)
    assert facts(Inspector.load(fitted_file).inspect(images[0])) == expected
    assert not cache.exists()


def test_it_is_not_kept_where_nobody_wants_it(fitted_file: Path, images: list[Path], cache: Path) -> None:
    Inspector.load(fitted_file, keep_compiled=False).inspect(images[0])
    assert not cache.exists()


def test_a_truncated_file_is_compiled_anew(
    fitted_file: Path, images: list[Path], cache: Path, fitted: Inspector
) -> None:
    Inspector.load(fitted_file).inspect(images[0])
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-1000])
    assert facts(Inspector.load(fitted_file).inspect(images[0])) == facts(fitted.inspect(images[0]))


def test_a_damaged_model_is_told_whatever_is_kept(
    fitted_file: Path, images: list[Path], cache: Path, tmp_path: Path
) -> None:
    Inspector.load(fitted_file).inspect(images[0])
    data = bytearray(fitted_file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.goodparts"
    damaged.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        Inspector.load(damaged)


def test_two_commands_print_the_same(fitted_file: Path, images: list[Path], cache: Path) -> None:
    command = [sys.executable, "-m", "goodparts", "inspect", str(fitted_file), str(images[-1]), "--exit-zero"]
    ran = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert len(list(cache.iterdir())) == 1
    assert ran[0].stdout == ran[1].stdout != ""
    assert ran[0].stderr == ran[1].stderr


def test_the_map_is_made_when_it_is_looked_at(
    fitted_file: Path, mini_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goodparts.preprocessing.preprocessor import Preprocessor

    inspector = Inspector.load(fitted_file)
    made: list[object] = []
    really = Preprocessor.to_image
    monkeypatch.setattr(
        Preprocessor, "to_image", lambda self, grid, frame: made.append(frame) or really(self, grid, frame)
    )
    good = next(
        found
        for found in inspector.inspect_many(sorted((mini_dataset / "train" / "good").iterdir()))
        if found.verdict == "GOOD"
    )
    made.clear()
    assert good.mask.shape == (96, 96)
    assert not good.mask.any()
    assert made == []
    values = good.anomaly_map
    assert good.anomaly_map is values
    assert len(made) == 1

    copy = pickle.loads(pickle.dumps(good))
    np.testing.assert_array_equal(copy.anomaly_map, values)
    assert len(made) == 1, "a pickle holds the map itself"
    assert len(pickle.dumps(good)) < values.nbytes + 20_000, "and nothing of the model"

    bad = inspector.inspect(mini_dataset / "test" / "stain" / "000.png")
    assert bad.verdict == "BAD"
    assert len(made) == 2, "regions need it"
    assert bad.anomaly_map.max() >= bad.regions[0].peak
    assert len(made) == 2
