"""POST /v1/chat/completions: conversations, with tools where the model's family has a form for them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from research_internlm.data.chat_template import render_messages
from research_internlm.data.conversations import Message
from research_internlm.data.families import ASSISTANT, FAMILIES, SYSTEM, USER
from research_internlm.data.tool_calls import ToolCall, ToolTurn, read_call, render_with_tools, split_calls
from research_internlm.inference.text_codec import TextCodec
from research_internlm.serving.answering import Answer, Answering, Question
from research_internlm.serving.completions import too_long, whole
from research_internlm.serving.openai_api import (
    ApiError,
    Call,
    ChatAnswer,
    ChatChoice,
    ChatChunkChoice,
    ChatMessage,
    ChatRequest,
    ChatTokenLogprob,
    Envelope,
    Function,
    Usage,
)
from research_internlm.serving.scheduler import Token
from research_internlm.shared import schema

_TOOL = "tool"  # the role of a tool's result
_ROLES = {SYSTEM: SYSTEM, "developer": SYSTEM, USER: USER, ASSISTANT: ASSISTANT}


class Chat:
    """Answers one request.

    Args:
        answering: Asks the model.
        model: Its name.
        request: The request.

    Raises:
        ApiError: The conversation is too long or cannot be rendered.
    """

    def __init__(self, answering: Answering, model: str, request: ChatRequest) -> None:
        self._answering, self._model, self._request = answering, model, request
        loaded = answering.scheduler.models[model]
        self._codec = loaded.codec
        self._tools = request.offered()
        self._prompt = self._codec.encode(self._render())
        room = loaded.rows.seq_length - len(self._prompt)
        if room < 1:
            raise too_long(len(self._prompt), loaded.rows.seq_length - 1)
        new = request.new_tokens()
        if new == 0:
            raise ApiError("max_tokens is 0, but a chat's answer has at least one token")
        top = (request.top_logprobs or 0) if request.logprobs else None
        self._answer: Answer | None = None
        self._question = Question(self._prompt, request.sampling(new or room), request.stops(), top)

    def _render(self) -> list[Any]:
        family = self._codec.special.family
        turns = [_turn(message) for message in self._request.messages]
        if not self._tools and not any(isinstance(turn, ToolTurn) for turn in turns):
            if turns[-1]["role"] == ASSISTANT:
                raise ApiError("the last message is the assistant's: there is nothing to answer")
            return render_messages(turns, family)
        if not self._codec.special.tool_ids:
            raise ApiError(f"tools: {FAMILIES[family].title} with this tokenizer has no tokens for tool "
                           "calls; ask without tools, or serve an InternLM2 chat model")
        return render_with_tools(turns, self._tools, family)

    def _submit(self) -> None:
        [self._answer] = self._answering.submit(self._model, [self._question])

    def close(self) -> None:
        """Frees the place of an answer that nobody reads on."""
        if self._answer:
            self._answer.close()

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        self._submit()
        text, tokens, finish = await whole(self._answer)
        text, calls = self._split(text, tokens)
        message = ChatAnswer(text if text or not calls else None, calls or None)
        choice = ChatChoice(message, self._logprobs(tokens), "tool_calls" if calls else finish)
        return Envelope("chat.completion", self._model).body(
            [choice], Usage.of(len(self._prompt), len(tokens)))

    def _split(self, text: str, tokens: Sequence[Token]) -> tuple[str, list[Call]]:
        """Text and calls of an answer; without offered tools everything is text."""
        if not self._tools:
            return text, []
        before, bodies = split_calls([token.id for token in tokens], self._codec.special)
        if not bodies:
            return text, []
        names = [tool["name"] for tool in self._tools]
        texts = [_text_of(self._codec, body) for body in bodies]
        calls = [read_call(body, names) for body in texts]
        content = _text_of(self._codec, before)
        if None in calls:  # a malformed call is the answer's text, as it was written
            return "\n".join(filter(None, (content, *map(str.strip, texts)))), []
        return content, [_call(call) for call in calls]

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        """The chunks of the answer. Where tools were offered, text from a call on comes at the end."""
        self._submit()
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        envelope, tokens, shown = Envelope("chat.completion.chunk", self._model), [], ""
        action = self._codec.special.tool_ids.get("action_start") if self._tools else None
        is_calling = False
        yield envelope.body([ChatChunkChoice({"role": ASSISTANT, "content": ""})])
        async for piece in self._answer:
            tokens += piece.tokens
            calls: list[Call] = []
            text, finish = piece.text, piece.finish
            is_calling = is_calling or any(token.id == action for token in piece.tokens)
            if is_calling:
                text = ""
                if finish:
                    content, calls = self._split("", tokens)
                    text, finish = content[len(shown):], "tool_calls" if calls else finish
            shown += text
            if text or (piece.tokens and self._request.logprobs):
                yield envelope.body([ChatChunkChoice({"content": text}, self._logprobs(piece.tokens))])
            if calls:
                yield envelope.body([ChatChunkChoice({"tool_calls": [
                    {"index": index, **schema.to_json(call)} for index, call in enumerate(calls)]})])
            if finish:
                yield envelope.body([ChatChunkChoice({}, None, finish)])
        if self._request.wants_usage:
            yield envelope.body([], Usage.of(len(self._prompt), len(tokens)))

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, list[ChatTokenLogprob]] | None:
        if not self._request.logprobs:
            return None
        return {"content": [
            ChatTokenLogprob(**self._named(token.id, token.logprob),
                             top_logprobs=[self._named(id_, value) for id_, value in token.top])
            for token in tokens]}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text, processor = self._codec.token_text(token), self._codec.processor
        data = ([int(processor.id_to_piece(token)[1:-1], 16)] if processor.is_byte(token)
                else list(text.encode()))
        return {"token": text, "logprob": logprob, "bytes": data}


def _turn(message: ChatMessage) -> Message | ToolTurn:
    if message.role == _TOOL:
        return ToolTurn(message.text())
    if message.role not in _ROLES:
        raise ApiError(f"a message has the role {message.role!r:.40}, which is none of "
                       f"{', '.join((*_ROLES, _TOOL))}")
    if message.tool_calls and message.role == ASSISTANT:
        return ToolTurn(message.text(), tuple(map(_asked_call, message.tool_calls)))
    return {"role": _ROLES[message.role], "content": message.text()}


def _asked_call(call: Call) -> ToolCall:
    try:
        parameters = json.loads(call.function.arguments or "{}")
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise ApiError(f"the arguments of the call of {call.function.name!r:.60} are not a JSON object")
    return ToolCall(call.function.name, parameters)


def _call(call: ToolCall) -> Call:
    return Call(Function(call.name, json.dumps(call.parameters, ensure_ascii=False)),
                f"call_{uuid.uuid4().hex[:24]}")


def _text_of(codec: TextCodec, ids: Sequence[int]) -> str:
    return codec.decode([id_ for id_ in ids if id_ not in codec.hidden])
