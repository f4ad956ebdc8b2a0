"""The output folder of a launch: its lock, an old run set aside, a run fetched from its mirror."""

from __future__ import annotations

from pathlib import Path

from research_internlm.launching.options import Launch
from research_internlm.mirroring.fetch import EmptyMirrorError, fetch
from research_internlm.runs import attempts
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import processes_of, take_lock
from research_internlm.storage.obs import connect, parse_url


def lock_of(launch: Launch) -> Path:
    """The lock's file."""
    return run_layout.lock_file(launch.output, "0" if launch.is_master else launch.msrun["node_rank"])


def acquire_run_lock(launch: Launch) -> None:
    """Takes the folder's lock, one for each machine of the run.

    Raises:
        ToolkitError: Another launch has it.
    """
    if not take_lock(lock_of(launch)):
        raise ToolkitError(f"another launch is at work in {launch.output}: wait for it, or end it, or choose "
                           "another --output_dir")


def set_old_run_aside(launch: Launch) -> None:
    """Moves what is in the folder aside, so that a new run is not mixed with it."""
    print(f"the earlier run is now {attempts.set_aside(launch.output)}", flush=True)
    acquire_run_lock(launch)  # the lock moved with the folder


def fetch_from_mirror(launch: Launch) -> None:
    """Brings what is not here from the mirror of --resume; where it is empty, the run begins.

    Raises:
        ToolkitError: It cannot be reached, or holds another run.
    """
    if not launch.is_master:
        if not run_layout.is_run(launch.output):
            raise ToolkitError(f"{launch.output} holds no run yet, and only node 0 fetches --resume "
                               f"{launch.source}: start this node after node 0 has fetched it")
        return
    if processes_of(launch.output):
        return  # nothing may change under a living run, and `check` refuses it
    bucket, prefix = parse_url(launch.source)
    try:
        fetch(connect(bucket, None), prefix, launch.output, lambda line: print(line, flush=True))
    except EmptyMirrorError as error:
        print(f"nothing to resume from: {error}", flush=True)
