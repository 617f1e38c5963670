"""The environment in which the contenders of `versus.py` run, and the processes in it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"  # without its own requirements, which may ask for another torch
OTHERS = ("anomalib==2.7.0", "faiss-cpu", "onnx", "onnxscript", "openvino")


def environment(folder: Path) -> Path:
    """Python of an environment with the contenders in it; what is there already is used."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "versus.txt"
    wanted = "\n".join((TORCH, TORCHVISION, *OTHERS))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        sys.exit(f"versus: --env {folder}: holds other things; give an empty or a new folder")
    if not python.is_file():
        say("making an environment")
        venv.create(folder, symlinks=os.name != "nt", with_pip=True)
    for packages in ([TORCH], ["--no-deps", TORCHVISION], OTHERS):
        say(f"installing {' '.join(packages)}")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            sys.exit(
                f"versus: pip could not install {' '.join(packages)} for Python {platform.python_version()}:\n{last}\n"
                "Check that pip's index has these versions, and that there is room on the disk."
            )
    stamp.write_text(wanted, encoding="utf-8")
    return python


def installed(python: Path, *distributions: str) -> int:
    """Bytes that these distributions take there, with what they require."""
    command = [str(python), str(HERE / "installed_size.py"), *distributions]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"versus: the size of {', '.join(distributions)} can't be found:\n{done.stderr.strip()}")
    return int(done.stdout)


@contextmanager
def contender(python: Path, arguments: list[str], log: Path) -> Iterator[Callable[..., Any]]:
    """A contender's process; what is given calls a method of it and returns the result."""
    say(f"starting {arguments[0]}")
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / "versus_process.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            start_new_session=True,  # an interrupt is for this process alone, which then ends the others
        )
    assert process.stdin is not None
    assert process.stdout is not None

    def answer() -> Any:
        line = process.stdout.readline()
        reply = json.loads(line) if line else {"error": log.read_text(encoding="utf-8")[-2000:]}
        if "error" in reply:
            hint = (
                "\nGive --shim: torchvision's operators don't load."
                if "torchvision::" in reply["error"]
                else ""
            )
            sys.exit(f"versus: {arguments[0]} failed:\n{reply['error']}{hint}")
        return reply["result"]

    def call(name: str, **values: Any) -> Any:
        with suppress(BrokenPipeError):  # it has died; its answer says why
            process.stdin.write(json.dumps({"call": name, **values}) + "\n")
            process.stdin.flush()
        return answer()

    try:
        answer()
        yield call
    finally:
        if hasattr(os, "killpg"):  # with the processes that it started itself
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def say(what: str | None) -> None:
    """Tell on the terminal what is going on; None: nothing any more."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + (what or "").ljust(width)[:width], end="" if what else "\r", file=sys.stderr, flush=True)
    elif what:
        print(what, file=sys.stderr, flush=True)
