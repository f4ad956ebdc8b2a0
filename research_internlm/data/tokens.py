"""The owner of special tokens: their pieces, their ids, and the check of a loaded tokenizer.model.

The special pieces also tell which family a vocabulary is of, and the family decides the chat prompt.
InternLM's vocabulary has no `<eoh>` or `<eoa>` text: the two end markers are the last two pieces of the
SentencePiece model, `<TOKENS_UNUSED_140>` (103167) and `<TOKENS_UNUSED_139>` (103166), and are used by
id (source: research/internlm/alpaca_data_preprocess.py and internlm-7b's tokenizer.model). Everything
else asks this module for ids and never writes a number down.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType

import sentencepiece

from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file

IGNORE_ID = -100  # a label of this value is not trained on (torch, MindFormers' ignore_token_id)
PAD_ID = 0  # upstream's records are padded with 0 (= <unk>), not with the model's eos

INTERNLM, INTERNLM2 = "internlm", "internlm2"  # families

# family -> role -> piece, and where that piece must lie. A negative position counts from the end.
_LAYOUTS = MappingProxyType({
    INTERNLM: MappingProxyType({
        "unk": ("<unk>", 0),
        "bos": ("<s>", 1),
        "eos": ("</s>", 2),
        "newline": ("<0x0A>", 13),
        "eoa": ("<TOKENS_UNUSED_139>", -2),
        "eoh": ("<TOKENS_UNUSED_140>", -1),
    }),
    # <|im_end|> (92542) ends both turns, <|im_start|> (92543) begins each. Source: added_tokens_decoder in
    # the tokenizer_config.json of the InternLM2 releases.
    INTERNLM2: MappingProxyType({
        "unk": ("<unk>", 0),
        "bos": ("<s>", 1),
        "eos": ("</s>", 2),
        "eoa": ("[UNUSED_TOKEN_145]", -2),
        "eoh": ("[UNUSED_TOKEN_145]", -2),
        "turn": ("[UNUSED_TOKEN_146]", -1),
    }),
})
_NAMES = MappingProxyType({INTERNLM: "InternLM", INTERNLM2: "InternLM2"})
INTERNLM_VOCAB_SIZE = 103168
INTERNLM2_VOCAB_SIZE = 92544


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens of one loaded vocabulary.

    Attributes:
        vocab_size: Number of pieces.
        ids: Role to token id: `bos`, `eos`, `unk`, `eoh` (end of the question), `eoa` (end of the answer),
            and the family's own, `newline` or `turn`.
        family: INTERNLM or INTERNLM2.
    """

    vocab_size: int
    ids: MappingProxyType[str, int]
    family: str = INTERNLM

    def __getitem__(self, role: str) -> int:
        return self.ids[role]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids at which generation ends: the end of the answer and the end of the text."""
        return (self["eoa"], self["eos"])


def load_tokenizer(model_file: str | os.PathLike) -> sentencepiece.SentencePieceProcessor:
    """Loads a SentencePiece model and checks that it is InternLM's or InternLM2's layout.

    Args:
        model_file: `tokenizer.model`; the real ones have 103,168 pieces (InternLM) and 92,544
            (InternLM2), a rehearsal's may have fewer.

    Returns:
        The processor; `special_tokens` gives its ids.

    Raises:
        ToolkitError: Missing, not a SentencePiece model, or special pieces elsewhere than InternLM's.
    """
    path = require_file(model_file, "the tokenizer", "it is tokenizer.model of the InternLM release")
    sentencepiece.set_min_log_level(2)  # the real model makes it warn about a piece nobody uses
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ToolkitError(f"{path} is not a SentencePiece model; use InternLM's tokenizer.model") from error
    try:
        special_tokens(processor)
    except ToolkitError as error:
        raise ToolkitError(f"{path}: {error}") from None
    return processor


def special_tokens(processor: sentencepiece.SentencePieceProcessor) -> SpecialTokens:
    """Reads the special ids of a loaded vocabulary and holds them against the layouts of the families.

    Raises:
        ToolkitError: A special piece has another id; all differences from the nearest family are listed.
    """
    size = processor.vocab_size()
    wrong = {family: _differences(processor, family) for family in _LAYOUTS}
    family = min(wrong, key=lambda name: len(wrong[name]))
    if wrong[family]:
        raise ToolkitError(
            f"the special tokens of this {size}-piece vocabulary are not {_NAMES[family]}'s: "
            + "; ".join(wrong[family]) + "; use the tokenizer.model that came with the base weights"
        )
    return SpecialTokens(size, MappingProxyType(
        {role: place % size for role, (_, place) in _LAYOUTS[family].items()}), family)


def _differences(processor: sentencepiece.SentencePieceProcessor, family: str) -> list[str]:
    size = processor.vocab_size()
    found = {role: processor.id_to_piece(place % size) for role, (_, place) in _LAYOUTS[family].items()}
    return [f"id {place % size} is {found[role]!r} where {piece!r} ({role}) is expected"
            for role, (piece, place) in _LAYOUTS[family].items() if found[role] != piece]
