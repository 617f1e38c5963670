import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from goodparts.evaluation.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    confusion,
    f1_max,
    false_rejects_at_recall,
    precision_recall_curve,
    recall_at_zero_false_rejects,
    roc_curve,
    threshold_between,
)

GOOD, BAD = False, True


@st.composite
def labelled_scores(draw):
    """Labels with both classes and scores with many ties, or none."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda x: any(x) and not all(x)))
    score = draw(
        st.sampled_from(
            [st.integers(-2, 3).map(float), st.floats(-60, 60), st.sampled_from([18.0, 18.5, 60.0])]
        )
    )
    scores = draw(st.lists(score, min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores)


def example(*rows: tuple[bool, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in rows], dtype=bool), np.array([score for _, score in rows])


MIXED = example((GOOD, 1.0), (GOOD, 2.0), (BAD, 2.0), (GOOD, 3.0), (BAD, 4.0), (BAD, 5.0))
PERFECT = example((GOOD, 18.0), (GOOD, 24.5), (BAD, 31.25), (GOOD, 29.0), (BAD, 60.0))


@given(labelled_scores())
@settings(max_examples=60, deadline=None)
def test_auroc_and_average_precision_are_those_of_scikit_learn(case):
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(labelled_scores())
@settings(max_examples=50, deadline=None)
def test_auroc_counts_pairs(case):
    labels, scores = case
    pairs = [(bad, good) for bad in scores[labels] for good in scores[~labels]]
    wins = sum(1.0 if bad > good else 0.5 if bad == good else 0.0 for bad, good in pairs)
    assert auroc(labels, scores) == wins / len(pairs)


@given(labelled_scores())
@settings(max_examples=60, deadline=None)
def test_curves_are_those_of_scikit_learn(case):
    labels, scores = case
    curve = roc_curve(labels, scores)
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, tpr, atol=1e-12)
    curve = precision_recall_curve(labels, scores)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(curve.precision, precision[::-1], atol=1e-12)
    np.testing.assert_allclose(curve.recall, recall[::-1], atol=1e-12)


@given(labelled_scores())
@settings(max_examples=60, deadline=None)
def test_thresholds_give_the_points_of_the_curves(case):
    labels, scores = case
    roc, pr = roc_curve(labels, scores), precision_recall_curve(labels, scores)
    assert len(roc.thresholds) == len(np.unique(scores)) + 1
    np.testing.assert_array_equal(roc.thresholds, pr.thresholds)
    assert (np.diff(roc.thresholds) < 0).all()
    for i, threshold in enumerate(roc.thresholds):
        bad = scores > threshold
        assert roc.false_positive_rate[i] == bad[~labels].mean()
        assert roc.true_positive_rate[i] == pr.recall[i] == bad[labels].mean()
        assert pr.precision[i] == (labels[bad].mean() if bad.any() else 1)


@given(labelled_scores())
@settings(max_examples=60, deadline=None)
def test_f1_max_is_the_best_of_all_thresholds_and_reached_by_its_own(case):
    labels, scores = case

    def f1_above(threshold):
        bad = scores > threshold
        return 2 * (bad & labels).sum() / (bad.sum() + labels.sum())

    f1, threshold = f1_max(labels, scores)
    candidates = [-math.inf, *scores]
    assert f1 == max(map(f1_above, candidates))
    assert f1 == f1_above(threshold)
    assert f1 == pytest.approx(sklearn.metrics.f1_score(labels, scores > threshold), abs=1e-12)
    highest = max(candidate for candidate in candidates if f1_above(candidate) == f1)
    assert (scores > threshold).sum() == (scores > highest).sum()
    assert threshold not in scores or np.nextafter(threshold, math.inf) in scores


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (MIXED, (4 / 5, 3.5)),  # 2 bad of the 2 above 3.5: 2 * 2 / (2 + 3); above 1.5 it is 2 * 3 / (5 + 3)
        (PERFECT, (1.0, 30.125)),
        (example((GOOD, 2.0), (BAD, 2.0)), (2 / 3, np.nextafter(2.0, 0))),
        (example((BAD, 1.0), (GOOD, 3.0), (BAD, 5.0)), (4 / 5, np.nextafter(1.0, 0))),
        (example((BAD, 3.0), (GOOD, 1.0), (BAD, 2.0), (GOOD, 2.0)), (4 / 5, 1.5)),
        (example((GOOD, 0.1), (BAD, np.nextafter(0.1, 1))), (1.0, 0.1)),  # no number lies between
    ],
)
def test_f1_max_of_worked_examples(case, expected):
    f1, threshold = f1_max(*case)
    assert f1 == pytest.approx(expected[0], abs=1e-15)
    assert threshold == expected[1]


def test_worked_example():
    # Pairs bad > good: 5 and 4 beat all 3 goods; 2 beats 1, ties with 2, loses to 3: 7.5 of 9.
    assert auroc(*MIXED) == 7.5 / 9
    # Recall rises by a third at 5 (precision 1), at 4 (1), and at 2 (3 of 5).
    assert average_precision(*MIXED) == pytest.approx((1 + 1 + 3 / 5) / 3, abs=1e-15)
    assert recall_at_zero_false_rejects(*MIXED) == 2 / 3
    assert false_rejects_at_recall(*MIXED) == 2 / 3
    assert false_rejects_at_recall(*MIXED, recall=0.6) == 0


def test_scores_that_separate_perfectly_give_exactly_one():
    for metric in (auroc, average_precision, recall_at_zero_false_rejects):
        assert metric(*PERFECT) == 1.0
    assert f1_max(*PERFECT) == (1.0, 30.125)
    assert false_rejects_at_recall(*PERFECT) == 0.0


def test_scores_that_separate_the_wrong_way_give_zero():
    labels, scores = PERFECT
    assert auroc(~labels, scores) == 0.0
    assert recall_at_zero_false_rejects(~labels, scores) == 0.0
    assert false_rejects_at_recall(~labels, scores) == 1.0


def test_equal_scores_tell_nothing():
    labels = np.array([GOOD, BAD, GOOD, BAD, GOOD])
    scores = np.full(5, 23.0)
    assert auroc(labels, scores) == 0.5
    assert average_precision(labels, scores) == 2 / 5
    assert f1_max(labels, scores) == (4 / 7, np.nextafter(23.0, 0))
    assert recall_at_zero_false_rejects(labels, scores) == 0.0
    assert false_rejects_at_recall(labels, scores) == 1.0
    assert roc_curve(labels, scores).thresholds.tolist() == [math.inf, np.nextafter(23.0, 0)]


@pytest.mark.parametrize("labels", [[GOOD, GOOD, GOOD], [BAD, BAD, BAD], []])
def test_metrics_of_both_classes_are_undefined_with_one(labels):
    labels = np.array(labels, dtype=bool)
    scores = np.arange(len(labels), dtype=float)
    metrics = (auroc, average_precision, recall_at_zero_false_rejects, false_rejects_at_recall)
    assert all(math.isnan(metric(labels, scores)) for metric in metrics)
    assert np.isnan(f1_max(labels, scores)).all()
    assert np.isnan(bootstrap_interval(auroc, labels, scores, draws=10, seed=0)).all()


def test_curves_with_one_class_only_keep_what_is_defined():
    labels, scores = example((GOOD, 1.0), (GOOD, 2.0))
    curve = roc_curve(labels, scores)
    assert curve.false_positive_rate.tolist() == [0, 0.5, 1]
    assert np.isnan(curve.true_positive_rate).all()
    curve = precision_recall_curve(labels, scores)
    assert curve.precision.tolist() == [1, 0, 0]
    assert np.isnan(curve.recall).all()


@given(labelled_scores(), st.sampled_from([0.5, 0.95, 1.0]))
@settings(max_examples=60, deadline=None)
def test_false_rejects_at_recall_is_the_least_of_all_thresholds(case, recall):
    labels, scores = case
    candidates = [scores > t for t in (-math.inf, *scores)]
    expected = min(bad[~labels].mean() for bad in candidates if bad[labels].mean() >= recall - 1e-12)
    assert false_rejects_at_recall(labels, scores, recall) == expected
    assert recall_at_zero_false_rejects(labels, scores) == (scores[labels] > scores[~labels].max()).mean()


def test_recall_is_not_missed_by_rounding():
    # 0.55 of 100 is 55 bad images, though 0.55 * 100 is 55.00000000000001.
    labels = np.array([GOOD] * 10 + [BAD] * 100)
    scores = np.array([0.5] * 10 + [1.0] * 55 + [0.0] * 45)
    assert false_rejects_at_recall(labels, scores, 0.55) == 0.0
    assert false_rejects_at_recall(labels, scores, 0.56) == 1.0


@pytest.mark.parametrize("recall", [-0.1, 1.1, math.nan])
def test_recall_out_of_range_is_refused(recall):
    with pytest.raises(ValueError, match="recall"):
        false_rejects_at_recall(*MIXED, recall=recall)


def test_confusion_counts_every_image_once():
    labels = np.array([GOOD, GOOD, GOOD, BAD, BAD, GOOD])
    bad = np.array([False, True, False, True, False, False])
    counts = confusion(labels, bad)
    assert counts == {"true_good": 3, "false_bad": 1, "true_bad": 1, "false_good": 1}
    assert {type(count) for count in counts.values()} == {int}


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([True, False], [1.0], "expected labels"),
        ([[True], [False]], [[1.0], [2.0]], "expected labels"),
        ([1, 0], [1.0, 2.0], "of bool"),
        ([True, False], [1.0, math.nan], "finite"),
        ([True, False], [1.0, math.inf], "finite"),
    ],
)
def test_what_does_not_fit_is_refused(labels, scores, message):
    for metric in (auroc, average_precision, f1_max, roc_curve, precision_recall_curve):
        with pytest.raises(ValueError, match=message):
            metric(np.array(labels), np.array(scores))
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(auroc, np.array(labels), np.array(scores), seed=0)


def test_confusion_needs_equal_shapes():
    with pytest.raises(ValueError, match="expected both"):
        confusion(np.array([True, False]), np.array([True]))


def test_results_are_python_floats():
    values = [auroc(*MIXED), average_precision(*MIXED), *f1_max(*MIXED), recall_at_zero_false_rejects(*MIXED)]
    values += [false_rejects_at_recall(*MIXED)]
    values += bootstrap_interval(auroc, *MIXED, draws=20, seed=0)
    assert {type(value) for value in values} == {float}


def test_float32_scores_are_parted_exactly():
    labels = np.array([GOOD, BAD])
    scores = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32)
    f1, threshold = f1_max(labels, scores)
    assert f1 == 1.0
    assert 1.0 < threshold < float(scores[1])


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_threshold_between_parts_any_two_numbers(a, b, dtype):
    lower, upper = np.sort(np.array([a, b], dtype=dtype)).reshape(2, 1)
    assume(lower < upper)
    threshold = threshold_between(lower, upper)
    assert threshold.dtype == dtype
    assert upper > threshold >= lower
    if np.nextafter(lower, upper) < upper:
        assert threshold > lower


@pytest.mark.parametrize("lower", [1.0, np.nextafter(1.0, 2)])
def test_threshold_between_numbers_without_one_between_is_the_lower(lower):
    threshold = threshold_between(np.array([lower]), np.array([np.nextafter(lower, 2)]))
    assert threshold.tolist() == [lower]


def overlapping(n_good: int, n_bad: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    scores = np.concatenate([random.normal(0, 1, n_good), random.normal(1.5, 1, n_bad)])
    return np.arange(n_good + n_bad) >= n_good, scores


def test_bootstrap_interval_of_auroc_is_about_as_wide_as_theory_says():
    labels, scores = overlapping(120, 80)
    area = auroc(labels, scores)
    # Hanley and McNeil 1982, equation 2
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 79 * (q1 - area**2) + 119 * (q2 - area**2)) / (120 * 80)
    lower, upper = bootstrap_interval(auroc, labels, scores, draws=600, seed=5)
    assert lower < area < upper
    assert upper - lower == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.2)
    narrow = bootstrap_interval(auroc, labels, scores, draws=600, confidence=0.5, seed=5)
    assert lower < narrow[0] < narrow[1] < upper


def test_bootstrap_repeats_with_its_seed_and_ignores_the_order_of_classes():
    labels, scores = overlapping(30, 20)
    interval = bootstrap_interval(auroc, labels, scores, draws=100, seed=6)
    assert bootstrap_interval(auroc, labels, scores, draws=100, seed=6) == interval
    assert bootstrap_interval(auroc, labels, scores, draws=100, seed=7) != interval
    turned = np.concatenate([np.flatnonzero(labels), np.flatnonzero(~labels)])
    assert bootstrap_interval(auroc, labels[turned], scores[turned], draws=100, seed=6) == interval


def test_bootstrap_keeps_the_number_of_each_class_and_draws_within_it():
    labels, scores = example((BAD, 7.0), (GOOD, 1.0), (GOOD, 2.0), (BAD, 8.0), (GOOD, 3.0))
    seen = []

    def metric(drawn_labels, drawn_scores):
        seen.append((drawn_labels.sum(), set(drawn_scores[drawn_labels]), set(drawn_scores[~drawn_labels])))
        return 0.0

    bootstrap_interval(metric, labels, scores, draws=50, seed=8)
    assert {count for count, _, _ in seen} == {2}
    assert set.union(*(bad for _, bad, _ in seen)) == {7.0, 8.0}
    assert set.union(*(good for _, _, good in seen)) == {1.0, 2.0, 3.0}


def test_bootstrap_leaves_undefined_draws_out():
    values = iter([math.nan, 1.0, math.nan, 3.0, 2.0])
    interval = bootstrap_interval(
        lambda labels, scores: next(values), *MIXED, draws=5, confidence=0.5, seed=0
    )
    assert interval == (1.5, 2.5)


def test_bootstrap_serves_a_metric_of_good_images_alone():
    labels, scores = np.zeros(50, dtype=bool), np.arange(50.0)
    lower, upper = bootstrap_interval(lambda _, drawn: float(np.mean(drawn > 40)), labels, scores, seed=0)
    assert 0.04 < lower < 9 / 50 < upper < 0.32


@pytest.mark.parametrize("options", [{"draws": 0}, {"confidence": 0}, {"confidence": 1}])
def test_bootstrap_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected draws"):
        bootstrap_interval(auroc, *MIXED, seed=0, **options)
