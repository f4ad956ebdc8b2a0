"""The owner of a run's step arithmetic: steps an epoch, what is saved when, what retention leaves.

The rules are MindSpore 2.9.0's and MindFormers 1.9.0's, checked against the installed code: MindDataset
deals rows to cards in turn and repeats a few so that all cards get the same number; batching then drops
what does not fill a batch; CheckpointMonitor saves every so many steps and once more at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm import recipe as recipes
from research_internlm.errors import ToolkitError

REQUIRED_CHECKPOINTS = 5  # rules, second phase: five, evenly spaced over the whole run
EVEN_TOLERANCE = 0.1  # of a fifth of the run: how much the distances may differ


@dataclass(frozen=True)
class Steps:
    """How many steps a run takes.

    Attributes:
        rows: Rows of the training file.
        cards: Data-parallel workers.
        batch_size: Rows a card and step.
        epochs: Passes over the file.
        sink_size: Steps between two callbacks; 1 without sinking.
        drop_remainder: Whether an incomplete last batch is left out.
    """

    rows: int
    cards: int
    batch_size: int
    epochs: int
    sink_size: int = 1
    drop_remainder: bool = True

    @property
    def rows_per_card(self) -> int:
        """Rows each card is dealt; rounded up, MindDataset repeats at most cards - 1 rows for it."""
        return -(-self.rows // self.cards)

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        full, rest = divmod(self.rows_per_card, self.batch_size)
        return full + (rest > 0 and not self.drop_remainder)

    @property
    def total(self) -> int:
        """Optimizer steps of the run: whole sinks only, as check_runner_config derives them."""
        return self.per_epoch * self.epochs // self.sink_size * self.sink_size

    @property
    def dropped(self) -> int:
        """Rows no card sees in an epoch; other ones in each epoch when the data is shuffled.

        138,020 rows on 4 cards are 34,505 a card, 8,626 batches of 4 and one row over: 4 rows.
        """
        return max(0, self.rows - self.per_epoch * self.batch_size * self.cards) if self.drop_remainder else 0


def steps_of(recipe: Mapping[str, Any], rows: int, cards: int) -> Steps:
    """The step counts of a recipe on a number of cards.

    Raises:
        ToolkitError: The data does not fill one step.
    """
    runner = recipe["runner_config"]
    sink_size = runner["sink_size"] if runner.get("sink_mode") else 1
    steps = Steps(rows, cards, runner["batch_size"], runner["epochs"], sink_size,
                  recipe["train_dataset"].get("drop_remainder", True))
    if steps.total == 0:
        raise ToolkitError(f"{rows:,} rows on {cards} cards x batch {steps.batch_size} do not fill "
                           f"{'one step' if steps.per_epoch == 0 else f'one sink of {sink_size} steps'}; use "
                           "fewer cards, a smaller runner_config.batch_size or sink_size, or more data")
    return steps


def save_steps(total: int, interval: int) -> list[int]:
    """Steps at which CheckpointMonitor saves: every `interval`, and once more when the run ends."""
    saves = list(range(interval, total + 1, interval))
    return saves if saves and saves[-1] == total else [*saves, total]


def evenly_spaced(saved: Sequence[int], total: int, slack: int = 1) -> list[int] | None:
    """Picks the five of the rules out of the saved steps.

    Args:
        saved: Steps at which a checkpoint exists.
        total: Steps of the whole run.
        slack: Steps that rounding to whole sinks may cost.

    Returns:
        Five distinct steps whose distances, from step 0 on, differ by at most 10 % of a fifth of the run
        (or `slack` steps) and behind which no sixth would fit; None where there are none.
    """
    fifth = total / REQUIRED_CHECKPOINTS
    allowed = max(slack, EVEN_TOLERANCE * fifth)
    # Fifths of the run; or, where they are no whole steps, the saved interval that comes next below.
    for distance in (fifth, max((step for step in saved if step <= fifth), default=0)):
        picked = [min(saved, key=lambda step: abs(step - aim), default=0)
                  for aim in (number * distance for number in range(1, REQUIRED_CHECKPOINTS + 1))]
        gaps = [after - before for before, after in zip([0, *picked], picked, strict=False)]
        if min(gaps) > 0 and max(gaps) - min(gaps) <= allowed and total - picked[-1] < max(gaps):
            return picked
    return None


@dataclass(frozen=True)
class Saving:
    """When a run saves and evaluates.

    Attributes:
        interval: `save_checkpoint_steps`.
        keep: `keep_checkpoint_max`.
        saved: All steps at which a checkpoint is written.
        kept: Those that retention leaves at the end.
        five: The evenly spaced five among the kept ones, None where the run loses them.
        eval_interval: `eval_step_interval`.
    """

    interval: int
    keep: int
    saved: list[int]
    kept: list[int]
    five: list[int] | None
    eval_interval: int

    @classmethod
    def simulate(cls, steps: Steps, interval: int, keep: int, eval_interval: int) -> Saving:
        """Plays a run's saves through the oldest-first retention; a `keep` of 0 keeps all."""
        saved = save_steps(steps.total, -(-interval // steps.sink_size) * steps.sink_size)
        kept = saved[-keep:]
        five = evenly_spaced(kept, steps.total, steps.sink_size)
        return cls(interval, keep, saved, kept, five, eval_interval)


def plan_saving(steps: Steps, saves: int) -> Saving:
    """Derives save and evaluation steps, multiples of sink_size, that keep the five of the rules.

    Two evaluations a save where the sink size allows it; the report's 34,504 steps and 10 saves give its
    3,452 and 1,726.

    Args:
        steps: The run.
        saves: About how many checkpoints to write; a multiple of five.

    Raises:
        ToolkitError: The run cannot hold them.
    """
    if saves % REQUIRED_CHECKPOINTS:
        raise ToolkitError(f"--saves {saves} is no multiple of the {REQUIRED_CHECKPOINTS} checkpoints to "
                           "hand in")
    intervals = [units * unit for unit in (2 * steps.sink_size, steps.sink_size)
                 for units in (-(-steps.total // (saves * unit)), steps.total // (saves * unit))]
    # Saving at every sink is only reached by runs so short that nothing coarser is even.
    for interval in filter(None, [*intervals, steps.sink_size]):
        keep = len(save_steps(steps.total, interval))
        half, rest = divmod(interval, 2)
        eval_interval = interval if rest or half % steps.sink_size else half
        saving = Saving.simulate(steps, interval, keep, eval_interval)
        if saving.five:
            return saving
    raise ToolkitError(f"a run of {steps.total:,} steps (sink_size {steps.sink_size}) cannot hold "
                       f"{REQUIRED_CHECKPOINTS} evenly spaced checkpoints; use a smaller sink_size or a "
                       "longer run")


def saving_of(recipe: Mapping[str, Any], steps: Steps) -> Saving:
    """What the recipe's own settings save, keep and evaluate."""
    monitor = recipes.callback(recipe, "CheckpointMonitor")
    if monitor is None:
        raise ToolkitError("the config has no CheckpointMonitor under callbacks, so the run saves nothing")
    eval_interval = recipe.get("eval_step_interval", 100) if recipe.get("do_eval") else 0
    return Saving.simulate(steps, monitor.get("save_checkpoint_steps", 1),
                           monitor.get("keep_checkpoint_max", 5), eval_interval)


def warnings(saving: Saving, steps: Steps) -> list[str]:
    """What a run with these settings would lose without saying so."""
    found = []
    if saving.five is None:
        kept = ", ".join(f"{step:,}" for step in saving.kept)
        found.append(f"save_checkpoint_steps {saving.interval:,} with keep_checkpoint_max {saving.keep} "
                     f"leaves the checkpoints of steps {kept}: not {REQUIRED_CHECKPOINTS} evenly spaced ones")
    if saving.interval % steps.sink_size:
        found.append(f"save_checkpoint_steps {saving.interval:,} is no multiple of sink_size "
                     f"{steps.sink_size}: saves come late")
    if saving.eval_interval > 0 and saving.eval_interval % steps.sink_size:
        found.append(f"eval_step_interval {saving.eval_interval:,} is no multiple of sink_size "
                     f"{steps.sink_size}: some or all evaluations never happen")
    if saving.eval_interval > steps.total:
        found.append(f"eval_step_interval {saving.eval_interval:,} is beyond the last step {steps.total:,}: "
                     "no evaluation happens")
    return found
