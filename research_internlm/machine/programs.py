"""Asks another program for its output, for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a program said.

    Attributes:
        code: Its exit code; None where it did not end in time.
        text: stdout and stderr, undecodable bytes replaced.
    """

    code: int | None
    text: str


def ask(command: Sequence[str], seconds: float) -> Answer:
    """Runs a program to its end, or until the time is over.

    Its output goes to a file and it is not waited for after it was killed: a program that hangs in a driver
    cannot be killed, and its children may keep a pipe open.

    Raises:
        OSError: It cannot be started.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        output.seek(0)
        return Answer(code, output.read().decode("utf-8", errors="replace"))
