"""Trains the demo's SentencePiece model: InternLM's layout with a small vocabulary.

    python scripts/demo/tiny_tokenizer.py --corpus base_corpus.json --output tokenizer.model

Ids are where InternLM has them (bytes from 3, so `<0x0A>` is 13; the end markers last), so the toolkit
treats the file like the real tokenizer.model. A model of a million parameters has no capacity to spell:
the words of the facts are pieces of their own wherever they stand, the fixed wording of the prompts is a
piece a phrase, and newline and full stop stand alone, which keeps the option letters apart from the options.
"""

from __future__ import annotations

import argparse
import re

import vocabulary
from facts import CATEGORIES

from research_internlm.data.chat_template import render_chat
from research_internlm.data.choice import choice_instruction, choice_output
from research_internlm.data.detection import is_detection
from research_internlm.data.families import FAMILIES, INTERNLM
from research_internlm.data.items import render_squad
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import read_json, require_absent

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


def pieces_alone(lines: list[str], own_pieces: list[str]) -> list[str]:
    """Everything that becomes one piece, each once, spaces as SentencePiece writes them."""
    texts = dict.fromkeys([*OWN_PIECES, *own_pieces, *whole_words(lines), *phrases()])
    return [text.replace(" ", "\u2581") for text in texts]


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
    lines = corpus_lines(arguments.corpus)
    alone = pieces_alone(lines, detection_wording(arguments.corpus))
    vocabulary.write(vocabulary.train(lines, alone, arguments.family, TRAINED_PIECES), output)
    return 0


if __name__ == "__main__":
    run_main(main)
