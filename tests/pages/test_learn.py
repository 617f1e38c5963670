"""The page Learn: the first model from a folder, one that learns on, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import PASSWORD, Visit, hand_in, with_accounts
from playwright.sync_api import expect
from serving import Running, running, wait_until

from goodparts.server.run import greeting
from goodparts.server.settings import Settings


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Running]:
    """A service without any model."""
    settings = Settings(data=str(tmp_path / "history"), least_free=0, reload_seconds=0.0)
    with running(settings) as found:
        yield with_accounts(found)


def test_a_first_model_is_learnt_in_the_page(visit: Visit, empty: Running, mini_dataset: Path) -> None:
    assert "no model yet: learn the first at" in greeting(empty.service, "part.png")[0]
    visitor = visit(service=empty)
    page = visitor.login("egon")
    page.get_by_role("link", name="Learn a model").click()
    page.wait_for_load_state()
    page.set_input_files("#folder", str(mini_dataset / "train"))
    expect(page.locator("#count")).to_contain_text("16 images")
    expect(page.locator("#findings")).not_to_contain_text("Looking")
    expect(page.locator("#name")).to_have_value("part")
    page.get_by_label("Name of the new model").fill("disc")
    page.keyboard.press("Tab")
    expect(page.locator("#count")).to_have_text("")  # the images came in under the other name
    page.get_by_label("Name of the new model").fill("part")
    page.keyboard.press("Tab")
    expect(page.locator("#count")).to_contain_text("16 images")
    page.get_by_label("Kind of model").select_option("fast")
    assert visitor.violations() == []
    page.get_by_role("button", name="Learn the model part").click()
    expect(page.locator("#done-title")).to_contain_text("part has learnt", timeout=60_000)
    expect(page.locator("#card")).to_contain_text("Not tested")
    assert visitor.violations() == []
    assert empty.service.models.names() == []
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("It serves from now on")).to_be_visible()
    page.get_by_role("link", name="Try an image").click()
    page.wait_for_load_state()
    page.set_input_files("#files", str(mini_dataset / "test" / "stain" / "000.png"))
    expect(page.locator("#verdict .verdict")).to_have_text("✕BAD")
    page.locator(".picture").click(position={"x": 100, "y": 100})
    expect(page.locator("#nearest figcaption").nth(1)).to_contain_text("on good image 0")
    name = page.locator("#nearest figcaption").nth(1).inner_text()
    assert ".png" in name
    empty.service.models.refresh()
    assert empty.service.models.names() == ["part"]


def test_reviewed_good_parts_join_and_it_goes_back(visit: Visit, line: Running, mini_dataset: Path) -> None:
    with line.login("rita", PASSWORD) as rita:
        for number in range(3):
            one = hand_in(line, (mini_dataset / "test" / "good" / f"{number:03d}.png").read_bytes())
            rita.post(f"/api/v1/inspections/{one['id']}/reviews", json={"label": "GOOD"})
    before = line.service.models.entry("disc").version
    visitor = visit("large")
    page = visitor.login("egon")
    page.goto("/learn")
    page.get_by_label("with 3 parts that were reviewed").check()
    page.get_by_role("button", name="Learn on from 3 images").click()
    expect(page.locator("#done-title")).to_contain_text("disc has learnt", timeout=60_000)
    expect(page.locator("#compared")).to_contain_text("Good parts rejected")
    assert visitor.violations() == []
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("It serves from now on")).to_be_visible()
    after = line.service.models.entry("disc").version
    assert after != before
    learnt = line.service.models.get("disc").predictor.model
    assert learnt.provenance.good_images == 19
    assert learnt.provenance.parent == before
    page.get_by_role("button", name="Back to the version before").click()
    expect(page.get_by_text("in use again")).to_be_visible()
    assert line.service.models.entry("disc").version == before


def test_what_can_not_be_learnt_from_is_said_and_stopping_leaves_the_images(
    line: Running, mini_dataset: Path
) -> None:
    place = "/api/v1/learning/other"
    good = sorted((mini_dataset / "train" / "good").iterdir())
    with line.login("egon", PASSWORD) as egon:
        assert egon.post(place, json={"preset": "fast"}).status_code == 409
        assert egon.post(place, json={"preset": "patchcore"}).status_code == 422
        assert egon.post(place, json={"preset": None}).status_code == 404
        files = [("image", (f"../../{path.name}", path.read_bytes())) for path in good[:6]]
        assert egon.post(f"{place}/images", files=files).json()["images"] == 6
        assert egon.post(f"{place}/images", files=files).json()["images"] == 6  # the same ones again
        kept = line.service.learning.new_images("other")
        assert {path.parent for path in kept} == {line.service.settings.folder / "learning" / "other" / "new"}
        egon.post(f"{place}/images", files=[("image", ("broken.png", b"no image"))])
        found = egon.get(f"{place}/check").json()
        assert found[0]["severity"] == "error"
        assert str(line.service.settings.folder) not in json.dumps(found)
        assert egon.post(place, json={"preset": "fast"}).status_code == 202
        wait_until(lambda: egon.get(place).json()["job"]["state"] != "running", 60)
        job = egon.get(place).json()["job"]
        assert job["state"] == "failed"
        assert "broken" in job["message"]
        assert str(line.service.settings.folder) not in job["message"]
        assert egon.delete(f"{place}/images").status_code == 204
        egon.post(f"{place}/images", files=files)
        assert egon.post(place, json={"preset": "fast"}).status_code == 202
        assert egon.post(place, json={"preset": "fast"}).status_code == 409  # one at a time
        assert egon.post(f"{place}/stop").status_code == 200
        wait_until(lambda: egon.get(place).json()["job"]["state"] == "stopped", 60)
        assert egon.get(place).json()["images"] == 6
        assert egon.post(f"{place}/stop").status_code == 404
        assert "other" not in line.service.models.names()


def test_a_model_that_was_learnt_here_serves_after_a_new_start(
    empty: Running, mini_dataset: Path, tmp_path: Path
) -> None:
    from goodparts import Inspector

    model = Inspector("fast").fit(sorted((mini_dataset / "train" / "good").iterdir())[:4]).model
    empty.service.models.add("here", model, "tests", action="model.learnt", note="", activate=False)
    assert empty.service.models.names() == []
    with empty.login("egon", PASSWORD) as egon:
        assert egon.post("/api/v1/models/here/activate", json={"version": model.identity}).status_code == 200
    with running(empty.service.settings) as again:
        assert again.service.models.names() == ["here"]
        assert again.service.models.get("here").version == model.identity
