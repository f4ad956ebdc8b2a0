"""A SentencePiece vocabulary as tokenizer.json, which every tool reads the same way.

tokenizer.model alone is converted by each tool and each of its versions for itself: where two merges have the
same score, transformers 4 and 5 put them in another order and give a text other ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from research_internlm.shared.errors import ToolkitError

_KINDS = sentencepiece_model_pb2.ModelProto.SentencePiece
# Pieces that are found in a text before it is split, as added tokens are.
_WHOLE = (_KINDS.CONTROL, _KINDS.USER_DEFINED)
_JOINED = (_KINDS.NORMAL, _KINDS.USER_DEFINED)  # what two pieces may become
_SPACE = "\u2581"
_BPE = sentencepiece_model_pb2.TrainerSpec.BPE


class OnlyOursError(ToolkitError):
    """A vocabulary whose ids other tools cannot give."""


def read_vocabulary(processor: SentencePieceProcessor) -> sentencepiece_model_pb2.ModelProto:
    """The pieces and settings of a loaded vocabulary.

    Raises:
        OnlyOursError: Other tools cannot reproduce its ids; all reasons at once.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    wrong = [reason for is_so, reason in (
        (trainer.model_type != _BPE, "its model is "
         f"{sentencepiece_model_pb2.TrainerSpec.ModelType.Name(trainer.model_type).lower()}, not bpe"),
        (not trainer.byte_fallback, "it has no byte pieces for unknown characters"),
        (normalizer.add_dummy_prefix, "it puts a space before every text (add_dummy_prefix)"),
        (normalizer.remove_extra_whitespaces, "it removes spaces (remove_extra_whitespaces)"),
        (bool(normalizer.precompiled_charsmap), f"it replaces characters ({normalizer.name})"),
        (trainer.treat_whitespace_as_suffix, "it puts the space behind a word (treat_whitespace_as_suffix)"),
    ) if is_so]
    if wrong:
        raise OnlyOursError(f"other tools cannot give the ids of this vocabulary: {'; '.join(wrong)}; the "
                            "releases' have none of that: use one of theirs, or export without --model_file")
    return model


def tokenizer_json(model: sentencepiece_model_pb2.ModelProto, texts: Mapping[int, str]) -> str:
    """The content of tokenizer.json.

    Args:
        model: From `read_vocabulary`.
        texts: Id to text of the special tokens, which may have another one than their piece.
    """
    last = max(id_ for id_, piece in enumerate(model.pieces) if piece.type != _KINDS.UNUSED)
    # The ids behind it fill an embedding and have no token.
    names = {id_: texts.get(id_, piece.piece) for id_, piece in enumerate(model.pieces) if id_ <= last}
    ids = {name: id_ for id_, name in names.items()}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": id_, **entry} for id_, entry in added_tokens(model, texts).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "never",
                          "split": False},
        "post_processor": _begin_of_text(names[model.trainer_spec.bos_id], model.trainer_spec.bos_id),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": names[model.trainer_spec.unk_id],
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": ids,
                  "merges": [f"{left} {right}" for left, right in merges(model)]},
    }, ensure_ascii=False)


def added_tokens(model: sentencepiece_model_pb2.ModelProto, texts: Mapping[int, str]
                 ) -> dict[int, dict[str, Any]]:
    """Tokens that a text is searched for before it is split, by id: the special ones, and SentencePiece's
    user-defined symbols, which are ordinary text.

    Args:
        model: From `read_vocabulary`.
        texts: As for `tokenizer_json`; these are the special tokens.
    """
    whole = {id_: piece.piece for id_, piece in enumerate(model.pieces) if piece.type in _WHOLE}
    return {id_: {"content": text, "single_word": False, "lstrip": False, "rstrip": False,
                  "normalized": False,
                  "special": id_ in texts or model.pieces[id_].type == _KINDS.CONTROL}
            for id_, text in sorted((whole | dict(texts)).items())}


def merges(model: sentencepiece_model_pb2.ModelProto) -> Sequence[tuple[str, str]]:
    """Pairs of pieces in the order in which they are joined.

    SentencePiece joins the pair whose result scores best, the leftmost one of equals. A list of merges has no
    equals, so among them the longer left part goes first: it gives SentencePiece's ids on every text
    measured, where the order of the ids alone does not.
    """
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type in _JOINED}
    ranks = {piece: rank for rank, piece in enumerate(scores)}

    def pairs() -> Iterator[tuple[str, str]]:
        for piece in scores:
            cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            yield from sorted((pair for pair in cuts if pair[0] in scores and pair[1] in scores),
                              key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))

    return sorted(pairs(), key=lambda pair: (-scores["".join(pair)], -len(pair[0]), -len(pair[1])))


def _begin_of_text(token: str, id_: int) -> dict[str, Any]:
    """The step that puts the begin-of-text token before a text."""
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    return {"type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [id_], "tokens": [token]}}}
