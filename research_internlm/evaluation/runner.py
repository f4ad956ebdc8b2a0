"""Runs a task on a model and composes the result."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from research_internlm import recipes
from research_internlm.checkpoints.model_match import require_weights
from research_internlm.data.chat_template import PROMPT_VERSION
from research_internlm.evaluation.task import Metric, Task
from research_internlm.inference.engine import Engine
from research_internlm.inference.kv_quantization import KvQuantization
from research_internlm.inference.model_protocol import Model
from research_internlm.inference.predict_recipe import predict_recipe
from research_internlm.inference.samples import windows
from research_internlm.inference.text_codec import TextCodec
from research_internlm.recipes.schedule import whole_number
from research_internlm.runs.results import RESULTS
from research_internlm.shared import schema
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of

Prompts = list[list[int]]
Load = Callable[[int], Model]  # from the longest prompt and answer together, in tokens


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that an EvaluatedModel is made of, and how many questions it is asked."""
    parser.add_argument("--config", required=True, help="predict recipe, e.g. yaml/predict_mmlu.yaml")
    parser.add_argument("--overlay", action="append", default=[], metavar="YAML",
                        help="yaml laid over the recipe (repeatable)")
    parser.add_argument("--load_checkpoint", required=True, metavar="P",
                        help="base, merged or full LoRA checkpoint")
    parser.add_argument("--model_file", required=True, metavar="F", help="tokenizer.model of the weights")
    parser.add_argument("--device_target", choices=("CPU", "Ascend"),
                        help="default: the recipe's context.device_target")
    parser.add_argument("--limit", type=whole(1), metavar="N",
                        help="only the first N questions (the results say so)")


@dataclass
class EvaluatedModel:
    """A checkpoint with its recipe and tokenizer.

    Attributes:
        config, overlays, overrides, device_target: As for `predict_recipe`.
        checkpoint: Base or merged weights, or a full LoRA checkpoint.
        model_file: tokenizer.model of the weights.
        kv: How a key-value cache of few bits is simulated; None for none.
        recipe: The resolved recipe.
        codec: The tokenizer.

    Raises:
        ToolkitError: Recipe, checkpoint and tokenizer are missing, wrong or do not fit together.
    """

    config: str
    checkpoint: str
    model_file: str
    overlays: Sequence[str] = ()
    overrides: Sequence[str] = ()
    device_target: str | None = None
    kv: KvQuantization | None = None
    recipe: recipes.Recipe = field(init=False)
    codec: TextCodec = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = predict_recipe(self.config, self.overlays, self.overrides, self.device_target)
        require_weights(self.checkpoint, self.model_config)
        self.codec = TextCodec(self.model_file, self.model_config["vocab_size"])

    @property
    def model_config(self) -> dict[str, Any]:
        """The recipe's model_config."""
        return recipes.model_config(self.recipe)

    def load(self, longest: int) -> Engine:
        """The model, built for prompt and answer of `longest` tokens together."""
        return Engine(self.recipe, self.checkpoint, self.codec.special.stop_ids, longest, self.kv)

    def facts(self) -> dict[str, Any]:
        """Which weights, config, tokenizer and chat template made a result."""
        return {
            "checkpoint": Path(self.checkpoint).name,
            "checkpoint_sha256": sha256_of(self.checkpoint),
            "config": Path(self.config).name,
            "overlays": [Path(overlay).name for overlay in self.overlays],
            "overrides": list(self.overrides),
            "device_target": self.recipe["context"]["device_target"],
            "seed": self.recipe.get("seed"),
            "tokenizer_sha256": sha256_of(self.model_file),
            "prompt_version": PROMPT_VERSION,
        }


@dataclass(frozen=True)
class Outcome:
    """What a checkpoint answered.

    Attributes:
        result: The scores, and what made them.
        predictions: The raw answers, as JSON.
        metrics: The numbers that weights are compared by; empty where the task knows none.
        decisions: Question -> what was answered.
    """

    result: dict[str, Any]
    predictions: Any
    metrics: dict[str, Metric]
    decisions: dict[str, Any]


def evaluate(task: Task, model: EvaluatedModel, limit: int | None, started: float, compared: bool = False
             ) -> Outcome:
    """Asks a checkpoint a task's questions.

    Args:
        task: The task.
        model: The checkpoint.
        limit: Only so many questions, the first ones; None asks all.
        started: When the command began, in seconds since the epoch.
        compared: Whether metrics and decisions are wanted.

    Raises:
        ToolkitError: No prompt fits, or the checkpoint does not fit the recipe.
    """
    items = task.items[:limit]
    answers = ask(task, items, model.codec, model.model_config, model.load)
    scores = task.score(items, answers)
    result = {"task": task.name, **scores, "task_version": task.version, **task.facts(),
              **model.facts(), "limit": limit, "seconds": round(time.time() - started, 1)}
    if task.name in RESULTS:  # what report and hand-in read is written as they read it
        result = schema.to_json(schema.parse(RESULTS[task.name], result, "the result"))
    return Outcome(result, task.predictions(items, answers),
                   task.metrics(items, answers, scores) if compared else {},
                   task.decisions(items, answers) if compared else {})


def ask(task: Task, items: Sequence[Any], codec: TextCodec, model_config: Mapping[str, Any], load: Load
        ) -> list[Any]:
    """Answers to some of a task's questions.

    Args:
        task: The task.
        items: Its questions.
        codec: The tokenizer of the model.
        model_config: Says `seq_length`, `max_new_tokens` and perhaps `min_new_tokens`.
        load: Makes the model, once it is known how long its sequences are.

    Returns:
        What `task.read_answer` makes of each reply.

    Raises:
        ToolkitError: No prompt fits.
    """
    prompts = [task.prompt(item, codec) for item in items]
    if task.measures:
        replies = _measure(task.name, prompts, model_config, load)
    elif task.compares:
        candidates = [task.candidates(item, codec) for item in items]
        replies = _compare(task.name, prompts, candidates, model_config, load)
    else:
        replies = _generate(task.name, prompts, codec, model_config, load)
    return [task.read_answer(item, replies.get(index)) for index, item in enumerate(items)]


def _generate(name: str, prompts: Prompts, codec: TextCodec, model_config: Mapping[str, Any], load: Load
              ) -> dict[int, str]:
    """Generated text by prompt index, for the prompts that fit."""
    room = max(1, model_config.get("min_new_tokens") or 1)
    indices = _fitting(prompts, model_config["seq_length"], room)
    asked = [prompts[index] for index in indices]
    new_tokens = whole_number({"model": {"model_config": model_config}}, "model.model_config.max_new_tokens")
    model = load(max(map(len, asked)) + new_tokens)
    return {index: codec.decode(ids) for index, ids in zip(indices, model.generate(asked, name), strict=True)}


def _compare(name: str, prompts: Prompts, candidates: Sequence[tuple[list[int], list[int]]],
             model_config: Mapping[str, Any], load: Load) -> dict[int, np.ndarray]:
    """The candidates' logits by prompt index, for the prompts that fit."""
    full = [prompt + prefix for prompt, (prefix, _) in zip(prompts, candidates, strict=True)]
    indices = _fitting(full, model_config["seq_length"], 0)
    asked = [full[index] for index in indices]
    scores = load(max(map(len, asked))).next_token_scores(
        asked, [candidates[index][1] for index in indices], name)
    return dict(zip(indices, scores, strict=True))


def _measure(name: str, prompts: Prompts, model_config: Mapping[str, Any], load: Load
             ) -> dict[int, list[np.ndarray]]:
    """Losses of the tokens after the first by prompt index, an array a window."""
    cut = [windows(ids, model_config["seq_length"]) for ids in prompts]
    whole = [window for parts in cut for window in parts]
    losses = iter(load(max(map(len, whole))).token_losses(whole, name))
    return {index: [next(losses) for _ in parts] for index, parts in enumerate(cut)}


def _fitting(prompts: Prompts, seq_length: int, room: int) -> list[int]:
    """Indices of the prompts that leave `room` tokens; the rest count as unanswered and are listed."""
    limit = seq_length - room
    indices = [index for index, prompt in enumerate(prompts) if len(prompt) <= limit]
    if len(indices) < len(prompts):
        print(f"{len(prompts) - len(indices)} of {len(prompts)} prompts are longer than {limit} tokens "
              f"(seq_length {seq_length}): not asked, counted as unanswered, and listed")
    if not indices:
        raise ToolkitError(f"every prompt is longer than {limit} tokens; raise "
                           f"model.model_config.seq_length (now {seq_length})")
    return indices
