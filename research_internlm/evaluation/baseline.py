"""What needs no language model, measured beside every detector: word counts, and marks on the surface."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research_internlm.evaluation.classification import Confusion, roc_auc
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.extras import load_extra

_MOST_TEXTS = 20_000  # of the training split, drawn with a seed, so that it takes seconds
# Words, and Chinese characters one by one.
_TOKEN = "[^\\W_\u3400-\u9fff]+|[\u3400-\u9fff]"

Items = Sequence[Mapping[str, Any]]


def require_baseline(train: Items, where: str) -> None:
    """Checks, before a model is loaded, that the baselines can be trained.

    Raises:
        ToolkitError: scikit-learn is not installed, or the training texts are of one class.
    """
    load_extra("sklearn", "detection")
    if len({item["label"] for item in train}) < 2:
        raise ToolkitError(f"{where} holds texts of one class, so no baseline can be trained; give "
                           "train_detection.json of preprocess/detection_csv2json.py")


def bag_of_words(train: Items, test: Items, seed: int = 0) -> np.ndarray:
    """Probabilities of AI by a logistic regression on the presence of words and word pairs.

    Args:
        train: Items with `text` and `label`.
        test: The texts to judge.
        seed: Of the draw among many training texts.

    Returns:
        float64 (test texts,).
    """
    texts = load_extra("sklearn.feature_extraction.text", "detection")
    linear = load_extra("sklearn.linear_model", "detection")
    train = list(train)
    if len(train) > _MOST_TEXTS:
        train = random.Random(seed).sample(train, _MOST_TEXTS)
    # Rows of unit length; a pair of words that stands in one text of thousands says nothing.
    words = texts.TfidfVectorizer(ngram_range=(1, 2), binary=True, use_idf=False, token_pattern=_TOKEN,
                                  min_df=1 if len(train) < 1000 else 2)
    model = linear.LogisticRegression(C=100.0, solver="liblinear", random_state=0)
    model.fit(words.fit_transform(item["text"] for item in train), [item["label"] for item in train])
    return model.predict_proba(words.transform(item["text"] for item in test))[:, 1]


def surface_marks(train: Items, test: Items) -> np.ndarray | None:
    """Probabilities of AI by the marks that texts carried before they were cleaned.

    Args:
        train: Items with `marks` and `label`.
        test: Items with `marks`.

    Returns:
        The share of AI among the training texts with the same marks, of all of them where there are none;
        None where items do not say their marks.
    """
    if not all("marks" in item for item in (*train, *test)):
        return None
    table = Counter((tuple(item["marks"]), item["label"]) for item in train)
    overall = sum(item["label"] for item in train) / len(train)
    shares = {marks: table[marks, 1] / (table[marks, 0] + table[marks, 1]) for marks, _ in table}
    return np.array([shares.get(tuple(item["marks"]), overall) for item in test])


def describe(labels: Sequence[int], probabilities: np.ndarray | None, threshold: float = 0.5, **facts: Any
             ) -> dict[str, Any] | None:
    """Accuracy and F1 at a threshold, and ROC-AUC of a baseline."""
    if probabilities is None:
        return None
    scores = Confusion.of(labels, probabilities >= threshold).scores()
    return {"accuracy": scores["accuracy"], "f1": scores["f1"], "roc_auc": roc_auc(labels, probabilities),
            "threshold": threshold, **facts}
