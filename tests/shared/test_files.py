"""Inputs are looked at before they are believed, outputs before the work."""

import errno
import os
import shutil
import socket
from types import SimpleNamespace

import pytest

from research_internlm.shared import files
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.staging import staging

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "the input .* does not exist; hint"),
    (lambda path: path.mkdir(), "is a folder, a file was expected"),
    (lambda path: path.touch(), r"is empty \(0 bytes\)"),
    (os.mkfifo, "is a pipe, device or socket, a file was expected"),
    (lambda path: path.write_bytes(POINTER), "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
])
def test_an_input_that_is_not_its_content(tmp_path, make, message):
    make(tmp_path / "input")
    with pytest.raises(ToolkitError, match=message):
        files.require_file(tmp_path / "input", "the input", "hint")


@pytest.mark.parametrize("name, message", [
    ("a\0b", "cannot be read: embedded null"), ("x" * 300, "cannot be read: File name too long"),
    ("\udc80", "the name is not UTF-8"),
])
def test_a_name_that_no_file_has(tmp_path, name, message):
    with pytest.raises(ToolkitError, match=message):
        files.require_file(tmp_path / name, "the input")


def test_all_pointers_are_found(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(POINTER if name != "b" else b"data")
    assert files.lfs_pointers(sorted(tmp_path.iterdir())) == [tmp_path / "a", tmp_path / "c"]


@pytest.mark.parametrize("kind", ["pipe", "dangling", "socket", "device"])
def test_an_output_that_is_neither_absent_nor_a_file(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to("/dev/null")
    for overwrite in (False, True):
        with pytest.raises(ToolkitError, match="neither a file nor a folder"):
            files.require_absent(path, overwrite)


def test_a_full_disk_names_the_place(tmp_path):
    with pytest.raises(OSError) as error, staging(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path)


def test_text_that_is_not_unicode_is_not_written(tmp_path):
    with pytest.raises(ToolkitError, match=r"cannot write .*out\.json: '\\ud800' is not valid Unicode"):
        files.write_json(tmp_path / "out.json", {"a": "\ud800"})
    assert not list(tmp_path.iterdir())


def test_a_write_that_cannot_fit_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000) if folder == tmp_path
                        else None)
    files.require_room(tmp_path / "not/yet", 1000, "the tensors")
    with pytest.raises(ToolkitError, match=r"the tensors need 1,001 bytes in .*not/yet, 1,000 are free"):
        files.require_room(tmp_path / "not/yet", 1001, "the tensors")


@pytest.mark.parametrize("name", ["", ".", "/", ".."])
def test_an_output_without_a_name_is_refused(name):
    with pytest.raises(ToolkitError, match=r"has an empty name|exists already"):
        files.require_absent(name, overwrite=False)
