import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from goodparts.evaluation import pixel_metrics
from goodparts.evaluation.pixel_metrics import PixelMetrics

NAN = np.float32(np.nan)


def measure(images) -> dict[str, float]:
    metrics = PixelMetrics()
    for image in images:
        metrics.add(*image)
    return metrics.result()


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def marks(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in text]])


def looked_at(images):
    """Values and labels of all pixels but NaN; the values of each good image, bad image and region."""
    values, labels, good_images, bad_images, regions = [], [], [], [], []
    for anomaly_map, mask, *_ in images:
        truth = np.zeros(anomaly_map.shape, dtype=bool) if mask is None else mask
        seen = ~np.isnan(anomaly_map)
        values.append(anomaly_map[seen])
        labels.append(truth[seen])
        if not truth.any():
            good_images.append(anomaly_map[seen])
            continue
        bad_images.append(anomaly_map[seen & truth])
        numbers, count = scipy.ndimage.label(truth, structure=np.ones((3, 3)))
        regions += [anomaly_map[seen & (numbers == number)] for number in range(1, count + 1)]
    groups = [[group for group in kind if len(group)] for kind in (good_images, bad_images, regions)]
    return np.concatenate(values), np.concatenate(labels), *groups


def naive_aupro(images, limit: float) -> float:
    """By the definition: threshold after threshold, trapezoid after trapezoid."""
    values, labels, _, _, regions = looked_at(images)
    points = [(0.0, 0.0)]
    for threshold in np.unique(values)[::-1]:
        rate = np.mean(values[~labels] >= threshold)
        points.append((float(rate), float(np.mean([np.mean(region >= threshold) for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit or x0 == x1:
            continue
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def naive_aupimo(images, bounds: tuple[float, float]) -> float:
    """By the definition, over every distinct value; a tie of good and defect pixels counts half."""
    values, _, good_images, bad_images, _ = looked_at(images)
    points = [(0.0, np.zeros(len(bad_images)))]
    for threshold in np.unique(values)[::-1]:
        share = float(np.mean([np.mean(image >= threshold) for image in good_images]))
        points.append((share, np.array([np.mean(image >= threshold) for image in bad_images])))
    area = np.zeros(len(bad_images))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        x0, x1 = np.clip([x0, x1], *bounds)
        area += (math.log(x1) - math.log(x0)) * (y0 + y1) / 2
    return float(np.mean(area / math.log(bounds[1] / bounds[0])))


@st.composite
def image_sets(draw, least_good=0):
    """Small images of several sizes with masks, NaN, and values with many ties or hardly any."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 40, None]))
    images = []
    for i in range(draw(st.integers(2, 5))):
        shape = tuple(random.integers(3, 12, 2))
        mask = (
            None
            if i < least_good or random.random() < 0.3
            else random.random(shape) < random.choice([0.1, 0.3])
        )
        anomaly_map = random.gamma(4, 1, shape) + (0 if mask is None else mask * random.choice([0, 2, 8]))
        anomaly_map = anomaly_map * 5 - 4
        if levels:
            anomaly_map = np.floor(anomaly_map * levels / 40)
        anomaly_map = anomaly_map.astype(np.float32)
        anomaly_map[random.random(shape) < draw(st.sampled_from([0, 0.2]))] = np.nan
        segmentation = None if random.random() < 0.2 else np.nan_to_num(anomaly_map, nan=-99) > 20
        images.append((anomaly_map, mask, segmentation))
    labels = looked_at(images)[1]
    if not (labels.any() and not labels.all()):
        images.append((row(1, 2, 3), marks("#.."), None))
    return images


@pytest.fixture(params=[1, 3, 16384], ids=["blocks of one", "blocks of three", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(pixel_metrics, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@given(images=image_sets())
@settings(max_examples=40, deadline=None)
def test_pixel_auroc_and_average_precision_are_those_of_scikit_learn(images):
    values, labels, *_ = looked_at(images)
    result = measure(images)
    expected = sklearn.metrics.roc_auc_score(labels, values)
    assert result["pixel_auroc"] == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.average_precision_score(labels, values)
    assert result["pixel_average_precision"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.usefixtures("block")
@given(images=image_sets())
@settings(max_examples=40, deadline=None)
def test_pixel_f1_max_is_the_best_of_all_thresholds_and_reached_by_its_own(images):
    values, labels, *_ = looked_at(images)

    def f1_above(threshold):
        bad = values > threshold
        return 2 * (bad & labels).sum() / (bad.sum() + labels.sum())

    result = measure(images)
    candidates = [-math.inf, *np.unique(values).tolist()]
    assert result["pixel_f1_max"] == max(map(f1_above, candidates))
    assert result["pixel_f1_max"] == f1_above(result["pixel_f1_threshold"])
    highest = max(t for t in candidates if f1_above(t) == result["pixel_f1_max"])
    assert (values > result["pixel_f1_threshold"]).sum() == (values > highest).sum()


@pytest.mark.usefixtures("block")
@given(images=image_sets())
@settings(max_examples=40, deadline=None)
def test_aupro_is_that_of_its_definition(images):
    result = measure(images)
    assert result["aupro_30"] == pytest.approx(naive_aupro(images, 0.30), abs=1e-12)
    assert result["aupro_05"] == pytest.approx(naive_aupro(images, 0.05), abs=1e-12)


@given(
    images=image_sets(least_good=1),
    bounds=st.sampled_from([(1e-5, 1e-4), (0.01, 0.1), (0.05, 0.6), (0.3, 1.0)]),
)
@settings(max_examples=40, deadline=None)
def test_aupimo_is_that_of_its_definition(images, bounds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_metrics, "AUPIMO_BOUNDS", bounds)
        result = measure(images)
    if not (looked_at(images)[2] and looked_at(images)[3]):
        assert math.isnan(result["aupimo"])
    else:
        assert result["aupimo"] == pytest.approx(naive_aupimo(images, bounds), abs=1e-12)


def test_aupimo_is_near_the_published_sampling_of_thresholds():
    # As the authors do it: the curve at thresholds evenly spaced over the values of the good images, a
    # trapezoid over the logarithm of the shared rate. With enough pixels it comes close to the exact curve.
    random = np.random.default_rng(9)
    images = [(random.gamma(4, 1, (200, 300)).astype(np.float32), None) for _ in range(10)]
    for strength in (10, 13, 16):
        mask = np.zeros((200, 300), dtype=bool)
        mask[50:90, 60:120] = True
        images.append(((random.gamma(4, 1, (200, 300)) + strength * mask).astype(np.float32), mask))
    good = np.sort(np.concatenate([image.ravel() for image, mask in images if mask is None]))
    thresholds = np.linspace(good[0], good[-1], 300_000, dtype=np.float32)[::-1]
    rate = 1 - np.searchsorted(good, thresholds) / len(good)
    within = slice(*(int(np.argmin(abs(rate - bound))) for bound in (1e-5, 1e-4)))
    areas = []
    for image, mask in images[10:]:
        defect = np.sort(image[mask])
        found = 1 - np.searchsorted(defect, thresholds[within]) / len(defect)
        areas.append(np.trapezoid(found, np.log(rate[within])) / math.log(10))
    assert measure(images)["aupimo"] == pytest.approx(np.mean(areas), abs=0.01)
    assert 0.2 < np.mean(areas) < 0.8


@pytest.mark.usefixtures("block")
def test_worked_example():
    # Two regions, 1 and 3 pixels, in one bad image; 4 good pixels there and 4 in a good image.
    bad = (row(9, 1, 6, 4, 2, 3, 5, 0), marks("#.###..."), marks("##.....#"))
    good = (row(1, 2, 3, 4), None, marks("...#"))
    result = measure([bad, good])
    # Good pixels have 5, 4, 3, 3, 2, 1, 1, 0. Of those 9 and 6 beat 8, 4 beats 6 and ties with one, 2 beats 3
    # and ties with one: 8 + 8 + 6.5 + 3.5 of 32.
    assert result["pixel_auroc"] == 26 / 32
    # At 9 1 of 1, at 6 2 of 2, at 4 3 of 5, at 2 4 of 9.
    assert result["pixel_average_precision"] == pytest.approx((1 + 1 + 3 / 5 + 4 / 9) / 4, abs=1e-15)
    # F1 at 6: 2 * 2 / (2 + 4); at 4: 2 * 3 / (5 + 4), the same.
    assert result["pixel_f1_max"] == pytest.approx(2 / 3)
    assert result["pixel_f1_threshold"] == 5.5
    # PRO is (1 + 1/3) / 2 up to a rate of 1/8, rises to (1 + 2/3) / 2 at 2/8, and stays up to 0.3.
    expected = (2 / 3 * 1 / 8 + (2 / 3 + 5 / 6) / 2 * 1 / 8 + 5 / 6 * 0.05) / 0.3
    assert result["aupro_30"] == pytest.approx(expected, abs=1e-15)
    assert result["aupro_05"] == pytest.approx(2 / 3, abs=1e-15)
    # Below one pixel in four the curve is what lies above 4, half of what equals it: 2.5 of 4.
    assert result["aupimo"] == pytest.approx(2.5 / 4, abs=1e-12)
    # Segmentation: pixel 0 is a hit; pixels 1 and 7 and one of the good image are not; 3 are missed.
    assert result["pixel_f1"] == 2 / (2 + 3 + 3)
    assert result["defect_recall"] == 1 / 2
    assert result["not_looked_share"] == 0.0


def test_values_that_separate_perfectly_give_exactly_one():
    random = np.random.default_rng(10)
    images = [((18 + 10 * random.random((20, 30))).astype(np.float32), None, np.zeros((20, 30), dtype=bool))]
    for _ in range(3):
        mask = random.random((25, 20)) < 0.1
        anomaly_map = np.where(mask, 30 + 30 * random.random(mask.shape), 18 + 10 * random.random(mask.shape))
        images.append((anomaly_map.astype(np.float32), mask, mask))
    result = measure(images)
    assert 28 <= result.pop("pixel_f1_threshold") <= 30
    assert result.pop("not_looked_share") == 0.0
    assert set(result.values()) == {1.0}


def test_values_that_separate_the_wrong_way_give_zero():
    result = measure([(row(1, 1, 2, 5, 3), marks("##...")), (row(4, 3), None)])
    for name in ("pixel_auroc", "aupro_30", "aupro_05", "aupimo"):
        assert result[name] == 0.0


def test_equal_values_tell_nothing():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:4, 2:7] = True
    result = measure([(np.full((10, 10), 2.5, np.float32), mask), (np.full((5, 4), 2.5, np.float32), None)])
    assert result["pixel_auroc"] == 0.5
    assert result["pixel_average_precision"] == pytest.approx(10 / 120, abs=1e-15)
    assert result["pixel_f1_max"] == 2 * 10 / (120 + 10)
    assert result["pixel_f1_threshold"] == np.nextafter(np.float32(2.5), np.float32(0))
    # the curve is the diagonal
    assert result["aupro_30"] == pytest.approx(0.15, abs=1e-12)
    assert result["aupro_05"] == pytest.approx(0.025, abs=1e-12)
    assert result["aupimo"] == pytest.approx(0.5, abs=1e-12)


def test_pixels_not_looked_at_take_no_part():
    seen = [(row(1, 2, 7, 3), marks("..##"), marks("..#.")), (row(2, 1, 4), None, marks("..#"))]
    framed = []
    for anomaly_map, mask, segmentation in seen:
        wide = np.full((3, 8), np.nan, dtype=np.float32)
        wide[1, 2 : 2 + anomaly_map.shape[1]] = anomaly_map[0]
        wide_mask, wide_segmentation = np.zeros((2, 3, 8), dtype=bool)
        wide_segmentation[1, 2 : 2 + anomaly_map.shape[1]] = segmentation[0]
        if mask is not None:
            wide_mask[1, 2:6] = mask[0]
            wide_mask[1, 6] = True  # a part of the defect that can't be seen
        framed.append((wide, None if mask is None else wide_mask, wide_segmentation))
    expected, result = measure(seen), measure(framed)
    assert expected.pop("not_looked_share") == 0.0
    assert result.pop("not_looked_share") == 1 - 7 / 48
    assert result == expected


def test_a_defect_that_was_not_looked_at_is_missed():
    images = [(row(1, NAN, NAN, 2, 9), marks(".##.#"), marks("....#")), (row(1, 2), None, marks(".."))]
    result = measure(images)
    assert result["defect_recall"] == 1 / 2
    assert result["aupro_30"] == result["aupimo"] == result["pixel_f1"] == 1.0  # of what was looked at


def test_a_bad_image_whose_defect_was_not_looked_at_is_no_good_image():
    images = [(row(NAN, 9, 8), marks("#..")), (row(1, 2, 7), marks("..#"))]
    assert math.isnan(measure(images)["aupimo"])
    images.append((row(3, 4), None))
    result = measure(images)
    assert result["aupimo"] == 1.0
    assert result["pixel_auroc"] == 4 / 6  # but its other pixels are good pixels


def test_an_empty_mask_is_that_of_a_good_image():
    bad = (row(1, 2, 7, 3), marks("..##"), marks("..#."))
    good = (row(2, 1, 4), None, marks("..#"))
    assert measure([bad, (good[0], marks("..."), good[2])]) == measure([bad, good])


def test_images_without_segmentation_count_for_all_else():
    images = [(row(1, 5), marks(".#"), marks(".#")), (row(9, 8), marks("#.")), (row(7, 2), None)]
    result = measure(images)
    assert result["pixel_f1"] == result["defect_recall"] == 1.0
    assert result["pixel_auroc"] == 6 / 8


OF_SEGMENTATION = ["pixel_f1", "defect_recall"]
OF_ALL_PIXELS = [
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "pixel_f1_threshold",
    "aupro_30",
    "aupro_05",
]
NAMES = [*OF_ALL_PIXELS, "aupimo", *OF_SEGMENTATION, "not_looked_share"]


@pytest.mark.parametrize(
    ("images", "defined"),
    [
        ([], []),
        ([(row(1, 2), None)], ["not_looked_share"]),
        ([(row(1, 2), None, marks("#."))], ["not_looked_share"]),
        ([(row(NAN, NAN), marks("#."), marks(".."))], ["not_looked_share", "defect_recall"]),
        ([(row(1, 2), marks("##"))], ["not_looked_share"]),
        ([(row(1, 2), marks("##"), marks("##"))], ["not_looked_share", "defect_recall", "pixel_f1"]),
        ([(row(1, 2), marks("#."))], [*OF_ALL_PIXELS, "not_looked_share"]),
        ([(row(1, 2), marks("#.")), (row(NAN), None)], [*OF_ALL_PIXELS, "not_looked_share"]),
        ([(row(1, 2), marks("#."), marks("..")), (row(1), None)], NAMES),
    ],
)
def test_what_is_undefined_is_nan(images, defined):
    result = measure(images)
    assert list(result) == NAMES
    assert {type(value) for value in result.values()} == {float}
    assert sorted(name for name in NAMES if not math.isnan(result[name])) == sorted(defined)


def test_results_can_be_asked_for_in_between_and_do_not_depend_on_the_order():
    random = np.random.default_rng(11)
    images = [(random.random((9, 9 + i)).astype(np.float32), None) for i in range(3)]
    images += [
        (random.random((8, 8)).astype(np.float32) + mask, mask) for mask in random.random((3, 8, 8)) < 0.2
    ]
    metrics = PixelMetrics()
    for image in images:
        metrics.add(*image)
        before = metrics.result()
        assert metrics.result() == pytest.approx(before, nan_ok=True, abs=0)
    assert measure(images[::-1]) == pytest.approx(metrics.result(), abs=1e-14, nan_ok=True)


def test_the_images_given_are_not_kept():
    anomaly_map, mask = row(1, 2, 7, 3), marks("..##")
    metrics = PixelMetrics()
    metrics.add(anomaly_map, mask)
    metrics.add(anomaly_map, None)
    before = metrics.result()
    anomaly_map[:] = 0
    assert metrics.result() == pytest.approx(before, nan_ok=True)


def test_the_threshold_holds_for_float32_maps():
    value = np.float32(23.7)
    anomaly_map = row(value, np.nextafter(value, np.float32(99)))
    result = measure([(anomaly_map, marks(".#"))])
    assert (anomaly_map > result["pixel_f1_threshold"]).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("mask", "segmentation", "name"),
    [
        (marks("#."), None, "mask"),
        (None, marks("#...."), "segmentation"),
        (np.array([[1, 0, 0]], dtype=np.uint8), None, "mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, segmentation, name):
    with pytest.raises(ValueError, match=f"{name}: expected \\(1, 3\\) of bool"):
        PixelMetrics().add(row(1, 2, 3), mask, segmentation)


def test_memory_stays_at_the_scores():
    metrics = PixelMetrics()
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 10:20] = True
    for _ in range(4):
        metrics.add(np.ones((64, 64), dtype=np.float32), mask)
        metrics.add(np.ones((64, 64), dtype=np.float32), None)
    kept = [*metrics._good_images, *itertools.chain(*metrics._defects)]
    good = metrics._good[: metrics._good_count]
    assert {array.dtype for array in (*kept, good)} == {np.dtype(np.float32)}
    assert (
        sum((array if array.base is None else array.base).nbytes for array in kept) == 4 * (64 * 64 + 100) * 4
    )
    assert good.nbytes == 4 * (2 * 64 * 64 - 100) * 4
    first = metrics.result()
    assert metrics.result() == pytest.approx(first, nan_ok=True)
    assert np.shares_memory(metrics._good, good)  # and there is no second copy
