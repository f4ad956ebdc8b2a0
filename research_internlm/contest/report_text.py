"""Words, numbers and tables of the report, in both languages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from research_internlm.contest import scoring
from research_internlm.runs.results import Scores

Say = Callable[[str, str], str]  # (Chinese, English) -> the one of the report's language

# The warnings on a run's logs: pattern of the English sentence -> Chinese one with its groups.
_WARNINGS = (
    (r"the loss is not a number at (\d+) logged step\(s\), first at step (\d+)",
     r"有 \1 个记录步的损失不是数值，最早在第 \2 步"),
    (r"the loss is not a number at (\d+) logged step\(s\), first at step (\d+), and still so at the last",
     r"有 \1 个记录步的损失不是数值，最早在第 \2 步，直到最后一步仍是如此"),
    (r"the validation loss is not a number at (\d+) logged step\(s\), first at step (\d+)",
     r"有 \1 次验证的损失不是数值，最早在第 \2 步"),
    (r"the validation loss is not a number at (\d+) logged step\(s\), first at step (\d+), and still so at "
     r"the last", r"有 \1 次验证的损失不是数值，最早在第 \2 步，直到最后一次仍是如此"),
    (r"(\d+) of (\d+) logged steps overflowed and changed no weight; .*",
     r"\2 个记录步中有 \1 步溢出、未更新权重；请降低学习率或减小初始 loss_scale_value"),
    (r"(\d+) loss line\(s\) could not be read and are left out", r"有 \1 行损失记录无法读取，未计入"),
    (r"(\d+) loss line\(s\) could not be read and are left out, the first: '(.*)'",
     r"有 \1 行损失记录无法读取，未计入；第一行是“\2”"),
    (r"the last (\d+) losses are all (\S+): nothing is being trained",
     r"最后 \1 条损失都是 \2：没有任何参数在训练"),
    (r"the loss stands at (\S+) since the second quarter of the log \((\S+) there\): .*",
     r"损失自日志的第二个四分之一起停在 \1（当时为 \2）：如此高的平台说明某些标签词元完全没有学到，"
     r"例如冻结的输出层无法生成的结束符"),
    (r"no log of rank (.+)", r"缺少进程 \1 的日志"),
    (r"rank (\d+) lags: its last step is (\d+), the others are at (\d+)",
     r"进程 \1 落后：它的最后一步是 \2，其他进程已到 \3"),
    (r"rank (\d+) needs (\S+) ms a step, the median rank (\S+) ms",
     r"进程 \1 每步需 \2 毫秒，各进程的中位数为 \3 毫秒"),
)


def number(value: object) -> str:
    """A number as the report prints it: thousands separated, floats and texts as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def rows(header: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
    """A markdown table."""
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header),
            *("| " + " | ".join(number(cell).replace("|", "\\|") for cell in row) + " |" for row in body)]


def flat(settings: Mapping[str, Any], say: Say, above: str = "") -> Iterator[tuple[str, object]]:
    """Settings and counts without Python's notation: nested keys dotted, absent values in words."""
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, say, f"{name}.")
        else:
            yield name, plain(value, say)


def plain(value: object, say: Say) -> object:
    """One value without Python's notation."""
    if value is None:
        return say("未设置", "not set")
    if isinstance(value, bool):
        return say("是", "yes") if value else say("否", "no")
    if isinstance(value, (list, tuple)):
        return " ".join(number(plain(item, say)) for item in value) or say("无", "none")
    return value


def in_line(settings: Mapping[str, Any], say: Say) -> str:
    """Settings in one table cell."""
    return ", ".join(f"{key} {number(value)}" for key, value in flat(settings, say))


def warning(text: str, say: Say) -> str:
    """A warning on the logs in the report's language."""
    for pattern, chinese in _WARNINGS:
        if match := re.fullmatch(pattern, text):
            return say(match.expand(chinese), text)
    return text


def gate_line(gate: scoring.Gate, say: Say) -> str:
    """The SQuAD gate's verdict with measured values and thresholds."""
    parts = "，".join(f"{name} {value:.2f}（至少 {least:.2f}）" for name, value, least in zip(
        ("F1", "EM"), gate.squad, gate.threshold, strict=True))
    return say(f"{'通过' if gate.passed else '未通过'}：{parts}", str(gate))


def pair(scores: Scores) -> str:
    """F1 and EM of one metric."""
    return f"{scores.f1:.2f} / {scores.em:.2f}"
