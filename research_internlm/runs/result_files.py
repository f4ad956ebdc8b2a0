"""Reads the files of a run folder one by one, so that a broken one hides none of the others.

Each reader gives what could be read and, for the rest, one sentence a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from research_internlm.checkpoints.header import adapter_facts, read_header, step_of
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_json

Form = Mapping[str, Any]  # key -> type, tuple of types, or the form of a mapping
T = TypeVar("T")

_NUMBER = (int, float)
_SCORES = {"f1": _NUMBER, "em": _NUMBER, "total": int, "missing": int}
# What evaluate.py writes and report and hand-in read.
_RESULT_FORMS: dict[str, Form] = {
    "mmlu": {"checkpoint": str, "checkpoint_sha256": str, "mode": str, "evaluation_kind": str,
             "overall": {"total": int, "correct": int, "unmatched": int, "accuracy": _NUMBER}},
    "squad": {"checkpoint": str, "checkpoint_sha256": str, "squad_file_sha256": str, "contest": _SCORES,
              "official": _SCORES},
    "squad-score": {},
}
_LINK_FORM: Form = {"file": str, "bytes": int, "sha256": str, "url": str}
_ATTEMPT_FORM: Form = {"command": str}


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


def lacking(value: Any, form: Form, place: str = "") -> Iterator[str]:
    """Dotted keys of a form that a value lacks or holds as something else; `the mapping` for no mapping."""
    if not isinstance(value, dict):
        yield place or "the mapping"
        return
    for key, kind in form.items():
        dotted = f"{place}.{key}" if place else key
        if isinstance(kind, Mapping):
            yield from lacking(value.get(key), kind, dotted)
        elif not isinstance(value.get(key), kind):
            yield dotted


def require_form(value: Any, form: Form, path: Path, hint: str) -> None:
    """Refuses a file's content that lacks keys of a form.

    Raises:
        ToolkitError: With the keys.
    """
    if missing := list(lacking(value, form)):
        raise ToolkitError(f"{path} lacks {', '.join(missing)}, or holds something else there; {hint}")


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


def read_result(path: Path) -> dict[str, Any]:
    """A result file of evaluate.py.

    Raises:
        ToolkitError: Not JSON, or not of evaluate.py's form.
    """
    hint = "make it again with scripts/evaluate.sh, or move it out of the run folder"
    result = read_json(path, "the results", hint)
    task = result.get("task") if isinstance(result, dict) else None
    if task not in _RESULT_FORMS:
        raise ToolkitError(f"{path} holds no result of evaluate.py (its task is {task!r}, not one of "
                           f"{', '.join(_RESULT_FORMS)}); {hint}")
    require_form(result, _RESULT_FORMS[task], path, hint)
    return result


def read_links(path: Path) -> list[dict[str, Any]]:
    """The upload record.

    Raises:
        ToolkitError: Not JSON, or not upload.py's form.
    """
    hint = "upload again with scripts/upload_obs.sh --record"
    links = read_json(path, "the upload record", hint)
    if not isinstance(links, list):
        raise ToolkitError(f"{path} holds no list of uploads; {hint}")
    for link in links:
        require_form(link, _LINK_FORM, path, hint)
    return links


def read_attempt(path: Path) -> dict[str, Any]:
    """An attempt.json of train_msrun.sh.

    Raises:
        ToolkitError: Not JSON, or without a command.
    """
    attempt = read_json(path, "the attempt's record")
    require_form(attempt, _ATTEMPT_FORM, path, "train_msrun.sh writes it; restore it from the mirror, if any")
    return attempt


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
