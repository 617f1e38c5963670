"""A plant of two products, with a model for each, and workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from goodparts.scale.pool import WorkerPool


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Two processes that stay for a file of tests."""
    with WorkerPool(2) as opened:
        yield opened


@pytest.fixture
def models(fitted_file: Path, tmp_path: Path) -> Path:
    """A folder with a model for `disc` and one for `plate`, which is the same."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("disc", "plate"):
        shutil.copy(fitted_file, folder / f"{name}.goodparts")
    return folder


@pytest.fixture
def archive(mini_dataset: Path, tmp_path: Path) -> Path:
    """Images of both: 6 good and 6 bad discs, 6 good plates in a folder inside."""
    for kind in ("good", "stain", "scratch"):
        shutil.copytree(mini_dataset / "test" / kind, tmp_path / "archive" / "disc" / kind)
    shutil.copytree(mini_dataset / "test" / "good", tmp_path / "archive" / "plate" / "monday")
    return tmp_path / "archive"
