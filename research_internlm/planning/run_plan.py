"""The plan of a run: steps, saves, parameters, disk, memory, score and cost."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm import recipes
from research_internlm.checkpoints import hf_config
from research_internlm.model.device_memory import generation_batch
from research_internlm.model.lora import ParameterCount, count_parameters
from research_internlm.planning import (
    cost_table,
    front,
    lengths,
    memory,
    probe,
    run_hours,
    search,
    step_sources,
)
from research_internlm.planning.cost import StepModel
from research_internlm.planning.flops import shape_of
from research_internlm.planning.search import Choice, Job
from research_internlm.recipes import renamed
from research_internlm.recipes.data_check import check_data
from research_internlm.recipes.schedule import (
    CheckpointPlan,
    Steps,
    interval_to_the_end,
    last_evaluation,
    whole_number,
    writing_workers,
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
        longest: Tokens of its longest sample, or None where only their number is known.
    """

    rows: int
    samples: int
    text_tokens: int
    longest: int | None

    @property
    def guessed(self) -> bool:
        """Whether the tokens are the mean of real questions and not a manifest's."""
        return self.longest is None


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
        text = lengths.MEAN_TOKENS * arguments.items
        rows = lengths.packed_rows(text, config["seq_length"]) if config.get("packed") else arguments.items
        return Data(rows, arguments.items, text, None)
    training = recipes.merge(recipe, {
        "run_mode": "finetune", "do_eval": False,
        "train_dataset": {"data_loader": {"dataset_dir": arguments.train_dataset}}})
    data = check_data(training, arguments.config)["train_dataset"]
    return Data(data.counts.out, data.counts.samples, data.tokens.total, data.tokens.longest)


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
    sizes, writing = memory.save_bytes(recipe, count), writing_workers(recipe, cards)
    ranks = "rank 0" if writing == 1 else f"{writing} ranks"
    full, states = len(plan.kept), len(plan.kept_states)
    yield (f"disk: about {writing * sizes.of(full, states) / 1e9:,.1f} GB, written by {ranks}: {full} full "
           f"checkpoints of {sizes.full / 1e9:.2f} GB ({writing * full * sizes.full / 1e9:,.1f} GB), "
           f"{states} saves of adapter and optimizer state ({sizes.state / 1e9:.3f} GB), an adapter file "
           f"({sizes.adapter / 1e9:.3f} GB) with each")
    yield f"device memory: about {memory.device_memory(recipe, count)} a card; an estimate, not measured"


@dataclass(frozen=True)
class Search:
    """What was searched and found.

    Attributes:
        job: What was searched.
        own: The recipe's own settings; None where the run would be too short for the five checkpoints.
        narrow: The front within the band of samples an update.
        wide: Cheaper choices outside it.
        found: Everything that fits.
    """

    job: Job
    own: Choice | None
    narrow: list[Choice]
    wide: list[Choice]
    found: list[Choice]

    def choice(self, number: int) -> Choice:
        """The choice of a number.

        Raises:
            ToolkitError: There is none of that number.
        """
        numbered = [*self.narrow, *self.wide]
        if number > len(numbered):
            raise ToolkitError(f"--choice {number}: the plan has {len(numbered)} choices; run it without "
                               "--write to see them")
        return numbered[number - 1]


def measured_model(arguments: argparse.Namespace, recipe: recipes.Recipe) -> StepModel | None:
    """The time of a step as it was measured for this plan, or None.

    Raises:
        ToolkitError: The run of --measured has no step to take, or it or the probe is of another model.
    """
    if arguments.probe:
        return step_sources.from_probe(probe.read_probe(arguments.probe), arguments.probe, recipe)
    if arguments.measured:
        return step_sources.from_run(arguments.measured, recipe)
    return step_sources.from_step(arguments.step_time_ms, recipe) if arguments.step_time_ms else None


def describe_table(recipe: recipes.Recipe, steps: Steps, data: Data, model: StepModel | None,
                   seq_lengths: Sequence[int]) -> Iterator[str]:
    """Lines on steps, tokens and hours, padded and packed, at the recipe's row length and at others."""
    rows = cost_table.costs(recipe, steps, data.text_tokens, model, seq_lengths, data.samples)
    yield from cost_table.table(rows, model, data.guessed)


def search_choices(recipe: recipes.Recipe, steps: Steps, data: Data, model: StepModel,
                   arguments: argparse.Namespace) -> Search:
    """Searches what the recipe could be run as."""
    count = count_parameters(recipes.model_config(recipe))
    peaks, rate = memory.MemoryFit(), run_hours.SAVE_BYTES_PER_SECOND
    if arguments.probe:
        found = probe.read_probe(arguments.probe)
        peaks = memory.fit_memory(found.recipe, count_parameters(recipes.model_config(found.recipe)),
                                  found.points)
        rate = found.save_bytes_per_second or rate
    job = Job(recipe=recipe, count=count, samples=data.samples, text_tokens=data.text_tokens,
              longest=data.longest, cards=arguments.cards, saves=arguments.saves, model=model, memory=peaks,
              bytes_per_second=rate)
    shape = shape_of(recipe)
    update = data.samples / data.rows * steps.batch_size * steps.cards
    missing = 0 if arguments.train_dataset else lengths.lost(data.samples, shape.seq_length, None)
    own = search.choice_of(job, shape, steps.cards, data.rows, update, missing,
                           peaks.total(memory.device_memory(recipe, count, shape)))
    return Search(job, own, *search.fronts(job))


def describe_search(found: Search, price: float | None) -> Iterator[str]:
    """Lines on the front, and on the evaluations after the training."""
    yield from front.describe(found.job, found.own, found.narrow, found.wide, price)
    job = found.job
    batch = generation_batch(job.recipe, run_hours.LONGEST)
    yield (f"evaluation: by memory (an estimate) a card answers {batch} prompts of up to {run_hours.LONGEST} "
           "tokens together, and more shorter ones; they are batched by length, the longest first")
    yield from run_hours.describe_evaluations(job.model, 5, batch)


def describe_choice(choice: Choice, path: str) -> Iterator[str]:
    """What to do with a written choice."""
    shape = choice.shape
    flags = f"{'--pack ' if shape.packed else ''}--seq_length"
    yield (f"data for it: preprocess/alpaca_data_preprocess_v1.py {flags} {shape.seq_length} (training), "
           f"--seq_length {shape.seq_length - 1} (validation); steps and saves are for about "
           f"{choice.steps.rows:,} rows, plan it again with --train_dataset once the file is there")
    yield f"launch: bash scripts/train_msrun.sh {path} {choice.cards}"
