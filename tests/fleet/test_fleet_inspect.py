"""Inspecting many products: what is inspected, what is not inspected again, and what survives whom."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import Run

from goodparts import Inspector
from goodparts.errors import ModelError, OutputError
from goodparts.fleet.attempts import inspect_shards
from goodparts.fleet.images import ImageFile
from goodparts.fleet.inspect import FleetRun, Options, inspect_fleet, missing_of
from goodparts.fleet.manifest import Known, Manifest
from goodparts.fleet.report import write_report
from goodparts.fleet.shard import Shard, cut, read_shard
from goodparts.scale.places import open_place
from goodparts.scale.pool import WorkerPool

SMALL = Options(shard=4)


def rows_of(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["product"], row["name"]): row for row in rows}
    assert len(found) == len(rows), "an image is in the table twice"
    return found


def shard_files(out: Path) -> set[Path]:
    return set((out / "shards").glob("*/*.jsonl"))


def counts(run: FleetRun) -> dict[str, tuple[int, int]]:
    return {summary.product: (summary.images, summary.bad) for summary in run.summaries}


def test_it_finds_what_one_inspector_finds(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool, fitted: Inspector
) -> None:
    out = tmp_path / "out"
    run = inspect_fleet(models, str(archive), out, pool, SMALL)
    rows = rows_of(out)
    paths = sorted((archive / "disc").glob("*/*.png"))
    for path, alone in zip(paths, fitted.inspect_many(paths), strict=True):
        row = rows["disc", path.relative_to(archive / "disc").as_posix()]
        assert (row["verdict"], float(row["score"]), float(row["p_value"])) == (
            alone.verdict,
            alone.score,
            alone.p_value,
        )
    bad = sum(row["verdict"] == "BAD" for (product, _), row in rows.items() if product == "disc")
    assert counts(run) == {"disc": (12, bad), "plate": (6, run.summaries[1].bad)}
    assert bad >= 3
    assert not run.failed
    assert len(shard_files(out)) == 3 + 2
    worst = run.summaries[0].worst
    assert [multiple for multiple, _, _ in worst] == sorted((m for m, _, _ in worst), reverse=True)
    assert worst[0][0] == max(
        float(r["score"]) / float(r["threshold"]) for (p, _), r in rows.items() if p == "disc"
    )


def test_starting_again_does_what_is_missing(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool, mini_dataset: Path, fitted: Inspector
) -> None:
    out = tmp_path / "out"
    inspect_fleet(models, str(archive), out, pool, SMALL)
    before = rows_of(out)
    files = shard_files(out)

    again = inspect_fleet(models, str(archive), out, pool, SMALL)
    assert (again.images, again.before, again.read_again) == (18, 18, 0)
    assert shard_files(out) == files
    assert rows_of(out) == before

    touched, changed, gone = (archive / "disc" / "good" / f"{n:03d}.png" for n in range(3))
    os.utime(touched, (1, 1))
    shutil.copy(mini_dataset / "test" / "stain" / "000.png", changed)
    gone.unlink()
    shutil.copy(changed, archive / "plate" / "monday" / "new.png")
    third = inspect_fleet(models, str(archive), out, pool, SMALL)
    assert (third.images, third.before, third.read_again) == (18, 15, 1)
    rows = rows_of(out)
    assert ("disc", "good/002.png") not in rows
    assert rows["disc", "good/001.png"]["verdict"] == fitted.inspect(changed).verdict == "BAD"
    assert rows["plate", "monday/new.png"]["score"] == rows["disc", "good/001.png"]["score"]
    same = {**rows["disc", "good/000.png"], "changed": ""}
    assert same == {**before["disc", "good/000.png"], "changed": ""}

    verified = inspect_fleet(models, str(archive), out, pool, Options(shard=4, verify=True))
    assert (verified.before, verified.read_again) == (0, 18)
    assert rows_of(out) == rows

    inspector = Inspector.load(models / "disc.goodparts")
    inspector.calibrate(changes={"threshold_rule": "quantile", "threshold_quantile": 0.5}).save(
        models / "disc.goodparts"
    )
    other = inspect_fleet(models, str(archive), out, pool, SMALL)
    assert (other.images, other.before) == (18, 7)
    assert rows_of(out)["disc", "good/000.png"]["threshold"] != rows["disc", "good/000.png"]["threshold"]


def test_what_makes_an_image_missing() -> None:
    image = ImageFile("a.png", "/x/a.png", 10, 20)
    row = Known(10, 20, "model/1", "sha", "GOOD")
    aside = row._replace(verdict=None)

    def missing(known: Known | None, key: str = "model/1", **options: bool) -> list[str]:
        rows = {} if known is None else {"a.png": known}
        return [known for _, known in missing_of([image], rows, key, Options(**options))]

    assert missing(None) == [""]
    assert missing(row) == []
    assert missing(row, "other/1") == [""]
    assert missing(row, "model/2") == [""]  # another version of the program
    assert missing(row._replace(size=11)) == ["sha"]
    assert missing(row._replace(changed=21)) == ["sha"]
    assert missing(row, verify=True) == ["sha"]
    assert missing(aside) == []
    assert missing(aside, retry=True) == [""]
    assert missing(aside._replace(changed=21)) == [""]


def test_images_that_cannot_be_read_are_set_aside(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool, mini_dataset: Path
) -> None:
    out = tmp_path / "out"
    broken = archive / "disc" / "good" / "003.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    os.mkfifo(archive / "plate" / "pipe.png")
    run = inspect_fleet(models, str(archive), out, pool, Options(shard=1))
    row = rows_of(out)["disc", "good/003.png"]
    assert row["verdict"] == ""
    assert str(broken) in row["error"]
    assert row["tries"] == "2"
    assert "pipe" in rows_of(out)["plate", "pipe.png"]["error"]
    assert run.set_aside == 2
    assert run.summaries[0].images == 12
    assert inspect_fleet(models, str(archive), out, pool, Options(shard=1)).before == 19

    mtime = broken.stat().st_mtime_ns
    broken.write_bytes(whole)
    os.utime(broken, ns=(mtime, mtime))
    (archive / "plate" / "pipe.png").unlink()
    mended = inspect_fleet(models, str(archive), out, pool, Options(shard=1, retry=True))
    assert (mended.before, mended.set_aside) == (17, 0)
    assert rows_of(out)["disc", "good/003.png"]["verdict"]


def kill_workers(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("on", ["processes:2", "dask:local:2"])
def test_workers_that_are_killed_cost_their_shards_and_nothing_else(
    on: str, models: Path, archive: Path, tmp_path: Path, pool: WorkerPool
) -> None:
    undisturbed = tmp_path / "undisturbed"
    inspect_fleet(models, str(archive), undisturbed, pool, Options(shard=2))
    out = tmp_path / "out"
    killed = False
    with open_place(on, memory=2**30) as place:
        ours = {child.pid for child in psutil.Process().children(recursive=True)}
        others = {worker.process.pid for worker in pool._workers.values()}

        def kill_one(stage: str, done: int, total: int) -> None:
            nonlocal killed
            if done and not killed:
                killed = True
                now = psutil.Process().children(recursive=True)
                workers = [
                    child.pid
                    for child in now
                    if child.pid not in others and "spawn_main" in " ".join(child.cmdline())
                ]
                kill_workers(workers)

        run = inspect_fleet(models, str(archive), out, place, Options(shard=2), progress=kill_one)
    assert ours
    assert killed
    assert run.deaths
    assert not run.failed
    assert run.set_aside == 0
    assert rows_of(out) == rows_of(undisturbed)


def test_an_image_that_ends_its_worker_is_set_aside_and_the_others_are_not(
    models: Path, archive: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, fitted: Inspector
) -> None:
    paths = sorted((archive / "disc" / "good").glob("*.png"))
    images = [ImageFile(p.name, str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    images[2] = images[2]._replace(name="poison.png", where=f"{paths[2]}.poison")
    identity = fitted.model.identity
    (shard,) = cut(
        [(image, "") for image in images],
        9,
        product="disc",
        model=models / "disc.goodparts",
        identity=identity,
    )
    deaths: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for _, text in inspect_shards(_Poisoned(pool), [shard], lambda what, error: deaths.append(what)):
        assert isinstance(text, str)
        for record in read_shard(text)[1]:
            assert record["name"] not in found
            found[str(record["name"])] = dict(record)
    assert sorted(found) == sorted(image.name for image in images)
    assert [name for name, record in found.items() if "error" in record] == ["poison.png"]
    assert "ended its worker, twice" in found["poison.png"]["error"]
    assert found["poison.png"]["tries"] == 2
    assert deaths == ["6 images of disc"] * 2 + ["1 images of disc"] * 2


def poisoned(call: Any) -> Any:
    """Do the job, unless an image of it is poison."""
    if any(image.name == "poison.png" for image in call.args[0].images):
        os._exit(9)
    return call()


class _Poisoned:
    """An executor whose workers die of an image called poison."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.workers = pool.workers

    def run(self, jobs: Any) -> Any:
        from dataclasses import replace
        from functools import partial

        by_name = {job.name: job for job in jobs}
        for job, found in self.pool.run([replace(job, call=partial(poisoned, job.call)) for job in jobs]):
            yield by_name[job.name], found


def test_a_client_that_is_killed_goes_on_where_it_was(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool
) -> None:
    for number in range(8):
        shutil.copytree(archive / "disc" / "good", archive / "disc" / f"more {number}")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    inspect_fleet(models, str(archive), undisturbed, pool, Options(shard=3))
    command = [sys.executable, "-m", "goodparts", "fleet", "inspect", str(models), str(archive)]
    command += ["--out", str(out), "--shard", "3", "--on", "processes:1", "--memory-per-worker", "1G"]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while len(shard_files(out)) < 3:
            assert client.poll() is None, "it was over before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        client.kill()
        client.wait()
    finished = shard_files(out)
    with Manifest(out / "manifest.sqlite") as manifest:
        assert len(manifest.shards()) >= len(finished) - 1
    lost = sorted(finished, key=lambda path: path.stat().st_mtime_ns)
    times = {path: path.stat().st_mtime_ns for path in lost}
    run = inspect_fleet(models, str(archive), out, pool, Options(shard=3))
    assert run.before == sum(read_shard(path.read_text())[0].images for path in lost)
    assert 0 < run.before < run.images
    assert {path: path.stat().st_mtime_ns for path in lost} == times
    assert rows_of(out) == rows_of(undisturbed)


def test_a_manifest_that_is_lost_is_made_anew(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool
) -> None:
    out = tmp_path / "out"
    inspect_fleet(models, str(archive), out, pool, SMALL)
    inspect_fleet(models, str(archive), out, pool, Options(shard=4, verify=True))
    before = rows_of(out)
    (out / "manifest.sqlite").unlink()
    (out / "shards" / "disc" / "other.jsonl").write_text("{}\n")
    run = inspect_fleet(models, str(archive), out, pool, SMALL)
    assert run.before == 18
    assert rows_of(out) == before


def test_products_without_a_model_or_folder_do_not_stop_the_others(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool
) -> None:
    (models / "plate.goodparts").write_bytes(b"no model")
    (archive / "nothing").mkdir()
    shutil.copytree(archive / "plate", archive / "unknown")
    run = inspect_fleet(models, str(archive), tmp_path / "out", pool, SMALL)
    assert [summary.product for summary in run.failed] == ["plate", "unknown"]
    assert run.summaries[0].images == 12
    page = write_report(tmp_path / "out", run).read_text(encoding="utf-8")
    assert "unknown.goodparts: no such model" in page
    with pytest.raises(ModelError, match="none of the models is there"):
        inspect_fleet(archive, str(archive), tmp_path / "out", pool, SMALL)
    with pytest.raises(ModelError, match="is one model"):
        inspect_fleet(models / "disc.goodparts", str(archive), tmp_path / "out", pool, SMALL)


def test_a_model_that_changes_meanwhile_is_noticed(models: Path, archive: Path, pool: WorkerPool) -> None:
    path = next((archive / "disc" / "good").glob("*.png"))
    image = ImageFile(path.name, str(path), path.stat().st_size, path.stat().st_mtime_ns)
    shard = Shard("disc", str(models / "disc.goodparts"), "0" * 64, (image,), ("",))
    ((_, found),) = inspect_shards(pool, [shard], lambda what, error: None)
    assert isinstance(found, ModelError)
    assert "has changed meanwhile" in str(found)


def test_results_that_cannot_be_written_are_told(
    models: Path, archive: Path, tmp_path: Path, pool: WorkerPool
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        inspect_fleet(models, str(archive), tmp_path / "out", pool, SMALL)


def test_the_command(models: Path, archive: Path, tmp_path: Path, goodparts: Run) -> None:
    out = tmp_path / "out"
    on = ("--on", "processes:1", "--memory-per-worker", "1G", "--out", out)
    ran = goodparts("fleet", "inspect", models, archive, *on)
    assert ran.code == 0
    assert "disc: 12 images, " in ran.out
    assert f"Report   {out / 'report.html'}" in ran.out
    assert "18 of 18 (100 %)" in ran.err
    assert "at most 1.0 GiB of memory each" in ran.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "18 images of 2 products" in page
    assert page.count("data:image/webp;base64,") >= 4
    assert "http" not in page.replace("http-equiv", "")

    (archive / "disc" / "good" / "new.png").write_bytes(b"\x89PNG nothing")
    ran = goodparts("fleet", "inspect", models, archive, *on, "--json")
    assert ran.code == 2
    (record,) = ran.records
    assert (record["images"], record["before"], record["set_aside"]) == (19, 18, 1)
    assert json.loads((out / "summary.json").read_text()) == record
