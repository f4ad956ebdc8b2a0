"""The owner of every prompt: chat wrapper, multiple-choice wording, SQuAD wording.

One function renders a sample into segments; training encodes all of them, inference encodes the prefix
before the first supervised one. So the prompt at inference is the prompt in training by construction.

Segments are encoded one by one, each with SentencePiece's own dummy prefix, because the records everyone
starts from are made that way (research/internlm/alpaca_data_preprocess.py); joining the text first gives
other ids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import sentencepiece

from research_internlm.data.tokens import INTERNLM, INTERNLM2, SpecialTokens

PROMPT_VERSION = "internlm-chat-1"  # goes into manifests; raise it when any string below changes

# How a chat answer may end, by roles of special tokens; the first is what everyone trains with. With a frozen
# head a base model may never learn to say <eoa>, while </s> it has seen all its life
# (docs/traps.md#end-marker-not-learnt). Generation stops at either.
UPSTREAM_END = "eoa"
END_MARKERS = MappingProxyType({
    INTERNLM: MappingProxyType({"eoa": ("eoa", "newline", "eos"), "eos": ("eos",)}),
    INTERNLM2: MappingProxyType({"eoa": ("eoa",), "eos": ("eos",)}),
})


_USER = "<|User|>:"
_BOT = "<|Bot|>:"


@dataclass(frozen=True)
class Segment:
    """A piece of a sample.

    Attributes:
        content: Text to be encoded, or the role of a special token.
        is_token: True where `content` is a role such as `eoh`.
        supervised: Whether the model is trained to produce it.
    """

    content: str
    is_token: bool = False
    supervised: bool = False


@functools.cache
def special_token(role: str, supervised: bool = False) -> Segment:
    return Segment(role, is_token=True, supervised=supervised)


def prompt_version(end: str = UPSTREAM_END) -> str:
    """What a manifest says of samples whose chat answers end in `end`; the prompts are the same."""
    return PROMPT_VERSION if end == UPSTREAM_END else f"{PROMPT_VERSION}+{end}"


def render_chat(instruction: str, input_text: str, output: str | None = None, family: str = INTERNLM,
                end: str = UPSTREAM_END) -> list[Segment]:
    """Renders one alpaca item as a chat turn of its family.

    Args:
        instruction: The `instruction` field.
        input_text: The `input` field; an empty one adds no newline.
        output: The `output` field, or None for the inference prompt.
        family: `SpecialTokens.family` of the tokenizer.
        end: How the answer ends, a key of END_MARKERS[family].

    Returns:
        Segments; with an output, those before the first supervised one are the inference prompt.
    """
    user = f"{instruction}\n{input_text}" if input_text else instruction
    if family == INTERNLM2:
        # chat_template in the tokenizer_config.json of the InternLM2 releases, without a system turn.
        prompt = [special_token("bos"), special_token("turn"), Segment(f"user\n{user}"), special_token("eoh"),
                  Segment("\n"), special_token("turn"), Segment("assistant\n")]
    else:
        prompt = [special_token("bos"), Segment(_USER + user), special_token("eoh"), special_token("newline"),
                  Segment(_BOT)]
    if output is None:
        return prompt
    return [*prompt, Segment(output, supervised=True),
            *(special_token(role, True) for role in END_MARKERS[family][end])]


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


# Multiple choice: the official converter's strings, to the space before the first newline.


