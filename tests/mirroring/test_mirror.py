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

import pytest
import yaml

from research_internlm import mirror
from research_internlm.checkpoints.header import read_header, step_of
from research_internlm.mirroring import beside_a_run, fetch, push, watch
from research_internlm.mirroring.push import Pusher
from research_internlm.runs.saved_steps import find_saves, last_save
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import RUN_MARK, processes_of, workers_of
from research_internlm.storage import obs
from research_internlm.storage.obs import connect
from tests.helpers import launches, object_server
from tests.helpers.object_server import SECRET
from tests.helpers.run_checkpoints import checkpoint
from tests.helpers.run_info import run_info

bucket, proxy = object_server.bucket, object_server.proxy  # fixtures
CONFIG = {"runner_config": {"batch_size": 4, "epochs": 1, "sink_mode": False, "sink_size": 1},
          "train_dataset": {"drop_remainder": True}, "lr_schedule": {"learning_rate": 1e-4},
          "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 2, "keep_checkpoint_max": 10}]}
ROWS = 80  # 20 steps: saved at 2, 4, ... 20; the five to submit are 4, 8, 12, 16, 20
SCRIPT = "research_internlm/mirror.py"


@pytest.fixture
def run(tmp_path):
    """A run folder as it is at step 1."""
    folder = tmp_path / "run"
    (folder / "msrun_log").mkdir(parents=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "run.json").write_text(json.dumps(run_info(
        1, ROWS, data={"file": "/data/train.mindrecord", "sha256": "a" * 64},
        load_checkpoint_sha256="b" * 64)))
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


@pytest.mark.slow
def test_a_growing_run_is_in_the_mirror_and_comes_back(bucket, run, tmp_path, capsys):
    for name in ("train_log.jsonl", "answers.jsonl"):
        (run / name).write_text("{}\n")
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
    assert content(copy) == wanted and len(wanted) == 10
    out = capsys.readouterr().out
    assert "up to step 20" in out and "/data/train.mindrecord (sha256 aaaa" in out and "bbbb" in out
    assert "10 fetched" in out
    fetched(bucket, copy)
    assert "0 fetched, 10 there already" in capsys.readouterr().out


def test_states_between_full_checkpoints_come_back_and_are_continued_from(bucket, run, tmp_path):
    checkpoint(run, 4)
    for step in (6, 10):  # neither is one of the five
        full = checkpoint(run, step)
        state = run_layout.state_dir(run) / "rank_0" / full.name
        state.parent.mkdir(parents=True, exist_ok=True)
        full.rename(state)
        pusher(bucket, run).round(True)
    assert mirrored_steps(bucket) == [4, 10]
    copy = fetched(bucket, tmp_path / "copy")
    found = find_saves(copy)
    assert sorted(found.complete) == [4, 10]
    assert last_save(found) == run_layout.state_dir(copy) / "rank_0" / state.name
    for name in ("run.json", "resolved_config.yaml"):
        (copy / name).unlink()
    stranger = copy / "checkpoint_state" / "rank_0" / "other_rank_0-1_10.ckpt"
    state.rename(run / "gone")
    stranger.write_bytes((run / "gone").read_bytes())
    with pytest.raises(ToolkitError, match=r"holds another run than .*other_rank_0-1_10\.ckpt"):
        fetch.fetch(connect(bucket.name, None), "team/run", copy, print)


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


def test_the_five_are_mirrored_though_fewer_are_kept(bucket, run):
    config = CONFIG | {"callbacks": [CONFIG["callbacks"][0] | {"keep_checkpoint_max": 2}]}
    (run / "resolved_config.yaml").write_text(yaml.safe_dump(config))
    sender = pusher(bucket, run)
    for step in range(2, 22, 2):
        checkpoint(run, step)
        sender.round(True)
    assert mirrored_steps(bucket) == [4, 8, 12, 16, 20]


def test_only_its_own_objects_are_removed(bucket, run):
    bucket.put_object(Bucket=bucket.name, Key="team/run/files/msrun_log/theirs.log", Body=b"x")
    bucket.put_object(Bucket=bucket.name, Key="team/run/notes.txt", Body=b"x")
    bucket.create_multipart_upload(Bucket=bucket.name, Key="team/run/files/theirs.ckpt")
    sender = pusher(bucket, run)
    for step in (2, 4, 6, 8):  # 2 and 6 are removed again, and each log but the last
        checkpoint(run, step)
        if step == 4:
            [mine] = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]
                      if "_2.ckpt" in entry["Key"]]
            bucket.create_multipart_upload(Bucket=bucket.name, Key=f"{mine}.theirs")
        with open(run / "msrun_log/worker_0.log", "a") as log:
            log.write("step\n" * step)
        sender.round(True)
    theirs = {"team/run/files/msrun_log/theirs.log", "team/run/notes.txt"}
    keys = {entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]}
    assert theirs <= keys
    for key in theirs:
        bucket.delete_object(Bucket=bucket.name, Key=key)
    assert mirrored_steps(bucket) == [4, 8]
    uploads = bucket.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert {upload["Key"] for upload in uploads} == {"team/run/files/theirs.ckpt", f"{mine}.theirs"}


@pytest.mark.slow
def test_what_a_lost_machine_began_is_removed_by_the_next(bucket, run, tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(obs, "RETRIES", 0)
    monkeypatch.setattr(push, "PART_SIZE", 5 * 2**20)
    pusher(bucket, run).round(True)
    fetched(bucket, tmp_path / "next")
    checkpoint(run, 4, size=3_000_000)
    proxy.faults = [None, 503, 503]
    with pytest.raises(ToolkitError, match="503"):
        pusher(bucket, run).round(True)
    assert "Uploads" in bucket.list_multipart_uploads(Bucket=bucket.name)
    checkpoint(tmp_path / "next", 4, size=2_900_000)  # the same step, not bit for bit
    pusher(bucket, tmp_path / "next").round(True)
    assert mirrored_steps(bucket) == [4]
    assert "Uploads" not in bucket.list_multipart_uploads(Bucket=bucket.name)


@pytest.mark.slow
def test_errors_of_the_network_are_waited_out(bucket, run, proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(obs, "RETRIES", 0)
    monkeypatch.setattr(push, "PART_SIZE", 5 * 2**20)
    checkpoint(run, 4, size=3_000_000)
    proxy.faults, proxy.put_faults = ["drop", 503], [500, 503]
    ended = watch.threading.Event()
    ended.set()
    sleeps = []
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleeps.append, strftime=time.strftime))
    watch.keep_pushing(pusher(bucket, run), ended, 0.1)
    assert proxy.faults == [] and proxy.put_faults == []
    # Four faults: two of texts, a try each; two of parts that are sent at once, one try or two.
    assert sleeps in ([2, 4, 8], [2, 4, 8, 16])
    assert mirrored_steps(bucket) == [4]
    monkeypatch.setattr(obs, "RETRIES", 2)
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


@pytest.mark.slow
def test_a_killed_pusher_goes_on_with_its_parts(root, bucket, run, proxy):
    checkpoint(run, 4, size=12_000_000)  # 3 parts of 16 MiB
    proxy.delay = 0.5
    process = start(root, bucket, run)
    wait_for(lambda: proxy.parts >= 1)
    process.kill()
    process.communicate()
    time.sleep(2)  # what the proxy had in hand arrives
    sent, proxy.delay = proxy.parts, 0.0
    assert sent < 3
    process = start(root, bucket, run)
    out, _ = process.communicate()  # ends standard input: the training is over
    assert process.returncode == 0 and "safe up to step 4" in out
    assert proxy.parts == 3 and mirrored_steps(bucket) == [4]


@pytest.mark.slow
def test_it_stays_until_no_worker_lives(root, bucket, run):
    worker = subprocess.Popen(["sleep", "60"], env=os.environ | {RUN_MARK: str(run)})
    process = start(root, bucket, run)
    process.stdin.close()  # kill -9 of the launcher
    wait_for(lambda: "Contents" in bucket.list_objects_v2(Bucket=bucket.name, Prefix="team/run/mirror.json"))
    process.send_signal(signal.SIGHUP)
    checkpoint(run, 4)
    wait_for(lambda: indexed_steps(bucket) == [4])
    assert process.poll() is None
    worker.kill()
    worker.wait()
    assert process.wait(30) == 0


@pytest.mark.slow
def test_two_mirrors_of_a_folder_take_turns(root, bucket, run):
    first, second = start(root, bucket, run), start(root, bucket, run)
    wait_for(lambda: "Contents" in bucket.list_objects_v2(Bucket=bucket.name, Prefix="team/run/mirror.json"))
    wait_for(lambda: (run / run_layout.MIRROR_LOCK).exists())
    for process in (first, second):
        process.stdin.close()
    logs = [process.stderr.read() for process in (first, second)]
    assert first.wait(30) == second.wait(30) == 0
    assert sum("waiting for another mirror" in log for log in logs) == 1


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


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["run.json", "resolved_config.yaml"])
def test_a_run_whose_settings_hold_a_secret_is_not_mirrored(root, bucket, run, name):
    path = run / name
    text = f"auth: {SECRET}\n" + path.read_text() if name.endswith("yaml") else json.dumps(
        json.loads(path.read_text()) | {"command": ["--auth", SECRET]})
    path.write_text(text)
    checkpoint(run, 4)
    process = start(root, bucket, run)
    out, log = process.communicate()
    assert process.returncode == 1 and f"{name} cannot be sent (line 1 holds" in out
    assert "no checkpoint is safe" in out and SECRET not in out + log
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name).get("Contents", [])]
    assert all(SECRET.encode() not in bucket.get_object(Bucket=bucket.name, Key=key)["Body"].read()
               for key in keys)
    assert "team/run/mirror.json" not in keys


def test_what_cannot_be_sent_does_not_stop_the_rest(bucket, run):
    good, cut = checkpoint(run, 4), checkpoint(run, 8)
    content = cut.read_bytes()
    cut.write_bytes(content[:content.index(b"epoch_num") - 4])  # whole by its structure
    (good.parent / "gone.ckpt").symlink_to("nothing")
    odd = run / "msrun_log" / os.fsdecode(b"\xff.log")
    odd.write_text("x")
    sender = pusher(bucket, run)
    sender.round(True)
    assert mirrored_steps(bucket) == [4]
    [(file, reason)] = sender.unsafe()
    assert "not UTF-8" in reason and push.printable(file.name) == "msrun_log/\\xff.log"


def test_a_name_that_no_index_may_hold_is_not_sent(bucket, run):
    good, odd = checkpoint(run, 4), checkpoint(run, 8)
    odd.rename(odd.with_name("a\\b.ckpt"))
    (run / "msrun_log" / "a\nb.log").write_text("x")
    sender = pusher(bucket, run)
    sender.round(True)
    assert mirrored_steps(bucket) == [4] and good.exists()
    unsafe = {file.name: reason for file, reason in sender.unsafe()}
    assert list(unsafe) == ["checkpoint/rank_0/a\\b.ckpt", "msrun_log/a\nb.log"]
    assert all("control character, a backslash or a drive" in reason for reason in unsafe.values())
    assert fetch.read_index(connect(bucket.name, None), "team/run").last == 4


def test_without_its_settings_nothing_is_safe(bucket, run, tmp_path):
    checkpoint(run, 4)
    sender = pusher(bucket, run)
    sender.round(True)
    assert sender.safe_step == 4
    lacking = index(bucket)
    del lacking["files"]["run.json"]
    bucket.put_object(Bucket=bucket.name, Key="team/run/mirror.json", Body=json.dumps(lacking))
    with pytest.raises(fetch.EmptyMirrorError, match=r"no run yet: run\.json never sent"):
        fetched(bucket, tmp_path / "copy")


def test_a_lost_log_is_named_and_an_old_checkpoint_left(bucket, run, tmp_path, capsys):
    checkpoint(run, 6)
    pusher(bucket, run).round(True)
    copy = tmp_path / "copy"
    shutil.copytree(run / "checkpoint", copy / "checkpoint")
    (copy / "checkpoint/rank_0/tiny_rank_0-1_6.ckpt").unlink()
    fetched(bucket, copy)
    assert (copy / "checkpoint/rank_0/tiny_rank_0-1_6.ckpt").exists()
    (copy / "checkpoint/rank_0/tiny_rank_0-1_6.ckpt").unlink()
    checkpoint(copy, 10)  # 6 was deleted by retention, and is none of the five
    (copy / "msrun_log/worker_0.log").unlink()
    [key] = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]
             if "worker_0.log" in entry["Key"]]
    bucket.delete_object(Bucket=bucket.name, Key=key)
    fetched(bucket, copy)
    assert not (copy / "checkpoint/rank_0/tiny_rank_0-1_6.ckpt").exists()
    assert "not fetched: msrun_log/worker_0.log" in capsys.readouterr().out


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
    with pytest.raises(push.RefusedError, match=r"learning_rate: 0\.0001 -> 1"):
        pusher(bucket, other).round(False)
    with pytest.raises(ToolkitError, match="holds another run"):
        fetched(bucket, other)
    shutil.rmtree(run / "checkpoint")  # the same run, begun anew
    with pytest.raises(push.RefusedError, match=r"up to step 4, .* only to step 0"):
        pusher(bucket, run).round(False)
    with pytest.raises(ToolkitError, match="holds no mirror"):
        mirror.main(["fetch", f"obs://{bucket.name}/nothing", str(tmp_path / "x")])


def test_an_index_cannot_write_outside_of_the_folder(bucket, run, tmp_path):
    pusher(bucket, run).round(True)
    evil = index(bucket)
    evil["files"]["../evil"] = {"bytes": 1, "sha256": "0" * 64, "step": None}
    bucket.put_object(Bucket=bucket.name, Key="team/run/mirror.json", Body=json.dumps(evil))
    with pytest.raises(ToolkitError, match=r"a key of files is '\.\./evil', a plain relative path"):
        fetched(bucket, tmp_path / "copy")


@pytest.mark.slow
def test_a_mirror_that_cannot_work_is_told_before_the_start(bucket, work, start_one, monkeypatch, capsys):
    output = "before"
    with pytest.raises(ToolkitError, match=r"1 problem.* --mirror s3://x: 's3://x' is not of the form"):
        start_one(output, launcher=("--mirror", "s3://x"))
    with pytest.raises(ToolkitError, match=r"bucket nosuchbucket: .* answered 404"):
        start_one(output, launcher=("--mirror", "obs://nosuchbucket/x"))
    with monkeypatch.context() as patch:
        patch.setenv("OBS_ACCESS_KEY_ID", "WRONG")
        with pytest.raises(ToolkitError, match="answered 403"):
            start_one(output, launcher=("--mirror", url(bucket)))
        patch.delenv("OBS_ACCESS_KEY_ID")
        with pytest.raises(ToolkitError, match="OBS_ACCESS_KEY_ID not set"):
            start_one(output, launcher=("--mirror", url(bucket)))
    assert not (work / output / "msrun_log").exists()
    monkeypatch.setattr(beside_a_run, "mirroring", lambda *_: contextlib.nullcontext())
    monkeypatch.setenv("OBS_SERVER", "http://127.0.0.1:1")  # a network that is down stops no training
    assert start_one(output, launcher=("--mirror", url(bucket)))[0] == 0
    assert f"warning: --mirror {url(bucket)}" in capsys.readouterr().out


def test_another_run_s_mirror_is_a_problem_before_the_start(bucket, run, work, start_one):
    checkpoint(run, 4)
    pusher(bucket, run).round(True)
    with pytest.raises(ToolkitError, match=r"--mirror: obs://.* mirrors another run"):
        start_one("mixed", launcher=("--mirror", url(bucket)))


@pytest.mark.slow
def test_one_command_starts_resumes_and_sends_the_rest(bucket, work, start_one, capsys):
    with pytest.raises(ToolkitError, match=r"bucket nosuchbucket: .* answered 404"):
        start_one("everything", launcher=("--resume", "obs://nosuchbucket/x"))  # is not an empty mirror
    launcher = ("--resume", url(bucket), "--mirror", url(bucket))
    code, started = start_one("everything", launcher=launcher)
    assert code == 0 and "--resume_training" not in started
    assert "nothing to resume from" in capsys.readouterr().out
    folder = work / "everything"
    last = checkpoint(folder, launches.STEPS)
    code, started = start_one("everything", launcher=launcher)  # finished: only the mirror is made whole
    assert code == 0 and started == []
    assert mirrored_steps(bucket) == [launches.STEPS]
    last.unlink()
    code, started = start_one("everything", launcher=launcher)  # the folder is there, its checkpoint is not
    assert code == 0 and started == [] and last.exists()
    worker = subprocess.Popen(["sleep", "60"], env=os.environ | {RUN_MARK: str(folder)})
    try:
        with pytest.raises(ToolkitError, match="still running"):  # nothing is fetched under a living run
            start_one("everything", launcher=("--resume", "obs://nosuchbucket/x"))
    finally:
        worker.kill()
        worker.wait()


def test_the_node_that_leads_mirrors(bucket, work, start_one):
    launcher = ("--worker_num=2", "--local_worker_num=1", "--node_rank=1", "--mirror", url(bucket))
    assert start_one("node", launcher=launcher)[0] == 0
    assert "Contents" not in bucket.list_objects_v2(Bucket=bucket.name)


def test_a_mirror_that_died_is_followed_by_another(bucket, run, capfd):
    checkpoint(run, 4)
    with beside_a_run.mirroring(url(bucket), run, run / "msrun_log"):
        wait_for(lambda: list(mirror_processes(run)))
        for process in mirror_processes(run):
            os.kill(process, signal.SIGKILL)
    out, errors = capfd.readouterr()
    assert "died (exit code -9); another one sends what is left" in errors and "not complete" not in errors
    assert "safe up to step 4" in out and mirrored_steps(bucket) == [4]


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
def test_a_lost_machine_costs_no_step(work, one, bucket):
    """All processes killed, folder deleted: from the mirror, the losses of a whole run.

    One worker: of several, too, rank 0 alone writes what is mirrored.
    """
    expected = launches.lines(one, 0)
    run, graphs = work / "lost", work / "graphs_of_one"
    options = ("lost", 1, "--load_checkpoint", str(launches.base_weights(work)),
               "callbacks.CheckpointMonitor.full_checkpoints=all")
    job = subprocess.Popen(launches.launch_command(work, *options, launcher=("--mirror", url(bucket))),
                           cwd=launches.ROOT, env=launches.environment(graphs), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(run.glob("checkpoint/rank_*/*.ckpt"))) >= 4 or job.poll() is not None, 300)
        assert job.poll() is None
        for process in workers_of(run).values():  # a slow machine: the mirror gets its turn
            os.kill(process, signal.SIGSTOP)
        wait_for(lambda: indexed_steps(bucket))
    finally:
        for process in [*mirror_processes(run), job.pid, *processes_of(run)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    job.wait()
    step = max(indexed_steps(bucket))
    shutil.rmtree(run)

    done = subprocess.run(
        launches.launch_command(work, *options, launcher=("--resume", url(bucket), "--mirror", url(bucket))),
        cwd=launches.ROOT, env=launches.environment(graphs), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"from step {step}" in done.stdout and f"safe up to step {launches.STEPS}" in done.stdout
    again = launches.lines(run, 0)
    numbers = range(step + 1, launches.STEPS + 1)
    assert set(numbers) <= set(again)
    launches.assert_same_losses({number: again[number] for number in numbers},
                                    {number: expected[number] for number in numbers})
    last = max(run.glob("checkpoint/rank_0/*.ckpt"), key=lambda path: step_of(read_header(path), path))
    assert step_of(read_header(last), last) == launches.STEPS
