"""What may leave the machine: whole files, as their manifests say, without credentials."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from research_internlm.publishing.contents import collect
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import manifest_path, write_json


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.zeros(64, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def write(name, content):
    def change(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return change


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def index_of_two(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}))


def secret_in_header(folder):
    save_file({"w": np.zeros(64, np.float32)}, folder / "model.safetensors",
              metadata={"note": "api_key=abcdefgh12345678abcd"})


def damaged(folder):
    write_json(manifest_path(folder / "config.json"), {"sha256": "0" * 64})


@pytest.mark.parametrize("change, message", [
    (write("w.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "Git LFS"),
    (write("w.bin.part", b"x"), "w.bin.part is a partial file"),
    (write(".partial-w.bin.d/new", b"x"), "unfinished output"),
    (write("empty.json", b""), "empty.json is empty"),
    (cut, "model.safetensors .* is truncated"), (index_of_two, "model-2.safetensors does not exist"),
    (write("notes.txt", b"first\npassword = hunter22\n"), r"notes.txt line 2 holds a password"),
    (secret_in_header, "model.safetensors line 1 holds an API key"),
    (damaged, "its manifest says 000000000000"),
    (lambda folder: (folder / "link").symlink_to(__file__), "link out of its folder"),
    (lambda folder: (folder / "gone").symlink_to("nowhere"), "is a link to nothing"),
])
def test_what_forbids_to_publish(folder, change, message):
    assert collect(folder)
    change(folder)
    with pytest.raises(ToolkitError, match=message):
        collect(folder)


def test_all_problems_are_told_at_once(folder):
    cut(folder)
    write("a.tmp", b"x")(folder)
    with pytest.raises(ToolkitError, match=r"2 problem\(s\): \(1\) .*a\.tmp.*\(2\) .*truncated"):
        collect(folder)


def test_every_file_once_and_hidden_ones_listed(folder):
    write("sub/deep.json", b"{}")(folder)
    write(".git/config", b"password = hunter22")(folder)
    items, hidden = collect(folder)
    assert [item.name for item in items] == ["config.json", "model.safetensors", "sub/deep.json"]
    assert [Path(item.path).stat().st_size for item in items] == [item.size for item in items]
    assert hidden == [".git/config"]
    with pytest.raises(ToolkitError, match="is not a folder"):
        collect(folder / "config.json")
