"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from goodparts import files
from goodparts.errors import GoodpartsError, OutputError

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with files.replacing(path) as stream:
        stream.write(b"first ")
        stream.flush()
        assert not path.exists()
        stream.write(b"second")
    assert contents(tmp_path) == {"model.bin": b"first second"}


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with files.replacing(str(path)) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert contents(tmp_path) == {"model.bin": b"new"}


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "größe 5.txt"
    files.write_text(path, "one\ntwo é\n")
    assert path.read_bytes() == "one\ntwo é\n".encode()  # no carriage returns on Windows either


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError, SystemExit])
def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    expected = OutputError if error is OSError else error

    def write() -> None:
        with files.replacing(path) as stream:
            stream.write(b"half of it")
            raise error

    with pytest.raises(expected):
        write()
    assert contents(tmp_path) == {"model.bin": b"old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "another disk"),
        (errno.EACCES, "a folder you may write to"),
        (errno.EPERM, "a folder you may write to"),
        (errno.EROFS, "a folder you may write to"),
        (errno.EISDIR, "something else has that name"),
        (errno.EIO, "choose another place"),
    ],
)
def test_a_disk_that_fails_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OutputError) as caught:
        files.write_text(path, "new")
    assert str(caught.value).startswith(f"{path}: can't be written ({os.strerror(number)}); ")
    assert advice in str(caught.value)
    assert isinstance(caught.value, GoodpartsError)
    assert contents(tmp_path) == {"model.bin": b"old"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("size", [5000, 3_000_000])
def test_a_disk_that_is_full(tmp_path: Path, size: int) -> None:
    # A limit on the size of files, in a process of its own, fails as a full disk does: in write, flush or close.
    program = (
        "import resource, sys\n"
        "from goodparts import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with files.replacing(sys.argv[1]) as stream:\n"
        "        for first in range(0, int(sys.argv[2]), 1000):\n"
        "            stream.write(b'x' * 1000)\n"
        "except errors.OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", program, str(path), str(size)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith(f"{path}: can't be written (")
    assert "free some space" in run.stdout
    assert contents(tmp_path) == {"model.bin": b"old"}


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken: can't be written"):
        files.write_text(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("file")
    with pytest.raises(OutputError, match="something else has that name"):
        files.write_text(tmp_path / "taken" / "report.html", "text")
    assert contents(tmp_path) == {"taken": b"file"}


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_path_that_names_no_file(path: str) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        files.write_text(path, "text")


@pytest.mark.skipif(
    ROOT or sys.platform == "win32", reason="root may write anywhere; Windows has other rights"
)
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="a folder you may write to"):
        files.write_text(tmp_path / "report.html", "text")
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_writers_side_by_side_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    start = threading.Barrier(8, timeout=20)

    def write(digit: int) -> None:
        start.wait()
        for _ in range(5):
            files.write_text(path, str(digit) * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert set(contents(tmp_path)) == {"result.json"}
    text = path.read_text()
    assert len(text) == 10_000
    assert len(set(text)) == 1


# ---- what a killed process leaves ------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="a kill is another thing there")
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from goodparts import files\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "with files.replacing(here / 'model.bin') as stream, files.staging(here) as inside:\n"
        "    (inside / 'half').write_text('half of it')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    assert files.abandoned(tmp_path) == left
    with files.replacing(tmp_path / "other.bin") as stream:
        stream.write(b"new")
    assert contents(tmp_path) == {"other.bin": b"new"}


def test_an_interrupt_while_tidying_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree
    calls = []

    def interrupted(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), files.staging(tmp_path) as inside:
        (inside / "half").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    """Of a process that runs, of another machine, and files of somebody's own."""
    with files.replacing(tmp_path / "here.bin"):
        (mine,) = tmp_path.iterdir()
        elsewhere = mine.name.replace(mine.name.split("-")[1], "00000000").replace(
            str(os.getpid()), "4194303"
        )
        for name in (elsewhere, ".goodparts-notes.part", ".goodparts", "x.part"):
            (tmp_path / name).write_text("theirs")
        before = set(tmp_path.iterdir())
        assert files.abandoned(tmp_path) == []
        files.remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == before


def test_a_process_that_only_has_the_number_is_another_one(tmp_path: Path) -> None:
    left = tmp_path / files._unfinished_name()
    left.touch()
    os.utime(left, (1e9, 1e9))  # long before this process began
    assert files.abandoned(tmp_path) == [left]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    files.write_text(tmp_path / ("x" * 255), "whole")
    with pytest.raises(OutputError, match="shorter name"):
        files.write_text(tmp_path / ("x" * 256), "text")


def test_a_swap_that_fails_is_undone(tmp_path: Path) -> None:
    for name in ("a", "b", "gone", "new/a", "new/b", "new/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    (tmp_path / "held").mkdir()
    moves = [(None, tmp_path / "gone"), *((tmp_path / "new" / name, tmp_path / name) for name in "abc")]
    with pytest.raises(OutputError, match="taken: can't be written"):
        files.swap([*moves, (tmp_path / "new" / "d", tmp_path / "taken")], held=tmp_path / "held")
    assert [(tmp_path / name).read_text() for name in ("a", "b", "gone")] == ["a", "b", "gone"]
    assert [(tmp_path / "new" / name).read_text() for name in "abc"] == ["new/a", "new/b", "new/c"]
    assert not (tmp_path / "c").exists()
    files.swap(moves, held=tmp_path / "held")
    assert [(tmp_path / name).read_text() for name in "abc"] == ["new/a", "new/b", "new/c"]
    assert not (tmp_path / "gone").exists()
