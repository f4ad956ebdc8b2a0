"""What a run costs in steps, tokens and hours, predicted from one measured step.

A step takes `a + b * tokens + c * tokens * seq_length`: a fixed part, the weights' share and attention's.
One measured step cannot tell the three apart, so a is taken to be zero and c / b to be the ratio of the
architecture's FLOPs (attention over the whole row, as a dense mask computes it). It follows that steps of
fewer tokens than the measured one are predicted too short where the fixed part counts, and that attention
slower than matrix products is predicted too fast at longer rows. Cards are taken to work at the same time,
at no cost for their exchange. benchmarks/step_time.py checks the prediction against measured steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.model.lora import ParameterCount, count_parameters
from research_internlm.model.shape import intermediate_size
from research_internlm.recipes.schedule import Steps
from research_internlm.runs.run_folder import RunFolder
from research_internlm.runs.worker_logs import steps_of_all
from research_internlm.shared.errors import ToolkitError

MEAN_TOKENS = 146  # of 26,244 MMLU and CMMLU questions with InternLM's tokenizer
# Share of a packed row that is text: 99.8 % at 1,025 tokens and 99.1 % at 577, measured on the real questions
# at hand. Rows that hold one or two samples are less full (89.7 % at 257).
PACKED_FILL = 0.99
TABLE_LENGTHS = (512, 1024, 2048)
_WARM_UP_LINES = 2  # the first step compiles, and in sink mode one more line holds part of it


@dataclass(frozen=True)
class Measured:
    """One measured step: the anchor of every prediction of hours.

    Attributes:
        step_ms: Time of one step, milliseconds.
        tokens: Token positions of one card in that step, padding included.
        seq_length: Its row length.
    """

    step_ms: float
    tokens: int
    seq_length: int


@dataclass(frozen=True)
class Cost:
    """One choice of row length and layout, before it is paid for.

    Attributes:
        layout: `padded` or `packed`.
        seq_length: Row length.
        rows: Rows of the training file.
        batch_size: Rows a card and step.
        samples: Samples an update sees on average.
        steps: Optimizer steps of the run.
        tokens: Positions the run computes, padding included.
        useful: Share of them that is text.
        hours: Predicted training time; None without a measured step.
    """

    layout: str
    seq_length: int
    rows: int
    batch_size: int
    samples: float
    steps: int
    tokens: int
    useful: float
    hours: float | None


def token_cost(model_config: Mapping[str, Any], count: ParameterCount, seq_length: int) -> float:
    """Forward FLOPs of one token: 2 a weight, and attention over the row (4 * layers * hidden * length)."""
    embedding = model_config["vocab_size"] * model_config["hidden_size"]  # looked up, not multiplied
    return (2 * (count.base - embedding)
            + 4 * model_config["num_layers"] * model_config["hidden_size"] * seq_length)


def step_ms(measured: Measured, tokens: int, seq_length: int, model_config: Mapping[str, Any],
            count: ParameterCount) -> float:
    """Predicted time in milliseconds of a step of `tokens` positions in rows of `seq_length`.

    Args:
        measured: A measured step of the same model.
        tokens: Positions of the step on one card; the cards work at the same time.
        seq_length: Its row length.
        model_config: The recipe's model.
        count: Its parameter counts.
    """
    return (measured.step_ms * tokens / measured.tokens * token_cost(model_config, count, seq_length)
            / token_cost(model_config, count, measured.seq_length))


def packed_rows(text_tokens: float, seq_length: int) -> int:
    """Rows that `text_tokens` need when whole samples are packed to 99 % fill."""
    return -int(-text_tokens // int(PACKED_FILL * (seq_length + 1)))


def costs(recipe: Mapping[str, Any], steps: Steps, text_tokens: float, measured: Measured | None,
          lengths: Sequence[int] = TABLE_LENGTHS, samples: int | None = None) -> list[Cost]:
    """Steps, tokens and hours of the run, padded and packed, at several row lengths.

    Cards and epochs stay the recipe's. So does, as far as whole rows allow, the number of samples an update
    sees, on which learning rate and schedule depend: each choice has the batch size that comes nearest.
    Samples longer than a row are not excluded. Evaluation, saving and compilation are left out.

    Args:
        recipe: The resolved recipe.
        steps: Its steps on the file.
        text_tokens: Tokens of the training file without padding.
        measured: A measured step, or None to leave the hours open.
        lengths: Row lengths to predict for, beside the recipe's.
        samples: Samples in the file where it is packed; None takes its rows, one sample each.
    """
    config = recipes.model_config(recipe)
    count = count_parameters(config)
    samples = samples or steps.rows
    wanted = samples / steps.rows * steps.batch_size  # a card and update
    table_rows = []
    for length in sorted({config["seq_length"], *lengths}):
        for layout, rows in (("padded", samples), ("packed", packed_rows(text_tokens, length))):
            run = replace(steps, rows=rows, batch_size=max(1, round(wanted * rows / samples)))
            card_tokens = run.batch_size * length
            hours = None
            if measured:
                hours = run.total * step_ms(measured, card_tokens, length, config, count) / 3.6e6
            table_rows.append(Cost(
                layout, length, rows, run.batch_size, samples / rows * run.batch_size * run.cards, run.total,
                run.total * run.cards * card_tokens, min(1.0, text_tokens / (rows * (length + 1))), hours))
    return table_rows


def table(rows: Sequence[Cost], measured: Measured | None, guessed: bool) -> Iterator[str]:
    """Lines of the cost table and of what it assumes.

    Args:
        rows: What `costs` gives.
        measured: The step the hours come from.
        guessed: Whether the text tokens are the mean of real questions and not a manifest's.
    """
    source = (f"hours from one step of {measured.step_ms:g} ms at seq_length {measured.seq_length}, time "
              "taken to be proportional to FLOPs, without evaluation, saving, compilation" if measured else
              "give --step_time_ms MS or --measured RUN_DIR for hours")
    yield f"cost ({source}):"
    yield (f"{'seq_length':>10}  {'layout':<6} {'rows':>9} {'batch':>5} {'samples/update':>14} {'steps':>9} "
           f"{'tokens':>15} {'text':>6} {'hours':>8}")
    for cost in rows:
        hours = "" if cost.hours is None else f"{cost.hours:.2f}"
        yield (f"{cost.seq_length:>10}  {cost.layout:<6} {cost.rows:>9,} {cost.batch_size:>5} "
               f"{cost.samples:>14.1f} {cost.steps:>9,} {cost.tokens:>15,} {cost.useful:>6.1%} "
               f"{hours:>8}".rstrip())
    if guessed:
        yield (f"  text: {MEAN_TOKENS} tokens a row, the mean of real questions; --train_dataset tells the "
               "data's own")


def measured_run(folder: str | Path, recipe: Mapping[str, Any]) -> Measured:
    """Reads a measured step out of a run's folder: the median of its loss lines.

    Args:
        folder: The run.
        recipe: The recipe to predict for.

    Raises:
        ToolkitError: The folder holds no run or too few loss lines, or the run was of another model or on
            another kind of device.
    """
    run = RunFolder(folder)
    found, wanted = _shape(run.recipe), _shape(recipe)
    if other := [f"{key} {found[key]} (the recipe: {wanted[key]})" for key in wanted
                 if found[key] != wanted[key]]:
        raise ToolkitError(f"--measured {folder} is a run of another model or device: {', '.join(other)}; "
                           "its step says nothing about this one, name a run of the same model")
    records = list(steps_of_all(run.training_logs))[_WARM_UP_LINES:]
    if not records:
        raise ToolkitError(f"--measured {folder}: the first {_WARM_UP_LINES} loss lines may hold compilation "
                           "and its logs hold no more; let it run longer")
    length = run.model_config["seq_length"]
    return Measured(statistics.median(max(record.step_ms for record in group) for _, group in records),
                    run.steps.batch_size * length, length)


def _shape(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a step's time depends on beside its rows."""
    config = recipes.model_config(recipe)
    return {"device_target": (recipe.get("context") or {}).get("device_target"),
            **{key: config[key] for key in ("num_layers", "hidden_size", "num_heads", "vocab_size")},
            "n_kv_heads": config.get("n_kv_heads") or config["num_heads"],
            "intermediate_size": intermediate_size(config), "LoRA": bool(config.get("pet_config"))}
