"""Metrics of a two-class decision; class 1 is the one that is looked for. numpy alone, no MindSpore.

Undefined ratios (no text was called 1, say) are 0, as in scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from research_internlm.evaluation.intervals import Z_95

AUC_METHOD = "DeLong 1988"
ECE_BINS = 10


@dataclass(frozen=True)
class Confusion:
    """How many texts of which class were called what.

    Attributes:
        tp: Class 1, called 1.
        fp: Class 0, called 1.
        tn: Class 0, called 0.
        fn: Class 1, called 0.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, labels: Sequence[int], calls: Sequence[int]) -> Confusion:
        """Counts labels against what they were called; both of 0 and 1."""
        labels, calls = np.asarray(labels, int), np.asarray(calls, int)
        tn, fp, fn, tp = np.bincount(2 * labels + calls, minlength=4).tolist()
        return cls(tp, fp, tn, fn)

    @property
    def total(self) -> int:
        """All texts."""
        return self.tp + self.fp + self.tn + self.fn

    def scores(self) -> dict[str, Any]:
        """accuracy, precision, recall, f1 (fractions), and the counts as `confusion`."""
        return {
            "accuracy": _ratio(self.tp + self.tn, self.total),
            "precision": _ratio(self.tp, self.tp + self.fp),
            "recall": _ratio(self.tp, self.tp + self.fn),
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "confusion": asdict(self),
        }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def both_ways(labels: Sequence[int], calls: Sequence[int | None]) -> dict[str, Any]:
    """Scores with the unanswered as wrong, and with them left out.

    Args:
        labels: 0 or 1.
        calls: 0, 1, or None where there is no answer.

    Returns:
        `counts`; `unanswered_wrong`, where a text without an answer counts as called the other class; and
        `unanswered_dropped`, over the answered texts alone, which flatters a model that does not answer.
    """
    answered = [(label, call) for label, call in zip(labels, calls, strict=True) if call is not None]
    silent = [label for label, call in zip(labels, calls, strict=True) if call is None]
    wrong = Confusion.of([*(label for label, _ in answered), *silent],
                         [*(call for _, call in answered), *(1 - label for label in silent)])
    dropped = Confusion.of([label for label, _ in answered], [call for _, call in answered])
    return {
        "counts": {"total": len(labels), "ai": sum(labels), "human": len(labels) - sum(labels),
                   "answered": len(answered), "unanswered": len(silent), "unanswered_ai": sum(silent),
                   "unanswered_human": len(silent) - sum(silent)},
        "unanswered_wrong": wrong.scores(),
        "unanswered_dropped": dropped.scores(),
    }


def roc_auc(labels: Sequence[int], scores: Sequence[float]) -> dict[str, Any] | None:
    """Area under the ROC curve with DeLong's 95 % interval.

    Args:
        labels: 0 or 1.
        scores: Higher for class 1.

    Returns:
        `auc`, `interval_95` (within 0 to 1) and `method`; None where a class is missing. Where the classes do
        not overlap at all the variance is 0, and the interval says nothing about other texts.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    ones, zeros = scores[labels], scores[~labels]
    if not len(ones) or not len(zeros):
        return None
    # Share of the texts of the other class that each text is ranked right against; a tie is half right.
    of_ones = (_ranks(scores)[labels] - _ranks(ones)) / len(zeros)
    of_zeros = 1 - (_ranks(scores)[~labels] - _ranks(zeros)) / len(ones)
    auc = float(of_ones.mean())
    variance = sum(own.var(ddof=1) / len(own) for own in (of_ones, of_zeros) if len(own) > 1)
    reach = Z_95 * math.sqrt(variance)
    method = AUC_METHOD if variance else f"{AUC_METHOD}; no width, since the classes do not overlap"
    return {"auc": auc, "interval_95": [max(0.0, auc - reach), min(1.0, auc + reach)], "method": method}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean."""
    _, own, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[own.reshape(-1)]


def roc_curve(labels: Sequence[int], scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates over falling thresholds, from (0, 0) to (1, 1)."""
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    rates = [np.append(0.0, np.cumsum(own[order])[last] / max(1, own.sum())) for own in (~labels, labels)]
    return rates[0], rates[1]


def best_threshold(labels: Sequence[int], scores: Sequence[float]) -> float:
    """The threshold with the most balanced accuracy (mean of both classes'); of equal ones the middle one.

    Args:
        labels: 0 or 1, of the validation texts.
        scores: Higher for class 1; a text is called 1 from the threshold on.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    values = np.unique(scores)
    cuts = np.concatenate((values[:1], (values[1:] + values[:-1]) / 2))
    ones, zeros = np.sort(scores[labels]), np.sort(scores[~labels])
    found = (1 - np.searchsorted(ones, cuts) / max(1, len(ones))
             + np.searchsorted(zeros, cuts) / max(1, len(zeros)))
    best = np.flatnonzero(np.isclose(found, found.max()))
    return float(cuts[best[len(best) // 2]])


def reliability(labels: Sequence[int], probabilities: Sequence[float]) -> dict[str, Any]:
    """How far probabilities of class 1 can be taken at their word.

    Args:
        labels: 0 or 1.
        probabilities: Of class 1, 0 to 1.

    Returns:
        `ece`, the expected calibration error: mean of |share of class 1 - mean probability| over ten bins of
        equal width, weighted by their texts; and the `bins` that hold texts.
    """
    labels, probabilities = np.asarray(labels, float), np.asarray(probabilities, float)
    own = np.minimum((probabilities * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = []
    for place in np.unique(own).tolist():
        inside = own == place
        bins.append({"from": place / ECE_BINS, "to": (place + 1) / ECE_BINS, "texts": int(inside.sum()),
                     "mean_probability": float(probabilities[inside].mean()),
                     "share_of_class_1": float(labels[inside].mean())})
    gaps = sum(one["texts"] * abs(one["mean_probability"] - one["share_of_class_1"]) for one in bins)
    return {"ece": gaps / len(labels), "bins": bins}
