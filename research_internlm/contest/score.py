"""Entry point and owner of the contest's arithmetic: low-parameter ratio, SQuAD gate, score.

    python research_internlm/contest/score.py --accuracy 96.85% --trainable 16777216
    python research_internlm/contest/score.py --accuracy 71.61% --ratio 0.00679028 --phase 1
    python research_internlm/contest/score.py --accuracy 96.85% --trainable 16777216 \\
        --squad 49.54 31.40 --base_squad 50.00 32.00

Rules: 2024 Ascend AI contest, MindSpore track, topic 2, first and second phase.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from research_internlm.errors import ToolkitError, run_main
from research_internlm.lora import CONTEST_TOTAL

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
        hint = "" if self.measured else "; a base F1 of 0 is no measure, evaluate the base model again"
        return f"SQuAD gate {'passed' if self.passed else 'FAILED'}: {parts}{hint}"


def low_parameter_ratio(trainable: int, total: int) -> float:
    """Trainable share of the model.

    Raises:
        ToolkitError: The counts are not 0 <= trainable <= total, total > 0.
    """
    if not 0 <= trainable <= total or total == 0:
        raise ToolkitError(f"{trainable:,} trainable of {total:,} parameters is no share of a model; "
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


def squad_pair(result: Mapping) -> tuple[float, float]:
    """F1 and EM (percent, contest metric) of a SQuAD result as evaluate.py writes it."""
    return result["contest"]["f1"], result["contest"]["em"]


def share(text: str) -> float:
    """Reads 0.9685 or 96.85%; a bare 96.85 is refused because 1 could mean either."""
    return _bounded(text, 100 if text.endswith("%") else 1, "no share: write 0.9685 or 96.85%")


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


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--accuracy", type=share, required=True, metavar="A",
        help="share of right answers: 0.9685 or 96.85%%")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--trainable", type=int, metavar="N", help="number of trainable parameters")
    size.add_argument("--ratio", type=share, metavar="R", help="low-parameter ratio, instead of --trainable")
    add("--total", type=int, metavar="T", help="parameters of the model (default: the contest's "
        f"{PHASES[1].total:,} in phase 1, {PHASES[2].total:,} in phase 2)")
    add("--phase", type=int, choices=sorted(PHASES), default=2,
        help="contest phase; it decides how hard the ratio counts (default: %(default)s)")
    add("--squad", type=percent, nargs=2, metavar=("F1", "EM"),
        help="SQuAD F1 and EM after tuning, percent, contest metric")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--base_squad", type=percent, nargs=2, metavar=("F1", "EM"),
                       help="F1 and EM of the base model; the gate is 90 %% of each")
    limit.add_argument("--squad_threshold", type=percent, nargs=2, metavar=("F1", "EM"),
                       help="the gate itself, where the organisers published it")
    arguments = parser.parse_args(argv)
    if bool(arguments.squad) != bool(arguments.base_squad or arguments.squad_threshold):
        parser.error("the gate needs --squad together with --base_squad or --squad_threshold")
    if arguments.total is not None and arguments.ratio is not None:
        parser.error("--total goes with --trainable; --ratio is the share already")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Prints ratio, gate and score."""
    arguments = parse_arguments(argv)
    if arguments.ratio is None:
        total = PHASES[arguments.phase].total if arguments.total is None else arguments.total
        ratio = low_parameter_ratio(arguments.trainable, total)
        print(f"low-parameter ratio {ratio:.9f} ({arguments.trainable:,} of {total:,} parameters)")
    else:
        ratio = arguments.ratio
        print(f"low-parameter ratio {ratio:.9f}")
    gate = None
    if arguments.base_squad:
        gate = gate_against_base(tuple(arguments.squad), tuple(arguments.base_squad))
    elif arguments.squad_threshold:
        gate = Gate(tuple(arguments.squad), tuple(arguments.squad_threshold))
    print(gate or "SQuAD gate not checked (no --squad)")
    score = contest_score(arguments.accuracy, ratio, arguments.phase)
    note = "; it does not count, the gate failed" if gate and not gate.passed else ""
    print(f"score {score:.9f} (phase {arguments.phase}, accuracy {arguments.accuracy:.2%}){note}")
    return 0


if __name__ == "__main__":
    run_main(main)
