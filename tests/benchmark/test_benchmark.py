"""Benchmarks: measuring, keeping, going on, side by side, and the tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from interrupting import interrupted, processes_with_files_in
from PIL import Image

from goodparts.benchmark.benchmark import Benchmark, _measure_side_by_side, run_benchmark
from goodparts.benchmark.published import MVTEC_AD, published
from goodparts.benchmark.row import Row, Settings, Task, _measured_notes, memory_needed
from goodparts.benchmark.tables import COLUMNS, csv_text, markdown, means, record
from goodparts.cli import cli
from goodparts.data import layouts
from goodparts.errors import BackboneError, DatasetError
from goodparts.inspector import Inspector
from goodparts.recipe.recipe import Recipe
from goodparts.scale import processes
from goodparts.scale.executor import Job, WorkerDiedError

Observed = list[tuple[str, bool]]


@pytest.fixture
def small_recipe(mini_backbone: Path) -> Recipe:
    return Recipe(backbone=str(mini_backbone), layers=("layer2", "layer3"), image_size=64, sampling_ratio=0.1)


@pytest.fixture
def root(mini_dataset: Path, tmp_path: Path) -> Path:
    """Two categories; the second is smaller."""
    folder = tmp_path / "parts"
    shutil.copytree(mini_dataset, folder / "disc")
    shutil.copytree(mini_dataset, folder / "ring")
    for path in list((folder / "ring" / "train" / "good").iterdir())[8:]:
        path.unlink()
    return folder


def flags(recipe: Recipe) -> list[str]:
    return [
        *("--backbone", recipe.backbone, "--layers", ",".join(recipe.layers)),
        *("--image-size", "64", "--sampling-ratio", str(recipe.sampling_ratio)),
    ]


def run(root: Path, recipe: Recipe, out: Path, **options: Any) -> tuple[Benchmark, Observed]:
    """The benchmark, and for each row whether it was kept from an earlier run, in the order of finishing."""
    observed: Observed = []
    found = run_benchmark(
        root, recipe, out=out, observe=lambda row, kept, _: observed.append((row.category, kept)), **options
    )
    return found, observed


def test_every_category_is_measured_and_kept(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    found, observed = run(root, small_recipe, tmp_path / "out")

    assert observed == [("disc", False), ("ring", False)]
    disc, ring = found.rows
    assert (disc.train, disc.test_good, disc.test_bad) == (16, 6, 6)
    assert (ring.layout, ring.train, ring.notes, ring.error) == ("mvtec_ad", 8, (), None)
    assert all(0.5 < value <= 1 for name in ("image_auroc", "pixel_auroc") if (value := disc.metrics[name]))
    assert set(COLUMNS) <= set(disc.metrics)
    assert disc.class_auroc.keys() == {"scratch", "stain"}
    assert disc.fit_seconds is not None
    assert disc.fit_seconds > 0
    kept = sorted((tmp_path / "out" / "categories").iterdir())
    assert [path.name.rsplit("-", 1)[0] for path in kept] == ["disc", "ring"]
    assert Row.from_json(kept[0].read_text(encoding="utf-8")) == disc


def test_what_is_finished_is_not_run_again(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    first, _ = run(root, small_recipe, tmp_path)

    again, observed = run(root, small_recipe, tmp_path)
    assert again == first
    assert observed == [("disc", True), ("ring", True)]
    assert run(root, small_recipe, tmp_path, again=True, categories=["ring"])[1] == [("ring", False)]

    other = dataclasses.replace(small_recipe, smoothing_sigma=1.0)
    assert run(root, other, tmp_path, categories=["ring"])[1] == [("ring", False)]
    assert run(root, small_recipe, tmp_path, categories=["ring"])[1] == [("ring", True)]
    next((root / "ring" / "test" / "good").iterdir()).unlink()
    assert run(root, small_recipe, tmp_path)[1] == [("disc", True), ("ring", False)]


def test_a_kept_row_that_is_damaged_is_measured_anew(
    root: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    run(root / "ring", small_recipe, tmp_path)
    (kept,) = (tmp_path / "categories").iterdir()

    for text in ("", "{}", '{"category": "ring", "notes": [], "more": 1}', "[1]"):
        kept.write_text(text)
        assert run(root / "ring", small_recipe, tmp_path)[1] == [("ring", False)]


def test_an_interrupt_leaves_what_is_finished(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("ring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, small_recipe, tmp_path, progress=interrupt)

    assert run(root, small_recipe, tmp_path)[1] == [("disc", True), ("ring", False)]


def test_a_damaged_category_does_not_stop_the_others(
    root: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    image = next((root / "disc" / "test" / "stain").iterdir())
    whole = image.read_bytes()
    image.write_bytes(whole[:200])

    found, _ = run(root, small_recipe, tmp_path)

    assert [row.category for row in found.failed] == ["disc"]
    assert image.name in (found.rows[0].error or "")
    assert "- [1] disc failed:" in markdown(found)
    image.write_bytes(whole)
    assert run(root, small_recipe, tmp_path)[1] == [("ring", True), ("disc", False)]


def test_a_category_without_images_is_a_row(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(root / "disc" / "train")

    found, _ = run(root, small_recipe, tmp_path)

    assert "train/good" in (found.rows[0].error or "")
    assert found.rows[1].error is None


def test_a_fault_of_ours_is_a_row_too(
    root: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr(Inspector, "evaluate", fail)

    found, _ = run(root, small_recipe, tmp_path)

    assert len(found.failed) == 2
    assert "ZeroDivisionError('here'); please report it" in (found.rows[0].error or "")
    assert "Traceback" in capsys.readouterr().err


def test_a_recipe_that_can_not_be_used_stops_everything(
    root: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=r"nowhere\.onnx"):
        run(root, dataclasses.replace(small_recipe, backbone="nowhere.onnx"), tmp_path)
    with pytest.raises(BackboneError, match="layer9"):
        run(root, dataclasses.replace(small_recipe, layers=("layer9",)), tmp_path)
    with pytest.raises(DatasetError, match=r"--categories: no 'dish' in .*there are disc, ring"):
        run(root, small_recipe, tmp_path, categories=["dish"])


def test_every_layout_is_measured(mini_dataset: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    """The same images in all layouts, in one root."""
    root = tmp_path / "root"
    good = sorted((mini_dataset / "train" / "good").iterdir())
    held = sorted((mini_dataset / "test" / "good").iterdir())
    bad = sorted((mini_dataset / "test" / "stain").iterdir())
    truth = sorted((mini_dataset / "ground_truth" / "stain").iterdir())

    def lay(sources: list[Path], *names: str) -> None:
        """Copy, in the format of the name; `{}` is the number."""
        for number, source in enumerate(sources):
            for name in names:
                path = root / name.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(source).save(path)

    lay(good, "a_ad/train/good/{}.png", "b_ad2/train/good/{}.png", "c_loco/train/good/{}.png")
    lay(held, "a_ad/test/good/{}.png", "b_ad2/test_public/good/{}.png", "c_loco/test/good/{}.png")
    lay(bad, "a_ad/test/cut/{}.png", "b_ad2/test_public/bad/{}.png", "c_loco/test/logical_anomalies/{}.png")
    lay(bad, "c_loco/test/structural_anomalies/{}.png")
    lay(truth, "a_ad/ground_truth/cut/{}_mask.png", "b_ad2/test_public/ground_truth/bad/{}_mask.png")
    for kind in ("logical", "structural"):
        lay(truth, f"c_loco/ground_truth/{kind}_anomalies/{{}}/000.png")
    lay(good, "d_btad/train/ok/{}.bmp", "e_visa/Data/Images/Normal/{}.JPG")
    lay(held, "d_btad/test/ok/{}.bmp", "e_visa/Data/Images/Normal/9{}.JPG")
    lay(bad, "d_btad/test/ko/{}.bmp", "e_visa/Data/Images/Anomaly/{}.JPG")
    lay(truth, "d_btad/ground_truth/ko/{}.bmp", "e_visa/Data/Masks/Anomaly/{}.png")
    split = [f"e_visa,train,normal,e_visa/Data/Images/Normal/{number}.JPG," for number in range(len(good))]
    split += [f"e_visa,test,normal,e_visa/Data/Images/Normal/9{number}.JPG," for number in range(len(held))]
    for number in range(len(bad)):
        split.append(
            f"e_visa,test,anomaly,e_visa/Data/Images/Anomaly/{number}.JPG,e_visa/Data/Masks/Anomaly/{number}.png"
        )
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(["object,split,label,image,mask", *split]))
    black = tmp_path / "black.png"
    Image.new("L", (96, 96)).save(black)
    for number in range(len(good)):
        lay([good[number]], f"f_ksdd/kos{number:02}/Part0.jpg", f"g_ksdd2/train/{number}.png")
        lay([black], f"f_ksdd/kos{number:02}/Part0_label.bmp", f"g_ksdd2/train/{number}_GT.png")
    lay(bad, "f_ksdd/kos00/Part1{}.jpg", "g_ksdd2/test/{}.png")
    lay(truth, "f_ksdd/kos00/Part1{}_label.bmp", "g_ksdd2/test/{}_GT.png")
    lay(held, "g_ksdd2/test/9{}.png")
    lay([black] * len(held), "g_ksdd2/test/9{}_GT.png")
    lay([*good, *held], "h_plain/good/{}.png")
    lay(bad, "h_plain/bad/{}.png")
    lay(truth, "h_plain/ground_truth/bad/{}.png")

    found, _ = run(root, small_recipe, tmp_path / "out")

    assert [(row.layout, row.error) for row in found.rows] == [
        ("mvtec_ad", None),
        ("mvtec_ad_2", None),
        ("mvtec_loco", None),
        ("btad", None),
        ("visa", None),
        ("kolektor_sdd", None),
        ("kolektor_sdd2", None),
        ("good_bad", None),
    ]
    counts = {row.category[2:]: (row.train, row.test_good, row.test_bad) for row in found.rows}
    assert counts == {
        **dict.fromkeys(("ad", "ad2", "btad", "visa", "ksdd2"), (16, 6, 3)),
        "loco": (16, 6, 6),
        "ksdd": (13, 3, 3),
        "plain": (18, 4, 3),
    }
    assert all(row.metrics[name] is not None for row in found.rows for name in COLUMNS)
    assert found.rows[0].metrics == found.rows[1].metrics == found.rows[3].metrics  # the very same pixels
    assert "of logical anomalies" in found.rows[2].notes[-1]
    assert found.notes == ()


# ---- side by side ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_side_by_side_gives_the_same_figures(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    (root / "dish" / "ground_truth").mkdir(parents=True)
    (root / "dish" / "test").mkdir()

    apart, observed = run(root, small_recipe, tmp_path / "apart", jobs=2)
    alone, _ = run(root, small_recipe, tmp_path / "alone", jobs=1)

    assert sorted(observed) == [("disc", False), ("dish", False), ("ring", False)]
    assert [row.category for row in apart.failed] == ["dish"]
    for one, other in zip(apart.rows, alone.rows, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-3)
        assert one.error == other.error
    assert apart.rows[0].jobs == 2
    assert "up to 2 categories ran side by side" in markdown(apart)


@pytest.mark.slow
def test_an_error_of_the_recipe_comes_back_from_a_process(
    root: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match="layer9"):
        run(root, dataclasses.replace(small_recipe, layers=("layer9",)), tmp_path, jobs=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells that files without a name are open")
def test_ctrl_c_stops_the_processes(many: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    root, room, out = tmp_path / "parts", tmp_path / "room", tmp_path / "out"
    shutil.copytree(many, root / "disc")
    shutil.copytree(many, root / "ring")
    room.mkdir()
    sent = 0.0

    def both_are_being_measured() -> bool:
        nonlocal sent
        sent = time.monotonic()
        return processes_with_files_in(room) == 2  # of features

    arguments = ["benchmark", root, *flags(small_recipe), "--jobs", "2", "--memory-limit", "0", "--out", out]
    code, errors = interrupted(both_are_being_measured, arguments, TMPDIR=str(room), TMP=str(room))

    assert time.monotonic() - sent < 2 * processes.GRACE
    assert code == 130
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("interrupted; nothing is half-written")
    assert not list(tmp_path.rglob("*.part"))
    assert list(room.iterdir()) == []


class FakeExecutor:
    """Runs every job here but those of the names that die."""

    workers = 2

    def __init__(self, *dying: str) -> None:
        self.dying, self.jobs = dying, list[Job[Row]]()

    def run(self, jobs: Sequence[Job[Row]]) -> Generator[tuple[Job[Row], Row | Exception], None, None]:
        self.jobs += jobs
        for job in reversed(jobs):
            yield job, WorkerDiedError(-9) if job.name in self.dying else job.call()


def test_a_process_that_dies_is_a_row(root: Path, small_recipe: Recipe) -> None:
    tasks = [
        Task(category, *layouts.read_category(category), Path()) for category in layouts.find_categories(root)
    ]
    executor = FakeExecutor("disc")
    reported: list[tuple[str, int, int]] = []

    settings = Settings(small_recipe, jobs=2)
    rows = list(_measure_side_by_side(tasks, settings, executor, lambda *state: reported.append(state)))

    assert [(task.category.name, row.category) for task, row in rows] == [("ring", "ring"), ("disc", "disc")]
    assert rows[0][1].error is None
    assert rows[0][1].jobs == 2
    assert rows[1][1].error is not None
    assert "exit code -9" in rows[1][1].error
    assert "--jobs" in rows[1][1].error
    assert reported == [("categories", done, 2) for done in range(3)]
    assert all(job.memory > 12 * 96 * 96 * 4 for job in executor.jobs)
    assert memory_needed(tasks[0], settings) == executor.jobs[0].memory


# ---- the tables --------------------------------------------------------------------------------------


def row(name: str, value: float | None = 0.5, **changes: Any) -> Row:
    metrics: dict[str, float | int | None] = {
        **dict.fromkeys(COLUMNS, value),
        "false_bad": 1,
        "false_good": 2,
    }
    made = Row(name, "mvtec_ad", 10, 20, 30, metrics, fit_seconds=1.5, inspect_ms=2.0)
    return dataclasses.replace(made, **changes)


def bench(*rows: Row, **changes: Any) -> Benchmark:
    return dataclasses.replace(Benchmark("parts", "MVTec AD (a)", Recipe(), rows, len(rows)), **changes)


def lines(page: str) -> list[list[str]]:
    """The cells of the first table."""
    table = page.split("\n\n")[2].splitlines()
    assert len({len(line) for line in table}) == 1  # aligned
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table() -> None:
    odd = row("c", metrics={**row("c").metrics, "aupro_05": None})
    page = markdown(bench(row("a"), row("b", 1.0), odd, notes=("not recognised as categories: x",)))

    header, _, a, b, c, mean = lines(page)
    assert header == [
        *("category", "image AUROC", "image AP", "image F1-max", "pixel AUROC", "pixel AP", "pixel F1-max"),
        *("AUPRO 0.3", "AUPRO 0.05", "false rejects", "misses", "fit s", "ms per image"),
    ]
    assert a == ["a", *["50.00"] * 8, "1 of 20", "2 of 30", "1.5", "2.0"]
    assert b[1:9] == ["100.00"] * 8
    assert (c[0], c[7:9]) == ("c [1]", ["50.00", "-"])
    assert mean == ["**mean of 3** [2]", *["66.67"] * 7, "75.00", "3 of 60", "6 of 90", "1.5", "2.0"]
    assert "- [1] `-`: undefined on these test images." in page
    assert (
        "- [2] means are of those categories where a metric is defined: AUPRO 0.05 of 2; all others of 3."
        in page
    )
    assert "- not recognised as categories: x." in page
    assert "oracle" not in page
    assert "published" not in page


def test_a_table_that_is_not_finished_says_so() -> None:
    assert "**1 of 15 categories so far.**" in markdown(bench(row("a"), categories=15))
    assert "so far" not in markdown(bench(row("a")))


def test_notes_are_numbered_once_and_failures_told() -> None:
    page = markdown(
        bench(
            row("a", notes=("no masks: pixel metrics are undefined",)),
            Row("b", "mvtec_ad", error="b/1.png: can't be\nread."),
            row("c", notes=("no masks: pixel metrics are undefined", "other")),
        )
    )

    assert [line[0] for line in lines(page)[2:]] == ["a [1]", "b [2]", "c [1] [3]", "**mean of 2**"]
    assert lines(page)[3][1:] == ["-"] * 12
    assert "- [2] b failed: b/1.png: can't be read.\n" in page


def test_without_bad_parts_there_are_no_misses() -> None:
    metrics = {**dict.fromkeys(COLUMNS), "false_bad": 1, "false_good": 0}
    page = markdown(bench(row("a", None, test_bad=0, metrics=metrics), recipe=Recipe(threshold_rule="f1")))

    assert lines(page)[2] == ["a [1]", *["-"] * 8, "1 of 20", "-", "1.5", "2.0"]
    assert "oracle" in page


def test_published_figures_need_the_name_and_the_number_of_images() -> None:
    assert published("grid", 264, 78) == MVTEC_AD["grid"]
    assert published("grid", 200, 78) is None
    assert published("grid_256", 264, 78) is None
    means_of_source = [
        sum(getattr(figures, name) for figures in MVTEC_AD.values()) / 15
        for name in ("image_auroc", "pixel_auroc", "aupro_30")
    ]
    assert means_of_source == pytest.approx([0.99164, 0.98111, 0.94365], abs=1e-4)
    # 3,629 images to learn from and 1,725 to test on (Bergmann et al., CVPR 2019)
    assert sum(figures.train for figures in MVTEC_AD.values()) == 3629
    assert sum(figures.test for figures in MVTEC_AD.values()) == 1725


def test_published_figures_stand_beside_ours() -> None:
    nut = row("metal_nut", train=220, test_good=22, test_bad=93)

    page = markdown(bench(nut, row("grid_256", train=264, test_good=21, test_bad=57)))
    assert "| metal_nut |       50.00 |                  99.90 |" in page
    assert page.count("grid_256") == 1
    assert "github.com/amazon-science/patchcore-inspection" in page
    assert "no mean of fewer categories compares" in page
    assert record(bench(nut))["published"]["metal_nut"]["aupro_30"] == 0.9282
    assert record(bench(dataclasses.replace(nut, layout="btad")))["published"] == {}

    everything = [
        row(name, train=known.train, test_good=known.test, test_bad=0) for name, known in MVTEC_AD.items()
    ]
    page = markdown(bench(*everything))
    assert "| **mean of 15** |       50.00 |                  99.16 |" in page
    assert "no mean of fewer" not in page


def test_csv_has_every_digit_and_gaps_where_undefined() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(bench(row("a", 1 / 3), Row("b", "visa", error="x, y"))))))

    assert float(rows[0]["image_auroc"]) == 1 / 3
    assert (rows[0]["false_rejects"], rows[0]["misses"], rows[0]["published_aupro_30"]) == ("1", "2", "")
    assert (rows[1]["image_auroc"], rows[1]["error"]) == ("", "x, y")


def test_what_was_found_of_each_class() -> None:
    made = bench(
        row("a", class_found={"bent": [3, 4], "cut": [0, 2]}), row("b", class_found={"bent": [5, 5]})
    )
    page = markdown(made)
    assert "## Found, by class of defect" in page
    table = page.partition("## Found, by class of defect")[2].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:5]]
    assert cells == [["a", "bent", "3", "4"], ["a", "cut", "0", "2"], ["b", "bent", "5", "5"]]
    (first, second) = csv.DictReader(io.StringIO(csv_text(made)))
    assert (first["found_by_class"], second["found_by_class"]) == ("bent 3/4; cut 0/2", "bent 5/5")
    assert "by class" not in markdown(bench(row("a")))


def test_means_are_of_what_is_defined() -> None:
    assert means([row("a", None), row("b", 0.25), row("c", 0.75)])["image_auroc"] == 0.5
    assert means([row("a", None)])["pixel_auroc"] is None


def test_loco_is_told_by_kind_of_anomaly() -> None:
    areas = {"logical_anomalies": 0.7, "structural_anomalies": 0.9}

    (note,) = _measured_notes(row("a", class_auroc=areas))
    assert "logical anomalies 70.00, of structural ones 90.00, mean 80.00" in note
    assert list(_measured_notes(row("a", class_auroc={"cut": 1.0}))) == []


# ---- the command -------------------------------------------------------------------------------------


def test_the_command_writes_three_tables(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    command = ["benchmark", str(root), *flags(small_recipe), "--out", str(tmp_path / "out")]

    first = CliRunner().invoke(cli, command, standalone_mode=False)
    assert first.return_value == 0, first.output
    assert "Layout   MVTec AD (disc, ring)" in first.output
    page = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert [line[0] for line in lines(page)[2:]] == ["disc", "ring", "**mean of 2**"]
    assert "image_size = 64" in page
    values = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert values["mean"]["image_auroc"] == pytest.approx(
        sum(each["metrics"]["image_auroc"] for each in values["categories"]) / 2
    )
    assert len((tmp_path / "out" / "benchmark.csv").read_text(encoding="utf-8").splitlines()) == 3

    second = CliRunner().invoke(cli, command, standalone_mode=False)
    assert second.output.count("finished earlier, not run again; --again does") == 2


def test_the_command_as_json(root: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(root / "disc" / "test")

    result = CliRunner().invoke(
        cli,
        ["benchmark", str(root), *flags(small_recipe), "--out", str(tmp_path), "--json"],
        standalone_mode=False,
    )

    assert result.return_value == 2
    disc, ring, summary = (json.loads(line) for line in result.stdout.splitlines())
    assert "test/good" in disc["error"]
    assert (ring["error"], ring["kept"]) == (None, False)
    assert summary == {"mean": {name: ring["metrics"][name] for name in COLUMNS}, "failed": 1}


@pytest.mark.real
@pytest.mark.slow
def test_real_categories(shared: Path, tmp_path: Path) -> None:
    cheap = Recipe(backbone="efficientnet_lite0", image_size=192, sampling_ratio=0.01)

    found, _ = run(shared / "mvtec_ad", cheap, tmp_path)

    grid, nut = found.rows
    assert (grid.category, nut.category) == ("grid_256", "metal_nut")
    assert (nut.test_good, nut.test_bad) == (22, 93)
    assert (nut.metrics["image_auroc"] or 0) > 0.98
    assert (nut.metrics["pixel_auroc"] or 0) > 0.97
    assert (grid.metrics["image_auroc"] or 0) > 0.8
    page = markdown(found)
    assert "| metal_nut |" in page.split("## Beside published figures")[1]
    assert "grid_256" not in page.split("## Beside published figures")[1]
