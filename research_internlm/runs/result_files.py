"""Reads the files of a run folder one by one, so that a broken one hides none of the others.

Each reader gives what could be read and, for the rest, one sentence a file.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from research_internlm.checkpoints.header import adapter_facts, read_header, step_of
from research_internlm.runs.results import RESULTS, Result
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A full checkpoint of rank 0.

    Attributes:
        path: Its file.
        step: Steps done when it was saved, read from inside.
        facts: LoRA facts and global batch size, read from inside.
    """

    path: Path
    step: int
    facts: dict[str, Any]


def read_each(paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[dict[Path, T], list[str]]:
    """Reads files one by one.

    Returns:
        Path -> content, and what is wrong with those that could not be read.
    """
    found, problems = {}, []
    for path in paths:
        try:
            found[path] = read(path)
        except ToolkitError as error:
            problems.append(str(error))
    return found, problems


def read_result(path: Path) -> Result:
    """A result file of evaluate.py.

    Raises:
        ToolkitError: Not JSON, or not as evaluate.py writes it.
    """
    hint = "make it again with scripts/evaluate.sh, or move it out of the run folder"
    result = read_json(path, "the results", hint)
    task = result.get("task") if isinstance(result, dict) else None
    if not isinstance(task, str) or task not in RESULTS:
        raise ToolkitError(f"{path} holds no result of evaluate.py (its task is {reprlib.repr(task)}, not "
                           f"one of {', '.join(RESULTS)}); {hint}")
    return schema.parse(RESULTS[task], result, f"the results {path}", hint)


def read_checkpoint(path: Path) -> Checkpoint:
    """A full checkpoint's facts.

    Raises:
        ToolkitError: Truncated, or no full checkpoint.
    """
    header = read_header(path)
    batch = header.get("global_batch_size")
    facts = adapter_facts(header)
    if batch and batch.number:
        facts["global_batch_size"] = int(batch.number)
    return Checkpoint(path, step_of(header, path), facts)
