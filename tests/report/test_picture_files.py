"""Where pictures go: never out of their folders, never in the place of another file, no two in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodparts.report import pictures
from goodparts.report.picture_files import clean_name, is_result, names_beside, picture_paths, unique_names


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ([("", "a"), ("", "a"), ("", "a_2")], ("a", "a_2", "a_2_2")),
        ([("", "a_2"), ("", "a"), ("", "a")], ("a_2", "a", "a_3")),
        ([("bent", "A"), ("Bent", "a")], ("bent/A", "Bent/a_2")),
        ([("", "e\N{COMBINING ACUTE ACCENT}"), ("", "é")], ("e\N{COMBINING ACUTE ACCENT}", "é_2")),
        ([("..", "x"), (".", "..")], ("_/x", "_/_")),
        ([("", "../../x"), ("", "..\\x")], (".._.._x", ".._x")),
        ([("", "caf\udce9"), ("", "caf\udce8")], ("caf%E9", "caf%E8")),
        ([("", "日本語 (1)#?"), ("", "new\nline")], ("日本語 (1)#?", "new\nline")),
    ],
)
def test_names(wanted: list[tuple[str, str]], names: tuple[str, ...]) -> None:
    assert unique_names(wanted) == names


@pytest.mark.parametrize("letter", ["a", "é", "語", "\udce9"])
def test_long_names_leave_room_for_suffix_and_number(letter: str) -> None:
    names = unique_names([("", letter * 255)] * 12)
    assert len(set(names)) == 12
    for name in names:
        assert len(f"{name}.tiff".encode()) <= 255
    assert clean_name("a" * 250) == "a" * 250


def test_no_picture_takes_the_place_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder is given for results, and however the images are named."""
    for name in ("x.png", "in/x.png", "masks/x.png", "panels/in/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path / "in")
    for images in (
        ["../x.png", "x.png"],
        ["../masks/x.png"],
        ["../link/masks/x.png"],
        [str(tmp_path / "panels/in/x.png"), "x.png"],
    ):
        paths = [Path(image) for image in images]
        names = names_beside(paths, Path(".."))
        assert len(set(names)) == len(paths)
        places = [place for name in names for place in picture_paths(Path(".."), name).values()]
        assert not [place for place in places if place.exists()]
        for place in places:
            assert place.resolve().parent.is_relative_to(tmp_path / place.parts[1])


def test_only_results_of_ours_are_replaced(tmp_path: Path) -> None:
    image = tmp_path / "000.png"
    image.touch()
    out = tmp_path / "out"
    pictures.save_mask(out / "masks" / "000.png", np.ones((4, 4), bool))
    assert names_beside([image], out) == ("000",)
    (out / "maps").mkdir()
    (out / "maps" / "000.tiff").write_text("somebody's measurements")
    assert names_beside([image], out) == ("000_2",)


def test_results_are_known_by_themselves(tmp_path: Path) -> None:
    pictures.save_panel(tmp_path / "panel.png", Image.new("RGB", (300, 200)))
    pictures.save_map(tmp_path / "map.tiff", np.zeros((300, 200), np.float32))
    pictures.save_mask(tmp_path / "mask.png", np.zeros((300, 200), bool))
    Image.new("RGB", (300, 200)).save(tmp_path / "image.png")
    Image.new("RGB", (300, 200)).save(tmp_path / "image.tif", software="camera")
    shutil.copy(tmp_path / "mask.png", tmp_path / "copy.png")
    found = {path.name for path in tmp_path.iterdir() if is_result(path)}
    assert found == {"panel.png", "map.tiff", "mask.png", "copy.png"}
    assert not is_result(tmp_path / "nothing.png")
