"""Runs a command's own main under the toolkit's error wrapper, in a forked child with a time limit."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.shared.errors import run_main

SECONDS = 60  # CPU time of one command; the slowest takes about ten, while it imports MindSpore
WAIT = 600  # seconds until a command that uses no CPU hangs; machines may be busy
MEMORY = 6 << 30  # bytes of address space beyond what the parent has


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Its exit code; negative for a signal.
        output: stdout and stderr together.
        hung: Whether it was ended at the time limit.
    """

    code: int
    output: str
    hung: bool

    @property
    def problem(self) -> str | None:
        """What must never happen, or None: a traceback, a crash, a hang, an error without its line."""
        if self.hung:
            return "hang"
        if self.code < 0:
            return f"crash: {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.output:
            return "traceback"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if self.code == 2 and "error: " not in self.output:
            return "exit code 2 without an error line"
        return None


def run(main: Callable[[list[str]], int | None], argv: Sequence[str], folder: Path) -> Outcome:
    """Forks, runs `main(argv)` in `folder`, and waits.

    Args:
        main: A command's main.
        argv: Its arguments.
        folder: Current folder of the child; its output is kept outside, beside it.
    """
    child = start(main, argv, folder)
    deadline = time.monotonic() + WAIT
    hung = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            hung = True
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    return Outcome(os.waitstatus_to_exitcode(status), _log_of(folder).read_text("utf-8", "replace"), hung)


def start(main: Callable[[list[str]], int | None], argv: Sequence[str], folder: Path) -> int:
    """As `run`, without waiting; returns the id of the child and of its process group."""
    child = os.fork()
    if child == 0:
        _become(main, list(argv), folder, _log_of(folder))
    with contextlib.suppress(PermissionError):  # the child has done it
        os.setpgid(child, child)
    return child


def _log_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".log")


def _become(main: Callable, argv: list[str], folder: Path, log: Path) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (the child's own)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        run_main(lambda: main(argv))
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)
