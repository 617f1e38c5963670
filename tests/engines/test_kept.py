"""What this machine keeps of compiled graphs: whole or not at all, the user's own, within bounds."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from goodparts.engines import kept

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_written_is_read(cache: Path) -> None:
    name = kept.name_of("model", "f32")
    assert kept.read(name) is None
    kept.write(name, CONTENT)
    found = kept.read(name)
    assert found is not None
    assert found.tobytes() == CONTENT
    assert found.ctypes.data % 64 == 0
    assert [path.name for path in cache.iterdir()] == [name]


def test_every_part_counts_and_so_does_where_it_ends() -> None:
    names = [kept.name_of(*parts) for parts in (("a", "b"), ("a", "c"), ("ab",), ("a", "b", ""), ("b", "a"))]
    assert len(set(names)) == len(names)
    assert names[0] == kept.name_of("a", "b")


def test_another_program_finds_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.name_of("a")
    monkeypatch.setattr(kept, "_program", lambda: "changed by a line")
    assert kept.name_of("a") != before


@pytest.mark.parametrize(
    "module",
    [
        "bank/search_graph.py",
        "engines/openvino.py",
        "features/features_graph.py",
        "model/model.py",
        "preprocessing/preprocessor.py",
    ],
)
def test_a_changed_letter_of_a_module_that_makes_graphs_tells_the_program(
    module: str, tmp_path: Path
) -> None:
    package = Path(kept.__file__).parents[1]
    for name in ("one", "same", "other"):
        path = tmp_path / name / module
        path.parent.mkdir(parents=True)
        content = (package / module).read_bytes()
        path.write_bytes(content[:-2] + b"#\n" if name == "other" else content)
        os.utime(path, (0, 0))
    one, same, other = (kept._program(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: b"X" + data[1:],
        lambda data: data[:8] + b"\xff" * 8 + data[16:],  # a length beyond all memory
    ],
    ids=["shorter", "longer", "stump", "empty", "a bit", "other kind", "length"],
)
def test_what_is_damaged_is_not_read(cache: Path, damage: object) -> None:
    assert callable(damage)
    name = kept.name_of("model")
    kept.write(name, CONTENT)
    path = cache / name
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read(name) is None
    kept.write(name, CONTENT)
    found = kept.read(name)
    assert found is not None
    assert found.tobytes() == CONTENT


@pytest.mark.parametrize("word", ["off", "OFF", "0", " no "])
def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv(kept.VARIABLE, word)
    monkeypatch.chdir(tmp_path)
    kept.write(kept.name_of("model"), CONTENT)
    assert kept.folder() is None
    assert kept.read(kept.name_of("model")) is None
    assert list(tmp_path.iterdir()) == []


def test_without_a_word_it_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(kept.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = kept.folder()
    assert found is not None
    assert (found.parent.name, found.name) == ("goodparts", "compiled")
    if sys.platform == "linux":
        assert found == tmp_path / "goodparts" / "compiled"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows keeps others out of a profile by itself")
def test_a_folder_that_others_can_write_into_is_not_used(cache: Path) -> None:
    name = kept.name_of("model")
    kept.write(name, CONTENT)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    assert kept.read(name) is None
    kept.write(kept.name_of("another"), CONTENT)
    assert [path.name for path in cache.iterdir()] == [name]
    cache.chmod(0o755)
    assert kept.read(name) is not None


def test_a_place_that_cannot_be_written_ends_nothing(cache: Path) -> None:
    cache.write_text("a file in its place")
    kept.write(kept.name_of("model"), CONTENT)
    assert kept.read(kept.name_of("model")) is None
    assert cache.read_text() == "a file in its place"


def test_those_used_least_lately_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LIMIT", int(3.5 * len(CONTENT)))
    names = [kept.name_of(str(number)) for number in range(4)]
    for age, name in enumerate(names[:3]):
        kept.write(name, CONTENT)
        os.utime(cache / name, (1000 + age, 1000 + age))
    others = cache / "notes.txt"
    others.write_text("of somebody else")
    assert kept.read(names[0]) is not None  # used just now
    kept.write(names[3], CONTENT)
    assert {path.name for path in cache.iterdir()} == {names[0], names[2], names[3], others.name}


def test_what_is_larger_than_all_may_be_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LIMIT", len(CONTENT) - 1)
    kept.write(kept.name_of("model"), CONTENT)
    assert not cache.exists()


def test_several_write_and_read_at_once(cache: Path) -> None:
    name = kept.name_of("model")
    contents = [np.full(200_000, number, dtype=np.uint8).tobytes() for number in range(4)]
    seen: list[bytes] = []
    begin = threading.Barrier(8)

    def write(content: bytes) -> None:
        begin.wait()
        for _ in range(10):
            kept.write(name, content)

    def read() -> None:
        begin.wait()
        for _ in range(20):
            found = kept.read(name)
            if found is not None:
                seen.append(found.tobytes())

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = kept.read(name)
    assert last is not None
    assert {last.tobytes(), *seen} <= set(contents)
    assert [path.name for path in cache.iterdir()] == [name]
