"""What is told to pages that watch: every count, the last picture, and an end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from browsing import hand_in
from serving import running, settings_for

from goodparts.server.faults import Busy
from goodparts.server.inspection.feed import MOST_WATCHERS, TRY_LINE, Feed


def row(number: int, line: str = "1", verdict: str = "GOOD") -> dict[str, Any]:
    return {"id": f"{number:032x}", "model": "disc", "line": line, "camera": None, "verdict": verdict}


def test_a_slow_watcher_misses_pictures_and_no_counts() -> None:
    async def watch() -> None:
        feed = Feed()
        watcher = feed.watch()
        for number in range(1000):
            feed.tell(row(number, verdict="BAD" if number % 4 == 0 else "GOOD"))
        feed.tell(row(1000, line="2"))
        feed.tell(row(1001, line=TRY_LINE))
        found = await watcher.take(5)
        assert set(found) == {("disc", "1", ""), ("disc", "2", "")}
        assert found["disc", "1", ""].counts == {"GOOD": 750, "BAD": 250}
        assert found["disc", "1", ""].last["id"] == f"{999:032x}"
        assert await watcher.take(0.01) == {}

    asyncio.run(watch())


def test_neither_places_nor_watchers_are_without_end() -> None:
    async def watch() -> None:
        feed = Feed()
        watchers = [feed.watch() for _ in range(MOST_WATCHERS)]
        with pytest.raises(Busy):
            feed.watch()
        feed.leave(watchers.pop())
        watcher = feed.watch()
        for number in range(2000):
            feed.tell(row(number, line=str(number)))
        assert len(await watcher.take(5)) == 256
        feed.close()
        assert watcher.over
        with pytest.raises(Busy):
            feed.watch()

    asyncio.run(watch())


def test_a_stream_tells_and_ends_in_peace_with_the_service(
    fitted_file: Path, tmp_path: Path, good_png: bytes
) -> None:
    with running(settings_for(fitted_file, tmp_path / "history")) as service, service.http() as client:
        with client.stream("GET", "/api/v1/stream") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.iter_lines()
            assert "event: status" in (next(lines) for _ in range(10))
            one = hand_in(service, good_png, line="4")
            told = next(line for line in lines if line.startswith("data: [{"))
            assert one["id"] in told
            service.service.feed.close()
            for _ in lines:  # ends whole: an answer that is cut off is an error
                pass
        assert service.service.feed.watchers == 0
