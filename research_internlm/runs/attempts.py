"""The attempts of a run: a folder of logs for each launch, with what was started, where, and how it ended."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from research_internlm.shared import run_layout, schema, versions
from research_internlm.shared.files import write_json
from research_internlm.shared.run_layout import ATTEMPT
from research_internlm.shared.schema import Count, to_json

_ENVIRONMENT = re.compile(r"(MS|ASCEND|HCCL|GLOG|OMP|MINDSPORE|LCCL)_\w+|RANK_\w+|CPU_AFFINITY|GLOG_v"
                          r"|CUDA_VISIBLE_DEVICES|PYTHONPATH|PATH|LD_LIBRARY_PATH|MASTER_PORT")
_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """attempt.json: what a launch started, where, and how it ended.

    Attributes:
        command: The shell command, as the user gave it.
        msrun: The command it ran.
        overwrite: Whether it had --overwrite.
        from_step: Step it continued from; 0 for a new run.
        folder: Working directory.
        environment: Variables that matter to a run.
        versions: Package -> version.
        imported_from: Package -> file that its import runs; empty in records from before it was noted.
        started: Local time with its offset.
        ended: The same; None while it runs, or where it was killed.
        exit_code: Of msrun; None likewise.
    """

    command: str
    msrun: str
    overwrite: bool
    from_step: Count
    folder: str
    environment: dict[str, str]
    versions: dict[str, str]
    imported_from: dict[str, str] = field(default_factory=dict)
    started: str
    ended: str | None = None
    exit_code: int | None = None


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


def record_start(attempt: Path, command: str, msrun: str, overwrite: bool, from_step: int) -> None:
    """Writes an attempt's record before anything is started.

    Args:
        attempt: Its folder.

    The others are those of `Attempt`.
    """
    write_json(attempt / ATTEMPT, to_json(Attempt(
        command=command, msrun=msrun, overwrite=overwrite, from_step=from_step, folder=os.getcwd(),
        environment=recorded_environment(), versions=versions.installed_versions(),
        imported_from=versions.imported_from(), started=_now())))


def record_end(attempt: Path, code: int) -> None:
    """Adds to an attempt's record how it ended."""
    path = attempt / ATTEMPT
    write_json(path, to_json(replace(read_attempt(path), ended=_now(), exit_code=code)))


def read_attempt(path: Path) -> Attempt:
    """Reads an attempt.json.

    Raises:
        ToolkitError: It is missing or not valid.
    """
    return schema.read(path, Attempt, "the attempt's record",
                       "scripts/train_msrun.sh writes it; restore it from the mirror, if there is one")


def started_with_overwrite(output: Path) -> bool:
    """Whether the run in a folder was itself started by a command with --overwrite."""
    return any(read_attempt(path).overwrite for path in records(output))


def set_aside(folder: Path) -> Path:
    """Renames an earlier run's folder, so that nothing of it is lost or mixed with the new one."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.earlier-{number}")).exists():
        number += 1
    return folder.rename(target)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
