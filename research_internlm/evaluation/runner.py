"""Runs an evaluation task on a checkpoint and collects its result."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.data.chat_template import PROMPT_VERSION, encode, render_chat
from research_internlm.data.choice import LETTERS, answer_position
from research_internlm.data.items import render_squad
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.evaluation import mmlu, squad
from research_internlm.evaluation.answers import extract_letter
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, require_file, sha256_of, write_json

Prompts = list[list[int]]


def predict_recipe(arguments: argparse.Namespace) -> recipes.Recipe:
    """Resolves and checks the recipe of an evaluation.

    Raises:
        ToolkitError: A file is missing or a key is wrong.
    """
    from research_internlm.recipes.check import check

    recipe = recipes.resolve(arguments.config, arguments.overlay, arguments.overrides)
    if arguments.device_target:
        recipe.setdefault("context", {})["device_target"] = arguments.device_target
    check(recipe)
    return recipe


class Evaluation:
    """One checkpoint with its tokenizer and recipe, ready to answer prompts.

    Args:
        arguments: The command line of `mmlu` or `squad`.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.recipe = predict_recipe(arguments)
        require_file(arguments.load_checkpoint, "--load_checkpoint")
        self.processor = load_tokenizer(arguments.model_file)
        self.special = special_tokens(self.processor)
        self.config = recipes.model_config(self.recipe)

    def encode(self, segments: Sequence[Any]) -> list[int]:
        """Token ids of a rendered prompt."""
        return encode(segments, self.processor, self.special)[0]

    def fitting(self, prompts: Prompts, room: int) -> list[int]:
        """Indices of the prompts that leave `room` tokens; the rest count as unanswered and are listed."""
        limit = self.config["seq_length"] - room
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= limit]
        if len(fitting) < len(prompts):
            print(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are longer than {limit} tokens "
                  f"(seq_length {self.config['seq_length']}): not asked, counted as unanswered, and listed")
        if not fitting:
            raise ToolkitError(f"every prompt is longer than {limit} tokens; raise "
                               f"model.model_config.seq_length (now {self.config['seq_length']})")
        return fitting

    def model(self, longest: int, for_scores: bool = False) -> Any:
        """The network, built for sequences of `longest` tokens."""
        from research_internlm.inference.engine import InferenceModel

        return InferenceModel(self.recipe, self.arguments.load_checkpoint, self.special, longest, for_scores)

    def generate(self, prompts: Prompts, describe: str) -> dict[int, str]:
        """Generated text by prompt index, for the prompts that fit."""
        room = max(1, self.config.get("min_new_tokens") or 1)
        indices = self.fitting(prompts, room)
        asked = [prompts[index] for index in indices]
        model = self.model(max(map(len, asked)) + self.config["max_new_tokens"])
        answers = model.generate(asked, describe)
        return {index: self.processor.decode(ids) for index, ids in zip(indices, answers, strict=True)}

    def facts(self, started: float) -> dict[str, Any]:
        """What a result needs to be believed: which weights, config, tokenizer and prompts made it."""
        return {
            "checkpoint": Path(self.arguments.load_checkpoint).name,
            "checkpoint_sha256": sha256_of(self.arguments.load_checkpoint),
            "config": Path(self.arguments.config).name,
            "overlays": [Path(overlay).name for overlay in self.arguments.overlay],
            "overrides": self.arguments.overrides,
            "device_target": self.recipe["context"]["device_target"],
            "seed": self.recipe.get("seed"),
            "tokenizer_sha256": sha256_of(self.arguments.model_file),
            "prompt_version": PROMPT_VERSION,
            "limit": self.arguments.limit,
            "seconds": round(time.time() - started, 1),
        }


def evaluate_mmlu(arguments: argparse.Namespace) -> dict[str, Any]:
    """Multiple-choice accuracy of a checkpoint; see evaluation/mmlu.py for the layout.

    Raises:
        ToolkitError: Test file, recipe, tokenizer or checkpoint do not fit together.
    """
    started = time.time()
    items = mmlu.load_test_items(arguments.test_file)[:arguments.limit]
    manifest = read_manifest(arguments.test_file) or {}
    evaluation = Evaluation(arguments)
    prompts = [evaluation.encode(render_chat(item.instruction, item.input, family=evaluation.special.family))
               for item in items]
    if arguments.mode == "generate":
        texts = evaluation.generate(prompts, "mmlu")
        results = [mmlu.ChoiceResult(item, extract_letter(texts.get(index, "")), texts.get(index, ""))
                   for index, item in enumerate(items)]
    else:
        results = compare_letters(evaluation, items, prompts)
    result = {"task": "mmlu", "mode": arguments.mode,
              **mmlu.score(results, manifest.get("evaluation_kind", "unknown")),
              "test_file_sha256": sha256_of(arguments.test_file), **evaluation.facts(started)}
    write_predictions(arguments, [{"id": r.item.id, "answer": r.item.answer, "letter": r.letter,
                                   "text": r.text} for r in results])
    overall = result["overall"]
    low, high = overall["interval_95"]
    print(f"MMLU accuracy {overall['accuracy']:.2%} ({overall['correct']} of {overall['total']}, "
          f"95 % interval {low:.2%} to {high:.2%}), {overall['unmatched']} unmatched answers, "
          f"{result['evaluation_kind']}, {arguments.mode}")
    return result


def compare_letters(evaluation: Evaluation, items: Sequence[mmlu.ChoiceItem], prompts: Prompts
                    ) -> list[mmlu.ChoiceResult]:
    """The letter with the highest logit at the place where training puts the letter."""
    places = [answer_position(item.options, evaluation.processor) for item in items]
    full = [prompt + prefix for prompt, (prefix, _) in zip(prompts, places, strict=True)]
    indices = evaluation.fitting(full, 0)
    asked = [full[index] for index in indices]
    model = evaluation.model(max(map(len, asked)), for_scores=True)
    scores = model.next_token_scores(asked, [places[index][1] for index in indices], "mmlu")
    letters = {index: LETTERS[int(row.argmax())] for index, row in zip(indices, scores, strict=True)}
    return [mmlu.ChoiceResult(item, letters.get(index)) for index, item in enumerate(items)]


def evaluate_squad(arguments: argparse.Namespace) -> dict[str, Any]:
    """SQuAD F1 and EM of a checkpoint with the contest's and the official metric.

    Raises:
        ToolkitError: SQuAD file, recipe, tokenizer or checkpoint do not fit together.
    """
    started = time.time()
    questions = squad.load_squad(arguments.squad_file)
    if arguments.questions == "contest":
        questions = squad.contest_questions(questions)
    questions = questions[:arguments.limit]
    evaluation = Evaluation(arguments)
    prompts = [evaluation.encode(render_squad(question.passage, question.text)) for question in questions]
    texts = evaluation.generate(prompts, "squad")
    # Both metrics read one line: the contest's cuts at the first newline, so the official one is given
    # the same answer and not the run-on behind it.
    predictions = {questions[index].id: text.strip().split("\n")[0] for index, text in texts.items()}
    result = {"task": "squad", "questions": arguments.questions,
              **squad.score_predictions(questions, predictions),
              "squad_file_sha256": sha256_of(arguments.squad_file), **evaluation.facts(started)}
    write_predictions(arguments, predictions)
    print_squad(result)
    return result


def score_squad(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores a prediction file without a model.

    Raises:
        ToolkitError: A file is missing or of another form.
    """
    result = {"task": "squad-score",
              **squad.score_predictions(squad.load_squad(arguments.squad_file),
                                        squad.load_predictions(arguments.predictions)),
              "squad_file_sha256": sha256_of(arguments.squad_file),
              "predictions_sha256": sha256_of(arguments.predictions)}
    print_squad(result)
    return result


def print_squad(result: dict[str, Any]) -> None:
    """Prints both metrics, which are not comparable with each other."""
    for name, note in (("contest", "EmF1Metric: first question, first answer"),
                       ("official", "SQuAD v1.1: all questions, best answer")):
        print(f"{squad.verdict_line(result, name)} ({note})")
    for warning in result["warnings"]:
        print(f"warning: {warning}")


def write_predictions(arguments: argparse.Namespace, predictions: Any) -> None:
    """Writes the raw predictions beside the results."""
    output = Path(arguments.output)
    write_json(output.with_suffix(".predictions.json"), predictions)
