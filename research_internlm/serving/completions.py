"""POST /v1/completions: prompts of text or ids, with their log-probabilities where asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from research_internlm.inference.scoring import PromptScores
from research_internlm.inference.text_codec import TextCodec
from research_internlm.inference.text_stream import TextStream
from research_internlm.serving.answering import Answer, Answering, Question
from research_internlm.serving.openai_api import (
    ApiError,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Envelope,
    Usage,
)
from research_internlm.serving.scheduler import Token


def too_long(tokens: int, most: int) -> ApiError:
    """The error of a prompt that does not fit."""
    return ApiError(f"the prompt has {tokens} tokens, and this model's context takes {most} of a prompt: "
                    "shorten it", 400, "context_length_exceeded")


def with_bos(codec: TextCodec, ids: list[int]) -> list[int]:
    """The ids of a text, beginning as every sample of the training does."""
    bos = codec.special["bos"]
    return ids if ids[:1] == [bos] else [bos, *ids]


class Completions:
    """Answers one request.

    Args:
        answering: Asks the model.
        model: Its name.
        request: The request.

    Raises:
        ApiError: A prompt is too long, or has ids that the model does not have.
    """

    def __init__(self, answering: Answering, model: str, request: CompletionRequest) -> None:
        self._answering, self._model, self._request = answering, model, request
        loaded = answering.scheduler.models[model]
        self._codec, self._seq_length = loaded.codec, loaded.rows.seq_length
        self._new = request.new_tokens()
        self._sampling, self._stops = request.sampling(self._new), request.stops()
        # One pass over the prompts tells the likeliest next token too, so a greedy one needs no row.
        self._is_scoring = self._new == 0 or (bool(request.echo) and self._new == 1
                                              and self._sampling.temperature == 0)
        self._prompts = [self._encode(prompt) for prompt in request.prompts()]
        self._answers: list[Answer] = []

    def _encode(self, prompt: str | list[int]) -> list[int]:
        codec = self._codec
        ids = prompt if isinstance(prompt, list) else with_bos(codec, codec.encode_text(prompt))
        if wrong := [one for one in ids if not 0 <= one < codec.special.vocab_size]:
            raise ApiError(f"{wrong[0]} is not a token id: the model has 0 to {codec.special.vocab_size - 1}")
        most = self._seq_length - (0 if self._is_scoring else 1)
        if len(ids) > most:
            raise too_long(len(ids), most)
        return ids

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        scores = await self._scores()
        if self._is_scoring:
            answers = [self._from_scores(score) for score in scores]
        else:
            self._submit()
            answers = await asyncio.gather(*map(whole, self._answers))
        choices = [self._choice(index, score, *answer)
                   for index, (score, answer) in enumerate(zip(scores, answers, strict=True))]
        usage = Usage.of(sum(map(len, self._prompts)), sum(len(tokens) for _, tokens, _ in answers))
        return Envelope("text_completion", self._model).body(choices, usage)

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        """The chunks of the answer to the only prompt."""
        if self._request.logprobs is not None or self._request.echo or self._is_scoring:
            raise ApiError("a stream has neither echo nor logprobs nor max_tokens 0 here: ask without stream")
        self._submit()
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        envelope, count = Envelope("text_completion", self._model), 0
        async for piece in self._answers[0]:
            count += len(piece.tokens)
            if piece.text or piece.finish:
                yield envelope.body([CompletionChoice(0, piece.text, None, piece.finish)])
        if self._request.wants_usage:
            yield envelope.body([], Usage.of(len(self._prompts[0]), count))

    def _submit(self) -> None:
        self._answers = self._answering.submit(self._model, [
            Question(ids, self._sampling, self._stops, self._request.logprobs) for ids in self._prompts])

    def close(self) -> None:
        """Frees the places of answers that nobody reads on."""
        for answer in self._answers:
            answer.close()

    async def _scores(self) -> list[PromptScores | None]:
        if not self._is_scoring and not (self._request.echo and self._request.logprobs is not None):
            return [None] * len(self._prompts)
        return await self._answering.score(self._model, self._prompts, max(1, self._request.logprobs or 0))

    def _from_scores(self, scores: PromptScores) -> tuple[str, list[Token], str]:
        """Text, tokens and end of an answer of no or one token."""
        if self._new == 0:
            return "", [], "length"
        ids, values = scores.top_ids[-1], scores.top_logprobs[-1]
        token = int(ids[0])
        top = tuple((int(i), float(v)) for i, v in zip(ids, values, strict=True))
        is_end = token in self._codec.special.stop_ids
        # The token is told even where it ends the answer: who asks for scores counts on one more than echoed.
        text = TextStream(self._codec)
        return text.push(token) + text.finish(), [Token(token, float(values[0]), top)], (
            "stop" if is_end else "length")

    def _choice(self, index: int, scores: PromptScores | None, text: str, tokens: Sequence[Token],
                finish: str) -> CompletionChoice:
        request, prompt = self._request, self._prompts[index]
        logprobs = None
        if request.logprobs is not None:
            echoed = _echoed(prompt, scores, request.logprobs) if request.echo else []
            logprobs = completion_logprobs(self._codec, [*echoed, *tokens], request.logprobs)
        if request.echo:
            text = self._codec.decode(prompt) + text
        return CompletionChoice(index, text, logprobs, finish)


def _echoed(prompt: Sequence[int], scores: PromptScores, top: int) -> list[Token]:
    """The prompt's tokens with what the model thinks of each."""
    tokens = [Token(prompt[0])]
    for place, token in enumerate(prompt[1:]):
        likely = zip(scores.top_ids[place][:top], scores.top_logprobs[place], strict=False)
        tokens.append(Token(token, float(scores.logprobs[place]),
                            tuple((int(id_), float(value)) for id_, value in likely)))
    return tokens


def completion_logprobs(codec: TextCodec, tokens: Sequence[Token], top: int) -> CompletionLogprobs:
    """The `logprobs` of a completion; each token's own value is among its likeliest ones'."""
    found, text, offset = CompletionLogprobs(), TextStream(codec), 0
    for token in tokens:
        found.tokens.append(codec.token_text(token.id))
        found.token_logprobs.append(token.logprob)
        found.text_offset.append(offset)
        offset += len(text.push(token.id))
        if token.logprob is None:
            found.top_logprobs.append(None)
        else:
            likely = {codec.token_text(id_): value for id_, value in token.top[:top]}
            found.top_logprobs.append({**likely, codec.token_text(token.id): token.logprob})
    return found


async def whole(answer: Answer) -> tuple[str, list[Token], str]:
    """Text, tokens and end of an answer."""
    texts, tokens, finish = [], [], "stop"
    async for piece in answer:
        texts.append(piece.text)
        tokens += piece.tokens
        finish = piece.finish or finish
    return "".join(texts), tokens, finish
