"""The mirror of a run against a local S3 server: a growing folder, a failing network, a lost machine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import yaml
from research_internlm.ckpt_format import value_start
from research_internlm.contest import mirror, mirror_push, object_store
from research_internlm.contest.checkpoint_header import read_header, step_of
from research_internlm.contest.launch import processes_of
from research_internlm.contest.mirror_push import Pusher
from research_internlm.contest.upload import connect
from research_internlm.dtypes import Entry
from research_internlm.errors import ToolkitError
from tests import object_server
from tests import test_contest_launch as launch_tests
from tests.object_server import SECRET

bucket, proxy = object_server.bucket, object_server.proxy  # fixtures
work = launch_tests.work
CONFIG = {"runner_config": {"batch_size": 4, "epochs": 1, "sink_mode": False, "sink_size": 1},
          "train_dataset": {"drop_remainder": True}, "lr_schedule": {"learning_rate": 1e-4},
          "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 2, "keep_checkpoint_max": 10}]}
ROWS = 80  # 20 steps: saved at 2, 4, ... 20; the five to hand in are 4, 8, 12, 16, 20
SCRIPT = "research_internlm/contest/mirror.py"


def checkpoint(folder, step, size=2000, cut=0):
    """Writes a checkpoint as MindSpore does, of `size` numbers; `cut` bytes are missing at its end."""
    path = folder / "checkpoint" / "rank_0" / f"tiny_rank_0-1_{step}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for name, value in (("model.w", np.random.default_rng(step).random(size, np.float32)),
                        ("step_num", np.array(step, np.int32))):
        content += value_start(name, Entry(value.shape, value.dtype), value.nbytes) + value.tobytes()
    path.write_bytes(content[:len(content) - cut])
    return path


@pytest.fixture
def run(tmp_path):
    """A run folder as it is at step 1."""
    folder = tmp_path / "run"
    (folder / "msrun_log").mkdir(parents=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "run.json").write_text(json.dumps({
        "workers": 1, "load_checkpoint_sha256": "b" * 64,
        "data": {"train_dataset": {"file": "/data/train.mindrecord", "sha256": "a" * 64,
                                   "counts": {"out": ROWS}}}}))
    (folder / "msrun_log" / "worker_0.log").write_text("step 1\n")
    return folder


def url(bucket):
    return f"obs://{bucket.name}/team/run"


def pusher(bucket, folder):
    return Pusher(connect(bucket.name, None), "team/run", folder, lambda line: None)


def index(bucket):
    return json.loads(bucket.get_object(Bucket=bucket.name, Key="team/run/mirror.json")["Body"].read())


def mirrored_steps(bucket):
    """Steps by the index, each checked to have its object."""
    keys = {entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name).get("Contents", [])}
    files = index(bucket)["files"]
    assert keys == {"team/run/mirror.json"} | {f"team/run/files/{name}.{file['sha256'][:16]}"
                                               for name, file in files.items()}
    return sorted(file["step"] for file in files.values() if file["step"] is not None)


def fetched(bucket, folder):
    assert mirror.main(["fetch", url(bucket), str(folder)]) == 0
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


def test_a_growing_run_is_in_the_mirror_and_comes_back(bucket, run, tmp_path, capsys):
    sender = pusher(bucket, run)
    for step in range(2, 22, 2):
        checkpoint(run, step)
        with open(run / "msrun_log/worker_0.log", "a") as log:
            log.write(f"step {step}\n" * step)
        sender.round(False)
        sender.round(False)
        planned = {five for five in (4, 8, 12, 16, 20) if five <= step}
        assert mirrored_steps(bucket) == sorted(planned | {step})
    sender.round(True)
    assert sender.unsafe() == []
    copy = fetched(bucket, tmp_path / "copy")
    wanted = {name: data for name, data in content(run).items()
              if not name.startswith("checkpoint") or int(name[:-5].rsplit("_")[-1]) % 4 == 0}
    assert content(copy) == wanted and len(wanted) == 8
    out = capsys.readouterr().out
    assert "up to step 20" in out and "/data/train.mindrecord (sha256 aaaa" in out and "bbbb" in out
    assert "8 fetched" in out
    fetched(bucket, copy)
    assert "0 fetched, 8 there already" in capsys.readouterr().out


def test_what_is_unfinished_is_not_sent(bucket, run):
    good, cut = checkpoint(run, 4), checkpoint(run, 8, cut=300)
    sender = pusher(bucket, run)
    sender.round(False)
    assert mirrored_steps(bucket) == []  # it may still be written
    os.utime(good)
    sender.round(False)
    assert mirrored_steps(bucket) == []
    sender.round(False)
    sender.round(True)
    assert mirrored_steps(bucket) == [4]
    with pytest.raises(ToolkitError):
        read_header(cut)


def test_retention_on_the_machine_leaves_the_planned_ones_in_the_mirror(bucket, run):
    path = checkpoint(run, 4)
    pusher(bucket, run).round(True)
    path.unlink()
    checkpoint(run, 6)
    pusher(bucket, run).round(True)
    assert mirrored_steps(bucket) == [4, 6]


def test_errors_of_the_network_are_waited_out(bucket, run, proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(object_store, "RETRIES", 0)
    monkeypatch.setattr(mirror_push, "PART_SIZE", 5 * 2**20)
    checkpoint(run, 4, size=3_000_000)
    proxy.faults, proxy.put_faults = ["drop", 503], [500, 503]
    ended = mirror.threading.Event()
    ended.set()
    sleeps = []
    monkeypatch.setattr(mirror, "time", SimpleNamespace(sleep=sleeps.append, strftime=time.strftime))
    mirror.keep_pushing(pusher(bucket, run), ended, 0.1)
    assert proxy.faults == [] and proxy.put_faults == [] and sleeps == [2, 4, 8]
    assert mirrored_steps(bucket) == [4]
    monkeypatch.setattr(object_store, "RETRIES", 2)
    proxy.cuts, proxy.cut_beyond = 1, 10**7
    assert content(fetched(bucket, tmp_path / "copy")) == content(run)
    assert proxy.cuts == 0


def start(root, bucket, folder, *options):
    command = [sys.executable, str(root / SCRIPT), "push", str(folder), url(bucket), "--interval", "0.1",
               *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def wait_for(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def test_a_killed_pusher_goes_on_with_its_parts(root, bucket, run, proxy):
    checkpoint(run, 4, size=12_000_000)  # 3 parts of 16 MiB
    proxy.delay = 0.5
    process = start(root, bucket, run)
    wait_for(lambda: proxy.parts >= 1)
    process.kill()
    process.communicate()
    time.sleep(0.6)
    sent, proxy.delay = proxy.parts, 0.0
    assert sent < 3
    process = start(root, bucket, run)
    out, _ = process.communicate()  # ends standard input: the training is over
    assert process.returncode == 0 and "safe up to step 4" in out
    assert proxy.parts == 3 and mirrored_steps(bucket) == [4]


def test_sigterm_sends_the_rest(root, bucket, run):
    process = start(root, bucket, run)
    wait_for(lambda: "Contents" in bucket.list_objects_v2(Bucket=bucket.name, Prefix="team/run/mirror.json"))
    with open(run / "msrun_log/worker_0.log", "a") as log:
        log.write("the end")
    checkpoint(run, 20)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert process.returncode == 0
    assert mirrored_steps(bucket) == [20]
    assert index(bucket)["files"]["msrun_log/worker_0.log"]["bytes"] == len("step 1\nthe end")


def test_with_a_wrong_key_nothing_is_safe_and_it_says_so(root, bucket, run, monkeypatch):
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", "WRONG")
    path = checkpoint(run, 4)
    process = start(root, bucket, run, "--finish_within", "3")
    out, log = process.communicate()
    assert process.returncode == 1 and "no checkpoint is safe" in out
    assert f"not yet safe: {path} ({path.stat().st_size:,} bytes)" in out and "4 file(s)" in out
    assert "answered 403" in log and SECRET not in log + out and "WRONG" not in log + out
    assert "Contents" not in bucket.list_objects_v2(Bucket=bucket.name)


def test_secrets_stay_here(bucket, run):
    (run / "msrun_log" / "worker_1.log").write_text(f"x\nsecret {SECRET}\n")
    sender = pusher(bucket, run)
    sender.round(True)
    [(file, reason)] = sender.unsafe()
    assert file.name == "msrun_log/worker_1.log" and "line 2" in reason and SECRET not in reason
    assert "msrun_log/worker_1.log" not in index(bucket)["files"]


def test_damaged_objects_are_refused(bucket, run, tmp_path, capsys):
    path = checkpoint(run, 4)
    pusher(bucket, run).round(True)
    name = path.relative_to(run).as_posix()
    key = f"team/run/files/{name}.{index(bucket)['files'][name]['sha256'][:16]}"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    bucket.put_object(Bucket=bucket.name, Key=key, Body=bytes(damaged))
    copy = tmp_path / "copy"
    with pytest.raises(ToolkitError, match="is damaged"):
        fetched(bucket, copy)
    assert not (copy / name).exists() and not (copy / "resolved_config.yaml").exists()
    bucket.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(path.read_bytes()[:-50])  # truncated: replaced by the mirror's
    assert content(fetched(bucket, copy)) == content(run)


def test_other_runs_are_not_mixed(bucket, run, tmp_path):
    checkpoint(run, 4)
    pusher(bucket, run).round(True)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    changed = CONFIG | {"lr_schedule": {"learning_rate": 1}}
    (other / "resolved_config.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(mirror_push.AnotherRunError, match=r"learning_rate: 0\.0001 -> 1"):
        pusher(bucket, other).round(False)
    with pytest.raises(ToolkitError, match="holds another run"):
        fetched(bucket, other)
    shutil.rmtree(run / "checkpoint")  # the same run, begun anew
    with pytest.raises(mirror_push.AnotherRunError, match=r"up to step 4, .* only to step 0"):
        pusher(bucket, run).round(False)
    with pytest.raises(ToolkitError, match="holds no mirror"):
        mirror.main(["fetch", f"obs://{bucket.name}/nothing", str(tmp_path / "x")])


def test_an_index_cannot_write_outside_of_the_folder(bucket, run, tmp_path):
    pusher(bucket, run).round(True)
    evil = index(bucket)
    evil["files"]["../evil"] = {"bytes": 1, "sha256": "0" * 64, "step": None}
    bucket.put_object(Bucket=bucket.name, Key="team/run/mirror.json", Body=json.dumps(evil))
    with pytest.raises(ToolkitError, match="outside of a run folder"):
        fetched(bucket, tmp_path / "copy")


def mirror_processes(folder):
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                words = Path(f"/proc/{entry.name}/cmdline").read_text().split("\0")
                if any(word.endswith(SCRIPT) for word in words) and str(folder) in words:
                    yield int(entry.name)


def indexed_steps(bucket):
    """Steps by the index; empty before there is one."""
    with contextlib.suppress(bucket.exceptions.NoSuchKey):
        return [file["step"] for file in index(bucket)["files"].values() if file["step"]]
    return []


@pytest.mark.model
def test_a_lost_machine_costs_no_step(work, bucket):
    """2 workers, all processes killed, folder deleted: from the mirror, the losses of a whole run."""
    done = launch_tests.launch(work, "undisturbed", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = launch_tests.lines(work / "undisturbed", 0)

    run = work / "lost"
    job = subprocess.Popen(launch_tests.command(work, "lost", 2, launcher=("--mirror", url(bucket))),
                           cwd=launch_tests.ROOT, env=launch_tests.environment(), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(run.glob("checkpoint/rank_*/*.ckpt"))) >= 4, 200)
    workers = launch_tests.workers_of(run)
    for process in workers.values():  # a slow machine: the mirror gets its turn
        os.kill(process, signal.SIGSTOP)
    try:
        wait_for(lambda: indexed_steps(bucket))
    finally:
        for process in [*mirror_processes(run), job.pid, *processes_of(run)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    job.wait()
    step = max(indexed_steps(bucket))
    shutil.rmtree(run)

    done = subprocess.run(
        launch_tests.command(work, "lost", 2, launcher=("--resume", url(bucket), "--mirror", url(bucket))),
        cwd=launch_tests.ROOT, env=launch_tests.environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"from step {step}" in done.stdout and "safe up to step 84" in done.stdout
    again = launch_tests.lines(run, 0)
    assert set(range(step + 1, launch_tests.STEPS + 1)) <= set(again)
    for number in range(step + 1, launch_tests.STEPS + 1):
        assert again[number] == pytest.approx(expected[number], abs=1e-6)
    last = max(run.glob("checkpoint/rank_1/*.ckpt"), key=lambda path: step_of(read_header(path), path))
    assert step_of(read_header(last), last) == launch_tests.STEPS
