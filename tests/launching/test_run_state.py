"""What a launch finds in its settings and in its folder, and says once, before a worker starts."""

import json
import os
import socket

import pytest

from research_internlm.launching import msrun, options, run_state
from research_internlm.launching.run_state import read_state
from research_internlm.machine import npus
from research_internlm.shared.errors import ToolkitError
from tests.helpers import launches
from tests.helpers.commands import ROOT
from tests.helpers.launches import launch_command
from tests.helpers.run_checkpoints import checkpoint

work, start_one = launches.work, launches.start_one  # fixtures


def state_of(work, output, *more):
    return read_state(options.parse(launch_command(work, output, 1, *more)[2:], ""))


def test_everything_wrong_is_said_at_once_before_a_worker_starts(work, start_one):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ToolkitError) as caught:
            start_one("wrong", "runner_config.bath_size=4", "lr_schedule.learning_rate=5e-5", "seed=true",
                      "model.model_config.pet_config.target_modules=.*nothing",
                      "model.model_config.seq_length=32", "--load_checkpoint", "/nowhere/base.ckpt",
                      launcher=(f"--master_port={port}",))
    text = str(caught.value)
    for words in ("unknown key runner_config.bath_size (did you mean batch_size?)", "seed must be int",
                  "learning_rate must be", "'.*nothing' matches no cell",
                  "65-token rows", "/nowhere/base.ckpt does not exist", f"port {port}"):
        assert text.count(words) == 1, (words, text)
    assert not list((work / "wrong").glob("msrun_log/*"))


def test_a_busy_npu_and_a_cann_that_is_not_set_stop_a_launch(work, start_one, monkeypatch, tmp_path):
    program = tmp_path / "npu-smi"
    program.write_text(f"#!/bin/sh\ncat {ROOT}/tests/machine/npu_smi/26.0.rc1.txt\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/nowhere/cann")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(npus, "find_devices", lambda folder: ("davinci0", "davinci1", "davinci2"))
    with pytest.raises(ToolkitError) as caught:
        start_one("busy", "context.device_target=Ascend")
    for words in ("NPU 0 (910B3, 53984 of 65536 MB in use) is used by 1712733",
                  "ASCEND_HOME_PATH is /nowhere"):
        assert str(caught.value).count(words) == 1, caught.value
    assert "NPU 2" not in str(caught.value)  # one worker uses the first
    assert not list((work / "busy").glob("msrun_log/*"))


def test_wrong_numbers_do_not_hide_what_else_is_wrong(work, start_one):
    with pytest.raises(ToolkitError) as caught:
        start_one("numbers", "model.model_config.hidden_size=wide", "model.model_config.seq_length=long",
                  "sed=0", "--load_checkpoint", "/nowhere/base.ckpt")
    for words in ("4 problem(s)", "hidden_size must be int", "seq_length must be int", "unknown key sed",
                  "/nowhere/base.ckpt does not exist"):
        assert words in str(caught.value)


def test_the_check_of_the_recipe_leaves_nothing_behind(work, start_one, monkeypatch):
    recipe = options.parse(launch_command(work, "clean", 1)[2:], "").recipe
    before, here = dict(os.environ), sorted(work.iterdir())
    monkeypatch.chdir(work)
    assert run_state.setting_problems(recipe) == []
    assert dict(os.environ) == before and sorted(work.iterdir()) == here


@pytest.mark.parametrize("problem", [RuntimeError("broken library"), None])
def test_a_check_that_fails_is_not_a_check_that_passed(work, start_one, monkeypatch, problem):
    def fail(_):
        if problem is None:
            os._exit(7)
        raise problem

    monkeypatch.setattr(run_state, "recipe_problems", fail)
    with pytest.raises(RuntimeError, match="broken library" if problem else "exit code 7"):
        start_one("failing")


def test_the_states_of_a_folder(work, start_one):
    new = state_of(work, "states")
    assert (new.is_same_run, new.holds_something, new.last_step) == (False, False, 0)
    assert new.missing == ("run.json", "resolved_config.yaml") and not new.problems

    checkpoint(work / "states", 4, size=1)
    cut = checkpoint(work / "states", 8, size=1, cut=10)
    orphans = state_of(work, "states")
    assert (orphans.is_same_run, orphans.holds_something, orphans.last_step) == (False, True, 0)

    start_one("states", "--overwrite")  # moves the orphans aside
    checkpoint(work / "states", 4, size=1)
    cut = checkpoint(work / "states", 8, size=1, cut=10)
    same = state_of(work, "states")
    assert (same.is_same_run, same.last_step, same.missing, same.differences) == (True, 4, (), ())
    assert list(same.checkpoints.broken) == [cut]
    assert state_of(work, "states", "--overwrite").is_same_run  # it was started with it

    other = state_of(work, "states", "optimizer.betas=[0.9,0.5]", "--overwrite")
    assert (other.is_same_run, other.holds_something, other.last_step) == (False, True, 0)
    [difference] = other.differences
    assert difference.startswith("optimizer.betas: ") and difference.endswith(" -> [0.9, 0.5]")


def test_overwrite_starts_a_run_over_that_was_started_without_it(work, start_one):
    start_one("plain")
    assert state_of(work, "plain").is_same_run
    assert not state_of(work, "plain", "--overwrite").is_same_run


def test_a_run_whose_files_cannot_be_read_is_another_run(work, start_one):
    start_one("unreadable")
    (work / "unreadable" / "run.json").write_text("{")
    with pytest.raises(ToolkitError, match=r"another run; 1 difference.* is not JSON.*--overwrite after --"):
        start_one("unreadable")
    assert start_one("unreadable", "--overwrite")[0] == 0


def test_data_that_is_not_known_makes_no_other_run(work, start_one):
    start_one("unknown")
    state = state_of(work, "unknown", "--train_dataset", str(work / "gone.mindrecord"))
    assert len(state.problems) == 1 and state.differences == () and not state.is_same_run


def test_what_all_workers_say_is_said_once(work, start_one, capsys):
    start_one("said")
    attempt = next((work / "said").glob("msrun_log/attempt-*"))
    for rank in range(3):
        (attempt / f"worker_{rank}.log").write_text(
            f"error: checkpoint/rank_{rank}/x_rank_{rank}-1_4.ckpt is damaged\nerror: the disk is full\n")
    (attempt / "worker_3.log").write_text("error: only mine\n")
    launch = options.parse(launch_command(work, "said", 1)[2:], "")
    capsys.readouterr()
    assert msrun.report_failure(launch, attempt, 1, None) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert said == ["error: checkpoint/rank_0/x_rank_0-1_4.ckpt is damaged", "error: the disk is full",
                    "error: only mine"]


def test_an_attempt_records_the_command_that_was_given(work, start_one):
    start_one("recorded", "seed=3")
    record = json.loads(next((work / "recorded").glob("msrun_log/attempt-001/attempt.json")).read_text())
    assert record["command"].startswith("bash scripts/train_msrun.sh yaml/lora_finetune.yaml 1 -- ")
    assert record["command"].endswith(" seed=3")
