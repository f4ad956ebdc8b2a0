"""Reads the loss lines of MindFormers worker logs: this version's and those of 2024 (MindFormers 1.1).

    2024:  { Epoch:[  5/ 10], step:[ 1508/ 1725], loss: 1.215, per_step_time: 3772ms, lr: 2.7e-05,
           overflow cond: False, loss_scale: 32768.0
    1.9.0: { Epoch:[  1/  1], step:[    1/    8], loss:[7.061996/7.061996], per_step_time: 8241ms, lr: 5e-05,
           overflow cond: False, loss_scale: 16384.0, global_norm: [1.0767541]
    (each one line; source of the second: mindformers/core/callback/callback.py, MFLossMonitor)

A log may have been appended to, or continued in a new file, by a run that was started again. Where the
step falls back, what the earlier attempt logged from there on was done again and is superseded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from research_internlm.errors import ToolkitError

_LOSS = re.compile(
    r"\{ Epoch:\[\s*(?P<epoch>\d+)/\s*(?P<epochs>\d+)\], step:\[\s*(?P<step>\d+)/\s*(?P<steps>\d+)\], "
    r"loss:\s*\[?(?P<loss>[^,/\]\s]+)(?:/[^\]]*)?\]?, (?:\w+_loss: [^,]+, )*"
    r"per_step_time: (?P<ms>\d+)ms, (?:lr: \[?(?P<lr>[^,\]]+)\]?, )?"
    r"overflow cond: \[?\s*(?P<overflow>\w+)\]?, "
    r"loss_scale: \[?(?P<scale>[^,\s\]]+)\]?(?:, global_norm: \[?(?P<norm>[^,\s\]]+))?")
_EVALUATION = re.compile(r"Eval result: \{.*?'loss':\s*(?:np\.\w+\()?([-+\w.]+)")
_PARAMETERS = re.compile(r"Network Parameters:\s*([\d,]+)(\s*M)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@dataclass(frozen=True)
class Record:
    """One loss line.

    Attributes:
        step: Optimizer step counted from the start of the run, from 1.
        total_steps: Steps of the whole run as the line states them.
        epoch: Epoch, from 1.
        loss: Loss of the rank's own shard at this step.
        step_ms: Time of one step, milliseconds.
        learning_rate: None where the line has none.
        overflow: Whether the step's gradients overflowed, so that the update was skipped.
        loss_scale: None where the line says it is unavailable.
        global_norm: Gradient norm before clipping, or None.
        time: When the line was written, or None.
    """

    step: int
    total_steps: int
    epoch: int
    loss: float
    step_ms: int
    learning_rate: float | None
    overflow: bool
    loss_scale: float | None
    global_norm: float | None
    time: datetime | None


@dataclass
class RankLog:
    """What one worker's log files hold.

    Attributes:
        rank: The worker.
        files: Its log files, oldest first.
        records: Step -> loss line, superseded ones left out.
        evaluations: Step after which an evaluation ran -> its loss.
        restarts: (step the run started again at, number of superseded lines), one for each restart.
        unreadable: Loss lines that could not be read, e.g. torn by a kill.
        parameters: Trainable parameters by the "Network Parameters" line, or None.
        millions: Whether that number is rounded to millions.
    """

    rank: int
    files: list[Path] = field(default_factory=list)
    records: dict[int, Record] = field(default_factory=dict)
    evaluations: dict[int, float] = field(default_factory=dict)
    restarts: list[tuple[int, int]] = field(default_factory=list)
    unreadable: int = 0
    parameters: int | None = None
    millions: bool = False

    def add(self, record: Record) -> None:
        """Takes one loss line in the order of the log."""
        last = next(reversed(self.records), 0)
        if self.records and record.total_steps != self.records[last].total_steps:
            self._restart(0)  # another run's lines say nothing about this one
        elif record.step <= last:
            self._restart(record.step)
        self.records[record.step] = record

    def _restart(self, step: int) -> None:
        superseded = [old for old in self.records if old >= step]
        self.restarts.append((max(step, 1), len(superseded)))
        for old in superseded:
            del self.records[old]
        # An evaluation carries the number of the step before it.
        for old in [old for old in self.evaluations if old >= step]:
            del self.evaluations[old]


def find_logs(run: str | Path) -> dict[int, list[Path]]:
    """Finds the worker logs of a run.

    Args:
        run: A run folder (msrun's worker_N.log anywhere below it; without msrun, MindFormers' own
            rank_N/info.log), or one log file, taken as rank 0's.

    Returns:
        Rank -> files, oldest first.

    Raises:
        ToolkitError: Nothing of the kind is there.
    """
    run = Path(run)
    if run.is_file():
        return {int(number) if (number := _number(run.stem)) else 0: [run]}
    files = sorted(run.rglob("worker_*.log"))
    found = [(int(_number(file.stem) or 0), file) for file in files]
    if not files:
        # Rotated pieces are info.log.1, .2 and so on.
        files = sorted(run.rglob("rank_*/info.log*"))
        found = [(int(_number(file.parent.name) or 0), file) for file in files]
    if not found:
        raise ToolkitError(f"{run} holds no worker_*.log and no rank_*/info.log; give the output_dir of a "
                           "training run, or a log file")
    logs: dict[int, list[Path]] = {}
    for rank, file in sorted(found, key=lambda item: (item[0], _first_time(item[1]), item[1])):
        logs.setdefault(rank, []).append(file)
    return logs


def _number(name: str) -> str | None:
    match = re.search(r"(?:worker|rank)_(\d+)$", name)
    return match.group(1) if match else None


def _first_time(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return next((match.group() for line in lines if (match := _TIME.search(line))), "")


def read_rank(rank: int, files: Iterable[Path]) -> RankLog:
    """Reads one worker's files in order."""
    log = RankLog(rank, list(files))
    for file in log.files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _take(log, line)
    return log


def read_run(run: str | Path) -> dict[int, RankLog]:
    """Reads all workers' logs of a run.

    Returns:
        Rank -> its log, by rank.

    Raises:
        ToolkitError: There are no logs, or none holds a loss line.
    """
    logs = {rank: read_rank(rank, files) for rank, files in find_logs(run).items()}
    if not any(log.records for log in logs.values()):
        files = ", ".join(file.name for log in logs.values() for file in log.files)
        raise ToolkitError(f"{run}: no loss line of MindFormers in {files}; the run has not reached its "
                           "first step, or MFLossMonitor is missing from the config's callbacks")
    return logs


def _take(log: RankLog, line: str) -> None:
    if "{ Epoch:[" in line:
        record = _record(line)
        if record is None:
            log.unreadable += 1
        else:
            log.add(record)
    elif match := _EVALUATION.search(line):
        log.evaluations[next(reversed(log.records), 0)] = float(match.group(1))
    elif match := _PARAMETERS.search(line):
        number = int(match.group(1).replace(",", ""))
        # Some versions print "M" behind the exact number.
        log.millions = bool(match.group(2)) and number < 1_000_000
        log.parameters = number * 1_000_000 if log.millions else number


def _record(line: str) -> Record | None:
    match = _LOSS.search(line)
    if match is None:
        return None
    time = _TIME.search(line)
    steps, epochs = int(match["steps"]), int(match["epochs"])
    try:
        return Record(
            step=(int(match["epoch"]) - 1) * steps + int(match["step"]),
            total_steps=epochs * steps,
            epoch=int(match["epoch"]),
            loss=float(match["loss"]),
            step_ms=int(match["ms"]),
            learning_rate=_optional(match["lr"]),
            overflow=match["overflow"] == "True",
            loss_scale=_optional(match["scale"]),
            global_norm=_optional(match["norm"]),
            time=datetime.fromisoformat(time.group()) if time else None,
        )
    except ValueError:
        return None


def _optional(text: str | None) -> float | None:
    return None if text in (None, "None", "unavailable") else float(text)


def steps_of_all(logs: dict[int, RankLog]) -> Iterator[tuple[int, list[Record]]]:
    """Goes through the steps any rank logged, with the lines of all ranks that did, in rank order."""
    for step in sorted(set().union(*(log.records for log in logs.values()))):
        yield step, [log.records[step] for log in logs.values() if step in log.records]
