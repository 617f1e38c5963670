"""Where features are kept: what comes back, wherever they are, and what is left afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from goodparts.errors import OutputError
from goodparts.features import store as feature_store
from goodparts.features.store import FeatureStore, PatchFeatures, patch_features
from goodparts.recipe.recipe import Recipe

MEMORY, DISK = float("inf"), 0.0


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, which must be empty afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FileIO]:
    """The files that are opened."""
    files: list[FileIO] = []
    open_one = tempfile.TemporaryFile

    def opening(**options: Any) -> FileIO:
        files.append(open_one(**options))
        return files[-1]

    monkeypatch.setattr("tempfile.TemporaryFile", opening)
    return files


def vectors_of(n: int, patches: int, d: int, seed: int = 0, scale: float = 1) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal((n, patches, d))).astype(np.float32)


@pytest.mark.parametrize("room", [MEMORY, DISK])
@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_what_comes_back_is_within_half_a_step_whatever_the_scale(room: float, scale: float) -> None:
    vectors = vectors_of(3, 5, 7, scale=scale)
    vectors[1] *= 1000  # each image has steps of its own
    with closing(FeatureStore((3, 5, 7), room)) as store:
        for image in (2, 0, 1):
            store.put(image, vectors[image])
        for image in range(3):
            back = store.image(image)
            assert back.dtype == np.float32
            assert back.shape == (5, 7)
            step = np.abs(vectors[image]).max() / 32767
            assert 0 < np.abs(back - vectors[image]).max() <= 0.51 * step


@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 8, 64, 1 << 16]), st.data()
)
@settings(max_examples=60, deadline=None)
def test_rows_are_those_of_the_images_in_any_order_in_memory_and_on_disk(
    n: int, patches: int, d: int, read: int, data: st.DataObject
) -> None:
    vectors = vectors_of(n, patches, d)
    rows = np.array(
        data.draw(st.lists(st.integers(0, n * patches - 1), max_size=30, unique=True)), dtype=np.int64
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(FeatureStore((n, patches, d), MEMORY)) as memory,
        closing(FeatureStore((n, patches, d), DISK)) as disk,
    ):
        patch.setattr(feature_store, "_READ", read)
        for image in reversed(range(n)):
            memory.put(image, vectors[image])
            disk.put(image, vectors[image])
        whole = np.concatenate([memory.image(image) for image in range(n)])
        np.testing.assert_array_equal(memory.rows(rows), whole[rows])
        np.testing.assert_array_equal(disk.rows(rows), whole[rows])
        np.testing.assert_array_equal(np.concatenate([disk.image(image) for image in range(n)]), whole)


def test_zeros_stay_zeros_and_what_is_no_number_does_not_come_back_as_one() -> None:
    vectors = np.ones((4, 2, 3), dtype=np.float32)
    vectors[0] = 0
    vectors[1, 0, 1] = np.nan
    vectors[2, 1, 2] = -np.inf
    with closing(FeatureStore((4, 2, 3), MEMORY)) as store:
        for image in range(4):
            store.put(image, vectors[image])
        assert not store.image(0).any()
        assert np.isnan(store.image(1)).all()
        assert np.isnan(store.image(2)).all()
        np.testing.assert_array_equal(store.image(3), vectors[3])


def test_what_does_not_fit_is_in_a_file_while_it_is_needed(temporary: Path, opened: list[FileIO]) -> None:
    with closing(FeatureStore((2, 3, 4), 2 * 2 * 3 * 4)) as fits:
        assert fits.in_memory == 48
        assert not list(temporary.iterdir())
    with closing(FeatureStore((2, 3, 4), 47)) as store:
        assert store.in_memory == 0
        store.put(1, vectors_of(1, 3, 4)[0])
        (file,) = opened
        assert os.fstat(file.fileno()).st_size == 48
        if os.name == "posix":
            assert not list(temporary.iterdir())  # without a name: gone with the process, however that ends
    assert file.closed


def test_the_limit_is_for_features_and_projections_together(opened: list[FileIO]) -> None:
    def files(limit: float) -> int:
        opened.clear()
        recipe = Recipe(projection_dimensions=4, memory_limit=limit / 2**30)
        with patch_features((2, 3, 8), recipe) as features:
            features.put(0, vectors_of(1, 3, 8)[0])
            return len(opened)

    assert files(2 * 6 * 8 * 4) == 0  # features may take a quarter of the limit
    assert files(2 * 6 * 8 * 4 - 1) == 1
    assert files(2 * 6 * 4) == 1
    assert files(2 * 6 * 4 - 1) == 2


def test_features_that_are_not_projected_may_take_all_of_the_limit(opened: list[FileIO]) -> None:
    for limit, files in ((2 * 6 * 8, 0), (2 * 6 * 8 - 1, 1)):
        recipe = Recipe(projection_dimensions=0, memory_limit=limit / 2**30)
        with patch_features((2, 3, 8), recipe) as features:
            features.put(0, vectors_of(1, 3, 8)[0])
            assert len(opened) == files


@pytest.mark.parametrize(
    ("sampling", "dimensions", "q"), [("greedy", 2, 2), ("greedy", 0, 6), ("greedy", 5, 6), ("random", 2, 6)]
)
@pytest.mark.parametrize("limit", [0, 1])
def test_projections_are_those_of_the_features(sampling: str, dimensions: int, q: int, limit: float) -> None:
    recipe = Recipe(sampling=sampling, projection_dimensions=dimensions, memory_limit=limit)
    vectors = vectors_of(3, 4, 6)
    rows = np.array([11, 0, 5, 6])
    with patch_features((3, 4, 6), recipe) as features:
        for image in range(3):
            features.put(image, vectors[image])
        assert features.shape == (3, 4, 6)
        found = features.projected(rows)
        assert found.shape == (4, q)
        np.testing.assert_allclose(
            found, features.projection.of(vectors.reshape(12, 6)[rows]), atol=np.abs(vectors).max() / 1e3
        )


def test_a_full_disk_is_an_error_that_names_the_folder(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FileIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full(temporary / "full", "x+"))
    with (
        pytest.raises(OutputError, match=rf"{temporary.name}.*No space left on device.*free some space"),
        patch_features((1, 2, 3), Recipe(memory_limit=0)) as features,
    ):
        features.put(0, vectors_of(1, 2, 3)[0])
    (temporary / "full").unlink()


def test_a_file_that_was_cut_short_is_an_error() -> None:
    with patch_features((2, 2, 3), Recipe(memory_limit=0)) as features:
        features.put(0, vectors_of(1, 2, 3)[0])
        with pytest.raises(OutputError, match="ends too early"):
            features.image(1)


def test_an_interrupt_leaves_nothing() -> None:
    def interrupted(features: PatchFeatures) -> None:
        features.put(0, vectors_of(1, 2, 3)[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), patch_features((2, 2, 3), Recipe(memory_limit=0)) as features:
        interrupted(features)
