"""The owner of a run's step arithmetic: steps an epoch, what is saved when, what retention leaves.

The rules are MindSpore 2.9.0's and MindFormers 1.9.0's, checked against the installed code: MindDataset
deals rows to cards in turn and repeats a few so that all cards get the same number; batching then drops
what does not fill a batch; CheckpointMonitor saves every so many steps and once more at the end.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from research_internlm import recipes
from research_internlm.recipes import renamed
from research_internlm.shared.arguments import is_whole
from research_internlm.shared.errors import ToolkitError

REQUIRED_CHECKPOINTS = 5  # rules, second phase: five, evenly spaced over the whole run
MOST_STEPS = 10_000_000  # of a run; 70 days of steps of 0.6 s
EVEN_TOLERANCE = 0.1  # of a fifth of the run: how much the distances may differ, and the end be missed
FULL_CHECKPOINTS = ("five", "all")  # which saves hold the frozen base too, CheckpointMonitor.full_checkpoints
ROUNDING_TOLERANCE = 0.25  # of a fifth: the most that rounding to whole sinks may add to that


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


def whole_number(recipe: Mapping[str, Any], path: str, least: int = 1, also: int | None = None,
                 default: int | None = None) -> int:
    """Reads a number of the recipe that MindFormers itself would take, or fail on, hours later.

    Args:
        recipe: The resolved recipe.
        path: Its dotted path; a callback goes by its type.
        least: Smallest value that means something.
        also: A smaller value with a meaning of its own.
        default: MindFormers' value where the recipe has none; None where it needs one.

    Raises:
        ToolkitError: The recipe has none, or it is not a whole number of that size.
    """
    value: Any = recipe
    for key in path.split("."):
        if isinstance(value, list):
            value = next((item for item in value if item.get("type") == key), None)
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    value = default if value is None else value
    if is_whole(value, least) or (also is not None and is_whole(value, also, also)):
        return value
    raise ToolkitError(f"the config's {path} is {value!r}, but has to be a whole number of at least {least}"
                       f"{'' if also is None else f', or {also}'}; correct it in the yaml, or pass {path}=N")


def steps_from_recipe(recipe: Mapping[str, Any], rows: int, cards: int) -> Steps:
    """The step counts of a recipe on a number of cards.

    A sink_size of -1 is one epoch (MindFormers 1.9.0, trainer/utils.py, check_runner_config).

    Raises:
        ToolkitError: A number of runner_config is invalid, or the data does not fill one step.
    """
    batch_size, epochs = (whole_number(recipe, f"runner_config.{key}") for key in ("batch_size", "epochs"))
    sink_size = 1
    if recipe["runner_config"].get("sink_mode"):
        sink_size = whole_number(recipe, "runner_config.sink_size", also=-1)
    steps = Steps(rows, cards, batch_size, epochs, 1, recipe["train_dataset"].get("drop_remainder", True))
    steps = replace(steps, sink_size=max(1, steps.per_epoch) if sink_size == -1 else sink_size)
    if steps.total > MOST_STEPS:
        raise ToolkitError(f"{epochs:,} epochs of {steps.per_epoch:,} steps are more than any run; correct "
                           "runner_config.epochs")
    if steps.total == 0:
        unfilled = "one step" if steps.per_epoch == 0 else f"one sink of {steps.sink_size} steps"
        raise ToolkitError(f"{rows:,} rows on {cards} cards x batch {batch_size} do not fill {unfilled}; use "
                           "fewer cards, a smaller runner_config.batch_size or sink_size, or more data")
    return steps


def save_points(total: int, interval: int, sink_size: int = 1) -> list[int]:
    """Steps at which CheckpointMonitor saves: every `interval`, and once more when the run ends.

    Callbacks run once a sink, so the interval is rounded up to whole sinks.
    """
    interval = -(-interval // sink_size) * sink_size
    points = list(range(interval, total + 1, interval))
    return points if points and points[-1] == total else [*points, total]


def expendable(saved: Sequence[int], planned: Collection[int]) -> int | None:
    """Step of the file that retention deletes before the next save: the earliest that is not planned.

    None where all are planned; the run then keeps more files than keep_checkpoint_max.
    """
    return min((step for step in saved if step not in planned), default=None)


def evenly_spaced(saved: Sequence[int], total: int, slack: int = 1) -> list[int] | None:
    """Picks the five of the rules out of the saved steps: those nearest to the fifths of the run.

    Distances count from step 0 on. They may differ by 10 % of a fifth; further by what rounding costs, which
    is one step, or two sinks (a fifth that is not a whole number of sinks leaves up to two over after the
    fourth save) as far as these are no more than a quarter of a fifth. The last pick is the end of the run,
    to 10 % of a fifth.

    Args:
        saved: Steps at which a checkpoint exists.
        total: Steps of the whole run.
        slack: Steps of one sink.

    Returns:
        Five distinct steps, or None where there are none.
    """
    fifth = total / REQUIRED_CHECKPOINTS
    allowed = max(1, EVEN_TOLERANCE * fifth, min(2 * slack, ROUNDING_TOLERANCE * fifth))
    picked = [min(saved, key=lambda step: abs(step - aim), default=0)
              for aim in (number * fifth for number in range(1, REQUIRED_CHECKPOINTS + 1))]
    gaps = [after - before for before, after in itertools.pairwise([0, *picked])]
    even = min(gaps) > 0 and max(gaps) - min(gaps) <= allowed
    return picked if even and total - picked[-1] <= EVEN_TOLERANCE * fifth else None


@dataclass(frozen=True)
class CheckpointPlan:
    """When a run saves and evaluates.

    Attributes:
        interval: `save_checkpoint_steps`.
        keep: `keep_checkpoint_max`.
        full: Steps at which a full checkpoint is written.
        states: Steps at which adapter and optimizer state are written without the frozen base.
        kept: Full checkpoints that retention leaves at the end.
        kept_states: States that it leaves.
        to_submit: The evenly spaced five among the kept ones, None where the run loses them.
        eval_interval: `eval_step_interval`.
    """

    interval: int
    keep: int
    full: list[int]
    states: list[int]
    kept: list[int]
    kept_states: list[int]
    to_submit: list[int] | None
    eval_interval: int

    @property
    def saved(self) -> list[int]:
        """All steps at which something is written."""
        return sorted((*self.full, *self.states))

    @classmethod
    def simulate(cls, steps: Steps, interval: int, keep: int, eval_interval: int, only_five: bool = False
                 ) -> CheckpointPlan:
        """Plays a run's saves through its retention (training/callbacks.py); a `keep` of 0 keeps all.

        Full checkpoints and states are kept apart, each up to `keep`. `only_five` has a meaning where the run
        has five evenly spaced saves: no other one is full.
        """
        saved = save_points(steps.total, interval, steps.sink_size)
        planned = evenly_spaced(saved, steps.total, steps.sink_size) or ()
        full = [step for step in saved if step in planned] if only_five and planned else saved
        states = [step for step in saved if step not in full]
        kept = _retained(full, keep, planned)
        to_submit = evenly_spaced(kept, steps.total, steps.sink_size)
        return cls(interval, keep, full, states, kept, _retained(states, keep, ()), to_submit, eval_interval)


def _retained(saved: Sequence[int], keep: int, planned: Collection[int]) -> list[int]:
    kept: list[int] = []
    for step in saved:
        if 0 < keep <= len(kept) and (oldest := expendable(kept, planned)) is not None:
            kept.remove(oldest)
        kept.append(step)
    return kept


def only_five_are_full(recipe: Mapping[str, Any]) -> bool:
    """Whether saves beside the five to submit leave the frozen base out.

    Raises:
        ToolkitError: CheckpointMonitor's full_checkpoints is neither of its values.
    """
    value = (recipes.callback(recipe, "CheckpointMonitor") or {}).get("full_checkpoints") or "all"
    if value not in FULL_CHECKPOINTS:
        raise ToolkitError(f"the config's callbacks.CheckpointMonitor.full_checkpoints is {value!r}, but has "
                           f"to be {' or '.join(FULL_CHECKPOINTS)}")
    return value == "five"


def writing_workers(recipe: Mapping[str, Any], workers: int) -> int:
    """Workers that write checkpoints: one in data-parallel training, where all hold the same bits.

    Machines of one run share --output_dir (launch.py), so rank 0 of the first is enough.
    """
    parallel = recipe.get("parallel") or {}
    same_bits = (str(parallel.get("parallel_mode")).lower() in ("0", "data_parallel", "stand_alone")
                 and not parallel.get("enable_parallel_optimizer"))
    return 1 if same_bits else workers


def search_plan(steps: Steps, saves: int, only_five: bool = False) -> CheckpointPlan:
    """Derives save and evaluation steps, multiples of sink_size, that keep the five of the rules.

    Two evaluations a save where the sink size allows it; the report's 34,504 steps and 10 saves give its
    3,452 and 1,726.

    Args:
        steps: The run.
        saves: About how many checkpoints to write, a multiple of five; fewer where only these are even.
        only_five: Whether only the five are full.

    Raises:
        ToolkitError: The run cannot hold them.
    """
    if saves % REQUIRED_CHECKPOINTS:
        raise ToolkitError(f"--saves {saves} is not a multiple of the {REQUIRED_CHECKPOINTS} checkpoints "
                           "to submit")
    intervals = [units * unit for count in range(saves, 0, -REQUIRED_CHECKPOINTS)
                 for unit in (2 * steps.sink_size, steps.sink_size)
                 for units in (-(-steps.total // (count * unit)), steps.total // (count * unit))]
    # Saving at every sink is only reached by runs so short that nothing coarser is even.
    for interval in filter(None, [*intervals, steps.sink_size]):
        keep = len(save_points(steps.total, interval))
        half, rest = divmod(interval, 2)
        eval_interval = interval if rest or half % steps.sink_size else half
        plan = CheckpointPlan.simulate(steps, interval, keep, eval_interval, only_five)
        if plan.to_submit:
            return plan
    raise ToolkitError(f"a run of {steps.total:,} steps (sink_size {steps.sink_size:,}) cannot hold "
                       f"{REQUIRED_CHECKPOINTS} evenly spaced checkpoints; use a smaller sink_size or a "
                       "longer run")


def plan_from_recipe(recipe: Mapping[str, Any], steps: Steps) -> CheckpointPlan:
    """What the recipe's own settings save, keep and evaluate."""
    monitor = recipes.callback(recipe, "CheckpointMonitor")
    if monitor is None:
        raise ToolkitError(_without_monitor(recipe))
    name = "callbacks.CheckpointMonitor"
    interval = whole_number(recipe, f"{name}.save_checkpoint_steps", default=1)
    keep = whole_number(recipe, f"{name}.keep_checkpoint_max", least=0, default=5)
    evaluates = recipe.get("do_eval")
    eval_interval = whole_number(recipe, "eval_step_interval", also=-1, default=100) if evaluates else 0
    return CheckpointPlan.simulate(steps, interval, keep, eval_interval, only_five_are_full(recipe))


def _without_monitor(recipe: Mapping[str, Any]) -> str:
    """Why a run saves nothing; in the words of recipes/check.py, so that a launch says it once."""
    types = [item["type"] for item in recipe.get("callbacks") or []]
    for near in difflib.get_close_matches("CheckpointMonitor", types, n=1, cutoff=0.8):
        return renamed.unknown_type("callbacks", near, "callback", ["CheckpointMonitor"])
    return "the config has no CheckpointMonitor under callbacks, so the run saves nothing"


def last_evaluation(eval_interval: int, total: int) -> int:
    """Step of the last evaluation; unlike a save there is none when the run ends."""
    return total // eval_interval * eval_interval


def interval_to_the_end(eval_interval: int, steps: Steps) -> int | None:
    """The evaluation interval nearest to this one whose last evaluation is of the run's last step.

    Returns:
        A multiple of sink_size between half and twice the interval, or None where none divides the run.
    """
    sinks = steps.total // steps.sink_size
    divisors = [count * steps.sink_size for count in range(1, sinks + 1) if sinks % count == 0]
    return min((interval for interval in divisors if eval_interval / 2 <= interval <= 2 * eval_interval),
               key=lambda interval: abs(interval - eval_interval), default=None)


def warnings(plan: CheckpointPlan, steps: Steps) -> list[str]:
    """What a run with these settings would lose without saying so."""
    texts = []
    if plan.to_submit is None:
        kept = ", ".join(f"{step:,}" for step in plan.kept)
        texts.append(f"save_checkpoint_steps {plan.interval:,} with keep_checkpoint_max {plan.keep} "
                     f"leaves the checkpoints of steps {kept}: not {REQUIRED_CHECKPOINTS} evenly spaced ones")
    if plan.interval % steps.sink_size:
        texts.append(f"save_checkpoint_steps {plan.interval:,} is not a multiple of sink_size "
                     f"{steps.sink_size}: saves come late")
    if plan.eval_interval > 0 and plan.eval_interval % steps.sink_size:
        texts.append(f"eval_step_interval {plan.eval_interval:,} is not a multiple of sink_size "
                     f"{steps.sink_size}: some or all evaluations never happen")
    if plan.eval_interval > steps.total:
        texts.append(f"eval_step_interval {plan.eval_interval:,} is beyond the last step {steps.total:,}: "
                     "no evaluation happens")
    return texts
