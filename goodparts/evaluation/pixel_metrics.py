"""Pixel metrics: how well anomaly maps and masks show where the defects are.

    metrics = PixelMetrics()
    for ...:
        metrics.add(anomaly_map, ground_truth_mask, inspection.mask)
    metrics.result()["aupro_30"]                    # 0.957

Every metric is exact: computed from all distinct values of the anomaly maps, without bins or sampled
thresholds, and with ties between good and defect pixels counted half. What makes this fast is that the areas
are sums over the defect pixels, of how many good pixels lie above each: one sort of the good pixels gives all
of them. Pixels that were not looked at (NaN) take no part; their share is a result of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.decision.regions import label_regions
from goodparts.evaluation.metrics import threshold_between

AUPRO_LIMITS = {"aupro_30": 0.30, "aupro_05": 0.05}
AUPIMO_BOUNDS = (1e-5, 1e-4)
BLOCK = 16384  # defect pixels
_RESERVE = 1 << 22  # values of good pixels for which room is made at once


class PixelMetrics:
    """Collects the pixels of a test set, image by image, and computes the metrics from all of them.

    Only float32 scores are kept: of the good pixels by image, of the defect pixels by ground-truth region,
    where a region is an 8-connected part of an image's mask. Images may be of different sizes.
    """

    def __init__(self) -> None:
        self._good_images: list[NDArray[np.float32]] = []  # of each good image
        self._good = np.empty(
            0, dtype=np.float32
        )  # of all good pixels, those of bad images too, and a reserve
        self._good_count = 0
        self._defects: list[list[NDArray[np.float32]]] = []  # of each region of each bad image, rising
        self._pixels = 0
        self._pixels_not_looked_at = 0
        self._true_bad = self._false_bad = self._false_good = 0  # pixels, by the deployed segmentation
        self._regions_segmented = self._regions_hit = 0

    def add(
        self,
        anomaly_map: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        segmentation: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one image.

        Args:
            anomaly_map: (H, W) float32; NaN where the inspector did not look.
            mask: ground truth, (H, W) bool, True on defects; None (or an empty mask) for a good image.
            segmentation: what the deployed rule marks as bad, (H, W) bool; None leaves the image out of
                `pixel_f1` and `defect_recall`.

        Raises:
            ValueError: if shapes differ or a mask is not of bool.
        """
        for name, given in (("mask", mask), ("segmentation", segmentation)):
            if given is not None and (given.shape != anomaly_map.shape or given.dtype != np.bool_):
                raise ValueError(
                    f"{name}: expected {anomaly_map.shape} of bool like the anomaly map, "
                    f"found {given.shape} of {given.dtype}"
                )
        anomaly_map = anomaly_map.astype(np.float32, copy=False)
        pixel_mask = ~np.isnan(anomaly_map)
        self._pixels += anomaly_map.size
        self._pixels_not_looked_at += pixel_mask.size - int(np.count_nonzero(pixel_mask))

        if mask is None or not mask.any():
            self._good_images.append(anomaly_map[pixel_mask])
            self._keep(self._good_images[-1])
            if segmentation is not None:
                self._false_bad += int(np.count_nonzero(segmentation & pixel_mask))
            return

        labels, count = label_regions(mask)
        self._keep(anomaly_map[pixel_mask & ~mask])
        self._defects.append(_by_region(anomaly_map, np.where(pixel_mask, labels, 0)))
        if segmentation is not None:
            segmented = segmentation & pixel_mask
            hits = int(np.count_nonzero(segmented & mask))
            self._true_bad += hits
            self._false_bad += int(np.count_nonzero(segmented)) - hits
            self._false_good += int(np.count_nonzero(pixel_mask & mask)) - hits
            self._regions_segmented += count
            self._regions_hit += len(np.unique(labels[segmented & mask]))

    def result(self) -> dict[str, float]:
        """Compute the metrics of the images added so far; more may be added afterwards.

        Returns:
            pixel_auroc: area under the ROC curve of all pixels.
            pixel_average_precision: as `metrics.average_precision`, of all pixels.
            pixel_f1_max: the largest F1 score of the defect pixels that any threshold reaches ...
            pixel_f1_threshold: ... and the highest such threshold, chosen with the ground truth in view (the
                oracle). It lies midway between neighbouring values, or just below the smallest; it is a
                float32, so that `anomaly_map > threshold` holds exactly.
            aupro_30, aupro_05: area under the per-region overlap, the share of a defect region that is found,
                averaged over all regions of all images, against the share of all good pixels called bad, up
                to 30 % and 5 %, divided by that limit. Trapezoids between distinct values, interpolated
                linearly at the limit (Bergmann et al., "Uninformed students: student-teacher anomaly
                detection with discriminative latent embeddings", CVPR 2020).
            aupimo: area under the per-image overlap, the share of a bad image's defect pixels that is found,
                against the logarithm of the share of pixels called bad in good images (the mean of each
                image's own share), from 1e-5 to 1e-4, divided by the width, averaged over the bad images
                (Bertoldo et al., "AUPIMO: redefining visual anomaly detection benchmarks with high speed and
                low tolerance", BMVC 2024). They sample thresholds; here it is the exact curve, in steps.
                Where good pixels are too few for the smallest shares, what lies above them all counts.
            pixel_f1: F1 score of the defect pixels, by the deployed segmentation.
            defect_recall: share of defect regions that the deployed segmentation hits in at least one pixel;
                a region that was not looked at is not hit.
            not_looked_share: share of all pixels that were not looked at.

            NaN where undefined: without defect pixels, without good pixels (`aupimo`: without good images;
            `pixel_f1`, `defect_recall`: without any segmentation of a bad image).
        """
        regions = [region for image in self._defects for region in image]
        good = self._good[: self._good_count]
        good.sort()
        marked = 2 * self._true_bad + self._false_bad + self._false_good
        defect_pixels_segmented = self._true_bad + self._false_good
        return {
            **_sweep(good, regions),
            "aupimo": _aupimo(self._good_images, self._defects),
            "pixel_f1": 2 * self._true_bad / marked if defect_pixels_segmented else math.nan,
            "defect_recall": (
                self._regions_hit / self._regions_segmented if self._regions_segmented else math.nan
            ),
            "not_looked_share": self._pixels_not_looked_at / self._pixels if self._pixels else math.nan,
        }

    def _keep(self, values: NDArray[np.float32]) -> None:
        """Put values behind those of other good pixels: all in one array, which is sorted where it lies."""
        count = self._good_count + len(values)
        if count > len(self._good):
            self._good.resize(count + _RESERVE, refcheck=False)  # grows in place, mostly
        self._good[self._good_count : count] = values
        self._good_count = count


def _by_region(anomaly_map: NDArray[np.float32], labels: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    """Return the values of each labelled region, rising; regions without pixels are left out."""
    inside = labels > 0
    numbers = labels[inside]
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [np.sort(values) for values in np.split(anomaly_map[inside][order], cuts) if len(values)]


def _sweep(good: NDArray[np.float32], regions: list[NDArray[np.float32]]) -> dict[str, float]:
    """Return the metrics of all pixels together, in one pass over the defect pixels from low values to high.

    Areas are sums over the defect pixels: each is found from that false positive rate on at which the
    threshold has come down to its value, and adds what lies between there and the limit. Where good pixels
    have the very same value the curve rises in a straight line, from the count without them, `above`, to the
    count with them, `reached`. Precision and F1 need a look only at the values of defect pixels: recall stays
    and precision falls at any other.

    Args:
        good: values of the good pixels, rising, (n,).
        regions: values of the defect pixels, region by region.
    """
    n, defects = len(good), sum(map(len, regions))
    if not (n and defects):
        names = ("pixel_auroc", "pixel_average_precision", "pixel_f1_max", "pixel_f1_threshold")
        return dict.fromkeys((*names, *AUPRO_LIMITS), math.nan)
    values = np.concatenate(regions)
    order = np.argsort(values)
    values = values[order]
    region = np.repeat(np.arange(len(regions), dtype=np.int32), [len(region) for region in regions])[order]
    weight = np.array([1 / (len(region) * len(regions)) for region in regions])

    doubled_wins, precision, best_f1, best = 0, 0.0, 0.0, 0
    lost = dict.fromkeys(AUPRO_LIMITS, 0.0)
    start = 0
    while start < defects:
        # A block fits the cache, meets a short stretch of the good pixels, and never cuts through a tie.
        stop = int(np.searchsorted(values, values[min(start + BLOCK, defects) - 1], side="right"))
        block = values[start:stop]
        low, high = np.searchsorted(good, block[0], "left"), np.searchsorted(good, block[-1], "right")
        above = n - low - np.searchsorted(good[low:high], block, side="right")
        reached = n - low - np.searchsorted(good[low:high], block, side="left")
        doubled_wins += 2 * n * len(block) - int(above.sum()) - int(reached.sum())
        for name, limit in AUPRO_LIMITS.items():
            height = _height_within(limit * n, above, reached)
            lost[name] += float(np.dot(weight[region[start:stop]], 1 - height))

        first = np.searchsorted(block, block, side="left")  # of those tied with it
        true_bad = defects - start - first
        precision += float((true_bad / (true_bad + reached)).sum())
        f1 = 2 * true_bad / (true_bad + reached + defects)
        highest = len(f1) - 1 - int(np.argmax(f1[::-1]))  # the highest of the best thresholds
        if f1[highest] >= best_f1:
            best_f1, best = float(f1[highest]), start + int(first[highest])
        start = stop

    return {
        "pixel_auroc": doubled_wins / (2 * n * defects),
        "pixel_average_precision": precision / defects,
        "pixel_f1_max": best_f1,
        "pixel_f1_threshold": _threshold_below(values, best, good),
        **{name: max(0.0, 1 - loss) for name, loss in lost.items()},  # 0 despite rounding
    }


def _height_within(limit: float, above: NDArray[np.intp], reached: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean height up to `limit` of curves that rise from 0 at `above` to 1 at `reached`.

    The unit of all three is one good pixel.
    """
    rest_above, rest_reached = np.maximum(limit - above, 0), np.maximum(limit - reached, 0)
    risen = np.ones(len(above))  # how far at the limit: less than 1 where that cuts through the rise
    np.divide(rest_above - rest_reached, reached - above, out=risen, where=reached > above)
    height: NDArray[np.float64] = (rest_above + rest_reached) / 2 * risen / limit
    return height


def _threshold_below(values: NDArray[np.float32], first: int, good: NDArray[np.float32]) -> float:
    """Return a threshold between `values[first]` and the next lower one of any pixel, both arrays rising."""
    value = values[first : first + 1]
    lower = np.concatenate([values[:first][-1:], good[: np.searchsorted(good, value[0])][-1:]])
    if not len(lower):
        return float(np.nextafter(value, np.float32(-np.inf))[0])
    return float(threshold_between(lower.max(keepdims=True), value)[0])


def _aupimo(good_images: list[NDArray[np.float32]], defects: list[list[NDArray[np.float32]]]) -> float:
    """Return the mean AUPIMO of the bad images; values of each region rising."""
    good_images = [image for image in good_images if len(image)]
    defects = [regions for regions in defects if regions]
    if not (good_images and defects):
        return math.nan
    lowest, highest = AUPIMO_BOUNDS

    # While the mean of the shares is within the bound, an image's own share is at most the number of images
    # times that: only so many of its highest pixels can matter, and two more to pass the bound for certain.
    top, weight = [], []
    for image in good_images:
        kept = min(len(image), int(highest * len(good_images) * len(image)) + 2)
        top.append(np.partition(image, len(image) - kept)[len(image) - kept :])
        weight.append(np.full(kept, 1 / (len(image) * len(good_images))))
    values, index = np.unique(np.concatenate(top), return_inverse=True)
    share_at_value = np.bincount(index, np.concatenate(weight))
    share = np.cumsum(share_at_value[::-1])[::-1]  # at or above the value

    # Between the shares at neighbouring values lies one step of the curve.
    ends = np.log(np.clip(share, lowest, highest))
    width = ends - np.append(ends[1:], math.log(lowest))
    steps = width > 0
    values, width = values[steps], width[steps] / math.log(highest / lowest)

    def area(regions: list[NDArray[np.float32]]) -> float:
        missed: NDArray[Any] = np.zeros(len(values))
        for region in regions:
            missed += (np.searchsorted(region, values, "left") + np.searchsorted(region, values, "right")) / 2
        return max(0.0, 1 - float(np.dot(width, missed)) / sum(map(len, regions)))  # 0 despite rounding

    return float(np.mean([area(regions) for regions in defects]))
