"""Regions: the connected parts of a mask, and what can be said about each.

    labels, count = label_regions(mask)             # (H, W) int32: 0 outside, 1..count inside
    runs = Runs.of(mask).without_small(20)          # without specks; runs.mask, (H, W) bool
    regions = runs.describe(anomaly_map)            # area, peak, box, centroid; largest peak first

Pixels belong together when they touch at an edge or a corner (8-connectivity). All of it works on runs, the
unbroken stretches of a row, of which a mask has far fewer than pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

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
class Runs:
    """The r runs of a mask in scan order, each with the region it belongs to.

    Attributes:
        mask: (H, W) bool.
        rows: of the mask, outside of which there are none.
        row: of each run, (r,).
        left: its first column, (r,).
        right: its last column, exclusive, (r,).
        region: its region, (r,), 0 .. regions - 1 in the order in which a scan by rows meets them.
        regions: how many there are.
    """

    mask: NDArray[np.bool_]
    rows: slice
    row: NDArray[np.intp]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    region: NDArray[np.intp]
    regions: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_], within: slice = slice(None)) -> Self:
        """Those of a mask (H, W) bool that is False outside some rows; ValueError if it is not such an array."""
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"mask: expected shape (H, W) of bool, found {mask.shape} of {mask.dtype}")
        width = mask.shape[1]
        holding = np.flatnonzero(mask[within].any(axis=1)) + (within.start or 0)
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

        region, regions = _numbered(_join(len(starts), upper, lower))
        row = starts // stride
        return cls(
            mask=mask,
            rows=rows,
            row=row + rows.start,
            left=starts - row * stride,
            right=ends - row * stride,
            region=region,
            regions=regions,
        )

    def labels(self) -> NDArray[np.int32]:
        """The number of each pixel's region, (H, W) int32: 0 where the mask is False, else 1 .. regions."""
        labels = np.zeros(self.mask.shape, dtype=np.int32)
        labels[self.rows][self.mask[self.rows]] = np.repeat(self.region.astype(np.int32) + 1, self._length)
        return labels

    def without_small(self, minimum_area: float) -> Self:
        """Without regions of fewer pixels; up to 1 keeps everything."""
        return self._only(self._total(self._length) >= minimum_area)

    def around(self, row: int, column: int) -> Self:
        """Only the region of a pixel that is in the mask."""
        at = np.flatnonzero((self.row == row) & (self.left <= column) & (column < self.right))
        return self._only(np.arange(self.regions) == self.region[at])

    def describe(self, anomaly_map: NDArray[np.float32]) -> tuple[Region, ...]:
        """What can be said about each region.

        Args:
            anomaly_map: (H, W) float32. NaN is passed over; a region of nothing else has the peak NaN.

        Returns:
            the regions, largest peak first; among equal peaks the largest area first, then in scan order.

        Raises:
            ValueError: if mask and map differ in shape.
        """
        if self.mask.shape != anomaly_map.shape:
            raise ValueError(
                f"mask {self.mask.shape} and anomaly_map {anomaly_map.shape}: expected equal shapes"
            )
        if self.regions == 0:
            return ()
        length = self._length
        area = self._total(length)
        x = self._total(length * (self.left + self.right - 1) / 2) / area
        y = self._total(length * self.row) / area

        left, top = np.full((2, self.regions), max(self.mask.shape))
        right, bottom = np.zeros((2, self.regions), dtype=np.intp)
        np.minimum.at(left, self.region, self.left)
        np.minimum.at(top, self.region, self.row)
        np.maximum.at(right, self.region, self.right)
        np.maximum.at(bottom, self.region, self.row + 1)

        first_pixel = np.cumsum(length) - length
        peak = np.full(self.regions, np.nan)
        np.fmax.at(
            peak,
            self.region,
            np.fmax.reduceat(anomaly_map[self.rows][self.mask[self.rows]], first_pixel).astype(np.float64),
        )

        order = np.lexsort((np.arange(self.regions), -area, -peak))  # NaN comes last
        return tuple(
            Region(
                area=int(area[i]),
                peak=float(peak[i]),
                box=(int(left[i]), int(top[i]), int(right[i]), int(bottom[i])),
                centroid=(float(x[i]), float(y[i])),
            )
            for i in order
        )

    @property
    def _length(self) -> NDArray[np.intp]:
        return self.right - self.left

    def _total(self, of_run: NDArray[np.float64] | NDArray[np.intp]) -> NDArray[np.float64]:
        return np.bincount(self.region, of_run, self.regions).astype(np.float64)

    def _only(self, kept: NDArray[np.bool_]) -> Self:
        """Without the regions that are not kept, (regions,) bool."""
        if kept.all():
            return self
        runs = kept[self.region]
        mask = self.mask.copy()
        mask[self.rows][self.mask[self.rows]] = np.repeat(runs, self._length)
        return replace(
            self,
            mask=mask,
            row=self.row[runs],
            left=self.left[runs],
            right=self.right[runs],
            region=(np.cumsum(kept) - 1)[self.region[runs]],
            regions=int(np.count_nonzero(kept)),
        )


def joined(several: Sequence[Runs]) -> Runs:
    """The runs of all pixels that are in one of several masks of a size; at least one."""
    return several[0] if len(several) == 1 else Runs.of(np.logical_or.reduce([runs.mask for runs in several]))


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the 8-connected regions of a mask in the order in which a scan by rows meets them.

    Args:
        mask: (H, W) bool.

    Returns:
        labels, (H, W) int32: 0 where the mask is False, else 1..n; and n.

    Raises:
        ValueError: if the mask is not a two-dimensional array of bool.
    """
    runs = Runs.of(mask)
    return runs.labels(), runs.regions


def _numbered(root: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Components by their smallest members, (n,), as numbers from 0 in that order; and how many there are."""
    is_root = root == np.arange(len(root))
    return (np.cumsum(is_root) - 1)[root], int(np.count_nonzero(is_root))


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
            if (grandparent == parent).all():
                break
            parent = grandparent
        a, b = parent[a], parent[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return parent
