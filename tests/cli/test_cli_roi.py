"""The command line with regions of interest."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Run

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def zones_file(tmp_path: Path) -> Path:
    """Two zones for the images of 96 x 96."""
    zones = [
        {"name": "left", "polygons": [[[8, 8], [48, 8], [48, 88], [8, 88]]]},
        {"name": "right side", "polygons": [[[48, 8], [88, 8], [88, 88], [48, 88]]]},
    ]
    path = tmp_path / "zones.json"
    path.write_text(json.dumps({"size": [96, 96], "zones": zones}), encoding="utf-8")
    return path


def test_roi_draws_and_says_what_it_comes_to(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path
) -> None:
    image = mini_dataset / "test" / "good" / "000.png"
    ran = goodparts("roi", zones_file, image, "--recipe", recipe_file)
    assert ran.code == 0
    assert re.search(r"left +34\.7 % of the picture, +50 patches, columns 8 to 48, rows 8 to 88", ran.out)
    assert "Looked at: 69.4 % of the picture, 100 of 144 patches" in ran.out
    with Image.open(zones_file.with_name("zones_roi.png")) as picture:
        assert picture.width >= 480
    (record,) = goodparts(
        "roi", zones_file, image, "--recipe", recipe_file, "--json", "--out", "a.png"
    ).records
    assert [zone["patches"] for zone in record["zones"]] == [50, 50]
    assert Path("a.png").is_file()


def test_the_picture_never_takes_the_place_of_what_is_given(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    image = Path(shutil.copy(mini_dataset / "test" / "good" / "000.png", tmp_path / "zones_roi.png"))
    before = image.read_bytes()
    for out in ([], ["--out", image], ["--out", zones_file]):
        ran = goodparts("roi", zones_file, image, "--recipe", recipe_file, *out)
        assert ran.code == 2
        assert "is what was given" in ran.err
    assert image.read_bytes() == before


def test_zones_from_fit_to_inspect(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    model = tmp_path / "part.goodparts"
    ran = goodparts("fit", mini_dataset, "--recipe", recipe_file, "--roi", zones_file, "--model", model)
    assert ran.code == 0
    assert "2 zones: left, right side" in ran.out
    zones_file.unlink()
    pixels = np.array(Image.open(mini_dataset / "test" / "good" / "000.png").convert("RGB"))
    pixels[40:56, 8:16] = (230, 30, 20)
    Image.fromarray(pixels).save(tmp_path / "bad.png")
    ran = goodparts("inspect", model, tmp_path / "bad.png", "--json")
    assert ran.code == 1
    (record,) = ran.records
    assert [(zone["name"], zone["bad"]) for zone in record["zones"]] == [
        ("left", True),
        ("right side", False),
    ]
    assert record["threshold"] == 1
    assert "in left" in goodparts("inspect", model, tmp_path / "bad.png").out
    card = goodparts("card", model).out
    assert "| left | " in card
    assert "30.6 % of every picture, which lies outside the region of interest" in card
    assert goodparts("roi", model, tmp_path / "bad.png", "--out", tmp_path / "again.png").code == 0
    ran = goodparts("run", mini_dataset, "--recipe", recipe_file, "--roi", zones_file)
    assert ran.code == 2
    assert ran.err.startswith(f"error: roi: {zones_file}: no such file")


def test_zones_in_the_results(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    assert (
        goodparts("run", mini_dataset, "--recipe", recipe_file, "--roi", zones_file, "--out", out).code == 0
    )
    rows = list(csv.DictReader((out / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert {"zone left", "zone right side"} <= set(rows[0])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["not_looked_share"] == pytest.approx(1 - 80 * 80 / 96**2)
    assert metrics["threshold"] == 1
    assert metrics["bad_not_looked_at"] == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert re.search(r"30\.6.% of the pixels were not looked at", page)
    bad = [row for row in rows if row["verdict"] == "BAD"]
    assert bad
    assert len(re.findall(r"<span>in (?:left|right side) \d", page)) == len(bad)
    assert "<td>right side</td>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.json", "IMAGE"), "roi: nowhere.json: no such file"),
        (("ZONES", "WIDE"), "is 96x60 pixels, but the region of interest is drawn on 96x96"),
        (
            ("ZONES", "IMAGE", "--image-score", "reweighted"),
            "image_score: reweighted gives one score an image",
        ),
        (("ZONES", "IMAGE", "--threshold-rule", "f1"), "threshold_rule: f1 chooses one threshold"),
        (
            ("ZONES", "IMAGE", "--pose", "rigid"),
            "roi: zones are drawn on the image and pose = rigid moves it",
        ),
        (("ZONES", "IMAGE", "--roi", "m.png"), "zones.json is the region of interest that is checked"),
    ],
)
def test_roi_mistakes(
    goodparts: Run,
    recipe_file: Path,
    zones_file: Path,
    mini_dataset: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    Image.new("RGB", (96, 60)).save(tmp_path / "wide.png")
    places = {
        "IMAGE": mini_dataset / "test" / "good" / "000.png",
        "WIDE": tmp_path / "wide.png",
        "ZONES": zones_file,
    }
    ran = goodparts("roi", *(places.get(word, word) for word in arguments), "--recipe", recipe_file)
    assert ran.code == 2
    assert message in ran.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "this model has no region of interest"),
        (("--image-size", "128"), "--image-size: .*disc.goodparts is a model, which has a recipe of its own"),
        (("--no-robust",), "--robust: .* is a model"),
        (("--recipe", "fast"), "--recipe: .* is a model"),
    ],
)
def test_roi_of_a_model_takes_no_recipe(
    goodparts: Run, fitted_file: Path, mini_dataset: Path, flags: tuple[str, ...], message: str
) -> None:
    ran = goodparts("roi", fitted_file, mini_dataset / "test" / "good" / "000.png", *flags)
    assert ran.code == 2
    assert re.search(message, ran.err)


def test_roi_takes_a_recipe_file_that_names_another(
    goodparts: Run, recipe_file: Path, zones_file: Path, mini_dataset: Path
) -> None:
    recipe = recipe_file.read_text(encoding="utf-8").replace('roi = ""', 'roi = "other.json"')
    Path("mine.toml").write_text(recipe, encoding="utf-8")
    ran = goodparts("roi", zones_file, mini_dataset / "test" / "good" / "000.png", "--recipe", "mine.toml")
    assert ran.code == 0, ran.err
