"""What reaches the terminal: one error line, and nothing that acts on it."""

import errno
import io
import os
import subprocess
import sys

import pytest

from research_internlm.shared import errors
from research_internlm.shared.terminal import printable
from tests.helpers.commands import ROOT

OSC_AND_CLEAR = "\x1b]0;owned\x07\x1b[2J"


def test_only_what_acts_on_a_terminal_is_escaped():
    text = "中文 ⟦₂⟧ é\t|\r\n"
    assert printable(text) == text
    assert printable(OSC_AND_CLEAR + "\u2028\u202e\x9b") == (
        r"\x1b]0;owned\x07\x1b[2J" r"\u2028\u202e\x9b")


def run(code, **environment):
    program = f"from research_internlm.shared.errors import *\ndef main():\n    {code}\nrun_main(main)"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False,
                          env=os.environ | environment)


def test_prints_and_errors_are_escaped_once():
    done = run(f"print({OSC_AND_CLEAR!r}); raise ToolkitError('a' + {OSC_AND_CLEAR!r} + '\\u2028b\\nc')")
    assert done.stdout == b"\\x1b]0;owned\\x07\\x1b[2J\n"
    assert done.stderr == b"error: a\\x1b]0;owned\\x07\\x1b[2J b c\n" and done.returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_no_terminal_ends_a_command(encoding):
    done = run("print('水 H\\u2082O \\u27e6 \\udc80')", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"\\u2082" in done.stdout or encoding == "utf-8"
    assert b"\\udc80" in done.stdout


def test_the_c_locale_without_coercion():
    done = run("print('\\u6c34')", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert done.returncode == 0 and done.stdout == b"\\u6c34\n"


@pytest.mark.parametrize("number, words", [
    (errno.ENOSPC, "cannot write /dev/null: No space left on device (the disk at "),
    (errno.EACCES, "cannot use /dev/null: Permission denied; check the path and its permissions"),
])
def test_what_the_system_refused_is_named_as_what_it_was(number, words, monkeypatch):
    def main():
        raise OSError(number, os.strerror(number), "/dev/null")

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        errors.run_main(main)
    assert ended.value.code == 2 and words in stream.getvalue()


def test_a_path_with_a_nul_is_one_line():
    done = run("open('a\\0b')")
    assert done.returncode == 2 and done.stderr.startswith(b"error: embedded null byte: a path must not")


def test_a_path_without_a_name_is_one_line():
    done = run("from pathlib import Path; Path('').with_name('x')")
    assert done.returncode == 2 and done.stderr.endswith(b"empty name: the name of a file was expected\n")


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    done = run(f"from pathlib import Path; Path('{tmp_path}/loop').resolve()")
    said = f"error: Symlink loop from '{tmp_path}/loop': the link leads back to itself"
    assert done.returncode == 2 and done.stderr.decode().startswith(said) and done.stderr.count(b"\n") == 1
