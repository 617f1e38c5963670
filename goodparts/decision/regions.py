"""Regions: the connected parts of a mask, and what can be said about each.

    labels, count = label_regions(mask)             # (H, W) int32: 0 outside, 1..count inside
    regions = find_regions(mask, anomaly_map)       # area, peak, box, centroid; largest peak first
    mask = remove_small(mask, minimum_area=20)      # without specks

Pixels belong together when they touch at an edge or a corner (8-connectivity). All of it works on runs, the
unbroken stretches of a row, of which a mask has far fewer than pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """One connected part of a mask, in pixels of the image the mask belongs to.

    Attributes:
        area: number of pixels.
        peak: largest value of the anomaly map inside.
        box: (left, top, right, bottom), right and bottom exclusive: `image[top:bottom, left:right]` holds it.
        centroid: (x, y), the mean of the pixels' coordinates; whole numbers are the centres of pixels.
    """

    area: int
    peak: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Runs:
    """The r runs of a mask in scan order, each with the region it belongs to."""

    rows: slice  # of the mask, outside of which there are none
    row: NDArray[np.intp]  # (r,)
    left: NDArray[np.intp]  # (r,)
    right: NDArray[np.intp]  # (r,), exclusive
    region: NDArray[np.intp]  # (r,), 0..regions - 1
    regions: int

    @property
    def length(self) -> NDArray[np.intp]:
        return self.right - self.left


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the 8-connected regions of a mask in the order in which a scan by rows meets them.

    Args:
        mask: (H, W) bool.

    Returns:
        labels, (H, W) int32: 0 where the mask is False, else 1..n; and n.

    Raises:
        ValueError: if the mask is not a two-dimensional array of bool.
    """
    runs = _find_runs(mask)
    labels = np.zeros(mask.shape, dtype=np.int32)
    labels[runs.rows][mask[runs.rows]] = np.repeat(runs.region.astype(np.int32) + 1, runs.length)
    return labels, runs.regions


def find_regions(mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> tuple[Region, ...]:
    """Describe the 8-connected regions of a mask.

    Args:
        mask: (H, W) bool.
        anomaly_map: (H, W) float32. NaN is passed over; a region of nothing else has the peak NaN.

    Returns:
        the regions, largest peak first; among equal peaks the largest area first, then in scan order.

    Raises:
        ValueError: if the mask is not a two-dimensional array of bool, or the shapes differ.
    """
    runs = _find_runs(mask)
    if mask.shape != anomaly_map.shape:
        raise ValueError(f"mask {mask.shape} and anomaly_map {anomaly_map.shape}: expected equal shapes")
    if runs.regions == 0:
        return ()

    def total(of_run: NDArray[np.float64] | NDArray[np.intp]) -> NDArray[np.float64]:
        return np.bincount(runs.region, of_run, runs.regions).astype(np.float64)

    area = total(runs.length)
    x = total(runs.length * (runs.left + runs.right - 1) / 2) / area
    y = total(runs.length * runs.row) / area

    left, top = np.full((2, runs.regions), max(mask.shape))
    right, bottom = np.zeros((2, runs.regions), dtype=np.intp)
    np.minimum.at(left, runs.region, runs.left)
    np.minimum.at(top, runs.region, runs.row)
    np.maximum.at(right, runs.region, runs.right)
    np.maximum.at(bottom, runs.region, runs.row + 1)

    first_pixel = np.cumsum(runs.length) - runs.length
    peak = np.full(runs.regions, np.nan)
    np.fmax.at(
        peak,
        runs.region,
        np.fmax.reduceat(anomaly_map[runs.rows][mask[runs.rows]], first_pixel).astype(np.float64),
    )

    order = np.lexsort((np.arange(runs.regions), -area, -peak))  # NaN comes last
    return tuple(
        Region(
            area=int(area[i]),
            peak=float(peak[i]),
            box=(int(left[i]), int(top[i]), int(right[i]), int(bottom[i])),
            centroid=(float(x[i]), float(y[i])),
        )
        for i in order
    )


def remove_small(mask: NDArray[np.bool_], minimum_area: float) -> NDArray[np.bool_]:
    """Return a copy of a mask without its 8-connected regions of fewer than `minimum_area` pixels.

    Args:
        mask: (H, W) bool.
        minimum_area: in pixels; up to 1 keeps everything.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if the mask is not a two-dimensional array of bool.
    """
    runs = _find_runs(mask)
    area = np.bincount(runs.region, runs.length, runs.regions)
    kept = mask.copy()
    kept[runs.rows][mask[runs.rows]] = np.repeat((area >= minimum_area)[runs.region], runs.length)
    return kept


def _find_runs(mask: NDArray[np.bool_]) -> _Runs:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask: expected shape (H, W) of bool, found {mask.shape} of {mask.dtype}")
    width = mask.shape[1]
    holding = np.flatnonzero(mask.any(axis=1))
    rows = slice(int(holding[0]), int(holding[-1]) + 1) if len(holding) else slice(0, 0)
    height = rows.stop - rows.start

    # Rows are laid end to end, each closed by one False pixel, so that no run crosses into the next row.
    stride = width + 1
    line = np.zeros(height * stride + 1, dtype=bool)
    line[1:].reshape(height, stride)[:, :width] = mask[rows]
    edges = np.flatnonzero(line[1:] != line[:-1])
    starts, ends = edges[::2], edges[1::2]

    # The runs of the next row that a run touches are consecutive: the first that ends at or behind its start,
    # up to the last that starts at or before its exclusive end. The closing pixels keep other rows away.
    first = np.searchsorted(ends, starts + stride, side="left")
    touched = np.searchsorted(starts, ends + stride, side="right") - first
    upper = np.repeat(np.arange(len(starts)), touched)
    lower = np.repeat(first - (np.cumsum(touched) - touched), touched) + np.arange(len(upper))

    root = _join(len(starts), upper, lower)
    is_root = root == np.arange(len(starts))
    row = starts // stride
    return _Runs(
        rows=rows,
        row=row + rows.start,
        left=starts - row * stride,
        right=ends - row * stride,
        region=(np.cumsum(is_root) - 1)[root],
        regions=int(np.count_nonzero(is_root)),
    )


def _join(n: int, a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the smallest member of each node's component, (n,), given the edges (a[i], b[i]).

    In each round every root takes the smallest root next to it as its parent, if that is smaller; then every
    node is pointed straight at its root, and edges within a component are dropped. That takes O(log^2 n)
    rounds at worst, and a handful in practice (Liu and Tarjan, "Simple concurrent labeling algorithms for
    connected components", SOSA 2019).
    """
    parent = np.arange(n)
    while len(a):
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            grandparent = parent[parent]
            if np.array_equal(grandparent, parent):
                break
            parent = grandparent
        a, b = parent[a], parent[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return parent
