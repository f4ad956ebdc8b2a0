"""Words, numbers and tables of the report, in both languages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from research_internlm.contest import scoring
from research_internlm.runs.results import Scores

Translate = Callable[[str, str], str]  # (Chinese, English) -> the one of the report's language


def number(value: object) -> str:
    """A number as the report prints it: thousands separated, floats and texts as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def rows(header: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
    """A markdown table."""
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header),
            *("| " + " | ".join(number(cell).replace("|", "\\|") for cell in row) + " |" for row in body)]


def flat(settings: Mapping[str, Any], translate: Translate, above: str = "") -> Iterator[tuple[str, object]]:
    """Settings and counts without Python's notation: nested keys dotted, absent values in words."""
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, translate, f"{name}.")
        else:
            yield name, plain(value, translate)


def plain(value: object, translate: Translate) -> object:
    """One value without Python's notation."""
    if value is None:
        return translate("未设置", "not set")
    if isinstance(value, bool):
        return translate("是", "yes") if value else translate("否", "no")
    if isinstance(value, (list, tuple)):
        return " ".join(number(plain(item, translate)) for item in value) or translate("无", "none")
    return value


def in_line(settings: Mapping[str, Any], translate: Translate) -> str:
    """Settings in one table cell."""
    return ", ".join(f"{key} {number(value)}" for key, value in flat(settings, translate))


def gate_line(gate: scoring.Gate, translate: Translate) -> str:
    """The SQuAD gate's verdict with measured values and thresholds."""
    parts = "，".join(f"{name} {value:.2f}（至少 {least:.2f}）" for name, value, least in zip(
        ("F1", "EM"), gate.squad, gate.threshold, strict=True))
    return translate(f"{'通过' if gate.passed else '未通过'}：{parts}", str(gate))


def pair(scores: Scores) -> str:
    """F1 and EM of one metric."""
    return f"{scores.f1:.2f} / {scores.em:.2f}"
