"""Between text and token ids: the tokenizer of a model's weights. No MindSpore."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence

from research_internlm.data.chat_template import Segment, encode
from research_internlm.data.tokens import load_tokenizer, special_tokens
from research_internlm.shared.errors import ToolkitError


class TextCodec:
    """Encodes rendered prompts and decodes answers.

    Args:
        model_file: tokenizer.model of the weights.
        vocab_size: The model's `vocab_size`.

    Attributes:
        processor: The SentencePiece processor.
        special: Its special tokens; their family decides the chat template.

    Raises:
        ToolkitError: Not such a file, or of another vocabulary than the model.
    """

    def __init__(self, model_file: str | os.PathLike, vocab_size: int) -> None:
        self.processor = load_tokenizer(model_file)
        self.special = special_tokens(self.processor)
        if self.special.vocab_size != vocab_size:
            raise ToolkitError(f"the tokenizer has {self.special.vocab_size} pieces, but the model has "
                               f"vocab_size {vocab_size}; use the tokenizer.model of these weights")

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of a rendered prompt."""
        return encode(segments, self.processor, self.special)[0]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens stand as their pieces, e.g. `<s>`.

        What lies between two of them is encoded on its own, as the segments of a prompt are.
        """
        parts = self._special_pieces.split(text)
        return [token for part in parts if part for token in (
            [self.processor.piece_to_id(part)] if self._special_pieces.fullmatch(part)
            else self.processor.encode(part))]

    @functools.cached_property
    def _special_pieces(self) -> re.Pattern[str]:
        pieces = {self.processor.id_to_piece(id_) for role, id_ in self.special.all_ids() if role != "unk"}
        return re.compile(f"({'|'.join(map(re.escape, sorted(pieces)))})")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens."""
        return self.processor.decode(list(ids))

    @functools.cached_property
    def hidden(self) -> frozenset[int]:
        """Special tokens that are no text."""
        return frozenset(id_ for role, id_ in self.special.all_ids() if role not in ("unk", "newline"))

    @functools.cached_property
    def plain_piece(self) -> int:
        """A piece that is always the same text: neither byte, control nor unknown, and without a space."""
        model = self.processor
        return next(id_ for id_ in range(model.vocab_size())
                    if not (model.is_byte(id_) or model.is_control(id_) or model.is_unknown(id_))
                    and "\u2581" not in model.id_to_piece(id_))

    def token_text(self, token: int) -> str:
        """The text of one token by itself, different for each id: spaces kept, bytes as `bytes:\\xe4`."""
        piece = self.processor.id_to_piece(token)
        if self.processor.is_byte(token):
            return f"bytes:\\x{piece[3:5].lower()}"
        return piece.replace("\u2581", " ")
