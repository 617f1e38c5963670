"""Progress of long steps, told as (stage, done, total): as bars where somebody looks on, as lines where nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

ProgressLike = Progress | bool | None
"""That, or True for bars in a terminal or notebook; None or False: nothing is shown."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Bars:
    """A bar with the time left for each stage.

    A stage of another length is another one: held-out scores count tiles, those of other images these.

    Args:
        bar: `tqdm`, in one of its forms.
        leave: whether a bar stays when its stage is over.
    """

    def __init__(self, bar: Callable[..., Any], *, leave: bool) -> None:
        self._bar, self._leave = bar, leave
        self._bars: dict[tuple[str, int], Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Progress of a stage; whatever came before it is over."""
        key = stage, total
        if key not in self._bars:
            self.close()
            self._bars[key] = self._bar(total=total, desc=f"{stage:12}", unit="", leave=self._leave)
        self._bars[key].update(done - self._bars[key].n)
        if done >= total:
            self._bars[key].close()

    def close(self) -> None:
        """The end of all of them."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


class Lines:
    """A line for each stage that is over: how many, and how long it took.

    Args:
        say: takes a line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._over: set[tuple[str, int]] = set()
        self._began = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Progress of a stage."""
        if done >= total and (stage, total) not in self._over:
            self._over.add((stage, total))
            now = time.perf_counter()
            self._say(f"{stage:12} {total:7,} done, {now - self._began:.1f} s")
            self._began = now


def shown(progress: ProgressLike) -> Progress:
    """What to call with the progress of a step.

    Raises:
        TypeError: something else.
    """
    if progress is None or progress is False:
        return silent
    if progress is True:
        from tqdm.auto import tqdm

        return Bars(tqdm, leave=True)
    if not callable(progress):
        raise TypeError(
            f"progress: expected True for bars, or a function of (stage, done, total), found {type(progress).__name__}"
        )
    return progress
