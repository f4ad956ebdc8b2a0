"""Trains the assistant demo's SentencePiece model: InternLM2's kind and layout with a small vocabulary.

    python scripts/demo/chat_tokenizer.py --corpus base.json --corpus assistant.json \\
        --name 小宝 --name Bao --output tokenizer.model

As InternLM2's tokenizer.model it is byte-pair encoding without a dummy prefix, with byte pieces for unknown
characters, and ids are where InternLM2 has them, so this toolkit and other tools treat it like the real one.
A model of a million parameters has no capacity to spell: names and common Latin words are one piece each. Han
characters stand alone, so that a new wording is made of known pieces.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable

import vocabulary

from research_internlm.data.conversations import MESSAGES
from research_internlm.data.families import FAMILIES, INTERNLM2
from research_internlm.shared.errors import run_main
from research_internlm.shared.files import read_json, require_absent

PIECES = 2000  # with the 256 byte pieces; rarer words are two pieces or more
NAME = 5000  # weight of a name or a role: more than any other pair has, so its own pairs are merged first


def training_units(texts: Iterable[str], names: Iterable[str]) -> Counter[str]:
    """What may become one piece, with its weight: names, and words by how often they are there.

    Args:
        texts: Contents of messages.
        names: Of assistants, their authors and the roles of a chat.
    """
    units = Counter(unit for text in texts for unit in re.findall(r" ?[A-Za-z]+|[^A-Za-z\s]", text))
    for name in names:
        units |= Counter({name: NAME, f" {name}": NAME} if name.isascii() else {name: NAME})
    return units


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", action="append", required=True, metavar="F.json",
                        help="conversations to train on (repeatable)")
    parser.add_argument("--name", action="append", default=[],
                        help="a name that becomes one piece (repeatable)")
    parser.add_argument("--output", required=True, metavar="F.model", help="the tokenizer")
    arguments = parser.parse_args(argv)
    output = require_absent(arguments.output, False)
    texts = {message["content"] for path in arguments.corpus for item in read_json(path, "the corpus")
             for message in item[MESSAGES]}
    units = training_units(texts, [*FAMILIES[INTERNLM2].turns, *arguments.name])
    vocabulary.write(vocabulary.train(units, INTERNLM2, PIECES), output)
    return 0


if __name__ == "__main__":
    run_main(main)
