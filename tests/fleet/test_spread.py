"""A fit spread over workers: with one partition that of one process, with several nearly; whoever dies, the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from running import Run

from goodparts import Inspector, Recipe
from goodparts.bank.composable import covering_radius
from goodparts.errors import DatasetError, GoodpartsError, RecipeError
from goodparts.fleet.fit import WORK, fit_fleet
from goodparts.fleet.images import ImageFile, list_image_files
from goodparts.fleet.spread import Spread, digest_of, require_spreadable, sources
from goodparts.scale.executor import Job
from goodparts.scale.pool import WorkerPool


@pytest.fixture
def files(mini_dataset: Path) -> list[ImageFile]:
    """16 good images."""
    return list_image_files(str(mini_dataset / "train" / "good"))


class Noting:
    """An executor that notes the jobs that it hands to another."""

    def __init__(self, executor: WorkerPool) -> None:
        self._executor = executor
        self.workers = executor.workers
        self.handed_out: list[str] = []

    def run(self, jobs: Sequence[Job[Any]]) -> Generator[tuple[Job[Any], Any], None, None]:
        self.handed_out += [job.name for job in jobs]
        return self._executor.run(jobs)


def fit_spread(
    recipe: Recipe, files: Sequence[ImageFile], pool: Any, folder: Path, partitions: int, **options: Any
) -> Inspector:
    spread = Spread(pool, folder, files, partitions, **options)
    return Inspector(recipe, workers=2).fit(sources(files), make_parts=spread)


@pytest.mark.parametrize("banks", ["joined", "by_depth"])
def test_one_partition_is_the_fit_of_one_process(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path, banks: str
) -> None:
    recipe = recipe.replace({"banks": banks, "robust": banks == "joined"})
    alone = Inspector(recipe, workers=2).fit(sources(files))
    spread = fit_spread(recipe, files, pool, tmp_path, 1)
    assert spread.model.identity == alone.model.identity


def test_several_partitions_cover_nearly_as_well(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path, mini_dataset: Path
) -> None:
    changes = {
        "banks": "by_depth",
        "sampling_ratio": 0.05,
        "memory_limit": 0.0001,
    }  # features stay in their files
    recipe = recipe.replace(changes)
    one = Inspector(recipe, workers=2).fit(sources(files)).model
    model = fit_spread(recipe, files, pool, tmp_path, 4).model
    assert model.calibration.digests == one.calibration.digests
    assert model.calibration.training_set.names == one.calibration.training_set.names
    assert model.provenance == one.provenance
    for depth, of_one in zip(model.depths, one.depths, strict=True):
        bank, wanted = depth.bank, of_one.bank
        assert bank.features.shape == wanted.features.shape
        assert np.all(np.diff(bank.image_ids) >= 0)
        assert set(bank.image_ids // 4) == {0, 1, 2, 3}  # of every partition
        # neither bank lies far from what the other one covers
        radius = covering_radius(wanted.features, bank.features)
        assert radius < 1.5 * covering_radius(bank.features, wanted.features)
    assert np.median(model.calibration.scores) == pytest.approx(np.median(one.calibration.scores), rel=0.1)
    assert model.calibration.threshold == pytest.approx(one.calibration.threshold, rel=0.15)


def test_without_an_early_image_nothing_that_is_kept_is_taken_for_others(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path
) -> None:
    # The last partition has the same files either way, which are now others among all.
    recipe = recipe.replace({"whitening": 0.0, "feature_dimensions": 0})
    kept = tmp_path / "kept"
    fit_spread(recipe, files, pool, kept, 2)
    fewer = [*files[:2], *files[3:]]
    assert len(fewer) // 2 + len(files) // 2 == len(fewer)
    anew = fit_spread(recipe, fewer, pool, tmp_path / "anew", 2)
    again = fit_spread(recipe, fewer, pool, kept, 2)
    assert again.model.identity == anew.model.identity
    assert len(list(kept.iterdir())) == 2


def test_files_are_those_of_the_good_images(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path
) -> None:
    spread = Spread(pool, tmp_path, files[1:], 2)
    with pytest.raises(ValueError, match="expected those of the 16 good images, found 15"):
        Inspector(recipe).fit(sources(files), make_parts=spread)


def test_workers_compute_with_the_same_engine(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goodparts.fleet import spread

    monkeypatch.setattr(spread, "_computed_by", lambda: ("openvino", "1999.1"))
    with pytest.raises(
        GoodpartsError, match=r"a worker computes with openvino .*, and others with openvino 1999\.1"
    ):
        fit_spread(recipe, files, pool, tmp_path, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "random", "light": "colour"},
        {"position_window": 30},
        {"sampling_ratio": 1.0},
        {"tiling": "64x64+16"},
        {"pose": "shift", "augment": "brightness:0.9-1.1"},
        {"roi": "zones.json", "banks": "by_depth"},
    ],
)
def test_other_banks_are_spread_as_well(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path, changes: dict[str, Any]
) -> None:
    ring = [[[10, 10], [86, 10], [86, 86], [10, 86]]]
    middle = [[[40, 40], [60, 40], [60, 60], [40, 60]]]
    zones = [{"name": "ring", "polygons": ring, "holes": middle}, {"name": "middle", "polygons": middle}]
    (tmp_path / "zones.json").write_text(json.dumps({"zones": zones}), encoding="utf-8")
    if "roi" in changes:
        changes = changes | {"roi": str(tmp_path / "zones.json")}
    recipe = recipe.replace(changes)
    one = Inspector(recipe, workers=2).fit(sources(files)).model
    model = fit_spread(recipe, files, pool, tmp_path, 2).model
    if changes.get("sampling_ratio") == 1.0:  # all are kept, whoever chooses
        np.testing.assert_array_equal(model.bank.features, one.bank.features)
    assert len(model.bank.features) == pytest.approx(len(one.bank.features), rel=0.05)
    assert model.calibration.threshold == pytest.approx(one.calibration.threshold, rel=0.25)
    of_one = one.calibration.training_set
    for found, wanted in zip(model.calibration.training_set.zones, of_one.zones, strict=True):
        assert (found.zone, len(found.scores)) == (wanted.zone, 16)
        assert np.median(found.scores) == pytest.approx(np.median(wanted.scores), rel=0.25)
    assert set(model.preprocessor.members()) == set(one.preprocessor.members())


def test_a_worker_that_is_killed_costs_its_part(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path
) -> None:
    recipe = recipe.replace({"banks": "by_depth"})
    undisturbed = fit_spread(recipe, files, pool, tmp_path / "undisturbed", 4).model
    died: list[str] = []
    killed: list[str] = []

    def kill(stage: str, done: int, total: int) -> None:
        if done == 1 and stage in ("features", "memory bank", "calibration") and stage not in killed:
            killed.append(stage)
            child = next(
                each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())
            )
            os.kill(child.pid, signal.SIGKILL)

    disturbed = fit_spread(
        recipe,
        files,
        pool,
        tmp_path / "disturbed",
        4,
        progress=kill,
        died=lambda what, error: died.append(what),
    ).model
    assert killed == ["features", "memory bank", "calibration"]
    assert died
    assert disturbed.identity == undisturbed.identity


def test_a_fit_that_was_killed_goes_on(
    recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path
) -> None:
    undisturbed = Noting(pool)
    expected = fit_spread(recipe, files, undisturbed, tmp_path / "undisturbed", 4).model

    def interrupt(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("memory bank", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_spread(recipe, files, pool, tmp_path / "again", 4, progress=interrupt)
    rest = Noting(pool)
    found = fit_spread(recipe, files, rest, tmp_path / "again", 4).model
    assert found.identity == expected.identity
    answered = 4 + 2  # of 4 partitions the features, and of 2 what they would keep
    assert len(rest.handed_out) == len(undisturbed.handed_out) - answered

    last = Noting(pool)
    assert fit_spread(recipe, files, last, tmp_path / "again", 4).model.identity == expected.identity
    assert last.handed_out == []
    other = recipe.replace({"sampling_ratio": 0.1})
    assert fit_spread(other, files, last, tmp_path / "again", 4).model.identity != expected.identity
    assert len(last.handed_out) == len(undisturbed.handed_out)


def test_what_cannot_be_spread_is_refused(recipe: Recipe) -> None:
    require_spreadable(recipe, 8, 4)
    with pytest.raises(
        DatasetError, match=r"7 good images can't be cut into 4 .* take partitions = 3 or fewer"
    ):
        require_spreadable(recipe, 7, 4)
    by_place = recipe.replace({"tiling": "64x64+16", "tile_bank": "position"})
    with pytest.raises(RecipeError, match="tile_bank = shared, or partitions = 1"):
        require_spreadable(by_place, 100, 4)


def test_digests_tell_values_apart() -> None:
    values = [
        (1, 2),
        ((1,), 2),
        ("1", 2),
        (True, 2),
        {"a": 1},
        {"a": 2},
        np.zeros(2),
        np.zeros((2, 1)),
        np.zeros(2, np.float32),
        b"ab",
        None,
        Recipe(),
        Recipe(seed=1),
    ]
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of({"a": 1, "b": np.ones(3)}) == digest_of({"b": np.ones(3), "a": 1})


def test_a_fleet_with_partitions(
    mini_dataset: Path, tmp_path: Path, recipe: Recipe, recipe_file: Path, pool: WorkerPool, goodparts: Run
) -> None:
    plant, models = tmp_path / "plant", tmp_path / "models"
    for name in ("disc", "few"):
        shutil.copytree(mini_dataset / "train" / "good", plant / name)
    for path in sorted((plant / "few").iterdir())[3:]:
        path.unlink()
    broken = plant / "disc" / "003.png"
    broken.write_bytes(broken.read_bytes()[:500])
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'partitions = 3\n[products.disc]\ngood = "plant/disc"\n[products.few]\ngood = "plant/few"\n'
    )
    disc, few = fit_fleet(str(plan), models, recipe, pool).fitted
    assert (disc.good_images, disc.error, len(disc.left_out)) == (15, "", 1)
    assert "3 good images can't be cut into 3 partitions" in few.error
    assert not (models / WORK).exists()
    again = fit_fleet(str(plan), models, recipe, pool).fitted[0]
    assert (again.kept, again.identity) == (True, disc.identity)

    plan.write_text(
        '[products.disc]\ngood = "plant/disc"\n[products.few]\ngood = "plant/few"\npartitions = 1\n'
    )
    arguments = ("fleet", "fit", plan, "--out", models, "--recipe", recipe_file, "--json")
    on = ("--on", "processes:2", "--memory-per-worker", "1G")
    ran = goodparts(*arguments, *on, "--partitions", "2")
    assert ran.code == 0
    by_name = {record["product"]: record for record in ran.records}
    assert not by_name["disc"]["kept"]  # another number of partitions
    assert by_name["disc"]["identity"] != disc.identity
    assert by_name["few"]["good_images"] == 3
    ran = goodparts(*arguments, *on, "--partitions", "0")
    assert ran.code == 2
    assert "--partitions" in ran.err


def test_on_a_cluster(recipe: Recipe, files: list[ImageFile], pool: WorkerPool, tmp_path: Path) -> None:
    from goodparts.scale.places import open_place

    expected = fit_spread(recipe, files, pool, tmp_path / "processes", 2).model
    with open_place("dask:local:2", memory=2**30) as place:
        found = fit_spread(recipe, files, place, tmp_path / "dask", 2).model
        large = Job("large", partial(len, os.urandom(12 * 10**6)))  # as a job that brings banks; no warning
        ((_, length),) = place.run([large])
        assert length == 12 * 10**6
    assert found.identity == expected.identity
