"""The SQuAD v1.1 task: reading the file, asking, and scoring predictions with both metrics.

The two metrics are not comparable: the contest's asks the first question of each paragraph and knows one
gold answer, the official one asks all and takes the best of several. Both are always reported. What the
contest's numbers must reach is decided in contest/scoring.py.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from research_internlm.data.items import SQUAD_WORDING, render_squad
from research_internlm.evaluation import contest_metric, official_metric
from research_internlm.evaluation.intervals import Z_95
from research_internlm.evaluation.task import Metric, Task
from research_internlm.inference.text_codec import TextCodec
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, sha256_of


@dataclass(frozen=True)
class SquadQuestion:
    """One question of a SQuAD file.

    Attributes:
        id: Its id in the file, the key of predictions.
        passage: The paragraph it is about.
        text: The question.
        answers: Gold answers, at least one, in the file's order.
        first_in_paragraph: Whether the contest asks it.
    """

    id: str
    passage: str
    text: str
    answers: tuple[str, ...]
    first_in_paragraph: bool


@dataclass
class SquadTask(Task):
    """F1 and EM of short answers to questions on a passage, with the contest's and the official metric.

    Attributes:
        squad_file: SQuAD v1.1 JSON.
        questions: `all`, or `contest` for the first one of each paragraph only.
    """

    squad_file: str
    questions: str = "all"
    name: ClassVar[str] = "squad"
    version: ClassVar[str] = SQUAD_WORDING
    help: ClassVar[str] = "SQuAD F1 and EM, both metrics"

    def __post_init__(self) -> None:
        items = load_squad(self.squad_file)
        self.items = contest_questions(items) if self.questions == "contest" else items

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Adds --squad_file and --questions."""
        parser.add_argument("--squad_file", required=True, metavar="F", help="SQuAD v1.1 JSON")
        parser.add_argument("--questions", choices=("all", "contest"), default="all",
                            help="contest: only the first question of each paragraph, all the gate needs "
                            "(default: %(default)s)")

    def prompt(self, item: SquadQuestion, codec: TextCodec) -> list[int]:
        """The contest's prompt, without a chat template."""
        return codec.encode(render_squad(item.passage, item.text))

    def read_answer(self, item: SquadQuestion, reply: str | int | None) -> str | None:
        """The first line of the reply.

        Both metrics read one line: the contest's cuts at the first newline, so the official one is given
        the same answer and not what the model ran on to write.
        """
        return None if reply is None else reply.strip().split("\n")[0]

    def score(self, items: Sequence[SquadQuestion], answers: Sequence[str | None]) -> dict[str, Any]:
        """Of `score_predictions` below, with the choice of questions."""
        return {"questions": self.questions, **score_predictions(items, self.predictions(items, answers))}

    def predictions(self, items: Sequence[SquadQuestion], answers: Sequence[str | None]) -> dict[str, str]:
        """The official form; a question that was not asked has none."""
        return {item.id: answer for item, answer in zip(items, answers, strict=True) if answer is not None}

    def metrics(self, items: Sequence[SquadQuestion], answers: Sequence[str | None],
                result: Mapping[str, Any]) -> dict[str, Metric]:
        """F1 and EM of both metrics, in percent, with the normal interval of a mean."""
        given = dict(zip((item.id for item in items), answers, strict=True))
        metrics = {}
        for name, questions, score in (("contest", contest_questions(items), _contest),
                                       ("official", items, _official)):
            scores = 100 * np.array([score(question, given[question.id]) for question in questions])
            for column, kind in enumerate(("F1", "EM")):
                metrics[f"{name} {kind}"] = _percentage(scores[:, column])
        return metrics

    def decisions(self, items: Sequence[SquadQuestion], answers: Sequence[str | None]
                  ) -> dict[str, str | None]:
        """The answers."""
        return {item.id: answer for item, answer in zip(items, answers, strict=True)}

    def facts(self) -> dict[str, Any]:
        """The SQuAD file's hash."""
        return {"squad_file_sha256": sha256_of(self.squad_file)}

    def lines(self, result: Mapping[str, Any]) -> Iterator[str]:
        """Both verdicts, and warnings."""
        return verdict_lines(result)


def _percentage(scores: np.ndarray) -> Metric:
    mean = float(scores.mean())
    if len(scores) < 2:
        return Metric(mean, None)
    reach = Z_95 * float(scores.std(ddof=1)) / len(scores) ** 0.5
    return Metric(mean, (max(mean - reach, 0.0), min(mean + reach, 100.0)))


def verdict_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What a SQuAD result says, a line a metric, and its warnings."""
    for name, note in (("contest", "EmF1Metric: first question, first answer"),
                       ("official", "SQuAD v1.1: all questions, best answer")):
        yield f"{verdict_line(result, name)} ({note})"
    for warning in result["warnings"]:
        yield f"warning: {warning}"


def score_file(squad_file: str, predictions: str) -> dict[str, Any]:
    """The result of a prediction file, without a model.

    Raises:
        ToolkitError: A file is missing or of another form.
    """
    return {"task": "squad-score",
            **score_predictions(load_squad(squad_file), load_predictions(predictions)),
            "squad_file_sha256": sha256_of(squad_file), "predictions_sha256": sha256_of(predictions)}


def load_squad(path: str | os.PathLike) -> list[SquadQuestion]:
    """Reads a SQuAD v1.1 file.

    Args:
        path: dev-v1.1.json or a file of its form.

    Returns:
        All questions in the file's order (10,570 of dev-v1.1).

    Raises:
        ToolkitError: Not SQuAD v1.1, a question without an answer, SQuAD v2, or an id used twice.
    """
    content = read_json(path, "the SQuAD file", "it is dev-v1.1.json of SQuAD v1.1")
    try:
        questions = [question for article in content["data"] for paragraph in article["paragraphs"]
                     for question in _read_paragraph(paragraph)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"{path} is not SQuAD v1.1 JSON (data > paragraphs > context, qas > id, question, "
                           f"answers > text): {type(error).__name__} {error}; use dev-v1.1.json") from error
    except ToolkitError as error:
        raise ToolkitError(f"{path}: {error}") from None
    if not questions:
        raise ToolkitError(f"{path} holds no questions; use dev-v1.1.json")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ToolkitError(f"{path}: question id {question.id} occurs twice, so predictions for it are "
                               "ambiguous; make the ids unique")
        seen.add(question.id)
    return questions


def _read_paragraph(paragraph: Mapping[str, Any]) -> list[SquadQuestion]:
    questions = []
    for entry in paragraph["qas"]:
        if "is_impossible" in entry:
            raise ToolkitError(f"question {entry['id']} has is_impossible, so this is SQuAD v2; neither "
                               "metric knows questions without an answer; use dev-v1.1.json")
        answers = tuple(answer["text"] for answer in entry["answers"])
        if not answers:
            raise ToolkitError(f"question {entry['id']} has no answers, so nothing can be scored against it; "
                               "use a labelled file such as dev-v1.1.json")
        texts = (entry["id"], paragraph["context"], entry["question"])
        if not all(isinstance(text, str) for text in texts + answers):
            raise ToolkitError(f"id, context, question and answers of question {entry['id']} must be text")
        questions.append(SquadQuestion(*texts, answers, first_in_paragraph=not questions))
    return questions


def load_predictions(path: str | os.PathLike) -> dict[str, str]:
    """Reads a prediction file in the official form, {question id: text}.

    Raises:
        ToolkitError: Another form.
    """
    predictions = read_json(path, "the prediction file")
    if not isinstance(predictions, dict):
        raise ToolkitError(f"the prediction file {path} holds a {type(predictions).__name__}; it must be one "
                           "JSON object {question id: text}")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise ToolkitError(f"the prediction file {path} has a {type(text).__name__} for question {key}; "
                               "each prediction must be one text")
    return predictions


def contest_questions(questions: Sequence[SquadQuestion]) -> list[SquadQuestion]:
    """The first question of each paragraph, the only one the contest asks (2,067 of dev-v1.1)."""
    return [question for question in questions if question.first_in_paragraph]


def score_predictions(questions: Sequence[SquadQuestion], predictions: Mapping[str, str]) -> dict[str, Any]:
    """Scores predictions with the official and the contest's metric.

    Args:
        questions: The questions asked: all of a file for numbers that compare with published ones.
        predictions: {question id: text}. A question without one scores 0 officially and as an empty
            text in the contest's metric, whose unit would have generated one.

    Returns:
        `official` over all questions and `contest` over those first in their paragraph, each with `f1`
        and `em` (0 to 100), `total` and `missing` (questions); `missing_ids`; `unknown_ids`
        (predictions for no question of the file, not scored); `warnings` (sentences on both).

    Raises:
        ToolkitError: There is nothing to score.
    """
    if not questions:
        raise ToolkitError("no questions to score; check --squad_file and --limit")
    known = {question.id for question in questions}
    missing = [question.id for question in questions if question.id not in predictions]
    unknown = [key for key in predictions if key not in known]
    warnings = []
    if missing:
        warnings.append(f"{len(missing)} of {len(questions)} questions have no prediction and score 0 "
                        "officially")
    if unknown:
        warnings.append(f"{len(unknown)} of {len(predictions)} predictions belong to no question of the file "
                        "and are not scored")
    return {
        "official": _average(questions, predictions, _official),
        "contest": _average(contest_questions(questions), predictions, _contest),
        "missing_ids": missing,
        "unknown_ids": unknown,
        "warnings": warnings,
    }


def verdict_line(result: Mapping[str, Any], metric: str) -> str:
    """The line that an evaluation prints for one metric, and by which its log is found again.

    Args:
        result: From `score_predictions`.
        metric: `contest` or `official`.
    """
    scores = result[metric]
    return (f"SQuAD {metric}: F1 {scores['f1']:.2f}, EM {scores['em']:.2f} over {scores['total']} "
            "questions")


def _official(question: SquadQuestion, prediction: str | None) -> tuple[float, float]:
    return (0.0, 0.0) if prediction is None else official_metric.score_answer(prediction, question.answers)


def _contest(question: SquadQuestion, prediction: str | None) -> tuple[float, float]:
    return contest_metric.score_answer(prediction or "", question.answers[0])


def _average(questions: Sequence[SquadQuestion], predictions: Mapping[str, str],
             score: Callable[[SquadQuestion, str | None], tuple[float, float]]) -> dict[str, Any]:
    """Mean F1 and EM over the questions, in percent."""
    scores = [score(question, predictions.get(question.id)) for question in questions]
    f1, em = (100 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return {"f1": f1, "em": em, "total": len(scores),
            "missing": sum(question.id not in predictions for question in questions)}
