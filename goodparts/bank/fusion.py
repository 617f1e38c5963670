"""Fusion: distances at several depths become one, as nodes of a graph.

    distance_grid (h, w) of each depth ─► less what is usual for so unlike an image ─► in units of good images' spread
                                                                                                       │
    distance_grid (h, w) of the finest ◄── soft maximum ◄── on the finest grid, where all see most

Fine layers see prints, threads and scratches; coarse ones what is missing, misplaced or dim over a wide area. A bank
for each sees both; joined in one, each would drown the other (docs/presets.md has what that costs on every set).

All is learnt from held-out good images. The mean and spread of each depth's largest distances make depths comparable,
and the fused distance is in units of the finest depth's, so that 1 is still about as far as its entries are from each
other. Where good images differ as a whole, as cells of random grain do, all distances of one rise and fall together:
what is usual for an image so unlike the others is taken off, within the range of good images, so that an image that is
wrong all over stays wrong. A coarse cell that is unlike good ones says little of where: it counts most for those of
the patches around that all depths so far find most unlike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts.features.extract import cell_of

if TYPE_CHECKING:
    from goodparts.engines.graph import GraphBuilder

SAMPLE = 200
"""Good images from which it is learnt, spread evenly over all of them."""

_TEMPERATURE = (
    3.0  # of the soft maximum, in spreads: a large one adds depths up, a small one takes the largest
)
_BASELINE = 0.25  # the quantile of an image's distances that says how unlike the others it is as a whole
_RANGE = 2.0  # spreads of that within which it is taken off
_FEW = 10  # images; fewer say nothing of how the largest distance goes with the others
_USUAL_SPREAD = 0.06  # of the largest distances, as a share of their mean: on most sets from 0.04 to 0.1
_USUAL_COUNTS = 4  # for so many images
_REACH = 4  # coarse cells
_SOFT = 5.0  # spreads: what lies farther below counts less and less
_NOTHING = -1e4  # spreads: where a depth did not look


@dataclass(frozen=True, eq=False)
class Fusion:
    """What makes the distances of k depths comparable.

    Attributes:
        grids: (h, w) of the patches of each depth, from fine to coarse.
        mean: of the largest distance of held-out good images, (k,) float32.
        spread: its standard deviation, (k,) float32, positive.
        slope: by how much it rises with the baseline, (k,) float32, not negative.
        baseline: usual baseline, (k,) float32: of the distances of an image the lower quartile.
        baseline_spread: its standard deviation, (k,) float32, not negative.
    """

    grids: tuple[tuple[int, int], ...]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    slope: NDArray[np.float32]
    baseline: NDArray[np.float32]
    baseline_spread: NDArray[np.float32]

    @classmethod
    def learn(
        cls, grids: Sequence[tuple[int, int]], largest: NDArray[np.float32], baselines: NDArray[np.float32]
    ) -> Self:
        """From the largest distances and the baselines of n held-out good images, (n, k) float32, n >= 1."""
        found = largest.astype(np.float64)
        under = baselines.astype(np.float64)
        n = len(found)
        mean, usual = found.mean(axis=0), under.mean(axis=0)
        apart, beside = found - mean, under - usual
        slope = np.zeros(len(mean))
        if n >= _FEW:
            slope = np.maximum((apart * beside).sum(axis=0), 0) / np.maximum((beside**2).sum(axis=0), 1e-30)
        variance = (apart**2).sum(axis=0) + _USUAL_COUNTS * (_USUAL_SPREAD * mean) ** 2
        spread = np.sqrt(variance / (n - 1 + _USUAL_COUNTS))
        values = (
            mean,
            np.maximum(spread, 1e-6),
            slope,
            usual,
            np.sqrt((beside**2).sum(axis=0) / max(n - 1, 1)),
        )
        return cls(tuple(grids), *(value.astype(np.float32) for value in values))

    def tensors(self) -> dict[str, NDArray[np.float32] | NDArray[np.int32]]:
        """As a model file keeps it: `from_tensors` makes the same of them."""
        columns = (self.mean, self.spread, self.slope, self.baseline, self.baseline_spread)
        return {
            "fusion.grids": np.array(self.grids, dtype=np.int32),
            "fusion.values": np.stack(columns, axis=1),
        }

    @classmethod
    def from_tensors(cls, grids: NDArray[np.int32], values: NDArray[np.float32]) -> Self:
        """What `tensors` gave, (k, 2) int32 and (k, 5) float32."""
        columns = (np.ascontiguousarray(column) for column in values.T)
        return cls(tuple((int(h), int(w)) for h, w in grids), *columns)


class Extremes(NamedTuple):
    """What a fusion of k depths is learnt from: of n crops of held-out good images the ends of their distances.

    Attributes:
        largest: distance at each depth, (n, k) float32.
        baselines: how unlike the others they are as a whole, (n, k) float32.
    """

    largest: NDArray[np.float32]
    baselines: NDArray[np.float32]

    @classmethod
    def of(cls, crops: Iterable[Sequence[NDArray[np.float32]]], depths: int) -> Self:
        """Of each crop the distances that count at each of so many depths, (patches,)."""
        largest, baselines = [], []
        for distances in crops:
            largest.append([float(of_depth.max()) for of_depth in distances])
            baselines.append([baseline_of(of_depth) for of_depth in distances])
        return cls(
            np.array(largest, dtype=np.float32).reshape(-1, depths),
            np.array(baselines, dtype=np.float32).reshape(-1, depths),
        )

    @classmethod
    def of_all(cls, several: Sequence[Self]) -> Self:
        """Those of several partitions of the images."""
        return cls(
            np.concatenate([one.largest for one in several]),
            np.concatenate([one.baselines for one in several]),
        )

    def fusion(self, grids: Sequence[tuple[int, int]]) -> Fusion:
        """The fusion that suits them, for grids (h, w) of the patches of each depth."""
        return Fusion.learn(grids, self.largest, self.baselines)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them: `from_tensors` makes the same of them."""
        return self._asdict()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """What `tensors` gave; KeyError where something of it is missing."""
        return cls(tensors["largest"], tensors["baselines"])


def learn_fusion(grids: Sequence[tuple[int, int]], crops: Iterable[Sequence[NDArray[np.float32]]]) -> Fusion:
    """The fusion that suits held-out good images: of each crop the distances that count at each depth, (patches,)."""
    return Extremes.of(crops, len(grids)).fusion(grids)


def baseline_of(distances: NDArray[np.float32]) -> float:
    """How unlike the others an image is as a whole: the lower quartile of distances (patches,) that count."""
    at = _baseline_at(len(distances))
    return float(np.partition(distances, at)[at])


def _baseline_at(patches: int) -> int:
    return int(_BASELINE * (max(patches, 1) - 1))


def fusion_nodes(
    build: GraphBuilder, distances: Sequence[str], fusion: Fusion, patch_mask: str | None
) -> str:
    """The fused distances of all patches of the finest grid, (n h w,) float32.

    Args:
        build: the graph.
        distances: of each depth's patches, (n h w,) float32.
        fusion: as learnt.
        patch_mask: name of the finest patches that count, (n, h, w) float32, 0 or 1; None: all do.
    """
    finest = fusion.grids[0]
    units: list[str] = []
    guide = None
    for depth, (grid, values) in enumerate(zip(fusion.grids, distances, strict=True)):
        cells = grid[0] * grid[1]
        of_image = build.node("Reshape", values, build.ints([-1, cells]))
        counted = None if patch_mask is None else _mask_at(build, patch_mask, finest, grid)
        baseline = _baseline_nodes(build, of_image, counted, cells)  # (n, 1)
        beside = build.node("Sub", baseline, build.floats([fusion.baseline[depth]]))
        most = _RANGE * float(fusion.baseline_spread[depth])
        beside = build.node("Max", build.node("Min", beside, build.floats([most])), build.floats([-most]))
        usual = build.node("Mul", beside, build.floats([fusion.slope[depth]]))
        usual = build.node("Add", usual, build.floats([fusion.mean[depth]]))
        unit = build.node("Sub", of_image, usual)
        unit = build.node("Div", unit, build.floats([fusion.spread[depth]]))
        unit = build.node("Reshape", unit, build.ints([-1, *grid]))
        unit = _on_finest(build, unit, counted, finest, grid)
        if guide is None:
            units.append(unit)
            guide = unit
        else:
            guide = build.node("Add", guide, unit)
            below = _below_largest_around(build, guide, patch_mask, finest, grid)
            units.append(build.node("Sub", unit, below))
    largest = build.node("Max", *units)
    shares = [
        build.node("Exp", build.node("Div", build.node("Sub", unit, largest), build.floats([_TEMPERATURE])))
        for unit in units
    ]
    total = build.node("Log", build.node("Sum", *shares))
    soft = build.node("Add", largest, build.node("Mul", total, build.floats([_TEMPERATURE])))
    fused = build.node("Mul", soft, build.floats([fusion.spread[0]]))
    fused = build.node("Add", fused, build.floats([fusion.mean[0]]))
    return build.node("Reshape", fused, build.ints([-1]))


def _below_largest_around(
    build: GraphBuilder, guide: str, patch_mask: str | None, finest: tuple[int, int], grid: tuple[int, int]
) -> str:
    """What is taken off where the guide (n, h, w) lies below its largest within `_REACH` coarse cells around.

    As much as it lies below, x, but 4 counts as 3 and 20 as 10: a (sqrt(1 + 2 x / a) - 1), (n, h, w). Else nothing
    would be left of a wide defect beside its most unlike spot.
    """
    h, w = finest
    reach = [_REACH * round(size / coarse) for size, coarse in zip(finest, grid, strict=True)]
    shown = guide
    if patch_mask is not None:
        there = build.node("Greater", patch_mask, build.floats([0.5]))
        shown = build.node("Where", there, guide, build.floats([_NOTHING]))
    around = build.node("Reshape", shown, build.ints([-1, 1, h, w]))
    for rows, columns in ((reach[0], 0), (0, reach[1])):  # one after the other: less to compare
        around = build.node(
            "MaxPool",
            around,
            kernel_shape=[2 * rows + 1, 2 * columns + 1],
            pads=[rows, columns, rows, columns],
            strides=[1, 1],
        )
    below = build.node("Sub", build.node("Reshape", around, build.ints([-1, h, w])), guide)
    below = build.node("Max", below, build.floats([0]))  # where the patch itself does not count
    root = build.node(
        "Sqrt", build.node("Add", build.node("Mul", below, build.floats([2 / _SOFT])), build.floats([1]))
    )
    return build.node("Mul", build.node("Sub", root, build.floats([1])), build.floats([_SOFT]))


def _mask_at(build: GraphBuilder, patch_mask: str, finest: tuple[int, int], grid: tuple[int, int]) -> str:
    """Which cells of a coarser grid hold a patch that counts, (n, h, w) float32, 0 or 1."""
    if grid == finest:
        return patch_mask
    rows, columns = (_members(size, coarse) for size, coarse in zip(finest, grid, strict=True))
    inside = build.node("MatMul", build.constant(rows), patch_mask)
    inside = build.node("MatMul", inside, build.constant(np.ascontiguousarray(columns.T)))
    return build.node("Min", inside, build.floats([1]))


def _baseline_nodes(build: GraphBuilder, of_image: str, counted: str | None, cells: int) -> str:
    """The baseline of each image, (n, 1), from its distances (n, cells)."""
    most = _baseline_at(cells) + 1
    if counted is None:
        lowest = build.top_k(of_image, most, largest=False)[0]
        return build.node("Slice", lowest, build.ints([most - 1]), build.ints([most]), build.ints([1]))
    flat = build.node("Reshape", counted, build.ints([-1, cells]))
    hidden = build.node("Mul", build.node("Sub", build.floats([1]), flat), build.floats([1e15]))
    lowest = build.top_k(build.node("Add", of_image, hidden), most, largest=False)[0]
    count = build.node(
        "Cast",
        build.node("Round", build.node("ReduceSum", flat, build.ints([1]), keepdims=1)),
        to=TensorProto.INT64,
    )
    places = np.array([_baseline_at(number) for number in range(cells + 1)], dtype=np.int64)
    first = build.node("Slice", lowest, build.ints([0]), build.ints([1]), build.ints([1]))
    at = build.node(
        "Gather", build.constant(places), count
    )  # of one image where the mask is the same for all
    at = build.node("Expand", at, build.node("Shape", first))
    return build.node("GatherElements", lowest, at, axis=1)


def _on_finest(
    build: GraphBuilder, unit: str, counted: str | None, finest: tuple[int, int], grid: tuple[int, int]
) -> str:
    """Values (n, h, w) of a depth on the finest grid; what does not count is no neighbour there."""
    if grid == finest:
        return unit
    rows, columns = (_bilinear(size, coarse) for size, coarse in zip(finest, grid, strict=True))
    across = np.ascontiguousarray(columns.T)

    def spread(values: str) -> str:
        return build.node(
            "MatMul", build.node("MatMul", build.constant(rows), values), build.constant(across)
        )

    if counted is None:
        return spread(unit)
    shown = build.node("Where", build.node("Greater", counted, build.floats([0.5])), unit, build.floats([0]))
    weights = spread(counted)
    mean = build.node("Div", spread(shown), build.node("Max", weights, build.floats([1e-6])))
    there = build.node("Greater", weights, build.floats([1e-6]))
    return build.node("Where", there, mean, build.floats([_NOTHING]))


def _members(size: int, coarse: int) -> NDArray[np.float32]:
    """Which of `size` cells along an axis lie in which of `coarse` ones, (coarse, size), 0 or 1."""
    matrix = np.zeros((coarse, size), dtype=np.float32)
    matrix[cell_of(size, coarse), np.arange(size)] = 1
    return matrix


def _bilinear(size: int, coarse: int) -> NDArray[np.float32]:
    """From `coarse` values along an axis to `size` between them, half-pixel centres, (size, coarse)."""
    at = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    low = np.minimum(at.astype(np.int64), max(coarse - 2, 0))
    matrix = np.zeros((size, coarse), dtype=np.float32)
    matrix[np.arange(size), low] = 1 - (at - low)
    if coarse > 1:
        matrix[np.arange(size), low + 1] = at - low
    return matrix
