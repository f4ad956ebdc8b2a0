"""train_log.jsonl of a run folder: the loss lines of a training as JSON, one object a line.

The training appends to it (training/train_log.py); summaries, plots, costs and warnings read it. The text
logs remain the source of what it has not: the other ranks' lines, evaluations and restarts, and everything
of runs that were trained before there was one.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from research_internlm.runs.loss_lines import Record
from research_internlm.runs.worker_logs import RankLog, read_run
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import write_text
from research_internlm.shared.run_layout import TRAIN_LOG

_NEVER_NULL = {"step": int, "total_steps": int, "epoch": int, "rank": int, "step_ms": (int, float),
               "overflow": bool, "time": str}
_EXAMPLE_LENGTH = 160


@dataclass(frozen=True)
class TrainLogLine(Record):
    """One line of the file: what MindFormers' loss line says, unrounded, and what it does not say.

    In the file a number that is not finite is null. `loss` is that of the rank's own shard, not a mean over
    the workers; `time` has the offset from UTC, which is left out after reading, as text logs have none.

    Attributes:
        rank: The worker that wrote it.
        useful_tokens_per_s: Unpadded tokens a second over all workers, or None where run.json has no counts.
        peak_memory_bytes: Most device memory that this process has had allocated, or None where MindSpore
            does not count it (on a CPU).
        eta_s: Seconds to the last step, at the median pace of this process's last lines.
    """

    rank: int
    useful_tokens_per_s: float | None
    peak_memory_bytes: int | None
    eta_s: float

    def encode(self) -> str:
        """The line as JSON, with its newline."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["time"] = self.time.isoformat(timespec="seconds")
        return json.dumps({name: None if isinstance(value, float) and not math.isfinite(value) else value
                           for name, value in values.items()}) + "\n"

    @classmethod
    def decode(cls, text: str) -> TrainLogLine:
        """Reads a line.

        Raises:
            ValueError: It is not JSON, or a value is missing or of another type.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or (missing := {field.name for field in fields(cls)} - found.keys()):
            raise ValueError("not an object" if not isinstance(found, dict) else f"without {sorted(missing)}")
        values = {field.name: found[field.name] for field in fields(cls)}
        for name, value in values.items():
            if value is None and name not in _NEVER_NULL:
                continue
            kind = _NEVER_NULL.get(name, (int, float))
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name} is {value!r}")
        values["loss"] = math.nan if values["loss"] is None else values["loss"]
        values["time"] = datetime.fromisoformat(values["time"]).replace(tzinfo=None)
        return cls(**values)


def append(path: Path, line: TrainLogLine) -> None:
    """Adds a line at the end; it is in the file before the next step begins."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(line.encode())


def drop_from(path: Path, step: int) -> None:
    """Takes out the lines of steps that a training does again, and a line that a kill tore.

    Args:
        path: The file.
        step: The first step that is done again.
    """
    if path.is_file():
        write_text(path, "".join(text for text, line in _lines(path) if line is None or line.step < step))


def read_lines(path: Path) -> RankLog:
    """Reads the file as the log of the worker that wrote it.

    A last line without its newline is being written, or was torn by a kill, and is left out. Any other line
    that cannot be read is counted as unreadable.
    """
    log = RankLog(rank=0, files=[path])
    for text, line in _lines(path):
        if line is None:
            log.unreadable += 1
            log.example = log.example or text.strip()[:_EXAMPLE_LENGTH]
        else:
            log.rank = line.rank
            log.add(line)
    return log


def _lines(path: Path) -> Iterator[tuple[str, TrainLogLine | None]]:
    """Whole lines as they are and as read, None for what cannot be read."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for text in file:
            if text.endswith("\n"):
                try:
                    yield text, TrainLogLine.decode(text)
                except (ValueError, RecursionError):
                    yield text, None


def read_training(run: str | Path) -> dict[int, RankLog]:
    """Reads what a training logged, train_log.jsonl's unrounded numbers before those of the text logs.

    Args:
        run: A run folder, a worker's log file, or a train_log.jsonl.

    Returns:
        Rank -> its log, by rank. The text logs of `read_run`, in which the lines of the rank that wrote
        train_log.jsonl are replaced by those of that file.

    Raises:
        ToolkitError: Neither has a loss line that can be read.
    """
    run = Path(run)
    path = run if run.suffix == Path(TRAIN_LOG).suffix else run / TRAIN_LOG
    if not path.is_file():
        return read_run(run)
    exact = read_lines(path)
    logs: dict[int, RankLog] = {}
    if run.is_dir():
        try:
            logs = read_run(run)
        except ToolkitError:  # without text logs the file must do
            if not exact.records:
                raise
    elif not exact.records:
        raise ToolkitError(f"{run} has no line that can be read; give the train_log.jsonl of a training run")
    if _share_files(logs):
        return logs
    text = logs.get(exact.rank)
    logs[exact.rank] = _joined(text, exact) if text else exact
    return dict(sorted(logs.items()))


def _share_files(logs: Mapping[int, RankLog]) -> bool:
    """Whether ranks wrote into one file, so that its lines no longer tell their rank."""
    return len({file for log in logs.values() for file in log.files}) < len(logs)


def _joined(text: RankLog, exact: RankLog) -> RankLog:
    records: dict[int, Any] = {**text.records, **exact.records}
    return dataclasses.replace(
        text, records={step: records[step] for step in sorted(records)}, files=[*text.files, *exact.files],
        unreadable=text.unreadable + exact.unreadable, example=text.example or exact.example)
