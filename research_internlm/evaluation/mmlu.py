"""The multiple-choice task: reading the test file, asking, and counting right letters.

Nothing is guessed and nothing is left out: an answer without a letter is wrong and is listed.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import EXAM_WORDING, LETTERS, ChoiceQuestion, answer_position, read_choice
from research_internlm.evaluation.answers import extract_letter
from research_internlm.evaluation.intervals import wilson_interval
from research_internlm.evaluation.task import Metric, Task
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, read_manifest, sha256_of

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


@dataclass
class MmluTask(Task):
    """Accuracy on multiple-choice questions.

    Attributes:
        test_file: `test_alpaca_format.json`.
        mode: `generate` reads the letter from the written answer; `logits` takes the letter with the highest
            logit at the place where training puts the letter.
    """

    test_file: str
    mode: str = "generate"
    name: ClassVar[str] = "mmlu"
    version: ClassVar[str] = EXAM_WORDING
    help: ClassVar[str] = "multiple-choice accuracy"

    def __post_init__(self) -> None:
        self.items = load_test_items(self.test_file)
        self._evaluation_kind = (read_manifest(self.test_file) or {}).get("evaluation_kind", "unknown")

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Adds --test_file and --mode."""
        parser.add_argument("--test_file", required=True, metavar="F", help="test_alpaca_format.json")
        parser.add_argument("--mode", choices=("generate", "logits"), default="generate",
                            help="generate: read the letter from the written answer, as the contest does; "
                            "logits: compare the four letters in one forward pass (default: %(default)s)")

    @property
    def compares(self) -> bool:
        """Whether the letters' logits are compared."""
        return self.mode == "logits"

    def prompt(self, item: ChoiceQuestion, codec: TextCodec) -> list[int]:
        """The chat prompt of training."""
        return codec.encode(render_chat(item.instruction, item.input, family=codec.special.family))

    def candidates(self, item: ChoiceQuestion, codec: TextCodec) -> tuple[list[int], list[int]]:
        """What training writes before the letter, and the four letters."""
        return answer_position(item.options, codec.processor)

    def read_answer(self, item: ChoiceQuestion, reply: str | np.ndarray | None) -> ChoiceResult:
        """The letter, strictly; a question that was not asked has none."""
        if isinstance(reply, np.ndarray):
            return ChoiceResult(item, LETTERS[int(reply.argmax())])
        return ChoiceResult(item, extract_letter(reply or ""), reply or "")

    def score(self, items: Sequence[ChoiceQuestion], answers: Sequence[ChoiceResult]) -> dict[str, Any]:
        """Of `score` below, with the mode."""
        return {"mode": self.mode, **score(answers, self._evaluation_kind)}

    def predictions(self, items: Sequence[ChoiceQuestion], answers: Sequence[ChoiceResult]
                    ) -> list[dict[str, Any]]:
        """Right letter, read letter and text of each question."""
        return [{"id": answer.item.id, "answer": answer.item.answer, "letter": answer.letter,
                 "text": answer.text} for answer in answers]

    def metrics(self, items: Sequence[ChoiceQuestion], answers: Sequence[ChoiceResult],
                result: Mapping[str, Any]) -> dict[str, Metric]:
        """Accuracy."""
        return {"accuracy": Metric(result["overall"]["accuracy"], result["overall"]["interval_95"])}

    def decisions(self, items: Sequence[ChoiceQuestion], answers: Sequence[ChoiceResult]
                  ) -> dict[str, str | None]:
        """The letters; the name is the id and the ordering of the question."""
        return {f"{number} {answer.item.id}": answer.letter for number, answer in enumerate(answers, 1)}

    def facts(self) -> dict[str, Any]:
        """The test file's hash."""
        return {"test_file_sha256": sha256_of(self.test_file)}

    def lines(self, result: Mapping[str, Any]) -> Iterator[str]:
        """Accuracy with its interval, and what it is of."""
        overall = result["overall"]
        low, high = overall["interval_95"]
        yield (f"MMLU accuracy {overall['accuracy']:.2%} ({overall['correct']} of {overall['total']}, "
               f"95 % interval {low:.2%} to {high:.2%}), {overall['unmatched']} unmatched answers, "
               f"{result['evaluation_kind']}, {result['mode']}")


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
