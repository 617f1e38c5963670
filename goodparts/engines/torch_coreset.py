"""The greedy k-center choice on a graphics processor: the sequence of `bank.coreset`, in batches of its products.

All points lie in the device's memory. Among those that are now farthest the choice is run alone for as long as its
winner is farther than every point outside, as there; then all points are compared with the batch in one product. So the
points are read once a batch, not once a pick. Which is farthest may differ within rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from goodparts.engines.runtime import Runtime
from goodparts.engines.torch_graph import tensor_of

_CANDIDATES = 2048  # points among which one batch is chosen
_SCRATCH = 1 << 28  # bytes of distances at a time
_ROOM = 0.6  # of free memory that points may take
_ROWS = 1 << 16


def fits(runtime: Runtime, points: int, dimensions: int) -> bool:
    """Whether so many points are chosen among on this device: one with memory of its own that holds them."""
    if runtime.engine != "torch" or not runtime.device.startswith("cuda"):
        return False
    free, _ = torch.cuda.mem_get_info(torch.device(runtime.device))
    return 4 * points * dimensions + _SCRATCH < _ROOM * free


def greedy(
    points: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    total: int,
    count: int,
    start: NDArray[np.int64],
    *,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """The greedy k-center sequence.

    Args:
        points: those of some indices, (r, d) float32.
        total: how many there are.
        count: number of picks, those of `start` included.
        start: indices that are picked already.
        device: such as "cuda:0".
        progress: called after each batch with (picks so far, count).

    Returns:
        Indices in the order they were picked, (count,) int64, all different.
    """
    with torch.inference_mode():
        x = torch.cat(
            [
                tensor_of(points(np.arange(first, min(first + _ROWS, total)))).to(device)
                for first in range(0, total, _ROWS)
            ]
        )
        norms = (x * x).sum(1)
        bound = torch.full((total,), torch.inf, device=x.device)
        picks: list[int] = []
        batch = torch.from_numpy(start).to(device)
        while True:
            _compare(x, norms, bound, batch)
            picks += batch.tolist()
            if progress is not None:
                progress(len(picks), count)
            if len(picks) >= count:
                return np.array(picks[:count], dtype=np.int64)
            batch = _next(x, norms, bound, count - len(picks))


def _compare(x: torch.Tensor, norms: torch.Tensor, bound: torch.Tensor, batch: torch.Tensor) -> None:
    """Bring bounds up to date with a batch of picks, which get -1."""
    size = max(1, _SCRATCH // (4 * len(x)))
    for first in range(0, len(batch), size):
        centres = x[batch[first : first + size]]
        squared = torch.addmm(norms[batch[first : first + size]], x, centres.T, alpha=-2)
        nearest = squared.amin(1).add_(norms).clamp_(min=0)
        torch.minimum(bound, nearest, out=bound)
    bound[batch] = torch.where(bound[batch] >= 0, -1.0, bound[batch])


def _next(x: torch.Tensor, norms: torch.Tensor, bound: torch.Tensor, most: int) -> torch.Tensor:
    """The next picks, as many as are certain; at least one."""
    values, farthest = torch.topk(bound, min(_CANDIDATES + 1, len(bound)))
    level = float(values[-1]) if len(values) > _CANDIDATES else -1.0
    candidates = torch.sort(farthest[values > level]).values
    if not len(candidates):  # more ties for the farthest than candidates
        return bound.argmax().reshape(1)
    own, squares = x[candidates], norms[candidates]
    between = torch.addmm(squares, own, own.T, alpha=-2).add_(squares[:, None]).clamp_(min=0).cpu().numpy()
    remaining = bound[candidates].cpu().numpy()
    batch: list[int] = []
    while len(batch) < most:
        winner = int(remaining.argmax())
        if remaining[winner] <= max(level, -0.5):
            break
        batch.append(winner)
        np.minimum(remaining, between[winner], out=remaining)
        remaining[winner] = -1
    return candidates[torch.tensor(batch, device=x.device)]
