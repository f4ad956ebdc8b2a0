"""Trains the demo's SentencePiece model: InternLM's kind and layout with a small vocabulary.

    python scripts/demo/tiny_tokenizer.py --corpus base_corpus.json --output tokenizer.model

As InternLM's tokenizer.model it is byte-pair encoding without a dummy prefix, with byte pieces for unknown
characters, and ids are where InternLM has them (bytes from 3, so `<0x0A>` is 13; the end markers last), so
this toolkit and other tools treat it like the real one. A model of a million parameters has no capacity to
spell: a word is one piece, but for the exam's answers, and so is each fixed wording between the contents of
an exam prompt. What those pieces are merged from is in the vocabulary too, and mostly unused.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import vocabulary
from facts import CATEGORIES

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import LETTERS, choice_input, choice_instruction, choice_output
from research_internlm.data.detection import is_detection
from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.data.items import render_squad
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import read_json, require_absent

_CONTENT = "\0"  # where the content goes in a wording
MOST_PIECES = 16_000  # never reached: training ends when every unit is one piece
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
    # A letter is one thing before an option and in an answer: it is cut out of the wordings as content is.
    wordings = [re.sub(r"(?<=[ \n])[A-D]\.", _CONTENT, text) for text in _wordings(family)]
    cuts = {cut.rstrip(" ") for text in wordings for cut in text.split(_CONTENT)} - {""}
    units = Counter(cuts)
    # A subject always has a space before it. An answer must be the same to the model in a passage and after
    # "A.", so there the space is a piece of its own; no piece of this kind of vocabulary ends in a space.
    for name in subjects - answers:
        units[f" {name}" if name.isascii() else name] = WORD
    parts = {part for answer in answers for part in _parts(answer)}
    return units | Counter(dict.fromkeys([*parts, *(f"{letter}." for letter in LETTERS)], ANSWER))


def _parts(answer: str) -> Iterable[str]:
    """What an answer is read as: halves of a Latin word, Han characters one by one.

    To copy an answer of several pieces the model must learn to look at the piece before, and that is how it
    finds the letter before an option. With answers of one piece it did not learn the letters in 900 steps.
    """
    half = len(answer) // 2
    return (answer[:half], answer[half:]) if answer.isascii() else answer


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
    units = training_units(items, arguments.family)
    vocabulary.write(vocabulary.train(units, arguments.family, MOST_PIECES), output)
    return 0


if __name__ == "__main__":
    run_main(main)
