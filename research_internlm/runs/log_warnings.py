"""What in a run's logs deserves a look before more hours are paid for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from research_internlm.runs.worker_logs import RankLog, evaluations

RECENT = 100  # loss lines that say how a run goes now
_FLOOR_LINES = 40  # fewer lines tell no trend
_FLOOR_LOSS = 0.5  # nats; below it a standing loss is a learned task
_FLOOR_CHANGE = 0.02
_STUCK_LINES = 20
_OVERFLOW_SHARE = 0.05


def warnings(logs: Mapping[int, RankLog], rows: Sequence[Mapping[str, Any]], workers: int | None = None
             ) -> Iterator[str]:
    """What in the logs deserves a look; `rows` from `table`, `workers` as for `summarize`."""
    for what, losses in (("loss", {row["step"]: row["loss"] for row in rows}),
                         ("validation loss", evaluations(logs))):
        broken = [step for step, loss in losses.items() if not math.isfinite(loss)]
        if broken:
            yield (f"the {what} is not a number at {len(broken)} logged step(s), first at step {broken[0]}"
                   + (", and still so at the last" if broken[-1] == max(losses) else ""))
    yield from _still(rows)
    overflows = sum(row["overflow"] for row in rows)
    if overflows > _OVERFLOW_SHARE * len(rows):
        yield (f"{overflows} of {len(rows)} logged steps overflowed and changed no weight; lower the "
               "learning rate or start with a smaller loss_scale_value")
    yield from _lagging(logs, max(logs) + 1 if workers is None else workers)
    unreadable = sum(log.unreadable for log in logs.values())
    if unreadable:
        example = next(log.example for log in logs.values() if log.example)
        yield f"{unreadable} loss line(s) could not be read and are left out, the first: '{example}'"


def _still(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A loss that stopped falling above zero: some label tokens cannot be learned.

    See docs/traps.md#end-marker-not-learnt.
    """
    losses = [row["loss"] for row in rows if math.isfinite(row["loss"])]
    if len(losses) >= _STUCK_LINES and len(set(losses[-_STUCK_LINES:])) == 1:
        yield f"the last {_STUCK_LINES} losses are all {losses[-1]:g}: nothing is being trained"
        return
    if len(losses) < _FLOOR_LINES:
        return
    quarter = len(losses) // 4
    early, late = statistics.fmean(losses[quarter:2 * quarter]), statistics.fmean(losses[-quarter:])
    if late > _FLOOR_LOSS and abs(early - late) < _FLOOR_CHANGE * early:
        yield (f"the loss stands at {late:.3f} since the second quarter of the log ({early:.3f} there): a "
               "floor this high means that some label tokens are not learned at all, e.g. an end marker the "
               "frozen head cannot say")


def _lagging(logs: Mapping[int, RankLog], workers: int) -> Iterator[str]:
    reached = {rank: max(log.records, default=0) for rank, log in logs.items()}
    lead = max(reached.values())
    missing = sorted(set(range(workers)) - set(logs))
    if missing:
        yield f"no log of rank {', '.join(map(str, missing))}"
    for rank, log in logs.items():
        steps = sorted(log.records)
        between = steps[-1] - steps[-2] if len(steps) > 1 else 1
        # Workers write one after the other, so one line behind is no lag.
        if lead - reached[rank] > between:
            yield f"rank {rank} lags: its last step is {reached[rank]}, the others are at {lead}"
    times = {rank: statistics.median(record.step_ms for record in list(log.records.values())[-RECENT:])
             for rank, log in logs.items() if log.records}
    slowest, typical = max(times, key=times.get), statistics.median(times.values())
    if times[slowest] > 1.2 * typical:
        yield f"rank {slowest} needs {times[slowest]:g} ms a step, the median rank {typical:g} ms"
