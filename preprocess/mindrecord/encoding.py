"""Encodes training items; each distinct stretch of text once, where that provably gives the same ids.

SentencePiece's BPE starts from single characters and joins neighbours whose union is a piece, best score
first. A join across a place in the text makes a piece that holds the two characters beside that place, side
by side. So where no piece of the vocabulary holds the two, nothing is ever joined across, the joins on one
side do not depend on the other, and the ids of the text are the ids of its two parts. `Splitter` finds such
places: before a space (a word) and after a newline (a line). In InternLM's vocabularies no piece has a
letter, digit or Han character before a space, and none has a newline before a letter.

The orderings of a question share their lines and all exam questions share their words, so almost every text
is put together from what was encoded before. A vocabulary for which the argument does not hold (another
algorithm, a normaliser that changes text, unknown characters without byte pieces) is asked for whole texts.
"""

from __future__ import annotations

import array
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from preprocess.mindrecord.packing import Sample
from research_internlm.data.chat_template import ALL_ANSWERS, render_turn
from research_internlm.data.conversations import MESSAGES, without_oldest
from research_internlm.data.families import UPSTREAM_END
from research_internlm.data.items import render_item
from research_internlm.data.segments import Segment
from research_internlm.data.tokens import SpecialTokens

BLOCK_ITEMS = 2048
_CACHED_TEXTS = 1 << 18  # of lines and of words; some 60 MB each
_SPACE = "\u2581"  # SentencePiece's space
_PIECE_TAG = 0x0A  # of field 1 with a length, protobuf's wire format


class Splitter:
    """Cuts texts where the ids of the parts are provably the ids of the whole.

    Attributes:
        processor: Encodes a part as it stands, without SentencePiece's dummy prefix.
        prefix: What goes before a text, its dummy prefix.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.processor, self.prefix = processor, ""
        self._line = self._word = None
        serialized, settings = _cut_model(processor.serialized_model_proto())
        model = sentencepiece_model_pb2.ModelProto.FromString(settings)
        if not _splittable(model):
            return
        pieces = [processor.id_to_piece(id_).replace(" ", _SPACE) for id_ in range(processor.vocab_size())
                  if not processor.is_byte(id_)]
        joined = {pair for piece in pieces for pair in itertools.pairwise(piece)}
        behind_newline = {second for first, second in joined if first == "\n"} | {_SPACE}
        before_space = {first for first, second in joined if second == _SPACE} | {_SPACE}
        self._line = _Cut("\n", "\n\0", rf"(?<=\n)(?=[^{_characters(behind_newline)}])",
                          rf"\n[{_characters(behind_newline)}]")
        self._word = _Cut(" ", "\0 ", rf"(?<=[^{_characters(before_space)}])(?= )",
                          rf"[{_characters(before_space)}] ")
        if model.normalizer_spec.add_dummy_prefix:
            self.prefix = " "
            model.normalizer_spec.add_dummy_prefix = False
            self.processor = sentencepiece.SentencePieceProcessor(
                model_proto=serialized + model.SerializeToString())

    def lines(self, text: str) -> list[str]:
        """Cuts a text (prefix included) after newlines."""
        return self._line(text) if self._line else [text]

    def words(self, line: str) -> list[str]:
        """Cuts a line before spaces."""
        return self._word(line) if self._word else [line]


class _Cut:
    """Cuts at every place a pattern names.

    Nearly all texts hold no exception to a cut at each mark, and then replacing and splitting plain strings
    is several times faster than a pattern without width. A part may then be empty, which has no ids.

    Args:
        mark: The character beside the cut.
        marked: The mark with a NUL where the cut is.
        places: Pattern of the cuts.
        exceptions: Pattern of the marks that are not to be cut at.
    """

    def __init__(self, mark: str, marked: str, places: str, exceptions: str) -> None:
        self._mark, self._marked = mark, marked
        self._places = re.compile(places)
        self._is_exception = re.compile(rf"\0|{exceptions}").search

    def __call__(self, text: str) -> list[str]:
        if self._is_exception(text):
            return self._places.split(text)
        return text.replace(self._mark, self._marked).split("\0")


def _cut_model(model: bytes) -> tuple[bytes, bytes]:
    """A serialized ModelProto as its pieces (field 1, all in a row) and everything else.

    protobuf's Python implementation, which MindSpore needs, takes a second to parse 100,000 pieces. Fields
    of a message may stand in any order, so the two can be joined again.
    """
    place = 0
    while place < len(model) and model[place] == _PIECE_TAG:
        size, shift = 0, 0  # a varint: seven bits a byte, low ones first
        while (place := place + 1) and model[place] & 0x80:
            size, shift = size | (model[place] & 0x7F) << shift, shift + 7
        place += 1 + (size | model[place] << shift)
    return model[:place], model[place:]


def _splittable(model: sentencepiece_model_pb2.ModelProto) -> bool:
    """Whether the argument at the top of this file holds for a vocabulary."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    return (trainer.model_type == trainer.BPE and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix and normalizer.escape_whitespaces
            and not normalizer.remove_extra_whitespaces and not normalizer.precompiled_charsmap)


def _characters(found: set[str]) -> str:
    """The inside of a regular expression's [...] class; SentencePiece's space is a space in the text."""
    return re.escape("".join(sorted(found | ({" "} if _SPACE in found else set()))))


class Encoder:
    """Encodes texts, each distinct line and word once while the caches hold it.

    Args:
        processor: The loaded vocabulary.
        threads: Encoding threads.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, threads: int) -> None:
        self._splitter = Splitter(processor)
        self._threads = threads
        self._lines: dict[str, bytes] = {}
        self._words: dict[str, bytes] = {}

    def encode(self, texts: Iterable[str]) -> dict[str, bytes]:
        """Ids of texts as int32 bytes, equal to those of the processor."""
        cut = {text: self._splitter.lines(self._splitter.prefix + text) if text else [] for text in texts}
        self._learn_lines({line for lines in cut.values() for line in lines})
        return {text: b"".join(map(self._lines.__getitem__, lines)) for text, lines in cut.items()}

    def _learn_lines(self, lines: set[str]) -> None:
        if len(self._lines) + len(lines) > _CACHED_TEXTS:
            self._lines.clear()
        cut = {line: self._splitter.words(line) for line in lines if line not in self._lines}
        words = {word for parts in cut.values() for word in parts}
        if len(self._words) + len(words) > _CACHED_TEXTS:
            self._words.clear()
        new = [word for word in words if word not in self._words]
        encoded = self._splitter.processor.encode(new, num_threads=self._threads)
        self._words.update((word, array.array("i", ids).tobytes())
                           for word, ids in zip(new, encoded, strict=True))
        self._lines.update((line, b"".join(map(self._words.__getitem__, parts)))
                           for line, parts in cut.items())


@dataclass(frozen=True)
class Block:
    """Samples in a row, flat, so that they pass between processes at the cost of their bytes.

    Attributes:
        lengths: Tokens of each sample, int (samples,).
        ids: Token ids of all of them, int32 (tokens,).
        supervised: For each id, whether it is trained on, bool (tokens,).
        shortened: Place of a conversation that lost its oldest exchanges -> its tokens before, and how many
            exchanges it lost.
        cut: Form of a text to be judged -> how many lost a part.
    """

    lengths: np.ndarray
    ids: np.ndarray
    supervised: np.ndarray
    shortened: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)

    def samples(self) -> Iterator[Sample]:
        """The samples in order, as views."""
        ends = np.cumsum(self.lengths).tolist()
        for start, end in itertools.pairwise([0, *ends]):
            yield self.ids[start:end], self.supervised[start:end]


def encode_blocks(items: Iterable[Mapping[str, Any]], processor: sentencepiece.SentencePieceProcessor,
                  special: SpecialTokens, threads: int, end: str = UPSTREAM_END,
                  train_on: str = ALL_ANSWERS, room: int | None = None) -> Iterator[Block]:
    """Encodes items in order, BLOCK_ITEMS at a time; equal to `chat_template.encode` of each.

    Args:
        items: Training items, streamed.
        processor: The loaded vocabulary.
        special: Its special ids.
        threads: Encoding threads.
        end: How chat answers end, one of families.END_MARKERS.
        train_on: Which answers of a conversation are supervised, one of chat_template.TRAIN_ON.
        room: Tokens above which a conversation loses its oldest exchanges, where that makes it fit; None
            keeps them all.

    Yields:
        The samples of up to BLOCK_ITEMS items.
    """
    encoder = Encoder(processor, threads)
    tokens = {role: np.array([id_], np.int32).tobytes() for role, id_ in special.ids.items()}
    items = iter(items)
    while chunk := list(itertools.islice(items, BLOCK_ITEMS)):
        rendered = [render_item(item, special.family, end, train_on) for item in chunk]
        texts = encoder.encode({segment.content for segment in itertools.chain.from_iterable(rendered)
                                if not segment.is_token})
        shortened = {}
        for place, item in enumerate(chunk if room else ()):
            if MESSAGES in item and (before := _count(rendered[place], texts)) > room:
                rest, gone = _shorten(item[MESSAGES], special.family, end, texts, room)
                if gone:
                    rendered[place] = render_item({MESSAGES: rest}, special.family, end, train_on)
                    shortened[place] = before, gone
        segments = list(itertools.chain.from_iterable(rendered))
        pieces = [tokens[segment.content] if segment.is_token else texts[segment.content]
                  for segment in segments]
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces)) // np.int32().itemsize
        starts = np.cumsum([0, *map(len, rendered[:-1])])
        yield Block(np.add.reduceat(lengths, starts), np.frombuffer(b"".join(pieces), np.int32),
                    np.repeat([segment.supervised for segment in segments], lengths), shortened)


def _count(segments: Iterable[Segment], texts: Mapping[str, bytes]) -> int:
    """Tokens of segments."""
    return sum(1 if segment.is_token else len(texts[segment.content]) // np.int32().itemsize
               for segment in segments)


def _shorten(messages: Sequence[Mapping[str, str]], family: str, end: str, texts: Mapping[str, bytes],
             room: int) -> tuple[list[Mapping[str, str]], int]:
    """`without_oldest` of an encoded conversation, whose <s> takes one token."""
    counts = [_count(render_turn(message, family, end, place == len(messages)), texts)
              for place, message in enumerate(messages, 1)]
    return without_oldest(messages, counts, room - 1)
