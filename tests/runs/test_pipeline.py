"""The loss of a pipeline-parallel run is the last stage's."""

import csv
import shutil

import pytest
import yaml

from research_internlm import logs
from research_internlm.runs import log_summary, worker_logs
from research_internlm.runs.log_warnings import Code
from research_internlm.shared.files import write_json, write_text

SAID = ("2024-10-07 15:30:00,000 - mindformers[callback.py:412] - WARNING - pipeline stages: 2 > 1, the loss "
        "on the last card is valid.\n")
ZERO_BUBBLE = "- WARNING - When zero_bubble_v is enabled, loss is valid only on rank 0\n"
LOSSES = [2.4, 2.2, 2.0, 1.8, 1.6, 1.4]


def lines(losses, total=12):
    return "".join(
        f"{{ Epoch:[  1/  1], step:[{step:5}/{total:5}], loss: {loss:.3f}, per_step_time: 1752ms, lr: 1e-05, "
        "overflow cond: False, loss_scale: 16384.0\n" for step, loss in enumerate(losses, 1))


def write_run(folder, *, said=SAID, ranks=range(4), losses=LOSSES, shift=0.0, valid=(2, 3)):
    """Logs of four workers of which the `valid` have a loss; the last one's is higher by `shift`."""
    for rank in ranks:
        own = [loss + shift * (rank == 3) for loss in losses] if rank in valid else [0.0] * len(losses)
        write_text(folder / f"worker_{rank}.log", said + lines(own) + (
            f"Eval result: {{'PerplexityMetric': {{'loss': {own[-1]}, 'PPL': 1}}}}\n"))
    return folder


def summary_of(folder):
    return log_summary.summarize(worker_logs.read_run(folder))


def test_means_are_over_the_last_stage_and_a_line_says_so(tmp_path):
    summary = log_summary.analyse(write_run(tmp_path / "run", shift=0.2), tmp_path / "out")
    assert summary["first_loss"] == pytest.approx(2.5) and summary["last_loss"] == pytest.approx(2.0)
    assert summary["valid_loss"] == [{"step": 6, "loss": pytest.approx(1.5)}]
    assert summary["loss_ranks"] == [2, 3] and summary["warnings"] == []
    text = "\n".join(logs.describe(summary))
    assert "loss 2.5000 at first, 2.0000 at the end" in text and "the loss is that of rank(s) 2, 3;" in text
    with open(tmp_path / "out/train_log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx([loss + 0.1 for loss in LOSSES])
    assert {row["ranks"] for row in rows} == {"4"}


def test_without_the_line_the_run_folder_tells(tmp_path):
    run = write_run(tmp_path / "run", said="")
    assert summary_of(run)["first_loss"] == pytest.approx(1.2)  # nothing says that it is a pipeline
    recipe = {"use_parallel": True, "parallel_config": {"pipeline_stage": 2}}
    write_text(run / "resolved_config.yaml", yaml.safe_dump(recipe))
    assert summary_of(run)["first_loss"] == pytest.approx(2.4)
    write_text(run / "resolved_config.yaml", yaml.safe_dump({**recipe, "use_parallel": False}))
    assert summary_of(run)["first_loss"] == pytest.approx(1.2)


def test_the_number_of_workers_is_run_json_s(tmp_path):
    run = write_run(tmp_path / "run", ranks=(0, 1, 2))
    write_json(run / "run.json", {"workers": 4})
    assert summary_of(run)["loss_ranks"] == [2]


def test_zero_bubble_brings_the_loss_to_rank_0(tmp_path):
    run = write_run(tmp_path / "run", said=ZERO_BUBBLE, valid=(0,))
    summary = summary_of(run)
    assert summary["loss_ranks"] == [0] and summary["first_loss"] == pytest.approx(2.4)


def test_a_loss_that_stands_is_the_last_stage_s(tmp_path):
    falling = [3 - step / 20 for step in range(30)]
    assert summary_of(write_run(tmp_path / "falls", losses=falling))["warnings"] == []
    [warning] = summary_of(write_run(tmp_path / "stands", losses=[1.5] * 30))["warnings"]
    assert warning.code is Code.LOSS_STUCK and warning.values["loss"] == 1.5


@pytest.mark.parametrize("place", ["one rank's file", "a shared file", "the first stage alone"])
def test_logs_that_do_not_tell_the_last_stage_are_warned_of(tmp_path, place):
    run = write_run(tmp_path / "run", losses=LOSSES * 5)
    if place == "one rank's file":
        run /= "worker_1.log"
    elif place == "a shared file":
        records = [path.read_text().splitlines(keepends=True) for path in sorted(run.iterdir())]
        shutil.rmtree(run)
        write_text(run / "job.log", "".join(text for step in zip(*records, strict=True) for text in step))
    else:
        write_json(run / "run.json", {"workers": 4})
        (run / "worker_2.log").unlink()
        (run / "worker_3.log").unlink()
    codes = [warning.code for warning in summary_of(run)["warnings"]]
    assert Code.LOSS_RANKS_UNKNOWN in codes and Code.LOSS_STUCK not in codes
