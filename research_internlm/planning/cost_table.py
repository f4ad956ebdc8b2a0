"""Steps, tokens and hours of a run, padded and packed, at several row lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from research_internlm import recipes
from research_internlm.planning.cost import Range, StepModel
from research_internlm.planning.flops import Shape
from research_internlm.planning.lengths import MEAN_TOKENS, head_places, packed_rows
from research_internlm.recipes.schedule import Steps

TABLE_LENGTHS = (512, 1024, 2048)
MS_PER_HOUR = 3.6e6


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
    hours: Range | None


def run_shape(recipe: Mapping[str, Any], rows: int, seq_length: int, packed: bool, recompute: bool) -> Shape:
    """The shape of a step with other rows than the recipe's, head places in proportion to its own.

    Args:
        recipe: The resolved recipe; its labels_per_row is kept where the layout is.
        rows: Rows a card.
        seq_length: Positions of a row.
        packed: Whether rows are packed.
        recompute: Whether layers are recomputed.
    """
    config = recipes.model_config(recipe)
    own = config.get("labels_per_row")
    if own == 0:
        places = seq_length  # everywhere, as asked for
    elif own and packed == bool(config.get("packed")):
        places = round(own * seq_length / config["seq_length"]) if packed else own
    else:
        places = head_places(seq_length, packed)
    return Shape(rows=rows, seq_length=seq_length, packed=packed, recompute=recompute,
                 head_places=max(1, min(places, seq_length)))


def costs(recipe: Mapping[str, Any], steps: Steps, text_tokens: float, model: StepModel | None,
          lengths: Sequence[int] = TABLE_LENGTHS, samples: int | None = None) -> list[Cost]:
    """Steps, tokens and hours of the run, padded and packed, at several row lengths.

    Cards, epochs and recomputing stay the recipe's. So does, as far as whole rows allow, the number of
    samples an update sees, on which learning rate and schedule depend: each choice has the batch size that
    comes nearest. Samples longer than a row are not excluded. Evaluation, saving and compilation are left
    out.

    Args:
        recipe: The resolved recipe.
        steps: Its steps on the file.
        text_tokens: Tokens of the training file without padding.
        model: The time of a step, or None to leave the hours open.
        lengths: Row lengths to predict for, beside the recipe's.
        samples: Samples in the file where it is packed; None takes its rows, one sample each.
    """
    config = recipes.model_config(recipe)
    recompute = bool((recipe.get("recompute_config") or {}).get("recompute"))
    samples = samples or steps.rows
    wanted = samples / steps.rows * steps.batch_size  # a card and update
    table_rows = []
    for length in sorted({config["seq_length"], *lengths}):
        for layout, rows in (("padded", samples), ("packed", packed_rows(text_tokens, length))):
            run = replace(steps, rows=rows, batch_size=max(1, round(wanted * rows / samples)))
            shape = run_shape(recipe, run.batch_size, length, layout == "packed", recompute)
            hours = model.step(shape) * (run.total / MS_PER_HOUR) if model else None
            table_rows.append(Cost(
                layout, length, rows, run.batch_size, samples / rows * run.batch_size * run.cards, run.total,
                run.total * run.cards * shape.tokens, min(1.0, text_tokens / (rows * (length + 1))), hours))
    return table_rows


def table(rows: Sequence[Cost], model: StepModel | None, guessed: bool) -> Iterator[str]:
    """Lines of the cost table and of what it assumes.

    Args:
        rows: What `costs` gives.
        model: Where the hours come from.
        guessed: Whether the text tokens are the mean of real questions and not a manifest's.
    """
    source = (f"hours from {model.source}, without evaluation, saving, compilation" if model else
              "give --probe F, --step_time_ms MS or --measured RUN_DIR for hours")
    yield f"cost ({source}):"
    yield (f"{'seq_length':>10}  {'layout':<6} {'rows':>9} {'batch':>5} {'samples/update':>14} {'steps':>9} "
           f"{'tokens':>15} {'text':>6} {'hours':>8}")
    for cost in rows:
        hours = "" if cost.hours is None else f"{cost.hours.best:.2f}"
        between = ""
        if cost.hours and cost.hours.is_wide:
            between = f"  {cost.hours.low:.2f} to {cost.hours.high:.2f}"
        yield (f"{cost.seq_length:>10}  {cost.layout:<6} {cost.rows:>9,} {cost.batch_size:>5} "
               f"{cost.samples:>14.1f} {cost.steps:>9,} {cost.tokens:>15,} {cost.useful:>6.1%} "
               f"{hours:>8}{between}".rstrip())
    for text in model.unknown if model else ():
        yield f"  {text}"
    if guessed:
        yield (f"  text: {MEAN_TOKENS} tokens a row, the mean of real questions; --train_dataset tells the "
               "data's own")
