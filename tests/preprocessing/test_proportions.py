"""The working size in the proportions of the good images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodparts import Inspector, Recipe
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.errors import ImageError
from goodparts.preprocessing.proportions import in_proportion, size_for


@pytest.mark.parametrize(
    ("side", "image", "expected"),
    [
        (320, (700, 700), (320, 320)),
        (320, (630, 600), (320, 320)),  # all but square
        (320, (480, 640), (288, 384)),
        (320, (1080, 1920), (256, 448)),
        (320, (640, 320), (448, 224)),
        (320, (500, 1250), (192, 480)),
        (256, (640, 320), (384, 192)),
        (64, (640, 320), (64, 64)),  # too small for cells of 32 px
    ],
)
def test_as_many_pixels_in_the_images_proportion(
    side: int, image: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert size_for(side, [image]) == expected
    height, width = expected
    assert 0.8 * side * side <= height * width <= 1.125 * side * side


def test_images_of_many_sizes_have_the_median() -> None:
    sizes = [(100, 100), (100, 200), (100, 210), (50, 100), (400, 30)]
    assert size_for(320, sizes) == size_for(320, [(100, 200)])


def images_of(folder: Path, size: tuple[int, int], count: int = 6) -> GoodImages:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return GoodImages.of(paths, read=read_image, workers=1)


def test_files_and_arrays_alike(tmp_path: Path) -> None:
    files = images_of(tmp_path, (60, 120))
    arrays = replace(files, images=[read_image(path) for path in files.images])
    for good in (files, arrays):
        found = in_proportion(Recipe(), good)
        assert found.image_size == (224, 448)
        assert found.aspect == "as_given"


@pytest.mark.parametrize(
    "keys",
    [
        {"aspect": "as_given"},
        {"image_size": "320x256"},
        {"tiling": "64x64+8"},
        {"framing": "letterbox"},
        {"framing": "crop", "image_size": 224},
    ],
)
def test_where_it_is_settled_otherwise_the_size_stays(keys: dict[str, object], tmp_path: Path) -> None:
    recipe = Recipe().replace(keys)
    assert in_proportion(recipe, images_of(tmp_path, (60, 120))).image_size == recipe.image_size


def test_an_image_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    good = images_of(tmp_path, (60, 120))
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"3\.png"):
        in_proportion(Recipe(), good)


def test_a_model_knows_its_size_and_is_the_one_fitted_at_that_size(
    mini_backbone: Path, tmp_path: Path
) -> None:
    good = images_of(tmp_path / ".", (60, 120))
    recipe = Recipe(backbone=str(mini_backbone), layers=("layer2", "layer3"), image_size=160, precision="f32")
    found = Inspector(recipe).fit(list(good.images))
    assert found.recipe.image_size == (128, 224)
    given = recipe.replace({"image_size": "224x128", "aspect": "as_given"})
    assert Inspector(given).fit(list(good.images)).model.identity == found.model.identity
    loaded = Inspector.load(found.save(tmp_path / "model"))
    image = read_image(tmp_path / "0.png")
    assert loaded.inspect(image).score == found.inspect(image).score
    assert loaded.inspect(image).anomaly_map.shape == (60, 120)
