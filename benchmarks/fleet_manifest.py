"""How long it takes to decide what is missing of a million images.

python benchmarks/fleet_manifest.py [--rows 1000000] [--products 40]

A manifest of so many rows is made, then the list of images is held against it as `fleet inspect` does: once where
nothing is missing, once where one in a thousand has changed. Listing the files of a disk comes on top of that: its time
is that of the disk, and the last line measures it on files that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

from goodparts.fleet.images import ImageFile, list_image_files
from goodparts.fleet.inspect import Options, missing_of
from goodparts.fleet.manifest import Manifest, Row, ShardRow
from goodparts.scale.memory import peak_memory

SHARD = 500
FILES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--products", type=int, default=40)
    given = parser.parse_args()
    key = "f" * 64 + "/0.1.0"
    each = given.rows // given.products
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.sqlite"
        began = time.perf_counter()
        with Manifest(path) as manifest:
            for product in range(given.products):
                for first in range(0, each, SHARD):
                    name = f"{product}-{first}"
                    rows = [
                        Row(
                            f"product{product:03d}",
                            f"2026-11-{n % 28:02d}/camera-1/{n:07d}.png",
                            100_000 + n,
                            10**18 + n,
                            hashlib.sha256(f"{product}/{n}".encode()).hexdigest(),
                            key,
                            name,
                            1,
                            "GOOD",
                            0.5,
                            1.0,
                            0.5,
                            0,
                            0,
                            "",
                        )
                        for n in range(first, min(first + SHARD, each))
                    ]
                    manifest.add(
                        ShardRow(name, f"product{product:03d}", len(rows), 1.0, 10**9, "0.1.0"), rows
                    )
        wrote = time.perf_counter() - began
        rows_written = each * given.products
        print(
            f"{rows_written:,} rows, {path.stat().st_size / 2**20:.0f} MiB, written in {wrote:.0f} s ", end=""
        )
        print(f"({1000 * wrote / (rows_written / SHARD):.1f} ms a shard of {SHARD})", flush=True)
        for change in (0, 1000):
            began = time.perf_counter()
            missing = 0
            with Manifest(path) as manifest:
                shards = len(manifest.shards())
                for product in range(given.products):
                    files = [
                        ImageFile(
                            f"2026-11-{n % 28:02d}/camera-1/{n:07d}.png",
                            "",
                            100_000 + n + (bool(change) and n % change == 0),
                            10**18 + n,
                        )
                        for n in range(each)
                    ]
                    known = manifest.known(f"product{product:03d}")
                    missing += sum(1 for _ in missing_of(files, known, key, Options()))
            took = time.perf_counter() - began
            print(
                f"decided in {took:.1f} s: {missing:,} of {rows_written:,} missing, {shards:,} shards known",
                flush=True,
            )
        print(f"memory at most {peak_memory() / 2**30:.2f} GiB")
        files = Path(folder) / "files"
        files.mkdir()
        for n in range(FILES):
            (files / f"{n:07d}.png").touch()
        began = time.perf_counter()
        found = len(list_image_files(str(files)))
        print(f"listing {found:,} files takes {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
