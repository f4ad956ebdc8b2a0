"""Tiny tokenizers of the releases' kind: SentencePiece BPE with byte pieces, no dummy prefix."""

import io

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.families import FAMILIES
from tests.helpers.commands import ROOT

_PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece


def write_vocabulary(path, family="internlm", size=700, **settings):
    """Trains a vocabulary on the README and adds the family's own pieces.

    Args:
        path: File to make.
        family: A key of FAMILIES; None for a vocabulary without the pieces of any.
        size: Trained pieces.
        **settings: Of SentencePiece's trainer, to be another kind of vocabulary.
    """
    writer = io.BytesIO()
    lines = (ROOT / "README.md").read_text().splitlines()
    lines += (ROOT / "README_zh.md").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, vocab_size=size, num_threads=1, minloglevel=2,
        **({"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, "character_coverage": 0.99,
            "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True} | settings))
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    # Newlines are text in the releases too; the byte piece is the template's alone.
    model.pieces.add(piece="\n", type=_PIECE.USER_DEFINED, score=0.0)
    row = FAMILIES.get(family)
    pieces = (*row.pieces.values(), *row.tool_pieces.values()) if row else ()
    last = {place: piece for piece, place in pieces if place < 0}
    for place in range(min(last, default=0), 0):
        model.pieces.add(piece=last.get(place, f"<unused{place}>"), type=_PIECE.USER_DEFINED, score=0.0)
    path.write_bytes(model.SerializeToString())
    return path
