"""The results folder: every file that a person or a program expects, at the size of what was given."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from goodparts import Evaluation, Inspector, Recipe, read_dataset
from goodparts.errors import DatasetError, OutputError
from goodparts.evaluation.evaluation import read_test_set
from goodparts.report import pictures
from goodparts.report.results_folder import check_place, place_of_model, write_results

PLOTS = ("roc.png", "precision_recall.png", "confusion_matrix.png", "score_histogram.png")
METRICS = (
    "image_auroc",
    "image_average_precision",
    "image_f1_max",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "aupro_30",
    "threshold",
    "true_good",
    "false_bad",
    "true_bad",
    "false_good",
)


@pytest.fixture(scope="module")
def data(mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with one test image that is not square."""
    root = shutil.copytree(mini_dataset, tmp_path_factory.mktemp("results-data") / "mini")
    for path in (root / "test" / "stain" / "000.png", root / "ground_truth" / "stain" / "000_mask.png"):
        with Image.open(path) as image:
            resized = image.resize((150, 90), Image.Resampling.NEAREST)
        resized.save(path)
    return root


@pytest.fixture(scope="module")
def cropped(mini_backbone: Path, data: Path) -> Inspector:
    recipe = Recipe(
        backbone=str(mini_backbone),
        layers=("layer2", "layer3"),
        image_size=64,
        framing="crop",
        resize_size=72,
        sampling_ratio=0.2,
        quality_gate=False,
    )
    return Inspector(recipe).fit(data)


@pytest.fixture(scope="module")
def results(
    cropped: Inspector, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluation]:
    """A results folder and the evaluation it shows. Read only."""
    out = tmp_path_factory.mktemp("results") / "out"
    cropped.save(out / "mini.goodparts")
    return out, write_results(cropped, read_dataset(data), out)


def names_of(data: Path) -> list[str]:
    """`<class>/<stem>` of every test image."""
    return [f"{path.parent.name}/{path.stem}" for path in sorted(data.glob("test/*/*.png"))]


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- tables --------------------------------------------------------------------------------------


def test_metrics_are_flat_json_but_for_the_trade_offs(results: tuple[Path, Evaluation]) -> None:
    out, evaluation = results
    values = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert set(METRICS) <= set(values)
    assert values.pop("trade_offs") == [row.to_dict() for row in evaluation.trade_offs]
    assert not any(isinstance(value, dict | list) for value in values.values())
    for name in METRICS:
        assert values[name] == evaluation.metrics[name], name
    assert values["true_good"] + values["false_bad"] == values["true_bad"] + values["false_good"] == 6


def test_scores_are_all_there(results: tuple[Path, Evaluation], data: Path) -> None:
    out, evaluation = results
    rows = rows_of(out)
    assert {"image", "defect_class", "label", "score", "verdict"} <= set(rows[0])
    for row, image, sample in zip(rows, evaluation.images, read_dataset(data).test, strict=True):
        assert data / row["image"] == sample.path
        assert row["defect_class"] == sample.defect_class
        assert row["label"] == ("bad" if sample.label else "good")
        assert float(row["score"]) == image.score
        assert row["verdict"] == image.verdict


def test_metrics_follow_from_the_scores(results: tuple[Path, Evaluation]) -> None:
    out, _ = results
    rows, values = rows_of(out), json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    labels = np.array([row["label"] == "bad" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    assert values["image_auroc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert values["image_average_precision"] == pytest.approx(
        reference.average_precision_score(labels, scores)
    )
    verdicts = np.array([row["verdict"] == "BAD" for row in rows])
    np.testing.assert_array_equal(verdicts, scores > values["threshold"])
    matrix = reference.confusion_matrix(labels, verdicts).ravel().tolist()
    assert [values[name] for name in ("true_good", "false_bad", "false_good", "true_bad")] == matrix


def test_the_recipe_is_there_to_be_used_again(results: tuple[Path, Evaluation], cropped: Inspector) -> None:
    assert Recipe.load(results[0] / "recipe.toml") == cropped.recipe


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_pictures(results: tuple[Path, Evaluation], name: str) -> None:
    with Image.open(results[0] / name) as plot:
        plot.load()
        assert min(plot.size) >= 300
        assert len(set(plot.convert("L").resize((64, 64)).tobytes())) > 3, "not a blank page"


@pytest.mark.parametrize(("folder", "suffix"), [("panels", ".png"), ("maps", ".tiff"), ("masks", ".png")])
def test_pictures_of_every_test_image(
    results: tuple[Path, Evaluation], data: Path, folder: str, suffix: str
) -> None:
    assert below(results[0] / folder) == [f"{name}{suffix}" for name in names_of(data)]


def test_maps_and_masks_line_up_with_the_image(
    results: tuple[Path, Evaluation], data: Path, cropped: Inspector
) -> None:
    out, _ = results
    unseen = 0
    for name in names_of(data):
        inspection = cropped.inspect(data / "test" / f"{name}.png")
        with (
            Image.open(data / "test" / f"{name}.png") as image,
            Image.open(out / "maps" / f"{name}.tiff") as anomaly_map,
            Image.open(out / "masks" / f"{name}.png") as mask,
        ):
            assert anomaly_map.size == mask.size == image.size
            assert anomaly_map.mode == "F"
            values, marked = np.array(anomaly_map), np.array(mask)
        np.testing.assert_allclose(values, inspection.anomaly_map, rtol=1e-3)  # NaN where NaN is
        assert values.dtype == np.float32
        unseen += int(np.isnan(values).sum())
        assert set(np.unique(marked).tolist()) <= {0, 1, 255}
        np.testing.assert_array_equal(marked > 0, inspection.mask)
    assert unseen > 0, "a crop leaves something out"


def test_panels_are_pictures_of_some_size(results: tuple[Path, Evaluation], data: Path) -> None:
    for name in names_of(data):
        with Image.open(results[0] / "panels" / f"{name}.png") as panel:
            panel.load()
            assert panel.width > panel.height >= 100, name


# ---- the page ------------------------------------------------------------------------------------


class Loads(HTMLParser):
    """What a browser would load for a page by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = re.findall(r"url\(\s*['\"]?([^'\")]+)", page)
        self.found += re.findall(r"@import\s+['\"]([^'\"]+)", page)
        self.pictures = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "img"
        for name, value in attrs:
            if value and (name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href")):
                self.found.append(value)


def test_the_report_needs_nothing_else(results: tuple[Path, Evaluation], data: Path) -> None:
    path = results[0] / "report.html"
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= 30_000_000
    loads = Loads(page)
    assert loads.pictures >= len(PLOTS) + len(names_of(data))
    assert [load[:60] for load in loads.found if not load.startswith(("data:", "#"))] == []
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts|WebSocket)\b", page)


def test_the_report_names_what_it_shows(
    results: tuple[Path, Evaluation], data: Path, cropped: Inspector
) -> None:
    page = (results[0] / "report.html").read_text(encoding="utf-8")
    for name in names_of(data):
        assert f"{name}.png" in page
    assert cropped.model.identity[:12] in page
    assert "not looked at" in page


# ---- the zip -------------------------------------------------------------------------------------


def test_the_zip_holds_what_is_handed_on(results: tuple[Path, Evaluation], data: Path) -> None:
    out, _ = results
    with zipfile.ZipFile(out / "results.zip") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        for name in names:
            assert archive.read(name) == (out / name).read_bytes(), name
    pictures = [f"{folder}/{name}.png" for folder in ("panels", "masks") for name in names_of(data)]
    tables = ["metrics.json", "scores.csv", "recipe.toml", "report.html", *PLOTS]
    assert sorted(names) == sorted([*tables, *pictures])


def test_zip_all_adds_maps_and_model(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    cropped.save(tmp_path / "mini.goodparts")
    write_results(cropped, read_dataset(data), tmp_path, zip_all=True)
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        names = set(archive.namelist())
    assert "mini.goodparts" in names
    assert {f"maps/{name}.tiff" for name in names_of(data)} <= names


# ---- a second time -------------------------------------------------------------------------------


def test_nothing_but_results_is_there(results: tuple[Path, Evaluation], data: Path) -> None:
    pictures = [
        f"{folder}/{name}{suffix}"
        for folder, suffix in (("panels", ".png"), ("maps", ".tiff"), ("masks", ".png"))
        for name in names_of(data)
    ]
    rest = [name for name in below(results[0]) if name not in pictures]
    assert not [name for name in rest if name.endswith(".part") or "/" in name], rest


def test_a_second_run_removes_old_pictures_and_nothing_else(
    results: tuple[Path, Evaluation], cropped: Inspector, data: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(results[0], tmp_path / "out")
    kept = {
        "notes.txt": b"mine",
        "panels/readme.txt": b"mine",
        "panels/stain/notes.txt": b"mine",
        "mine/picture.png": b"mine",
        "old.goodparts": b"mine",
    }
    for name, content in kept.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "test" / "scratch")
    (fewer / "test" / "stain" / "002.png").unlink()
    write_results(cropped, read_dataset(fewer), out)
    for name, content in kept.items():
        assert (out / name).read_bytes() == content
    for folder, suffix in (("panels", ".png"), ("maps", ".tiff"), ("masks", ".png")):
        found = [name for name in below(out / folder) if name.endswith(suffix)]
        assert found == [f"{name}{suffix}" for name in names_of(fewer)]
        assert not (out / folder / "scratch").exists()
    assert len(rows_of(out)) == len(names_of(fewer))
    with zipfile.ZipFile(out / "results.zip") as archive:
        assert not [name for name in archive.namelist() if "scratch" in name]


def test_the_same_run_gives_the_same_tables(
    results: tuple[Path, Evaluation], cropped: Inspector, data: Path, tmp_path: Path
) -> None:
    write_results(cropped, read_dataset(data), tmp_path)
    for name in ("metrics.json", "scores.csv", "recipe.toml", *PLOTS):
        assert (tmp_path / name).read_bytes() == (results[0] / name).read_bytes(), name


def test_pictures_of_an_interrupted_run_do_not_stay(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "evaluation" and done == total:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_results(cropped, read_dataset(data), out, progress=interrupt)
    assert not (out / "metrics.json").exists()
    assert not list(out.rglob("*.part"))
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "test" / "scratch")
    write_results(cropped, read_dataset(fewer), out)
    assert below(out / "panels") == [f"{name}.png" for name in names_of(fewer)]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in below(folder)}


@pytest.mark.parametrize("name", ["recipe.toml", "report.html", "results.json", "masks/stain/000.png"])
def test_what_no_run_of_ours_wrote_is_in_the_way(
    cropped: Inspector, data: Path, tmp_path: Path, name: str
) -> None:
    for mine in (name, "recipe.toml", "panels/mine/000.png", "panels/stain/000.jpg"):
        (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mine).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="is there already, and no earlier run wrote it"):
        check_place(tmp_path, read_dataset(data))
    with pytest.raises(OutputError, match="choose another folder"):
        write_results(cropped, read_dataset(data), tmp_path)
    assert contents(tmp_path) == before


def test_only_what_is_listed_goes(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    """Pictures of one's own stay, and so does what a list that somebody has changed names elsewhere."""
    out = tmp_path / "out"
    write_results(cropped, read_dataset(data), out)
    mine = ["panels/mine/000.png", "panels/stain/of mine.png", "masks/scratch/000.tiff", "notes.txt"]
    outside = ["../victim.png", "panels/../../victim.png", "notes.txt", "/victim.png", "panels", 3, None]
    for name in (*mine, "../victim.png"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    listed = json.loads((out / "results.json").read_text())
    (out / "results.json").write_text(json.dumps({**listed, "files": [*listed["files"], *outside]}))
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "test" / "scratch")
    write_results(cropped, read_dataset(fewer), out)
    for name in (*mine, "../victim.png"):
        assert (out / name).read_text() == "mine"
    assert not (out / "panels" / "scratch").exists()
    assert sorted(json.loads((out / "results.json").read_text())["files"]) == [
        name for name in below(out) if name not in {*mine, "results.json"}
    ]


@pytest.mark.parametrize("when", ["evaluation", "report", "swap"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_does_not_end_leaves_earlier_results_as_they_were(
    cropped: Inspector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    error: type[BaseException],
) -> None:
    out = tmp_path / "out"
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "test" / "scratch")
    write_results(cropped, read_dataset(data), out, model_path=cropped.save(out / "mini.goodparts"))
    before = contents(out)
    saved = place_of_model(out / "mini.goodparts", out)
    assert saved == out / "mini.new.goodparts"
    saved.write_text("another model")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == when and done == total // 2:
            raise error

    if when == "swap":
        move, moved = Path.replace, []

        def replace(source: Path, target: Path) -> Path:
            moved.append(target)
            if len(moved) == 20 + len(
                before
            ):  # in the midst of the swap, after those that write the new ones
                raise error
            return move(source, target)

        monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OutputError if (when, error) == ("swap", OSError) else error):
        write_results(
            cropped,
            read_dataset(fewer),
            out,
            model_path=out / "mini.goodparts",
            saved=saved,
            progress=stop,
        )
    left = contents(out)
    del left["mini.new.goodparts"]  # saved once more by then, with what was measured
    assert left == before
    assert saved.exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_model_takes_its_place_with_its_results(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "mini.goodparts"
    assert place_of_model(target, tmp_path) == target, "there is nothing yet that it could be mistaken for"
    target.write_text("old")
    saved = cropped.save(place_of_model(target, tmp_path))
    write_results(cropped, read_dataset(data), tmp_path, model_path=target, saved=saved, zip_all=True)
    assert not saved.exists()
    assert Inspector.load(target).model.identity == cropped.model.identity
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert [name for name in archive.namelist() if "goodparts" in name] == ["mini.goodparts"]
        assert archive.read("mini.goodparts") == target.read_bytes()
    manifest = json.loads((tmp_path / "results.json").read_text())
    assert manifest["complete"]
    assert manifest["model"] == cropped.model.identity
    assert "mini.goodparts" not in manifest["files"]


def test_a_killed_swap_is_known_and_mended(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    """As a kill in the midst of it leaves a folder: a list that says so, of old and new files."""
    write_results(cropped, read_dataset(data), tmp_path)
    listed = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**listed, "complete": False}))
    for name in listed["files"][::2]:
        (tmp_path / name).unlink()
    write_results(cropped, read_dataset(data), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == listed
    assert below(tmp_path) == sorted([*listed["files"], "results.json"])


def test_pictures_that_can_not_be_written_do_not_stop_the_rest(
    cropped: Inspector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = pictures.save_panel

    def fail(path: Path, panel: Image.Image) -> None:
        if path.match("stain/001.png"):
            raise OutputError("no")
        save(path, panel)

    monkeypatch.setattr(pictures, "save_panel", fail)
    unwritten: list[OutputError] = []
    write_results(cropped, read_dataset(data), tmp_path, unwritten=unwritten.append)
    assert list(map(str, unwritten)) == ["no"]
    assert below(tmp_path / "panels") == [f"{n}.png" for n in names_of(data) if n != "stain/001"]
    assert "stain/001.png" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names there are bytes")
def test_names_of_any_bytes_and_of_the_greatest_length(
    cropped: Inspector, data: Path, tmp_path: Path
) -> None:
    odd = shutil.copytree(data, tmp_path / "odd")
    longest = "x" * 251
    for name in (b"caf\xe9.png", f"{longest}.png".encode()):
        shutil.copy(odd / "test/good/000.png", os.fsencode(odd / "test" / "good") + b"/" + name)
    (odd / "test" / "stain").rename(odd / "test" / os.fsdecode(b"fl\xe4che"))
    out = tmp_path / "out"
    write_results(cropped, read_dataset(odd), out, zip_all=True)
    names = {f"panels/{name}.png" for name in ("good/caf%E9", f"good/{longest[:250]}", "fl%E4che/000")}
    assert names <= set(below(out))
    with zipfile.ZipFile(out / "results.zip") as archive:
        assert names <= set(archive.namelist())
    assert len(rows_of(out)) == len(read_dataset(odd).test)
    assert 'href="panels/good/caf%25E9.png"' in (out / "report.html").read_text(encoding="utf-8")


def test_what_can_not_be_measured_leaves_earlier_results_whole(
    results: tuple[Path, Evaluation], cropped: Inspector, data: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(results[0], tmp_path / "out")
    before = below(out)
    wrong = shutil.copytree(data, tmp_path / "wrong")
    Image.new("L", (10, 10), 255).save(wrong / "ground_truth" / "scratch" / "002_mask.png")
    with pytest.raises(DatasetError, match=r"002_mask\.png: the mask is 10x10 pixels"):
        write_results(cropped, read_test_set(wrong), out)
    assert below(out) == before


def test_a_file_in_the_way_is_named(cropped: Inspector, data: Path, tmp_path: Path) -> None:
    (tmp_path / "panels").write_text("in the way")
    with pytest.raises(OutputError, match=r"panels.*can't be written"):
        write_results(cropped, read_dataset(data), tmp_path)


def test_the_oracle_is_labelled_wherever_it_is_printed(
    mini_backbone: Path, data: Path, tmp_path: Path
) -> None:
    recipe = Recipe(
        backbone=str(mini_backbone),
        layers=("layer2",),
        image_size=64,
        threshold_rule="f1",
        quality_gate=False,
    )
    write_results(Inspector(recipe).fit(data), read_dataset(data), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["threshold_rule"] == "f1"
    assert "oracle" in (tmp_path / "report.html").read_text(encoding="utf-8")
