"""The command line as a process: exit codes, the network, Ctrl-C, and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from interrupting import INTERRUPTIBLE, interrupted, processes_with_files_in
from running import below

from goodparts import Inspector

pytestmark = pytest.mark.usefixtures("home")


def process(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "goodparts", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=120,
    )


def test_exit_codes_of_a_process(fitted_file: Path, mini_dataset: Path) -> None:
    test = mini_dataset / "test"
    ran = process("inspect", fitted_file, test / "stain" / "000.png", "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["verdict"] == "BAD"
    assert ran.stderr.startswith("1 inspected, 1 BAD; computed by ")
    ran = process("inspect", fitted_file, test / "nothing.png")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "no such file" in ran.stderr


def test_nothing_is_asked_of_the_network(
    fitted_file: Path, recipe_file: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.getaddrinfo', 'socket.connect', 'os.fork'):\n"
        "        print('seen', event, arguments, file=sys.stderr)\n"
        "sys.addaudithook(watch)\n"
        "from goodparts.cli import main\n"
        "main()\n"
    )
    user = tmp_path / "user"
    user.mkdir()
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "run",
            mini_dataset,
            "--recipe",
            recipe_file,
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(user), "USERPROFILE": str(user)},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "seen" not in ran.stderr
    assert not [name for name in below(user) if "intel" in name.lower() or "telemetry" in name.lower()]


@pytest.mark.skipif(
    sys.platform != "linux", reason="the file of features has no name; /proc tells that it is open"
)
@pytest.mark.parametrize("command", ["fit", "run"])
def test_ctrl_c_in_the_middle_of_a_fit(many: Path, tmp_path: Path, command: str) -> None:
    room, out = tmp_path / "room", tmp_path / "out"
    room.mkdir()
    out.mkdir()
    flag = ["--model", out / "a.goodparts"] if command == "fit" else ["--out", out]
    arguments: list[object] = [command, many, *flag, "--memory-limit", "0"]  # features are in a file, then
    code, err = interrupted(
        lambda: processes_with_files_in(room) > 0, arguments, TMPDIR=str(room), TMP=str(room)
    )
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert below(out) == []
    assert list(room.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_ctrl_c_when_all_is_done_changes_nothing() -> None:
    late = (
        "import os, signal\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):\n"
        "        kill(pid, number)\n"
        "late = Late()\n"  # it goes when the interpreter takes its modules down
    )
    ran = subprocess.run(
        [sys.executable, "-c", late + INTERRUPTIBLE, "recipe"], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is another thing there")
def test_ctrl_c_while_pictures_are_written(many: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, err = interrupted(
        lambda: any(out.glob("*/new/panels/*/*.png")),
        [
            "run",
            many,
            "--recipe",
            recipe_file,
            "--sampling",
            "random",
            "--sampling-ratio",
            0.01,
            "--out",
            out,
        ],
    )
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert Inspector.load(out / "many.goodparts").model.provenance.good_images == 400
    assert [path.name for path in out.iterdir()] == ["many.goodparts"]


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is another thing there")
def test_a_reader_that_stops_reading(fitted_file: Path, mini_dataset: Path) -> None:
    images = [str(mini_dataset / "test" / "good")] * 20
    child = subprocess.Popen(
        [sys.executable, "-m", "goodparts", "inspect", str(fitted_file), *images],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert err == ""
