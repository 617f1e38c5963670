"""The command line in a process of its own, interrupted as by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

INTERRUPTIBLE = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever the parent made of it
    "from goodparts.cli import main\n"
    "main()\n"
)


def interrupted(when: Callable[[], bool], arguments: list[object], **variables: str) -> tuple[int, str]:
    """Run a command, press Ctrl-C as soon as `when` says so; exit code and standard error."""
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        deadline = time.monotonic() + 90
        while not when():
            assert child.poll() is None, "it was over too early"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    return child.returncode, err


def processes_with_files_in(folder: Path) -> int:
    """How many processes have a file open there, with or without a name (Linux only)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if entry.readlink().is_relative_to(folder):
                found.add(entry.parts[2])
    return len(found)


def threads_at_work() -> int:
    """How many threads are in a call; those that wait for the next one aside."""
    frames, found = sys._current_frames(), 0
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None and (frame.f_code.co_name, Path(frame.f_code.co_filename).name) != (
            "make",
            "parallel.py",
        ):
            frame = frame.f_back
        found += frame is not None
    return found
