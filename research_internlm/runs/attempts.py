"""The attempts of a run: a folder of logs for each launch, with what was started, where, and how it ended."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from research_internlm.shared import run_layout, versions
from research_internlm.shared.files import read_json, write_json
from research_internlm.shared.run_layout import ATTEMPT

_ENVIRONMENT = re.compile(r"(MS|ASCEND|HCCL|GLOG|OMP|MINDSPORE|LCCL)_\w+|RANK_\w+|CPU_AFFINITY|GLOG_v"
                          r"|CUDA_VISIBLE_DEVICES|PYTHONPATH|PATH|LD_LIBRARY_PATH|MASTER_PORT")
_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


def new_attempt(output: Path) -> Path:
    """Makes the log folder of the next attempt."""
    attempt = run_layout.next_attempt_dir(output)
    attempt.mkdir(parents=True)
    return attempt


def records(output: Path) -> list[Path]:
    """The records of a run's attempts, first attempt first."""
    files = (attempt / ATTEMPT for attempt in run_layout.attempt_dirs(output).values())
    return [file for file in files if file.is_file()]


def recorded_environment() -> dict[str, str]:
    """The variables that matter to a run, none of which may hold a secret."""
    return {name: value for name, value in sorted(os.environ.items())
            if _ENVIRONMENT.fullmatch(name) and not _SECRET.search(name)}


def record_start(attempt: Path, **facts: Any) -> None:
    """Writes an attempt's record down before anything is started.

    Args:
        attempt: Its folder.
        **facts: command, msrun, overwrite, from_step.
    """
    write_json(attempt / ATTEMPT, {
        **facts, "folder": os.getcwd(), "environment": recorded_environment(),
        "versions": versions.installed_versions(), "imported_from": versions.imported_from(),
        "started": _now(), "ended": None, "exit_code": None})


def record_end(attempt: Path, code: int) -> None:
    """Adds to an attempt's record how it ended."""
    record = read_json(attempt / ATTEMPT, "the attempt's record")
    write_json(attempt / ATTEMPT, {**record, "ended": _now(), "exit_code": code})


def started_with_overwrite(output: Path) -> bool:
    """Whether the run in a folder was itself started by a command with --overwrite."""
    return any(read_json(path, "the attempt's record").get("overwrite") for path in records(output))


def set_aside(folder: Path) -> Path:
    """Renames an earlier run's folder, so that nothing of it is lost or mixed with the new one."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.earlier-{number}")).exists():
        number += 1
    return folder.rename(target)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
