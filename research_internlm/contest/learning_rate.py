"""The peak of the learning rate that a training log must show, from the config's schedule.

The formulas are those of mindformers/core/lr/lr_schedule.py (1.9.0), checked against its values in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from research_internlm.runs.worker_logs import RankLog

_TOLERANCE = 0.05  # the logs of 2024 print two digits
# Share of the peak left after a share of the steps that follow the warm-up.
_DECAYS = {
    "ConstantWarmUpLR": lambda progress, cycles: 1.0,
    "LinearWithWarmUpLR": lambda progress, cycles: max(0.0, 1.0 - progress),
    "CosineWithWarmUpLR": lambda progress, cycles: max(
        0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * cycles * progress))),
}


def rate_at(schedule: Mapping[str, Any], step: int, total: int) -> float | None:
    """The learning rate after a number of optimizer steps.

    Args:
        schedule: The config's `lr_schedule`.
        step: Steps done before, from 0.
        total: Steps of the run, for a schedule that takes them from the data set.

    Returns:
        The rate, or None for a schedule that this module does not know.
    """
    decay = _DECAYS.get(schedule.get("type", ""))
    if decay is None or schedule.get("decay_steps") or schedule.get("decay_ratio"):
        return None
    peak, end = schedule["learning_rate"], schedule.get("lr_end") or 0.0
    steps = schedule.get("total_steps") or -1
    steps = total if steps < 0 else steps
    ratio = schedule.get("warmup_ratio")
    warmup = int(ratio * steps) if ratio is not None else schedule.get("warmup_steps") or 0
    if step < warmup:
        first = schedule.get("warmup_lr_init") or 0.0
        return first + (peak - first) * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cycles = schedule.get("num_cycles", 0.5)
    return end + (peak - end) * decay(progress, cycles)


def peak_problems(schedule: Mapping[str, Any], logs: Mapping[int, RankLog], total: int) -> Iterator[str]:
    """Ranks whose log shows another peak than the config's schedule has at the logged steps.

    Args:
        schedule: The config's `lr_schedule`.
        logs: Rank -> worker log.
        total: Steps of the run.
    """
    for rank, log in logs.items():
        logged = {step: record.learning_rate for step, record in log.records.items()
                  if record.learning_rate is not None}
        if not logged:
            continue
        peak, most, given = max(logged.values()), schedule["learning_rate"], schedule["learning_rate"]
        # With sinking the callback sees the counter after the step, without it before.
        expected = [[rate_at(schedule, step - late, total) for step in logged] for late in (0, 1)]
        known = expected[0][0] is not None
        least = min(max(rates) for rates in expected) if known else 0.0
        most = max(max(rates) for rates in expected) if known else most
        if not least * (1 - _TOLERANCE) <= peak <= most * (1 + _TOLERANCE):
            yield (f"the learning rate peaks at {peak:g} in the training log of rank {rank}, but "
                   f"{given:g} in resolved_config.yaml means {most:g} at the logged steps")
