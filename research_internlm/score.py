"""Entry point: the contest's arithmetic: low-parameter ratio, SQuAD gate, score.

    python research_internlm/score.py --accuracy 96.85% --trainable 16777216
    python research_internlm/score.py --accuracy 71.61% --ratio 0.00679028 --phase 1
    python research_internlm/score.py --accuracy 96.85% --trainable 16777216 \\
        --squad 49.54 31.40 --base_squad 50.00 32.00

Rules: 2024 Ascend AI contest, MindSpore track, topic 2, first and second phase.
"""

from __future__ import annotations

import argparse

from research_internlm.contest.scoring import (
    PHASES,
    Gate,
    contest_score,
    gate_against_base,
    low_parameter_ratio,
    percent,
    share,
)
from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--accuracy", type=share, required=True, metavar="A",
        help="share of right answers: 0.9685 or 96.85%%")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--trainable", type=whole(0), metavar="N", help="number of trainable parameters")
    size.add_argument("--ratio", type=share, metavar="R", help="low-parameter ratio, instead of --trainable")
    add("--total", type=whole(1), metavar="T", help="parameters of the model (default: the contest's "
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
