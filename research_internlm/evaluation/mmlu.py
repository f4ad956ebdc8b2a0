"""Multiple-choice accuracy: reading the test file and counting right letters.

Nothing is guessed and nothing is left out: an answer without a letter is wrong and is listed.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from research_internlm.data.choice import ChoiceQuestion, read_choice
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json

_Z_95 = NormalDist().inv_cdf(0.975)
_UNKNOWN = "unknown"  # source and subject of an item that carries only the alpaca fields


@dataclass(frozen=True)
class ChoiceResult:
    """What the model answered to one item.

    Attributes:
        item: The question.
        letter: The letter read from the answer, None where there was none.
        text: The answer as generated ("" where letters were compared by their logits).
    """

    item: ChoiceQuestion
    letter: str | None
    text: str = ""

    @property
    def correct(self) -> bool:
        """Whether the letter is the right one; no letter is wrong."""
        return self.letter == self.item.answer


def load_test_items(path: str | os.PathLike) -> list[ChoiceQuestion]:
    """Reads a test file of preprocess/data_preprocess.py, or a bare alpaca one in the contest's format.

    Args:
        path: `test_alpaca_format.json`, a JSON list.

    Returns:
        The items in the file's order.

    Raises:
        ToolkitError: Not such a file, or an item is incomplete, ambiguous or contradicts itself; the
            message names the item.
    """
    entries = read_json(path, "the test file", "preprocess/data_preprocess.py makes it")
    if not isinstance(entries, list) or not entries:
        raise ToolkitError(f"the test file {path} is not a list of items; preprocess/data_preprocess.py "
                           "makes it (test_alpaca_format.json)")
    items = []
    for number, entry in enumerate(entries, 1):
        try:
            question = read_choice(entry, f"item {number}")
        except ToolkitError as error:
            raise ToolkitError(f"{path}, item {number}: {error}; preprocess/data_preprocess.py makes test "
                               "files") from None
        items.append(question if question.source else replace(question, source=_UNKNOWN, subject=_UNKNOWN))
    return items


def score(results: Sequence[ChoiceResult], evaluation_kind: str) -> dict[str, Any]:
    """Accuracy overall, per source and per category.

    Args:
        results: One per item asked.
        evaluation_kind: Which test this is, `reordered_train_questions` or `held_out`; kept with the
            numbers, because the first measures memory.

    Returns:
        `evaluation_kind`, `overall`, `per_source` ({source: counts}), `per_category`
        ({"source/subject": counts}) and `unmatched_answers` (id and text of every answer without a
        letter). Counts are `total`, `correct`, `unmatched`, `accuracy` (a fraction, 0 to 1) and
        `interval_95` (Wilson; two fractions).

    Raises:
        ToolkitError: There is nothing to score.
    """
    if not results:
        raise ToolkitError("no answered questions to score; check --test_file and --limit")
    return {
        "evaluation_kind": evaluation_kind,
        "overall": _counts(results),
        "per_source": _grouped((result.item.source, result) for result in results),
        "per_category": _grouped(
            (f"{result.item.source}/{result.item.subject}", result) for result in results),
        "unmatched_answers": [{"id": result.item.id, "text": result.text}
                              for result in results if result.letter is None],
    }


def _grouped(pairs: Iterable[tuple[str, ChoiceResult]]) -> dict[str, dict[str, Any]]:
    groups = defaultdict(list)
    for name, result in pairs:
        groups[name].append(result)
    return {name: _counts(groups[name]) for name in sorted(groups)}


def _counts(results: Sequence[ChoiceResult]) -> dict[str, Any]:
    correct = sum(result.correct for result in results)
    return {
        "total": len(results),
        "correct": correct,
        "unmatched": sum(result.letter is None for result in results),
        "accuracy": correct / len(results),
        "interval_95": list(wilson_interval(correct, len(results))),
    }


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson, 1927).

    Chosen over the normal approximation, which is [1, 1] for 20 of 20 right.

    Args:
        correct: Successes, 0 to `total`.
        total: Trials, at least 1.

    Returns:
        Lower and upper bound, fractions within 0 to 1.
    """
    share, spread = correct / total, _Z_95 ** 2 / total
    middle = share + spread / 2
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
