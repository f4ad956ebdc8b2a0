"""A conversation with a model: history, the room it has, and answers that arrive as text."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

from research_internlm.data.chat_template import render_messages, render_turn
from research_internlm.data.conversations import Message, without_oldest
from research_internlm.data.families import ASSISTANT, SYSTEM, UPSTREAM_END, USER
from research_internlm.inference.model_protocol import Model
from research_internlm.inference.sampling import Sampling
from research_internlm.inference.text_codec import TextCodec
from research_internlm.inference.text_stream import TextStream
from research_internlm.shared.errors import ToolkitError


@dataclass
class AnswerStats:
    """What an answer took.

    Attributes:
        prompt_tokens, new_tokens: Tokens read and written.
        first_token_seconds: From the question to the first token, the prompt's reading included.
        seconds: From the question to the end.
    """

    prompt_tokens: int
    new_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    def line(self) -> str:
        """For the user to read; the speed is that of the tokens after the first."""
        rest = self.seconds - self.first_token_seconds
        speed = f"{(self.new_tokens - 1) / rest:.1f}" if self.new_tokens > 1 and rest > 0 else "-"
        return (f"{self.prompt_tokens} tokens in, {self.new_tokens} out; first token after "
                f"{self.first_token_seconds:.2f} s, then {speed} tokens/s")


class ChatSession:
    """One conversation.

    Args:
        model: Continues token ids.
        codec: The model's tokenizer, whose family decides the prompt.
        seq_length: Longest prompt and answer together, in tokens.
        sampling: How answers are written. When history would leave less than `max_new_tokens`, or half of
            the sequence, the oldest exchanges are left out.
        system: The system turn; empty for none.

    Attributes:
        messages: The conversation without its system turn.
        forgotten: Exchanges that were left out because the context was full.
        prompt: Token ids of the last prompt.
        stats: Of the last answer.
    """

    def __init__(self, model: Model, codec: TextCodec, seq_length: int, sampling: Sampling, system: str = ""
                 ) -> None:
        self._model, self._codec, self._sampling = model, codec, sampling
        self._family = codec.special.family
        self._room = seq_length - min(sampling.max_new_tokens, seq_length // 2)
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation; the system turn stays."""
        self.messages: list[Message] = []
        self.forgotten = 0
        self.prompt: list[int] = []
        self.stats = AnswerStats(0)

    def transcript(self) -> list[Message]:
        """The conversation with its system turn, in OpenAI's form."""
        return [*self._system_turn(), *self.messages]

    def ask(self, text: str) -> Generator[str, None, None]:
        """Asks and remembers the exchange; closing the iterator ends the answer, and keeps its part.

        Args:
            text: The user's message.

        Yields:
            The answer in pieces of whole characters, without markers.

        Raises:
            ToolkitError: The message alone does not fit into the context; it is not remembered.
        """
        started = time.perf_counter()
        self._fit(text)
        self.prompt = self._codec.encode(render_messages(self.transcript(), self._family))
        self.stats = AnswerStats(len(self.prompt))
        answer, text_stream = [], TextStream(self._codec)
        try:
            for token in self._model.stream(self.prompt, self._sampling):
                self.stats.new_tokens += 1
                self.stats.seconds = time.perf_counter() - started
                self.stats.first_token_seconds = self.stats.first_token_seconds or self.stats.seconds
                if piece := text_stream.push(token):
                    answer.append(piece)
                    yield piece
            if piece := text_stream.finish():
                answer.append(piece)
                yield piece
        finally:
            self.stats.seconds = time.perf_counter() - started
            if answer:
                self.messages.append({"role": ASSISTANT, "content": "".join(answer)})
            else:
                self.messages.pop()  # a question without an answer is no exchange

    def _system_turn(self) -> list[Message]:
        return [{"role": SYSTEM, "content": self.system}] if self.system else []

    def _fit(self, text: str) -> None:
        """Adds the user's message, and takes away the oldest exchanges if there is no room for all."""
        messages = [*self.transcript(), {"role": USER, "content": text}]
        frame = len(self._codec.encode(render_messages([], self._family)))
        tokens = [len(self._codec.encode(render_turn(message, self._family, UPSTREAM_END, is_last=False)))
                  for message in messages]
        kept, gone = without_oldest(messages, tokens, self._room - frame)
        if not gone and frame + sum(tokens) > self._room:
            raise ToolkitError(f"the message takes {tokens[-1]} tokens, and the context has "
                               f"{self._room - frame} for it and the system text: shorten it, raise "
                               "model.model_config.seq_length, or lower --max_new_tokens")
        self.messages = kept[len(self._system_turn()):]
        self.forgotten += gone
