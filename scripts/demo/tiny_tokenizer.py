"""Trains the demo's SentencePiece model: InternLM's layout with a small vocabulary.

    python scripts/demo/tiny_tokenizer.py --corpus base_corpus.json --output tokenizer.model

Ids are where InternLM has them (bytes from 3, so `<0x0A>` is 13; the end markers last), so the toolkit
treats the file like the real tokenizer.model. A model of a million parameters has no capacity to spell:
the words of the facts are pieces of their own wherever they stand, the fixed wording of the prompts is a
piece a phrase, and newline and full stop stand alone, which keeps the option letters apart from the options.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import sentencepiece
from facts import CATEGORIES
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import choice_instruction, choice_output
from research_internlm.data.detection import is_detection
from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.data.items import render_squad
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import publish, read_json, require_absent
from research_internlm.shared.staging import staging

_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
_NORMAL = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL
TRAINED_PIECES = 700
OWN_PIECES = ("\n", ".")


def corpus_lines(paths: list[str]) -> list[str]:
    """All texts of the corpora, line by line, a full stop ending a line."""
    lines = []
    for path in paths:
        for item in read_json(path, "the corpus"):
            for key in ("instruction", "input", "output", "passage", "question", "text"):
                for line in item.get(key, "").splitlines():
                    lines += [part.strip() for part in line.split(".") if part.strip()]
    return lines


def detection_wording(paths: list[str]) -> list[str]:
    """Instructions and verdicts of texts to judge, where a corpus holds any; a verdict must be one piece."""
    return sorted({text for path in paths for item in read_json(path, "the corpus") if is_detection(item)
                   for text in (item["instruction"], f" {item['output']}")})


def whole_words(lines: list[str]) -> list[str]:
    """Words that become one piece: Latin words of three letters or more, Han wording of the facts.

    Shorter ones (the chemical symbols) would be cut out of other words, so training decides on them. A
    word of a fact is the same piece with and without a space before it, because "Paris" must be one thing
    to the model in a passage and after "A."; words of the prompts take their space in, to be short.
    """
    names = {name for category in CATEGORIES for fact in category.facts.items() for name in fact}
    words = {word for line in lines for word in re.findall(r"[A-Za-z]{3,}", line)}
    words |= {f" {word}" for word in words - names}
    return sorted(words | {name for name in names if re.fullmatch(r"[\u4e00-\u9fff]{2,}", name)})


def phrases() -> list[str]:
    """The fixed wording of prompts, questions and statements, cut where the content goes in."""
    gap = "\0"
    wording = [choice_instruction(gap), choice_output(gap), render_squad(gap, gap)[1].content,
               *(segment.content + gap for segment in render_chat("", "") if not segment.is_token)]
    for category in CATEGORIES:
        wording += [category.question.format(gap), category.lookup.format(gap),
                    category.statement.format(gap, gap)]
    cuts = {cut.rstrip(" ") for text in wording for cut in text.split(gap)}
    # SentencePiece puts a space before a text, so a phrase that begins one has it too.
    cuts |= {f" {cut}" for cut in cuts if not cut.startswith(" ")}
    return sorted(cut for cut in cuts if len(cut) >= 4)


def train(lines: list[str], own_pieces: list[str], family: str) -> bytes:
    """Trains a small unigram model and adds the pieces that must stand alone.

    Args:
        lines: Training text.
        own_pieces: Further texts that become one piece.
        family: Whose end markers it gets, which decides the chat prompt.

    Returns:
        The serialised model.
    """
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, model_type="unigram", byte_fallback=True,
        vocab_size=TRAINED_PIECES, hard_vocab_limit=False, character_coverage=1.0, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    pieces = {piece.piece: piece for piece in model.pieces}
    for text in dict.fromkeys([*OWN_PIECES, *own_pieces, *whole_words(lines), *phrases()]):
        text = text.replace(" ", "\u2581")
        piece = pieces.get(text) or model.pieces.add(piece=text)
        piece.type, piece.score = _USER_DEFINED, 0.0
    last = {place: text for text, place in FAMILIES[family].pieces.values() if place < 0}
    for place in sorted(last):
        model.pieces.add(piece=last[place], type=_NORMAL, score=0.0)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", action="append", required=True, metavar="F.json",
                        help="alpaca or reading items to train on (repeatable)")
    parser.add_argument("--output", required=True, metavar="F.model", help="the tokenizer")
    parser.add_argument("--family", choices=FAMILIES, default=INTERNLM,
                        help="the model it is for (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments = parser.parse_args(argv)
    output = require_absent(arguments.output, arguments.overwrite)
    with staging(output) as folder:
        staged = Path(folder) / output.name
        staged.write_bytes(train(corpus_lines(arguments.corpus), detection_wording(arguments.corpus),
                                 arguments.family))
        processor = load_tokenizer(staged)
        publish(staged, output)
    print(f"{processor.vocab_size()} pieces -> {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
