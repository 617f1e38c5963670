"""Fitting and evaluating many products: what is done, and what is not done again."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from running import Run

from goodparts import Inspector, Recipe
from goodparts.fleet.evaluate import evaluate_fleet
from goodparts.fleet.fit import FitRun, fit_fleet
from goodparts.scale.executor import Job
from goodparts.scale.pool import WorkerPool


@pytest.fixture
def plant(mini_dataset: Path, tmp_path: Path) -> Path:
    """Two products: a whole data set, and a folder of fewer good images."""
    root = tmp_path / "plant"
    shutil.copytree(mini_dataset, root / "disc")
    (root / "few").mkdir()
    for path in sorted((mini_dataset / "train" / "good").iterdir())[:8]:
        shutil.copy(path, root / "few")
    return root


def kept(run: FitRun) -> dict[str, bool]:
    assert not run.failed
    return {one.product: one.kept for one in run.fitted}


def test_models_are_those_of_fit_and_are_not_fitted_again(
    plant: Path, tmp_path: Path, recipe: Recipe, pool: WorkerPool
) -> None:
    models = tmp_path / "models"
    run = fit_fleet(str(plant), models, recipe, pool)
    assert kept(run) == {"disc": False, "few": False}
    alone = Inspector(recipe, workers=pool.workers).fit(plant / "disc")
    model = Inspector.load(models / "disc.goodparts").model
    assert model.identity == run.fitted[0].identity
    assert model.calibration.scores == pytest.approx(alone.model.calibration.scores, rel=1e-5)
    assert [one.good_images for one in run.fitted] == [16, 8]

    assert kept(fit_fleet(str(plant), models, recipe, pool)) == {"disc": True, "few": True}
    first = plant / "few" / "000.png"
    os.utime(first, (1, 1))  # touched: the same bytes
    assert kept(fit_fleet(str(plant), models, recipe, pool)) == {"disc": True, "few": True}
    shutil.copy(plant / "disc" / "train" / "good" / "012.png", first)
    assert kept(fit_fleet(str(plant), models, recipe, pool)) == {"disc": True, "few": False}
    (models / "disc.goodparts").unlink()
    assert kept(fit_fleet(str(plant), models, recipe, pool)) == {"disc": False, "few": True}
    other = recipe.replace({"sampling_ratio": 0.1})
    assert kept(fit_fleet(str(plant), models, other, pool)) == {"disc": False, "few": False}


def test_images_that_cannot_be_read_are_left_out(
    plant: Path, tmp_path: Path, recipe: Recipe, pool: WorkerPool
) -> None:
    broken = plant / "few" / "003.png"
    broken.write_bytes(broken.read_bytes()[:500])
    shutil.rmtree(plant / "disc" / "train" / "good")
    run = fit_fleet(str(plant), tmp_path / "models", recipe, pool)
    disc, few = run.fitted
    assert "has no folder `good`" in disc.error
    assert few.good_images == 7
    assert [str(broken) in error for error in few.left_out] == [True]
    assert fit_fleet(str(plant), tmp_path / "models", recipe, pool).fitted[1].kept


def dying(folder: Path, deaths: int, call: Any) -> Any:
    """Do the job, but end its worker so many times before."""
    before = len(list(folder.iterdir()))
    if before < deaths:
        (folder / str(before)).touch()
        os._exit(9)
    return call()


class Dying:
    """An executor whose workers die of the fits of some products, each so many times."""

    def __init__(self, pool: WorkerPool, folder: Path, deaths: dict[str, int]) -> None:
        self.pool, self.folder, self.deaths = pool, folder, deaths
        self.workers = pool.workers

    def run(self, jobs: Sequence[Job[Any]]) -> Iterator[tuple[Job[Any], Any]]:
        by_name = {job.name: job for job in jobs}
        for name in by_name:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        calls = [
            replace(job, call=partial(dying, self.folder / job.name, self.deaths.get(job.name, 0), job.call))
            for job in jobs
        ]
        for job, found in self.pool.run(calls):
            yield by_name[job.name], found


def test_a_fit_is_tried_three_times(plant: Path, tmp_path: Path, recipe: Recipe, pool: WorkerPool) -> None:
    shutil.copytree(plant / "few", plant / "poison")
    executor = Dying(pool, tmp_path / "deaths", {"few": 2, "poison": 3})
    run = fit_fleet(str(plant), tmp_path / "models", recipe, executor)
    assert {one.product: bool(one.error) for one in run.fitted} == {
        "disc": False,
        "few": False,
        "poison": True,
    }
    assert len(run.deaths) == 5
    assert "ended early with exit code 9, three times; if memory ran out" in run.failed[0].error
    run = fit_fleet(str(plant), tmp_path / "models", recipe, executor)  # the same command does the rest
    assert kept(run) == {"disc": True, "few": True, "poison": False}


def test_evaluation(plant: Path, models: Path, tmp_path: Path, pool: WorkerPool, mini_dataset: Path) -> None:
    out = tmp_path / "out"
    run = evaluate_fleet(models, str(plant), out, pool)
    (disc,) = run.evaluated
    alone = Inspector.load(models / "disc.goodparts").evaluate(plant / "disc")
    for name in ("image_auroc", "pixel_auroc", "image_f1"):
        assert disc.metrics[name] == alone.metrics[name]
    assert (disc.metrics["good"], disc.metrics["bad"], disc.kept) == (6, 6, False)
    with (out / "evaluation.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["image_auroc"]) == disc.metrics["image_auroc"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"1 of 1 products measured, {disc.metrics['rejected']} of 6 good images rejected" in page
    assert "pixel AUROC" in page
    assert "No product has masks" not in page

    assert evaluate_fleet(models, str(plant), out, pool).evaluated[0].kept
    shutil.copy(plant / "disc" / "test" / "stain" / "001.png", plant / "disc" / "test" / "stain" / "000.png")
    assert not evaluate_fleet(models, str(plant), out, pool).evaluated[0].kept
    shutil.rmtree(plant / "disc" / "ground_truth")
    for path in (plant / "disc" / "test" / "scratch").iterdir():
        shutil.copy(plant / "disc" / "test" / "good" / path.name, path)
    shutil.copytree(plant / "disc", plant / "plate")
    shutil.copytree(mini_dataset / "test", plant / "plate" / "test", dirs_exist_ok=True)
    disc, plate = evaluate_fleet(models, str(plant), out, pool).evaluated
    assert disc.metrics["missed"] == 3
    assert disc.metrics["image_auroc"] < plate.metrics["image_auroc"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<td class="warn">3</td>' in page
    assert page.index("<td>disc</td>") < page.index("<td>plate</td>")  # the worst first
    assert "pixel AUROC" not in page
    assert "No product has masks" in page
    (models / "disc.goodparts").unlink()
    assert "no such model" in evaluate_fleet(models, str(plant), out, pool).evaluated[0].error


def test_the_commands(plant: Path, tmp_path: Path, recipe_file: Path, goodparts: Run) -> None:
    models = tmp_path / "models"
    on = ("--on", "processes:1", "--memory-per-worker", "1.5G")
    ran = goodparts("fleet", "fit", plant, "--out", models, "--recipe", recipe_file, *on)
    assert ran.code == 0
    assert "disc: 16 good images, " in ran.out
    assert "2 fitted, 0 as before" in ran.err
    again = goodparts("fleet", "fit", plant, "--out", models, "--recipe", recipe_file, *on, "--json")
    assert [(record["product"], record["kept"]) for record in again.records] == [
        ("disc", True),
        ("few", True),
    ]
    ran = goodparts("fleet", "evaluate", models, plant, "--out", tmp_path / "measured", *on)
    assert ran.code == 0
    assert "disc: image AUROC " in ran.out
    for arguments, words in (
        (("fit", tmp_path / "none"), "no such folder"),
        (("fit", plant, "--on", "somewhere"), "--on somewhere: unknown"),
        (("fit", plant, "--memory-per-worker", "lots"), "expected a size such as 2G"),
        (("inspect", tmp_path / "none", plant), "no such folder"),
    ):
        ran = goodparts("fleet", *arguments)
        assert ran.code == 2
        assert words in ran.err
