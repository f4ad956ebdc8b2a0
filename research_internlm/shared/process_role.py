"""What this process is in a job of several: scheduler or worker, its rank, and the number of workers.

msrun tells its processes by environment variables. Job systems set variables of the same names for every
process of a machine (https://github.com/mindspore-lab/mindyolo/issues/449), where they say nothing of us.
"""

from __future__ import annotations

import os
from pathlib import Path

from research_internlm.shared.processes import RUN_MARK

# MindSpore 2.9.0 (MindData included) and MindFormers 1.9.0 take the place of a process in a job from these,
# in part while they are imported. DEVICE_ID and ASCEND_RT_VISIBLE_DEVICES are not among them: they choose the
# NPU of a process that works by itself, too.
JOB_VARIABLES = ("MS_ROLE", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID",
                 "MS_CLUSTER", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "LOCAL_RANK", "LOCAL_RANK_SIZE",
                 "DEVICE_NUM", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE",
                 "PMIX_RANK")


def rank() -> int:
    """This worker's rank as msrun sets it; 0 without msrun."""
    return int(os.environ.get("RANK_ID", "0"))


def is_scheduler() -> bool:
    """Whether msrun started this process as the workers' rendezvous (the scheduler); it trains nothing."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def worker_count() -> int:
    """Number of workers msrun started; 1 without msrun."""
    return int(os.environ.get("MS_WORKER_NUM", "1"))


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
