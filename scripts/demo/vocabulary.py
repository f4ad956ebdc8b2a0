"""SentencePiece vocabularies of the demos: trained small, with a family's end markers at their end."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.families import FAMILIES
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.files import publish
from research_internlm.shared.staging import staging

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
    return with_end_markers(model, family, _PIECE.NORMAL)


def with_end_markers(model: sentencepiece_model_pb2.ModelProto, family: str, kind: int) -> bytes:
    """Adds the end markers of a family, the last pieces, as pieces of a kind; the serialised model."""
    last = {place: text for text, place in FAMILIES[family].pieces.values() if place < 0}
    for place in sorted(last):
        model.pieces.add(piece=last[place], type=kind, score=0.0)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def write(model: bytes, output: Path) -> None:
    """Writes a serialised model as a tokenizer that the toolkit loads, and says how many pieces it has."""
    with staging(output) as folder:
        staged = Path(folder) / output.name
        staged.write_bytes(model)
        processor = load_tokenizer(staged)
        publish(staged, output)
    print(f"{processor.vocab_size()} pieces -> {output}")
