"""The launcher with real workers on a CPU: data parallelism, a killed worker, continuing, refusals.

Every row has the same output text, so every rank has the same number of supervised tokens: only then is the
mean of the ranks' mean losses the mean over the global batch.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from research_internlm.contest import preflight, resume
from research_internlm.contest.worker_logs import read_run
from tests.conftest import ROOT, assert_user_error, run_script

SEQ_LENGTH = 64
EPOCHS = 14
STEPS = 6 * EPOCHS  # 24 rows, global batch 4


@pytest.fixture(scope="module")
def work(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    items = json.loads((demo_data / "base_corpus.json").read_text())
    items = [item | {"output": "The right option is A."} for item in items if item.get("input")][:24]
    (folder / "items.json").write_text(json.dumps(items))
    run_script("preprocess/alpaca_data_preprocess_v1.py", "--input_glob", folder / "items.json",
               "--output_file", folder / "train.mindrecord", "--model_file", demo_data / "tokenizer.model",
               "--seq_length", SEQ_LENGTH)
    return folder


def command(work, output, workers, *more, launcher=()):
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    return ["bash", "scripts/train_msrun.sh", "yaml/lora_finetune.yaml", str(workers), *launcher, "--",
            "--overlay", "yaml/overlays/cpu_tiny.yaml", "--train_dataset", str(work / "train.mindrecord"),
            "--output_dir", str(work / output), f"runner_config.batch_size={4 // workers}",
            f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}",
            f"model.model_config.seq_length={SEQ_LENGTH}", "model.model_config.hidden_size=32",
            "model.model_config.num_layers=1", "model.model_config.num_heads=2", "do_eval=False",
            "model.model_config.pet_config.lora_dropout=0.0", f"runner_config.epochs={EPOCHS}",
            "runner_wrapper.scale_sense.scale_window=9", "lr_schedule.learning_rate=1.0e-2",
            "callbacks.CheckpointMonitor.save_checkpoint_steps=4",
            "callbacks.CheckpointMonitor.keep_checkpoint_max=100", *more]


def environment():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return os.environ | {"MASTER_PORT": str(probe.getsockname()[1]), "MS_SECRET_KEY": "hunter2",
                             "GLOG_v": "3"}


def launch(*arguments, **keywords):
    return subprocess.run(command(*arguments, **keywords), cwd=ROOT, env=environment(), capture_output=True,
                          text=True, timeout=400, check=False)


def lines(run, rank):
    return {step: (record.loss, record.learning_rate, record.loss_scale)
            for step, record in read_run(run)[rank].records.items()}


def attempts(run):
    return [json.loads(path.read_text()) for path in sorted(run.glob("msrun_log/attempt-*/attempt.json"))]


@pytest.fixture(scope="module")
def whole(work):
    """A run of 4 workers with shuffling that nothing interrupted."""
    done = launch(work, "whole", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "whole"


@pytest.mark.model
def test_all_ranks_end_with_the_same_bits(whole):
    files = [sorted(whole.glob(f"checkpoint/rank_{rank}/*-{EPOCHS}_6.ckpt")) for rank in range(4)]
    assert [len(found) for found in files] == [1] * 4
    import mindspore

    first, *others = [mindspore.load_checkpoint(str(found[0])) for found in files]
    assert sum("mindpet_delta" in name for name in first) > 8  # LoRA and its Adam moments
    for other in others:
        assert first.keys() == other.keys()
        assert all(first[name].asnumpy().tobytes() == other[name].asnumpy().tobytes() for name in first)


@pytest.mark.model
def test_four_workers_have_the_loss_of_one_with_the_same_global_batches(work):
    for name, workers in (("four", 4), ("one", 1)):
        done = launch(work, name, workers, "train_dataset.data_loader.shuffle=False",
                      "runner_config.epochs=2")
        assert done.returncode == 0, done.stdout + done.stderr
    one = lines(work / "one", 0)
    four = [lines(work / "four", rank) for rank in range(4)]
    assert list(one) == list(range(1, 13))
    for step, (loss, *_) in one.items():
        assert sum(rank[step][0] for rank in four) / 4 == pytest.approx(loss, abs=1e-5)


def workers_of(run):
    """Process id of each worker of a run, by its rank."""
    from research_internlm.contest.launch import processes_of

    found = {}
    for process in processes_of(run):
        try:
            variables = Path(f"/proc/{process}/environ").read_text().split("\0")
            script = "run_internlm.py" in Path(f"/proc/{process}/cmdline").read_text()
        except OSError:
            continue
        words = dict(word.split("=", 1) for word in variables if "=" in word)
        if words.get("MS_ROLE") == "MS_WORKER" and script:
            found[int(words["RANK_ID"])] = process
    return found


@pytest.mark.model
def test_after_kill_9_of_a_worker_the_same_command_gives_the_uninterrupted_run_s_losses(work, whole):
    run = work / "killed"
    job = subprocess.Popen(command(work, "killed", 4), cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    log = run / "msrun_log/attempt-001/worker_2.log"
    deadline = time.time() + 300
    while not log.exists() or not re.search(r"Epoch:\[ *[2-9]/.*step:\[ *[4-6]/", log.read_text()):
        assert job.poll() is None, job.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.02)
    os.kill(workers_of(run)[2], signal.SIGKILL)
    words = job.communicate(timeout=120)[0]
    assert job.returncode not in (0, 2)
    assert "was killed by SIGKILL" in words
    assert "the same command again continues from step" in words
    assert not workers_of(run)

    found = resume.find_checkpoints(run / "checkpoint")
    before = found.last
    assert 0 < before < STEPS
    cut = found.complete[before]
    for path in cut.values():  # as a full disk or a lost notebook leaves them
        path.chmod(0o600)
        os.truncate(path, path.stat().st_size - 200)
    start = resume.find_checkpoints(run / "checkpoint").last
    assert start < before
    if len(resume.find_checkpoints(run / "checkpoint").complete[start]) == 4:
        shutil.rmtree(run / "checkpoint" / "rank_3")  # takes another rank's file

    done = launch(work, "killed", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing {run} from step {start}" in done.stdout
    assert "is truncated" in done.stdout
    for rank in range(4):
        assert lines(run, rank) == lines(whole, rank)  # loss to the 6 digits printed, lr, loss scale
    assert (resume.find_checkpoints(run / "checkpoint").complete.keys()
            == resume.find_checkpoints(whole / "checkpoint").complete.keys())
    first, second = attempts(run)
    assert first["exit_code"] != 0 and second["exit_code"] == 0
    assert (first["from_step"], second["from_step"]) == (0, start)
    assert "MS_SECRET_KEY" not in first["environment"] and "GLOG_v" in first["environment"]


@pytest.mark.model
def test_a_finished_run_says_so_and_another_command_is_refused(work, whole):
    before = sorted(whole.rglob("*"))
    done = launch(work, "whole", 4)
    assert done.returncode == 0 and "is finished" in done.stdout
    done = launch(work, "whole", 4, "lr_schedule.learning_rate=3.0e-3", "seed=7")
    assert_user_error(done, "holds another run", "lr_schedule.learning_rate: 0.01 -> 0.003", "seed: 0 -> 7")
    assert sorted(whole.rglob("*")) == before


@pytest.mark.model
def test_an_evaluation_keeps_its_log_where_the_hand_in_looks(work, whole, demo_data):
    checkpoint = next(whole.glob("checkpoint/rank_0/*.ckpt"))
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    arguments = ["bash", "scripts/evaluate.sh", whole, "squad", "--config", "yaml/predict_eval_squad.yaml",
                 "--overlay", "yaml/overlays/cpu_tiny.yaml", "--load_checkpoint", checkpoint, "--model_file",
                 demo_data / "tokenizer.model", "--squad_file", demo_data / "squad.json", "--limit", "4",
                 "model.model_config.hidden_size=32", "model.model_config.num_layers=1",
                 "model.model_config.num_heads=2", "model.model_config.max_new_tokens=2",
                 f"model.model_config.vocab_size={manifest['special_ids']['vocab_size']}"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (whole / f"results_squad_{checkpoint.stem}.json").is_file()
    assert "SQuAD contest: F1" in (whole / f"squad_{checkpoint.stem}.log").read_text()
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_user_error(again, "exists already", "--overwrite")


def test_all_problems_are_told_at_once(work):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = launch(work, "/proc/nowhere", 2, "model.model_config.seq_length=32",
                      launcher=(f"--master_port={port}",))
    assert_user_error(done, "3 problem(s)", "cannot be written to", "65-token rows", f"port {port}")


def test_versions_and_devices_are_held_against_the_tables(tmp_path, monkeypatch):
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    good = {"mindspore": "2.9.0", "mindformers": "1.9.0", "cann": "9.0.0"}
    assert not list(preflight.version_problems(good, "Ascend"))
    assert not list(preflight.version_problems({**good, "cann": None}, "CPU"))
    older = {**good, "mindspore": "2.7.2"}
    assert "belongs to MindSpore 2.9.0" in next(preflight.version_problems(older, "CPU"))
    assert "8.0.RC1 is installed" in next(preflight.version_problems({**good, "cann": "8.0.RC1"}, "Ascend"))
    for number in range(3):
        (tmp_path / f"davinci{number}").touch()
    (tmp_path / "davinci_manager").touch()
    assert not list(preflight.device_problems(3, "Ascend", tmp_path))
    assert "shows 3" in next(preflight.device_problems(4, "Ascend", tmp_path))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    assert "VISIBLE_DEVICES is 0,1" in next(preflight.device_problems(3, "Ascend", tmp_path))


def test_settings_differ_by_value_not_by_place():
    old = {"seed": 0, "output_dir": "/a", "callbacks": [{"type": "M", "steps": 4}],
           "train_dataset": {"data_loader": {"dataset_dir": "/a/x", "shuffle": True}}}
    new = {"seed": 0, "output_dir": "/b", "callbacks": [{"type": "M", "steps": 6}],
           "train_dataset": {"data_loader": {"dataset_dir": "/b/x", "shuffle": False}}}
    assert resume.differences(old, new) == ["callbacks.M.steps: 4 -> 6",
                                            "train_dataset.data_loader.shuffle: True -> False"]
