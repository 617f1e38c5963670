import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from goodparts.decision.regions import Region, Runs, _join, label_regions

masks = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12))


def drawing(text: str) -> np.ndarray:
    """A mask from rows of `#` and `.`."""
    return np.array([[character == "#" for character in row] for row in text.split()])


def flood_fill(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, count = np.zeros(mask.shape, dtype=int), 0
    for seed in np.argwhere(mask):
        if labels[tuple(seed)]:
            continue
        count += 1
        stack = [tuple(seed)]
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels, count


def spiral(size: int) -> np.ndarray:
    """One line, a pixel wide, that winds to the centre with a pixel's space between its turns."""
    mask = np.zeros((size, size), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    low_y, low_x, high_y, high_x = 0, 0, size - 1, size - 1
    while low_y <= high_y and low_x <= high_x:
        end_y, end_x = {(0, 1): (y, high_x), (1, 0): (high_y, x), (0, -1): (y, low_x), (-1, 0): (low_y, x)}[
            dy, dx
        ]
        mask[min(y, end_y) : max(y, end_y) + 1, min(x, end_x) : max(x, end_x) + 1] = True
        y, x = end_y, end_x
        if (dy, dx) == (0, 1):
            low_y += 2
        elif (dy, dx) == (1, 0):
            high_x -= 2
        elif (dy, dx) == (0, -1):
            high_y -= 2
        else:
            low_x += 2
        dy, dx = dx, -dy
    return mask


def comb(height: int, width: int) -> np.ndarray:
    """Teeth upwards, joined in the last row only."""
    mask = np.zeros((height, width), dtype=bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def checkerboard(size: int) -> np.ndarray:
    return np.indices((size, size)).sum(axis=0) % 2 == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("...\n...", [[0, 0, 0], [0, 0, 0]]),
        ("###\n###", [[1, 1, 1], [1, 1, 1]]),
        ("#..\n.#.\n..#", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),  # corners touch
        ("#.#\n...\n#.#", [[1, 0, 2], [0, 0, 0], [3, 0, 4]]),  # numbered as a scan meets them
        ("#.#\n###", [[1, 0, 1], [1, 1, 1]]),  # two runs join below
        ("..#\n#..", [[0, 0, 1], [2, 0, 0]]),  # the end of a row does not touch the start of the next
        ("..#\n...\n#..", [[0, 0, 1], [0, 0, 0], [2, 0, 0]]),
        ("#\n.\n#", [[1], [0], [2]]),
        ("#.##", [[1, 0, 2, 2]]),
        (".#.#.\n#.#.#\n.....\n##.##", [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0] * 5, [2, 2, 0, 3, 3]]),
    ],
)
def test_labels_of_drawings(text, expected):
    labels, count = label_regions(drawing(text))
    assert labels.tolist() == expected
    assert labels.dtype == np.int32
    assert count == np.max(expected)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_labels_are_those_of_a_flood_fill(mask):
    labels, count = label_regions(mask)
    expected, expected_count = flood_fill(mask)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("density", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_labels_of_noise(density):
    mask = np.random.default_rng(1).random((80, 90)) < density
    np.testing.assert_array_equal(label_regions(mask)[0], flood_fill(mask)[0])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_a_mask_without_pixels_has_no_regions(shape):
    mask = np.zeros(shape, dtype=bool)
    labels, count = label_regions(mask)
    assert (labels.shape, count) == (shape, 0)
    assert Runs.of(mask).describe(mask.astype(np.float32)) == ()
    assert Runs.of(mask).without_small(3).mask.shape == shape


@pytest.mark.parametrize(
    "mask",
    [
        spiral(60),
        spiral(61).T,
        comb(40, 61),
        comb(40, 61)[::-1],
        comb(40, 61).T,
        checkerboard(50),
        np.ones((30, 30), dtype=bool),
        spiral(40)[::-1, ::-1],
    ],
)
def test_winding_masks_are_one_region(mask):
    labels, count = label_regions(mask)
    assert count == 1
    np.testing.assert_array_equal(labels, mask)


@pytest.mark.parametrize("mask", [spiral(700), comb(700, 700), comb(700, 700)[::-1], checkerboard(700)])
def test_winding_masks_are_not_slow(mask):
    start = time.perf_counter()
    assert label_regions(mask)[1] == 1
    assert time.perf_counter() - start < 2  # some 0.05 s alone on a machine; minutes if it were quadratic


def test_a_long_chain_in_random_order_joins_in_few_rounds():
    n = 200_000
    order = np.random.default_rng(2).permutation(n)
    start = time.perf_counter()
    root = _join(n, order[:-1], order[1:])
    assert not root.any()
    assert time.perf_counter() - start < 5


def test_parts_of_a_view_and_other_memory_orders_are_labelled_alike():
    mask = np.random.default_rng(3).random((40, 60)) < 0.5
    expected = flood_fill(mask[::2, 5:50:3])[0]
    np.testing.assert_array_equal(label_regions(mask[::2, 5:50:3])[0], expected)
    np.testing.assert_array_equal(label_regions(np.asfortranarray(mask[::2, 5:50:3]))[0], expected)


@pytest.mark.parametrize("mask", [np.zeros(4, dtype=bool), np.zeros((2, 2), dtype=np.uint8)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="expected shape \\(H, W\\) of bool"):
        label_regions(mask)


def test_regions_of_a_drawing():
    mask = drawing("##...\n##...\n.....\n..###\n...#.")
    anomaly_map = np.arange(25, dtype=np.float32).reshape(5, 5)
    anomaly_map[0, 1] = 40.5
    assert Runs.of(mask).describe(anomaly_map) == (
        Region(area=4, peak=40.5, box=(0, 0, 2, 2), centroid=(0.5, 0.5)),
        Region(area=4, peak=23.0, box=(2, 3, 5, 5), centroid=(3.0, 3.25)),
    )


@given(masks.filter(lambda mask: mask.size > 0), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_regions_agree_with_what_a_flood_fill_finds(mask, random):
    anomaly_map = np.array(
        [[random.choice([-1.5, 0.25, 3.0, math.nan]) for _ in row] for row in mask], dtype=np.float32
    )
    labels, count = flood_fill(mask)
    expected = []
    for number in range(1, count + 1):
        y, x = np.nonzero(labels == number)
        values = [value for value in anomaly_map[y, x].tolist() if not math.isnan(value)]
        peak = max(values) if values else math.nan
        expected.append((peak, len(x), (x.min(), y.min(), x.max() + 1, y.max() + 1), (x.mean(), y.mean())))
    expected.sort(key=lambda row: (math.isnan(row[0]), 0 if math.isnan(row[0]) else -row[0], -row[1]))

    regions = Runs.of(mask).describe(anomaly_map)
    assert len(regions) == count
    for region, (peak, area, box, centroid) in zip(regions, expected, strict=True):
        assert region.peak == pytest.approx(peak, abs=0, nan_ok=True)
        assert (region.area, region.box) == (area, box)
        assert region.centroid == pytest.approx(centroid)


def test_regions_hold_plain_python_numbers():
    (region,) = Runs.of(np.ones((2, 3), dtype=bool)).describe(np.ones((2, 3), dtype=np.float32))
    numbers = [region.area, region.peak, *region.box, *region.centroid]
    assert [type(number) for number in numbers] == [int, float, int, int, int, int, float, float]


def test_equal_peaks_come_largest_first_then_in_scan_order():
    mask = drawing("#.##.#")
    regions = Runs.of(mask).describe(np.ones((1, 6), dtype=np.float32))
    assert [region.box[0] for region in regions] == [2, 0, 5]


def test_regions_need_a_map_of_the_same_shape():
    with pytest.raises(ValueError, match="expected equal shapes"):
        Runs.of(np.zeros((2, 3), dtype=bool)).describe(np.zeros((3, 2), dtype=np.float32))


@pytest.mark.parametrize(
    ("minimum_area", "expected"),
    [
        (0, "#.##.\n....#\n#....\n#.#.#"),
        (1, "#.##.\n....#\n#....\n#.#.#"),
        (2, "..##.\n....#\n#....\n#...."),
        (3, "..##.\n....#\n.....\n....."),
        (4, ".....\n.....\n.....\n....."),
    ],
)
def test_small_regions_are_removed(minimum_area, expected):
    mask = drawing("#.##.\n....#\n#....\n#.#.#")
    before = mask.copy()
    np.testing.assert_array_equal(Runs.of(mask).without_small(minimum_area).mask, drawing(expected))
    np.testing.assert_array_equal(mask, before)


@given(masks, st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_what_remains_is_all_regions_that_are_large_enough(mask, minimum_area):
    labels, count = flood_fill(mask)
    large = [number for number in range(1, count + 1) if np.sum(labels == number) >= minimum_area]
    np.testing.assert_array_equal(Runs.of(mask).without_small(minimum_area).mask, np.isin(labels, large))
