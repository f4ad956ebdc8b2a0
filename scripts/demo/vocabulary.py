"""SentencePiece vocabularies of the demos: byte-pair encoding, as the releases have it, of weighted texts."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.families import FAMILIES
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.files import publish
from research_internlm.shared.staging import staging

_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
_LONGEST_PIECE = 400  # characters; a whole wording may be one piece


def train(units: Counter[str], family: str, size: int) -> bytes:
    """Trains byte-pair encoding, without a dummy prefix and with byte pieces, and adds the end markers.

    Args:
        units: Texts with their weights; the pairs of heavier ones are merged first.
        family: Whose end markers it gets, which decides the chat prompt.
        size: Most pieces; training ends before where every unit is one piece.

    Returns:
        The serialised model.
    """
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(units.elements())), model_writer=writer, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=1.0, required_chars="\n", vocab_size=size,
        hard_vocab_limit=False, max_sentencepiece_length=_LONGEST_PIECE, split_by_whitespace=False,
        split_by_unicode_script=False, split_by_number=False, num_threads=1, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    last = {place: text for text, place in FAMILIES[family].pieces.values() if place < 0}
    for place in sorted(last):
        model.pieces.add(piece=last[place], type=_USER_DEFINED, score=0.0)
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
