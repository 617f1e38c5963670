"""Consoles that lack letters, disks that are full, streams that are closed: never a fault of the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("home")
FULL = Path("/dev/full")
no_full_disk = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def shell(line: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command line of bash, in which "$@" is the program with these arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-m", "goodparts", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **variables},
        timeout=120,
    )


@pytest.fixture
def japanese(mini_dataset: Path, tmp_path: Path) -> Path:
    """An image with a name that no western code page has."""
    return Path(shutil.copy(mini_dataset / "test" / "stain" / "000.png", tmp_path / "部品_ü_0.png"))


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "cp437", "ascii", "utf-8"])
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=str)
def test_names_in_other_letters(fitted_file: Path, japanese: Path, encoding: str, flags: list[str]) -> None:
    ran = shell(
        '"$@"', "inspect", fitted_file, japanese, "broken_部品.png", *flags, PYTHONIOENCODING=encoding
    )
    assert ran.returncode == 5, ran.stderr
    assert b"fault" not in ran.stderr
    assert b"BAD" in ran.stdout
    assert b"1 inspected, 1 BAD, 1 unreadable" in ran.stderr
    if encoding.startswith("cp") or flags:
        assert rb"\u90e8\u54c1" in ran.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "cp437"])
def test_a_card_is_written_plainly(fitted_file: Path, encoding: str) -> None:
    ran = shell('"$@"', "card", fitted_file, PYTHONIOENCODING=encoding)
    assert ran.returncode == 0, ran.stderr
    text = ran.stdout.decode(encoding)
    assert "threshold" in text
    assert "\\x" not in text
    assert "\\u" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_text(fitted_file: Path, mini_dataset: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/part\xff.png"
    shutil.copy(mini_dataset / "test" / "good" / "001.png", path)
    ran = shell('"$@"', "inspect", fitted_file, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert rb"part\udcff.png" in ran.stdout


@no_full_disk
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["recipe"], ["inspect", "--help"], ["card"], ["inspect"]],
    ids=str,
)
def test_a_full_disk_is_one_line(
    fitted_file: Path, japanese: Path, arguments: list[str], unbuffered: str
) -> None:
    more = {"card": [fitted_file], "inspect": [fitted_file, japanese]}.get(arguments[-1], [])
    ran = shell('"$@" > /dev/full', *arguments, *more, PYTHONUNBUFFERED=unbuffered)
    assert ran.returncode == 2
    assert ran.stderr.decode().splitlines() == [
        "error: standard output: can't be written (No space left on device); free some space, or write to another disk"
    ]


@no_full_disk
@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-"])
def test_where_errors_can_not_be_said_the_code_still_says_it(
    fitted_file: Path, japanese: Path, where: str
) -> None:
    assert shell(f'"$@" {where}', "inspect", fitted_file, japanese).returncode == 1
    assert shell(f'"$@" {where}', "inspect", fitted_file, "nothing.png").returncode == 2
    assert shell(f'"$@" {where}', "inspect", "nothing.goodparts", japanese).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is another thing there")
def test_closed_streams(fitted_file: Path, japanese: Path) -> None:
    ran = shell('"$@" >&-', "inspect", fitted_file, japanese)
    assert ran.returncode == 1
    assert ran.stderr.startswith(b"1 inspected, 1 BAD; computed by ")
    assert ran.stderr.count(b"\n") == 1
    assert shell('"$@" >&- 2>&- <&-', "inspect", fitted_file, japanese).returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is another thing there")
def test_a_reader_that_has_left_before_help_came() -> None:
    ran = shell('"$@" | true; exit ${PIPESTATUS[0]}', "--help")
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_what_was_typed_is_not_repeated_at_length() -> None:
    for arguments in (["inspect", "a.goodparts", "b.png", "--workers", "x" * 10_000], ["--" + "x" * 10_000]):
        ran = shell('"$@"', *arguments)
        assert ran.returncode == 2
        assert len(ran.stderr) < 1500
