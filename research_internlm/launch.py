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
from collections.abc import Mapping
from typing import Any

from research_internlm.launching.checks import another_run, check, continues
from research_internlm.launching.folder import fetch_from_mirror, keep_to_oneself, make_room
from research_internlm.launching.msrun import start
from research_internlm.launching.options import Launch, parse, run_arguments
from research_internlm.mirroring import beside_a_run
from research_internlm.recipes.schedule import steps_of
from research_internlm.runs import saved_steps
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError, run_main


def go_on(launch: Launch, data: Mapping[str, Any]) -> int:
    """Continues the run in the folder, or says that it is finished and sends what its mirror lacks."""
    found = saved_steps.find_checkpoints(launch.output / "checkpoint")
    for reason in found.broken.values():
        print(f"not used: {reason}", flush=True)
    total = steps_of(launch.recipe, data["train_dataset"].counts.out, launch.workers).total
    if found.last < total:
        print(f"continuing {launch.output} from step {found.last:,} of {total:,}", flush=True)
        return start(launch, True, found.last)
    print(f"{launch.output} is finished: step {found.last:,} of {total:,}; nothing to train", flush=True)
    if launch.mirror and launch.is_master:
        last = max((launch.output / run_layout.LOG_FOLDER).glob("attempt-[0-9]*"), default=launch.output)
        with beside_a_run.mirroring(launch.mirror, launch.output, last):
            pass
    return 0


def launch_run(launch: Launch) -> int:
    """Checks, then starts or continues the run, or says that it is finished.

    Raises:
        ToolkitError: Something does not hold, or the folder holds another run.
    """
    arguments = run_arguments(launch)
    keep_to_oneself(launch)
    if launch.source:
        fetch_from_mirror(launch)
    data = check(launch, arguments)
    if not continues(launch, arguments, data):
        saved = saved_steps.find_checkpoints(launch.output / "checkpoint").complete
        if saved or run_layout.is_run(launch.output):
            make_room(launch, arguments)
        return start(launch, False, 0)
    if changed := another_run(launch, data):
        raise ToolkitError(f"{launch.output} holds another run; {len(changed)} difference(s): "
                           f"{'; '.join(changed)}. Choose another --output_dir, or pass --overwrite "
                           "behind -- to move that run aside")
    return go_on(launch, data)


def main() -> int:
    """Runs the entry point."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a notebook being stopped, a terminal being closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    return launch_run(parse(sys.argv[1:], __doc__))


def _interrupt(*_: Any) -> None:
    # Raised here and not by SIGINT, which a shell has a job behind & ignore.
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_main(main)
