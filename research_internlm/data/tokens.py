"""The ids of special tokens: the check of a loaded tokenizer.model against the families.

The special pieces (families.py) also tell which family a vocabulary is of, and the family decides the chat
prompt. Everything else asks this module for ids and never writes a number down.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file

IGNORE_ID = -100  # a label of this value is not trained on (torch, MindFormers' ignore_token_id)
PAD_ID = 0  # upstream's records are padded with 0 (= <unk>), not with the model's eos

# Roles that data manifests and printed samples have always named otherwise.
_PRINTED_ROLES = MappingProxyType({"end_of_user": "eoh", "end_of_assistant": "eoa", "turn_start": "turn"})


def printed_role(role: str) -> str:
    """The name of a special token's role in files and on the screen."""
    return _PRINTED_ROLES.get(role, role)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens of one loaded vocabulary.

    Attributes:
        vocab_size: Number of pieces.
        ids: Role to token id: `bos`, `eos`, `unk`, `end_of_user`, `end_of_assistant`, and the family's
            own, `newline` or `turn_start`.
        family: A key of FAMILIES.
        tool_ids: Role to token id of the tokens of tool calls; empty where the vocabulary has none.
    """

    vocab_size: int
    ids: MappingProxyType[str, int]
    family: str = INTERNLM
    tool_ids: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, role: str) -> int:
        return self.ids[role] if role in self.ids else self.tool_ids[role]

    def all_ids(self) -> Iterable[tuple[str, int]]:
        """Role and id of every special token, those of tool calls too."""
        return (*self.ids.items(), *self.tool_ids.items())

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids at which generation ends: the end of the answer and the end of the text."""
        return tuple(self[role] for role in FAMILIES[self.family].stop_roles)

    def manifest_entry(self) -> dict[str, int]:
        """What a data manifest keeps as `special_ids`."""
        return {**{printed_role(role): id_ for role, id_ in self.ids.items()}, "vocab_size": self.vocab_size}


def load_tokenizer(model_file: str | os.PathLike) -> sentencepiece.SentencePieceProcessor:
    """Loads a SentencePiece model and checks that it has the layout of a known family.

    Args:
        model_file: `tokenizer.model`; the real ones have 103,168 pieces (InternLM), 92,544 (InternLM2) and
            128,111 (InternLM3, without its added tokens), a rehearsal's may have fewer.

    Returns:
        The processor; `special_tokens` gives its ids.

    Raises:
        ToolkitError: Missing, not a SentencePiece model, or special pieces elsewhere than InternLM's.
    """
    path = require_file(model_file, "the tokenizer", "it is tokenizer.model of the InternLM release")
    sentencepiece.set_min_log_level(2)  # the real model makes it warn about a piece that is never used
    try:
        processor = _with_added_tokens(sentencepiece.SentencePieceProcessor(model_file=str(path)))
        processor.id_to_piece(list(range(processor.vocab_size())))  # bytes that are not UTF-8 show only here
    except (RuntimeError, OSError, ValueError) as error:
        raise ToolkitError(f"{path} is not a SentencePiece model; use InternLM's tokenizer.model") from error
    try:
        special_tokens(processor)
    except ToolkitError as error:
        raise ToolkitError(f"{path}: {error}") from None
    return processor


def _with_added_tokens(processor: sentencepiece.SentencePieceProcessor
                       ) -> sentencepiece.SentencePieceProcessor:
    """The vocabulary with the tokens that a family's tokenizer adds to it in its Python code.

    As control pieces they never come out of a text, and decode to nothing; unused pieces fill the rest of the
    embedding.
    """
    size = processor.vocab_size()
    row = next((row for row in FAMILIES.values() if row.added_tokens and row.pieces_in_file == size), None)
    if row is None:
        return processor
    # Joined serialized messages are one message, whose pieces are those of both.
    more = sentencepiece_model_pb2.ModelProto()
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    for text in row.added_tokens:
        more.pieces.add(piece=text, type=kinds.CONTROL)
    for number in range(size + len(row.added_tokens), row.vocab_size):
        more.pieces.add(piece=f"[NO_TOKEN_{number}]", type=kinds.UNUSED)
    return sentencepiece.SentencePieceProcessor(
        model_proto=processor.serialized_model_proto() + more.SerializePartialToString())


def _token_count(processor: sentencepiece.SentencePieceProcessor) -> int:
    """Pieces up to the last one that is a token, from which special tokens are counted."""
    count = processor.vocab_size()
    while count > 1 and processor.is_unused(count - 1):
        count -= 1
    return count


def special_tokens(processor: sentencepiece.SentencePieceProcessor) -> SpecialTokens:
    """Reads the special ids of a loaded vocabulary and checks them against the layouts of the families.

    Raises:
        ToolkitError: A special piece has another id; all differences from the nearest family are listed.
    """
    size, count = processor.vocab_size(), _token_count(processor)
    wrong = {name: _differences(processor, family.pieces) for name, family in FAMILIES.items()}
    family = FAMILIES[min(wrong, key=lambda name: len(wrong[name]))]
    if wrong[family.name]:
        raise ToolkitError(
            f"the special tokens of this {size}-piece vocabulary are not {family.title}'s: "
            + "; ".join(wrong[family.name]) + "; use the tokenizer.model that came with the base weights"
        )
    tools = family.tool_pieces if not _differences(processor, family.tool_pieces) else {}
    ids, tool_ids = (MappingProxyType({role: place % count for role, (_, place) in pieces.items()})
                     for pieces in (family.pieces, tools))
    return SpecialTokens(size, ids, family.name, tool_ids)


def _differences(processor: sentencepiece.SentencePieceProcessor, pieces: Mapping[str, tuple[str, int]]
                 ) -> list[str]:
    size = _token_count(processor)
    found = {role: processor.id_to_piece(place % size) for role, (_, place) in pieces.items()}
    return [f"id {place % size} is {found[role]!r} where {piece!r} ({role}) is expected"
            for role, (piece, place) in pieces.items() if found[role] != piece]
