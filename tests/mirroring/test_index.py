"""The index of a mirror is checked before use: whoever may write to the bucket may have written it."""

import json

import pytest

from research_internlm.mirroring.index import Index, RunSettings, refusal
from research_internlm.shared.errors import ToolkitError
from tests.helpers.run_info import run_info

RECIPE = {"runner_config": {}, "train_dataset": {}, "callbacks": []}
FILE = {"bytes": 1, "sha256": "0" * 64, "step": None}


def decode(**changes):
    index = {"recipe": RECIPE, "facts": run_info(), "files": {"run.json": FILE}, "leftovers": []} | changes
    return Index.decode(json.dumps(index).encode(), "obs://b/p")


def test_what_a_pusher_writes_is_read_again():
    index = decode(files={"run.json": FILE, "checkpoint/rank_0/a b.ckpt": FILE | {"step": 4}},
                   leftovers=["x.json.0123456789abcdef"])
    assert Index.decode(index.encode(), "obs://b/p") == index and index.last == 4
    assert refusal(index, index.settings, 4, "obs://b/p", "run") is None
    other = RunSettings(RECIPE, index.facts.data, 2)
    assert "workers: 1 -> 2" in refusal(index, other, 4, "obs://b/p", "run")


@pytest.mark.parametrize(("changes", "words"), [
    ({"files": {"/etc/passwd": FILE}}, "a key of files is '/etc/passwd', a plain relative path was expected"),
    ({"files": {"a/../../b": FILE}}, "a plain relative path was expected"),
    ({"files": {"..\\b": FILE}}, "a plain relative path was expected"),
    ({"files": {"C:b": FILE}}, "a plain relative path was expected"),
    ({"files": {"a\x1b[2J": FILE}}, r"'a\x1b[2J', a plain relative path was expected"),
    ({"files": {"a": FILE | {"sha256": "/root/.bashrc"}}}, "files.a.sha256 is '/root/.bashrc', a sha256"),
    ({"files": {"a": FILE | {"sha256": "../" + "0" * 61}}}, "a sha256 of 64 hexadecimal digits was expected"),
    ({"files": {"a": FILE | {"bytes": -1}}}, "files.a.bytes is -1, a whole number of 0 or more was expected"),
    ({"files": {"a": FILE | {"bytes": 1.5}}}, "files.a.bytes is 1.5, a whole number was expected"),
    ({"files": {"a": FILE | {"step": "4"}}}, "files.a.step is '4', a whole number was expected"),
    ({"files": {"a": []}}, "files.a is a list, an object was expected"),
    ({"files": []}, "files is a list, an object was expected"),
    ({"leftovers": ["../x"]}, "leftovers[0] is '../x', a plain relative path was expected"),
    ({"leftovers": {}}, "leftovers is an object, a list was expected"),
    ({"recipe": {"callbacks": {}}}, "recipe is an object, a training recipe with runner_config"),
    ({"recipe": RECIPE | {"callbacks": [{"save_checkpoint_steps": 8}]}}, "callbacks that each have a type"),
    ({"facts": run_info(data={"counts": {}})}, "facts.data.train_dataset.counts.out is missing"),
    ({"facts": run_info(data={"counts": {"in": 1, "samples": 1, "out": 0, "dropped": {}}})},
     "counts.out is 0, a whole number above 0 was expected"),
    ({"facts": run_info(0)}, "facts.workers is 0, a whole number above 0 was expected"),
    ({"facts": run_info() | {"data": {}}}, "facts is an object, the run.json of a training")])
def test_a_written_index_is_refused(changes, words):
    with pytest.raises(ToolkitError) as caught:
        decode(**changes)
    text = str(caught.value)
    assert text.startswith("the mirror's index obs://b/p/mirror.json is not valid: ") and words in text
    assert text.endswith("; use another prefix")


@pytest.mark.parametrize(("content", "words"), [
    (b"[]", "the content is a list"), (b"{}", "recipe is missing, facts is missing"), (b"{", "is not JSON"),
    (b"\xff", "is not UTF-8"), (b"[" * 100_000, "nested too deeply"), (b"9" * 5_000, "cannot be read")])
def test_what_is_no_index(content, words):
    with pytest.raises(ToolkitError, match=words):
        Index.decode(content, "obs://b/p")
