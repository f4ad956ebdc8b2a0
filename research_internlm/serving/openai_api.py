"""OpenAI's API as its clients speak it: requests, answers and errors. No text is generated here.

Fields that are null count as absent, and unknown ones are ignored, because clients send both. What a field
asks for and this server cannot do is refused by its name, never passed over.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from research_internlm.inference.sampling import Sampling
from research_internlm.shared import schema
from research_internlm.shared.errors import ToolkitError

MAX_LOGPROBS = 20
_MAX_STOPS = 16
_COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions; a chat's is the room there is
T = TypeVar("T")


class ApiError(Exception):
    """What a client is told in place of an answer.

    Args:
        message: For a person.
        status: HTTP status.
        code: For a program; None where the status says enough.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error form."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


@dataclass(frozen=True)
class StreamOptions:
    """`stream_options` of a request."""

    include_usage: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What completions and chats have in common; None is the field's default."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Any = None

    def stops(self) -> list[str]:
        """The texts at which an answer ends."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if (not isinstance(stops, list) or len(stops) > _MAX_STOPS
                or not all(isinstance(text, str) and text for text in stops)):
            raise ApiError(f"stop must be a text or a list of at most {_MAX_STOPS} texts, none of them empty")
        return stops

    def sampling(self, most: int) -> Sampling:
        """How the answer is written, `most` tokens at most; OpenAI's defaults."""
        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        try:
            return Sampling(max(1, most), given(self.temperature, 1.0), given(self.top_p, 1.0),
                            max(0, given(self.top_k, 0)), given(self.repetition_penalty, 1.0), self.seed)
        except ToolkitError as error:
            raise ApiError(str(error)) from None

    def check(self) -> None:
        """Refuses what this server cannot do.

        Raises:
            ApiError: With the fields' names.
        """
        wrong = [name for name in ("presence_penalty", "frequency_penalty", "logit_bias")
                 if getattr(self, name)]
        if wrong:
            raise ApiError(f"not supported here: {', '.join(wrong)}; leave it out (repetition_penalty is)")
        if self.n not in (None, 1):
            raise ApiError(f"n is {self.n}, but one request gets one answer a prompt here: send it again")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise ApiError(f"max_tokens is {self.max_tokens}, but must be 0 or more")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Request):
    """POST /v1/completions. `prompt` is a text, token ids, or a list of either."""

    prompt: Any
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None

    def check(self) -> None:
        """As Request.check."""
        super().check()
        if self.best_of not in (None, 1) or self.suffix:
            raise ApiError("not supported here: best_of and suffix; leave them out")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ApiError(f"logprobs is {self.logprobs}, but must be from 0 to {MAX_LOGPROBS}")
        if self.stream and len(self.prompts()) > 1:
            raise ApiError("a stream answers one prompt; send the prompts one by one, or without stream")

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt = self.prompt
        if isinstance(prompt, str) or _is_ids(prompt):
            return [prompt]
        if isinstance(prompt, list) and prompt and all(isinstance(one, str) or _is_ids(one)
                                                       for one in prompt):
            return prompt
        raise ApiError("prompt must be a text, a list of token ids, or a list of either, and not empty")

    def new_tokens(self) -> int:
        """Most tokens of the answer."""
        return _COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


@dataclass(frozen=True)
class Function:
    """A function that is called: `arguments` is JSON text."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True)
class Call:
    """An entry of `tool_calls`."""

    function: Function
    id: str = ""
    type: str = "function"


@dataclass(frozen=True)
class ChatMessage:
    """A message of a request; `content` is a text, null, or a list of text parts."""

    role: str
    content: Any = None
    tool_calls: list[Call] | None = None

    def text(self) -> str:
        """The content as one text.

        Raises:
            ApiError: A part is not text.
        """
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        if isinstance(self.content, list) and all(
                isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
                for part in self.content):
            return "".join(part["text"] for part in self.content)
        raise ApiError("content must be a text or a list of text parts: the model reads nothing else")


@dataclass(frozen=True)
class FunctionSchema:
    """A tool that a request offers."""

    name: str
    description: str | None = None
    parameters: Any = None


@dataclass(frozen=True)
class Tool:
    """An entry of `tools`."""

    function: FunctionSchema
    type: str = "function"


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    response_format: Any = None

    def check(self) -> None:
        """As Request.check."""
        super().check()
        if not self.messages:
            raise ApiError("messages is empty")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            raise ApiError(f"top_logprobs is {self.top_logprobs}, but must be from 0 to {MAX_LOGPROBS}")
        if self.tool_choice not in (None, "auto", "none"):
            raise ApiError("tool_choice must be auto or none: the model decides whether it calls a tool")
        if self.response_format and self.response_format != {"type": "text"}:
            raise ApiError("response_format must be text: the form of an answer cannot be forced here")

    def new_tokens(self) -> int | None:
        """Most tokens of the answer; None for all that there is room for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def offered(self) -> list[dict[str, Any]]:
        """The tools as the prompt names them."""
        if self.tool_choice == "none":
            return []
        return [{"name": tool.function.name, "description": tool.function.description or "",
                 "parameters": tool.function.parameters or {"type": "object", "properties": {}}}
                for tool in self.tools or []]


@dataclass(frozen=True)
class TokenizeRequest:
    """POST /tokenize."""

    prompt: str
    add_special_tokens: bool | None = None
    model: str | None = None


@dataclass(frozen=True)
class DetokenizeRequest:
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None


def read(kind: type[T], value: Any) -> T:
    """The request that a JSON body holds.

    Raises:
        ApiError: It is not valid; everything that is wrong is said.
    """
    try:
        request = schema.parse(kind, value, "the request")
    except ToolkitError as error:
        raise ApiError(str(error)) from None
    if isinstance(request, Request):
        request.check()
    return request


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, completion: int) -> Usage:
        """With their sum."""
        return cls(prompt, completion, prompt + completion)


@dataclass(frozen=True)
class CompletionLogprobs:
    """`logprobs` of a completion: one entry a token; the first token of a prompt has none (null)."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class CompletionChoice:
    """One answer of /v1/completions, or a part of it in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


@dataclass(frozen=True)
class ChatTokenLogprob:
    """A token in `logprobs.content` of a chat."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ChatAnswer:
    """The message of a chat's choice."""

    content: str | None
    tool_calls: list[Call] | None = None
    role: str = "assistant"


@dataclass(frozen=True)
class ChatChoice:
    """The answer of /v1/chat/completions."""

    message: ChatAnswer
    logprobs: dict[str, list[ChatTokenLogprob]] | None
    finish_reason: str
    index: int = 0


@dataclass(frozen=True)
class ChatChunkChoice:
    """A part of it in a stream."""

    delta: dict[str, Any]
    logprobs: dict[str, list[ChatTokenLogprob]] | None = None
    finish_reason: str | None = None
    index: int = 0


@dataclass(frozen=True)
class Envelope:
    """What is around the choices; one for all chunks of a stream.

    Attributes:
        object: E.g. chat.completion.
        model: The name the client asked for.
    """

    object: str
    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: Sequence[Any], usage: Usage | None = None, **more: Any) -> dict[str, Any]:
        """The JSON value with these choices."""
        return schema.to_json({"id": self.id, "object": self.object, "created": self.created,
                               "model": self.model, "choices": list(choices), "usage": usage, **more})
