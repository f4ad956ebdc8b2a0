"""Text of an answer while it is being written, token by token.

A character can take several tokens (byte pieces), and a special token is not text. What is handed on is
always whole characters, and all of it together is what decoding the answer at once gives.
"""

from __future__ import annotations

from collections.abc import Iterator

from research_internlm.inference.text_codec import TextCodec

_LONGEST = 4  # bytes of a UTF-8 character


class TextStream:
    """Decodes one answer piece by piece.

    Args:
        codec: The tokenizer of the model.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._processor = codec.processor
        self._hidden = codec.hidden
        self._anchor = codec.plain_piece
        self._started = False  # SentencePiece drops the space before the first word only
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Takes a token and returns the text that is complete by now, perhaps none."""
        if token in self._hidden:
            return ""
        self._pending.append(token)
        held = self._incomplete_tail()
        return self._flush(len(self._pending) - held)

    def finish(self) -> str:
        """The rest: bytes that no further token completed, as replacement characters."""
        return self._flush(len(self._pending))

    def _flush(self, count: int) -> str:
        ids = self._pending[:count]
        if not ids:
            return ""
        if self._started:
            anchor, ids = self._processor.decode([self._anchor]), [self._anchor, *ids]
        else:
            anchor = ""
        text = self._processor.decode(ids)[len(anchor):]
        if not text and not self._started:
            return ""  # a space alone, whose fate the next token decides
        self._started = True
        del self._pending[:count]
        return text

    def _incomplete_tail(self) -> int:
        """How many byte pieces at the end are the beginning of a character that is not complete."""
        for place, byte in enumerate(self._last_bytes(), 1):
            if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
                needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                return place if place < needed else 0
            if byte < 0x80:
                return 0
        return 0

    def _last_bytes(self) -> Iterator[int]:
        for token in self._pending[:-_LONGEST:-1]:
            if not self._processor.is_byte(token):
                return
            yield int(self._processor.id_to_piece(token)[1:-1], 16)
