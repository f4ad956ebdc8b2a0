"""What this process is in a job of several: scheduler or worker, its rank, and the number of workers.

msrun tells its processes by environment variables. Job systems set variables of the same names for every
process of a machine (https://github.com/mindspore-lab/mindyolo/issues/449), where they say nothing of us.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from research_internlm.shared.arguments import whole
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.processes import RUN_MARK

# MindSpore 2.9.0 (MindData included) and MindFormers 1.9.0 take the place of a process in a job from these,
# in part while they are imported. DEVICE_ID and ASCEND_RT_VISIBLE_DEVICES are not among them: they choose the
# NPU of a process that works by itself, too.
JOB_VARIABLES = ("MS_ROLE", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID",
                 "MS_CLUSTER", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "LOCAL_RANK", "LOCAL_RANK_SIZE",
                 "DEVICE_NUM", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE",
                 "PMIX_RANK")


_LAST_PORT = 65535
_HINT = "start several workers with scripts/train_msrun.sh, which sets it"


def rank() -> int:
    """This worker's rank as msrun sets it; 0 without msrun.

    Raises:
        ToolkitError: It is not a number.
    """
    return _whole("RANK_ID", 0, 0)


def is_scheduler() -> bool:
    """Whether msrun started this process as the workers' rendezvous (the scheduler); it trains nothing."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def worker_count() -> int:
    """Number of workers msrun started; 1 without msrun.

    Raises:
        ToolkitError: It is not a number.
    """
    return _whole("MS_WORKER_NUM", 1, 1)


def _whole(name: str, least: int, default: int | None = None, most: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return whole(least, most)(text or "")
    except argparse.ArgumentTypeError as error:
        raise ToolkitError(f"the environment variable {name}: {error}; {_HINT}") from None


def require_job() -> None:
    """Checks the job variables of a process that is to work with others (use_parallel True).

    MindSpore aborts on most of what it does not understand there, or waits for processes that do not exist.

    Raises:
        ToolkitError: The process is no part of a job, or a variable does not make sense.
    """
    role = os.environ.get("MS_ROLE")
    if role not in ("MS_WORKER", "MS_SCHED"):
        found = "nothing started it as one of several" if role is None else f"MS_ROLE is {role!r}"
        raise ToolkitError(f"use_parallel is True, but {found}; {_HINT}, or pass --use_parallel False")
    if not os.environ.get("MS_SCHED_HOST"):
        raise ToolkitError(f"the environment variable MS_SCHED_HOST is missing; {_HINT}")
    _whole("MS_SCHED_PORT", 1, most=_LAST_PORT)
    workers = _whole("MS_WORKER_NUM", 1)
    if role == "MS_WORKER":
        for name in ("RANK_ID", "MS_NODE_ID"):
            _whole(name, 0, 0, workers - 1)


def is_started_by_msrun() -> bool:
    """Whether msrun made this process, so that the job variables are its own.

    The launcher marks all processes of its run. A worker of an msrun typed by hand has no mark, but msrun,
    which waits for its workers, is its parent then.
    """
    if RUN_MARK in os.environ:
        return True
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"msrun" in map(os.path.basename, words[:2])  # a script: its interpreter comes first


def leave_job_variables_out() -> None:
    """Takes the job variables out of the environment of a process that works by itself, and says which.

    Call it before MindSpore is imported. Processes that msrun started keep them.
    """
    found = [name for name in JOB_VARIABLES if name in os.environ]
    if not found or is_started_by_msrun():
        return
    for name in found:
        del os.environ[name]
    print(f"not used: {', '.join(found)} in the environment describe a job of several processes; this one "
          "was not started by msrun and works by itself", flush=True)
