"""Photographs that stand in a data set twice: recompressed, brightened, shifted by a pixel or two.

Good parts look alike, so likeness alone proves nothing. What tells a copy from another photograph of a like
part is fine detail: a copy agrees in it once the shift is taken out. Images are reduced by a fixed factor, to
where sensor noise and JPEG are weak but detail still shows, then compared by phase correlation (Kuglin and
Hines, 1975), with the spectra half whitened and the peak refined to a fraction of a pixel by a small matrix
DFT (Guizar-Sicairos, Thurman and Fienup, "Efficient subpixel image registration algorithms", 2008).

The magnitude of a spectrum does not change with a shift, so candidates are found by one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

REDUCTION = 4  # a thumbnail is so many times smaller than its image ...
SIDES = (32, 128)  # ... but has at least and at most so many pixels on a side

# The two most alike photographs of metal_nut in MVTec AD reach 0.976, the next two 0.87, those of grid 0.91.
# Copies of them, shifted, brightened, with added noise or as JPEG of quality 75, reach 0.989 and more.
SAME_PHOTOGRAPH = 0.983
_STANDS_OUT = 1 / 8  # a copy lacks at most this share of what like images of the set typically lack

_CANDIDATES = 4  # for each image
_FINEST = 0.4  # cycles per thumbnail pixel that are compared
_COARSE = 0.25  # cycles per thumbnail pixel by which candidates are found
_WHITENING = 0.5  # 0: plain correlation; 1: phase alone, which weighs noise like detail
_BLOCK = 512  # rows of similarities held at once
_ENOUGH = 8  # images from which on "typical" means something


@dataclass(frozen=True)
class NearDuplicates:
    """What was found among n images.

    Attributes:
        pairs: (i, j, similarity) with i < j, most similar first.
        typical: how similar an image typically is to its fourth-nearest, in [0, 1]; 0 for a handful of
            images. Where it reaches `SAME_PHOTOGRAPH`, copies can't be told from other photographs.
    """

    pairs: tuple[tuple[int, int, float], ...]
    typical: float


def thumbnail_side(sides: NDArray[np.integer]) -> int:
    """Return the side of thumbnails, in pixels, for images whose shorter sides are given."""
    return int(np.clip(int(np.median(sides)) // REDUCTION // 2 * 2, *SIDES))


def thumbnail(image: NDArray[np.uint8], side: int) -> NDArray[np.float16]:
    """Reduce an `(h, w, 3) uint8 RGB` image to `(side, side) float16` grey values, 0 to 255."""
    from PIL import Image

    grey = Image.fromarray(image).convert("L").convert("F")
    return np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float16)


def find_near_duplicates(thumbnails: NDArray[np.float16]) -> NearDuplicates:
    """Find the images that are copies of one photograph.

    Args:
        thumbnails: `(n, side, side)`, none of them constant.
    """
    if len(thumbnails) < 2:
        return NearDuplicates(pairs=(), typical=0.0)
    neighbours = _nearest(_signatures(thumbnails))
    peaks: dict[tuple[int, int], float] = {}
    for i, row in enumerate(neighbours):
        spectrum = _spectrum(thumbnails[i])
        for j in row:
            pair = (min(i, int(j)), max(i, int(j)))
            if pair not in peaks:
                peaks[pair] = _correlation_peak(spectrum, _spectrum(thumbnails[j]))
    typical = 0.0
    if len(thumbnails) >= _ENOUGH:
        farthest = [
            min(peaks[min(i, int(j)), max(i, int(j))] for j in row) for i, row in enumerate(neighbours)
        ]
        typical = float(np.median(farthest))
    limit = max(SAME_PHOTOGRAPH, 1 - _STANDS_OUT * (1 - typical))
    found = sorted((-peak, *pair) for pair, peak in peaks.items() if peak >= limit)
    return NearDuplicates(pairs=tuple((i, j, -peak) for peak, i, j in found), typical=typical)


def _nearest(signatures: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the most similar other rows of each row, `(n, min(4, n - 1))`."""
    count = min(_CANDIDATES, len(signatures) - 1)
    blocks = []
    for start in range(0, len(signatures), _BLOCK):
        similarity = signatures[start : start + _BLOCK] @ signatures.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        blocks.append(np.argpartition(-similarity, count - 1, axis=1)[:, :count])
    return np.concatenate(blocks)


def _signatures(thumbnails: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return what of each image stays the same when it is shifted, `(n, f)` of unit length."""
    side = thumbnails.shape[1]
    coarse = _frequency(side) < _COARSE
    doubled = np.sqrt(_multiplicity(side))
    rows = np.stack([np.abs(_spectrum(image) * doubled)[coarse] for image in thumbnails])
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / lengths, dtype=np.float32)


def _spectrum(image: NDArray[np.float16]) -> NDArray[np.complex128]:
    """Return the half-whitened spectrum of a thumbnail, `(side, side // 2 + 1)`, of unit energy."""
    side = len(image)
    window = np.hanning(side)
    values = image.astype(np.float64)
    spectrum = np.fft.rfft2((values - values.mean()) * np.outer(window, window))
    frequency = _frequency(side)
    magnitude = np.abs(spectrum)
    compared = (frequency > 0) & (frequency < _FINEST) & (magnitude > 0)
    whitened = np.zeros_like(spectrum)
    whitened[compared] = spectrum[compared] / magnitude[compared] ** _WHITENING
    energy = np.sqrt((_multiplicity(side) * np.abs(whitened) ** 2).sum())
    return np.asarray(whitened / max(energy, 1e-12))


def _correlation_peak(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> float:
    """Return the correlation of two images at the best shift (to 1/8 of a pixel), at most 1."""
    side = len(a)
    product = a * np.conj(b)
    coarse = float(np.fft.irfft2(product, s=(side, side)).max()) * side**2
    if coarse < 0.6:  # a copy reaches more than that, even half a pixel off
        return coarse
    # Twice as fine, a repeated texture no longer hides the right peak between two pixels.
    padded = np.zeros((2 * side, side + 1), dtype=product.dtype)
    padded[: side // 2, : side // 2 + 1] = product[: side // 2]
    padded[-(side // 2) :, : side // 2 + 1] = product[side // 2 :]
    y, x = divmod(int(np.fft.irfft2(padded, s=(2 * side, 2 * side)).argmax()), 2 * side)
    steps = np.arange(-4, 5) / 8
    rows = np.exp(2j * np.pi * np.outer(y / 2 + steps, np.fft.fftfreq(side)))
    columns = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(side), x / 2 + steps))
    # einsum, since the threads of a matrix product would cost more than such small ones take
    partial = np.einsum("ij,jk->ik", rows, product * _multiplicity(side))
    fine = np.einsum("ij,jk->ik", partial, columns).real
    return float(min(1.0, fine.max()))


@cache
def _frequency(side: int) -> NDArray[np.float64]:
    """Return the frequency of each bin of `rfft2` in cycles per pixel."""
    return np.asarray(np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]))


@cache
def _multiplicity(side: int) -> NDArray[np.float64]:
    """Return how often each bin of `rfft2` counts in the full spectrum (the highest is never used)."""
    return np.where(np.fft.rfftfreq(side) == 0, 1.0, 2.0)[None]
