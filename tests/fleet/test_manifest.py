"""The manifest: rows are added a shard at a time, and never changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from goodparts.errors import OutputError
from goodparts.fleet.manifest import Manifest, ProductRow, Row, ShardRow


def shard(name: str, images: int = 1) -> ShardRow:
    return ShardRow(name, "disc", images, 0.5, 1000, "1")


def row(name: str, score: float, of: str) -> Row:
    return Row("disc", name, 10, 20, "sha", "m/1", of, 1, "GOOD", score, 1.0, 0.5, 0, 0, "")


def test_the_last_row_of_an_image_counts_and_a_shard_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "manifest.sqlite"
    with Manifest(path) as manifest:
        manifest.add(shard("one", 2), [row("a", 0.1, "one"), row("b", 0.2, "one")])
        manifest.add(shard("two"), [row("a", 0.3, "two")])
        manifest.add(shard("one", 2), [row("a", 0.4, "one")])
    with Manifest(path) as manifest:
        assert {name: found.score for name, found in manifest.of_product("disc").items()} == {
            "a": 0.3,
            "b": 0.2,
        }
        assert manifest.of_product("plate") == {}
        assert manifest.shards() == {"one", "two"}
        assert list(manifest.shard_rows()) == [shard("one", 2), shard("two")]


def test_all_rows_of_a_shard_or_none(tmp_path: Path) -> None:
    with Manifest(tmp_path / "manifest.sqlite") as manifest:
        broken = row("b", 0.2, "one")._replace(content=None)  # type: ignore[arg-type]
        with pytest.raises(OutputError, match="NOT NULL"):
            manifest.add(shard("one", 2), [row("a", 0.1, "one"), broken])
        assert manifest.shards() == set()
        assert manifest.of_product("disc") == {}


@pytest.mark.parametrize(
    "change", ["UPDATE results SET score = 0", "DELETE FROM results", "DELETE FROM shards"]
)
def test_it_only_grows(tmp_path: Path, change: str) -> None:
    path = tmp_path / "manifest.sqlite"
    with Manifest(path) as manifest:
        manifest.add(shard("one"), [row("a", 0.1, "one")])
    file = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        file.execute(change)
    file.close()


def test_products(tmp_path: Path) -> None:
    with Manifest(tmp_path / "manifest.sqlite") as manifest:
        for identity in ("old", "new"):
            manifest.add_product(ProductRow("disc", "stamp", "content", "key", {"identity": identity}))
        assert manifest.products() == {
            "disc": ProductRow("disc", "stamp", "content", "key", {"identity": "new"})
        }


def test_nobody_else_writes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "manifest.sqlite"
    with Manifest(path), pytest.raises(OutputError, match="another command is at work there"):
        Manifest(path)
    with Manifest(path) as manifest:
        assert manifest.shards() == set()


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.sqlite"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(OutputError, match=r"manifest\.sqlite: the manifest can't be used .*move it away"):
        Manifest(path)
    path.unlink()
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(OutputError, match="another version"):
        Manifest(path)
