"""What in a run's logs should be checked before more hours are paid for.

A warning is a code with values; `LogWarning.text` is the only place that turns it into a sentence.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm.runs.worker_logs import RankLog, evaluations

RECENT = 100  # loss lines that say how a run goes now
_FLOOR_LINES = 40  # fewer lines tell no trend
_FLOOR_LOSS = 0.5  # nats; below it a standing loss is a learned task
_FLOOR_CHANGE = 0.02
_STUCK_LINES = 20
_OVERFLOW_SHARE = 0.05


class Code(enum.Enum):
    """What can be warned of: its sentence in English and in Chinese, with the same values in both."""

    LOSS_NOT_FINITE = (
        "the loss is not a number at {count} logged step(s), first at step {first}",
        "有 {count} 个记录步的损失不是数值，最早在第 {first} 步")
    LAST_LOSS_NOT_FINITE = (
        "the loss is not a number at {count} logged step(s), first at step {first}, and still so at the last",
        "有 {count} 个记录步的损失不是数值，最早在第 {first} 步，直到最后一步仍是如此")
    VALID_LOSS_NOT_FINITE = (
        "the validation loss is not a number at {count} logged step(s), first at step {first}",
        "有 {count} 次验证的损失不是数值，最早在第 {first} 步")
    LAST_VALID_LOSS_NOT_FINITE = (
        "the validation loss is not a number at {count} logged step(s), first at step {first}, and still so "
        "at the last",
        "有 {count} 次验证的损失不是数值，最早在第 {first} 步，直到最后一次仍是如此")
    LOSS_STUCK = (
        "the last {count} losses are all {loss:g}: nothing is being trained",
        "最后 {count} 条损失都是 {loss:g}：没有任何参数在训练")
    LOSS_FLOOR = (
        "the loss stands at {late:.3f} since the second quarter of the log ({early:.3f} there): a floor this "
        "high means that some label tokens are not learned at all, e.g. an end marker the frozen head cannot "
        "say",
        "损失自日志的第二个四分之一起停在 {late:.3f}（当时为 {early:.3f}）：如此高的平台说明某些标签词元完全"
        "没有学到，例如冻结的输出层无法生成的结束符")
    LOSS_RANKS_UNKNOWN = (
        "the run has several pipeline stages, of which only the last has a valid loss, and these logs do not "
        "tell which losses are its own; read the run's folder, with worker_N.log of every rank",
        "该训练分为多个流水线阶段，只有最后一个阶段的损失有效，而这些日志无法说明哪些损失属于它；"
        "请读取含有全部进程 worker_N.log 的运行目录")
    OVERFLOWS = (
        "{overflows} of {steps} logged steps overflowed and changed no weight; lower the learning rate or "
        "start with a smaller loss_scale_value",
        "{steps} 个记录步中有 {overflows} 步溢出、未更新权重；请降低学习率或减小初始 loss_scale_value")
    NO_LOG = ("no log of rank {ranks}", "缺少进程 {ranks} 的日志")
    RANK_LAGS = (
        "rank {rank} lags: its last step is {step}, the others are at {lead}",
        "进程 {rank} 落后：它的最后一步是 {step}，其他进程已到 {lead}")
    RANK_SLOW = (
        "rank {rank} needs {step_ms:g} ms a step, the median rank {median_ms:g} ms",
        "进程 {rank} 每步需 {step_ms:g} 毫秒，各进程的中位数为 {median_ms:g} 毫秒")
    UNREADABLE = (
        "{count} loss line(s) could not be read and are left out, the first: '{example}'",
        "有 {count} 行损失记录无法读取，未计入；第一行是“{example}”")


@dataclass(frozen=True)
class LogWarning:
    """One warning on a run's logs.

    Attributes:
        code: What it is about.
        values: The values of the code's sentence.
    """

    code: Code
    values: Mapping[str, Any]

    def text(self, lang: str = "en") -> str:
        """The warning as a sentence in `en` or `zh`."""
        english, chinese = self.code.value
        return (chinese if lang == "zh" else english).format_map(self.values)


def warnings(logs: Mapping[int, RankLog], rows: Sequence[Mapping[str, Any]], workers: int | None = None
             ) -> Iterator[LogWarning]:
    """What in the logs deserves a look; `rows` from `table`, `workers` as for `summarize`."""
    yield from _not_finite({row["step"]: row["loss"] for row in rows},
                           Code.LOSS_NOT_FINITE, Code.LAST_LOSS_NOT_FINITE)
    yield from _not_finite(evaluations(logs), Code.VALID_LOSS_NOT_FINITE, Code.LAST_VALID_LOSS_NOT_FINITE)
    if any(log.has_loss is None for log in logs.values()):
        yield LogWarning(Code.LOSS_RANKS_UNKNOWN, {})
    else:
        yield from _still(rows)
    overflows = sum(row["overflow"] for row in rows)
    if overflows > _OVERFLOW_SHARE * len(rows):
        yield LogWarning(Code.OVERFLOWS, {"overflows": overflows, "steps": len(rows)})
    yield from _lagging(logs, max(logs) + 1 if workers is None else workers)
    unreadable = sum(log.unreadable for log in logs.values())
    if unreadable:
        example = next(log.example for log in logs.values() if log.example)
        yield LogWarning(Code.UNREADABLE, {"count": unreadable, "example": example})


def _not_finite(losses: Mapping[int, float], some: Code, until_the_last: Code) -> Iterator[LogWarning]:
    broken = [step for step, loss in losses.items() if not math.isfinite(loss)]
    if broken:
        yield LogWarning(until_the_last if broken[-1] == max(losses) else some,
                         {"count": len(broken), "first": broken[0]})


def _still(rows: Sequence[Mapping[str, Any]]) -> Iterator[LogWarning]:
    """A loss that stopped falling above zero: some label tokens cannot be learned.

    See docs/traps.md#end-marker-not-learnt.
    """
    losses = [row["loss"] for row in rows if math.isfinite(row["loss"])]
    if len(losses) >= _STUCK_LINES and len(set(losses[-_STUCK_LINES:])) == 1:
        yield LogWarning(Code.LOSS_STUCK, {"count": _STUCK_LINES, "loss": losses[-1]})
        return
    if len(losses) < _FLOOR_LINES:
        return
    quarter = len(losses) // 4
    early, late = statistics.fmean(losses[quarter:2 * quarter]), statistics.fmean(losses[-quarter:])
    if late > _FLOOR_LOSS and abs(early - late) < _FLOOR_CHANGE * early:
        yield LogWarning(Code.LOSS_FLOOR, {"early": early, "late": late})


def _lagging(logs: Mapping[int, RankLog], workers: int) -> Iterator[LogWarning]:
    reached = {rank: max(log.records, default=0) for rank, log in logs.items()}
    lead = max(reached.values())
    missing = sorted(set(range(workers)) - set(logs))
    if missing:
        yield LogWarning(Code.NO_LOG, {"ranks": ", ".join(map(str, missing))})
    for rank, log in logs.items():
        steps = sorted(log.records)
        between = steps[-1] - steps[-2] if len(steps) > 1 else 1
        # Workers write one after the other, so a worker one line short does not lag.
        if lead - reached[rank] > between:
            yield LogWarning(Code.RANK_LAGS, {"rank": rank, "step": reached[rank], "lead": lead})
    times = {rank: statistics.median(record.step_ms for record in list(log.records.values())[-RECENT:])
             for rank, log in logs.items() if log.records}
    slowest, typical = max(times, key=times.get), statistics.median(times.values())
    if times[slowest] > 1.2 * typical:
        yield LogWarning(Code.RANK_SLOW,
                         {"rank": slowest, "step_ms": times[slowest], "median_ms": typical})
