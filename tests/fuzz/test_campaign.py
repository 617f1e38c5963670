"""The campaign itself: what it has to notice."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator

from fuzz import campaign
from fuzz.campaign import fuzz
from fuzz.mutations import changed_bytes, changed_value, png_with_right_sums
from goodparts.errors import GoodpartsError


class Sample:
    """A target whose files say what reading them does."""

    suffix = ".txt"

    def write_seeds(self, folder: Path) -> None:
        (folder / "seed").write_bytes(b"")

    def read_seeds(self, folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in folder.iterdir()]

    def make(self, seeds: list[bytes], rng: Generator) -> bytes:
        return bytes(rng.permuted(np.frombuffer(b"abcdefgh", dtype=np.uint8)))

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        def read() -> None:
            {
                b"a": lambda: None,
                b"b": partial(_refuse, f"{path}: is no text"),
                b"c": partial(_refuse, "something is wrong"),
                b"d": partial(_refuse, f"{path}: found {'x ' * 5_000}"),
                b"e": lambda: [][1],
                b"f": lambda: ctypes.string_at(0),
                b"g": lambda: time.sleep(60),
                b"h": lambda: (bytearray(1 << 27).count(0), time.sleep(60)),
            }[path.read_bytes()[:1]]()

        yield read


def _refuse(message: str) -> None:
    raise GoodpartsError(message)


SAMPLE = Sample()
ALL_DIFFERENT = 1579  # a seed by which the first eight files do eight different things


def test_each_kind_of_fault_is_noticed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, scratch, kept = (tmp_path / name for name in ("seeds", "scratch", "kept"))
    seeds.mkdir(), scratch.mkdir()
    SAMPLE.write_seeds(seeds)
    monkeypatch.setattr(campaign, "DEADLINE", 1.0)
    monkeypatch.setattr(campaign, "MEMORY", 1 << 26)
    findings = fuzz(
        "fuzz.test_campaign:SAMPLE", seeds, scratch, kept, seed=ALL_DIFFERENT, seconds=60, cases=8
    )
    found = {path.read_bytes()[:1].decode(): text for _, text, path in findings.faults.values()}
    assert sorted(found) == ["c", "d", "e", "f", "g", "h"]
    assert "neither file nor key" in found["c"]
    assert "letters" in found["d"]
    assert found["e"].startswith("IndexError at")
    assert found["f"].startswith("ended with")
    assert "more than 1 s" in found["g"]
    assert "of memory" in found["h"]
    assert findings.cases == 8
    assert findings.refused == 3


def test_the_same_seed_gives_the_same_case() -> None:
    first, again, other = (SAMPLE.make([], campaign.generator(SAMPLE, seed, 3)) for seed in (5, 5, 6))
    assert first == again != other


def test_changes_change_and_keep_the_original() -> None:
    rng = np.random.default_rng(0)
    data, value = bytes(range(256)), {"a": [1, 2.5, "x"], "b": {"c": None}}
    assert sum(changed_bytes(data, [b"abc"], rng) != data for _ in range(100)) > 90
    assert sum(changed_value(value, rng) != value for _ in range(100)) > 60
    assert value == {"a": [1, 2.5, "x"], "b": {"c": None}}


def test_sums_of_png_chunks_are_made_right(mini_dataset: Path) -> None:
    data = (mini_dataset / "train" / "good" / "000.png").read_bytes()
    assert png_with_right_sums(data) == data
    assert png_with_right_sums(data[:29] + bytes(4) + data[33:]) == data
