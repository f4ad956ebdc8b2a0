"""Worker logs: restarts, ranks, torn lines, warnings, and the files written."""

import csv
import json
import math
import subprocess
import sys

import pytest

from research_internlm import logs
from research_internlm.runs import log_summary, worker_logs
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json, write_json, write_text
from tests.helpers.log_lines import LINE_2024
from tests.helpers.run_info import run_info


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
    assert worker_logs.evaluations(logs_read) == {2: 2.0}


def test_lines_that_only_look_like_loss_lines_are_said(tmp_path):
    strange = line(1, 1.0).replace("per_step_time", "step time") * 3
    with pytest.raises(ToolkitError, match=r"3 line\(s\) in worker_0.log look like .* '\{ Epoch"):
        read(tmp_path, strange)


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path):
    log = read(tmp_path, line(1, 1.0) + line(2, 1.0)[:90] + line(3, 1.0))[0]
    assert list(log.records) == [1, 3] and log.unreadable == 1


def test_a_job_log_of_all_ranks(tmp_path):
    """Four ranks at most one step apart, evaluated once, killed at step 30 and started again at 21."""
    def lines(first, last):
        order = sorted((step + (rank == 3) * 1.5, step, rank)
                       for step in range(first, last) for rank in range(4))
        return "".join(line(step, 1.0 + rank, ms=1000 + rank) for _, step, rank in order)

    evaluated = "".join(f"Eval result: {{'P': {{'loss': {rank}.0}}}}\n" for rank in range(4))
    write_text(tmp_path / "train.log", lines(1, 31) + lines(21, 51) + evaluated)
    for place in (tmp_path / "train.log", tmp_path):
        found = worker_logs.read_run(place)
        summary = log_summary.summarize(found)
        assert sorted(found) == [0, 1, 2, 3] and summary["step"] == 50
        assert {row["loss"] for row in log_summary.table(found)} == {2.5}
        assert {restart["step"] for restart in summary["restarts"]} == {21}
        assert sum(restart["superseded_lines"] for restart in summary["restarts"]) == 40
        assert worker_logs.evaluations(found) == {50: 1.5}
        text = "\n".join(logs.describe(summary))
        assert "4 rank(s) started again at step 21; 40 earlier lines superseded" in text


@pytest.mark.parametrize(("steps", "number"), [
    ([1, 2, 3, 4], 1), ([1, 1, 2, 2, 3, 3], 2), ([1, 1, 2, 1, 2, 2, 3, 3, 3], 3),
    ([1, 2, 3, 4, 1, 2, 3, 4, 5], 1), ([10, 20, 30, 20, 30, 40, 50], 1), ([7], 1), ([7, 7], 2), ([], 1),
])
def test_how_many_wrote_a_file(steps, number):
    assert worker_logs.writers(steps) == number


def test_a_rank_s_own_file_is_never_taken_for_several(tmp_path):
    log = read(tmp_path, line(1, 2.0) + line(1, 1.0))[0]
    assert log.restarts == [(1, 1)] and log.records[1].loss == 1.0


def test_many_restarts_are_few_lines(tmp_path):
    text = "".join(line(step, 1.0) for start in range(1, 40) for step in range(start, start + 4))
    summary = log_summary.summarize(read(tmp_path, text))
    assert len(summary["restarts"]) == 38
    found = [text for text in logs.describe(summary) if "started again" in text]
    assert len(found) == 6 and "at 33 other step(s)" in found[0] and "step 39;" in found[-1]


@pytest.mark.parametrize("names", [["train.log"], ["mf_parallel0/rank_0.log", "mf_parallel1/rank_1.log"],
                                   ["mf_parallel0/mindformers.log", "mf_parallel1/mindformers.log"]])
def test_folders_of_other_launchers(tmp_path, names):
    for name in names:
        write_text(tmp_path / name, line(1, 1.0) + line(2, 1.0))
    write_text(tmp_path / "upload.log", "done\n")
    assert list(worker_logs.read_run(tmp_path)) == list(range(len(names)))


def test_a_copy_inside_the_run_is_no_second_attempt(tmp_path):
    text = "2024-01-01 00:00:00 start\n" + "".join(line(step, 1.0) for step in range(1, 9))
    write_run(tmp_path, text)
    write_text(tmp_path / "backup/worker_0.log", text)
    write_text(tmp_path / "backup/early/worker_0.log", text[:300])
    log = worker_logs.read_run(tmp_path)[0]
    assert log.restarts == [] and [file.parent.name for file in log.files] == ["msrun_log"]


def test_torn_lines_are_counted_not_hidden(tmp_path):
    torn = LINE_2024[:120] + "\n"
    summary = log_summary.summarize(read(tmp_path, line(1, 1.0) + torn))
    assert summary["unreadable_lines"] == 1
    assert sentences(summary).startswith("1 loss line(s) could not be read")


def test_table_joins_the_ranks(tmp_path):
    rows = log_summary.table(read(tmp_path, line(1, 2.0, ms=10), line(1, 4.0, ms=30, overflow=True)))
    assert (rows[0]["loss"], rows[0]["ranks"], rows[0]["step_ms"], rows[0]["overflow"]) == (3.0, 2, 30, True)


def test_eta_step_time_and_tokens(tmp_path):
    run = write_run(tmp_path, "".join(line(step, 1.0, total=1000, ms=500) for step in range(1, 11)))
    write_json(run / "run.json", run_info(4, 100, 14_600))
    write_text(run / "resolved_config.yaml", "runner_config: {batch_size: 4}\n")
    summary = log_summary.analyse(run, tmp_path / "out")
    # 146 tokens a row x 16 rows in half a second; 990 steps of half a second to go.
    assert summary["useful_tokens_per_second"] == pytest.approx(146 * 16 / 0.5)
    assert summary["eta_seconds"] == pytest.approx(495)
    assert "no log of rank 1, 2, 3" in sentences(summary)


def sentences(summary):
    return " ".join(warning.text() for warning in summary["warnings"])


def warned(tmp_path, *ranks):
    return sentences(log_summary.summarize(read(tmp_path, *ranks)))


def test_constant_loss_floor(tmp_path):
    # docs/traps.md#end-marker-not-learnt: falls quickly, then stands near ln(103168) / 10 tokens = 1.15.
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


def test_nan_is_neither_best_nor_hides_what_was_before(tmp_path):
    evaluation = "Eval result: {'P': {'loss': %s}}\n"
    run = write_run(tmp_path, line(1, 3.0) + evaluation % "nan" + line(2, 1.0) + evaluation % "2.0"
                    + line(3, float("nan")) + line(4, float("nan")))
    summary = log_summary.analyse(run, tmp_path / "out")
    assert summary["best_valid_step"] == 2 and summary["last_loss"] == 2.0
    assert "2.0000 at the end (not a number after step 2)" in "\n".join(logs.describe(summary))
    assert "validation loss is not a number at 1 logged step(s)" in sentences(summary)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads((tmp_path / "out/summary.json").read_text(), parse_constant=refuse)
    assert [entry["loss"] for entry in written["valid_loss"]] == [None, 2.0]
    assert written["warnings"] == [warning.text() for warning in summary["warnings"]]


def test_moving_mean_by_hand():
    assert log_summary._moving_mean([4.0, 2.0, math.nan, 6.0], 2) == [4.0, 3.0, 2.0, 6.0]
    assert math.isnan(log_summary._moving_mean([math.nan], 1)[0])


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
    log_summary.analyse(run, out)
    rows = list(csv.DictReader((out / "train_log.csv").open()))
    assert len(rows) == 299 and rows[1]["loss"] == "0.5" and rows[-1]["valid_loss"] == "0.5"
    assert (out / "train_loss.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "valid_loss.png").read_bytes()
    assert read_json(out / "summary.json", "")["best_valid_step"] == 299
    with pytest.raises(ToolkitError, match="exists already"):
        log_summary.analyse(run, out)
    log_summary.analyse(run, out, overwrite=True)
    assert (out / "valid_loss.png").read_bytes() == before


def test_own_logs_without_msrun(tmp_path):
    write_text(tmp_path / "log/rank_0/info.log", line(2, 1.0))
    write_text(tmp_path / "log/rank_0/info.log.1", "2020-01-01 00:00:00 start\n" + line(1, 1.0))
    assert list(worker_logs.read_run(tmp_path)[0].records) == [1, 2]


def test_command_line(root, tmp_path):
    script = root / "research_internlm/logs.py"
    write_run(tmp_path, "starting\n")
    for arguments, message in (([tmp_path / "none"], "does not exist"), ([tmp_path], "no loss line"),
                               ([tmp_path / "msrun_log/worker_0.log"], "say with --output")):
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    with pytest.raises(ToolkitError, match="holds no worker"):
        worker_logs.read_run(tmp_path / "msrun_log/none")


def test_the_run_s_own_analysis_follows_a_growing_log(tmp_path, capsys):
    for steps in (1, 2):
        write_run(tmp_path, "Network Parameters: 16777216 M.\n" + "".join(
            line(step, 1.0) for step in range(1, steps + 1)))
        assert logs.main([str(tmp_path)]) == 0
    assert read_json(tmp_path / "analysis/summary.json", "")["step"] == 2
    assert "trainable parameters by the log: 16,777,216" in capsys.readouterr().out
    elsewhere = [str(tmp_path), "--output", str(tmp_path / "other")]
    assert logs.main(elsewhere) == 0
    with pytest.raises(ToolkitError, match="exists already"):
        logs.main(elsewhere)


def test_one_rank_s_file_says_nothing_of_the_others(tmp_path):
    run = write_run(tmp_path, "", line(1, 1.0) + line(2, 1.0))
    assert log_summary.analyse(run / "msrun_log/worker_1.log", tmp_path / "out")["warnings"] == []


def test_a_config_without_a_runner_tells_no_tokens(tmp_path):
    run = write_run(tmp_path, line(1, 1.0))
    write_text(run / "resolved_config.yaml", "seed: 0\n")
    assert log_summary.analyse(run, tmp_path / "out")["useful_tokens_per_second"] is None
