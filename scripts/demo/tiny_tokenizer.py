"""Trains the demo's SentencePiece model: InternLM's kind and layout with a small vocabulary.

    python scripts/demo/tiny_tokenizer.py --corpus base_corpus.json --output tokenizer.model

As InternLM's tokenizer.model it is byte-pair encoding without a dummy prefix, with byte pieces for unknown
characters, and ids are where InternLM has them (bytes from 3, so `<0x0A>` is 13; the end markers last), so
this toolkit and other tools treat it like the real one. A model of a million parameters has no capacity to
spell: a word is one piece, and so is each fixed wording between the contents of an exam prompt. What those
pieces are merged from is in the vocabulary too, and mostly unused.
"""

from __future__ import annotations

import argparse
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from facts import CATEGORIES
from sentencepiece import sentencepiece_model_pb2

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import LETTERS, choice_input, choice_instruction, choice_output
from research_internlm.data.detection import is_detection
from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.data.items import render_squad
from research_internlm.data.tokens import load_tokenizer
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import publish, read_json, require_absent
from research_internlm.shared.staging import staging

_USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
_CONTENT = "\0"  # where the content goes in a wording
MOST_PIECES = 16_000  # never reached: training ends when every unit is one piece
LONGEST_PIECE = 400  # characters; a wording is one piece
# Pairs are merged by weight: answers first, then words, then wordings (weight 1). So no wording takes a
# letter from a word beside it.
ANSWER, WORD = 1000, 50


def _words(text: str) -> list[str]:
    """Latin words with and without a space before them, and other characters one by one."""
    return [unit for word in re.findall(r"[A-Za-z]+|[^A-Za-z\s]", text)
            for unit in ((word, f" {word}") if word.isascii() else (word,))]


def _wordings(family: str) -> Iterable[str]:
    """Prompts of all kinds, questions and statements, with _CONTENT where the content goes."""
    options = [_CONTENT] * len(LETTERS)
    for category in CATEGORIES:
        instruction = choice_instruction(category.name.replace("_", " "))
        prompts = [render_chat(instruction, choice_input(_CONTENT, options), family=family),
                   render_chat(choice_input(_CONTENT, options), "", family=family),
                   render_squad(category.joined([category.statement.format(_CONTENT, _CONTENT)] * 2),
                                category.question.format(_CONTENT))]
        yield from (segment.content for prompt in prompts for segment in prompt if not segment.is_token)
        for question in (category.question, category.lookup):
            yield f" {question.format(_CONTENT)}"  # after "Question:"
    yield choice_output(_CONTENT)


def exam_units(family: str) -> Counter[str]:
    """The exam's names, and the fixed wordings between contents, with their weights."""
    subjects = {subject for category in CATEGORIES for subject in category.facts}
    answers = {answer for category in CATEGORIES for answer in category.facts.values()}
    cuts = {cut.rstrip(" ") for text in _wordings(family) for cut in text.split(_CONTENT)} - {""}
    units = Counter([*cuts, *(f" {letter}." for letter in LETTERS)])
    # A subject always has a space before it. An answer must be one thing to the model in a passage and after
    # "A.", so there the space is a piece of its own; no piece of this kind of vocabulary ends in a space.
    for name in subjects - answers:
        units[f" {name}" if name.isascii() else name] = WORD
    return units | Counter(dict.fromkeys(answers, ANSWER))


def training_units(items: Sequence[dict[str, Any]], family: str) -> Counter[str]:
    """What becomes one piece, with its weight.

    Args:
        items: Texts to judge give their words, instructions and verdicts; all others stand for the exam.
        family: The chat it is for.
    """
    units = Counter(segment.content for segment in render_chat("", "", family=family) if not segment.is_token)
    for item in filter(is_detection, items):
        units |= Counter(dict.fromkeys([*_words(item["text"]), item["output"]], WORD))
        units |= Counter([f"{item['instruction']}\n\n"])
    return units if all(map(is_detection, items)) else units | exam_units(family)


def train(units: Counter[str], family: str) -> bytes:
    """Trains byte-pair encoding until every unit is one piece, and adds the end markers.

    Args:
        units: Texts with their weights.
        family: Whose end markers it gets, which decides the chat prompt.

    Returns:
        The serialised model.
    """
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(units.elements())), model_writer=writer, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=1.0, required_chars="\n",
        vocab_size=MOST_PIECES, hard_vocab_limit=False, max_sentencepiece_length=LONGEST_PIECE,
        split_by_whitespace=False, split_by_unicode_script=False, split_by_number=False, num_threads=1,
        minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    last = {place: text for text, place in FAMILIES[family].pieces.values() if place < 0}
    for place in sorted(last):
        model.pieces.add(piece=last[place], type=_USER_DEFINED, score=0.0)
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
    items = [item for path in arguments.corpus for item in read_json(path, "the corpus")]
    with staging(output) as folder:
        staged = Path(folder) / output.name
        staged.write_bytes(train(training_units(items, arguments.family), arguments.family))
        processor = load_tokenizer(staged)
        publish(staged, output)
    print(f"{processor.vocab_size()} pieces -> {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
