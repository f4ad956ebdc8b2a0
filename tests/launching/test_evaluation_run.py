"""An evaluation in a run folder: what is checked before it starts, and its log.

The real one is in test_launch.py.
"""

import signal
import subprocess
import sys

import pytest

from research_internlm import evaluate as evaluate_command
from research_internlm.launching import evaluation_run
from research_internlm.shared import versions as versions_module
from research_internlm.shared.errors import ToolkitError
from tests.helpers.commands import ROOT


@pytest.fixture
def start(root, tmp_path, monkeypatch):
    """Does what comes before the log: returns the names of results and log, and whether to replace it."""
    checkpoint = tmp_path / "base/base.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    kept = []
    monkeypatch.setattr(evaluation_run, "keep_log", lambda *arguments: kept.append(arguments))
    versions = {"mindspore": "2.9.0", "mindformers": "1.9.0"}
    monkeypatch.setattr(versions_module, "installed_versions", lambda: versions)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)

    def run(*more, checkpoint=checkpoint):
        arguments = evaluate_command.parse_arguments([
            "squad", "--run_dir", str(tmp_path / "run"), "--config",
            str(root / "yaml/predict_eval_squad.yaml"), "--load_checkpoint", str(checkpoint),
            "--model_file", "m", "--squad_file", "s", *map(str, more)])
        evaluate_command.go_into_run_folder(arguments)
        return arguments.output, *kept.pop()
    return run


def test_the_recipe_s_device_is_looked_for(start, root, tmp_path):
    with pytest.raises(ToolkitError) as refused:
        start()
    for words in ("2 problem(s)", "no CANN found", "1 workers need 1 NPUs"):
        assert words in str(refused.value)
    names = (tmp_path / "run/results_squad_base_base.json", tmp_path / "run/squad_base_base.log", False)
    assert start("--device_target", "CPU") == names
    assert start("--overlay", root / "yaml/overlays/cpu_tiny.yaml") == names


def test_names_tell_the_checkpoints_apart(start, tmp_path):
    own = tmp_path / "run/checkpoint/rank_0/lora-1_6.ckpt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"weights")
    assert start("--device_target", "CPU", checkpoint=own)[:2] == (
        tmp_path / "run/results_squad_lora-1_6.json", tmp_path / "run/squad_lora-1_6.log")


def test_existing_results_are_kept_unless_the_user_says_so(start, tmp_path):
    results, _, _ = start("--device_target", "CPU")
    results.write_text("{}")
    with pytest.raises(ToolkitError, match=r"results_squad_base_base\.json exists already; pass --overwrite"):
        start("--device_target", "CPU")
    assert start("--device_target", "CPU", "--overwrite")[2] is True


def test_a_full_disk_is_said(start, monkeypatch):
    monkeypatch.setattr(evaluation_run, "LEAST_FREE", 10**18)
    with pytest.raises(ToolkitError, match=r"\(1\) results, predictions and log need about"):
        start("--device_target", "CPU")


def test_options_are_evaluate_s_own(start, capsys):
    for more, words in ((["--no_such_option"], "--no_such_option"), (["--output", "o"], "not allowed with")):
        with pytest.raises(SystemExit) as ended:
            start(*more)
        assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(("options", "code"), [([], 2), (["--help"], 0), (["run"], 2)])
def test_the_script_says_how_it_is_used(options, code):
    done = subprocess.run(["bash", "scripts/evaluate.sh", *options], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == code and "evaluate.sh RUN_DIR mmlu|squad" in done.stdout


LOGGED = """
import os, subprocess, sys
from pathlib import Path
from research_internlm.launching.evaluation_run import keep_log
keep_log(Path(sys.argv[1]), bool(int(sys.argv[2])))
print("of Python")
print("of its errors", file=sys.stderr, flush=True)
sys.stdout.flush()
subprocess.run(["sh", "-c", "echo of a child; echo of its errors >&2"])
os.write(2, b"of native code \\xff\\n")
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("os.abort()", 256 - signal.SIGABRT)])
def test_the_log_holds_everything_however_the_evaluation_ends(tmp_path, end, code):
    log = tmp_path / "squad.log"
    log.write_text("an attempt that failed\n")
    for replace in (0, 1):
        done = subprocess.run([sys.executable, "-c", LOGGED.format(end=end), log, str(replace)], cwd=ROOT,
                              capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        lines = ["of Python", "of its errors", "of a child", "of its errors", "of native code \ufffd"]
        assert sorted(done.stdout.splitlines()[:5]) == sorted(lines)
        assert log.read_text() == ("" if replace else "an attempt that failed\n") + done.stdout
