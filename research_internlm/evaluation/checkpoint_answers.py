"""Which checkpoint of an assistant's run to take: its answers to held-out questions, counted.

The identity has to be stated where it is asked for, and must not come up where it is not (a "parrot" answers
everything with it). The best checkpoint has the greatest difference of the two shares; of equal ones the
earliest, which has moved least from its base.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.data.identity import GENERAL, IDENTITY
from research_internlm.evaluation.intervals import wilson_interval
from research_internlm.runs.answers_file import StepAnswers
from research_internlm.runs.saved_steps import find_saves
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.schema import Count, Interval

LEAST_RIGHT, MOST_PARROTS = 0.9, 0.1  # what an assistant has to reach
_ADAPTER_MARK = "-trainable_params"  # MindFormers 1.9.0 puts it in the name of the save before epoch and step


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of how many, with the 95 % interval of the share (Wilson)."""

    count: Count
    total: Count
    share: float
    interval_95: Interval

    @classmethod
    def of(cls, count: int, total: int) -> Share:
        """The share; `total` is at least 1."""
        return cls(count=count, total=total, share=count / total,
                   interval_95=list(wilson_interval(count, total)))

    def __str__(self) -> str:
        low, high = (100 * bound for bound in self.interval_95)
        return f"{self.count} of {self.total}, {100 * self.share:.0f} % ({low:.0f} to {high:.0f})"


@dataclass(frozen=True, kw_only=True)
class StepScore:
    """The answers of one step.

    Attributes:
        step: Optimizer steps done; 0 is the base.
        right: Identity questions that were answered right.
        parrots: General questions whose answer brings up the identity.
        files: Files of the run that hold the step's weights.
    """

    step: Count
    right: Share
    parrots: Share
    files: list[str]

    @property
    def margin(self) -> float:
        """Right answers less parrots, as shares."""
        return self.right.share - self.parrots.share

    @property
    def weights(self) -> str:
        """What is left of the step's weights, in a word."""
        if not self.files:
            return "base" if self.step == 0 else "not saved"
        return "state" if run_layout.is_state(Path(self.files[0])) else "full"

    @property
    def passed(self) -> bool:
        """Whether both bars are met."""
        return self.right.share >= LEAST_RIGHT and self.parrots.share <= MOST_PARROTS


def score_steps(lines: Sequence[StepAnswers], files: Mapping[int, Sequence[str]], source: str
                ) -> list[StepScore]:
    """Scores every step.

    Args:
        lines: Of answers.jsonl.
        files: Step -> files with its weights.
        source: Where the lines are from, for the message.

    Raises:
        ToolkitError: A step has no identity or no general question.
    """
    scores = []
    for line in lines:
        (right, identity), (clean, general) = line.count(IDENTITY), line.count(GENERAL)
        if not (identity and general):
            raise ToolkitError(
                f"{source} has {identity} identity and {general} general questions at step {line.step}, and "
                "a score needs both: train with callbacks.AnswerMonitor.prompts=F.held_out.json, which "
                "preprocess/assistant_data.py writes, or ask the checkpoints now with --questions")
        scores.append(StepScore(
            step=line.step, right=Share.of(right, identity), parrots=Share.of(general - clean, general),
            files=list(files.get(line.step, ()))))
    return scores


def best(scores: Sequence[StepScore]) -> StepScore | None:
    """The checkpoint to take, among the steps with files; None where there is none."""
    return max((score for score in scores if score.files), key=lambda score: (score.margin, -score.step),
               default=None)


def weight_files(run: Path) -> dict[int, list[str]]:
    """Step -> its files in the run folder, relative to it: full checkpoint or state, and adapter."""
    saves = find_saves(run)
    adapters = {path.name.replace(_ADAPTER_MARK, ""): path
                for path in run_layout.rank_files(run_layout.adapter_dir(run), 0)}
    found = {}
    for step, by_rank in sorted(saves.complete.items()):
        path = by_rank[min(by_rank)]
        paths = [path, *([adapters[path.name]] if path.name in adapters else [])]
        found[step] = [str(path.relative_to(run)) for path in paths]
    return found


def unasked(scores: Sequence[StepScore], steps: Collection[int]) -> list[int]:
    """Saved steps without answers."""
    return sorted(set(steps) - {score.step for score in scores})


def table(scores: Sequence[StepScore], chosen: StepScore | None) -> Iterator[str]:
    """The scores as lines for a terminal."""
    rows = [("step", "identity right", "identity where not asked for", "weights")]
    rows += [(f"{score.step:,}" + (" *" if score is chosen else ""), str(score.right), str(score.parrots),
              score.weights) for score in scores]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()


def advice(chosen: StepScore | None) -> str:
    """What to take, and whether it is good enough."""
    if chosen is None:
        return "no step with answers was saved, so there is no checkpoint to take"
    text = f"take step {chosen.step:,}: {', '.join(chosen.files)}"
    if chosen.passed:
        return text
    return (f"{text}; but it misses the bars (at least {LEAST_RIGHT:.0%} right, at most {MOST_PARROTS:.0%} "
            "where the identity was not asked for)")
