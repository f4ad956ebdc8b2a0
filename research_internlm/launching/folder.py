"""The output folder of a launch: its lock, an old run set aside, a run fetched from its mirror."""

from __future__ import annotations

import argparse

from research_internlm.launching.options import Launch
from research_internlm.mirroring.fetch import EmptyMirrorError, fetch
from research_internlm.runs import attempts
from research_internlm.shared import run_layout
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import processes_of, take_lock
from research_internlm.shared.run_layout import IDENTITY
from research_internlm.storage.obs import connect, parse_url


def keep_to_oneself(launch: Launch) -> None:
    """Takes the folder's lock, one for each machine of the run.

    Raises:
        ToolkitError: Another launch has it.
    """
    name = ".lock" if launch.is_master else f".lock-{launch.msrun['node_rank']}"
    if not take_lock(launch.output / name):
        raise ToolkitError(f"another launch is at work in {launch.output}: wait for it, or end it, or choose "
                           "another --output_dir")


def make_room(launch: Launch, arguments: argparse.Namespace) -> None:
    """Moves what would be mixed with a new run aside, if the user said so.

    Raises:
        ToolkitError: He did not; these are checkpoints without the run's settings.
    """
    if not arguments.overwrite:
        missing = [name for name in IDENTITY if not (launch.output / name).is_file()]
        raise ToolkitError(f"{launch.output} holds checkpoints but no {' and no '.join(missing)}: put them "
                           "back (a fetch that broke off goes on with the same --resume), choose another "
                           "--output_dir, or pass --overwrite behind -- to move the folder aside")
    print(f"the earlier run is now {attempts.set_aside(launch.output)}", flush=True)
    keep_to_oneself(launch)  # the lock moved with the folder


def fetch_from_mirror(launch: Launch) -> None:
    """Brings what is not here from the mirror of --resume; where it is empty, the run begins.

    Raises:
        ToolkitError: It cannot be reached, or holds another run.
    """
    if not launch.is_master:
        if not run_layout.is_run(launch.output):
            raise ToolkitError(f"{launch.output} holds no run yet, and only node 0 fetches --resume "
                               f"{launch.source}: start this node when node 0 has fetched it")
        return
    if processes_of(launch.output):
        return  # nothing may change under a living run, and `check` refuses it
    bucket, prefix = parse_url(launch.source)
    try:
        fetch(connect(bucket, None), prefix, launch.output, lambda line: print(line, flush=True))
    except EmptyMirrorError as error:
        print(f"nothing to resume from: {error}", flush=True)
