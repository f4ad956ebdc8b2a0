"""What an evaluation task is. A new task is one file with a subclass, and one line in tasks.py."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from research_internlm.inference.text_codec import TextCodec


@dataclass(frozen=True)
class Metric:
    """A number that a result is known by.

    Attributes:
        value: The number.
        interval_95: Its 95 % interval; None where the task knows none.
    """

    value: float
    interval_95: Sequence[float] | None


class Task(ABC):
    """One evaluation: its questions, how they are asked, how answers are read and what they add up to.

    A subclass is a dataclass: its fields are the options of its command (`add_options`), and making one
    reads and checks its files, so that what is wrong with them is said before a model is loaded.

    Attributes:
        name: Of the sub-command, and `task` in the results.
        version: Of the task's own wording and reading; raise it when either changes, since results of two
            versions cannot be compared.
        help: One line for --help.
        pictures: Suffixes of what `draw` makes.
        items: The questions in order.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    help: ClassVar[str]
    pictures: ClassVar[tuple[str, ...]] = ()
    items: Sequence[Any]

    @staticmethod
    @abstractmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Adds the options that the fields are named after."""

    @property
    def compares(self) -> bool:
        """Whether candidates are compared (`candidates`) in place of reading a generated answer."""
        return False

    @property
    def measures(self) -> bool:
        """Whether the losses of the prompt's own tokens are asked for; prompts of any length are then."""
        return False

    @abstractmethod
    def prompt(self, item: Any, codec: TextCodec) -> list[int]:
        """Token ids of the question."""

    def candidates(self, item: Any, codec: TextCodec) -> tuple[list[int], list[int]]:
        """Where the answer is decided: ids between prompt and decision, and the candidates' token ids."""
        raise NotImplementedError(f"{self.name} compares no candidates")

    @abstractmethod
    def read_answer(self, item: Any, reply: str | np.ndarray | list[np.ndarray] | None) -> Any:
        """The answer in the form that `score` takes.

        Args:
            item: The question.
            reply: The generated text, or the candidates' logits (float32) where the task compares; where it
                measures, the losses of the tokens after the first, an array a window; None for a question
                that was too long to be asked.
        """

    @abstractmethod
    def score(self, items: Sequence[Any], answers: Sequence[Any]) -> dict[str, Any]:
        """The numbers of the results, with the options that they depend on.

        Args:
            items: The questions asked: all of them, or the first few.
            answers: Of `read_answer`, at the same places.
        """

    @abstractmethod
    def predictions(self, items: Sequence[Any], answers: Sequence[Any]) -> Any:
        """The raw answers, as JSON, for the file beside the results."""

    def metrics(self, items: Sequence[Any], answers: Sequence[Any], result: Mapping[str, Any]
                ) -> dict[str, Metric]:
        """The few numbers that weights are compared by (side_by_side.py); a task without any compares
        answers.

        Args:
            items, answers: As for `score`.
            result: Of `score`.
        """
        return {}

    def decisions(self, items: Sequence[Any], answers: Sequence[Any]) -> dict[str, Any]:
        """What was answered to each question by its id, to list what changed; called after `score`."""
        return {}

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Hashes of the task's own files, for the results."""

    @abstractmethod
    def lines(self, result: dict[str, Any]) -> Iterator[str]:
        """What is printed at the end."""

    def draw(self, result: dict[str, Any], predictions: Any, output: Path) -> None:  # noqa: B027
        """Draws pictures beside the results; most tasks have none.

        Args:
            result: Of `score`.
            predictions: Of `predictions`.
            output: The file of the results, where they are made.
        """
