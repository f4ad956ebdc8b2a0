"""Whether a command is the same run again: differences in settings, data and workers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.data.manifest import RunData
from research_internlm.runs.run_info import RunInfo, read_run_info
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.run_layout import RESOLVED_CONFIG

# Where things lie and how many cores a machine has are not part of what a run is; the data's identity is
# its sha256 in run.json. The monitor's numbers are derived from the data; curves only watch; which saves hold
# the frozen base changes no number of the training.
_PLACES = re.compile(r"output_dir|load_checkpoint|resume_training|.*\.dataset_dir|.*\.num_parallel_workers"
                     r"|callbacks\.(UsefulTokens|Answer)Monitor\..*|callbacks\.CheckpointMonitor\.full_checkpoints"
                     r"|tensorboard(\..*)?")


def run_differences(run: Path, recipe: Mapping[str, Any], data: Mapping[str, RunData], workers: int
                    ) -> list[str]:
    """Settings, data and worker numbers in which the run in a folder is not the one asked for.

    Args:
        run: Its folder.
        recipe: The resolved recipe asked for, completed by its data.
        data: Facts of that data, as check_data gives them.
        workers: Workers asked for.
    """
    try:
        settings = recipes.load_yaml(run / RESOLVED_CONFIG)
        run_info = read_run_info(run)
    except ToolkitError as error:
        return [str(error)]
    return [*differences(settings, recipe), *data_differences(run_info, data, workers)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings in which two resolved recipes are different runs.

    Returns:
        One `key: old -> new` a setting, places left out.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
            for key in dict.fromkeys((*before, *after))
            if before.get(key) != after.get(key) and not _PLACES.fullmatch(key)]


def data_differences(run_info: RunInfo, data: Mapping[str, RunData], workers: int) -> Iterator[str]:
    """Data files or worker numbers in which a run differs from what its run.json says."""
    if run_info.workers != workers:
        yield f"workers: {run_info.workers} -> {workers}"
    for section, old in run_info.data.items():
        now = data[section].sha256 if section in data else None
        if now != old.sha256:
            yield f"{section} sha256: {old.sha256} -> {now}"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and all(isinstance(item, Mapping) and "type" in item for item in value):
        items = ((item["type"], item) for item in value)
    if not items:
        yield prefix, value
        return
    for key, item in items:
        yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
