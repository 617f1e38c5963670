"""`goodparts check`."""

from __future__ import annotations

from pathlib import Path

from running import Run


def test_strict_makes_files_passed_over_an_error(goodparts: Run, data: Path) -> None:
    (data / "test" / "good" / "006.heic").write_bytes(b"x")

    usual, strict = goodparts("check", data), goodparts("check", data, "--strict")

    assert (usual.code, strict.code) == (0, 2)
    assert "1 file passed over" in usual.out
    assert strict.out.startswith("error    1 file passed over")


def test_notes_are_counted(goodparts: Run, data: Path) -> None:
    ran = goodparts("check", data)
    notes = sum(record["severity"] == "note" for record in goodparts("check", data, "--json").records)

    assert notes
    assert f"{notes} to know." in ran.out
