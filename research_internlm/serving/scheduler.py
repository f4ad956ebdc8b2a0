"""One thread owns the models; whatever waits is answered together.

The thread goes round its models: it scores the prompts that wait, gives free rows to the next prompts, and
appends one token to every row in use. So an answer starts as soon as a row is free, and an abandoned one
leaves its row at the next step. MindSpore is called from this thread alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from research_internlm.inference.sampling import Sampling, choose
from research_internlm.inference.scoring import PromptScores, likeliest, log_softmax
from research_internlm.inference.text_codec import TextCodec

_log = logging.getLogger(__name__)


class Rows(Protocol):
    """inference/rows.py's RowDecoder, or a test's."""

    rows: int
    seq_length: int

    def admit(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """Logits after each prompt, by row."""

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Logits after each token, by row."""


class Scorer(Protocol):
    """inference/scoring.py's PromptScorer, or a test's."""

    def score(self, prompts: Sequence[Sequence[int]], top: int) -> list[PromptScores]:
        """The scores of each prompt."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with what it takes to serve it."""

    rows: Rows
    scorer: Scorer
    codec: TextCodec


class QueueFull(Exception):
    """There are as many prompts waiting as may wait."""


@dataclass(frozen=True)
class Token:
    """A token of an answer; with its log-probability and the likeliest ones' where they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """The end of an answer: `stop` by its end marker, `length` where there was no more room."""

    reason: str


@dataclass(frozen=True)
class Failure:
    """The model failed; the log says how."""


@dataclass(eq=False)
class Job:
    """A prompt that waits or is being answered.

    Attributes:
        model: Name of the model.
        ids: Token ids of the prompt.
        deliver: Called in the models' thread with each Token and at last an End or Failure; for a scoring
            with PromptScores or a Failure.
        sampling: How to answer; None scores the prompt.
        top: How many of the likeliest tokens are told at each place; None tells no log-probabilities.
        cancelled: Set by whoever does not want the rest; nothing is delivered afterwards.
    """

    model: str
    ids: Sequence[int]
    deliver: Callable[[Any], None]
    sampling: Sampling | None = None
    top: int | None = None
    cancelled: bool = False


class _Running:
    """An answer in a row."""

    def __init__(self, job: Job, seq_length: int) -> None:
        self.job = job
        self.seen = list(job.ids)
        self.left = min(job.sampling.max_new_tokens, seq_length - len(job.ids))
        self.random = np.random.default_rng(job.sampling.seed)

    def next(self, logits: np.ndarray, stop_ids: Sequence[int]) -> int | None:
        """Chooses and delivers a token; None where the answer has ended."""
        token = choose(logits, self.seen, self.job.sampling, self.random)
        if token in stop_ids:
            self.job.deliver(End("stop"))
            return None
        self.job.deliver(_token(token, logits, self.job.top))
        self.seen.append(token)
        self.left -= 1
        if not self.left:
            self.job.deliver(End("length"))
            return None
        return token


def _token(token: int, logits: np.ndarray, top: int | None) -> Token:
    if top is None:
        return Token(token)
    logprobs = log_softmax(logits)
    ids = likeliest(logits, top) if top else ()
    return Token(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in ids))


@dataclass
class _Lane:
    """One model: what waits for it and what runs."""

    model: LoadedModel
    waiting: deque[Job] = field(default_factory=deque)
    scorings: deque[Job] = field(default_factory=deque)
    running: dict[int, _Running] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)  # row -> token that the model has not read

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.scorings or self.running)

    def take(self) -> tuple[list[Job], dict[int, Job]]:
        """Removes from the queues what is to be done now; call it with the scheduler's lock."""
        for row in [row for row, running in self.running.items() if running.job.cancelled]:
            self.free(row)
        scorings = [self.scorings.popleft() for _ in range(min(len(self.scorings), 4 * self.model.rows.rows))]
        starting: dict[int, Job] = {}
        for row in range(self.model.rows.rows):
            while row not in self.running and row not in starting and self.waiting:
                job = self.waiting.popleft()
                if not job.cancelled:
                    starting[row] = job
        return [job for job in scorings if not job.cancelled], starting

    def advance(self, scorings: Sequence[Job], starting: Mapping[int, Job]) -> None:
        """Scores, starts, and writes one token in every row."""
        if scorings:
            most = max(1, *(job.top or 0 for job in scorings))
            scores = self.model.scorer.score([job.ids for job in scorings], most)
            for job, score in zip(scorings, scores, strict=True):
                job.deliver(score)
        self.running |= {row: _Running(job, self.model.rows.seq_length) for row, job in starting.items()}
        self.choose(self.model.rows.admit({row: job.ids for row, job in starting.items()}))
        if self.chosen:
            self.choose(self.model.rows.step(self.chosen))

    def choose(self, logits: Mapping[int, np.ndarray]) -> None:
        for row, values in logits.items():
            token = self.running[row].next(values, self.model.codec.special.stop_ids)
            if token is None:
                self.free(row)
            else:
                self.chosen[row] = token

    def free(self, row: int) -> None:
        del self.running[row]
        self.chosen.pop(row, None)

    def fail(self, scorings: Sequence[Job], starting: Mapping[int, Job]) -> None:
        jobs = {*scorings, *starting.values(), *(running.job for running in self.running.values())}
        self.running.clear()
        self.chosen.clear()
        for job in jobs:
            job.deliver(Failure())


class Scheduler:
    """Answers jobs, as many at once as the models have rows.

    Args:
        loaders: Name -> what loads the model, called in the thread that runs it.
        limit: Most prompts that may wait.

    Attributes:
        models: The loaded models by name, after `start`.
        limit: As above.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], LoadedModel]], limit: int) -> None:
        self._loaders, self.limit = loaders, limit
        self.models: dict[str, LoadedModel] = {}
        self._lanes: dict[str, _Lane] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._error: BaseException | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)

    def start(self) -> None:
        """Loads the models; returns when they can answer.

        Raises:
            ToolkitError: One of them cannot be loaded.
        """
        self._thread.start()
        self._is_ready.wait()
        if self._error:
            raise self._error

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes jobs, all or none of them.

        Raises:
            QueueFull: They would be more than may wait.
        """
        with self._changed:
            if self.waiting + len(jobs) > self.limit:
                raise QueueFull
            for job in jobs:
                lane = self._lanes[job.model]
                (lane.waiting if job.sampling else lane.scorings).append(job)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Frees the places of jobs that nobody waits for any more; ended ones do no harm."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
                lane = self._lanes[job.model]
                queue = lane.waiting if job.sampling else lane.scorings
                if job in queue:
                    queue.remove(job)

    @property
    def waiting(self) -> int:
        """Prompts that wait."""
        return sum(len(lane.waiting) + len(lane.scorings) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Rows in use."""
        return sum(len(lane.running) for lane in self._lanes.values())

    def close(self) -> None:
        """Ends the thread; jobs that are left are not answered."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout=60)

    def _work(self) -> None:
        try:
            for name, load in self._loaders.items():
                started = time.perf_counter()
                self.models[name] = load()
                _log.info("model %s loaded in %.1f s", name, time.perf_counter() - started)
            self._lanes = {name: _Lane(model) for name, model in self.models.items()}
        except BaseException as error:  # the thread that called `start` raises it
            self._error = error
            return
        finally:
            self._is_ready.set()
        while self._wait():
            for lane in self._lanes.values():
                with self._changed:
                    scorings, starting = lane.take()
                try:
                    lane.advance(scorings, starting)
                except Exception:
                    _log.exception("the model failed")
                    lane.fail(scorings, starting)

    def _wait(self) -> bool:
        """Sleeps until there is work; False when there is none left to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closing or any(lane.has_work for lane in self._lanes.values()))
            return not self._is_closing
