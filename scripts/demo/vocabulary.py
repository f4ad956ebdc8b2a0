"""A SentencePiece vocabulary of the demos: trained small, with pieces that must stand alone."""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.families import FAMILIES

_PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece


def train(lines: Iterable[str], own_pieces: Iterable[str], family: str, size: int) -> bytes:
    """Trains a small unigram model and adds the pieces that must stand alone.

    Args:
        lines: Training text.
        own_pieces: Texts that become one piece, their spaces as SentencePiece writes them.
        family: Whose end markers it gets, which decides the chat prompt.
        size: Trained pieces.

    Returns:
        The serialised model.
    """
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, model_type="unigram", byte_fallback=True,
        vocab_size=size, hard_vocab_limit=False, character_coverage=1.0, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    pieces = {piece.piece: piece for piece in model.pieces}
    for text in own_pieces:
        piece = pieces.get(text) or model.pieces.add(piece=text)
        piece.type, piece.score = _PIECE.USER_DEFINED, 0.0
    last = {place: text for text, place in FAMILIES[family].pieces.values() if place < 0}
    for place in sorted(last):
        model.pieces.add(piece=last[place], type=_PIECE.NORMAL, score=0.0)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()
