"""A run's worker logs: finds them, puts attempts in order and gives each rank its loss lines.

A log may have been appended to, or continued in a new file, by a run that was started again. Where the
step falls back, what the earlier attempt logged from there on was done again and is superseded. A file of
no rank's own (a job log of mpirun or ModelArts) may hold the lines of all ranks, which name none: a step
that comes again at once is another rank's.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from research_internlm.runs.loss_lines import (
    Evaluation,
    Event,
    Parameters,
    Pipeline,
    Record,
    Unreadable,
    events,
    time_of,
)
from research_internlm.runs.pipeline import mark_ranks_with_loss
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import files_below

_EXAMPLE_LENGTH = 160


@dataclass
class RankLog:
    """What one worker's log files hold.

    Attributes:
        rank: The worker.
        files: Its log files, oldest first.
        records: Step -> loss line, superseded ones left out.
        evaluations: Step after which an evaluation ran -> its loss.
        restarts: (step the run started again at, number of superseded lines), one for each restart.
        unreadable: Loss and evaluation lines that could not be read, e.g. torn by a kill.
        example: The first of them.
        parameters: Trainable parameters by the "Network Parameters" line, or None.
        millions: Whether that number is rounded to millions.
        pipeline: What the log says of pipeline stages, or None.
        has_loss: False for a rank of another pipeline stage than the last, which computes no loss; None where
            that cannot be told.
    """

    rank: int
    files: list[Path] = field(default_factory=list)
    records: dict[int, Record] = field(default_factory=dict)
    evaluations: dict[int, float] = field(default_factory=dict)
    restarts: list[tuple[int, int]] = field(default_factory=list)
    unreadable: int = 0
    example: str = ""
    parameters: int | None = None
    millions: bool = False
    pipeline: Pipeline | None = None
    has_loss: bool | None = True

    @property
    def last(self) -> int:
        """Step of the loss line taken last; 0 before the first."""
        return next(reversed(self.records), 0)

    def add(self, record: Record) -> None:
        """Takes one loss line in the order of the log."""
        last = self.last
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
        run: A run folder, or one log file. In a folder these are, the first kind that is there: msrun's
            worker_N.log anywhere below it; MindFormers' own rank_N/info.log; any *.log with loss lines,
            its rank by its own or its folder's name (mf_parallel0/rank_0.log). A file of no rank is 0's.

    Returns:
        Rank -> files, oldest first; copies of a file that was kept or has grown since are left out.

    Raises:
        ToolkitError: Nothing of the kind is there.
    """
    run = Path(run)
    if run.is_file():
        return {_rank_of(run) or 0: [run]}
    # Rotated pieces are info.log.1, .2 and so on.
    files = (_regular(files_below(run, "worker_*.log")) or _regular(files_below(run, "rank_*/info.log*"))
             or [file for file in _regular(files_below(run, "*.log")) if _holds_loss(file)])
    if not files:
        raise ToolkitError(f"{run} holds no worker_*.log, no rank_*/info.log and no other *.log with loss "
                           "lines; give the output_dir of a training run, or a log file")
    logs: dict[int, list[Path]] = {}
    for file in files:
        logs.setdefault(_rank_of(file) or 0, []).append(file)
    return {rank: sorted(_without_copies(logs[rank]), key=lambda file: (_first_time(file), file))
            for rank in sorted(logs)}


def _regular(files: list[Path]) -> list[Path]:
    """The files, none of which is without an end or without a writer."""
    for file in files:
        if not file.is_file():
            raise ToolkitError(f"the log {file} is not a regular file (a device, a pipe, or a link to "
                               "nothing): remove it")
    return files


def _rank_of(file: Path) -> int | None:
    """The rank that a file or its folder names, or None."""
    for name in (file.stem, file.parent.name):
        if match := re.search(r"(?:worker|rank|mf_parallel)_?(\d+)$", name):
            return int(match.group(1))
    return None


def _holds_loss(file: Path) -> bool:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return any(isinstance(event, Record | Unreadable) for line in lines for event in events(line))


def _without_copies(files: Iterable[Path]) -> list[Path]:
    """Leaves out a rank's files that another one begins with: someone's backup, no second attempt."""
    kept: list[Path] = []
    for file in sorted(files, key=lambda file: (-file.stat().st_size, file.stat().st_mtime_ns, file)):
        size = file.stat().st_size
        if not (size and any(_begins_with(other, file, size) for other in kept)):
            kept.append(file)
    return kept


def _begins_with(longer: Path, shorter: Path, size: int) -> bool:
    with open(longer, "rb") as first, open(shorter, "rb") as second:
        while size > 0:
            block = second.read(min(size, 1 << 20))
            if not block or first.read(len(block)) != block:
                return False
            size -= len(block)
    return True


def _first_time(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return next((time for line in lines if (time := time_of(line))), "")


def writers(steps: Sequence[int]) -> int:
    """How many workers wrote these loss lines into one file.

    Workers that train together are at most one logged step apart, because each step needs all of them; a
    larger step back is a restart. So it is the usual number of times that a step comes before the lines are
    two steps on.

    Args:
        steps: Step of each line, in the file's order.
    """
    place = {step: number for number, step in enumerate(sorted(set(steps)))}
    near: dict[int, int] = {}
    times: list[int] = []
    for step in map(place.__getitem__, steps):
        gone = [old for old in near if abs(old - step) > 1]
        times += [near.pop(old) for old in gone]
        near[step] = near.get(step, 0) + 1
    return statistics.mode([*times, *near.values()]) if steps else 1


def read_rank(rank: int, files: Sequence[Path], shared: bool = False) -> list[RankLog]:
    """Reads one worker's files in order.

    Args:
        rank: The worker.
        files: Its log files, oldest first.
        shared: Whether other workers may have written to them too.

    Returns:
        Its log; from shared files that of each worker, numbered from `rank` on.
    """
    found = [event for file in files for event in _events(file)]
    steps = [event.step for event in found if isinstance(event, Record)]
    logs = [RankLog(rank + number, list(files)) for number in range(writers(steps) if shared else 1)]
    for event in found:
        _take(logs, event)
    return logs


def _events(file: Path) -> Iterator[Event]:
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            yield from events(line)


def _take(logs: Sequence[RankLog], event: Event) -> None:
    """Gives an event to a worker it can be of; among several at one step no choice is wrong."""
    if isinstance(event, Record):
        waiting = next((log for log in logs if log.last < event.step), None)
        (waiting or max(logs, key=lambda log: log.last)).add(event)
    elif isinstance(event, Evaluation):
        log = next((log for log in logs if log.last not in log.evaluations), logs[0])
        log.evaluations[log.last] = event.loss
    elif isinstance(event, Parameters):
        for log in logs:
            log.parameters, log.millions = event.count, event.millions
    elif isinstance(event, Pipeline):
        for log in logs:
            log.pipeline = event
    else:
        logs[0].unreadable += 1
        logs[0].example = logs[0].example or event.text[:_EXAMPLE_LENGTH]


def read_run(run: str | Path) -> dict[int, RankLog]:
    """Reads all workers' logs of a run.

    Returns:
        Rank -> its log, by rank.

    Raises:
        ToolkitError: There are no logs, or none holds a loss line that can be read.
    """
    files = find_logs(run)
    shared = len(files) == 1 and all(_rank_of(file) is None for file in files[min(files)])
    logs = {log.rank: log for rank, paths in files.items() for log in read_rank(rank, paths, shared)}
    if any(log.records for log in logs.values()):
        mark_ranks_with_loss(Path(run), logs, shared)
        return logs
    names = ", ".join(file.name for paths in files.values() for file in paths)
    unreadable = sum(log.unreadable for log in logs.values())
    if unreadable:
        example = next(log.example for log in logs.values() if log.example)
        raise ToolkitError(f"{run}: {unreadable:,} line(s) in {names} look like loss lines but cannot be "
                           f"read, the first is '{example}'; a loss line needs Epoch:[a/b], step:[c/d], "
                           "loss: x and per_step_time: yms")
    raise ToolkitError(f"{run}: no loss line of MindFormers in {names}; the run has not reached its "
                       "first step, or MFLossMonitor is missing from the config's callbacks")


def steps_of_all(logs: dict[int, RankLog]) -> Iterator[tuple[int, list[Record]]]:
    """Goes through the steps any rank logged, with the lines of all ranks that did, in rank order."""
    for step in sorted(set().union(*(log.records for log in logs.values()))):
        yield step, [log.records[step] for log in logs.values() if step in log.records]


def evaluations(logs: Mapping[int, RankLog]) -> dict[int, float]:
    """Step -> validation loss, mean over the ranks that have one."""
    logs = {rank: log for rank, log in logs.items() if log.has_loss is not False}
    steps = sorted(set().union(*(log.evaluations for log in logs.values())))
    return {step: statistics.fmean(log.evaluations[step] for log in logs.values() if step in log.evaluations)
            for step in steps}
