"""Searches cards, rows a card, row length, layout and recomputing for the cheapest runs.

Samples an update are what learning rate and schedule were chosen for: the report's run has 16. Choices near
it come with the recipe's own rate; those further away are shown apart, with the rate that the square root
rule gives (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms") and their
number of updates. That rule is a starting point, not a measurement of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm import recipes
from research_internlm.model.device_memory import memory_limit
from research_internlm.model.lora import ParameterCount
from research_internlm.planning import lengths, memory
from research_internlm.planning.cost import Range, StepModel
from research_internlm.planning.cost_table import run_shape
from research_internlm.planning.flops import Shape
from research_internlm.planning.memory import MemoryFit
from research_internlm.planning.run_hours import SAVE_BYTES_PER_SECOND, RunHours, run_hours
from research_internlm.recipes.schedule import (
    CheckpointPlan,
    Steps,
    only_five_are_full,
    search_plan,
    writing_workers,
)
from research_internlm.shared.errors import ToolkitError

REPORT_SAMPLES = 16  # an update, 4 cards x 4 rows
BAND = (12.0, 20.0)  # samples an update that are taken for the same training
WIDE_BAND = (8.0, 128.0)
MOST_LOST = 0.001  # of the samples: rows that leave out more are listed and not searched
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_LENGTHS = (256, 384, 512, 576, 768, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be trained, however it is laid out on cards.

    Attributes:
        recipe: The resolved recipe.
        count: Its parameter counts.
        samples: Samples of an epoch before any is left out.
        text_tokens: Their tokens.
        longest: Tokens of the longest sample, or None where it is not known.
        cards: Most cards that may be used.
        saves: Checkpoints to write, a multiple of five.
        model: The time of a step.
        memory: What measured peaks add to the memory estimate.
        bytes_per_second: What a save writes.
    """

    recipe: Mapping[str, Any]
    count: ParameterCount
    samples: int
    text_tokens: float
    longest: int | None
    cards: int
    saves: int
    model: StepModel
    memory: MemoryFit
    bytes_per_second: float = SAVE_BYTES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to run the job.

    Attributes:
        cards: Cards.
        shape: The step of one card.
        samples: Samples an update sees on average.
        lost: Samples of an epoch that are longer than a row and would be left out.
        steps: The run's steps, on estimated rows where the layout changes.
        plan: When it saves and evaluates.
        hours: What it takes.
        memory_bytes: Of one card.
        learning_rate: By the square root rule.
    """

    cards: int
    shape: Shape
    samples: float
    lost: int
    steps: Steps
    plan: CheckpointPlan
    hours: RunHours
    memory_bytes: float
    learning_rate: float

    @property
    def total_hours(self) -> float:
        """Hours of the whole run, as best known."""
        return self.hours.total.best

    @property
    def card_hours(self) -> Range:
        """What is paid for."""
        return self.hours.total * self.cards

    def is_within(self, band: tuple[float, float]) -> bool:
        """Whether the samples an update lie in a band."""
        return band[0] <= self.samples <= band[1]


def choices(job: Job) -> Iterator[Choice]:
    """All choices that fit into memory and whose samples an update lie in the wide band."""
    limit = memory_limit(job.recipe)
    for length in row_lengths(job):
        if lengths.lost(job.samples, length, job.longest) > MOST_LOST * job.samples:
            continue
        for packed in (False, True):
            for rows in _ROWS:
                for recompute in (False, True):
                    shape = run_shape(job.recipe, rows, length, packed, recompute)
                    needed = job.memory.total(memory.device_memory(job.recipe, job.count, shape))
                    if needed <= limit:
                        yield from _on_cards(job, shape, needed)


def row_lengths(job: Job) -> list[int]:
    """Row lengths to consider: the recipe's, and the usual ones up to the model's longest position."""
    config = recipes.model_config(job.recipe)
    longest = config.get("max_position_embedding") or 2 * config["seq_length"]
    return sorted({config["seq_length"], *(length for length in _LENGTHS if length <= longest)})


def _on_cards(job: Job, shape: Shape, needed: float) -> Iterator[Choice]:
    lost = lengths.lost(job.samples, shape.seq_length, job.longest)
    samples = job.samples - lost
    rows = lengths.packed_rows(job.text_tokens * samples / job.samples, shape.seq_length) if (
        shape.packed) else samples
    for cards in sorted({1, 2, 4, 8, 16, job.cards}):
        update = samples / max(rows, 1) * shape.rows * cards
        if cards <= job.cards and WIDE_BAND[0] <= update <= WIDE_BAND[1]:
            choice = choice_of(job, shape, cards, rows, update, lost, needed)
            if choice:
                yield choice


def choice_of(job: Job, shape: Shape, cards: int, rows: int, update: float, lost: int, needed: float
              ) -> Choice | None:
    """A choice with its schedule and hours; None where the run is too short to hold the five checkpoints."""
    runner = job.recipe["runner_config"]
    sink = runner.get("sink_size", 1) if runner.get("sink_mode") else 1
    steps = Steps(rows, cards, shape.rows, runner["epochs"], max(1, sink))
    try:
        plan = search_plan(steps, job.saves, only_five_are_full(job.recipe))
    except (ToolkitError, ZeroDivisionError):
        return None
    written = writing_workers(job.recipe, cards) * memory.save_bytes(job.recipe, job.count).of(
        len(plan.full), len(plan.states))
    rate = float((job.recipe.get("lr_schedule") or {}).get("learning_rate") or math.nan)
    return Choice(cards=cards, shape=shape, samples=update, lost=lost, steps=steps, plan=plan,
                  hours=run_hours(job.model, job.recipe, shape, steps, plan, written,
                                job.bytes_per_second),
                  memory_bytes=needed, learning_rate=rate * math.sqrt(update / REPORT_SAMPLES))


def pareto(found: Sequence[Choice]) -> list[Choice]:
    """Those that no other beats in hours and in card-hours, the fastest first.

    Of equal ones the one that loses fewer samples and needs less memory stays.
    """
    ordered = sorted(found, key=lambda one: (round(one.total_hours, 3), round(one.card_hours.best, 3),
                                             one.lost, one.memory_bytes))
    front: list[Choice] = []
    for one in ordered:
        if not front or round(one.card_hours.best, 3) < round(front[-1].card_hours.best, 3):
            front.append(one)
    return front


def fronts(job: Job) -> tuple[list[Choice], list[Choice], list[Choice]]:
    """The front within the band, the wide band's where it is better than that, and all choices."""
    found = list(choices(job))
    narrow = pareto([one for one in found if one.is_within(BAND)])
    wide = [one for one in pareto(found) if not one.is_within(BAND)]
    return narrow, wide, found


def overrides(choice: Choice) -> dict[str, Any]:
    """The recipe's keys that make a run this choice, its schedule included."""
    monitor = {"type": "CheckpointMonitor", "save_checkpoint_steps": choice.plan.interval,
               "keep_checkpoint_max": choice.plan.keep}
    rate = {} if choice.is_within(BAND) else {
        "lr_schedule": {"learning_rate": float(f"{choice.learning_rate:.2g}")}}
    return {**rate, "runner_config": {"batch_size": choice.shape.rows},
            "recompute_config": {"recompute": choice.shape.recompute},
            "model": {"model_config": {"seq_length": choice.shape.seq_length, "packed": choice.shape.packed}},
            "parallel_config": {"data_parallel": choice.cards},
            "eval_step_interval": choice.plan.eval_interval, "callbacks": [monitor]}
