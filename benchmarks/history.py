"""A history of a million inspections: how long any filtered page takes, and how much memory an export.

    python benchmarks/history.py [--rows 1000000] [--database postgresql://...] [--folder FOLDER]

Writes synthetic rows (four models, 5 % BAD, 1 % RECHECK, 1 % borderline, 0.5 % reviewed, 200,000 parts) straight into
the database, then asks for pages: no filter, each alone, and all combinations of two, three and five, in common values,
rare ones and such as are not there. Prints the slowest of each kind in milliseconds. Then streams an export, and prints
by how much memory grows meanwhile for a tenth of the rows and for all.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from goodparts.server.history import database as databases
from goodparts.server.history import schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import Database, open_database
from goodparts.server.history.export import export
from goodparts.server.history.pages import Filter, page

BEGIN = 1_750_000_000_000_000  # microseconds since 1970
STEP = 500_000  # microseconds between two parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        database = open_database(options.database, folder)
        databases.require_ready(database)
        fill(database, options.rows)
        print_pages(database, options.rows)
        print_export(database, folder, options.rows)
        database.close()


def fill(database: Database, count: int) -> None:
    """Rows up to so many."""
    with database.read() as connection:
        there = connection.execute(select(func.count()).select_from(schema.inspections)).scalar_one()
    began = time.perf_counter()
    for start in range(there, count, 10_000):
        with database.write() as connection:
            connection.execute(schema.inspections.insert(), list(rows(start, min(start + 10_000, count))))
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    print(f"{database.shown}: {count:,} rows, written in {time.perf_counter() - began:.0f} s", flush=True)


def rows(start: int, end: int) -> Iterator[dict[str, Any]]:
    for number in range(start, end):
        chance = random.Random(number)
        when = BEGIN + number * STEP
        verdict = chance.choices(("GOOD", "BAD", "RECHECK"), (94, 5, 1))[0]
        score = chance.uniform(0.5, 2)
        box = [{"area": 100, "peak": score, "box": [1, 2, 30, 40], "centroid": [15.5, 20.5]}]
        yield {
            "id": f"{(when // 1000) << 80 | 7 << 76 | chance.getrandbits(62):032x}",
            "time": when,
            "model": f"model-{chance.choices(range(4), (70, 20, 9, 1))[0]}",
            "model_version": "0" * 64,
            "recipe": "0" * 64,
            "part": f"P-{chance.randrange(200_000)}",
            "line": f"{number % 3}",
            "camera": "top",
            "details": '{"shift":2}',
            "account": "line",
            "request": f"{number:016x}",
            "image_sha256": f"{chance.getrandbits(256):064x}",
            "image_bytes": 450_000,
            "image_type": "PNG",
            "bit_depth": 0,
            "width": 700,
            "height": 700,
            "verdict": verdict,
            "score": score,
            "threshold": 1.5,
            "p_value": 0.5,
            "borderline": chance.random() < 0.01,
            "pixel_threshold": 2.0,
            "typical_pixel": 1.0,
            "zones": "[]",
            "regions": "[]" if verdict == "GOOD" else str(box).replace("'", '"'),
            "reasons": "[]",
            "decode_ms": 14.0,
            "wait_ms": 1.0,
            "inference_ms": 27.0,
            "findings_sha256": f"{chance.getrandbits(256):064x}",
            "findings_bytes": 40_000,
            "kept": False,
            "review": chance.choices(("none", "GOOD", "BAD"), (995, 3, 2))[0],
        }


def print_pages(database: Database, count: int) -> None:
    """The slowest page of each kind of filter, in three places of the history."""
    end = BEGIN + count * STEP
    values: dict[str, tuple[Any, ...]] = {
        "model": ("model-0", "model-3", "no such"),
        "verdict": ("GOOD", "BAD", "RECHECK"),
        "part": ("P-7", "no such"),
        "review": ("none", "GOOD", "BAD"),
        "borderline": (True, False),
        "since": (end - count * STEP // 100,),
        "until": (BEGIN + count * STEP // 2, BEGIN + count * STEP // 100),
    }
    print("\n| filters | slowest page, ms | rows of it | which |\n|---|---|---|---|")
    slowest = 0.0
    for size in (0, 1, 2, 3, 5):
        for names in itertools.combinations(values, size):
            found = []
            for chosen in itertools.product(*(values[name] for name in names)):
                wanted = Filter(**dict(zip(names, chosen, strict=True)))
                seconds, length = timed(database, wanted)
                found.append((seconds, length, chosen))
            worst = max(found)
            slowest = max(slowest, worst[0])
            if size < 2 or worst[0] > 0.02:
                shown = ", ".join(names) or "none"
                print(
                    f"| {shown} | {1000 * worst[0]:.1f} | {worst[1]} | {', '.join(map(str, worst[2]))} |",
                    flush=True,
                )
    print(f"| **slowest of all** | **{1000 * slowest:.1f}** | | |")


def timed(database: Database, wanted: Filter) -> tuple[float, int]:
    """The better of two tries: what the disk had to fetch first is not the index's doing."""
    seconds, length = [], 0
    for _ in range(2):
        with database.read() as connection:
            began = time.perf_counter()
            length = len(page(connection, wanted, limit=50))
            seconds.append(time.perf_counter() - began)
    return min(seconds), length


def print_export(database: Database, folder: Path, count: int) -> None:
    """By how much memory grows while an export is streamed: of a tenth, and of all."""
    print("\n| export of rows | MB | s | memory grows by, MiB |\n|---|---|---|---|")
    process = psutil.Process()
    for share in (0.1, 1.0):
        wanted = Filter(until=int(BEGIN + share * count * STEP))
        began, size, before = time.perf_counter(), 0, process.memory_info().rss
        peak = before
        for number, piece in enumerate(
            export(database, BlobStore(folder), wanted, "mvtec", pixel_limit=10**8)
        ):
            size += len(piece)
            if number % 50 == 0:
                peak = max(peak, process.memory_info().rss)
        seconds, grown = time.perf_counter() - began, (peak - before) / 2**20
        print(f"| {count * share:,.0f} | {size / 1e6:.0f} | {seconds:.0f} | {grown:.1f} |", flush=True)


if __name__ == "__main__":
    main()
