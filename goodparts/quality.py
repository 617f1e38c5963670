"""The quality gate: is this image fit to be judged at all?

A blurred, badly exposed, noisy or wrong picture gets no verdict but a reason in words. What good images look like is
learnt from the good images themselves; a defect, which is local, must not be taken for a bad picture, so every
statistic is one that a small part of the image can't move far.

    limits = learn_limits([measure(pixels, held_out_grid) for pixels, held_out_grid in good])
    reasons(measure(pixels, distance_grid), limits)
    # ("blurred: detail is 0.31 of what good images have (limit 0.72)",)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

MINIMUM_IMAGES = 5
"""Good images from which limits can be learnt."""

_BLACK, _WHITE = 4, 251  # grey levels up to and from which a pixel has lost what it showed
_TILES = 10  # noise is measured in about this many tiles along the shorter side
_TINY = 1e-3  # added before a logarithm


@dataclass(frozen=True)
class ImageStatistics:
    """What is measured of one image. Grey is (red + 2 green + blue) / 4, 0 to 255.

    Attributes:
        brightness: mean grey.
        contrast: standard deviation of grey.
        black: share of the pixels that are black, 0 to 1.
        white: share of the pixels that are white, 0 to 1.
        detail: how sharp the sharpest edges are, whatever their contrast: strong curvature over strong slope.
        noise: standard deviation of the finest grain in the smoothest quarter of the image, grey levels.
        distance: the patch distance that three quarters of the patches exceed: large where the picture is unlike good
            images nearly everywhere.
    """

    brightness: float
    contrast: float
    black: float
    white: float
    detail: float
    noise: float
    distance: float


@dataclass(frozen=True)
class Limits:
    """Between what values the statistics of good images lie; made by `learn_limits`.

    Attributes:
        typical: medians.
        lowest, highest: outside these an image is unlike the good ones.
        images: how many good images they were learnt from.
    """

    typical: ImageStatistics
    lowest: ImageStatistics
    highest: ImageStatistics
    images: int

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary of plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; TypeError or KeyError if it is something else."""
        typical, lowest, highest = (
            ImageStatistics(**values[name]) for name in ("typical", "lowest", "highest")
        )
        return cls(typical, lowest, highest, int(values["images"]))


class _Check(NamedTuple):
    """One way in which an image can be bad."""

    statistic: str
    too: str  # "low" or "high"
    sentence: str


# What is always allowed beyond the median: a factor, or for shares a difference.
_FACTORS = {"brightness": 1.25, "contrast": 1.5, "detail": 1.35, "noise": 1.75, "distance": 1.5}
_SHARES = {"black": 0.1, "white": 0.1}

_CHECKS = (
    _Check("brightness", "low", "under-exposed: brightness is {} what good images have (limit {})"),
    _Check("black", "high", "under-exposed: {} of the pixels are black (limit {})"),
    _Check("brightness", "high", "over-exposed: brightness is {} what good images have (limit {})"),
    _Check("white", "high", "over-exposed: {} of the pixels are white (limit {})"),
    _Check("contrast", "low", "flat: contrast is {} what good images have (limit {})"),
    _Check("detail", "low", "blurred: detail is {} what good images have (limit {})"),
    _Check("noise", "high", "noisy: grain is {} what good images have (limit {})"),
    _Check(
        "distance",
        "high",
        "unlike all good images, nearly everywhere: distance is {} what good images have (limit {})",
    ),
)


def measure(pixels: NDArray[np.uint8], distance_grid: NDArray[np.float32] | None = None) -> ImageStatistics:
    """Measure one image; about 0.8 ms at 320 x 320.

    Detail is the 99th percentile of the second difference over that of the first difference across two pixels. Blur
    lowers it, exposure and contrast cancel, as in the gradient measures compared by Pertuz et al., "Analysis of focus
    measure operators for shape-from-focus", Pattern Recognition 46 (2013); the strongest edges stand for the lens, a
    mean would stand for the texture of the part. Noise is the mean absolute diagonal difference of 2 x 2 pixels
    (Immerkaer, "Fast noise variance estimation", CVIU 64 (1996), takes 3 x 3), in the calmest quarter of the tiles.

    Args:
        pixels: the working image, (h, w, 3) uint8 RGB, at least 8 x 8, without padding.
        distance_grid: its patch distances, (rows, columns) float32; NaN where the recipe did not look. None leaves
            the distance at 0, for `with_distance` to fill in.
    """
    grey = pixels[..., 1].astype(np.int16)  # four times the grey value: 0 to 1020
    grey += grey
    grey += pixels[..., 0]
    grey += pixels[..., 2]
    counts = np.bincount(grey.ravel(), minlength=1021)
    levels = np.arange(1021) / 4
    brightness = float(counts @ levels) / grey.size
    found = ImageStatistics(
        brightness=brightness,
        contrast=float(np.sqrt(counts @ (levels - brightness) ** 2 / grey.size)),
        black=float(counts[levels <= _BLACK].sum() / grey.size),
        white=float(counts[levels >= _WHITE].sum() / grey.size),
        detail=_detail(grey),
        noise=_noise(grey),
        distance=0.0,
    )
    return found if distance_grid is None else with_distance(found, distance_grid)


def with_distance(statistics: ImageStatistics, distance_grid: NDArray[np.float32]) -> ImageStatistics:
    """The same with the distance of a grid of patch distances, (rows, columns) float32, NaN where nothing was seen."""
    seen = distance_grid[~np.isnan(distance_grid)]
    return replace(statistics, distance=float(np.quantile(seen, 0.25)))


def _detail(grey: NDArray[np.int16]) -> float:
    """Sharpness of the sharpest edges, about 0.1 to 2; 0 where there is no edge at all."""
    curvature, slope = np.zeros(2041, dtype=np.intp), np.zeros(1021, dtype=np.intp)
    rows = grey[::4]  # every fourth line is enough, across and down
    across = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    down = grey[:-2:4], grey[1:-1:4], grey[2::4]
    for before, here, after in (across, down):
        curvature += np.bincount(np.abs(before + after - 2 * here).ravel(), minlength=2041)
        slope += np.bincount(np.abs(after - before).ravel(), minlength=1021)
    steepest = _percentile_99(slope)
    return _percentile_99(curvature) / steepest if steepest > 0 else 0.0


def _percentile_99(counts: NDArray[np.intp]) -> float:
    """The 99th percentile of whole numbers of which there are `counts`, between them by proportion."""
    below = np.cumsum(counts)
    wanted = 0.99 * below[-1]
    at = int(np.searchsorted(below, wanted))
    return at - float(below[at] - wanted) / float(counts[at]) if at else 0.0


def _noise(grey: NDArray[np.int16]) -> float:
    """Standard deviation of white noise with this much grain, in grey levels."""
    rows, columns = grey.shape[0] // 2 * 2, grey.shape[1] // 2 * 2
    even, odd = grey[:rows:2, :columns], grey[1:rows:2, :columns]
    grain = np.abs(even[:, ::2] - even[:, 1::2] - odd[:, ::2] + odd[:, 1::2])
    side = max(1, min(grain.shape) // _TILES)
    down, across = grain.shape[0] // side, grain.shape[1] // side
    tiles = grain[: down * side, : across * side].reshape(down, side, across, side).mean(axis=(1, 3))
    # A mean over 2 x 2 pixels of the fourfold grey: the standard deviation is 8 times that of the grey.
    return float(np.quantile(tiles, 0.25)) / 8 * float(np.sqrt(np.pi / 2))


def learn_limits(good: Sequence[ImageStatistics]) -> Limits:
    """Learn what good images have in common.

    For each statistic and side: from the median, twice as far as 95 % of the good images go, and never less than a
    fixed margin, for which a picture is still as good as any; wider for few images. Factors, not differences, except
    for shares. One bad picture in twenty among the good ones moves nothing far.

    Args:
        good: statistics of good images with held-out distance grids (no image compared with itself).

    Raises:
        ValueError: fewer than five images.
    """
    if len(good) < MINIMUM_IMAGES:
        raise ValueError(
            f"limits of image quality need at least {MINIMUM_IMAGES} good images, found {len(good)}"
        )
    typical, lowest, highest = {}, {}, {}
    for name in (field.name for field in fields(ImageStatistics)):
        values = np.array([getattr(statistics, name) for statistics in good], dtype=np.float64)
        factor = name in _FACTORS
        if factor:
            values = np.log(values + _TINY)
        margin = float(np.log(_FACTORS[name])) if factor else _SHARES[name]
        middle = np.median(values)
        low, high = np.quantile(values, 0.05, method="higher"), np.quantile(values, 0.95, method="lower")
        few = 1 + 5 / len(good)
        ends = (
            middle,
            middle - few * max(margin, 2 * (middle - low)),
            middle + few * max(margin, 2 * (high - middle)),
        )
        typical[name], lowest[name], highest[name] = (
            float(np.exp(end) - _TINY if factor else end) for end in ends
        )
    return Limits(
        ImageStatistics(**typical), ImageStatistics(**lowest), ImageStatistics(**highest), len(good)
    )


def reasons(statistics: ImageStatistics, limits: Limits) -> tuple[str, ...]:
    """Why an image can't be judged, in words; empty if it can. The first reason is the one to mend first."""
    found = []
    for name, too, sentence in _CHECKS:
        value = getattr(statistics, name)
        limit = getattr(limits.lowest if too == "low" else limits.highest, name)
        if not (value < limit if too == "low" else value > limit):
            continue
        if name in _SHARES:
            found.append(sentence.format(f"{value:.0%}", f"{limit:.0%}"))
        else:
            typical = max(getattr(limits.typical, name), _TINY)
            times = "of" if too == "low" else "times"
            found.append(sentence.format(f"{value / typical:.2f} {times}", f"{limit / typical:.2f}"))
    return tuple(found)
