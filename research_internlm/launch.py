"""Entry point: starts, or continues, a training run on several workers; scripts/train_msrun.sh calls it.

    bash scripts/train_msrun.sh CONFIG [WORKERS] [--mirror obs://B/P] [--resume obs://B/P] [msrun options]
        [-- run_internlm.py options]

The same command in the same --output_dir continues the run from its last complete checkpoint. Each attempt
has its own folder OUTPUT_DIR/msrun_log/attempt-NNN with all logs and attempt.json: command, environment,
versions, start, end, exit code. msrun's own options (several machines: --worker_num=8 --local_worker_num=4
--master_addr=... --node_rank=...) are passed on; OUTPUT_DIR must then be shared between the machines.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from research_internlm.launching.checks import check
from research_internlm.launching.folder import (
    acquire_run_lock,
    fetch_from_mirror,
    lock_of,
    set_old_run_aside,
)
from research_internlm.launching.msrun import start
from research_internlm.launching.options import Launch, parse
from research_internlm.launching.run_state import RunState, read_state
from research_internlm.mirroring import beside_a_run
from research_internlm.recipes.schedule import steps_from_recipe
from research_internlm.runs.refusal import without_traces
from research_internlm.shared import run_layout
from research_internlm.shared.errors import run_main


def launch_run(launch: Launch) -> int:
    """Checks, then starts or continues the run, or says that it is finished.

    Raises:
        ToolkitError: A check fails, or the folder holds another run.
    """
    with without_traces(launch.output, lock_of(launch)):
        acquire_run_lock(launch)
        if launch.source:
            fetch_from_mirror(launch)
        state = read_state(launch)
        check(launch, state)
    # The folder holds                          and the command then
    #   nothing, or what a killed start left    starts a run
    #   this run                                continues it from its last complete checkpoint
    #   this run, finished                      says so; the mirror gets what it lacks
    #   another run                             was refused by `check`, with the differences
    #   checkpoints without their run's files   was refused by `check`
    # With --overwrite:
    #   another run, or such checkpoints        moves the folder aside and starts a run
    #   this run, started without --overwrite   the same
    #   this run, started with --overwrite      continues it: the same command again must not start over
    if state.is_same_run:
        return resume_run(launch, state)
    if state.holds_something:
        set_old_run_aside(launch)
    return start(launch, False, 0)


def resume_run(launch: Launch, state: RunState) -> int:
    """Continues the run in the folder, or says that it is finished and sends what its mirror lacks."""
    for reason in state.checkpoints.broken.values():
        print(f"not used: {reason}", flush=True)
    last = state.last_step
    total = steps_from_recipe(launch.recipe, state.data["train_dataset"].counts.out, launch.workers).total
    if last < total:
        print(f"continuing {launch.output} from step {last:,} of {total:,}", flush=True)
        return start(launch, True, last)
    print(f"{launch.output} is finished: step {last:,} of {total:,}; nothing to train", flush=True)
    if launch.mirror and launch.is_master:
        attempt = [launch.output, *run_layout.attempt_dirs(launch.output).values()][-1]
        with beside_a_run.mirroring(launch.mirror, launch.output, attempt):
            pass
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a notebook being stopped, a terminal being closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    return launch_run(parse(sys.argv[1:] if argv is None else argv, __doc__))


def _interrupt(*_: Any) -> None:
    # Raised here and not by SIGINT: a job that a shell starts with & ignores that signal.
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_main(main)
