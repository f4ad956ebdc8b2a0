"""The launcher with real workers on a CPU: data parallelism, a killed worker, continuing, refusals.

Every row has the same output text, so every rank has the same number of supervised tokens: only then is the
mean of the ranks' mean losses the mean over the global batch.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from research_internlm import launch as launch_module
from research_internlm import recipes
from research_internlm.launching import machine_checks, msrun, options
from research_internlm.recipes.schedule import CheckpointPlan, Steps
from research_internlm.runs import same_run, saved_steps, trained_state
from research_internlm.shared import processes, run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import processes_of, workers_of
from research_internlm.shared.run_layout import TRAIN_LOG
from research_internlm.training import command, worker
from tests.helpers.commands import ROOT, assert_user_error
from tests.helpers.launches import (
    EPOCHS,
    STEPS,
    assert_same_losses,
    base_weights,
    environment,
    launch,
    launch_command,
    lines,
    prepare,
)
from tests.helpers.weight_files import random_tensors, read, write


def attempts(run):
    return [json.loads(path.read_text()) for path in sorted(run.glob("msrun_log/attempt-*/attempt.json"))]


@pytest.mark.model
def test_all_ranks_end_with_the_same_bits(whole):
    """As each logs it; only rank 0 writes, and the digest is that of what it wrote."""
    found = trained_state.digests(whole)
    assert sorted(found) == list(range(2, STEPS + 1, 2))
    assert all(set(ranks) == {0, 1} and ranks[0] == ranks[1] for ranks in found.values())
    assert len({ranks[0] for ranks in found.values()}) == len(found)
    last = read(saved_steps.find_saves(whole).complete[STEPS][0])
    base = read(base_weights(whole.parent))
    digest = hashlib.sha256()
    for name in sorted(name for name in last if name not in base and name not in ADDED):
        digest.update(name.encode() + last[name].tobytes())
    assert digest.hexdigest() == found[STEPS][1]


# What MindFormers' CheckpointMonitor adds to the parameters.
ADDED = {"step_num", "epoch_num", "loss_scale", "global_batch_size"}


@pytest.mark.model
def test_rank_0_alone_writes_the_five_in_full_and_the_rest_without_the_base(whole):
    full, states = (saved_steps.find_checkpoints(whole / name).complete
                    for name in ("checkpoint", "checkpoint_state"))
    assert sorted(full) == [10, 20, 28, 38, 48]
    assert sorted([*full, *states]) == list(range(2, STEPS + 1, 2))
    assert all([*ranks] == [0] for ranks in (*full.values(), *states.values()))
    assert [path.name for path in whole.glob("checkpoint*/rank_*")] == ["rank_0"] * 3
    names = {name for name in read(states[2][0])}
    assert sum("mindpet_delta" in name for name in names) == 3 * 8  # A and B of four cells, two moments each
    assert not names & set(read(base_weights(whole.parent)))
    log = (whole / "msrun_log/attempt-001/worker_0.log").read_text()
    assert "save of step 2: state, paused" in log and "save of step 10: full, paused" in log


@pytest.mark.model
def test_each_worker_has_cores_of_its_own(whole):
    found = [(whole / f"msrun_log/attempt-001/worker_{rank}.log").read_text() for rank in range(2)]
    shares = [set(re.search(r"of 2 computes on core\(s\) ([\d, ]+)", log)[1].split(", ")) for log in found]
    assert all(shares) and (len(os.sched_getaffinity(0)) < 2 or not shares[0] & shares[1])


@pytest.mark.model
def test_the_scheduler_loads_no_mindformers(whole):
    assert "mindformers" not in (whole / "msrun_log/attempt-001/scheduler.log").read_text()
    assert "mindformers" in (whole / "msrun_log/attempt-001/worker_0.log").read_text()


def differing(one, other):
    """Names of the values whose bits differ."""
    assert one.keys() == other.keys() and len(one) > 24
    return [name for name in one if one[name].asnumpy().tobytes() != other[name].asnumpy().tobytes()]


@pytest.mark.model
def test_two_workers_have_the_loss_of_one_with_the_same_global_batches(whole, one):
    expected = lines(one, 0)
    found = [lines(whole, rank) for rank in range(2)]
    assert list(expected) == list(range(1, STEPS + 1))
    for step in range(1, 13):
        assert sum(rank[step][0] for rank in found) / 2 == pytest.approx(expected[step][0], abs=1e-5)
    # Adam's losses would be the same with sums of gradients in place of means.
    norms = [[json.loads(line)["global_norm"] for line in (run / TRAIN_LOG).read_text().splitlines()[:12]]
             for run in (whole, one)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.model
def test_after_kill_9_of_a_worker_the_same_command_gives_the_uninterrupted_run_s_losses(work, whole):
    run = work / "killed"
    command_line = "killed", 2, "--load_checkpoint", str(base_weights(work))
    job = subprocess.Popen(launch_command(work, *command_line), cwd=ROOT, env=environment(work / "graphs"),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = run / "msrun_log/attempt-001/worker_1.log"
    deadline = time.time() + 300
    while not log.exists() or not re.search(r"Epoch:\[ *[2-9]/.*step:\[ *[4-6]/", log.read_text()):
        assert job.poll() is None, job.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.02)
    os.kill(workers_of(run)[1], signal.SIGKILL)
    words = job.communicate(timeout=120)[0]
    assert job.returncode not in (0, 2)
    assert "was killed by SIGKILL" in words
    assert "the same command again continues from step" in words
    assert not workers_of(run)

    found = saved_steps.find_saves(run)
    assert 4 < found.last < STEPS
    for path in run.glob("checkpoint*/rank_*/*.ckpt"):  # as a full disk or a kill in a save leaves them
        if path not in found.complete[2].values():
            path.chmod(0o600)
            os.truncate(path, max(0, path.stat().st_size - 200))
    assert run_layout.is_state(saved_steps.last_save(saved_steps.find_saves(run)))

    done = launch(work, *command_line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing {run} from step 2 of {STEPS}" in done.stdout
    assert "is truncated" in done.stdout
    for rank in range(2):
        assert_same_losses(lines(run, rank), lines(whole, rank))
    steps = [json.loads(line)["step"] for line in (run / TRAIN_LOG).read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert_same_bits_at_first(run, whole)
    first, second = attempts(run)
    assert first["exit_code"] != 0 and second["exit_code"] == 0
    assert (first["from_step"], second["from_step"]) == (0, 2)
    assert "MS_SECRET_KEY" not in first["environment"] and "GLOG_v" in first["environment"]


def assert_same_bits_at_first(resumed, whole):
    """Holds the checkpoints of steps 3 and 4 after a resume from step 2 against the whole run's, bit for bit.

    Launches 3 and 4 of one process, 1 and 2 of the other: all with the first partition.
    """
    import mindspore

    found, expected = (saved_steps.find_saves(run).complete for run in (resumed, whole))
    assert found.keys() == expected.keys()
    got, wanted = (mindspore.load_checkpoint(str(steps[4][0])) for steps in (found, expected))
    assert differing(got, wanted) == []
    assert {*trained_state.digests(resumed)[4].values()} == {*trained_state.digests(whole)[4].values()}


@pytest.mark.model
def test_a_run_keeps_the_checkpoints_its_plan_says(one):
    plan = CheckpointPlan.simulate(Steps(rows=24, cards=1, batch_size=4, epochs=EPOCHS), 2, 5, 0)
    assert sorted(saved_steps.find_checkpoints(one / "checkpoint").complete) == plan.kept
    assert plan.kept == plan.to_submit == [10, 20, 28, 38, 48]


@pytest.mark.model
def test_a_finished_run_says_so_and_another_command_is_refused(work, whole, start_one, capsys):
    before = sorted(whole.rglob("*"))
    base = "--load_checkpoint", str(base_weights(work))
    assert start_one("whole", *base, workers=2) == (0, []) and "is finished" in capsys.readouterr().out
    with pytest.raises(ToolkitError, match=r"holds another run.* lr_schedule\.learning_rate: 0\.01 -> 0\.003"
                                           ".* seed: 0 -> 7"):
        start_one("whole", "lr_schedule.learning_rate=3.0e-3", "seed=7", workers=2)
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


def test_padded_rows_have_their_head_at_the_labels_too(work, start_one):
    start_one("labels")
    resolved = recipes.load_yaml(work / "labels" / "resolved_config.yaml")
    manifest = json.loads((work / "train.mindrecord.manifest.json").read_text())
    assert recipes.model_config(resolved)["labels_per_row"] == manifest["tokens"]["longest_answer"] > 0
    assert start_one("labels")[1][-2:] == ["--resume_training", "True"]  # launcher and worker fill it alike


def state_of(folder, step):
    """A save without the base, as small as can be."""
    full = checkpoint(folder, step)
    state = folder / "checkpoint_state" / "rank_0" / full.name
    state.parent.mkdir(parents=True)
    return full.rename(state)


def test_a_state_continues_on_the_base_weights_of_its_start_only(work, start_one, tmp_path):
    base = tmp_path / "base.ckpt"
    shutil.copy(base_weights(work), base)
    flags = "--load_checkpoint", str(base)
    start_one("state", *flags)
    state_of(work / "state", 4)
    assert start_one("state", *flags)[1][-2:] == ["--resume_training", "True"]
    start_one("state")  # the start's own path is known
    content = bytearray(base.read_bytes())
    content[-5] ^= 1
    base.write_bytes(content)
    with pytest.raises(ToolkitError, match=r"1 problem\(s\) .* is not the file the run .* was started from"):
        start_one("state", *flags)
    base.unlink()
    with pytest.raises(ToolkitError, match=r"adapter and optimizer state only.*move .*checkpoint_state away"):
        start_one("state", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(("more", "expected"), [((), "five"), (("--load_checkpoint", ""), "all"), (
    ("model.model_config.pet_config=null",), "all")])
def test_without_base_or_adapter_every_save_is_full(work, more, expected):
    words = launch_command(work, "none", 1, "--load_checkpoint", str(base_weights(work)), *more)[5:]
    recipe = command.resolve(command.parse_arguments(["--config", "yaml/lora_finetune.yaml", *words]))
    command.settle_saves(recipe)
    assert recipes.callback(recipe, "CheckpointMonitor")["full_checkpoints"] == expected


@pytest.mark.slow
def test_workers_whose_scheduler_has_ended_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(msrun, "_GRACE_SECONDS", 0.3)
    started = time.time()
    code, first = msrun.run_msrun(
        ["bash", "-c", "MS_ROLE=MS_SCHED sleep 1 & MS_ROLE=MS_WORKER sleep 300 & wait"], tmp_path, tmp_path,
        has_scheduler=True)
    assert code != 0 and "its scheduler ended" in first
    assert 1 < time.time() - started < 30
    assert not processes_of(tmp_path)


@pytest.mark.slow
def test_all_problems_are_told_at_once(work):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = launch(work, "/proc/nowhere", 2, "model.model_config.seq_length=32",
                      launcher=(f"--master_port={port}",))
    assert_user_error(done, "3 problem(s)", "cannot be written to", "65-token rows", f"port {port}")


def test_versions_are_held_against_the_tables():
    good = {"mindspore": "2.9.0", "mindformers": "1.9.0", "cann": "9.0.0"}
    assert not list(machine_checks.version_problems(good, "Ascend"))
    assert not list(machine_checks.version_problems({**good, "cann": None}, "CPU"))
    older = {**good, "mindspore": "2.7.2"}
    assert "belongs to MindSpore 2.9.0" in next(machine_checks.version_problems(older, "CPU"))
    assert not list(machine_checks.version_problems(
        {"mindspore": "2.7.2", "mindformers": "1.8.0", "cann": "8.5.0"}, "Ascend"))
    other = {**good, "cann": "8.0.RC1"}
    assert "8.0.RC1 is installed" in next(machine_checks.version_problems(other, "Ascend"))


def test_settings_differ_by_value_not_by_place():
    old = {"seed": 0, "output_dir": "/a", "callbacks": [{"type": "M", "steps": 4}],
           "train_dataset": {"data_loader": {"dataset_dir": "/a/x", "shuffle": True}}}
    new = {"seed": 0, "output_dir": "/b", "callbacks": [{"type": "M", "steps": 6}],
           "train_dataset": {"data_loader": {"dataset_dir": "/b/x", "shuffle": False}}}
    assert same_run.differences(old, new) == ["callbacks.M.steps: 4 -> 6",
                                            "train_dataset.data_loader.shuffle: True -> False"]
    assert same_run.differences(old, old | {"tensorboard": {"tensorboard_dir": "/c"}}) == []


def test_overwrite_moves_another_run_aside_but_never_its_own(work, start_one):
    other = "lr_schedule.learning_rate=3.0e-3"
    assert start_one("again")[0] == 0
    with pytest.raises(ToolkitError, match=r"another run; 1 difference\(s\): lr_schedule\.learning_rate"):
        start_one("again", other)
    assert "--resume_training" not in start_one("again", other, "--overwrite")[1]
    assert (work / "again.earlier-1" / "run.json").is_file()
    assert start_one("again", other, "--overwrite")[1][-2:] == ["--resume_training", "True"]
    assert not (work / "again.earlier-2").exists()
    assert "--resume_training" not in start_one("again", "--overwrite")[1]
    assert (work / "again.earlier-2" / "run.json").is_file()


def test_a_start_that_was_cut_off_leaves_a_folder_that_can_be_used(work, start_one, monkeypatch):
    base = "--load_checkpoint", str(base_weights(work))

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "sha256_of", killed)
        assert start_one("cut", *base)[0] == 130
    assert not (work / "cut" / "resolved_config.yaml").exists()
    (work / "cut" / "resolved_config.yaml").write_text("half: 1")
    assert "--resume_training" not in start_one("cut", *base)[1]
    assert start_one("cut", *base)[1][-2:] == ["--resume_training", "True"]


def test_weights_of_another_model_are_refused_before_a_worker_starts(work, start_one):
    with pytest.raises(ToolkitError, match=r"1 problem\(s\) .* does not fit the model.*\.layers\.1\."):
        start_one("other", "--load_checkpoint", str(base_weights(work)), "model.model_config.num_layers=2")
    assert not (work / "other" / "run.json").exists()


def test_a_resume_from_a_folder_looks_at_the_files_it_would_load(work):
    folder = work / "elsewhere"
    good = write(folder / "rank_0" / "a-1.ckpt", {**read(base_weights(work)), **random_tensors(dict.fromkeys(
        ("step_num", "epoch_num", "loss_scale", "global_batch_size"), (1,)))})
    (folder / "rank_0" / "a-2.ckpt").write_bytes(b"cut off")  # newer, and passed over

    def problems(*more):
        arguments = command.parse_arguments(["--config", "yaml/lora_finetune.yaml", *launch_command(
            work, "resumed", 1, "--load_checkpoint", str(folder), *more)[5:]])
        return list(command.base_weight_problems(command.resolve(arguments)))

    assert problems("--resume_training", "True") == []
    assert problems("--resume_training", good.name) == []
    assert "a-2.ckpt" in problems("--resume_training", "a-2.ckpt")[0]
    assert "does not fit the model" in problems("--resume_training", "True",
                                                "model.model_config.num_layers=2")[0]


def test_a_flipped_bit_of_the_data_is_found_before_a_worker_starts(work, start_one, tmp_path):
    for part in work.glob("train.mindrecord*"):
        shutil.copy(part, tmp_path)
    data = tmp_path / "train.mindrecord"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    flags = "--train_dataset", str(data)
    with pytest.raises(ToolkitError, match=r"1 problem\(s\) .*--train_dataset: train\.mindrecord in .* cha"):
        start_one("flipped", *flags)
    arguments = command.parse_arguments(["--config", "yaml/lora_finetune.yaml", "--use_parallel", "False",
                                         *launch_command(work, "flipped", 1, *flags)[5:]])
    with pytest.raises(ToolkitError, match=r"--train_dataset: train\.mindrecord in .* changed"):
        worker.preflight(command.resolve(arguments), arguments)


def checkpoint(folder, step):
    """A full checkpoint's values, no weights."""
    from tests.helpers.run_checkpoints import checkpoint as write

    return write(folder, step, size=1)


def test_checkpoints_without_their_run_are_not_trained_over(work, start_one):
    checkpoint(work / "orphan", 4)
    with pytest.raises(ToolkitError, match=r"holds checkpoints but no run\.json and no resolved_config"):
        start_one("orphan")
    assert start_one("orphan", "--overwrite")[0] == 0
    assert list((work / "orphan.earlier-1").glob("checkpoint/rank_0/*.ckpt"))


def test_base_weights_are_looked_for_unless_a_checkpoint_is_there(work, start_one):
    nowhere = "--load_checkpoint", "/nowhere/base.ckpt"
    with pytest.raises(ToolkitError, match=r"1 problem\(s\) .* /nowhere/base\.ckpt does not exist"):
        start_one("fresh", *nowhere)
    start_one("fresh")
    checkpoint(work / "fresh", 4)
    assert start_one("fresh", *nowhere)[1][-2:] == ["--resume_training", "True"]
    arguments = command.parse_arguments([*launch_command(work, "fresh", 1, *nowhere)[5:], "--config",
                                              "yaml/lora_finetune.yaml", "--resume_training", "True"])
    worker.preflight(command.resolve(arguments), arguments)


def test_a_direct_resume_with_other_data_is_refused(work, start_one):
    start_one("direct")
    words = ["--config", "yaml/lora_finetune.yaml", "--use_parallel", "False",
             *launch_command(work, "direct", 1)[5:], "--resume_training", "True"]
    prepare(words)
    facts = json.loads((work / "direct" / "run.json").read_text())
    facts["data"]["train_dataset"]["sha256"] = "0" * 64
    (work / "direct" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ToolkitError, match="train_dataset sha256: 0000"):
        prepare(words)


def test_one_launch_a_folder_however_it_is_spelled(work, start_one, monkeypatch):
    folder = work / "shared"
    start_one("shared")
    (work / "link").symlink_to(folder)
    assert options.parse(launch_command(work, "link", 1)[2:], "").output == folder.resolve()
    sleeper = subprocess.Popen(["sleep", "60"], env=os.environ | {processes.RUN_MARK: str(folder)})
    try:
        with pytest.raises(ToolkitError, match=f"still running .processes {sleeper.pid}"):
            start_one("link")
    finally:
        sleeper.kill()
        sleeper.wait()
    holder = subprocess.Popen(["flock", folder / ".lock", "sleep", "60"], start_new_session=True)
    try:
        deadline = time.time() + 30
        while processes.take_lock(folder / ".lock"):
            os.close(processes._held.pop())
            assert time.time() < deadline
        with pytest.raises(ToolkitError, match="another launch is at work"):
            start_one("link")
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


@pytest.mark.parametrize("port", ["70000", "0", "x"])
def test_ports_that_are_none(work, monkeypatch, port):
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ToolkitError, match=f"master_port: {port!r} is not a whole number from 1 to 65535; "
                                           "give it as MASTER_PORT=N or --master_port=N"):
        options.parse(launch_command(work, "x", 1)[2:], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_notebook_and_a_closed_terminal_end_the_run_in_order(monkeypatch, number):
    monkeypatch.setattr(launch_module, "parse", lambda *_: None)
    monkeypatch.setattr(launch_module, "launch_run", lambda _: os.kill(os.getpid(), number))
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(number, signal.SIG_DFL)  # these tests may themselves run under nohup
        with pytest.raises(KeyboardInterrupt):
            launch_module.main()
        signal.signal(number, signal.SIG_IGN)  # as nohup has it
        launch_module.main()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_folders_and_links_beside_the_checkpoints(tmp_path):
    good = checkpoint(tmp_path, 4)
    shutil.copytree(good.parent, tmp_path / "checkpoint" / "rank_0_backup")
    (good.parent / "gone.ckpt").symlink_to("nothing")
    (good.parent / "folder.ckpt").mkdir()
    found = saved_steps.find_checkpoints(tmp_path / "checkpoint")
    assert found == saved_steps.FoundCheckpoints({4: {0: good}}, {})
    assert saved_steps.last_save(found, 1) == good


def test_the_mirror_s_errors_are_not_the_training_s(work, start_one, capsys):
    start_one("failed")
    attempt = next((work / "failed").glob("msrun_log/attempt-*"))
    (attempt / "mirror.log").write_text("error: no network\n")
    launch = options.parse(launch_command(work, "failed", 1)[2:], "")
    assert msrun.report_failure(launch, attempt, 1, None) == 1
    (attempt / "worker_0.log").write_text("error: a wrong setting\n")
    assert msrun.report_failure(launch, attempt, 1, None) == 2
    assert "no network" not in capsys.readouterr().err
