"""Plans, and where images are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from goodparts import Recipe
from goodparts.errors import DatasetError, ImageError, RecipeError
from goodparts.fleet.images import OnceRead, content_of, list_image_files, read_bytes, stamp_of
from goodparts.fleet.plan import PlanError, Product, read_products, recipe_of


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_plan(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("image_size = 96\n")
    place = write(
        tmp_path,
        """recipe = "fast"
        partitions = 4
        [products.flange]
        good = "flange/good"
        images = "s3://archive/flange/*.png"
        [products."M8 nut"]
        good = "nut"
        recipe = "mine.toml"
        model = "models/nut-3.goodparts"
        partitions = 1
        """,
    )
    flange, nut = read_products(place, "good")
    assert flange == Product(
        "flange", str(tmp_path / "flange/good"), "s3://archive/flange/*.png", recipe="fast", partitions=4
    )
    assert nut.partitions == 1
    assert flange.model_in(Path("models")) == Path("models/flange.goodparts")
    assert nut.model_in(Path("models")) == tmp_path / "models/nut-3.goodparts"
    assert recipe_of(flange, Recipe()) == Recipe.preset("fast")
    assert recipe_of(nut, Recipe()).image_size == (96, 96)
    with pytest.raises(PlanError, match="M8 nut without `images`"):
        read_products(place, "images")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no products; expected tables such as"),
        ("product = 3", "unknown key 'product'.*did you mean products"),
        ("[products.a]\nimage = 'x'", r"\[products.a\]: unknown key 'image'.*did you mean images"),
        ("[products.a]\ngood = 3", "good: expected text, found 3"),
        ("products = 3", "no products"),
        ("[products]\na = 3", "products.a: expected a table"),
        ("[products.'../a']\ngood = 'x'", "the name is to name files"),
        ("[products.a", "not a TOML file"),
        (
            "[products.a]\ngood = 'x'\npartitions = 0",
            "partitions: expected a number from 1 to 10,000, found 0",
        ),
        ("partitions = '4'\n[products.a]\ngood = 'x'", "partitions: expected a number from 1 to"),
    ],
)
def test_plans_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PlanError, match=f"plan.toml: .*{words}"):
        read_products(write(tmp_path, text), "good")


def test_a_recipe_that_is_none_names_its_product() -> None:
    with pytest.raises(RecipeError, match=r"product flange: .*did you mean fast"):
        recipe_of(Product("flange", recipe="fats"), Recipe())


def test_folders_are_products(tmp_path: Path, mini_dataset: Path) -> None:
    shutil.copytree(mini_dataset, tmp_path / "plant" / "b")
    shutil.copytree(mini_dataset / "train" / "good", tmp_path / "plant" / "a" / "good")
    shutil.copytree(mini_dataset / "train" / "good", tmp_path / "plant" / "c")
    (tmp_path / "plant" / "notes").mkdir()
    plant = str(tmp_path / "plant")
    good = {product.name: Path(product.good).name for product in read_products(plant, "good")}
    assert good == {"a": "good", "b": "b", "c": "c"}
    assert [product.name for product in read_products(plant, "test")] == ["b"]
    assert [product.name for product in read_products(plant, "images")] == ["a", "b", "c", "notes"]
    with pytest.raises(PlanError, match="no products; expected a folder for each"):
        read_products(str(tmp_path / "plant" / "notes"), "good")
    with pytest.raises(PlanError, match="no such folder"):
        read_products(str(tmp_path / "plan"), "good")
    with pytest.raises(PlanError, match="no such file"):
        read_products(str(tmp_path / "plan.toml"), "good")


def test_images_of_folders_globs_and_addresses_are_the_same(mini_dataset: Path) -> None:
    folder = mini_dataset / "test"
    by_folder = list_image_files(str(folder))
    by_glob = list_image_files(str(folder / "*" / "*.png"))
    by_address = list_image_files(f"file://{folder}")
    address_glob = list_image_files(f"file://{folder}/*/*.png")
    assert len(by_folder) == 12
    assert by_folder == by_glob
    assert [(f.name, f.size) for f in by_address] == [(f.name, f.size) for f in by_folder]
    assert [(f.name, f.size) for f in address_glob] == [(f.name, f.size) for f in by_folder]
    assert read_bytes(by_address[0].where) == Path(by_folder[0].where).read_bytes()
    assert content_of(by_address) == content_of(by_folder)
    assert stamp_of(by_folder) == stamp_of(by_glob) != stamp_of(by_folder[1:])


def test_places_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        list_image_files(str(tmp_path / "none"))
    with pytest.raises(DatasetError, match="can't be listed"):
        list_image_files("nowhere-of-all://x")
    with pytest.raises(ImageError, match="no such file"):
        read_bytes(str(tmp_path / "none.png"))
    assert list_image_files(str(tmp_path)) == []
    assert list_image_files(str(tmp_path / "*.png")) == []


def test_bytes_are_hashed_as_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    file = OnceRead(str(tmp_path / "a"))
    assert (file.content, file.read(), file.read()) == ("", b"abc", b"abc")
    assert file.content.startswith("ba7816bf")
