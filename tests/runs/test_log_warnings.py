"""Warnings are codes with values: logs that yield each of them, and its sentence in both languages."""

import math

import pytest

from research_internlm.runs.log_summary import summarize
from research_internlm.runs.log_warnings import Code
from research_internlm.runs.loss_lines import Record
from research_internlm.runs.worker_logs import RankLog


def log(rank, losses, step_ms=100.0, overflow=False, evaluations=None, **facts):
    records = {step: Record(step, 200, 1, loss, step_ms, 5e-5, overflow, 1024.0, 1.0, None)
               for step, loss in enumerate(losses, 1)}
    return RankLog(rank, records=records, evaluations=evaluations or {}, **facts)


def falling(steps):
    return [5 / step for step in range(1, steps + 1)]


FLOOR = [1.15 + step % 2 / 1000 for step in range(100)]
CASES = {
    Code.LOSS_NOT_FINITE: ([log(0, [1.0, math.nan, 0.5])], {"count": 1, "first": 2}),
    Code.LAST_LOSS_NOT_FINITE: ([log(0, [1.0, math.nan, math.inf])], {"count": 2, "first": 2}),
    Code.VALID_LOSS_NOT_FINITE: ([log(0, falling(9), evaluations={4: math.nan, 8: 2.0})],
                                 {"count": 1, "first": 4}),
    Code.LAST_VALID_LOSS_NOT_FINITE: ([log(0, falling(9), evaluations={4: 2.0, 8: math.nan})],
                                      {"count": 1, "first": 8}),
    Code.LOSS_STUCK: ([log(0, [7.5] * 30)], {"count": 20, "loss": 7.5}),
    Code.LOSS_FLOOR: ([log(0, FLOOR)], {"early": pytest.approx(1.1505, abs=1e-3),
                                        "late": pytest.approx(1.1505, abs=1e-3)}),
    Code.LOSS_RANKS_UNKNOWN: ([log(rank, [7.5] * 30, has_loss=None) for rank in (0, 1)], {}),
    Code.OVERFLOWS: ([log(0, falling(9), overflow=True)], {"overflows": 9, "steps": 9}),
    Code.NO_LOG: ([log(0, falling(9)), log(3, falling(9))], {"ranks": "1, 2"}),
    Code.RANK_LAGS: ([log(0, falling(9)), log(1, falling(4))], {"rank": 1, "step": 4, "lead": 9}),
    Code.RANK_SLOW: ([log(0, falling(9)), log(1, falling(9)), log(2, falling(9), step_ms=150.0)],
                     {"rank": 2, "step_ms": 150.0, "median_ms": 100.0}),
    Code.UNREADABLE: ([log(0, falling(9), unreadable=3, example="{ Epoch:[ torn")],
                      {"count": 3, "example": "{ Epoch:[ torn"}),
}


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_every_code_with_its_values_in_both_languages(code):
    logs, values = CASES[code]
    [warning] = summarize({one.rank: one for one in logs})["warnings"]
    assert (warning.code, warning.values) == (code, values)
    english, chinese = warning.text("en"), warning.text("zh")
    assert english == warning.text() and english.isascii()
    assert any("\u4e00" <= character <= "\u9fff" for character in chinese)
    for value in warning.values.values():
        shown = (f"{value:.3f}", f"{value:g}") if isinstance(value, float) else (str(value),)
        for text in (english, chinese):
            assert any(number in text for number in shown)


def test_a_run_that_learns_is_not_warned_of():
    assert summarize({0: log(0, falling(150))})["warnings"] == []
