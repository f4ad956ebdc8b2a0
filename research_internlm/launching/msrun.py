"""Runs msrun to its end, and says why it ended."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from research_internlm.launching.options import Launch
from research_internlm.mirroring import beside_a_run
from research_internlm.runs import attempts, saved_steps
from research_internlm.shared import run_layout
from research_internlm.shared.errors import USER_ERROR_EXIT_CODE
from research_internlm.shared.processes import RUN_MARK, end_processes, processes_of

ROOT = Path(__file__).resolve().parents[2]
_WORKER_ENDED = re.compile(r"Worker process (\d+) exit with exception. Error code: (-?\d+)")
_GRACE_SECONDS = 15  # msrun then still waits for its scheduler, which may take hours to notice


def run_msrun(command: Sequence[str], attempt: Path, output: Path, has_scheduler: bool
              ) -> tuple[int, str | None]:
    """Runs msrun to its end; prints its output and also writes it to a log file.

    A dead worker ends the job: msrun kills the others at once, but then waits for its scheduler. A dead
    scheduler ends it too: msrun does not watch it, and workers without a rendezvous wait for hours.

    Args:
        command: msrun and its options.
        attempt: Folder of the logs.
        output: The run's folder.
        has_scheduler: Whether this machine starts the scheduler, the workers' rendezvous.

    Returns:
        Exit code, and what is known of the process that ended first.
    """
    environment = {**os.environ, RUN_MARK: str(output)}
    first, ended, alone = None, threading.Event(), threading.Event()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True, errors="replace")
    timer = threading.Timer(_GRACE_SECONDS, end_processes, [output])
    if has_scheduler:
        threading.Thread(target=_end_without_scheduler, args=(output, ended, alone), daemon=True).start()
    try:
        with open(attempt / run_layout.MSRUN_LOG, "w", encoding="utf-8") as log:
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
                if first is None and (match := _WORKER_ENDED.search(line)):
                    first = _how_it_ended(*match.groups())
                    timer.start()
        code = process.wait()
        if alone.is_set():
            first = "its scheduler ended (why: scheduler.log), so all workers were ended"
        return code, first
    finally:
        ended.set()
        timer.cancel()
        end_processes(output)
        process.wait()


def _end_without_scheduler(output: Path, ended: threading.Event, alone: threading.Event) -> None:
    """Kills the run once its workers have been without a scheduler for three looks in a row.

    At the end of a training the scheduler leaves first; on a loaded machine workers took 20 s to follow.
    """
    missing = 0
    while missing < 3:
        if ended.wait(_GRACE_SECONDS):
            return
        without = processes_of(output, "MS_WORKER") and not processes_of(output, "MS_SCHED")
        missing = missing + 1 if without else 0
    alone.set()
    end_processes(output)


def _how_it_ended(process: str, code: str) -> str:
    number = -int(code)
    if number > 0:
        return (f"worker process {process} was killed by {signal.Signals(number).name} (kill, or out of "
                "memory); the others were ended")
    return f"worker process {process} ended with exit code {code}; the others were ended"


def start(launch: Launch, resuming: bool, step: int) -> int:
    """Starts one attempt and records it.

    Args:
        launch: The command.
        resuming: Whether the folder holds this run already.
        step: Step it continues from.
    """
    attempt = attempts.new_attempt(launch.output)
    options = {**launch.msrun, "log_dir": str(attempt)}
    command = ["msrun", *(f"--{name}={value}" for name, value in options.items()),
               str(ROOT / "research_internlm/run_internlm.py"), *launch.run_options]
    if resuming:
        command += ["--resume_training", "True"]
    attempts.record_start(
        attempt, command=shlex.join(["bash", "scripts/train_msrun.sh", *launch.words]),
        msrun=shlex.join(command), overwrite=launch.overwrite, from_step=step)
    code, first = 1, None
    try:
        with beside_a_run.mirroring(launch.mirror if launch.is_master else None, launch.output, attempt):
            try:
                code, first = run_msrun(command, attempt, launch.output,
                                        launch.is_master and launch.workers > 1)
            finally:
                attempts.record_end(attempt, code)
    except KeyboardInterrupt:
        code, first = 130, "interrupted; all workers were ended"
    return report_failure(launch, attempt, code, first) if code else 0


def report_failure(launch: Launch, attempt: Path, code: int, first: str | None) -> int:
    """Says why an attempt ended and how to continue; msrun's own traceback hides it in a worker's log.

    Returns:
        The exit code: 2 for a user's error, as everywhere.
    """
    errors = _errors(attempt)
    for line in errors:
        print(line, file=sys.stderr)
    last = saved_steps.find_saves(launch.output).last
    # What a worker refuses, it refuses again.
    once_more = ("correct what the error says before the next start" if errors
                 else f"the same command again continues from step {last}")
    print(f"training failed (msrun exit code {code}){': ' + first if first else ''}; logs: {attempt}; "
          f"{once_more}", file=sys.stderr)
    return USER_ERROR_EXIT_CODE if errors else max(code, 1)


def _errors(attempt: Path) -> list[str]:
    """The `error:` lines of an attempt's logs; what several workers say, each of its own rank, comes once."""
    lines = (line for log in sorted(attempt.glob("*.log")) if log.name != run_layout.MIRROR_LOG
             for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
             if line.startswith("error:"))
    found: dict[str, str] = {}
    for line in lines:
        found.setdefault(run_layout.for_rank(line, 0), line)
    return list(found.values())
