"""Reads one line of a MindFormers log: this version's and those of 2024 (MindFormers 1.1).

    2024:  { Epoch:[  5/ 10], step:[ 1508/ 1725], loss: 1.215, per_step_time: 3772ms, lr: 2.7e-05,
           overflow cond: False, loss_scale: 32768.0
    1.9.0: { Epoch:[  1/  1], step:[    1/    8], loss:[7.061996/7.061996], per_step_time: 8241ms, lr: 5e-05,
           overflow cond: False, loss_scale: 16384.0, global_norm: [1.0767541]
    (each one line; source of the second: mindformers/core/callback/callback.py, MFLossMonitor)

Each field is looked for by its name, because versions, consoles and manual edits change the text between and
after them. Step, loss and step time make a loss line; the rest may be missing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime

_VALUE = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_WRAPPED = r"(?:\w[\w.]*\((?:[^)]*?value=\s*)?)?\[?\s*"  # [1.5], np.float32(1.5), Tensor(..., value= 1.5)
_NUMBER = _WRAPPED + rf"(?P<value>{_VALUE})(?![\w.])"  # whole, so that a number cut by a kill is not read


def _field(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WORDS = ("Epoch:", "Eval result:", "Network Parameters:", "the loss on the last card is valid",
          "loss is valid only on rank 0")
_START = re.compile(r"\{\s*Epoch:\s*\[")
_PLACE = re.compile(r"\{\s*Epoch:\s*\[\s*(\d+)\s*/\s*(\d+)\s*\]\s*,?\s*step:\s*\[\s*(\d+)\s*/\s*(\d+)\s*\]")
_LOSS = _field(r"\bloss:\s*" + _NUMBER)
_STEP_MS = _field(rf"\bper_step_time:\s*(?P<value>{_VALUE})\s*ms\b")
_OPTIONAL = {attribute: _field(rf"\b{name}:\s*" + _NUMBER) for attribute, name in (
    ("learning_rate", "lr"), ("loss_scale", "loss_scale"), ("global_norm", "global_norm"))}
_OVERFLOW = _field(r"\boverflow cond:\s*" + _WRAPPED + r"(?:true|1)\b")
_EVALUATION = _field(r"Eval result:\s*\{.*?'loss':\s*" + _NUMBER)
_PARAMETERS = _field(r"Network Parameters:\s*(\d[\d,]*)(\.\d+)?(\s*M\b)?")
_STAGES = re.compile(r"pipeline stages:\s*(\d+) > 1")
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
        loss_scale: None where the line has none or says it is unavailable.
        global_norm: Gradient norm before clipping, or None.
        time: When the line was written, or None.
    """

    step: int
    total_steps: int
    epoch: int
    loss: float
    step_ms: float
    learning_rate: float | None
    overflow: bool
    loss_scale: float | None
    global_norm: float | None
    time: datetime | None


@dataclass(frozen=True)
class Evaluation:
    """The loss an evaluation found."""

    loss: float


@dataclass(frozen=True)
class Parameters:
    """The "Network Parameters" line.

    Attributes:
        count: Trainable parameters.
        millions: Whether the number is rounded to millions, or to a part of one.
    """

    count: int
    millions: bool


@dataclass(frozen=True)
class Pipeline:
    """MindFormers' word on whose loss is valid in a pipeline-parallel run.

    Attributes:
        stages: Pipeline stages; None under zero-bubble-v, which brings the loss back to rank 0.
    """

    stages: int | None

    def ranks_with_loss(self, workers: int) -> range:
        """The ranks of the last stage; none where so many workers cannot be divided among the stages."""
        if self.stages is None:
            return range(1)
        per_stage, rest = divmod(workers, self.stages)
        return range(0) if rest else range(workers - per_stage, workers)


@dataclass(frozen=True)
class Unreadable:
    """What looks like a loss or evaluation line, e.g. torn by a kill, but cannot be read."""

    text: str


Event = Record | Evaluation | Parameters | Pipeline | Unreadable


def events(line: str) -> list[Event]:
    """What a line of a log says; several things where a line was torn and the next one follows it."""
    if not any(word in line for word in _WORDS):  # most of a log; a search by pattern costs more
        return []
    try:
        return _events(_COLOUR.sub("", line))
    except (ValueError, OverflowError):  # a damaged line: numbers too long, a date that there is not
        return [Unreadable(line.strip())]


def _events(line: str) -> list[Event]:
    starts = [match.start() for match in _START.finditer(line)]
    if starts:
        edges = [0, *starts, len(line)]
        return [_record(line[start:end], time_of(line[before:start]))
                for before, start, end in zip(edges, edges[1:], edges[2:], strict=False)]
    if "Eval result:" in line:
        match = _EVALUATION.search(line)
        return [Evaluation(float(match["value"])) if match else Unreadable(line.strip())]
    if "is valid" in line:
        match = _STAGES.search(line)
        stages = int(match.group(1)) if match else None
        return [Unreadable(line.strip()) if stages == 0 else Pipeline(stages)]
    match = _PARAMETERS.search(line)
    return [_parameters(*match.groups())] if match else []


def time_of(line: str) -> str | None:
    """The time stamp of a line, to the second."""
    match = _TIME.search(line)
    return match.group() if match else None


def _record(text: str, time: str | None) -> Record | Unreadable:
    place, loss, step_ms = _PLACE.search(text), _LOSS.search(text), _STEP_MS.search(text)
    if not (place and loss and step_ms and math.isfinite(float(step_ms["value"]))) or not _is_date(time):
        return Unreadable(text.strip())
    epoch, epochs, step, steps = map(int, place.groups())
    optional = {name: pattern.search(text) for name, pattern in _OPTIONAL.items()}
    return Record(
        step=(epoch - 1) * steps + step, total_steps=epochs * steps, epoch=epoch, loss=float(loss["value"]),
        step_ms=float(step_ms["value"]), overflow=_OVERFLOW.search(text) is not None,
        time=datetime.fromisoformat(time) if time else None,
        **{name: float(match["value"]) if match else None for name, match in optional.items()})


def _is_date(time: str | None) -> bool:
    try:
        return time is None or bool(datetime.fromisoformat(time))
    except ValueError:
        return False


def _parameters(whole: str, fraction: str | None, unit: str | None) -> Parameters:
    number = int(whole.replace(",", ""))
    # Some versions print "M" after the exact number.
    if unit and (fraction or number < 1_000_000):
        digits = len(fraction or ".") - 1
        return Parameters(round(float(f"{number}{fraction or ''}") * 1e6), millions=digits < 6)
    return Parameters(number, millions=False)
