"""The submission of a made-up run folder: what is packed, what is refused, and that bytes repeat."""

import hashlib
import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile

import pytest

from research_internlm.checkpoints.header import adapter_facts, read_header, step_of
from research_internlm.contest import handin_checks, handin_zip, report_sections
from research_internlm.runs import run_folder
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import sha256_of, write_json, write_text
from tests.helpers import finished_run
from tests.helpers.finished_run import TRAINABLE, checkpoint, edit_yaml, log_text, mmlu_result, rewrite_report
from tests.helpers.run_info import attempt

run, complete_run = finished_run.run, finished_run.complete_run  # fixtures
SOURCE = handin_zip._SOURCE


@pytest.fixture
def whole_source(run, monkeypatch):
    """Packs all of the toolkit's source, see finished_run.run."""
    monkeypatch.setattr(handin_zip, "_SOURCE", SOURCE)


def found(run):
    return " | ".join(handin_checks.problems(run_folder.RunFolder(run)))


def test_attempts_are_packed_and_searched(run, tmp_path):
    write_json(run / "msrun_log/attempt-001/attempt.json", attempt())
    write_text(run / "msrun_log/attempt-001/msrun.log", "started\n")
    assert "report.md is older than msrun_log/attempt-001/attempt.json" in found(run)
    rewrite_report(run)
    with zipfile.ZipFile(handin_zip.package(run, "t", tmp_path)) as archive:
        assert {f"2_training/msrun_log/attempt-001/{name}" for name in ("attempt.json", "msrun.log")} <= set(
            archive.namelist())
    write_text(run / "msrun_log/attempt-001/msrun.log", "--password hunter22x\n" * 3)
    with pytest.raises(ToolkitError, match=r"msrun\.log line 1 holds a password \(and 2 more lines\)"):
        handin_zip.package(run, "t", tmp_path, overwrite=True)


def test_package_of_a_complete_run(run, whole_source, tmp_path):
    assert found(run) == ""
    first = handin_zip.package(run, "team-1", tmp_path / "a")
    copy = shutil.copytree(run, tmp_path / "copy" / "run1")
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert first.read_bytes() == handin_zip.package(copy, "team-1", tmp_path / "b").read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for line in archive.read("sha256.txt").decode().splitlines():
            digest, name = line.split("  ")
            assert digest == hashlib.sha256(archive.read(name)).hexdigest()
    wanted = ["1_report/report.md", "1_report/analysis/train_loss.png", "2_training/resolved_config.yaml",
              "2_training/msrun_log/worker_1.log", "4_squad/squad.log",
              "4_squad/results_squad.predictions.json",
              "3_source/mindformers/research/internlm/research_internlm/run_internlm.py",
              "3_source/mindformers/research/internlm/yaml/lora_finetune.yaml"]
    assert set(wanted) <= set(names) and names[-1] == "sha256.txt"
    assert [name[0] for name in names[:-1]] == sorted(name[0] for name in names[:-1])
    assert not any("__pycache__" in name or name.endswith(".ckpt") for name in names)
    with pytest.raises(ToolkitError, match="exists already"):
        handin_zip.package(run, "team-1", tmp_path / "a")


@pytest.fixture(scope="session")
def empty_environment(tmp_path_factory):
    """A Python of its own that has what the toolkit needs, but not the toolkit."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python3*/site-packages"))
    # Packages are found in this path; the .pth files in it, such as this checkout's own, are not read.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/python"


@pytest.mark.slow
def test_the_packed_source_runs_as_its_readme_says(run, whole_source, tmp_path, empty_environment):
    target = handin_zip.package(run, "t", tmp_path)
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "out")
    readme = (tmp_path / "out/3_source/README.md").read_text(encoding="utf-8")
    source = tmp_path / "out" / report_sections.SOURCE_PREFIX
    assert "cd mindformers/research/internlm\npip install -e .\n" in readme
    command = [empty_environment, "research_internlm/score.py", "--accuracy", "1", "--ratio", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def started(words):
        return subprocess.run(words, cwd=source, env=environment, capture_output=True, text=True)

    assert "No module named 'research_internlm'" in started(command).stderr
    installed = started([empty_environment, "-m", "pip", "install", "--quiet", "--no-deps",
                         "--no-build-isolation", "--disable-pip-version-check", "-e", "."])
    assert installed.returncode == 0, installed.stderr
    assert "score 1.000000000" in started(command).stdout
    help_text = started([empty_environment, "research_internlm/run_internlm.py", "--help"])
    assert "--train_dataset" in help_text.stdout, help_text.stderr


def test_everything_wrong_is_listed_at_once(run, tmp_path):
    (run / "report.md").unlink()
    (run / "results_squad.json").unlink()
    (run / run_layout.LINKS).unlink()
    (run / "msrun_log/worker_1.log").unlink()
    (run / "checkpoint/rank_0/lora_rank_0-9_9.ckpt").unlink()
    with pytest.raises(ToolkitError, match=r"6 problem\(s\)") as caught:
        handin_zip.package(run, "team", tmp_path)
    for part in ("report.md is missing", "SQuAD result after tuning is missing", "no public link",
                 "log of rank 1 is missing", "(steps 4, 6, 8, 10)",
                 "cards is 2 in run.json, 1 in training log"):
        assert part in str(caught.value)
    assert not (tmp_path / "team.zip").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"model": {"model_config": {"pet_config": {"lora_rank": 16}}}},
     "lora_rank is 16 in resolved_config.yaml, 8 in"),
    ({"model": {"model_config": {"pet_config": {"target_modules": ".*wk|.*wv"}}}},
     "target_modules is wk wv in resolved_config.yaml, wo wq in lora_rank_0"),
    ({"runner_config": {"batch_size": 2}}, "global_batch_size is 4 in resolved_config.yaml, 8 in"),
    ({"runner_config": {"epochs": 3}}, "scheduled_steps is 15 in resolved_config.yaml, 10 in training log"),
])
def test_config_against_log_and_checkpoint(run, change, message):
    edit_yaml(run, change)
    assert message in found(run)


def test_report_edited_by_hand(run):
    path = run / "report.md"
    write_text(path, path.read_text(encoding="utf-8").replace("`lora_rank` | 8 |", "`lora_rank` | 16 |"))
    assert "lora_rank is 8 in resolved_config.yaml" in found(run) and "16 in report.md" in found(run)


def test_report_older_than_the_results(run):
    write_json(run / "results_mmlu.json", mmlu_result("tuned", 0.5))
    write_json(run / "results_new.json", mmlu_result("tuned", 0.25))
    assert "report.md is older than results_mmlu.json, results_new.json" in found(run)


def test_incomplete_logs(run):
    write_text(run / "msrun_log/worker_0.log", log_text(range(1, 9)))
    write_text(run / "msrun_log/worker_1.log", log_text([1, 2, 3, 7, 8, 9, 10]))
    assert "log of rank 0 ends at step 8 of 10" in found(run)
    assert "log of rank 1 lacks lines between steps 3 to 7" in found(run)
    write_text(run / "msrun_log/worker_1.log", log_text(range(5, 11)))
    assert "log of rank 1 lacks lines between steps 0 to 5" in found(run)


def test_truncated_checkpoint_is_listed(run):
    path = run / "checkpoint/rank_0/lora_rank_0-9_5.ckpt"
    path.write_bytes(path.read_bytes()[:-7])
    assert "is truncated, damaged or not a ckpt file" in found(run)


def test_a_secret_is_listed_and_not_repeated(run, tmp_path):
    secret = "ghp_" + "a1" * 18
    with open(run / "msrun_log/worker_0.log", "a") as log:
        log.write(f"fine\n{secret}\n")
    with pytest.raises(ToolkitError, match=r"worker_0\.log line 12 holds") as caught:
        handin_zip.package(run, "team", tmp_path)
    assert secret not in str(caught.value)


def test_team_names_that_leave_the_folder(run, tmp_path):
    with pytest.raises(ToolkitError, match="it names the zip"):
        handin_zip.package(run, "../team", tmp_path)


def test_command_line(root, run, tmp_path):
    script = root / "scripts/package_submission.sh"
    done = subprocess.run(["bash", script, tmp_path / "none", "--team", "t"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "does not exist" in done.stderr
    done = subprocess.run(["bash", script, run, "--team", "t", "--output", tmp_path], capture_output=True,
                          text=True)
    assert done.returncode == 0 and f"sha256 {sha256_of(tmp_path / 't.zip')}" in done.stdout


@pytest.mark.model
def test_header_of_a_file_mindspore_wrote(tmp_path):
    import mindspore
    import numpy as np

    path = tmp_path / "real.ckpt"
    weight = mindspore.Tensor(np.zeros((8, 300), np.float16))
    mindspore.save_checkpoint(
        [{"name": "model.layers.0.attention.wq.mindpet_delta_lora_a", "data": weight},
         {"name": "model.layers.0.attention.wq.mindpet_delta_lora_b", "data": weight.T}], str(path),
        append_dict={"step_num": 34504, "loss_scale": 16384.0})
    header = read_header(path)
    assert step_of(header, path) == 34504 and header["loss_scale"].number == 16384.0
    assert adapter_facts(header) == {"lora_rank": 8, "target_modules": "wq", "trainable": 2 * 8 * 300}
    for size in (path.stat().st_size - 1, 1000, 3):
        (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:size])
        with pytest.raises(ToolkitError, match="truncated"):
            read_header(tmp_path / "cut.ckpt")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(ToolkitError, match="empty"):
        read_header(tmp_path / "empty.ckpt")


def test_adapter_facts_leave_the_optimizer_out(tmp_path):
    header = read_header(checkpoint(tmp_path / "a.ckpt", 3))
    assert adapter_facts(header)["trainable"] == TRAINABLE
