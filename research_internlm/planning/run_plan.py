"""The plan of a run: steps, saves, parameters, disk, memory, score and cost."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints import hf_config
from research_internlm.model.lora import ParameterCount
from research_internlm.planning import cost, memory
from research_internlm.recipes import renamed
from research_internlm.recipes.data_check import check_data
from research_internlm.recipes.schedule import (
    CheckpointPlan,
    Steps,
    interval_to_the_end,
    last_evaluation,
    whole_number,
)
from research_internlm.shared.errors import ToolkitError

ALL_LINEARS = ".*wq|.*wk|.*wv|.*wo|.*w1|.*w2|.*w3"


@dataclass(frozen=True)
class Data:
    """What the training file holds.

    Attributes:
        rows: Its rows.
        samples: Samples in them; as many as rows where it is not packed.
        text_tokens: Tokens without padding.
        guessed: Whether the tokens are the mean of real questions and not a manifest's.
    """

    rows: int
    samples: int
    text_tokens: int
    guessed: bool


def check_pattern(pattern: str, what: str) -> None:
    """Refuses what is not a valid regular expression; MindFormers would, after the model was built."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ToolkitError(f"{what} {pattern!r} is not a valid regular expression ({error}); write for "
                           "instance '.*wq|.*wk|.*wv|.*wo'") from error


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Checks the numbers of a training recipe's model that the plan counts with.

    Raises:
        ToolkitError: It uses names of 2024, or a number or pattern is invalid.
    """
    if old := list(renamed.problems(recipe)):
        raise ToolkitError(f"{len(old)} wrong setting(s) in the config: {'; '.join(old)}")
    if wrong := hf_config.shape_problems(recipes.model_config(recipe)):
        raise ToolkitError(f"the config's model.model_config: {'; '.join(wrong)}")
    pet_config = recipes.model_config(recipe).get("pet_config")
    if pet_config:
        whole_number(recipe, "model.model_config.pet_config.lora_rank")
        check_pattern(pet_config.get("target_modules"), "the config's pet_config.target_modules")


def read_data(arguments: argparse.Namespace, recipe: recipes.Recipe) -> Data:
    """Rows, samples and tokens of the training file.

    Raises:
        ToolkitError: The file or its manifest is missing, or the training would refuse it for this recipe.
    """
    config = recipes.model_config(recipe)
    if arguments.items is not None:
        text = cost.MEAN_TOKENS * arguments.items
        rows = cost.packed_rows(text, config["seq_length"]) if config.get("packed") else arguments.items
        return Data(rows, arguments.items, text, guessed=True)
    training = recipes.merge(recipe, {
        "run_mode": "finetune", "do_eval": False,
        "train_dataset": {"data_loader": {"dataset_dir": arguments.train_dataset}}})
    data = check_data(training, arguments.config)["train_dataset"]
    return Data(data.counts.out, data.counts.samples, data.tokens.total, guessed=False)


def describe_steps(steps: Steps, data: Data) -> Iterator[str]:
    """Lines on steps and dropped rows."""
    yield (f"data: {steps.rows:,} rows on {steps.cards} cards x batch {steps.batch_size} = "
           f"{steps.per_epoch:,} steps an epoch ({steps.dropped:,} rows dropped each epoch); "
           f"{steps.epochs} epochs = {steps.total:,} steps")
    if data.samples != data.rows:
        mean = data.samples / data.rows
        yield (f"data: packed, {mean:.2f} samples a row, so {mean * steps.cards * steps.batch_size:.1f} "
               "samples an update on average")
    if steps.total != steps.per_epoch * steps.epochs:
        yield (f"data: the last {steps.per_epoch * steps.epochs - steps.total} steps do not fill a sink of "
               f"{steps.sink_size} and are not run")


def describe_checkpoints(plan: CheckpointPlan, steps: Steps) -> Iterator[str]:
    """Lines on what is saved and evaluated when."""
    yield (f"plan: save_checkpoint_steps {plan.interval:,}, keep_checkpoint_max {plan.keep}, "
           f"eval_step_interval {plan.eval_interval:,} (sink_size {steps.sink_size})")
    to_submit = ", ".join(f"{step:,}" for step in plan.to_submit)
    yield f"plan: the five evenly spaced checkpoints: steps {to_submit}"
    last = last_evaluation(plan.eval_interval, steps.total)
    yield f"plan: evaluations {steps.total // plan.eval_interval}, the last at step {last:,}"
    if last < steps.total:
        # Not chosen by itself: evaluations would no longer fall on the saved steps.
        other = interval_to_the_end(plan.eval_interval, steps)
        choice = f", or set eval_step_interval {other:,}" if other else ""
        yield (f"plan: the final checkpoint, step {steps.total:,}, is not evaluated by the training: "
               f"evaluate it with --run_mode eval{choice}")


def describe_cost(recipe: Mapping[str, Any], count: ParameterCount, plan: CheckpointPlan, cards: int
                  ) -> Iterator[str]:
    """Lines on parameters, disk and memory."""
    full, adapter = memory.checkpoint_bytes(recipe, count)
    yield (f"disk: about {len(plan.kept) * cards * (full + adapter) / 1e9:,.1f} GB for {len(plan.kept)} "
           f"saves x {cards} ranks ({full / 1e9:.2f} GB full, {adapter / 1e9:.3f} GB adapter each)")
    yield f"device memory: about {memory.device_memory(recipe, count)} a card; an estimate, not measured"


def cost_table(recipe: Mapping[str, Any], steps: Steps, data: Data,
               arguments: argparse.Namespace) -> Iterator[str]:
    """Lines on steps, tokens and hours, padded and packed, at the recipe's row length and at others.

    Raises:
        ToolkitError: The run of --measured has no step to take, or is of another model.
    """
    length = recipes.model_config(recipe)["seq_length"]
    measured = None
    if arguments.measured:
        measured = cost.measured_run(arguments.measured, recipe)
    elif arguments.step_time_ms:
        measured = cost.Measured(arguments.step_time_ms, steps.batch_size * length, length)
    rows = cost.costs(recipe, steps, data.text_tokens, measured, arguments.seq_length, data.samples)
    yield from cost.table(rows, measured, data.guessed)
