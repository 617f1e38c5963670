"""Progress: lines where nobody looks on, bars where somebody does."""

from __future__ import annotations

from typing import Any

import pytest

from goodparts.progress import Bars, Lines, shown, silent


def test_a_line_for_each_stage_that_is_over() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for done in (1, 2, 3):
        lines("features", done, 3)
    lines("memory bank", 1, 1200)
    assert [line.split(",")[0].split() for line in said] == [["features", "3", "done"]]
    lines("memory bank", 1200, 1200)
    lines("memory bank", 1200, 1200)
    assert len(said) == 2
    assert "1,200 done" in said[1]
    assert said[1].endswith(" s")


class FakeBar:
    """A bar that remembers."""

    made: list[FakeBar]

    def __init__(self, **options: Any) -> None:
        self.options, self.n, self.closed = options, 0, False
        FakeBar.made.append(self)

    def update(self, more: int) -> None:
        self.n += more

    def close(self) -> None:
        self.closed = True


def test_a_bar_for_each_stage_and_length() -> None:
    FakeBar.made = []
    bars = Bars(FakeBar, leave=False)
    for stage, done, total in (("a", 1, 3), ("a", 3, 3), ("b", 2, 4), ("b", 1, 7)):
        bars(stage, done, total)
    assert [(bar.options["total"], bar.n, bar.closed) for bar in FakeBar.made] == [
        (3, 3, True),
        (4, 2, True),
        (7, 1, False),
    ]
    bars("a", 1, 3)  # of the next product
    assert (FakeBar.made[-1].n, FakeBar.made[-2].closed) == (1, True)
    bars.close()
    assert FakeBar.made[-1].closed


def test_what_progress_may_be() -> None:
    assert shown(None) is silent
    assert shown(False) is silent
    assert isinstance(shown(True), Bars)
    given = Lines(print)
    assert shown(given) is given
    with pytest.raises(TypeError, match="expected True for bars, or a function of"):
        shown("yes")  # type: ignore[arg-type]
