"""The plan: which products there are, from which images each learns and which are inspected, with which recipe.

It is a TOML file,

    recipe = "default"                     # a preset or a recipe file, for products that name no other

    [products.flange]
    good = "flange/train/good"             # a folder, a glob, an address; what `fleet fit` learns from
    images = "archive/flange/**/*.png"     # what `fleet inspect` inspects
    test = "flange"                        # a data set in the MVTec AD layout, for `fleet evaluate`
    recipe = "fast"
    model = "models/flange.goodparts"
    partitions = 4                         # of the good images, for a fit that is spread over workers

with paths from where the file lies, or the layout of folders itself: a folder for each product.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodparts.data.dataset import enumerate_names
from goodparts.data.folders import list_folders, list_images
from goodparts.errors import GoodpartsError, RecipeError, quoted
from goodparts.fleet.images import is_address
from goodparts.recipe.recipe import Recipe
from goodparts.recipe.toml import parse, read_text
from goodparts.report.picture_files import clean_name

KEYS = ("good", "images", "test", "recipe", "model", "partitions")
MOST_PARTITIONS = 10_000
SUFFIX = ".goodparts"


class PlanError(GoodpartsError):
    """A plan can't be read, or lacks what a command needs."""


@dataclass(frozen=True)
class Product:
    """A product of a plant.

    Attributes:
        name: of the product; a file name may hold it.
        good: where its good images lie; empty where the plan does not say.
        images: where the images to inspect lie; likewise.
        test: its labelled data set; likewise.
        recipe: a preset or a recipe file; empty: that of the command.
        model: its model file; empty: `NAME.goodparts` in the folder of models.
        partitions: into how many parts its good images are cut, to fit it by several workers; 0: as the command says.
    """

    name: str
    good: str = ""
    images: str = ""
    test: str = ""
    recipe: str = ""
    model: str = ""
    partitions: int = 0

    def model_in(self, models: Path) -> Path:
        """Its model file, in a folder of models unless the plan names another."""
        return Path(self.model) if self.model else models / f"{self.name}{SUFFIX}"


def read_products(place: str, key: str) -> list[Product]:
    """The products of a plan file, or of a folder with a folder for each.

    Args:
        place: a `.toml` file or a folder.
        key: what each has to have: "good", "images" or "test".

    Raises:
        PlanError: no such place, no product in it, or nothing that the key asks for.
    """
    path = Path(place)
    if path.suffix == ".toml":
        products = _read_plan(path)
        lacking = [product.name for product in products if not getattr(product, key)]
        if lacking:
            raise PlanError(
                f"{path}: {enumerate_names(lacking)} without `{key}`, which this command needs; add it"
            )
        return products
    if not path.is_dir():
        raise PlanError(
            f"{place}: no such folder; expected a folder with one for each product, or a plan (.toml)"
        )
    products = [_of_folder(folder, key) for folder in list_folders(path) if _holds(folder, key)]
    if not products:
        wanted = {
            "good": "good images, or train/good",
            "images": "images",
            "test": "test/good and test/<defect>",
        }
        raise PlanError(
            f"{place}: no products; expected a folder for each, with {wanted[key]} inside, or a plan (.toml)"
        )
    return products


def recipe_of(product: Product, default: Recipe) -> Recipe:
    """The recipe of a product; RecipeError names the product where it is none."""
    if not product.recipe:
        return default
    try:
        return Recipe.load(product.recipe)
    except RecipeError as error:
        raise RecipeError(f"product {product.name}: {error}", key=error.key) from None


def _read_plan(path: Path) -> list[Product]:
    try:
        values = parse(read_text(path, expected="a plan in TOML"))
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file; expected a plan in TOML") from None
    except RecipeError as error:
        raise PlanError(f"{path}: {error}") from None
    tables = values.pop("products", None)
    common: dict[str, Any] = {key: values.pop(key) for key in ("recipe", "partitions") if key in values}
    _require_known(path, "", values, ("products", "recipe", "partitions"))
    if not isinstance(tables, dict) or not tables:
        raise PlanError(f"{path}: no products; expected tables such as [products.flange]")
    return [_product(path, name, table, common) for name, table in tables.items()]


def _product(path: Path, name: str, table: Any, common: Mapping[str, Any]) -> Product:
    where = f"[products.{name}]: "
    if not isinstance(table, dict):
        raise PlanError(f"{path}: products.{name}: expected a table, found {quoted(table)}")
    if clean_name(name) != name or name.startswith("."):
        raise PlanError(f"{path}: {where}the name is to name files; leave out what can't be in a file's name")
    _require_known(path, where, table, KEYS)
    values: dict[str, Any] = {"recipe": "", **common, **table}
    for key, value in values.items():
        if key == "partitions":
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PARTITIONS:
                raise PlanError(
                    f"{path}: {where}partitions: expected a number from 1 to {MOST_PARTITIONS:,}, found {quoted(value)}"
                )
        elif not isinstance(value, str):
            raise PlanError(f"{path}: {where}{key}: expected text, found {quoted(value)}")
    for key in ("good", "images", "test", "model"):
        if values.get(key):
            values[key] = _from(path.parent, values[key])
    if values["recipe"].endswith(".toml"):
        values["recipe"] = _from(path.parent, values["recipe"])
    return Product(name, **values)


def _require_known(path: Path, where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PlanError(f"{path}: {where}unknown key {quoted(key)}; there are {', '.join(known)}{hint}")


def _from(folder: Path, place: str) -> str:
    return place if is_address(place) else str(folder / place)


def _holds(folder: Path, key: str) -> bool:
    if key == "images":  # there may be millions, and whoever lists them sees whether there are any
        return True
    if key == "test":
        return (folder / "test").is_dir()
    return (folder / "train").is_dir() or (folder / "good").is_dir() or bool(list_images(folder))


def _of_folder(folder: Path, key: str) -> Product:
    place = folder
    if key == "good" and not (folder / "train").is_dir() and (folder / "good").is_dir():
        place = folder / "good"
    found: dict[str, Any] = {key: str(place)}
    return Product(folder.name, **found)
