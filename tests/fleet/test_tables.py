"""Tables of one row an image."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from goodparts.fleet.manifest import Row
from goodparts.fleet.tables import COLUMNS, table_writer

JUDGED = Row(
    "disc",
    "a, b.png",
    10,
    1_700_000_000_000_000_000,
    "sha",
    "m/1",
    "shard",
    1,
    "BAD",
    1.5,
    1.25,
    0.01,
    0,
    2,
    "",
)
ASIDE = Row("disc", "c.png", 10, 2**62, "", "m/1", "shard", 2, error='c.png: "damaged"')


def test_csv(tmp_path: Path) -> None:
    with table_writer(tmp_path, "csv") as add:
        add(JUDGED)
        add(ASIDE)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert tuple(first) == COLUMNS
    assert (first["name"], first["verdict"], first["score"], first["borderline"]) == (
        "a, b.png",
        "BAD",
        "1.5",
        "False",
    )
    assert first["changed"] == "2023-11-14T22:13:20+00:00"
    assert (second["verdict"], second["score"], second["error"]) == ("", "", 'c.png: "damaged"')


def test_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    (tmp_path / "results.csv").write_text("of an earlier run")
    with table_writer(tmp_path, "parquet") as add:
        for _ in range(10_001):
            add(JUDGED)
        add(ASIDE)
    assert not (tmp_path / "results.csv").exists()
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == 10_002
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["score"], rows[0]["borderline"], rows[0]["regions"]) == (1.5, False, 2)
    assert (rows[-1]["verdict"], rows[-1]["score"], rows[-1]["error"]) == (None, None, ASIDE.error)


def test_an_error_leaves_the_table_of_before(tmp_path: Path) -> None:
    with table_writer(tmp_path, "csv") as add:
        add(JUDGED)
    before = (tmp_path / "results.csv").read_bytes()
    broken = ASIDE._replace(changed="never")  # type: ignore[arg-type]
    with pytest.raises(TypeError), table_writer(tmp_path, "csv") as add:
        add(broken)
    assert (tmp_path / "results.csv").read_bytes() == before
