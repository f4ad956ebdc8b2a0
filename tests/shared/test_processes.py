"""What a launch leaves behind is ended, whatever it does with signals, and nothing else is."""

import os
import subprocess
import sys
from unittest import mock

import pytest

from research_internlm.shared import processes

_DEAF = ("import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
         "sys.stdin.read()")


@pytest.fixture
def deaf_worker():
    """Starts processes that SIGTERM does not end, as a worker inside a compiler is."""
    started = []

    def start(folder):
        started.append(subprocess.Popen(
            [sys.executable, "-c", _DEAF], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, processes.RUN_MARK: str(folder.resolve())}))
        assert started[-1].stdout.readline() == b"deaf\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_processes_of_a_folder_are_ended_though_deaf_to_sigterm(tmp_path, deaf_worker):
    own, other = deaf_worker(tmp_path / "run"), deaf_worker(tmp_path / "other")
    assert processes.processes_of(tmp_path / "run") == [own.pid]
    processes.end_processes(tmp_path / "run")
    assert own.wait(timeout=10) == -9
    assert other.poll() is None and processes.processes_of(tmp_path / "other") == [other.pid]


def test_a_lock_whose_file_was_removed_locks_the_new_file(tmp_path):
    """A refused launch removes its lock's file while another process waits with the old one open."""
    path = tmp_path / ".lock"

    def other():
        program = ("import sys; from pathlib import Path; from research_internlm.shared import processes; "
                   "print(processes.take_lock(Path(sys.argv[1])))")
        return subprocess.check_output([sys.executable, "-c", program, path], text=True).strip()

    opened, flock = [], processes.fcntl.flock

    def remove_first(descriptor, how):
        if not opened:
            opened.append(path.unlink())
        return flock(descriptor, how)

    with mock.patch.object(processes.fcntl, "flock", remove_first):
        assert processes.take_lock(path)
    assert opened and other() == "False"
    os.close(processes._held.pop())
    assert other() == "True"
