"""The owner of the chat prompt: messages of a conversation -> segments of their family.

One function renders messages; training encodes all segments, inference encodes those of the messages before
the answer and the answer's opening. So the prompt at inference is the prompt in training by construction.

Segments are encoded one by one, each with SentencePiece's own dummy prefix, because the records everyone
starts from are made that way (research/internlm/alpaca_data_preprocess.py); joining the text first gives
other ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sentencepiece

from research_internlm.data.conversations import Message, user_text
from research_internlm.data.families import ASSISTANT, FAMILIES, INTERNLM, UPSTREAM_END, USER
from research_internlm.data.segments import Segment, special_token
from research_internlm.data.tokens import SpecialTokens
from research_internlm.shared.errors import ToolkitError

# Of the chat wrapper alone, of all families; it goes into manifests and results. Raise it when a template in
# families.py changes. The wording of a task has a version of its own (items.py).
PROMPT_VERSION = "internlm-chat-1"
ALL_ANSWERS, LAST_ANSWER = TRAIN_ON = ("all", "last")  # which answers of a conversation are supervised


def prompt_version(end: str = UPSTREAM_END) -> str:
    """What a manifest says of samples whose chat answers end in `end`; the prompts are the same."""
    return PROMPT_VERSION if end == UPSTREAM_END else f"{PROMPT_VERSION}+{end}"


def render_messages(messages: Sequence[Message], family: str = INTERNLM, end: str = UPSTREAM_END
                    ) -> list[Segment]:
    """Renders a conversation: system, user and assistant turns, any number, in any order.

    Args:
        messages: The turns. Where the last one is not the assistant's, its opening follows, so the result is
            the prompt for its answer.
        family: `SpecialTokens.family` of the tokenizer; its row in families.py names the sources.
        end: How answers end, a key of the family's end_markers. Before a further turn an answer keeps its
            first end token only.

    Returns:
        Segments; the content of every assistant turn and its end marker are supervised.

    Raises:
        ToolkitError: A message has another role.
    """
    segments = [special_token("bos")]
    for place, message in enumerate(messages, 1):
        segments += render_turn(message, family, end, is_last=place == len(messages))
    if not messages or messages[-1]["role"] != ASSISTANT:
        segments += FAMILIES[family].turns[ASSISTANT].before
    return segments


def render_turn(message: Message, family: str, end: str, is_last: bool) -> list[Segment]:
    """Renders one message of a conversation; `is_last` decides how an assistant's turn ends."""
    role, content, row = message["role"], message["content"], FAMILIES[family]
    turn = row.turns.get(role)
    if turn is None:
        raise ToolkitError(f"a message has the role {role!r}; {row.title}'s chat has {', '.join(row.turns)}")
    if role != ASSISTANT:
        *tokens, text = turn.before
        return [*tokens, Segment(text.content + content), *turn.after]
    markers = row.end_markers[end] if is_last else row.end_markers[end][:1]
    return [*turn.before, Segment(content, supervised=True),
            *(special_token(marker, True) for marker in markers), *(() if is_last else turn.after)]


def render_chat(instruction: str, input_text: str, output: str | None = None, family: str = INTERNLM,
                end: str = UPSTREAM_END) -> list[Segment]:
    """Renders one alpaca item: a user's message, and the assistant's answer unless it is asked for.

    Args:
        instruction: The `instruction` field.
        input_text: The `input` field; an empty one adds no newline.
        output: The `output` field, or None for the inference prompt.
        family: As for `render_messages`.
        end: As for `render_messages`.

    Returns:
        Segments; with an output, those before the first supervised one are the inference prompt.
    """
    messages = [{"role": USER, "content": user_text(instruction, input_text)}]
    if output is not None:
        messages.append({"role": ASSISTANT, "content": output})
    return render_messages(messages, family, end)


def supervise_last(segments: Sequence[Segment]) -> list[Segment]:
    """Segments of a conversation with its last answer supervised alone, the end marker included."""
    start = stop = max((place for place, segment in enumerate(segments, 1) if segment.supervised), default=0)
    while start and segments[start - 1].supervised:
        start -= 1
    return [replace(segment, supervised=start <= place < stop) for place, segment in enumerate(segments)]


def encode(
    segments: Sequence[Segment],
    processor: sentencepiece.SentencePieceProcessor,
    special: SpecialTokens,
) -> tuple[list[int], list[bool]]:
    """Encodes segments one by one.

    Args:
        segments: From a render function.
        processor: The loaded vocabulary.
        special: Its special ids.

    Returns:
        Token ids and, for each, whether it is supervised; both of length n.
    """
    ids: list[int] = []
    supervised: list[bool] = []
    for segment in segments:
        piece = [special[segment.content]] if segment.is_token else processor.encode(segment.content)
        ids += piece
        supervised += [segment.supervised] * len(piece)
    return ids, supervised
