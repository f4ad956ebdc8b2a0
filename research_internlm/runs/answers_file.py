"""answers.jsonl of a run folder: what the model answered before, during and after training, a line a step.

AnswerMonitor appends to it (training/answer_monitor.py); `internlm logs` and `internlm answers` read it. A
kill can tear the last line only: it is left out when the file is read, and taken out when the run continues.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from research_internlm.data.conversations import Message
from research_internlm.data.identity import GENERAL, IDENTITY
from research_internlm.shared import schema
from research_internlm.shared.files import decode, write_text
from research_internlm.shared.parsing import parse_json
from research_internlm.shared.schema import Count

_EXAMPLES = 3  # of each kind


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and its question.

    Attributes:
        messages: The question: `role` and `content` of each message, the last one the user's.
        answer: What the model wrote, without its end marker.
        ended: Whether it ended by itself; False where max_new_tokens cut it.
        kind: IDENTITY or GENERAL of a held-out question (data/identity.py); None for one that is only shown.
        passed: Whether an identity is stated right, or a general answer is free of it; None without a kind.
    """

    messages: list[dict[str, str]]
    answer: str
    ended: bool
    kind: Literal["identity", "general"] | None = None
    passed: bool | None = None

    @property
    def question(self) -> str:
        """All messages in one text."""
        return question_text(self.messages)


def question_text(messages: Sequence[Message]) -> str:
    """The messages of a question in one text: the user's alone, or all with their roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return " / ".join(f"{message['role']}: {message['content']}" for message in messages)


@dataclass(frozen=True, kw_only=True)
class StepAnswers:
    """One line of the file.

    Attributes:
        step: Optimizer steps done; 0 before training.
        seconds: What the answers took, compilation included where it was the process's first time.
        time: When they were given, with the offset from UTC.
        answers: One to each prompt, in their order.
    """

    step: Count
    seconds: float
    time: str
    answers: list[Answer]

    @classmethod
    def now(cls, step: int, seconds: float, answers: list[Answer]) -> StepAnswers:
        """A line of answers that were given just now."""
        return cls(step=step, seconds=round(seconds, 3), answers=answers,
                   time=datetime.now().astimezone().isoformat(timespec="seconds"))

    def count(self, kind: str) -> tuple[int, int]:
        """Of the questions of a kind, how many passed and how many there are."""
        found = [answer.passed for answer in self.answers if answer.kind == kind]
        return sum(map(bool, found)), len(found)

    def verdict(self) -> str | None:
        """The counts in words, or None where no question has a kind."""
        (right, identity), (clean, general) = self.count(IDENTITY), self.count(GENERAL)
        if not identity + general:
            return None
        return (f"identity {right} of {identity} right, brought up in {general - clean} of {general} general "
                "answers")


def append(path: Path, line: StepAnswers) -> None:
    """Adds a line at the end."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(schema.to_json(line), ensure_ascii=False) + "\n")


def drop_after(path: Path, step: int) -> None:
    """Takes out the lines of steps that a training does again, and what a kill tore; all where it is at 0."""
    if step == 0:
        path.unlink(missing_ok=True)
    elif path.is_file():
        write_text(path, "".join(text for text, line in _lines(path) if line.step <= step))


def read_answers(path: Path) -> list[StepAnswers]:
    """Reads the file, in the order of the steps; nothing where there is none yet.

    Raises:
        ToolkitError: A line other than a torn last one is not valid.
    """
    lines = {line.step: line for _, line in _lines(path)}
    return [lines[step] for step in sorted(lines)]


def examples(answers: Sequence[Answer]) -> list[Answer]:
    """A few answers to show: the first ones of each kind."""
    return [answer for kind in (None, IDENTITY, GENERAL)
            for answer in [other for other in answers if other.kind == kind][:_EXAMPLES]]


def answers_of(lines: Sequence[StepAnswers]) -> dict[str, dict[int, str]]:
    """Question -> step -> answer, questions in the order they were first asked."""
    found: dict[str, dict[int, str]] = {}
    for line in lines:
        for answer in line.answers:
            found.setdefault(answer.question, {})[line.step] = answer.answer
    return found


def side_by_side(lines: Sequence[StepAnswers]) -> str:
    """A csv table: a row for each question, a column for each step."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["question", *(f"step {line.step}" for line in lines)])
    for question, by_step in answers_of(lines).items():
        writer.writerow([question, *(by_step.get(line.step, "") for line in lines)])
    return text.getvalue()


def _lines(path: Path) -> Iterator[tuple[str, StepAnswers]]:
    """Whole lines as they are and as read."""
    content = path.read_bytes() if path.is_file() else b""
    whole = decode(content[:content.rfind(b"\n") + 1], f"the answers {path}")
    for number, text in enumerate(whole.split("\n")[:-1], 1):
        source = f"line {number} of {path}"
        yield text + "\n", schema.parse(StepAnswers, parse_json(text, source), source)
