"""Takes a command line of a document to its command's own argument parser."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

from research_internlm import recipes
from research_internlm.__main__ import COMMANDS
from research_internlm.installing import command as setup_command
from research_internlm.launching import options as launch_options
from research_internlm.training import command as training_command
from tests.helpers.commands import ROOT

# Their command lines are read by the script itself, which would start the whole work.
READ_BY_BASH = ("scripts/demo.sh", "scripts/demo_detection.sh", "scripts/demo_assistant.sh",
                "scripts/test.sh")
_STAND_IN = """#!/bin/sh
[ "$1" = -c ] || [ "$2" = -c ] || printf '%s\\0' "$@" > "$RECORD"
"""


class Parsed(Exception):
    """The command's parser has accepted the line."""


def words_of(line: str) -> list[str]:
    """Words of a command line without its leading NAME=value settings."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words


def python_words(words: list[str], folder: Path) -> list[str]:
    """What a `bash scripts/...` line hands to Python: the script runs with a stand-in that writes it down."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    record, python = folder / "words", folder / "bin" / "python"
    python.write_text(_STAND_IN)
    python.chmod(0o755)
    record.unlink(missing_ok=True)
    environment = {**os.environ, "VENV": str(folder), "RECORD": str(record)}
    environment.pop("PYTHON", None)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, check=False,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and record.exists(), f"{shlex.join(words)}: {done.stdout}{done.stderr}"
    return record.read_text().split("\0")[:-1]


def module_and_arguments(line: str, folder: Path) -> tuple[str, list[str]]:
    """The module of a line's command, and its arguments.

    Args:
        line: A command line that begins with bash, python or internlm.
        folder: For the stand-in Python.
    """
    words = words_of(line)
    if words[0] == "internlm":
        assert words[1] in COMMANDS, f"{words[1]} is not a command of internlm"
        return COMMANDS[words[1]], words[2:]
    if words[0] == "bash":
        words = ["python", *python_words(words, folder)]
    words = [word for word in words[1:] if word != "-S"]
    if words[0] == "-m":
        return words[1], words[2:]
    path = (ROOT / words[0]).resolve()
    assert path.is_file(), f"{words[0]} does not exist"
    return ".".join(path.relative_to(ROOT).with_suffix("").parts), words[1:]


def parse(line: str, folder: Path) -> None:
    """Parses a line with its command's own parser, and does nothing else.

    Raises:
        Parsed: The parser accepted it.
        SystemExit: It did not; its message is on standard error.
    """
    module, arguments = module_and_arguments(line, folder)
    after = arguments.index("--") + 1 if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser
    with (mock.patch.object(parser, "parse_args", _then_stop(parser.parse_args)),
          mock.patch.object(recipes, "parse_command_line", _then_stop(recipes.parse_command_line)),
          mock.patch.object(parser, "_get_option_tuples", lambda *_: []),  # no abbreviations in a document
          mock.patch.object(sys, "argv", [module, *arguments])):
        if module.startswith("research_internlm.installing"):
            setup_command.parse_arguments()
        elif module == "research_internlm.launch":  # the whole line: its own options, msrun's and a worker's
            launch_options.parse(arguments, "")
        elif arguments[after:]:
            with contextlib.suppress(Parsed):
                training_command.parse_arguments(["--config", "recipe", *arguments[after:]])
        importlib.import_module(module).main(arguments)


def _then_stop(parse_words):
    def parse_and_stop(*arguments, **options):
        parse_words(*arguments, **options)
        raise Parsed
    return parse_and_stop
