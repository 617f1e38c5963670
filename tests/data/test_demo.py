"""`goodparts.data.demo`: the rendered data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageFilter

from goodparts.data import demo_defects, demo_part
from goodparts.data.dataset import read_dataset
from goodparts.data.demo import write_demo
from goodparts.data.demo_defects import DEFECTS
from goodparts.errors import DatasetError, OutputError

SMALL = {"train": 3, "good": 2, "bad": 6, "seed": 5, "size": 128}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set. Read only."""
    return write_demo(tmp_path_factory.mktemp("demo") / "new" / "set", **SMALL)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_layout_is_that_of_mvtec_ad(small: Path) -> None:
    bad = {"broken": 2, "contamination": 2, "dent": 1, "scratch": 1}
    expected = [
        "demo.json",
        *(f"train/good/{i:03}.png" for i in range(3)),
        "test/good/000.png",
        "test/good/001.png",
    ]
    for name, count in bad.items():
        for i in range(count):
            expected += [f"test/{name}/{i:03}.png", f"ground_truth/{name}/{i:03}_mask.png"]
    assert sorted(contents(small)) == sorted(expected)


def test_the_package_reads_it(small: Path) -> None:
    dataset = read_dataset(small)
    assert len(dataset.train) == 3
    assert Counter(sample.label for sample in dataset.test) == {False: 2, True: 6}
    assert all(bool(sample.masks) == sample.label for sample in dataset.test)


def test_images_are_rgb_and_exposed_like_photographs(small: Path) -> None:
    for path in [*small.glob("train/*/*.png"), *small.glob("test/*/*.png")]:
        image = pixels(path)
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert 50 < image.mean() < 120  # bright metal on a dark mat
        assert (image > 250).mean() < 0.05
        assert image.std() > 30


def test_masks_are_binary_and_neither_empty_nor_everything(small: Path) -> None:
    masks = list(small.glob("ground_truth/*/*.png"))
    assert len(masks) == 6
    for path in masks:
        mask = pixels(path)
        assert mask.shape == (128, 128)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        assert demo_defects.SMALLEST < (mask > 0).mean() < 0.15


@pytest.mark.parametrize("size", [128, 200])
@pytest.mark.parametrize("strength", [0.1, 0.9])
@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_a_mask_is_where_the_pictures_differ(name: str, strength: float, size: int) -> None:
    seeds = (1, 2, 3)
    clean = demo_part.render(seeds, size)
    flawed = demo_part.render(
        seeds, size, lambda scene, n: DEFECTS[name](scene, n, default_rng((9, size)), strength)
    )
    mask = demo_defects.visible_mask(flawed - clean) > 0
    difference = np.abs(flawed - clean).max(-1)
    assert clean.dtype == flawed.dtype == np.float32
    assert mask.any()
    near = Image.fromarray(np.uint8(difference > demo_defects.VISIBLE)).filter(ImageFilter.MaxFilter(7))
    assert np.asarray(near)[mask].all()  # nowhere further than three pixels from a visible difference
    assert np.quantile(difference[~mask], 0.999) < demo_defects.VISIBLE
    assert difference[~mask].mean() < 0.3 < demo_defects.VISIBLE / 2 < difference[mask].mean()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([slice(100, 120)], slice(98, 122)),  # averaged over three pixels, then one wider
        ([slice(100, 120), slice(123, 140)], slice(98, 142)),  # a small gap is closed
        ([slice(100, 101)], slice(98, 103)),
        ([], slice(0, 0)),
    ],
)
def test_visible_differences_are_closed_and_widened(rows: list[slice], expected: slice) -> None:
    difference = np.zeros((512, 512, 3), np.float32)
    wanted = np.zeros((512, 512), np.uint8)
    for block in rows:
        difference[block, :, 1] = -40
    wanted[expected] = 255
    np.testing.assert_array_equal(demo_defects.visible_mask(difference), wanted)


@pytest.mark.parametrize("level", [demo_defects.VISIBLE - 0.5, demo_defects.VISIBLE + 1])
def test_what_is_visible_is_a_matter_of_level(level: float) -> None:
    mask = demo_defects.visible_mask(np.full((64, 64, 3), level, np.float32))
    assert (mask > 0).all() == (level > demo_defects.VISIBLE)


def test_bad_images_show_their_defect_where_the_mask_says(small: Path) -> None:
    names = list(DEFECTS)
    for number in range(SMALL["bad"]):
        name, file = names[number % 4], f"{number // 4:03}"
        clean = demo_part.render((SMALL["seed"], 2, number), SMALL["size"])
        shown = pixels(small / "test" / name / f"{file}.png").astype(np.float32)
        mask = pixels(small / "ground_truth" / name / f"{file}_mask.png") > 0
        difference = np.abs(shown - clean).max(-1)
        assert difference[mask].mean() > 2 * difference[~mask].mean()
        assert difference[~mask].mean() < 4  # noise only


def test_good_images_vary_but_little_in_brightness(small: Path) -> None:
    images = [pixels(path).astype(float) for path in sorted(small.glob("*/good/*.png"))]
    means = [image.mean() for image in images]
    assert max(means) - min(means) < 12
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.abs(image - other).mean() > 3


def test_the_same_seed_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    assert contents(write_demo(tmp_path / "again", **SMALL)) == contents(small)


def test_one_worker_gives_the_same_bytes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert contents(write_demo(tmp_path / "alone", **SMALL)) == contents(small)


def test_an_image_depends_on_its_number_and_the_seed_only(small: Path, tmp_path: Path) -> None:
    fewer = contents(write_demo(tmp_path / "fewer", **{**SMALL, "train": 1, "good": 1, "bad": 4}))
    other = contents(write_demo(tmp_path / "other", **{**SMALL, "train": 1, "good": 1, "bad": 4, "seed": 6}))
    for name in set(fewer) - {"demo.json"}:
        assert fewer[name] == contents(small)[name]
        assert fewer[name] != other[name]


def test_the_same_set_is_reused(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    calls: list[tuple[int, int]] = []
    assert write_demo(small, **SMALL, progress=lambda done, total: calls.append((done, total))) == small
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    assert calls == []


@pytest.mark.parametrize("change", [{"seed": 6}, {"train": 4}, {"good": 1}, {"bad": 7}, {"size": 129}])
def test_a_set_made_otherwise_is_refused(small: Path, change: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="made with other arguments"):
        write_demo(small, **{**SMALL, **change})


@pytest.mark.parametrize("damage", ["remove", "change", "add", "no record", "broken record"])
def test_a_set_changed_since_is_refused(tmp_path: Path, damage: str) -> None:
    arguments = {"train": 1, "good": 1, "bad": 0, "size": 64}
    root = write_demo(tmp_path / "set", **arguments)
    image, record = root / "train/good/000.png", root / "demo.json"
    if damage == "remove":
        image.unlink()
    elif damage == "change":
        image.write_bytes((root / "test/good/000.png").read_bytes())
    elif damage == "add":
        (image.parent / "extra.png").write_bytes(image.read_bytes())
    elif damage == "no record":
        record.unlink()
    else:
        record.write_bytes(b"\xff{")
    before = contents(root)
    with pytest.raises(DatasetError, match=r"set: expected a new or empty folder"):
        write_demo(root, **arguments)
    assert contents(root) == before


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetError, match="found other files"):
        write_demo(tmp_path, train=1, good=0, bad=0, size=64)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="set"):
        write_demo(tmp_path / "set", train=1, good=0, bad=0, size=64)


def test_an_empty_folder_and_a_killed_run_are_used(tmp_path: Path) -> None:
    (tmp_path / ".unfinished" / "train").mkdir(parents=True)
    (tmp_path / ".unfinished" / "train" / "half.png").write_bytes(b"half")
    write_demo(tmp_path, train=1, good=0, bad=0, size=64)
    assert sorted(contents(tmp_path)) == ["demo.json", "train/good/000.png"]
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))["train"] == 1


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "set", train=8, good=0, bad=0, size=64, progress=interrupt)
    assert list((tmp_path / "set").iterdir()) == []


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_demo(
        tmp_path, train=2, good=1, bad=1, size=64, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0}, "train must be from 1"),
        ({"good": -1}, "good and bad must be 0 or more"),
        ({"bad": -1}, "good and bad must be 0 or more"),
        ({"seed": -1}, "seed must be from 0"),
        ({"size": 63}, "size must be from 64 to 1024, found 63"),
        ({"size": 1025}, "size must be from 64 to 1024, found 1025"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        write_demo(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()
