"""The contest's score and gates: low-parameter ratio, score of a phase, SQuAD gate."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm import recipes
from research_internlm.model.lora import ParameterCount, count_parameters
from research_internlm.runs.results import SquadResult
from research_internlm.shared.errors import ToolkitError

CONTEST_TOTAL = 7_321_000_000  # the total every team used (docs/traps.md#contest-arithmetic)
RATIO_WEIGHT, ACCURACY_WEIGHT = 0.3, 0.7
GATE_SHARE = 0.9  # of the base model's own F1 and EM
_ROUNDING = 1e-9  # a value written with a few decimals may stand on the threshold itself


@dataclass(frozen=True)
class Phase:
    """What differs between the contest's phases.

    Attributes:
        total: Parameters of the base model as the rules round them.
        ratio_factor: How much harder than one-to-one the ratio counts.
    """

    total: int
    ratio_factor: int


PHASES = {1: Phase(8_030_000_000, 1), 2: Phase(CONTEST_TOTAL, 10)}


@dataclass(frozen=True)
class Gate:
    """Whether a model kept enough of its reading: F1 and EM in percent, contest metric.

    Attributes:
        squad: Measured F1 and EM after tuning.
        threshold: The least F1 and EM that pass.
    """

    squad: tuple[float, float]
    threshold: tuple[float, float]

    @property
    def measured(self) -> bool:
        """Whether the threshold is one: a base F1 of 0 is an evaluation that failed, not a low bar."""
        return self.threshold[0] > 0

    @property
    def passed(self) -> bool:
        """Both values at or above their threshold, and the threshold one."""
        return self.measured and all(value >= least - _ROUNDING
                                     for value, least in zip(self.squad, self.threshold, strict=True))

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.2f} (at least {least:.2f})" for name, value, least in zip(
            ("F1", "EM"), self.squad, self.threshold, strict=True))
        hint = "" if self.measured else "; a base F1 of 0 measures nothing, evaluate the base model again"
        return f"SQuAD gate {'passed' if self.passed else 'FAILED'}: {parts}{hint}"


def low_parameter_ratio(trainable: int, total: int) -> float:
    """Trainable share of the model.

    Raises:
        ToolkitError: The counts are not 0 <= trainable <= total, total > 0.
    """
    if not 0 <= trainable <= total or total == 0:
        raise ToolkitError(f"{trainable:,} trainable of {total:,} parameters is not a valid share; "
                           "give --trainable between 0 and --total")
    return trainable / total


def contest_score(accuracy: float, ratio: float, phase: int = 2) -> float:
    """The score of the rules, (1 - k * ratio) * 0.3 + accuracy * 0.7 with k = 1 and 10 by phase.

    Args:
        accuracy: Share of right answers on the hidden test, 0 to 1.
        ratio: Low-parameter ratio, 0 to 1.
        phase: 1 or 2.
    """
    return (1 - PHASES[phase].ratio_factor * ratio) * RATIO_WEIGHT + accuracy * ACCURACY_WEIGHT


def accuracy_for(score: float, ratio: float, phase: int = 2) -> float:
    """The accuracy that reaches `score` at this ratio; above 1 where none does."""
    return (score - (1 - PHASES[phase].ratio_factor * ratio) * RATIO_WEIGHT) / ACCURACY_WEIGHT


def gate_against_base(squad: tuple[float, float], base_squad: tuple[float, float]) -> Gate:
    """The gate with the rules' thresholds: 90 % of the base model's own F1 and EM.

    Args:
        squad: F1 and EM after tuning, percent, contest metric.
        base_squad: The same of the base model, same questions and prompt.
    """
    return Gate(squad, (GATE_SHARE * base_squad[0], GATE_SHARE * base_squad[1]))


def squad_pair(result: SquadResult) -> tuple[float, float]:
    """F1 and EM (percent, contest metric) of a SQuAD result."""
    return result.contest.f1, result.contest.em


def share(text: str) -> float:
    """Reads 0.9685 or 96.85%; a bare 96.85 is refused because 1 could mean either."""
    return _bounded(text, 100 if text.endswith("%") else 1, "not a valid share: write 0.9685 or 96.85%")


def percent(text: str) -> float:
    """Reads a SQuAD F1 or EM in percent, 0 to 100; a bare 0.4954 is refused because it is likely a share."""
    value = 100 * _bounded(text, 100, "no percentage from 0 to 100")
    if 0 < value <= 1 and not text.endswith("%"):
        raise argparse.ArgumentTypeError(f"{text!r} may be a share: write {100 * value:g} for the "
                                         f"percentage, or {text}% if it is as small as that")
    return value


def _bounded(text: str, whole: int, complaint: str) -> float:
    try:
        value = float(text.removesuffix("%")) / whole
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is {complaint}")
    return value


def contest_ratio(count: ParameterCount) -> float:
    """Trainable share of the contest's rounded total of 7,321,000,000, as the second phase counts it."""
    return count.trainable / CONTEST_TOTAL


def parameter_line(count: ParameterCount) -> str:
    """One line of parameter counts with both ratios: of the exact total and of the contest's."""
    return (f"trainable parameters {count.trainable:,} of {count.base:,} (ratio {count.ratio:.8f}; "
            f"against the contest's total {CONTEST_TOTAL:,}: {contest_ratio(count):.8f}); "
            f"LoRA cells: {count.matched}")


def score_table(recipe: Mapping[str, Any], ranks: Sequence[int], targets: Sequence[str], accuracy: float
                ) -> Iterator[str]:
    """Lines of the score table; each row says what accuracy it needs to match the first."""
    yield (f"score (phase 2) at {accuracy:.2%} accuracy, and the accuracy that matches the first row:")
    yield f"{'rank':>5} {'trainable':>12} {'ratio':>11} {'score':>8} {'to match':>9}  target_modules"
    first = None
    config = recipes.model_config(recipe)
    for target in targets:
        for rank in ranks:
            pet_config = {**(config.get("pet_config") or {}), "lora_rank": rank, "target_modules": target}
            count = count_parameters({**config, "pet_config": pet_config})
            ratio = low_parameter_ratio(count.trainable, PHASES[2].total)
            value = contest_score(accuracy, ratio)
            first = value if first is None else first
            needed = accuracy_for(first, ratio)
            yield (f"{rank:>5} {count.trainable:>12,} {ratio:>11.8f} {value:>8.4f} "
                   f"{f'{needed:.2%}' if needed <= 1 else 'never':>9}  {target}")


