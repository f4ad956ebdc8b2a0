"""The official SQuAD v1.1 metric: exact match and bag-of-words F1 of normalised answers.

Definition: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
section 6.1, with the normalisation of the scorer published beside it (evaluate-v1.1.py).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: "–" and "，" stay
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    The order counts: punctuation goes before the articles, so "a-b" becomes the word "ab".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def score_answer(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match of one prediction, each against the gold answer that suits it best.

    Args:
        prediction: The text predicted.
        answers: Gold answers, at least one.

    Returns:
        F1 and exact match, fractions. Two texts that both normalise to nothing match with an F1 of 0,
        as in the published scorer.
    """
    predicted = normalise(prediction)
    # Annotators mostly agree; dict.fromkeys keeps each of their answers once.
    golds = [normalise(answer) for answer in dict.fromkeys(answers)]
    return max(_f1(predicted.split(), gold.split()) for gold in golds), float(predicted in golds)


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
