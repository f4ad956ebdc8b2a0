"""Keeps pushing a run to its mirror until the run has ended."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from research_internlm.mirroring.push import Pusher, RefusedError, printable
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import processes_of, take_lock
from research_internlm.storage.obs import connect, parse_url

MOST_WAIT = 600.0  # seconds between two tries while the network is away
UNSAFE_EXIT_CODE = 1
COMMAND = Path(__file__).resolve().parents[1] / "mirror.py"
_POLL_SECONDS = 1.0


def log(line: str) -> None:
    """Writes a line of the mirror's own log, which the launcher keeps beside the workers'."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=sys.stderr, flush=True)


def lower_priority() -> None:
    """Takes only the processor and disk time that the training leaves."""
    os.nice(19)
    if ionice := shutil.which("ionice"):
        subprocess.run([ionice, "-c", "3", "-p", str(os.getpid())], check=False, stderr=subprocess.DEVNULL)


def keep_pushing(pusher: Pusher, ended: threading.Event, interval: float) -> None:
    """Makes rounds until one after the end of the training went through; no error ends it earlier.

    Raises:
        RefusedError: Nothing may be sent there.
    """
    failures = 0
    while True:
        final = ended.is_set()
        try:
            pusher.round(final)
            if final:
                return
            failures = 0
        except RefusedError:
            raise
        except Exception as error:  # whatever it is, the training's other checkpoints still count
            failures += 1
            log(f"try {failures} failed: {type(error).__name__}: {error}")
        if final:
            time.sleep(min(2.0**failures, 30.0))
        else:
            ended.wait(min(interval * 2.0**failures if failures else interval, max(interval, MOST_WAIT)))


def watch_for_the_end(ended: threading.Event, folder: Path) -> None:
    """Sets the event at SIGTERM or SIGINT, or when the launcher is gone and no process of the run lives.

    A killed launcher closes standard input while its workers keep training. A closed terminal ends nothing.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def read() -> None:
        with contextlib.suppress(OSError):  # it was closed from the start
            while os.read(0, 4096):
                pass
        while processes_of(folder):
            time.sleep(_POLL_SECONDS)
        ended.set()

    threading.Thread(target=read, daemon=True).start()


def wait_for_another(folder: Path) -> None:
    """Waits for a mirror that an earlier launch left working on the same folder."""
    said = False
    while not take_lock(folder / run_layout.MIRROR_LOCK):  # two would remove each other's objects
        if not said:
            log("waiting for another mirror of this folder to end")
        said = True
        time.sleep(_POLL_SECONDS)


def push(arguments: argparse.Namespace) -> int:
    """Mirrors a run to its end; a thread does it, so that a dead network cannot delay the last messages."""
    if not arguments.folder.is_dir():
        raise ToolkitError(f"{arguments.folder} is not the folder of a run")
    bucket, prefix = parse_url(arguments.url)
    pusher = Pusher(connect(bucket, arguments.server), prefix, arguments.folder, log)
    lower_priority()
    ended, refused = threading.Event(), []

    def work() -> None:
        try:
            wait_for_another(arguments.folder)
            keep_pushing(pusher, ended, arguments.interval)
        except RefusedError as error:
            log(f"error: {error}")
            refused.append(str(error))

    watch_for_the_end(ended, arguments.folder)
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive() and not ended.wait(1.0):
        pass
    worker.join(arguments.finish_within)
    return report(pusher, arguments, refused)


def report(pusher: Pusher, arguments: argparse.Namespace, refused: list[str]) -> int:
    """Says what is safe and what is not; returns the exit code."""
    unsafe = pusher.unsafe()
    print(f"mirror {arguments.url}: safe up to step {pusher.safe_step:,}" if pusher.safe_step
          else f"mirror {arguments.url}: no checkpoint is safe")
    for line in refused:
        print(f"  {line}")
    for file, reason in unsafe:
        print(f"  not yet safe: {printable(arguments.folder / file.name)} ({file.size:,} bytes): {reason}")
    if unsafe:
        again = [sys.executable, str(COMMAND), "push", str(arguments.folder.resolve()),
                 arguments.url, *(["--server", arguments.server] if arguments.server else [])]
        print(f"  {len(unsafe)} file(s), {sum(file.size for file, _ in unsafe):,} bytes not yet safe; send "
              f"them with: {shlex.join(again)} < /dev/null")
    return UNSAFE_EXIT_CODE if unsafe or refused else 0
