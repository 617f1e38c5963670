"""Recipes that somebody wrote: what is wrong with a file is said, quickly, and with what to do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from goodparts import Recipe
from goodparts.errors import RecipeError

LONG = "x" * 10_000


def refused(path: Path) -> str:
    """What is said of a file; in less than a second, and not at length."""
    began = time.perf_counter()
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert time.perf_counter() - began < 1
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 2000
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[\n" * 5000, "nested too deeply"),
        ("x = " + "{a=[" * 1000, "nested too deeply"),
        ("x = " + "[" * 100_000, "100,004 letters"),
        (".".join("a" * 2000) + " = 1", "no dots in their names"),
        ("\n".join(f"{'.'.join('a' * 1000)}.b{n} = 1" for n in range(100)), "no dots in their names"),
        ("seed = " + "9" * 4500, "Exceeds the limit"),
        ("seed = " + "9" * 4000, "seed: expected 0 to"),
        ("seed = 3\n" * 100_000, "larger than 262,144 bytes"),
        (f"{'k' * 4000} = 3", "no such recipe key"),
        (f"framing = '{'v' * 4000}'", "framing: expected one of"),
        (f"image_size = '{'v' * 4000}'", "image_size: expected pixels"),
        (f"tiling = '{'v' * 4000}'", "tiling: expected WIDTHxHEIGHT"),
        (f"augment = ['{'v' * 4000}']", "augment: expected"),
        (f"recipe = '{'v' * 4000}'", "no preset"),
        (f"seed = {{a = '{'v' * 4000}'}}", "seed: expected a whole number"),
        ("layers = {a = 1}", "layers: expected a list"),
        ("tiling = '200000x200000'", "tiling: expected tiles of at most 100,000,000 pixels"),
    ],
    ids=lambda value: value[:20].strip(),
)
def test_what_is_endless_is_refused_at_once_and_not_repeated(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert words in refused(path)


@pytest.mark.parametrize("keys", [{"framing": LONG}, {"backbone": 3 * 10**5000}, {LONG: 3}, {"tiling": LONG}])
def test_what_is_endless_is_not_repeated_of_python_either(keys: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**keys)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "text",
    [r'roi = "C:\Users\me\zones.json"', r'seed = 3  # "fine"' + "\n" + r'roi = "D:\parts\zones.json"'],
)
def test_a_windows_path_in_double_quotes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    message = refused(path)
    assert "not a TOML file" in message
    assert r"write a Windows path in single quotes, such as 'C:\parts\zones.json'" in message


def test_a_windows_path_that_is_toml_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(r'roi = "C:\new\table.json"', encoding="utf-8")  # a line feed and a tab
    message = refused(path)
    assert r"roi: 'C:\new\table.json' has the control character '\n'" in message
    assert "single quotes" in message
    path.write_text(r"roi = 'C:\new\table.json'", encoding="utf-8")
    assert Recipe.load(path).roi == r"C:\new\table.json"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_path_with_a_line_feed_survives_in_a_model() -> None:
    recipe = Recipe(roi="a\nb.json")
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_said(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes("seed = 3\n".encode(encoding))
    message = refused(path)
    assert "it is UTF-16" in message
    assert "Out-File -Encoding utf8" in message


def test_another_code_page_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes("seed = 3\nroi = 'Prüfteil.json'\n".encode("cp1252"))
    message = refused(path)
    assert "not in UTF-8; line 2 has the byte 0xfc" in message


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_a_pipe_or_device_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    assert "is no regular file" in refused(pipe)
    assert "is no regular file" in refused(Path("/dev/zero"))
    with pytest.raises(RecipeError, match="can't be read"):
        Recipe.load("x" * 10_000)
