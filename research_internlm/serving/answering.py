"""From a prompt's job to the pieces of its answer, as text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from research_internlm.inference.sampling import Sampling
from research_internlm.inference.scoring import PromptScores
from research_internlm.inference.text_stream import TextStream
from research_internlm.serving.metrics import Metrics
from research_internlm.serving.openai_api import ApiError
from research_internlm.serving.scheduler import End, Failure, Job, QueueFull, Scheduler, Token
from research_internlm.serving.stop_texts import StopTexts


@dataclass(frozen=True)
class Question:
    """What one request asks of one prompt.

    Attributes:
        ids: Token ids of the prompt.
        sampling: How to answer.
        stops: Texts at which the answer ends.
        top: How many of the likeliest tokens to tell at each place; None tells no log-probabilities.
    """

    ids: Sequence[int]
    sampling: Sampling
    stops: Sequence[str] = ()
    top: int | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: New text, whole characters.
        tokens: New tokens; those whose text is not complete are here too.
        finish: The reason for the end, in the last piece only.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish: str | None = None


class Answering:
    """Asks the scheduler on behalf of requests.

    Args:
        scheduler: Has the models.
        metrics: Counts the tokens.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler, self._metrics = scheduler, metrics

    def submit(self, model: str, questions: Sequence[Question]) -> list[Answer]:
        """Places questions, all or none of them.

        Returns:
            The answer of each. Whoever asked closes them in any case.

        Raises:
            ApiError: Too many wait (429).
        """
        answers = [Answer(self.scheduler, self._metrics, model, question) for question in questions]
        self._place([one.asked.job for one in answers])
        return answers

    async def score(self, model: str, prompts: Sequence[Sequence[int]], top: int) -> list[PromptScores]:
        """Log-probabilities of prompts.

        Raises:
            ApiError: Too many wait (429), or the model failed (500).
        """
        asked = [_Asked(model, prompt, None, top) for prompt in prompts]
        self._place([one.job for one in asked])
        try:
            scores = [await one.next() for one in asked]
        finally:
            self.scheduler.cancel([one.job for one in asked])
        self._metrics.prompt_tokens.inc(sum(map(len, prompts)))
        return scores

    def _place(self, jobs: Sequence[Job]) -> None:
        if len(jobs) > self.scheduler.limit:
            raise ApiError(f"the request has {len(jobs)} prompts, and at most {self.scheduler.limit} may "
                           "wait here: send fewer at a time")
        try:
            self.scheduler.submit(jobs)
        except QueueFull:
            raise ApiError(f"{self.scheduler.limit} prompts are waiting already: try again later", 429,
                           "queue_full") from None


class Answer:
    """The pieces of one answer, the last one with its reason; `async for` reads them.

    Args:
        scheduler: Runs it.
        metrics: Counts its tokens.
        model: Name of the model.
        question: What was asked.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics, model: str, question: Question) -> None:
        self.asked = _Asked(model, question.ids, question.sampling, question.top)
        self._scheduler, self._metrics = scheduler, metrics
        self._text = TextStream(scheduler.models[model].codec)
        self._stops = StopTexts(question.stops)
        self._has_ended = False
        metrics.prompt_tokens.inc(len(question.ids))

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Piece:
        if self._has_ended:
            raise StopAsyncIteration
        event = await self.asked.next()
        piece = self._last(event) if isinstance(event, End) else self._piece(event)
        if piece.finish:
            self._has_ended = True
            self.close()
        return piece

    def _last(self, end: End) -> Piece:
        rest = self._stops.push(self._text.finish())
        if self._stops.found:
            return Piece(rest, (), "stop")
        return Piece(rest + self._stops.finish(), (), end.reason)

    def _piece(self, token: Token) -> Piece:
        self._metrics.new_tokens.inc()
        text = self._stops.push(self._text.push(token.id))
        return Piece(text, (token,), "stop" if self._stops.found else None)

    def close(self) -> None:
        """Frees the place; after the end it does no harm."""
        self._scheduler.cancel([self.asked.job])


class _Asked:
    """A job whose events arrive in the event loop."""

    def __init__(self, model: str, ids: Sequence[int], sampling: Sampling | None, top: int | None) -> None:
        loop, self._events = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(event: Any) -> None:
            if not self.job.cancelled:
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self.job = Job(model, ids, deliver, sampling, top)

    async def next(self) -> Any:
        event = await self._events.get()
        if isinstance(event, Failure):
            raise ApiError("the model failed; the server's log says how", 500, "model_failed")
        return event
