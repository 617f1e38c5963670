"""Features in files: read again they are the same, to the last bit, in memory and beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exact_features import everything

from goodparts import Inspector, Recipe
from goodparts.data.good_images import GoodImages
from goodparts.errors import OutputError
from goodparts.features import part_files
from goodparts.features.extract import Extractor, GoodFeatures, extract


def of_each_depth(good: GoodFeatures) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rows = np.arange(3, 4000, 7) % (good.features.shape[0] * good.features.shape[1])
    return [
        (everything(of.features), of.features.projected(rows % of.patch_mask.size), of.patch_mask)
        for of in good.depths
    ]


@pytest.mark.parametrize("memory_limit", [1.0, 0.0002])
def test_what_was_saved_is_read(
    recipe: Recipe, mini_dataset: Path, tmp_path: Path, memory_limit: float
) -> None:
    changes = {"banks": "by_depth", "projection_dimensions": 8, "memory_limit": memory_limit}
    model = Inspector(recipe.replace(changes)).fit(mini_dataset).model
    inspector = Inspector(model.recipe)
    good = GoodImages.of(mini_dataset, read=inspector.read, workers=2)
    extractor = Extractor(model.backbone, model.recipe, [depth.whitening for depth in model.depths])
    with extract(good, extractor, model.preprocessor) as features:
        expected = of_each_depth(features)
        part_files.save(tmp_path / "part", features)
    assert part_files.is_saved(tmp_path / "part")
    with part_files.opened(tmp_path / "part", model.preprocessor) as found:
        for read, written in zip(of_each_depth(found), expected, strict=True):
            for one, other in zip(read, written, strict=True):
                np.testing.assert_array_equal(one, other)
        assert (found.frames, found.digests, found.statistics) == (
            features.frames,
            features.digests,
            features.statistics,
        )
        assert found.grid == features.grid
    facts = part_files.facts_of(tmp_path / "part", model.preprocessor)
    assert facts.patches.tolist() == [[of[2][0].sum() for of in expected]] * 16

    largest = max(tmp_path.glob("part/*.features"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-2])
    with (
        pytest.raises(OutputError, match=r"\.features: expected .* bytes of features, found"),
        part_files.opened(tmp_path / "part", model.preprocessor),
    ):
        pass
    largest.unlink()
    with (
        pytest.raises(OutputError, match="can't be read"),
        part_files.opened(tmp_path / "part", model.preprocessor),
    ):
        pass


def test_a_file_that_is_none(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    with pytest.raises(OutputError, match="can't be read"):
        part_files.read_tensors(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(OutputError, match="damaged"):
        part_files.read_tensors(path)
    part_files.write_tensors(path, {"number": np.array(3), "turned": np.arange(6).reshape(2, 3).T})
    found = part_files.read_tensors(path)
    assert found["number"].shape == ()
    np.testing.assert_array_equal(found["turned"], np.arange(6).reshape(2, 3).T)
