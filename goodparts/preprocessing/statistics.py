"""What an image looks like, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_BLACK, _WHITE = 4, 251  # grey levels up to and from which a pixel has lost what it showed
_TILES = 10  # noise is measured in about this many tiles along the shorter side


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
    distances = distance_grid[~np.isnan(distance_grid)]
    return replace(statistics, distance=float(np.quantile(distances, 0.25)))


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
