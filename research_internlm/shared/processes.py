"""The processes of a run, whoever their parent is now, and locks that let only one process use a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
from pathlib import Path

RUN_MARK = "INTERNLM_RUN_DIR"  # in the environment of every process of a run: the folder's real path
_held: list[int] = []  # descriptors of locks, open until this process ends


def processes_of(output: Path, role: str | None = None) -> list[int]:
    """Ids of living processes that a launch in this folder started.

    Args:
        output: The folder.
        role: Only those msrun gave this role: `MS_WORKER` or `MS_SCHED`.
    """
    marks = {os.fsencode(f"{RUN_MARK}={output.resolve()}"), *([f"MS_ROLE={role}".encode()] if role else [])}
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marks <= set(file.read_bytes().split(b"\0")):
                found.append(int(file.parent.name))
    return sorted(found)


def workers_of(output: Path) -> dict[int, int]:
    """Rank -> process id of the living workers of a run; processes that a worker has forked are left out."""
    found: dict[int, int] = {}
    for process in processes_of(output, "MS_WORKER"):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            ranks = [int(word[8:]) for word in variables if re.fullmatch(rb"RANK_ID=\d+", word)]
            if ranks and b"run_internlm.py" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.setdefault(ranks[0], process)
    return found


def end_processes(output: Path) -> None:
    """Kills what msrun left behind: workers have sessions of their own and outlive it."""
    for process in processes_of(output):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def take_lock(path: Path) -> bool:
    """Takes a lock until this process ends, however it ends.

    Args:
        path: The lock's file; made, with its folder, where it is missing.

    Returns:
        False where another process holds it. Where there can be no lock (a folder that cannot be written to,
        a file system that knows none), the answer is True: `processes_of` still guards one machine.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except BlockingIOError:
            os.close(descriptor)
            return False
        except FileNotFoundError:  # whoever had it removed the file
            pass
        except OSError:
            break
        os.close(descriptor)
    _held.append(descriptor)
    return True
