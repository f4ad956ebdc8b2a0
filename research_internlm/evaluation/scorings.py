"""Scoring of prediction files, which needs no model: the sub-commands of evaluate.py by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from research_internlm.evaluation import detection_score, squad


@dataclass(frozen=True)
class Scoring:
    """One sub-command.

    Attributes:
        help: One line for --help.
        files: Option of each input file -> its help.
        score: Makes the result of the arguments.
        lines: What is printed of it.
        choices: Other options -> their values, the default first.
    """

    help: str
    files: dict[str, str]
    score: Callable[[argparse.Namespace], dict[str, Any]]
    lines: Callable[[dict[str, Any]], Iterator[str]]
    choices: dict[str, tuple[str, ...]]

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options but for the output's."""
        for option, words in self.files.items():
            parser.add_argument(option, required=True, metavar="F", help=words)
        for option, values in self.choices.items():
            parser.add_argument(option, choices=values, default=values[0], help="default: %(default)s")


SCORINGS: MappingProxyType[str, Scoring] = MappingProxyType({
    "squad-score": Scoring(
        "score a SQuAD prediction file",
        {"--squad_file": "SQuAD v1.1 JSON", "--predictions": "{question id: text} JSON"},
        lambda arguments: squad.score_file(arguments.squad_file, arguments.predictions),
        squad.verdict_lines, {}),
    "detection-score": Scoring(
        "score a file of answers to: human or AI?",
        {"--test": "JSON list of objects with id, text and label (1 = AI)",
         "--predictions": "{id: generated text} JSON"},
        lambda arguments: detection_score.score_file(arguments.test, arguments.predictions, arguments.reader),
        detection_score.lines, {"--reader": tuple(detection_score.READERS)}),
})
