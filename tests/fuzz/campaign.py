"""Runs cases of a target in a process of its own: a crash, a hang or too much memory ends that, not the campaign."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import psutil
from numpy.random import Generator

from fuzz.target import Target
from goodparts.errors import GoodpartsError

DEADLINE = 20.0  # seconds a case may take, on a machine that is busy with others
MEMORY = 1 << 30  # bytes that a case may add to its process
LONGEST_MESSAGE = 1500  # letters, the path of the file not counted
_NAMELESS = ("image bytes", "damaged model")  # what has no name, or none any more: a model that was loaded
_START = 120.0  # seconds until the first case: importing, on a busy machine
_LOOK = 0.05  # seconds between two looks at the process


@dataclass
class Findings:
    """What came of the cases of a target.

    Attributes:
        cases: how many were run.
        refused: in how many of them something was refused in words.
        faults: by what they have in common: how many, what happened to the first, and the file that shows it.
    """

    cases: int = 0
    refused: int = 0
    faults: dict[str, tuple[int, str, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
        refused: whether something was refused in words.
        fault: what was wrong with that; empty where nothing was.
        kind: what it has in common with others.
    """

    refused: bool = False
    fault: str = ""
    kind: str = ""


class Process:
    """Runs one case after another until one ends it."""

    def __init__(self, target: str, seeds: Path, scratch: Path, seed: int, log: IO[bytes]) -> None:
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "fuzz.campaign",
            target,
            seeds,
            scratch,
            str(seed),
        ]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, encoding="utf-8", env=environment
        )
        self._watched = psutil.Process(self._process.pid)
        self._log = Path(log.name)
        self._told: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"refused"'):  # anything else is said by libraries
                self._told.put(line)
        self._told.put("")

    def ready(self) -> Outcome | None:
        """Wait until it can run cases; what kept it from that, if anything did."""
        return self._answer(_START, sys.maxsize)[1]

    def run(self, case: int) -> tuple[Outcome, bool]:
        """Run a case: (what came of it, whether the process is still there)."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has gone, which is told below
            self._process.stdin.write(f"{case}\n")
            self._process.stdin.flush()
        answer, end = self._answer(DEADLINE, self._memory() + MEMORY)
        return (end, False) if end is not None else (Outcome(**json.loads(answer)), True)

    def _answer(self, seconds: float, memory: int) -> tuple[str, Outcome | None]:
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._told.get(timeout=_LOOK)
            except queue.Empty:
                if time.monotonic() > until:
                    return "", Outcome(fault=f"took more than {seconds:g} s", kind="time")
                if self._memory() > memory:
                    return "", Outcome(fault=f"took more than {MEMORY >> 20} MiB of memory", kind="memory")
                continue
            if line:
                return line, None
            code = self._process.wait()
            log = self._log.read_text("utf-8", "replace").splitlines()
            telling = [text.strip() for text in log if text.startswith(("Fatal", "  File"))][:3] or log[-3:]
            return "", Outcome(
                fault=f"ended with {code}: {' '.join(telling)}", kind=f"end {code} {telling[-1:]}"
            )

    def _memory(self) -> int:
        try:
            return int(self._watched.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


def fuzz(
    target: str,
    seeds: Path,
    scratch: Path,
    kept: Path,
    *,
    seed: int,
    seconds: float,
    cases: int = sys.maxsize,
) -> Findings:
    """Run cases of a target.

    Args:
        target: where it is found, "module:name".
        seeds: what is changed at random, as `Target.write_seeds` made it.
        scratch: an empty folder to work in.
        kept: the folder for files that show a fault.
        seed: of all randomness: the same seed, the same cases.
        seconds: for how long; a case that has begun is finished.
        cases: how many at the most.
    """
    findings = Findings()
    suffix, name = find(target).suffix, type(find(target)).__name__.lower()
    until = time.monotonic() + seconds
    while findings.cases < cases and time.monotonic() < until:
        with (scratch / "log").open("wb") as log, Process(target, seeds, scratch, seed, log) as process:
            failure = process.ready()
            if failure is not None:
                raise RuntimeError(f"{target}: {failure.fault}")
            going = True
            while going and findings.cases < cases and time.monotonic() < until:
                outcome, going = process.run(findings.cases)
                if outcome.fault:
                    _keep(findings, outcome, scratch / f"case{suffix}", kept / f"{name}-{seed}")
                findings.cases += 1
                findings.refused += outcome.refused
    return findings


def find(target: str) -> Target:
    """The target of "module:name"."""
    module, name = target.split(":")
    found: Target = getattr(import_module(module), name)
    return found


def look(target: Target, path: Path) -> Outcome:
    """What comes of one file: everything that reads it is tried, and the first fault counts."""
    refused = False
    try:
        for read in target.readers(path):
            try:
                read()
            except GoodpartsError as error:
                refused = True
                _require_good_words(error, path)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "goodparts" in Path(frame.filename).parts] or list(place)
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
        kind = f"{type(error).__name__} at {at}"
        return Outcome(refused, f"{kind}: {str(error)[:200]!r}", kind)
    return Outcome(refused)


def _require_good_words(error: GoodpartsError, path: Path) -> None:
    """A message that is short, names the file (or bytes, which have no name) or the key, and can be printed."""
    text = str(error)
    if path.stem not in text and not text.startswith(_NAMELESS) and not getattr(error, "key", ""):
        raise AssertionError(f"neither file nor key is named: {text[:200]}")
    if len(text.replace(str(path.parent), "")) > LONGEST_MESSAGE:
        raise AssertionError(f"{len(text)} letters: {text[:200]}")
    text.encode("utf-8")


def generator(target: Target, seed: int, case: int) -> Generator:
    """The randomness of one case."""
    return np.random.default_rng((seed, zlib.crc32(type(target).__name__.encode()), case))


def _keep(findings: Findings, outcome: Outcome, path: Path, beside: Path) -> None:
    """Count a fault; of each kind the first file is kept."""
    if outcome.kind in findings.faults:
        count, text, first = findings.faults[outcome.kind]
        findings.faults[outcome.kind] = count + 1, text, first
        return
    target = beside.with_name(f"{beside.name}-{findings.cases}{path.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    findings.faults[outcome.kind] = 1, outcome.fault, target


def _work(target: str, seeds: Path, scratch: Path, seed: int) -> None:
    """What the process does: reads the number of a case, runs it, says what came of it."""
    tried = find(target)
    material = tried.read_seeds(seeds)
    answer: Callable[[Mapping[str, Any]], None] = lambda said: print(json.dumps(said), flush=True)  # noqa: E731
    answer(vars(Outcome()))
    for line in sys.stdin:
        path = scratch / f"case{tried.suffix}"
        path.write_bytes(tried.make(material, generator(tried, seed, int(line))))
        answer(vars(look(tried, path)))


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
