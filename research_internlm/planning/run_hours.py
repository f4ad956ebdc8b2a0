"""Hours of a whole run: training, evaluations of the loss, saves; and of the evaluations after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from research_internlm.planning.cost import Range, StepModel
from research_internlm.planning.flops import Shape
from research_internlm.recipes.schedule import CheckpointPlan, Steps

MS_PER_HOUR = 3.6e6
# What a save writes in a second where no probe measured it: taken, not measured on an NPU's host; a copy on a
# notebook's disk has 0.5 to 1.6 GB/s (benchmarks/RESULTS.md), and MindSpore serialises as it writes.
SAVE_BYTES_PER_SECOND = 0.5e9
VALIDATION_ROWS = 2_480  # 20 questions of each of 124 categories, the report's


@dataclass(frozen=True)
class Generation:
    """Answers of one test by one model.

    Attributes:
        name: The test.
        prompts: How many.
        prompt_tokens: Tokens of one, on average.
        base_tokens: Tokens a base model generates: it seldom ends, so this is max_new_tokens.
        tuned_tokens: Tokens of the longest answer of a batch by a tuned model.
    """

    name: str
    prompts: int
    prompt_tokens: int
    base_tokens: int
    tuned_tokens: int


# Prompts: the report's test and the contest's SQuAD subset. Tokens: yaml/predict_*.yaml; a tuned
# model ends an option's text after some 32 tokens, and a SQuAD answer is cut at 20.
LONGEST = 2048  # their seq_length: prompt and answer together
TESTS = (Generation("MMLU", 2_480, 130, 200, 32), Generation("SQuAD", 2_067, 230, 20, 20))


@dataclass(frozen=True)
class RunHours:
    """Parts of a run, in hours."""

    training: Range
    evaluation: Range
    saving: Range

    @property
    def total(self) -> Range:
        """Their sum."""
        return self.training + self.evaluation + self.saving


def run_hours(model: StepModel, recipe: Mapping[str, Any], shape: Shape, steps: Steps, plan: CheckpointPlan,
              saved_bytes: float, bytes_per_second: float = SAVE_BYTES_PER_SECOND) -> RunHours:
    """Hours of a run.

    Args:
        model: The time of a step.
        recipe: Whether the run evaluates (`do_eval`).
        shape: The step of one card.
        steps: The run's steps.
        plan: When it saves and evaluates.
        saved_bytes: What all saves of the run write, of all cards to one disk.
        bytes_per_second: How fast.
    """
    evaluations = steps.total // plan.eval_interval if recipe.get("do_eval") and plan.eval_interval > 0 else 0
    # One sample a row, the head everywhere, batch and cards of the training.
    batches = -(-VALIDATION_ROWS // (steps.cards * steps.batch_size))
    once = model.forward(shape.rows, shape.seq_length, shape.seq_length) * batches
    pause = saved_bytes / bytes_per_second / 3600
    return RunHours(model.step(shape) * (steps.total / MS_PER_HOUR),
                    once * (evaluations / MS_PER_HOUR), Range(pause, pause, pause))


def generation_hours(model: StepModel, test: Generation, batch: int, tuned: bool) -> Range:
    """Hours of one model's answers on one card, `batch` prompts together, with a key-value cache.

    One forward pass over a batch's prompts, then one a token of its longest answer.
    """
    batches = -(-test.prompts // batch)
    tokens = test.tuned_tokens if tuned else test.base_tokens
    once = model.forward(batch, test.prompt_tokens, 1) + model.forward(batch, 1, 1) * tokens
    return once * (batches / MS_PER_HOUR)


def describe_evaluations(model: StepModel, checkpoints: int, batch: int) -> Iterator[str]:
    """Lines on what the base and the checkpoints cost after the training, on one card."""
    for test in TESTS:
        base, tuned = (generation_hours(model, test, batch, tuned) for tuned in (False, True))
        total = base + tuned * checkpoints
        yield (f"evaluation: {test.name}, {test.prompts:,} prompts at batch {batch}: base "
               f"{base.best:.2f} h ({test.base_tokens} tokens), a checkpoint {tuned.best:.2f} h "
               f"({test.tuned_tokens} tokens), base + {checkpoints} {total.best:.2f} h of one card "
               f"({model.source})")
