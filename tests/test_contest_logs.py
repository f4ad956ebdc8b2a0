"""Worker logs: both formats, restarts, torn lines, warnings, and the files written."""

import csv
import math
import subprocess
import sys

import pytest

from research_internlm.contest import logs, worker_logs
from research_internlm.errors import ToolkitError
from research_internlm.files import read_json, write_json, write_text

# The contest's own line (2024, MindFormers 1.1), and one a CPU run of MindFormers 1.9.0 wrote.
LINE_2024 = ("2024-10-11 08:00:00,123 - mindformers[callback.py:314] - INFO - { Epoch:[  5/ 10], "
             "step:[ 1508/ 1725], loss: 1.215, per_step_time: 3772ms, lr: 2.7e-05, overflow cond: False, "
             "loss_scale: 32768.0")
LINE_190 = ("2026-11-23 15:41:47,567 - mindformers/log[mindformers/core/callback/callback.py:747] - INFO - "
            "{ Epoch:[  1/  1], step:[    2/    8], loss:[7.068600/7.065298], per_step_time: 201ms, "
            "lr: 4.8096987e-05, overflow cond: False, loss_scale: 16384.0, global_norm: [0.9897672], "
            "train_throughput_per_npu: 0.014T")


def line(step, loss, total=100, ms=1000, overflow=False):
    return (f"2026-11-23 15:41:47,567 - INFO - {{ Epoch:[  1/  1], step:[{step:5}/{total:5}], "
            f"loss:[{loss:.6f}/{loss:.6f}], per_step_time: {ms}ms, lr: 5e-05, overflow cond: {overflow}, "
            "loss_scale: 16384.0, global_norm: [1.0]\n")


def write_run(folder, *ranks):
    for rank, text in enumerate(ranks):
        write_text(folder / f"msrun_log/worker_{rank}.log", text)
    return folder


def read(folder, *ranks):
    return worker_logs.read_run(write_run(folder, *ranks))


def test_line_of_2024(tmp_path):
    [(step, [record])] = worker_logs.steps_of_all(read(tmp_path, LINE_2024 + "\n"))
    assert step == 4 * 1725 + 1508 and record.total_steps == 17_250
    assert (record.loss, record.step_ms, record.learning_rate) == (1.215, 3772, 2.7e-05)
    assert record.loss_scale == 32768
    assert record.overflow is False and record.global_norm is None and record.time.day == 11


def test_line_of_this_version(tmp_path):
    record = read(tmp_path, LINE_190)[0].records[2]
    assert (record.loss, record.step_ms, record.learning_rate, record.global_norm) == (
        7.0686, 201, 4.8096987e-05, 0.9897672)


@pytest.mark.parametrize(("old", "new", "field", "value"), [
    ("overflow cond: False", "overflow cond: [ True]", "overflow", True),
    ("loss_scale: 32768.0", "loss_scale: unavailable", "loss_scale", None),
    ("lr: 2.7e-05, ", "", "learning_rate", None),
    ("lr: 2.7e-05", "lr: [2.7e-05]", "learning_rate", 2.7e-05),
    ("loss: 1.215", "loss: nan", "loss", "nan"),
])
def test_variants_of_the_line(tmp_path, old, new, field, value):
    [record] = read(tmp_path, LINE_2024.replace(old, new))[0].records.values()
    assert str(getattr(record, field)) == str(value)


@pytest.mark.parametrize(("text", "number", "millions"), [
    ("Network Parameters: 16777216", 16_777_216, False),
    ("Network Parameters: 16,777,216 M.", 16_777_216, False),
    ("Network Parameters: 16 M.", 16_000_000, True),
])
def test_network_parameters(tmp_path, text, number, millions):
    log = read(tmp_path, f"INFO - {text}\n{LINE_2024}")[0]
    assert (log.parameters, log.millions) == (number, millions)


def test_a_restart_supersedes_what_was_done_again(tmp_path):
    first = "".join(line(step, 5 - step / 10) for step in range(1, 8)) + "Eval result: {'P': {'loss': 9.0}}\n"
    again = "".join(line(step, 3.0) for step in range(5, 7))
    log = read(tmp_path, first + again)[0]
    assert [round(record.loss, 6) for record in log.records.values()] == [4.9, 4.8, 4.7, 4.6, 3.0, 3.0]
    assert log.restarts == [(5, 3)] and log.evaluations == {}


def test_a_restart_in_a_file_of_its_own_follows_the_older_file(tmp_path):
    write_text(tmp_path / "msrun_log.2/worker_0.log", "2024-01-02 00:00:00 start\n" + line(3, 1.0))
    write_text(tmp_path / "zz/worker_0.log", "2024-01-01 00:00:00 start\n" + line(3, 2.0) + line(4, 2.0))
    log = worker_logs.read_run(tmp_path)[0]
    assert {step: record.loss for step, record in log.records.items()} == {3: 1.0}


def test_another_runs_lines_in_the_same_file_are_left_out(tmp_path):
    log = read(tmp_path, line(50, 1.0, total=80) + line(60, 2.0, total=100))[0]
    assert list(log.records) == [60] and log.restarts == [(1, 1)]


def test_evaluations_belong_to_the_step_before_them(tmp_path):
    text = line(1, 1.0) + line(2, 1.0) + "x Eval result: {'PerplexityMetric': {'loss': %s, 'PPL': 3.0}}\n"
    logs_read = read(tmp_path, text % 1.5, text % 2.5)
    assert logs.evaluations(logs_read) == {2: 2.0}


def test_torn_lines_are_counted_not_hidden(tmp_path):
    torn = LINE_2024[:120] + "\n"
    summary = logs.summarize(read(tmp_path, line(1, 1.0) + torn))
    assert summary["unreadable_lines"] == 1 and "1 loss line(s) could not be read" in summary["warnings"][0]


def test_table_joins_the_ranks(tmp_path):
    rows = logs.table(read(tmp_path, line(1, 2.0, ms=10), line(1, 4.0, ms=30, overflow=True)))
    assert (rows[0]["loss"], rows[0]["ranks"], rows[0]["step_ms"], rows[0]["overflow"]) == (3.0, 2, 30, True)


def test_eta_step_time_and_tokens(tmp_path):
    run = write_run(tmp_path, "".join(line(step, 1.0, total=1000, ms=500) for step in range(1, 11)))
    write_json(run / "run.json", {"workers": 4, "data": {"train_dataset": {
        "counts": {"out": 100}, "tokens": {"total": 14_600}}}})
    write_text(run / "resolved_config.yaml", "runner_config: {batch_size: 4}\n")
    summary = logs.analyse(run, tmp_path / "out")
    # 146 tokens a row x 16 rows in half a second; 990 steps of half a second to go.
    assert summary["useful_tokens_per_second"] == pytest.approx(146 * 16 / 0.5)
    assert summary["eta_seconds"] == pytest.approx(495)
    assert "no log of rank 1, 2, 3" in " ".join(summary["warnings"])


def warned(tmp_path, *ranks):
    return " ".join(logs.summarize(read(tmp_path, *ranks))["warnings"])


def test_constant_loss_floor(tmp_path):
    # Trap 10: falls quickly, then stands near ln(103168) / 10 tokens = 1.15.
    floor = "".join(line(step, 1.15 + step % 2 / 1000 + 5 * math.exp(-step / 3)) for step in range(1, 101))
    assert "the loss stands at 1.150 since the second quarter" in warned(tmp_path / "a", floor)
    learned = "".join(line(step, 5 * math.exp(-step / 30)) for step in range(1, 101))
    assert warned(tmp_path / "b", learned) == ""
    low = "".join(line(step, 0.02 + step % 2 / 1000 + 5 * math.exp(-step / 3)) for step in range(1, 101))
    assert warned(tmp_path / "c", low) == ""


def test_loss_that_never_changes(tmp_path):
    assert "nothing is being trained" in warned(tmp_path, "".join(line(step, 7.0) for step in range(1, 31)))


def test_nan_and_overflow(tmp_path):
    text = line(1, 1.0) + line(2, float("nan")) + line(3, 1.0, overflow=True)
    found = warned(tmp_path, text)
    assert "not a number at 1 logged step(s), first at step 2" in found
    assert "1 of 3 logged steps overflowed" in found


def test_lagging_rank(tmp_path):
    ahead = "".join(line(step, 1 / step) for step in range(1, 10))
    behind = "".join(line(step, 1 / step) for step in range(1, 5))
    assert "rank 1 lags: its last step is 4, the others are at 9" in warned(tmp_path / "a", ahead, behind)
    nearly = "".join(line(step, 1 / step) for step in range(1, 9))
    assert warned(tmp_path / "b", ahead, nearly) == ""
    slow = "".join(line(step, 1 / step, ms=1500) for step in range(1, 10))
    assert "rank 2 needs 1500 ms" in warned(tmp_path / "c", ahead, ahead, slow)


def test_files_written_and_not_overwritten(tmp_path):
    run = write_run(tmp_path, "".join(line(step, 1 / step) for step in range(1, 300))
                    + "Eval result: {'P': {'loss': 0.5, 'PPL': 1.6}}, eval time is 3 s.\n")
    out = run / "analysis"
    logs.analyse(run, out)
    rows = list(csv.DictReader((out / "train_log.csv").open()))
    assert len(rows) == 299 and rows[1]["loss"] == "0.5" and rows[-1]["valid_loss"] == "0.5"
    assert (out / "train_loss.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "valid_loss.png").read_bytes()
    assert read_json(out / "summary.json", "")["best_valid_step"] == 299
    with pytest.raises(ToolkitError, match="exists already"):
        logs.analyse(run, out)
    logs.analyse(run, out, overwrite=True)
    assert (out / "valid_loss.png").read_bytes() == before


def test_own_logs_without_msrun(tmp_path):
    write_text(tmp_path / "log/rank_0/info.log", line(2, 1.0))
    write_text(tmp_path / "log/rank_0/info.log.1", "2020-01-01 00:00:00 start\n" + line(1, 1.0))
    assert list(worker_logs.read_run(tmp_path)[0].records) == [1, 2]


def test_command_line(root, tmp_path):
    script = root / "research_internlm/contest/logs.py"
    write_run(tmp_path, "starting\n")
    for arguments, message in (([tmp_path / "none"], "does not exist"), ([tmp_path], "no loss line"),
                               ([tmp_path / "msrun_log/worker_0.log"], "say with --output")):
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    with pytest.raises(ToolkitError, match="holds no worker"):
        worker_logs.read_run(tmp_path / "msrun_log/none")
    write_run(tmp_path, LINE_2024)
    assert logs.main([str(tmp_path)]) == 0
