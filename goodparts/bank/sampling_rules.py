"""Sampling rules: how a memory bank chooses among patch features. A new one is a class here and a line in `RULES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from goodparts.bank import coreset
from goodparts.bank.coreset import Points, Progress
from goodparts.bank.window import Neighbourhood


class SamplingRule(Protocol):
    """A way to choose.

    Attributes:
        joint: whether entries are chosen with a view to each other. Then taking an image's entries away leaves holes
            that a bank made without it would have filled (`decision.replacements`).
    """

    joint: ClassVar[bool]

    def pick(
        self,
        points: Callable[[], Points],
        count: int,
        cells: NDArray[np.int32],
        neighbourhood: Neighbourhood,
        rng: np.random.Generator,
        *,
        given: int = 0,
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """Which of n points are chosen.

        Args:
            points: what makes the g + n points, (g + n, q) float32; not called by a rule that does not look at them.
            count: how many of the n to choose.
            cells: of the grid in which the points lie, (g + n,) int32.
            neighbourhood: which cells see each other.
            rng: of every random choice.
            given: g, how many of the points come first and are chosen already.
            progress: called with (chosen, wanted), the given ones included.

        Returns:
            Indices among the n, ascending, (count,) int64.
        """
        ...


class Greedy:
    """The greedy k-center coreset: again and again the point farthest from all that were chosen."""

    joint: ClassVar[bool] = True

    def pick(
        self,
        points: Callable[[], Points],
        count: int,
        cells: NDArray[np.int32],
        neighbourhood: Neighbourhood,
        rng: np.random.Generator,
        *,
        given: int = 0,
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """As `SamplingRule.pick`."""
        start = np.arange(given) if given else neighbourhood.start(cells, rng)[:count]
        picks = coreset.greedy(
            points(),
            given + count,
            start=start,
            positions=neighbourhood.positions(cells),
            progress=progress,
        )
        return np.sort(picks[given:] - given)


class Random:
    """Drawn at random without replacement."""

    joint: ClassVar[bool] = False

    def pick(
        self,
        points: Callable[[], Points],
        count: int,
        cells: NDArray[np.int32],
        neighbourhood: Neighbourhood,
        rng: np.random.Generator,
        *,
        given: int = 0,
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """As `SamplingRule.pick`."""
        return coreset.random(len(cells) - given, count, rng)


RULES: dict[str, SamplingRule] = {"greedy": Greedy(), "random": Random()}
"""By the value of the recipe's `sampling`."""
