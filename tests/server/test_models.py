"""Models that serve: taken up anew when their files change, refused when damaged, few in memory, chosen by version."""

from __future__ import annotations

import json
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, running, settings_for, wait_until

from goodparts import Inspector
from goodparts.errors import ModelError
from goodparts.server.inspection.served_models import name_of
from goodparts.server.service import open_service


@pytest.fixture(scope="module")
def second_file(fitted_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a threshold that calls everything BAD."""
    inspector = Inspector.load(fitted_file)
    inspector.calibrate(changes={"threshold_rule": "fixed", "threshold_value": 0.001})
    return inspector.save(tmp_path_factory.mktemp("second") / "disc.goodparts")


@pytest.fixture
def watched(fitted_file: Path, tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    """A service and the folder of models that it watches."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(fitted_file, folder / "disc.goodparts")
    with running(settings_for(folder, tmp_path / "history")) as live:
        yield live, folder


def look(live: Running) -> None:
    """Look at the files as the service does by itself: twice, since a new one has to hold still."""
    live.service.models.refresh()
    live.service.models.refresh()


def inspect(live: Running, image: bytes, model: str = "disc") -> dict[str, Any]:
    with live.http() as http:
        answer = http.post(f"/api/v1/models/{model}/inspections", content=image)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_changed_file_takes_its_place_and_an_earlier_version_can_again(
    watched: tuple[Running, Path], second_file: Path, good_png: bytes
) -> None:
    live, folder = watched
    first = inspect(live, good_png)
    shutil.copy(second_file, folder / "disc.goodparts")
    live.service.models.refresh()
    assert inspect(live, good_png)["verdict"] == "GOOD"  # somebody may still write it
    live.service.models.refresh()
    second = inspect(live, good_png)
    assert second["verdict"] == "BAD"
    assert second["model_version"] != first["model_version"]
    with live.login() as browser:
        page = browser.get("/api/v1/models/disc").json()
        assert [one["active"] for one in page["versions"]] == [True, False]
        answer = browser.post("/api/v1/models/disc/activate", json={"version": first["model_version"]})
        assert answer.status_code == 200, answer.text
        assert browser.post("/api/v1/models/disc/activate", json={"version": "0" * 64}).status_code == 404
    assert inspect(live, good_png)["model_version"] == first["model_version"]
    look(live)
    assert inspect(live, good_png)["model_version"] == first["model_version"]  # until the file changes


def test_what_was_chosen_stays_over_a_restart(
    fitted_file: Path, second_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    path = Path(shutil.copy(fitted_file, tmp_path / "disc.goodparts"))
    settings = settings_for(path, tmp_path / "history")
    with running(settings) as live:
        token, first = live.token, inspect(live, good_png)["model_version"]
        shutil.copy(second_file, path)
        look(live)
        live.service.models.activate("disc", first, "test")
    with running(settings) as live:
        live.token = token
        assert inspect(live, good_png)["model_version"] == first
    path.unlink()
    with running(settings) as live:  # its file is gone; what served goes on
        live.token = token
        assert inspect(live, good_png)["model_version"] == first


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def damage_member(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def make_newer(path: Path) -> None:
    parts = {}
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts["manifest.json"])
    parts["manifest.json"] = json.dumps({**manifest, "format": 999}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("spoil", [damage_end, damage_member, make_newer, lambda path: path.write_bytes(b"")])
def test_a_bad_file_is_refused_and_the_old_one_goes_on(
    watched: tuple[Running, Path], good_png: bytes, spoil: Any
) -> None:
    live, folder = watched
    before = inspect(live, good_png)["model_version"]
    spoil(folder / "disc.goodparts")
    look(live)
    assert inspect(live, good_png)["model_version"] == before
    with live.login() as browser:
        (model,) = browser.get("/api/v1/models").json()
        assert "can't serve" in model["refused"]
        assert str(folder) not in json.dumps(model)
        assert 'model_files_refused_total{model="disc"} 1.0' in browser.get("/metrics").text
        wait_until(lambda: browser.get("/api/v1/events").json()[0]["kind"] == "model.refused")


def test_a_request_ends_on_the_version_it_began_with(
    watched: tuple[Running, Path], second_file: Path, good_png: bytes
) -> None:
    live, folder = watched
    first = inspect(live, good_png)["model_version"]
    answers: list[dict[str, Any]] = []

    def run() -> None:
        for _ in range(15):
            answers.append(inspect(live, good_png))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    shutil.copy(second_file, folder / "disc.goodparts")
    time.sleep(0.05)
    look(live)
    for thread in threads:
        thread.join()
    assert len(answers) == 45
    for answer in answers:
        assert answer["verdict"] == ("GOOD" if answer["model_version"] == first else "BAD")


def test_few_models_stay_in_memory_and_all_serve(fitted_file: Path, tmp_path: Path, good_png: bytes) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in "abc":
        shutil.copy(fitted_file, folder / f"{name}.goodparts")
    with running(settings_for(folder, tmp_path / "history", loaded_models=2)) as live:
        for name in "abcba":
            assert inspect(live, good_png, name)["model"] == name
            assert live.service.models.loaded <= 2
        with live.http() as http:
            assert {one["name"]: one["loaded"] for one in http.get("/api/v1/models").json()} == {
                "a": True,
                "b": True,
                "c": False,
            }
        shutil.copy(fitted_file, folder / "new.goodparts")
        look(live)
        assert inspect(live, good_png, "new")["model"] == "new"


def test_without_a_model_nothing_begins(fitted_file: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(fitted_file, tmp_path / "damaged.goodparts"))
    damage_end(damaged)
    (tmp_path / "none").mkdir()
    for number, (path, words) in enumerate(((damaged, "damaged"), (tmp_path / "none", "no model"))):
        service = open_service(settings_for(path, tmp_path / str(number)))
        with pytest.raises(ModelError, match=words) as caught:
            service.start()
        assert str(path) in str(caught.value)
        service.close()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("metal_nut.goodparts", "metal_nut"),
        ("a b/ü.goodparts", "model-"),
        ("..goodparts", "model-"),
        ("x y (2).goodparts", "x-y-2-"),
        ("plain", "plain"),
    ],
)
def test_names_are_such_as_an_address_can_have(file: str, name: str) -> None:
    assert name_of(Path(file)).startswith(name)
