"""Metrics against scikit-learn, and DeLong's interval against its definition written out."""

import itertools
import math

import numpy as np
import pytest
from sklearn import calibration, metrics

from research_internlm.evaluation.classification import (
    Confusion,
    best_threshold,
    both_ways,
    reliability,
    roc_auc,
    roc_curve,
)

SIZES = [(30, 50, 1), (200, 20, 2), (5, 5, 3)]


def sample(ones, zeros, seed):
    generator = np.random.default_rng(seed)
    labels = np.array([1] * ones + [0] * zeros)
    scores = np.round(1 / (1 + np.exp(-generator.normal(labels * 1.2, 1))), 2)  # rounded: some are equal
    return labels, scores


@pytest.mark.parametrize("size", SIZES)
def test_scores_are_those_of_scikit_learn(size):
    labels, scores = sample(*size)
    calls = (scores >= 0.6).astype(int)
    found = Confusion.of(labels, calls).scores()
    assert found["accuracy"] == metrics.accuracy_score(labels, calls)
    assert found["precision"] == metrics.precision_score(labels, calls)
    assert found["recall"] == metrics.recall_score(labels, calls)
    assert found["f1"] == metrics.f1_score(labels, calls)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, calls).ravel().tolist()
    assert found["confusion"] == {"tp": tp, "fp": fp, "tn": tn, "fn": fn}


def test_undefined_ratios_are_zero():
    assert Confusion.of([1, 0], [0, 0]).scores()["precision"] == 0.0
    assert both_ways([1, 0], [None, None])["unanswered_dropped"]["accuracy"] == 0.0


@pytest.mark.parametrize("size", SIZES)
def test_auc_and_curve_are_those_of_scikit_learn(size):
    labels, scores = sample(*size)
    assert roc_auc(labels, scores)["auc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = metrics.roc_curve(labels, scores, drop_intermediate=False)
    for found, wanted in zip(roc_curve(labels, scores), expected[:2], strict=True):
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("size", SIZES)
def test_interval_is_delongs(size):
    labels, scores = sample(*size)
    ones, zeros = scores[labels == 1], scores[labels == 0]
    psi = [[1.0 if one > zero else 0.5 if one == zero else 0.0 for zero in zeros] for one in ones]
    of_ones = [sum(row) / len(zeros) for row in psi]
    of_zeros = [sum(column) / len(ones) for column in zip(*psi, strict=True)]
    auc = sum(of_ones) / len(ones)
    variance = (sum((own - auc) ** 2 for own in of_ones) / (len(ones) - 1) / len(ones)
                + sum((own - auc) ** 2 for own in of_zeros) / (len(zeros) - 1) / len(zeros))
    low, high = roc_auc(labels, scores)["interval_95"]
    reach = 1.959963984540054 * math.sqrt(variance)
    assert low == pytest.approx(max(0, auc - reach)) and high == pytest.approx(min(1, auc + reach))


def test_interval_covers_the_true_area_as_often_as_it_says():
    """Normal scores one deviation apart have the area Phi(1 / sqrt 2) = 0.7602."""
    generator, inside = np.random.default_rng(0), 0
    labels = np.array([1] * 300 + [0] * 300)
    for _ in range(400):
        low, high = roc_auc(labels, generator.normal(labels, 1))["interval_95"]
        inside += low <= 0.76025 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_one_class_has_no_area():
    assert roc_auc([1, 1], [0.2, 0.3]) is None


@pytest.mark.parametrize("size", SIZES)
def test_no_threshold_is_more_balanced(size):
    labels, scores = sample(*size)
    found = metrics.balanced_accuracy_score(labels, scores >= best_threshold(labels, scores))
    assert found == pytest.approx(max(metrics.balanced_accuracy_score(labels, scores >= threshold)
                                      for threshold in scores))


def test_calibration_is_that_of_scikit_learn():
    labels, scores = sample(200, 150, 4)
    scores = np.clip(scores + 0.003, 0, 1)  # off the edges of the bins, which only one side can own
    found = reliability(labels, scores)
    shares, means = calibration.calibration_curve(labels, scores, n_bins=10)
    np.testing.assert_allclose([one["share_of_class_1"] for one in found["bins"]], shares)
    np.testing.assert_allclose([one["mean_probability"] for one in found["bins"]], means)
    assert found["ece"] == pytest.approx(sum(one["texts"] * abs(share - mean) for one, share, mean in zip(
        found["bins"], shares, means, strict=True)) / 350)


def test_unanswered_texts_count_as_called_the_other_class():
    for labels in itertools.product((0, 1), repeat=3):
        found = both_ways(labels, [labels[0], None, None])
        wrong = Confusion.of(labels, [labels[0], 1 - labels[1], 1 - labels[2]]).scores()
        assert found["unanswered_wrong"] == wrong and found["unanswered_dropped"]["accuracy"] == 1.0
