"""Images in, verdicts out, and everything findable later: the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from serving import Running

from goodparts import Inspector

PLACE = "/api/v1/models/disc/inspections"


def pixels_of(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)))


def post(live: Running, image: bytes, **query: Any) -> dict[str, Any]:
    with live.http() as http:
        answer = http.post(PLACE, content=image, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_answer_is_what_inspect_says(live: Running, fitted: Inspector, bad_png: bytes) -> None:
    found, expected = post(live, bad_png), fitted.inspect(bad_png)
    assert found["verdict"] == expected.verdict == "BAD"
    assert found["score"] == pytest.approx(expected.score, rel=1e-4)
    assert found["threshold"] == expected.threshold
    assert found["p_value"] == expected.p_value
    assert [tuple(region["box"]) for region in found["regions"]] == [one.box for one in expected.regions]
    assert found["model_version"] == fitted.model.identity
    assert (found["width"], found["height"]) == (96, 96)
    assert found["recorded"] is found["image_kept"] is True


def test_an_inspection_is_found_again_as_it_was_answered(live: Running, good_png: bytes) -> None:
    with live.http() as http:
        info = {"part": "A-17", "line": "3", "camera": "top", "metadata": {"shift": 2, "text": "\u0000 ü"}}
        files = {"image": ("x.png", good_png), "info": (None, json.dumps(info))}
        answered = http.post(PLACE, files=files, headers={"X-Request-ID": "abc-1"}).json()
        again = http.get(answered["links"]["self"]).json()
        assert again == answered
        assert (again["part"], again["line"], again["camera"]) == ("A-17", "3", "top")
        assert again["metadata"] == info["metadata"]
        assert again["request"] == "abc-1"
        assert http.get("/api/v1/inspections", params={"part": "A-17"}).json()["items"][0] == answered
        assert http.get(answered["links"]["image"]).content == good_png


def test_pictures_of_what_was_found(live: Running, fitted: Inspector, bad_png: bytes) -> None:
    expected = fitted.inspect(bad_png)
    found = post(live, bad_png, include=["mask", "map", "heatmap", "panel"])
    assert set(found["pictures"]) == {"mask", "map", "heatmap", "panel"}
    with live.http() as http:
        place = found["links"]["self"]
        mask = http.get(f"{place}/mask.png").content
        assert np.array_equal(pixels_of(mask) > 0, expected.mask)
        assert base64.b64decode(found["pictures"]["mask"]) == mask
        exact = pixels_of(base64.b64decode(found["pictures"]["map"]))
        np.testing.assert_allclose(exact, expected.anomaly_map, rtol=1e-3, atol=1e-3)
        kept = pixels_of(http.get(f"{place}/heatmap.png").content).astype(int)
        at_once = pixels_of(base64.b64decode(found["pictures"]["heatmap"])).astype(int)
        assert np.abs(kept - at_once).max() <= 4  # half floats
        panel = http.get(f"{place}/panel.png")
        assert panel.headers["content-type"] == "image/png"
        assert pixels_of(panel.content).shape[1] > 96


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"no image at all", "text file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "image"),
    ],
)
def test_what_is_no_image_is_refused_in_words(live: Running, content: bytes, words: str) -> None:
    with live.http() as http:
        answer = http.post(PLACE, content=content)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_a_batch_goes_on_where_one_image_fails(live: Running, good_png: bytes, bad_png: bytes) -> None:
    files = [("image", ("a", good_png)), ("image", ("b", b"none")), ("image", ("c", bad_png))]
    info = json.dumps([{"part": "b1"}, {}, {"part": "b3"}])
    with live.http() as http:
        answer = http.post("/api/v1/models/disc/batches", files=[*files, ("info", (None, info))])
    assert answer.status_code == 200, answer.text
    first, second, third = answer.json()["items"]
    assert (first["inspection"]["part"], third["inspection"]["part"]) == ("b1", "b3")
    assert (first["inspection"]["verdict"], third["inspection"]["verdict"]) == ("GOOD", "BAD")
    assert second["inspection"] is None
    assert second["error"]["code"] == "invalid"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, "form"),
        ({"files": {"other": ("a", b"x")}}, "fields `image`"),
        ({"files": [("image", ("a", b"x")), ("image", ("b", b"x"))]}, "at most 1 image"),
        ({"files": {"info": (None, "{}")}}, "expected an image"),
        ({"files": {"image": ("a", b"x"), "info": (None, "[1]")}}, "JSON object"),
        ({"files": {"image": ("a", b"x"), "info": (None, '{"part": NaN}')}}, "JSON object"),
        ({"files": {"image": ("a", b"x"), "info": (None, '{"part": 3}')}}, "info: part"),
        ({"files": {"image": ("a", b"x"), "info": (None, '{"colour": 3}')}}, "colour"),
        ({"files": {"image": ("a", b"x"), "info": (None, "[" * 10000)}}, "JSON object"),
        ({"files": {"image": ("a", b"x"), "info": (None, '{"part": "a\\u0000b"}')}}, "control"),
        ({"content": b"x", "params": {"part": "a\0b"}}, "control"),
        ({"content": b"x", "params": {"include": "all"}}, "include"),
        ({"content": b"x", "params": {"deadline": "-1"}}, "deadline"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_in_words(
    live: Running, options: dict[str, Any], words: str
) -> None:
    with live.http() as http:
        answer = http.post(PLACE, **options)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]


def test_pages_have_every_inspection_once_newest_first(live: Running, good_png: bytes) -> None:
    made = [post(live, good_png, part="paged", line=str(number))["id"] for number in range(7)]
    with live.http() as http:
        place, seen = "/api/v1/inspections?part=paged&limit=3", []
        while place:
            page = http.get(place).json()
            seen += [row["id"] for row in page["items"]]
            place = page["next"]
    assert seen == made[::-1]


def test_filters(live: Running, good_png: bytes, bad_png: bytes) -> None:
    good, bad = post(live, good_png, part="filtered"), post(live, bad_png, part="filtered")

    def ids(**query: Any) -> list[str]:
        with live.http() as http:
            answer = http.get("/api/v1/inspections", params={"part": "filtered", **query})
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["items"]]

    assert ids() == [bad["id"], good["id"]]
    assert ids(verdict="BAD") == [bad["id"]]
    assert ids(verdict="BAD", model="disc", borderline=False, review="none") == [bad["id"]]
    assert ids(model="other") == ids(verdict="RECHECK") == ids(borderline=True) == ids(review="BAD") == []
    assert ids(**{"from": bad["time"]}) == [bad["id"]] or bad["time"] == good["time"]
    assert ids(**{"to": good["time"]}) == []
    assert ids(**{"from": "2020-01-01", "to": "2020-01-02T00:00:00+01:00"}) == []
    with live.http() as http:
        for query in (
            {"from": "yesterday"},
            {"limit": 0},
            {"limit": 201},
            {"before": "x"},
            {"verdict": "bad"},
        ):
            assert http.get("/api/v1/inspections", params=query).status_code == 422


def test_the_last_review_counts_and_earlier_ones_stay(live: Running, good_png: bytes) -> None:
    found = post(live, good_png, part="reviewed")
    place = f"{found['links']['self']}/reviews"
    with live.login() as browser:
        for label in ("BAD", "GOOD"):
            answer = browser.post(place, json={"label": label, "comment": "seen"})
            assert answer.status_code == 201, answer.text
        labels = [(one["label"], one["account"], one["comment"]) for one in browser.get(place).json()]
        assert labels == [("BAD", "admin", "seen"), ("GOOD", "admin", "seen")]
        assert browser.get(found["links"]["self"]).json()["review"] == "GOOD"
        assert (
            browser.post(f"/api/v1/inspections/{'0' * 32}/reviews", json={"label": "BAD"}).status_code == 404
        )
        assert browser.post(place, json={"label": "FINE"}).status_code == 422


def test_an_export_in_the_layout_of_mvtec(
    live: Running, good_png: bytes, bad_png: bytes, tmp_path: Path
) -> None:
    good, bad = post(live, good_png, part="=exported"), post(live, bad_png, part="exported")
    with live.login() as browser:
        browser.post(f"{good['links']['self']}/reviews", json={"label": "BAD"})
        archive = read_zip(browser.get("/api/v1/export", params={"from": good["time"]}))
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert {f"disc/test/bad/{good['id']}.png", f"disc/test/bad/{bad['id']}.png"} <= names
        assert f"found/disc/{bad['id']}_mask.png" in names
        assert archive.read(f"disc/test/bad/{bad['id']}.png") == bad_png
        assert archive.read("left_out.csv") == b"id,reason\n"
        table = archive.read("inspections.csv").decode()
        assert f"{bad['id']}," in table
        assert ",'=exported," in table  # no spreadsheet runs it


def test_an_export_as_a_report(live: Running, bad_png: bytes) -> None:
    bad = post(live, bad_png)
    with live.login() as browser:
        query = {"layout": "report", "from": bad["time"], "verdict": "BAD"}
        archive = read_zip(browser.get("/api/v1/export", params=query))
    panel = Image.open(io.BytesIO(archive.read(f"panels/{bad['id']}.png")))
    assert panel.width > 96
    assert f"panels/{bad['id']}.png" in archive.read("report.html").decode()


def read_zip(answer: httpx.Response) -> zipfile.ZipFile:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(answer.content))


def test_there_is_nothing_elsewhere(live: Running) -> None:
    with live.http() as http:
        for place in (
            "/nothing",
            "/docs",
            "/api/v1/inspections/../../etc/passwd",
            f"/api/v1/inspections/{'0' * 32}",
            f"/api/v1/inspections/{'0' * 32}/image",
            f"/api/v1/inspections/{'0' * 32}/panel.png",
            "/api/v1/models/none",
            "/api/v1/models/none/drift",
        ):
            answer = http.get(place)
            assert answer.status_code == 404, place
            assert answer.json()["error"]["code"] == "not_found"
        assert http.get("/api/v1/inspections/%2e%2e%2fetc").status_code in (404, 422)
        assert http.post("/api/v1/models/none/inspections", content=b"x").status_code == 404


def test_models_metrics_events_and_health(live: Running, good_png: bytes, fitted: Inspector) -> None:
    post(live, good_png)
    with live.login() as browser:
        (model,) = browser.get("/api/v1/models").json()
        assert (model["name"], model["version"], model["loaded"]) == ("disc", fitted.model.identity, True)
        page = browser.get("/api/v1/models/disc").json()
        assert page["card"]["identity"] == fitted.model.identity
        assert [one["active"] for one in page["versions"]] == [True]
        drift = browser.get("/api/v1/models/disc/drift").json()
        assert drift["parts"] >= 1
        assert 0 <= drift["p_value_distance"] <= 1
        text = browser.get("/metrics").text
        for name in (
            'goodparts_verdicts_total{model="disc",verdict="GOOD"}',
            "goodparts_queue_limit 32.0",
            "goodparts_storage_degraded 0.0",
            'goodparts_inspection_seconds_bucket{le="0.005",model="disc",stage="wait"}',
            'goodparts_p_value_distance{model="disc"}',
        ):
            assert name in text
        assert [one["kind"] for one in browser.get("/api/v1/events").json()][-1] == "model.taken"
        assert browser.get("/readyz").json() == {"status": "ready"}
        assert browser.get("/healthz").json() == {"status": "ok"}
