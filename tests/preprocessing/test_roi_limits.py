"""Regions of interest that would take long or much memory are refused at once, and nothing endless is repeated."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodparts.errors import RecipeError
from goodparts.preprocessing.roi import enclosed
from goodparts.preprocessing.roi_file import read_roi, roi_hash

LONG = "x" * 10_000
DIGITS = "9" * 4000
LINE = "[[0,0],[9,0],[9,9]]"


def zone(**more: Any) -> dict[str, Any]:
    return {"name": "a", "polygons": [[[0, 0], [9, 0], [9, 9]]], **more}


def refused(path: Path, content: str | bytes, size: tuple[int, int] = (256, 256)) -> str:
    """What is said of a file that holds that; in less than a second, and not at length."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.perf_counter()
    with pytest.raises(RecipeError) as caught:
        read_roi(path, size)
    assert time.perf_counter() - began < 1
    message = str(caught.value)
    assert message.startswith(f"roi: {path}: ")
    assert len(message) < 700 + len(str(path))
    return message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            f'{{"size":[10000,10000],"zones":[{{"name":"a","polygons":[{LINE}]}}]}}',
            "the limit of 32,000,000 pixels",
        ),
        (
            f'{{"size":[200000,200000],"zones":[{{"name":"a","polygons":[{LINE}]}}]}}',
            "the limit of 100,000,000",
        ),
        (
            f'{{"size":[{DIGITS},1],"zones":[{{"name":"a","polygons":[{LINE}]}}]}}',
            "size: expected [width, height]",
        ),
        (
            f'{{"size":"{LONG}","zones":[{{"name":"a","polygons":[{LINE}]}}]}}',
            "size: expected [width, height]",
        ),
        (f'{{"zones":[{{"name":"a","polygons":[[[{DIGITS},0],[1,2],[3,4]]]}}]}}', "expected points [x, y]"),
        ('{"zones":[{"name":"a","polygons":[[[%s,0],[1,2],[3,4]]]}]}' % ("9" * 5000), "is not JSON"),
        (f'{{"zones":[{{"name":"a","polygons":["{LONG}"]}}]}}', "expected polygons of at least 3 points"),
        (
            '{{"zones":[{{"name":"a","polygons":[{}{}]}}]}}'.format("[" * 800, "]" * 800),
            "expected polygons of at least 3",
        ),
        ('{"zones":' + "[" * 10_000, "is not JSON"),
        ('{"zones":' + '{"a":' * 100_000, "is not JSON"),
        ('{"zones":' + "[" * 1_000_000, "more than 20,000 points"),
        (f'{{"shapes":[{{"shape_type":"{LONG}"}}]}}', "a shape of LabelMe is a 'xxx"),
        (json.dumps({"zones": [zone(name=LONG)]}), "expected a name of at most 40 letters"),
        (json.dumps({"zones": [zone(**{LONG: 1})]}), "no key 'xxx"),
        (json.dumps({"zones": [zone()], LONG: 1}), "no key 'xxx"),
        (json.dumps({"zones": [zone(name=str(n)) for n in range(101)]}), "has 101 zones; 100 is the most"),
        (
            json.dumps({"size": [5000, 5000], "zones": [zone(name=str(n)) for n in range(50)]}),
            "more than 500,000,000 pixels together",
        ),
        (json.dumps({"zones": [zone()]}).encode("utf-16"), "it is UTF-16"),
        (b'{"zones": "\xfc"}', "not in UTF-8; line 1"),
    ],
    ids=str,
)
def test_what_is_endless_is_refused_at_once(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in refused(tmp_path / "zones.json", content)


@pytest.mark.parametrize("points", [20_001, 1_000_000])
def test_many_points_are_refused(tmp_path: Path, points: int) -> None:
    row = ",".join(f"[{n % 256},{n * 7 % 256}]" for n in range(points))
    text = f'{{"zones":[{{"name":"a","polygons":[[{row}]]}}]}}'
    assert "has more than 20,000 points" in refused(tmp_path / "zones.json", text)


def test_noise_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    pixels = np.zeros((1500, 1500), np.uint8)
    pixels[:, ::2] = 255
    Image.fromarray(pixels).save(path)
    assert "has 1,125,000 separate pieces along its rows" in refused(path, path.read_bytes())


def test_a_picture_in_a_file_of_labelme_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    path = tmp_path / "labelme.json"
    shape = {"label": "rim", "points": [[1, 1], [90, 1], [90, 60]], "shape_type": "polygon"}
    path.write_text(json.dumps({"shapes": [shape], "imageData": "A" * 20_000_000}), encoding="utf-8")
    assert read_roi(path, (100, 100)).names == ("rim",)
    assert len(roi_hash(path)) == 64


def test_a_drawing_as_large_as_the_images_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps({"size": [9000, 4000], "zones": [zone()]}), encoding="utf-8")
    assert read_roi(path, (4000, 9000)).size == (4000, 9000)
    with pytest.raises(RecipeError, match="limit of 32,000,000 pixels"):
        read_roi(path, (400, 900))


def test_many_crossings_are_odd_or_even() -> None:
    comb = tuple((x, y) for n in range(600) for x, y in ((n / 100, 0.0), (n / 100 + 0.005, 8.0)))
    inside = enclosed((*comb, (10.0, 8.0), (10.0, 9.0), (0.0, 9.0)), (9, 12))
    assert inside.dtype == bool
    assert inside.shape == (9, 12)
    assert inside[8, :10].all()
    assert not inside[8, 10:].any()
