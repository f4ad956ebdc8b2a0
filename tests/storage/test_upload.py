"""Upload against a local S3 server (moto) behind a proxy that misbehaves on request; 127.0.0.1 only."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research_internlm import upload
from research_internlm.shared.errors import ToolkitError
from research_internlm.storage import multipart, obs, sending
from tests.helpers import object_server
from tests.helpers.object_server import ACCESS, SECRET

PART = 5 * multipart.MIB  # S3's smallest part
SIZE = 4 * PART + 12_345
bucket, proxy = object_server.bucket, object_server.proxy  # fixtures


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "merged.ckpt"
    path.write_bytes(hashlib.shake_256(b"weights").digest(SIZE))
    return path


def run(bucket, source, *options):
    return upload.main([str(source), f"obs://{bucket.name}/run", "--part_size", "5", *options])


def stored(bucket, key="run/merged.ckpt"):
    return bucket.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def test_parts_and_checksum(bucket, weights, proxy, capsys):
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes() and proxy.parts == 5
    assert f"{SIZE:,} bytes, {SIZE:,} sent, verified" in capsys.readouterr().out
    run(bucket, weights)
    assert proxy.parts == 5 and f"{SIZE:,} bytes, 0 sent, verified" in capsys.readouterr().out


def test_a_folder_with_odd_names_and_an_empty_file(bucket, tmp_path):
    folder = tmp_path / "out"
    for name, content in (("日志 1.txt", b"x"), ("deep/er/a+b.txt", b"y"), ("empty", b"")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    run(bucket, folder, "--public_read")
    listed = {entry["Key"]: entry["Size"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]}
    assert listed == {"run/日志 1.txt": 1, "run/deep/er/a+b.txt": 1, "run/empty": 0}


def test_dropped_connections_and_5xx_are_retried(bucket, weights, proxy):
    proxy.faults = ["drop", 503, "drop", 500]
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes() and proxy.faults == []


@pytest.mark.slow
def test_giving_up_leaves_the_parts_for_the_next_try(bucket, weights, proxy, monkeypatch):
    monkeypatch.setattr(obs, "RETRIES", 1)
    proxy.faults = [None, None, 503, 503]
    with pytest.raises(ToolkitError, match="answered 503 Injected; run the same command again"):
        run(bucket, weights, "--parallel", "1")
    assert proxy.parts in (2, 3)  # the next part may be on its way already
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes() and proxy.parts == 5


@pytest.mark.slow
def test_kill_in_the_middle_goes_on(root, bucket, weights, proxy, capsys):
    proxy.delay = 0.3
    command = [sys.executable, str(root / "research_internlm/upload.py"), str(weights),
               f"obs://{bucket.name}/run", "--part_size", "5", "--parallel", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while proxy.parts < 2 and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # what the proxy had in hand arrives
    before, proxy.delay = proxy.parts, 0.0
    assert 2 <= before < 5
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes() and proxy.parts == 5
    assert f"{SIZE - before * PART:,} sent" in capsys.readouterr().out


@pytest.mark.slow
def test_another_file_does_not_go_on_with_the_parts_of_the_old(bucket, weights, proxy, monkeypatch):
    monkeypatch.setattr(obs, "RETRIES", 0)
    proxy.faults = [None, None, 503]
    with pytest.raises(ToolkitError):
        run(bucket, weights, "--parallel", "1")
    weights.write_bytes(hashlib.shake_256(b"other").digest(SIZE))
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes()
    assert "Uploads" not in bucket.list_multipart_uploads(Bucket=bucket.name)


@pytest.mark.slow
def test_an_object_of_other_content_is_not_replaced(bucket, weights):
    bucket.put_object(Bucket=bucket.name, Key="run/merged.ckpt", Body=b"older")
    with pytest.raises(ToolkitError, match="exists already with other content"):
        run(bucket, weights)
    assert stored(bucket) == b"older"
    run(bucket, weights, "--overwrite")
    assert stored(bucket) == weights.read_bytes()


def test_wrong_key_and_no_key(root, bucket, weights, monkeypatch):
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", "WRONG")
    script = root / "scripts/upload_obs.sh"
    command = ["bash", script, weights, f"obs://{bucket.name}/run"]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "answered 403" in errors[0]
    assert "OBS_ACCESS_KEY_ID" in errors[0] and "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout and "WRONG" not in done.stderr + done.stdout
    monkeypatch.delenv("OBS_SECRET_ACCESS_KEY")
    with pytest.raises(ToolkitError, match="OBS_SECRET_ACCESS_KEY not set"):
        run(bucket, weights)


def test_missing_bucket_and_server(bucket, weights, monkeypatch):
    with pytest.raises(ToolkitError, match=r"bucket nosuchbucket: .* answered 404"):
        upload.main([str(weights), "obs://nosuchbucket/run"])
    monkeypatch.delenv("OBS_SERVER")
    with pytest.raises(ToolkitError, match="no endpoint"):
        run(bucket, weights)
    with pytest.raises(ToolkitError, match="is not an address"):
        run(bucket, weights, "--server", "ftp://x")
    monkeypatch.setattr(obs, "RETRIES", 0)
    with pytest.raises(ToolkitError, match=r"no answer from 127\.0\.0\.1:1 after 0 retries"):
        run(bucket, weights, "--server", "http://127.0.0.1:1")


def test_public_read_is_checked_and_recorded(bucket, weights, tmp_path):
    record = tmp_path / "obs_links.json"
    run(bucket, weights, "--record", str(record))
    [entry] = json.loads(record.read_text())
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(entry["url"])
    run(bucket, weights, "--public_read", "--record", str(record))
    [entry] = json.loads(record.read_text())
    assert entry["public_read"] and entry["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert urllib.request.urlopen(entry["url"]).read() == weights.read_bytes()
    assert SECRET not in record.read_text() and ACCESS not in record.read_text()


@pytest.mark.parametrize(("form", "words"), [
    ("{}", "the content is an object, a list was expected"),
    ('[{"url": "u"}]', r"\[0\]\.file is missing, \[0\]\.bytes is missing, \[0\]\.sha256 is missing")])
def test_a_record_of_another_form_is_said_before_the_upload(bucket, weights, tmp_path, form, words):
    record = tmp_path / "obs_links.json"
    record.write_text(form)
    with pytest.raises(ToolkitError, match=words):
        run(bucket, weights, "--record", str(record))
    assert "Contents" not in bucket.list_objects_v2(Bucket=bucket.name)


def test_public_read_that_the_server_ignores(bucket, weights, monkeypatch):
    monkeypatch.setattr(obs.ObjectStore, "make_public", lambda store, key: None)
    with pytest.raises(ToolkitError, match=r"cannot be read without credentials \(403\)"):
        run(bucket, weights, "--public_read")


@pytest.mark.parametrize(("checks_md5", "message"), [
    (True, "answered 400 BadDigest"), (False, "the server received other content")])
def test_damage_on_the_way_is_noticed(bucket, weights, proxy, checks_md5, message):
    proxy.damage, proxy.checks_md5 = True, checks_md5
    with pytest.raises(ToolkitError, match=message):
        run(bucket, weights)
    assert "Contents" not in bucket.list_objects_v2(Bucket=bucket.name)


def test_a_file_that_grows_meanwhile(bucket, weights, monkeypatch):
    send = obs.ObjectStore.put_part

    def put_part(store, *arguments):
        os.utime(weights)
        return send(store, *arguments)

    monkeypatch.setattr(obs.ObjectStore, "put_part", put_part)
    with pytest.raises(ToolkitError, match="changed while it was uploaded"):
        run(bucket, weights)


def test_a_file_that_grew_since_it_was_listed_is_sent_as_it_is(bucket, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    items, _ = sending.items_of(folder, "run")
    (folder / "b").write_bytes(b"longer")
    arguments = upload.parse_arguments([str(folder), f"obs://{bucket.name}/run"])
    assert list(upload.upload_all(obs.connect(bucket.name, None), items, folder, arguments)) == []
    head = bucket.head_object(Bucket=bucket.name, Key="run/b")
    assert head["ContentLength"] == 6 and head["Metadata"]["sha256"] == hashlib.sha256(b"longer").hexdigest()
    assert "(6 bytes, 6 sent, verified)" in capsys.readouterr().out


def test_a_file_that_grows_while_it_is_sent_fails_and_the_others_go(bucket, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.log").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    head = obs.ObjectStore.head

    def grow(store, key):
        if key.endswith("a.log"):
            with open(folder / "a.log", "ab") as log:
                log.write(b"more")
        return head(store, key)

    monkeypatch.setattr(obs.ObjectStore, "head", grow)
    with pytest.raises(ToolkitError, match=r"1 file\(s\) .* not uploaded: .*a\.log changed .* \(1 bytes"):
        run(bucket, folder)
    listed = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]]
    assert listed == ["run/b"]


@pytest.mark.slow
def test_an_unfinished_upload_of_another_tail_is_not_completed(bucket, weights, proxy, monkeypatch):
    monkeypatch.setattr(obs, "RETRIES", 0)
    proxy.faults = [None, None, 503]
    with pytest.raises(ToolkitError, match="503 Injected"):
        run(bucket, weights, "--parallel", "1")
    with open(weights, "r+b") as file:  # the two parts on the server are still those of the file
        file.seek(SIZE - 1)
        file.write(b"x" if weights.read_bytes()[-1:] != b"x" else b"y")
    run(bucket, weights)
    assert stored(bucket) == weights.read_bytes()
    sha256 = bucket.head_object(Bucket=bucket.name, Key="run/merged.ckpt")["Metadata"]["sha256"]
    assert sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_links_are_followed_and_what_cannot_go_is_listed(bucket, tmp_path):
    folder, elsewhere, record = tmp_path / "out", tmp_path / "elsewhere", tmp_path / "links.json"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "x").write_bytes(b"x")
    folder.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder)
    (folder / "gone").symlink_to("nothing")
    (folder / os.fsdecode(b"\xff")).write_bytes(b"x")
    with pytest.raises(ToolkitError, match=r"4 file\(s\)") as error:
        run(bucket, folder, "--record", str(record))
    for words in ("out/circle is a link to a folder it lies in",
                  "linked/back is a link to a folder it lies in", "gone is a link to nothing",
                  "\\xff has a name that is not UTF-8"):
        assert words in str(error.value)
    listed = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=bucket.name)["Contents"]]
    assert listed == ["run/linked/deep/x"]
    assert [entry["file"] for entry in json.loads(record.read_text())] == ["linked/deep/x"]


def test_dry_run_connects_to_nothing(weights, monkeypatch, capsys):
    monkeypatch.delenv("OBS_ACCESS_KEY_ID", raising=False)
    upload.main([str(weights), "obs://bucket/a/b/", "--part_size", "5", "--dry_run"])
    out = capsys.readouterr().out
    assert f"merged.ckpt -> obs://bucket/a/b/merged.ckpt ({SIZE:,} bytes, 5 part(s))" in out


@given(st.integers(1, 6 * 2**40), st.integers(5, 100))
def test_parts_cover_the_file_and_are_never_too_many(size, mib):
    ranges = multipart.part_ranges(size, mib * multipart.MIB)
    assert len(ranges) <= multipart.MOST_PARTS and ranges[0][0] == 0 and sum(ranges[-1]) == size
    assert all(before + length == after for (before, length), (after, _) in itertools.pairwise(ranges))


@pytest.mark.parametrize("url", ["bucket/x", "s3://bucket/x", "obs://UPPER/x", "obs://", "obs:///x"])
def test_targets_that_are_none(url):
    with pytest.raises(ToolkitError, match="is not of the form"):
        obs.parse_url(url)


def test_target_and_source():
    assert obs.parse_url("obs://bucket") == ("bucket", "")
    assert obs.parse_url("obs://bucket/a/b/") == ("bucket", "a/b")
    with pytest.raises(ToolkitError, match="does not exist"):
        sending.items_of("/nowhere/file", "a")


@pytest.mark.parametrize(("record", "words"), [
    (".", "the output .* is a folder"), ("file/links.json", "is a file, not a folder")])
def test_a_record_that_cannot_be_written_is_said_before_the_upload(tmp_path, monkeypatch, record, words):
    monkeypatch.setattr(upload, "connect", lambda *_: pytest.fail("connected"))
    for name in ("file", "weights.ckpt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ToolkitError, match=words):
        upload.main([str(tmp_path / "weights.ckpt"), "obs://bucket/run", "--record", str(tmp_path / record)])
