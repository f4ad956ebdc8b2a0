"""The contest's F1 and EM: MindFormers' `EmF1Metric`, without MindFormers.

Source of the rules: class EmF1Metric, mindformers/core/metric/metric.py (the same from 1.1.0 to 1.9.0).
Its oddities are kept, since the gate's numbers are made with them:
- F1 is the longest common *contiguous* run of segments (its documentation says subsequence); a segment is
  one Chinese character or one of jieba's pieces of the rest, spaces among them.
- The punctuation below is dropped, other ASCII punctuation and articles count. So "Denver Broncos."
  against "Denver Broncos" is not an exact match.
- Two empty texts match exactly and have an F1 of 0.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

# "…" is absent: upstream lists it doubled and compares single characters with the list.
_DROPPED = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_DROP = str.maketrans(dict.fromkeys(_DROPPED, ""))


def score_answer(prediction: str, answer: str) -> tuple[float, float]:
    """F1 and exact match of one generated text against one gold answer.

    Args:
        prediction: The text generated; only its first line counts.
        answer: The gold answer, all of it.

    Returns:
        F1 and exact match, fractions.
    """
    predicted, gold = _clean(prediction.strip().split("\n")[0]), _clean(answer)
    return _f1(_segments(predicted), _segments(gold)), float(predicted == gold)


def _clean(text: str) -> str:
    # Stripped before the punctuation goes and not after: "yes -" keeps its space.
    return text.lower().strip().translate(_DROP)


def _segments(text: str) -> list[str]:
    segments: list[str] = []
    for chinese, run in groupby(text, key=lambda char: "\u4e00" <= char <= "\u9fa5"):
        piece = "".join(run)
        segments += piece if chinese else _jieba_cut()(piece)
    return segments


@functools.cache
def _jieba_cut() -> Callable[[str], Iterable[str]]:
    """jieba's segmenter; its dictionary is loaded at first use (a second), from the package itself.

    jieba's own way reads `jieba.cache` from the shared temporary folder, whoever wrote that file; another
    user's cache changes the segments and with them the gate's F1.
    """
    with warnings.catch_warnings():
        # Its import of pkg_resources and its escapes warn on newer Pythons.
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.ERROR)
    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter.cut


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    shared = _longest_common_run(predicted, gold)
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    longest = 0
    ending_before = [0] * (len(second) + 1)  # run lengths that end at first[i - 1] and second[j - 1]
    for item in first:
        ending_here = [0] * (len(second) + 1)
        for j, other in enumerate(second):
            if item == other:
                ending_here[j + 1] = ending_before[j] + 1
        longest = max(longest, *ending_here)
        ending_before = ending_here
    return longest
