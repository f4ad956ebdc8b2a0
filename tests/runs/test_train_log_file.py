"""train_log.jsonl: what is written is read again, and goes before the rounded numbers of the text logs."""

import dataclasses
import json
import math
import re
from datetime import datetime, timedelta, timezone

import pytest

from research_internlm import logs
from research_internlm.runs import log_summary
from research_internlm.runs.train_log_file import TrainLogLine, append, drop_from, read_lines, read_training
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_json, write_text
from research_internlm.shared.run_layout import TRAIN_LOG
from tests.helpers.run_info import run_info

TOTAL = 50


def json_line(step, rank=0, **changes):
    return dataclasses.replace(TrainLogLine(
        step=step, total_steps=TOTAL, epoch=1 + step // 26, loss=5 / step + step / 9e5,
        step_ms=1000.678 + step / 7, learning_rate=4.8096987e-05, overflow=step == 3, loss_scale=16384.0,
        global_norm=1.0, time=datetime(2026, 11, 23, 15, 41, step, tzinfo=timezone(timedelta(hours=8))),
        rank=rank, useful_tokens_per_s=12.5, peak_memory_bytes=1 << 30, eta_s=3.5), **changes)


def text_line(line, epoch_steps=25):
    """The same line as MFLossMonitor prints it: six digits of the loss, whole milliseconds."""
    return (f"{line.time:%Y-%m-%d %H:%M:%S},567 - INFO - {{ Epoch:[{line.epoch:3}/  2], "
            f"step:[{line.step - (line.epoch - 1) * epoch_steps:5}/{epoch_steps:5}], "
            f"loss:[{line.loss:5.6f}/0.1], per_step_time: {int(line.step_ms)}ms, lr: {line.learning_rate}, "
            f"overflow cond: {line.overflow}, loss_scale: {line.loss_scale}, global_norm: [1.0]\n")


def write_run(folder, steps, ranks=2, exact=True):
    """A run of several ranks with text logs, and rank 0's train_log.jsonl."""
    for rank in range(ranks):
        write_text(folder / f"msrun_log/worker_{rank}.log", "".join(
            text_line(json_line(step, loss=5 / step + step / 9e5 + rank)) for step in steps)
            + "Eval result: {'P': {'loss': 0.5}}\n")
    write_json(folder / "run.json", run_info(ranks))
    for step in steps if exact else ():
        append(folder / TRAIN_LOG, json_line(step))
    return folder


def test_what_is_written_is_read_again(tmp_path):
    line = json_line(7)
    append(tmp_path / "log", line)
    assert read_lines(tmp_path / "log").records == {
        7: dataclasses.replace(line, time=line.time.replace(tzinfo=None))}
    found = json.loads((tmp_path / "log").read_text())
    assert found["time"] == "2026-11-23T15:41:07+08:00"
    assert {"step", "epoch", "loss", "learning_rate", "step_ms", "useful_tokens_per_s", "loss_scale",
            "overflow", "peak_memory_bytes", "eta_s", "time"} <= found.keys()


def test_a_number_that_is_none_is_null_and_none_again(tmp_path):
    append(tmp_path / "log", json_line(1, loss=math.nan, global_norm=math.inf, loss_scale=None))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "log").read_text(), parse_constant=refuse)
    [line] = read_lines(tmp_path / "log").records.values()
    assert math.isnan(line.loss) and line.global_norm is None and line.loss_scale is None


@pytest.mark.parametrize("change", [
    '"step": "2"', '"step": null', '"step": true', '"loss": "x"', '"time": "noon"', '"overflow": 0',
    '"step_ms": NaN', '"step_ms": 1' + "0" * 400, '"loss": ' + "[" * 9000])
def test_a_line_of_other_types_is_counted_and_the_next_one_read(tmp_path, change):
    name = change.split(":")[0]
    broken = re.sub(rf'{name}: ("[^"]*"|[^,}}]+)', change, json_line(2).encode())
    assert broken != json_line(2).encode()
    write_text(tmp_path / "log", json_line(1).encode() + broken + "[]\n" + json_line(3).encode())
    log = read_lines(tmp_path / "log")
    assert list(log.records) == [1, 3] and log.unreadable == 2 and log.example == broken.strip()[:160]


def test_a_torn_last_line_is_no_line(tmp_path):
    write_text(tmp_path / "log", json_line(1).encode() + json_line(2).encode()[:-1])
    log = read_lines(tmp_path / "log")
    assert list(log.records) == [1] and log.unreadable == 0


def test_a_resume_drops_what_it_does_again_and_the_torn_line(tmp_path):
    path = tmp_path / "log"
    foreign = '{"note": "kept"}\n'
    text = foreign + json_line(1).encode() + json_line(2).encode()
    write_text(path, text + json_line(3).encode() + json_line(4).encode()[:40])
    drop_from(path, 3)
    assert path.read_text() == text
    append(path, json_line(3))
    assert list(read_lines(path).records) == [1, 2, 3]
    drop_from(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_logs_prints_the_same_from_both_up_to_rounding(tmp_path, capsys):
    printed = {}
    for name, exact in (("text", False), ("both", True)):
        run = write_run(tmp_path / name, range(1, 41), exact=exact)
        logs.main([str(run)])
        printed[name] = capsys.readouterr().out.replace(str(run), "RUN")
    numbers = re.compile(r"\d[\d,]*\.?\d*")
    assert numbers.sub("", printed["text"]) == numbers.sub("", printed["both"])
    text, both = ([float(number.replace(",", "")) for number in numbers.findall(printed[name])]
                  for name in ("text", "both"))
    assert both == pytest.approx(text, rel=2e-3) and "40 of 50" in printed["both"]
    rows = log_summary.table(read_training(tmp_path / "both"))
    # The mean of rank 0's unrounded loss and rank 1's six digits.
    assert rows[6]["loss"] == (json_line(7).loss + round(json_line(7).loss + 1, 6)) / 2
    assert rows[6]["step_ms"] == json_line(7).step_ms
    assert rows[6]["time"] == "2026-11-23T15:41:07"


def test_steps_of_before_there_was_a_train_log_come_from_the_text(tmp_path):
    run = write_run(tmp_path, range(1, 13), exact=False)
    for step in range(7, 11):  # the last two lines were lost
        append(run / TRAIN_LOG, json_line(step))
    log = read_training(run)[0]
    assert list(log.records) == list(range(1, 13)) and log.evaluations == {12: 0.5}
    assert [step for step, record in log.records.items() if isinstance(record, TrainLogLine)] == [7, 8, 9, 10]


def test_without_text_logs_the_file_is_enough(tmp_path):
    for step in range(1, 6):
        append(tmp_path / TRAIN_LOG, json_line(step, rank=2))
    for place in (tmp_path, tmp_path / TRAIN_LOG):
        assert list(read_training(place)) == [2] and len(read_training(place)[2].records) == 5
    assert logs.main([str(tmp_path / TRAIN_LOG), "--output", str(tmp_path / "out")]) == 0


def test_a_file_without_a_line_hides_nothing(tmp_path):
    run = write_run(tmp_path, range(1, 6), exact=False)
    write_text(run / TRAIN_LOG, "torn\n")
    log = read_training(run)[0]
    assert len(log.records) == 5 and (log.unreadable, log.example) == (1, "torn")
    with pytest.raises(ToolkitError, match="has no line that can be read"):
        read_training(run / TRAIN_LOG)
    (run / "msrun_log/worker_0.log").unlink()
    (run / "msrun_log/worker_1.log").unlink()
    with pytest.raises(ToolkitError, match=r"holds no worker_\*\.log"):
        read_training(run)


def test_one_worker_s_file_is_read_alone(tmp_path):
    run = write_run(tmp_path, range(1, 6))
    records = read_training(run / "msrun_log/worker_0.log")[0].records.values()
    assert not any(isinstance(record, TrainLogLine) for record in records)


def test_a_job_log_of_all_ranks_keeps_its_own_numbers(tmp_path):
    run = write_run(tmp_path, range(1, 6), ranks=0)
    write_text(run / "job.log", "".join(
        text_line(json_line(step, loss=1.0 + rank)) for step in range(1, 6) for rank in range(2)))
    assert {row["loss"] for row in log_summary.table(read_training(run))} == {1.5}
